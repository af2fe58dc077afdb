"""Several functions as one handler: the handlers of one message or event, and the hooks around a handler."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gatelink.calls import contain, is_async, refuse_unrun
from gatelink.session.interfaces import MessageSource


def wrapped(handler: Callable[..., Any], hooks: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """The handler with all hooks around it, the first hook outermost; the handler itself if there are none."""
    call = handler
    for hook in reversed(hooks):
        call = _wrap(hook, _awaiting(call) if is_async(hook) else call)
    return call


def _wrap(hook: Callable[..., Any], call_next: Callable[..., Any]) -> Callable[..., Any]:
    return lambda session, message: hook(session, message, call_next)


def _awaiting(call: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """`call`, plain or async, as an async function."""

    async def call_next(session: Any, message: Any) -> Any:
        result = call(session, message)
        while inspect.isawaitable(result):
            result = await result
        return result

    return call_next


class Joined:
    """Several handlers of one message or event, called one after the other."""

    def __init__(
        self, calls: tuple[Callable[..., Any], ...], failed: Callable[[MessageSource, Exception], None]
    ) -> None:
        self.calls = calls
        self._failed = failed

    def __call__(self, session: MessageSource, message: Any) -> Awaitable[None] | None:
        """Call the handlers in order. If one returns an awaitable, return a coroutine for it and the rest."""
        return self._call(session, message, 0)

    def _call(self, session: MessageSource, message: Any, at: int) -> Awaitable[None] | None:
        code_before = session.close_code
        for index in range(at, len(self.calls)):
            if session.close_code is not code_before:
                break  # the handler before this one ended the session
            try:
                result = self.calls[index](session, message)
                refuse_unrun(result)
            except BaseException as error:
                self._failed(session, contain(error))
                continue
            if inspect.isawaitable(result):
                return self._await(result, session, message, index + 1)
        return None

    async def _await(self, result: Any, session: MessageSource, message: Any, at: int) -> None:
        """Await what one handler returned, then call the handlers from `at` on."""
        code_before = session.close_code
        try:
            while inspect.isawaitable(result):
                result = await result
            refuse_unrun(result)
        except BaseException as error:
            self._failed(session, contain(error))
        if session.close_code is code_before and (rest := self._call(session, message, at)) is not None:
            await rest
