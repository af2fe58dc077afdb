"""What tests share: the unit of time, and the loop that async tests run on."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

MS = 0.001 * float(os.environ.get("GATELINK_TIME_SCALE", "1"))  # s; a slow machine sets GATELINK_TIME_SCALE=5

TEST_TIMEOUT = 100_000 * MS  # below the limit of pytest, which tells less of what it was at
ENDING = 2_000 * MS  # what a task that is already ending may take to be gone

_connection_lost = asyncio.StreamReaderProtocol.connection_lost


def _lose_connection(protocol: asyncio.StreamReaderProtocol, error: Exception | None) -> None:
    """Lose the connection of a stream whose test need not wait for `wait_closed`.

    The finalizer of the protocol marks `error` as retrieved. In a cycle of garbage the future of `wait_closed`, which
    holds `error` too, may be finalized before the protocol: a reset that the test took care of would fail that test.
    """
    _connection_lost(protocol, error)
    protocol.__del__()


asyncio.StreamReaderProtocol.connection_lost = _lose_connection  # type: ignore[assignment, method-assign]


def run_watched(
    test: Coroutine[Any, Any, object],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> None:
    """Run `test` on a fresh loop, for at most `TEST_TIMEOUT`.

    Raises what `test` raises, and AssertionError when the loop saw an unhandled exception or tasks are left running.
    """
    unhandled: list[dict[str, Any]] = []
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            left = runner.run(_bounded(test))
    except BaseException as error:
        for context in unhandled:
            error.add_note(f"the loop also saw: {_describe(context)}")
        raise
    gc.collect()  # a failed task or an open transport speaks up when it is collected; let it be in this test
    if unhandled:
        seen = "; ".join(_describe(context) for context in unhandled)
        raise AssertionError(f"the loop saw an unhandled exception: {seen}") from unhandled[0].get("exception")
    if left:
        raise AssertionError(f"{len(left)} tasks are left running at the end of the test: {'; '.join(left)}")


async def _bounded(test: Coroutine[Any, Any, object]) -> list[str]:
    """Await `test`; give the tasks it left running, as text."""
    try:
        async with asyncio.timeout(TEST_TIMEOUT) as limit:
            await test
    except TimeoutError as error:
        if limit.expired():
            error.add_note(f"the test ran for more than {TEST_TIMEOUT:g} s")
        raise
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=ENDING)
    return [repr(task) for task in left]


def _describe(context: dict[str, Any]) -> str:
    return f"{context['message']}: {context.get('exception')!r}"
