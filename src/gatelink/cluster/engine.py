"""What the servers of a cluster share: keys that expire, events, and requests with a deadline.

Players' frames never go through the engine. While it cannot be reached, sessions and links live on. A call raises
`EngineUnavailable` after its deadline; watches and subscriptions recover by themselves.

Two implementations pass the same tests: `engines.memory.MemoryEngine` (one process) and `engines.nats.NatsEngine`.
"""

import asyncio
import contextlib
import math
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import NewType, Protocol, Self

import msgspec

from gatelink.errors import GatelinkError

Revision = NewType("Revision", int)
"""Identifies one write of a key. Later writes, of any key, have higher ones, while the engine keeps its contents."""

MAX_VALUE = (1 << 20) - 1_024
"""Bytes of a value, an event or a request: what NATS takes by default, less the headers."""

MAX_NAME = 512  # characters
MAX_TTL = 10 * 365 * 86_400.0  # s
MAX_TIMEOUT = 3_600.0  # s that a request may wait

MAX_CONFLICTS = 64
"""How often other processes' writes of one key may come first, before a call gives up."""

CONFLICT_PAUSE = 0.002
"""Seconds. The wait after a conflict is up to this, times the number of conflicts so far."""

_NAME = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")


MAX_SKEW = 1.0
"""Seconds that a machine's clock may be off the engine's: over it, it is logged, and by default no process starts."""


class EngineError(GatelinkError):
    """The engine did not do what it was asked."""


class EngineUnavailable(EngineError):
    """The engine did not answer before the deadline. It may have done what it was asked."""


class ClockSkew(EngineUnavailable):
    """This machine's clock is too far off the engine's."""


class Conflict(EngineError):
    """The entry is not the expected one: another write came first, or it exists already, or it is gone."""


class NoResponder(EngineError):
    """No server answers the subject of a request."""


class NoHandler(GatelinkError):
    """Raised by a handler of requests for one that it does not know: the caller gets code NO_HANDLER."""


class Entry(msgspec.Struct, frozen=True):
    """A key's value and the revision that a compare-and-set names."""

    key: str
    value: bytes
    revision: Revision


class Change(msgspec.Struct, frozen=True):
    """The new value of a key, or None if it was deleted or expired."""

    key: str
    value: bytes | None


class Watch(Protocol):
    """The keys of a prefix, kept current. Iterating gives each change, in order per key, after it is in `entries`.

    Unread changes of a key are reported as one. A key that came and went unread is not reported. The same value written
    again is no change. While the engine is away, `entries` stay as they were. One reader iterates a watch, until the
    engine is closed.
    """

    entries: Mapping[str, bytes]

    def __aiter__(self) -> AsyncIterator[Change]: ...


class Subscription(Protocol):
    """A subscription to a subject."""

    async def close(self) -> None:
        """End it once its messages are handled; the handler is not called after this."""


class EngineStats:
    """The counters of one engine since it was made.

    `calls`, `seconds` and `failures` are by the call's name in `Engine` (`get`, `request`, ...), failures also by the
    name of the error. Conflict and NoResponder count as failures, too, though callers expect them.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()  # by (call, error)
        self.seconds: dict[str, float] = {}
        self.losses = 0  # connections to the engine that were lost
        self.resyncs = 0  # times that a watch started over
        self.contents_lost = 0  # times that the bucket was found emptied, new or older
        self.dropped = 0  # messages that came faster than they were handled
        self.served = 0  # requests handled here
        self.served_failed = 0  # whose handler raised or took longer than the caller waits
        self.served_refused = 0  # refused, as too many were being handled
        self.handler_errors = 0  # raised by handlers of events
        self.not_authentic: Counter[str] = Counter()  # entries and messages that no server wrote, by purpose

    @contextlib.contextmanager
    def timing(self, call: str) -> Iterator[None]:
        """Count a call, its time, and its failure."""
        started = perf_counter()
        self.calls[call] += 1
        try:
            yield
        except EngineError as error:
            self.failures[call, type(error).__name__] += 1
            raise
        finally:
            self.seconds[call] = self.seconds.get(call, 0.0) + perf_counter() - started


class Engine(Protocol):
    """Keys, events and requests. Every call has a deadline of its own and raises EngineUnavailable after it.

    A call waits for an engine that cannot be reached, in case it comes back in time. A call that had been sent when the
    connection was lost raises at once: it may have been done.

    Keys and subjects are words of `A-Z a-z 0-9 _ - =` joined by dots; others raise ValueError. Values are bytes of up
    to 1 MiB less 1 KiB. A `ttl` is in seconds, at least 1, and rounded up; the key is kept up to a second longer.
    """

    stats: EngineStats
    when_back: set[Callable[[], None]]
    """Called when the engine can be used again, or lost entries, or has older ones.

    A process then writes its own entries again.
    """

    async def start(self) -> None:
        """Connects. Raises EngineUnavailable, or ConfigError for an engine that cannot do what is needed."""

    async def close(self) -> None:
        """End every subscription, watch and request."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    @property
    def is_available(self) -> bool:
        """Whether it is connected and the last test write succeeded; for health and metrics."""

    @property
    def trouble(self) -> str:
        """Why it is not available, for people; "" if it is."""

    def now(self) -> float:
        """The engine's time in unix seconds.

        What expires is decided by it, so that servers whose machines have different clocks agree.
        """

    @property
    def skew(self) -> float:
        """Seconds that this machine's clock is ahead of the engine's (negative: behind), at least."""

    async def get(self, key: str) -> Entry | None: ...

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        """Write a key, whatever it is now."""

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        """Write a key that does not exist, or expired. Raises Conflict."""

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        """Replace the write that `revision` names, and its expiry. Raises Conflict."""

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        """Delete a key if it exists; with a `revision`, only that write, else raises Conflict."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        """All keys below `prefix`: its words and at least one more. Entered, its `entries` are complete."""

    async def publish(self, subject: str, data: bytes) -> None:
        """Send an event to all subscribers that are connected now."""

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Subscription:
        """Call `handler` with each event published from now on, in order. Its errors are logged."""

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        """Answer requests, each in a task of its own; of several servers, one gets each request.

        `handler` is cancelled at the caller's deadline. Its errors are logged, and fail the request; Refuse and
        NoHandler are not logged, and go to the caller. Over 1,000 requests at a time are refused.
        """

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - goes with the call
        """Send a request and return the answer.

        Raises NoResponder at once; RequestFailed, with code TIMEOUT after `timeout` seconds; EngineUnavailable if the
        engine cannot be reached.
        """


class Conflicts:
    """The conflicts of one loop that reads `key`, changes it, and writes it with `write_over`."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._count = 0

    async def another(self) -> None:
        """Count a conflict, and wait a moment before the next try. Raises EngineUnavailable after MAX_CONFLICTS.

        The wait is random, so that processes which write one key at the same time do not meet again.
        """
        self._count += 1
        if self._count == MAX_CONFLICTS:
            raise EngineUnavailable(
                f"{MAX_CONFLICTS} writes of {self._key} by other processes came first; try again later"
            )
        await asyncio.sleep(random.uniform(0.0, CONFLICT_PAUSE * self._count))


async def write_over(engine: Engine, read: Entry | None, key: str, value: bytes, ttl: float) -> Revision:
    """Write `key` if it is still as it was read (None: it was not there). Raises Conflict, as `create` and `update`."""
    if read is None:
        return await engine.create(key, value, ttl)
    return await engine.update(key, value, ttl, read.revision)


# Checks of arguments, the same for every engine, before anything is sent.


def check_name(name: str) -> None:
    """Of a key, a prefix or a subject. Raises ValueError."""
    if len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters; the longest has {MAX_NAME}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not words of A-Z a-z 0-9 _ - = joined by dots")


def check_value(value: bytes) -> None:
    """Of a key, an event, a request or an answer. Raises ValueError."""
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes are more than an engine's {MAX_VALUE}")


def check_write(key: str, value: bytes, ttl: float) -> int:
    """Of a write; gives its ttl in whole seconds, rounded up. Raises ValueError, as for a ttl under 1 s."""
    check_name(key)
    check_value(value)
    if not 1 <= ttl <= MAX_TTL:
        raise ValueError(f"a ttl of {ttl:g} s; it must be from 1 to {MAX_TTL:g}")
    return math.ceil(ttl)


def check_timeout(timeout: float) -> None:
    """Of a request. Raises ValueError."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"a timeout of {timeout:g} s; it must be above 0 and at most {MAX_TIMEOUT:g}")


def is_below(key: str, prefix: str) -> bool:
    """Whether `key` has the words of `prefix` and at least one more."""
    return key.startswith(prefix) and key[len(prefix) : len(prefix) + 1] == "."
