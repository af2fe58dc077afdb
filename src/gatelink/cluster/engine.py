"""What the servers of a group share: keys that expire, events, and requests with a deadline.

Players' frames never go through the engine. When it is away, sessions and links live on; a call that needs it raises
`EngineUnavailable` after its deadline, and watches and subscriptions heal by themselves.

Two implementations pass the same tests: `engines.memory.MemoryEngine` (one process) and `engines.nats.NatsEngine`.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import NewType, Protocol, Self

import msgspec

from gatelink.errors import GatelinkError

Revision = NewType("Revision", int)
"""Which write made an entry what it is. Opaque: good to compare with another of the same key, for nothing else."""


MAX_REFUSAL = 1_000
"""Characters of a refusal's reason."""


class EngineError(GatelinkError):
    """Something that the engine did not do."""


class EngineUnavailable(EngineError):
    """The engine did not answer before the deadline; whether it did what it was asked is not known."""


class Conflict(EngineError):
    """The entry is not what the writer thought: another write came first, it is there already, or it is gone."""


class NoResponder(EngineError):
    """Nobody serves the subject of a request."""


class RequestFailed(EngineError):
    """Whoever serves the subject raised.

    code, reason: what it said with `CallRefused`; 0 and "" for any other exception, whose words are in its own log.
    """

    def __init__(self, text: str, code: int = 0, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(text)


class CallTimeout(RequestFailed):
    """The engine is there, and whoever serves the subject did not answer before the deadline.

    Whether the request was handled is not known.
    """


class CallRefused(GatelinkError):
    """Raised by a handler of calls to refuse one: the caller gets RequestFailed with this `code` and `reason`.

    code: 0 to 65,535, the application's own. reason: up to 1,000 characters, which the caller may see and log.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        if not 0 <= code <= 0xFFFF:
            raise ValueError(f"code {code}; a refusal has one from 0 to 65535")
        if len(reason) > MAX_REFUSAL:
            raise ValueError(f"a reason of {len(reason)} characters; a refusal has at most {MAX_REFUSAL}")
        self.code = code
        self.reason = reason
        super().__init__(f"refused with code {code}" + (f": {reason}" if reason else ""))


class Entry(msgspec.Struct, frozen=True):
    """A key's value and the revision that a compare-and-set names."""

    key: str
    value: bytes
    revision: Revision


class Change(msgspec.Struct, frozen=True):
    """What became of a key: its new value, or None if it was deleted or expired."""

    key: str
    value: bytes | None


class Watch(Protocol):
    """The keys of a prefix, kept current. Iterating gives each change, in order per key, after it is in `entries`.

    A key that changed several times while the engine was away, or faster than it was read, is reported once, and not at
    all if it came and went. The same value written again is no change. It is iterated by one reader, and ends with the
    engine; while the engine is away `entries` are what they were.
    """

    entries: Mapping[str, bytes]

    def __aiter__(self) -> AsyncIterator[Change]: ...


class Subscription(Protocol):
    """A subject that is being listened to."""

    async def close(self) -> None:
        """Ends it, when what was under way has been handled; nothing is called after this."""


class EngineStats:
    """What one engine has counted since it was made.

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

    A call waits for an engine that is away, in case it comes back in time. One that was under way when the connection
    was lost raises at once: nobody knows whether it was done.

    Keys and subjects are words of `A-Z a-z 0-9 _ - =` joined by dots; others raise ValueError. Values are bytes of up
    to 1 MiB less 1 KiB. A `ttl` is in seconds, at least 1, and rounded up; the key is kept up to a second longer.
    """

    stats: EngineStats
    when_back: set[Callable[[], None]]
    """Called each time that the engine can be used again, or was found to have lost or changed what it held.

    What a process must have there, it looks after then.
    """

    async def start(self) -> None:
        """Connects. Raises EngineUnavailable, or ConfigError for an engine that cannot do what is needed."""

    async def close(self) -> None:
        """Ends every subscription, watch and request."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    @property
    def is_available(self) -> bool:
        """Whether it is connected and, when that was last tried, could be written to; for health and metrics."""

    async def get(self, key: str) -> Entry | None: ...

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        """Writes, whatever is there."""

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        """Writes what is not there yet, or expired. Raises Conflict."""

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        """Replaces the write that `revision` names, and with it its expiry. Raises Conflict."""

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        """Takes the key away if it is there; with a `revision`, only that write, else raises Conflict."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        """All keys below `prefix`: its words and at least one more. Entered, its `entries` are complete."""

    async def publish(self, subject: str, data: bytes) -> None:
        """Tells all who subscribed; who is away misses it."""

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Subscription:
        """Has `handler` called, in order, with what is published from now on. What it raises is logged."""

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        """Answers requests, each in a task of its own; one of those who serve the subject gets each request.

        `handler` is cancelled when the caller's deadline is over. What it raises is logged, and fails the request;
        CallRefused is not logged, and tells the caller why. Over 1,000 at a time are refused.
        """

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - goes with the call
        """The answer of whoever serves `subject`.

        Raises NoResponder at once, RequestFailed; after `timeout` seconds CallTimeout, or EngineUnavailable if the
        engine is away.
        """
