"""The engine of servers that live in one process: a dict. For tests, development, and games that need one process."""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Generic, NamedTuple, Self, TypeVar

from gatelink.cluster.engine import (
    Conflict,
    EngineStats,
    EngineUnavailable,
    Entry,
    NoResponder,
    Revision,
    Subscription,
    check_name,
    check_timeout,
    check_value,
    check_write,
    is_below,
)
from gatelink.cluster.engines.view import View
from gatelink.cluster.engines.workers import Handler, RequestWorkers, late_answer, request_failed
from gatelink.logger import Logger, RateLimitedLogger

TICK = 0.05  # s; expiries are looked for at most this often, so a watch has one so much later


class _Row(NamedTuple):
    value: bytes
    revision: Revision
    due: float


_Handler = TypeVar("_Handler", bound=Callable[[bytes], Any])


class _Subscription(Generic[_Handler]):
    """One subscription to events, or one server of a subject."""

    def __init__(self, among: "dict[str, list[_Subscription[_Handler]]]", subject: str, handler: _Handler) -> None:
        self.handler = handler
        self.is_closed = False
        self._among = among
        self._subject = subject
        among.setdefault(subject, []).append(self)

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._among[self._subject].remove(self)
            if not self._among[self._subject]:
                del self._among[self._subject]


class MemoryEngine:
    """An `Engine` in memory. All servers of a process are given the same one; it ends with the last that closes it.

    clock: seconds, for expiry, and the engine's time; the monotonic clock, begun at the time of now, if None. An
    expired key goes when the clock is next looked at: by any call, or by a timer.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.stats = EngineStats()
        self.when_back: set[Callable[[], None]] = set()
        self._clock = clock or time.monotonic
        self._began = time.time() - time.monotonic() if clock is None else 0.0
        self._users = 0
        self._rows: dict[str, _Row] = {}
        self._due: list[tuple[float, str, Revision]] = []  # a heap; what was written over stays a while
        self._timer: asyncio.TimerHandle | None = None
        self._revisions = itertools.count(1)
        self._turns = itertools.count()
        self._watches: list[tuple[str, View]] = []
        self._subscribed: dict[str, list[_Subscription[Callable[[bytes], None]]]] = {}
        self._served: dict[str, list[_Subscription[Handler]]] = {}
        self._requests: set[asyncio.Future[tuple[bytes, str]]] = set()
        self._log = RateLimitedLogger(Logger("gatelink.engine"))
        self._workers = RequestWorkers(self.stats, self._log)

    async def start(self) -> None:
        self._users += 1

    async def close(self) -> None:
        self._users = max(0, self._users - 1)
        if self._users:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, view in self._watches:
            view.end()
        for subscribed in [each for those in self._subscribed.values() for each in those]:
            await subscribed.close()
        for served in [each for those in self._served.values() for each in those]:
            await served.close()
        for request in list(self._requests):
            if not request.done():
                request.set_exception(EngineUnavailable("the engine was closed"))
        await self._workers.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def is_available(self) -> bool:
        return self._users > 0

    @property
    def trouble(self) -> str:
        return "" if self.is_available else "it is not started, or closed"

    def now(self) -> float:
        return self._clock() + self._began

    @property
    def skew(self) -> float:
        return 0.0  # its clock is this machine's

    async def get(self, key: str) -> Entry | None:
        check_name(key)
        with self._call("get"):
            row = self._rows.get(key)
            return Entry(key, row.value, row.revision) if row is not None else None

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        seconds = check_write(key, value, ttl)
        with self._call("put"):
            return self._write(key, value, seconds)

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        seconds = check_write(key, value, ttl)
        with self._call("create"):
            if key in self._rows:
                raise Conflict(f"{key}: is there already")
            return self._write(key, value, seconds)

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        seconds = check_write(key, value, ttl)
        with self._call("update"):
            self._expect(key, revision)
            return self._write(key, value, seconds)

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        check_name(key)
        with self._call("delete"):
            if revision is not None:
                self._expect(key, revision)
            if self._rows.pop(key, None) is not None:
                self._notify(key, None)

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[View]:
        check_name(prefix)
        with self._call("watch"):
            view = View()
            view.open({key: row.value for key, row in self._rows.items() if is_below(key, prefix)})
        self._watches.append((prefix, view))
        try:
            yield view
        finally:
            self._watches.remove((prefix, view))

    async def publish(self, subject: str, data: bytes) -> None:
        check_name(subject)
        check_value(data)
        with self._call("publish"):
            for subscription in self._subscribed.get(subject, ()):
                asyncio.get_running_loop().call_soon(self._deliver, subject, subscription, data)
        await asyncio.sleep(0)  # a caller that publishes in a loop lets handlers run

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Subscription:
        check_name(subject)
        with self._call("subscribe"):
            return _Subscription(self._subscribed, subject, handler)

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        check_name(subject)
        with self._call("serve"):
            return _Subscription(self._served, subject, handler)

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - as the interface
        check_name(subject)
        check_value(data)
        check_timeout(timeout)
        with self._call("request"):
            those = self._served.get(subject)
            if not those:
                raise NoResponder(f"{subject}: no server answers it")
            handler = those[next(self._turns) % len(those)].handler
            answer: asyncio.Future[tuple[bytes, str]] = asyncio.get_running_loop().create_future()
            self._requests.add(answer)
            try:
                await self._workers.take(subject, handler, data, timeout, partial(_answer, answer))
                async with asyncio.timeout(timeout):
                    result, failure = await answer
            except TimeoutError:
                if not answer.done() or answer.cancelled():  # else it came first, and this loop stood still since
                    raise late_answer(f"{subject}: no answer within {timeout:g} s") from None
                result, failure = answer.result()
            finally:
                self._requests.discard(answer)
            if failure:
                raise request_failed(subject, failure, result)
            return result

    @contextlib.contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self.stats.timing(name):
            if not self._users:
                raise EngineUnavailable(f"{name}: the engine is not started, or closed")
            self._expire()
            yield

    def _write(self, key: str, value: bytes, seconds: int) -> Revision:
        row = self._rows[key] = _Row(value, Revision(next(self._revisions)), self._clock() + seconds)
        if len(self._due) > 2 * len(self._rows) + 64:
            self._due = [(row.due, key, row.revision) for key, row in self._rows.items()]
            heapq.heapify(self._due)
        else:
            heapq.heappush(self._due, (row.due, key, row.revision))
        self._set_timer()
        self._notify(key, value)
        return row.revision

    def _expect(self, key: str, revision: Revision) -> None:
        row = self._rows.get(key)
        if row is None or row.revision != revision:
            raise Conflict(f"{key}: {'is gone' if row is None else 'another write came first'}")

    def _notify(self, key: str, value: bytes | None) -> None:
        for prefix, view in self._watches:
            if is_below(key, prefix):
                view.set(key, value)

    def _expire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, key, revision = heapq.heappop(self._due)
            row = self._rows.get(key)
            if row is not None and row.revision == revision:
                del self._rows[key]
                self._notify(key, None)

    def _set_timer(self) -> None:
        if not self._due:
            return
        loop = asyncio.get_running_loop()
        delay = max(TICK, self._due[0][0] - self._clock())
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._expire()
        self._set_timer()

    def _deliver(self, subject: str, subscription: _Subscription[Callable[[bytes], None]], data: bytes) -> None:
        if subscription.is_closed:
            return
        try:
            subscription.handler(data)
        except Exception as error:
            self.stats.handler_errors += 1
            self._log.error("an event's handler failed", subject=subject, exc_info=error)


async def _answer(future: "asyncio.Future[tuple[bytes, str]]", data: bytes, failure: str) -> None:
    if not future.done():
        future.set_result((data, failure))
