"""The tasks that answer requests: a bounded number, each bounded by its caller's deadline."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import EngineStats, NoHandler, check_value
from gatelink.errors import Refuse, RequestCode, RequestFailed
from gatelink.logger import RateLimitedLogger

MAX_SERVED = 1_000  # requests handled at a time by one engine; each is a task that waits for a database, a peer, ...

FAILED, BUSY, LATE, REFUSED, UNKNOWN = "failed", "busy", "late", "refused", "unknown"

_encode_refusal = msgspec.msgpack.Encoder().encode
_decode_refusal = msgspec.msgpack.Decoder(tuple[int, str]).decode

Handler = Callable[[bytes], Awaitable[bytes]]
Answer = Callable[[bytes, str], Awaitable[None]]
"""Sends `(data, failure)` to the caller; `failure` is "" after a success. A refusal's data is its code and reason."""


class RequestWorkers:
    """The requests that one engine is answering, each in a task of its own."""

    def __init__(self, stats: EngineStats, log: RateLimitedLogger) -> None:
        self._stats = stats
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, subject: str, handler: Handler, data: bytes, timeout: float, answer: Answer) -> None:  # noqa: ASYNC109
        """Have `handler` answer; cancel it after `timeout` seconds, when its caller has given up."""
        self._stats.served += 1
        if len(self._tasks) >= MAX_SERVED:
            self._stats.served_refused += 1
            await answer(b"", BUSY)
            return
        task = tasks.keep(self._handle(subject, handler, data, timeout, answer), "engine request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the requests that are being handled."""
        await tasks.cancel_and_wait(*self._tasks)

    async def _handle(self, subject: str, handler: Handler, data: bytes, timeout: float, answer: Answer) -> None:  # noqa: ASYNC109
        result, failure = b"", ""
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                result = await handler(data)
                check_value(result)
        except Refuse as refusal:
            result, failure = _encode_refusal((refusal.detail, refusal.reason)), REFUSED
        except NoHandler:
            failure = UNKNOWN
        except Exception as error:
            self._stats.served_failed += 1
            self._log.error("a request failed", subject=subject, failed=self._stats.served_failed, exc_info=error)
            result, failure = b"", LATE if deadline.expired() else FAILED
        await answer(result, failure)


def request_failed(subject: str, failure: str, data: bytes) -> RequestFailed:
    """The caller's error for a `failure` and its data."""
    if failure == BUSY:
        reason = f"{subject}: refused, that server is handling {MAX_SERVED} requests already"
        return RequestFailed(RequestCode.TOO_MANY, reason=reason)
    if failure == LATE:
        return late_answer(f"{subject}: its handler took longer than the caller waits")
    if failure == UNKNOWN:
        return RequestFailed(RequestCode.NO_HANDLER, reason=f"{subject}: that server has no handler of it")
    if failure == REFUSED:
        try:
            return RequestFailed(RequestCode.REFUSED, *_decode_refusal(data))
        except (msgspec.MsgspecError, UnicodeError):
            return RequestFailed(RequestCode.REFUSED, reason=f"{subject}: its reason cannot be read")
    return RequestFailed(RequestCode.FAILED, reason=f"{subject}: its handler failed; the cause is in its log")


def late_answer(text: str) -> RequestFailed:
    """The caller's error when no answer came in time, though the engine is available."""
    return RequestFailed(RequestCode.TIMEOUT, reason=text)
