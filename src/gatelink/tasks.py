"""Background tasks: loops that must stay alive, and work that must be finished.

asyncio keeps only a weak reference to a task, and reports the exception that ended it much later.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from gatelink.logger import Logger, RateLimitedLogger

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds before a failed loop begins again: doubled with each failure, up to the longest."""

STEADY = 10.0
"""Seconds that a loop must run for its pause to be the first one again."""

failures: Counter[str] = Counter()
"""Unexpected errors of this process's tasks, by the task's name."""

_kept: set[asyncio.Task[None]] = set()

quiet = RateLimitedLogger(Logger("gatelink.tasks"))


def keep(work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
    """Start `work` in a task that is referenced until it is done. An exception that ends it is logged and counted.

    name: its name in the log and the metric; a constant, without ids.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    _kept.add(task)
    task.add_done_callback(_done)
    return task


def live(loop: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Start `loop()` in a task, and again after a pause whenever it raises. Cancel the task to end it.

    The task also ends when `loop` returns. name: as `keep`.
    """
    return keep(_live(loop, name), name)


async def cancel_and_wait(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel tasks and wait until they have ended, whatever they raise. None stands for a task that never started."""
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


async def gather_all(*closes: Coroutine[Any, Any, None]) -> None:
    """Await all of `closes` together; a cancellation cancels all of them, and waits for them.

    Each has begun by then, however early the cancellation comes: what it closes without waiting is closed.
    """
    tasks = [asyncio.create_task(close) for close in closes]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # a task that is cancelled before its first step never takes it
        await cancel_and_wait(*tasks)
        raise
    for task in tasks:
        task.result()


async def _live(loop: Callable[[], Awaitable[None]], name: str) -> None:
    pause = FIRST_PAUSE
    while True:
        began = monotonic()
        cause: BaseException
        try:
            await loop()
            return
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            cause = error  # what this task awaited was cancelled, not the task
        except (Exception, SystemExit) as error:
            cause = error
        failures[name] += 1
        if monotonic() - began > STEADY:
            pause = FIRST_PAUSE
        quiet.error("a task failed and begins again", task=name, seconds=pause, exc_info=cause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _done(task: asyncio.Task[None]) -> None:
    _kept.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        name = task.get_name()
        failures[name] += 1
        quiet.error("a task failed", task=name, exc_info=error)
