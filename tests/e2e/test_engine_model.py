"""An engine is a dict whose keys expire: any calls in any order do to both the same."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gatelink.cluster.engine import Conflict, Engine, Revision, Watch
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.testing import FakeClock
from tests.e2e.engines import TIMEOUT, fresh_bucket
from tests.e2e.support import until

T = TypeVar("T")

keys = st.sampled_from(["a", "a.b", "a.c", "ab", "b"])
values = st.sampled_from([b"", b"1", b"2"])
ttls = st.sampled_from([1, 2, 2.5, 4])
pick = st.integers(0, 3)


class Row(NamedTuple):
    value: bytes
    revision: Revision
    due: float


class EngineMachine(RuleBasedStateMachine):
    """`engine` against `rows`. A watch of `a`, and what its reader was told, must come to the same.

    clock: what expiry goes by; None: nothing expires meanwhile.
    """

    def __init__(self, engine: Engine, clock: FakeClock | None) -> None:
        super().__init__()
        self.engine = engine
        self.clock = clock
        self.scale = 1.0 if clock is not None else 1_000.0
        self.rows: dict[str, Row] = {}
        self.revisions: list[Revision] = [Revision(999_999)]  # the newest first, then older ones and one that never was
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.run(engine.start())
        self.watching = engine.watch("a")
        self.watch: Watch = self.run(self.watching.__aenter__())
        self.told: dict[str, bytes] = {}

    def run(self, call: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(TIMEOUT):
                return await call

        return self.runner.run(bounded())

    def now(self) -> float:
        return self.clock() if self.clock is not None else 0.0

    def row(self, key: str) -> Row | None:
        row = self.rows.get(key)
        return row if row is not None and row.due > self.now() else None

    def wrote(self, key: str, value: bytes, ttl: float, revision: Revision) -> None:
        assert revision not in self.revisions
        whole = -(-ttl * self.scale // 1)
        self.rows[key] = Row(value, revision, self.now() + whole)
        self.revisions = [revision, *self.revisions[:3]]

    def attempt(self, call: Awaitable[T], is_allowed: bool) -> T | None:
        try:
            result = self.run(call)
        except Conflict:
            assert not is_allowed
            return None
        assert is_allowed
        return result

    def named(self, key: str, n: int) -> Revision:
        """The revision of `key` now if `n` is 0, else some other one, or that of an older write."""
        row = self.row(key)
        return row.revision if n == 0 and row is not None else self.revisions[n % len(self.revisions)]

    @rule(key=keys, value=values, ttl=ttls)
    def put(self, key: str, value: bytes, ttl: float) -> None:
        self.wrote(key, value, ttl, self.run(self.engine.put(key, value, ttl * self.scale)))

    @rule(key=keys, value=values, ttl=ttls)
    def create(self, key: str, value: bytes, ttl: float) -> None:
        revision = self.attempt(self.engine.create(key, value, ttl * self.scale), self.row(key) is None)
        if revision is not None:
            self.wrote(key, value, ttl, revision)

    @rule(key=keys, value=values, ttl=ttls, n=pick)
    def update(self, key: str, value: bytes, ttl: float, n: int) -> None:
        row, named = self.row(key), self.named(key, n)
        is_allowed = row is not None and row.revision == named
        revision = self.attempt(self.engine.update(key, value, ttl * self.scale, named), is_allowed)
        if revision is not None:
            self.wrote(key, value, ttl, revision)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.run(self.engine.delete(key))
        self.rows.pop(key, None)

    @rule(key=keys, n=pick)
    def delete_that(self, key: str, n: int) -> None:
        row, named = self.row(key), self.named(key, n)
        is_allowed = row is not None and row.revision == named
        self.attempt(self.engine.delete(key, named), is_allowed)
        if is_allowed:
            del self.rows[key]

    @rule(key=keys)
    def get(self, key: str) -> None:
        entry, row = self.run(self.engine.get(key)), self.row(key)
        if row is None:
            assert entry is None
        else:
            assert entry is not None and (entry.key, entry.value, entry.revision) == (key, row.value, row.revision)

    @precondition(lambda self: self.clock is not None)
    @rule(seconds=st.sampled_from([0.5, 1, 3]))
    def advance(self, seconds: float) -> None:
        assert self.clock is not None
        self.clock.advance(seconds)

    @rule()
    def read(self) -> None:
        """The reader of the watch catches up."""

        async def read() -> None:
            async for change in self.watch:
                if change.value is None:
                    del self.told[change.key]  # it was told of it before
                else:
                    self.told[change.key] = change.value
                if self.told == self.watch.entries:
                    return

        if self.told != self.watch.entries:
            self.run(read())

    @invariant()
    def the_watch_shows_what_is_there(self) -> None:
        self.run(self.engine.get("b"))  # the one in memory looks at the clock
        expected = {key: row.value for key in ("a.b", "a.c") if (row := self.row(key)) is not None}
        self.run(until(lambda: dict(self.watch.entries) == expected))

    def teardown(self) -> None:
        self.run(self.watching.__aexit__(None, None, None))
        self.run(self.engine.close())
        self.runner.close()


def check(make: Callable[[], EngineMachine], examples: int) -> None:
    run_state_machine_as_test(
        make,  # type: ignore[arg-type]  # it takes what makes one as well
        settings=settings(max_examples=examples, stateful_step_count=30, deadline=None),
    )


def test_the_engine_in_memory_is_a_dict_whose_keys_expire() -> None:
    def make() -> EngineMachine:
        clock = FakeClock()
        return EngineMachine(MemoryEngine(clock), clock)

    check(make, examples=100)


def test_the_engine_on_nats_is_a_dict(nats_server: NatsServer) -> None:
    check(lambda: EngineMachine(NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT), None), examples=30)
