"""The checks of a handler at start, so that a wrong one does not fail at each message."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import Any, Never, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from gatelink.calls import is_async, is_generator
from gatelink.errors import CatalogError
from gatelink.wire.messages import MessageType

_PEER = {"send", "join", "kick", "wait_closed"}
"""What every class of sessions has, and no message."""


def check_handler(
    handler: Callable[..., Any],
    of: str,
    *arguments: str,
    asynchronous: bool | None = None,
    message: type | None = None,
    messages: Container[type] = (),
) -> None:
    """Check a handler at start, so that it does not fail at each message. Raises CatalogError.

    of: what it handles, in words. arguments: the names of its arguments. asynchronous: True if it must be `async def`,
    False if it must not, None if it may be either. message: the class of what it is called with; None if there are
    several. messages: the classes of all messages.
    """
    if is_generator(handler):
        raise CatalogError(f"the handler of {of} has a `yield`, so a call would run nothing of it; write it without")
    if asynchronous is False and is_async(handler):
        raise CatalogError(f"the handler of {of} must be a plain function, not `async def`: nobody would await it")
    if asynchronous and not is_async(handler) and not is_async(inspect.unwrap(handler)):
        raise CatalogError(f"the handler of {of} is awaited: write it as `async def`")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return  # a function written in C, without a signature
    except TypeError:
        raise CatalogError(f"the handler of {of} is {handler!r}, which can't be called") from None
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        raise CatalogError(
            f"the handler of {of} is called with ({', '.join(arguments)}); {name}{signature} can't be"
        ) from None
    annotations = _annotations(handler)
    for argument, parameter in zip(arguments, signature.parameters, strict=False):
        hint = annotations.get(parameter)
        if not isinstance(hint, type):
            continue
        if argument == "session":
            is_wrong = hint is message or hint in messages
        else:
            is_other = message is not None and hint in messages and not issubclass(message, hint)
            is_wrong = is_other or all(hasattr(hint, name) for name in _PEER)
        if is_wrong:
            raise CatalogError(
                f"the handler of {of} is called with ({', '.join(arguments)}); its `{parameter}`, the {argument}, "
                f"is annotated as {hint.__name__}"
            )


def check_answer(handler: Callable[..., Any], kind: MessageType, also: bool) -> None:
    """Check at start that the handler of a request says it returns the request's answer, if it says anything.

    Raises CatalogError for another return annotation, and for a second handler: a request has one answer.
    """
    answer = cast(type, kind.answer)
    if also:
        raise CatalogError(f"{kind.name} is a request, which has one handler: what that returns is the answer")
    try:
        returned = get_type_hints(inspect.unwrap(handler)).get("return", Any)
    except Exception:
        return  # names that exist only for the type checker
    if get_origin(returned) in (Awaitable, Coroutine, asyncio.Future, asyncio.Task):
        returned = get_args(returned)[-1]
    if returned not in (Any, NoReturn, Never, answer) and not isinstance(returned, TypeVar):
        name = getattr(returned, "__name__", repr(returned))
        raise CatalogError(f"the handler of {kind.name} returns {name}; {kind.name} is answered with {answer.__name__}")


def _annotations(handler: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function or method; none if they have names that exist only for the type checker."""
    function = inspect.unwrap(handler)
    if not inspect.isroutine(function):
        return {}
    try:
        annotations = function.__annotations__
        return get_type_hints(function) if any(isinstance(each, str) for each in annotations.values()) else annotations
    except Exception:
        return {}
