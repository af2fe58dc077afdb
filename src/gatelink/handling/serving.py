"""How a request is served: its handler is called, and what the handler returns or raises is the answer."""

import inspect
from collections.abc import Awaitable
from typing import Any

from gatelink.errors import Refuse, RequestCode
from gatelink.handling.routes import Route
from gatelink.session.interfaces import MessageSource
from gatelink.session.requests import Requests, tag_of
from gatelink.wire.frames import Frame


def serve(session: MessageSource, route: Route, message: Any, frame: Frame) -> Awaitable[None] | None:
    """Call the handler of a request, and answer with what it returns. Raises what the handler raises."""
    requests, tag = session.requests, tag_of(frame[2])
    try:
        result = route.call(session, message)
    except BaseException as error:
        refuse_for(session, requests, tag, error)
        if isinstance(error, Refuse):
            return None
        raise
    if inspect.isawaitable(result):
        return serve_later(session, requests, tag, result)
    if requests is not None:
        requests.answer(session, tag, result)
    return None


async def serve_later(session: MessageSource, requests: Requests | None, tag: int, result: Any) -> None:
    """Answer a request with what its async handler returns. Raises what the handler raises.

    requests: the session's when the request came. After a new login a client has a new `Requests`.
    """
    try:
        while inspect.isawaitable(result):
            result = await result
    except BaseException as error:
        refuse_for(session, requests, tag, error)
        if isinstance(error, Refuse):
            return
        raise
    if requests is not None:
        requests.answer(session, tag, result)


def refuse_for(session: MessageSource, requests: Requests | None, tag: int, error: BaseException) -> None:
    """Tell the peer that a request has no answer. It gets the cause only from a `Refuse`."""
    if requests is None:
        return
    if isinstance(error, Refuse):
        requests.refuse(session, tag, RequestCode.REFUSED, error.detail, error.reason)
    else:
        requests.refuse(session, tag, RequestCode.FAILED)
