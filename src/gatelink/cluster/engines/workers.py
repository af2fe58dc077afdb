"""The tasks that answer requests: a bounded number at a time, each for no longer than its caller waits."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import CallRefused, CallTimeout, EngineError, EngineStats, RequestFailed
from gatelink.cluster.engines.checks import check_value
from gatelink.rate_limited_logger import RateLimitedLogger

MAX_SERVED = 1_000  # requests handled at a time by one engine; each is a task that waits for a database, a peer, ...

FAILED, BUSY, LATE, REFUSED = "failed", "busy", "late", "refused"

_encode_refusal = msgspec.msgpack.Encoder().encode
_decode_refusal = msgspec.msgpack.Decoder(tuple[int, str]).decode

Handler = Callable[[bytes], Awaitable[bytes]]
Answer = Callable[[bytes, str], Awaitable[None]]
"""Sends `(data, failure)` to who asked; `failure` is "" if there is none. The data of a refusal is why."""


class RequestWorkers:
    """The requests that one engine is answering, each in a task of its own."""

    def __init__(self, stats: EngineStats, log: RateLimitedLogger) -> None:
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
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                result = await handler(data)
                check_value(result)
        except CallRefused as refusal:
            result, failure = _encode_refusal((refusal.code, refusal.reason)), REFUSED
        except Exception as error:
            self._stats.served_failed += 1
            self._log.error("a request failed", subject=subject, failed=self._stats.served_failed, exc_info=error)
            result, failure = b"", LATE if deadline.expired() else FAILED
        await answer(result, failure)


def request_failed(subject: str, failure: str, data: bytes) -> EngineError:
    """What the caller is told of a `failure`, with the data that came with it."""
    if failure == BUSY:
        return RequestFailed(f"{subject}: refused, whoever serves it is handling {MAX_SERVED} requests")
    if failure == LATE:
        return CallTimeout(f"{subject}: whoever serves it took longer than the caller waits")
    if failure == REFUSED:
        try:
            code, reason = _decode_refusal(data)
        except (msgspec.MsgspecError, UnicodeError):
            return RequestFailed(f"{subject}: refused, and the reason did not decode")
        return RequestFailed(f"{subject}: refused with code {code}" + (f": {reason}" if reason else ""), code, reason)
    return RequestFailed(f"{subject}: whoever serves it failed; the cause is in its log")
