"""Engines on one store in memory, each of which can be away, lose replies, be slow, or find another store when back."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import Any, Self, TypeVar

from gatelink.cluster.engine import EngineError, EngineStats, EngineUnavailable, Entry, Revision, Watch
from gatelink.cluster.engines.memory import MemoryEngine

_T = TypeVar("_T")


class Fault(Enum):
    """What happens to one call."""

    NONE = auto()
    REFUSED = auto()
    """It does not reach the engine."""
    LOST_REPLY = auto()
    """It is done, and its answer is lost."""
    DOUBLED = auto()
    """It is done twice; the first answer counts."""
    LATE = auto()
    """It is done some turns of the loop later."""
    LATE_REPLY = auto()
    """Its answer comes some turns of the loop later."""


class Store:
    """What the engines share. It can be emptied, and set back to an earlier copy."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.memory = MemoryEngine(clock)
        self.engines: list[FaultyEngine] = []

    def engine(self) -> "FaultyEngine":
        engine = FaultyEngine(self)
        self.engines.append(engine)
        return engine

    def copy(self) -> tuple[dict[str, Any], int]:
        """The contents and the number of the next write, for `become`."""
        last = next(self.memory._revisions)
        self.memory._revisions = itertools.count(last)
        return dict(self.memory._rows), last

    def become(self, contents: dict[str, Any], revision: int) -> None:
        """The store has these contents from now on, and watches see it."""
        memory = self.memory
        memory._revisions = itertools.count(revision)
        for key in memory._rows.keys() - contents.keys():
            memory._notify(key, None)
        for key, row in contents.items():
            memory._notify(key, row.value)
        memory._rows = dict(contents)
        memory._due = [(row.due, key, row.revision) for key, row in contents.items()]
        memory._due.sort()

    def empty(self) -> None:
        """All is lost, and revisions begin at 1."""
        self.become({}, 1)


class _Served:
    """One subject that an engine serves, unless it is away."""

    def __init__(self, engine: "FaultyEngine", subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._engine = engine
        self._subject = subject
        self._handler = handler
        self._inner: Any = None

    async def open(self) -> None:
        if self._inner is None:
            self._inner = await self._engine.store.memory.serve(self._subject, self._handler)

    async def shut(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()

    async def close(self) -> None:
        self._engine.served.discard(self)
        await self.shut()


class FaultyEngine:
    """One process's engine (cluster.engine.Engine). fault: says what happens to a call of that name and key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stats = EngineStats()
        self.when_back: set[Callable[[], None]] = set()
        self.is_away = False
        self.fault: Callable[[str, str], Fault] = lambda call, key: Fault.NONE
        self.holds: Callable[[str, str], asyncio.Event | None] = lambda call, key: None
        self.served: set[_Served] = set()

    async def start(self) -> None:
        await self.store.memory.start()

    async def close(self) -> None:
        await self.store.memory.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def is_available(self) -> bool:
        return not self.is_away and self.store.memory.is_available

    @property
    def trouble(self) -> str:
        return "" if self.is_available else "a fault of the test"

    def now(self) -> float:
        return self.store.memory.now()

    @property
    def skew(self) -> float:
        return self.store.memory.skew

    async def go_away(self) -> None:
        """Its connection is lost: calls fail, and nobody answers what it serves."""
        self.is_away = True
        for served in list(self.served):
            await served.shut()

    async def come_back(self, serving: bool = True) -> None:
        """It is connected again. serving: and its subscriptions are there again."""
        self.is_away = False
        if serving:
            await self.serve_again()
        for call in list(self.when_back):
            call()

    async def serve_again(self) -> None:
        for served in list(self.served):
            await served.open()

    async def _call(self, name: str, key: str, work: Callable[[], Awaitable[_T]]) -> _T:
        hold = self.holds(name, key)
        if hold is not None:
            await hold.wait()
        if self.is_away:
            raise EngineUnavailable(f"{name}: away")
        match self.fault(name, key):
            case Fault.REFUSED:
                raise EngineUnavailable(f"{name}: no answer")
            case Fault.LOST_REPLY:
                await work()
                raise EngineUnavailable(f"{name}: no answer")
            case Fault.DOUBLED:
                answer = await work()
                with contextlib.suppress(EngineError):
                    await work()
                return answer
            case Fault.LATE:
                await turns()
                if self.is_away:
                    raise EngineUnavailable(f"{name}: no answer")
                return await work()
            case Fault.LATE_REPLY:
                answer = await work()
                await turns()
                if self.is_away:
                    raise EngineUnavailable(f"{name}: no answer")
                return answer
            case _:
                return await work()

    async def get(self, key: str) -> Entry | None:
        return await self._call("get", key, lambda: self.store.memory.get(key))

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        return await self._call("put", key, lambda: self.store.memory.put(key, value, ttl))

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        return await self._call("create", key, lambda: self.store.memory.create(key, value, ttl))

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        return await self._call("update", key, lambda: self.store.memory.update(key, value, ttl, revision))

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        await self._call("delete", key, lambda: self.store.memory.delete(key, revision))

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        async with self.store.memory.watch(prefix) as watch:
            yield watch

    async def publish(self, subject: str, data: bytes) -> None:
        await self._call("publish", subject, lambda: self.store.memory.publish(subject, data))

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Any:
        return await self.store.memory.subscribe(subject, handler)

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> _Served:
        served = _Served(self, subject, handler)
        self.served.add(served)
        await served.open()
        return served

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - as the interface
        return await self._call("request", subject, lambda: self.store.memory.request(subject, data, timeout))


async def turns(count: int = 5) -> None:
    """Lets the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)
