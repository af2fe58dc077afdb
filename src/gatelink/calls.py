"""Calls of application code. Nothing that the code raises or returns harms other sessions.

docs/operations.md has the table of all places that call it. `invoke` awaits what the code returns; `invoke_plain` needs
the result at once. The hot path in handlers.py calls directly, and uses `contain` as these two do.
"""

import asyncio
import dis
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

_RAISE = dis.opmap["RAISE_VARARGS"]


class Escaped(Exception):
    """Application code raised a BaseException that is no Exception, as SystemExit. It is the `__cause__`."""


def contain(error: BaseException) -> Exception:
    """The error of application code, as an Exception that the caller can handle.

    Raises `error` itself if the code did not raise it: the KeyboardInterrupt of a signal, a cancellation that was asked
    for (`task.cancelling()`), or the end of a coroutine that is no longer run.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError):
        is_ours = _is_cancelled()
    else:
        is_ours = isinstance(error, (KeyboardInterrupt, GeneratorExit)) and not _is_raised_by_code(error)
    if is_ours:
        raise error
    contained = Escaped(f"application code raised {type(error).__name__}")
    contained.__cause__ = error
    return contained


async def invoke(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Call `function`, plain or async, and await its result. Raises only Exceptions, as `contain` says."""
    try:
        result: Any = function(*arguments)
        while inspect.isawaitable(result):
            result = await result
    except Exception:
        raise
    except BaseException as error:
        raise contain(error) from error
    refuse_unrun(result)
    return result  # type: ignore[no-any-return]


def invoke_plain(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function`, which must be plain. Raises only Exceptions, as `contain` says.

    Raises TypeError for a coroutine, because it would never be awaited.
    """
    try:
        result = function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise contain(error) from error
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{function!r} returned a coroutine, which is never awaited here; make it a plain function")
    refuse_unrun(result)
    return result


def says_yes(function: Callable[..., object], *arguments: Any) -> bool:
    """Call `function`, which must be plain, and return whether its result is true. To ask for that may raise, too."""
    return invoke_plain(lambda: bool(invoke_plain(function, *arguments)))


def refuse_unrun(result: object) -> None:
    """Raise TypeError if application code returned a generator: its body never ran."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{result!r} was returned, and its body never ran; write the function without `yield`")


def words_of(error: BaseException) -> str:
    """The class and the text of an error, if it has one, for a log or a report. To make the text may raise, too."""
    try:
        text = str(error)
    except BaseException as failure:
        contain(failure)
        return f"{type(error).__name__} (its text can't be shown: {type(failure).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call makes a coroutine."""
    return any(map(inspect.iscoroutinefunction, _codes(function)))


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether a call makes a generator, plain or async, and does not run its body."""
    return any(inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code) for code in _codes(function))


def _codes(function: Callable[..., Any]) -> tuple[Any, Any]:
    """The function inside partials, and the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function, getattr(function, "__call__", None)  # noqa: B004 - to look at it


def _is_cancelled() -> bool:
    """Whether the running task was asked to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs
        return False
    return task is not None and task.cancelling() > 0


def _is_raised_by_code(error: BaseException) -> bool:
    """Whether a `raise` raised it. The error of a signal or of `close()` appears at any other instruction.

    asyncio's own handler of SIGINT has a `raise` too, and counts as the signal.
    """
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_globals.get("__name__") == "asyncio.runners":
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE
