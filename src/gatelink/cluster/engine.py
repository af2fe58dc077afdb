"""What the servers of a cluster share: keys that expire, events, and requests with a deadline.

Players' frames never go through the engine. While it cannot be reached, sessions and links live on. A call raises
`EngineUnavailable` after its deadline; watches and subscriptions recover by themselves.

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
"""Identifies one write of a key. Opaque: only to be compared with another of the same key."""


MAX_REFUSAL = 1_000
"""Characters of a refusal's reason."""


class EngineError(GatelinkError):
    """The engine did not do what it was asked."""


class EngineUnavailable(EngineError):
    """The engine did not answer before the deadline. It may have done what it was asked."""


class Conflict(EngineError):
    """The entry is not the expected one: another write came first, or it exists already, or it is gone."""


class NoResponder(EngineError):
    """No server answers the subject of a request."""


class RequestFailed(EngineError):
    """The handler of the request raised.

    code, reason: of its `CallRefused`; 0 and "" for any other exception, which that server logs.
    """

    def __init__(self, text: str, code: int = 0, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(text)


class CallTimeout(RequestFailed):
    """The handler of the request did not answer before the deadline. It may have handled the request."""


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
    """The new value of a key, or None if it was deleted or expired."""

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
    """A subscription to a subject."""

    async def close(self) -> None:
        """End it once its messages are handled; the handler is not called after this."""


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
        """Call `handler` with each event published from now on, in order. What it raises is logged."""

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        """Answer requests, each in a task of its own; of several servers, one gets each request.

        `handler` is cancelled at the caller's deadline. What it raises is logged, and fails the request; CallRefused
        is not logged, and its reason goes to the caller. Over 1,000 at a time are refused.
        """

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - goes with the call
        """Send a request and return the answer.

        Raises NoResponder at once, RequestFailed; after `timeout` seconds CallTimeout, or EngineUnavailable if the
        engine cannot be reached.
        """
