"""How gatelink calls application code, so that nothing which that code raises or returns harms anybody else.

docs/operations.md has the table of all places where it is called. A place calls with `invoke` (it awaits what the
code returns) or with `invoke_plain` (it needs the answer at once). The hot path in dispatch.py calls in line, and uses
`contain` as these two do.
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
    """Application code raised what is no Exception, as SystemExit; that is the `__cause__`."""


def contain(error: BaseException) -> Exception:
    """What application code raised, as an Exception that goes no further than its call.

    Raises `error` itself if it is not the application's: the KeyboardInterrupt of a signal, a cancellation that was
    asked for (`task.cancelling()`), or the end of a coroutine that nobody runs any more.
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
    """Calls `function`, plain or async, and awaits what it returns. Raises only Exceptions, as `contain` says."""
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
    """Calls `function`, which must answer at once. Raises nothing but Exceptions, as `contain` says.

    TypeError for a coroutine, which nobody would run; it is closed.
    """
    try:
        result = function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise contain(error) from error
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{function!r} returned a coroutine, which nobody awaits here; it must be a plain function")
    refuse_unrun(result)
    return result


def refuse_unrun(result: object) -> None:
    """Raises TypeError if application code returned a generator: what is behind its `yield` never ran."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{result!r} was returned, whose body never ran; write the function without `yield`")


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine."""
    return any(map(inspect.iscoroutinefunction, _codes(function)))


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it only makes a generator, plain or async, and runs nothing of it."""
    return any(inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code) for code in _codes(function))


def _codes(function: Callable[..., Any]) -> tuple[Any, Any]:
    """What may be the function behind partials, and behind an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function, getattr(function, "__call__", None)  # noqa: B004 - to look at it


def _is_cancelled() -> bool:
    """Whether somebody asked the running task to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs
        return False
    return task is not None and task.cancelling() > 0


def _is_raised_by_code(error: BaseException) -> bool:
    """Whether a `raise` raised it. A signal's, or that of `close()`, comes up at any other instruction.

    asyncio's own handler of SIGINT has a `raise` as well, and counts as the signal.
    """
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_globals.get("__name__") == "asyncio.runners":
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE
