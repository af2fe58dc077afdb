"""The tasks that answer requests: a bounded number at a time, each for no longer than its caller waits."""

import asyncio
from collections.abc import Awaitable, Callable

from gatelink import tasks
from gatelink.group.engine import RequestFailed
from gatelink.group.engines.checks import check_value
from gatelink.group.engines.stats import EngineStats
from gatelink.quiet import QuietLog

MAX_SERVED = 1_000  # requests handled at a time by one engine; each is a task that waits for a database, a peer, ...

FAILED, BUSY = "failed", "busy"

Handler = Callable[[bytes], Awaitable[bytes]]
Answer = Callable[[bytes, str], Awaitable[None]]
"""Sends `(data, failure)` to who asked; `failure` is "" if there is none."""


class RequestWorkers:
    """The requests that one engine is answering, each in a task of its own."""

    def __init__(self, stats: EngineStats, log: QuietLog) -> None:
        self._stats = stats
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, subject: str, handler: Handler, data: bytes, timeout: float, answer: Answer) -> None:  # noqa: ASYNC109
        """Has `handler` answer. It is cancelled after `timeout` seconds, when nobody waits for it any more."""
        self._stats.served += 1
        if len(self._tasks) >= MAX_SERVED:
            self._stats.served_refused += 1
            await answer(b"", BUSY)
            return
        task = tasks.keep(self._handle(subject, handler, data, timeout, answer), "engine request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what is being handled."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, subject: str, handler: Handler, data: bytes, timeout: float, answer: Answer) -> None:  # noqa: ASYNC109
        result, failure = b"", ""
        try:
            async with asyncio.timeout(timeout):
                result = await handler(data)
                check_value(result)
        except Exception as error:
            self._stats.served_failed += 1
            self._log.error("a request failed", subject=subject, failed=self._stats.served_failed, exc_info=error)
            result, failure = b"", FAILED
        await answer(result, failure)


def request_failed(subject: str, failure: str) -> RequestFailed:
    """What the caller is told of a `failure`."""
    if failure == BUSY:
        return RequestFailed(f"{subject}: refused, whoever serves it is handling {MAX_SERVED} requests")
    return RequestFailed(f"{subject}: whoever serves it failed; the cause is in its log")
