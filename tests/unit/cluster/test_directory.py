"""The directory and the logins that it decides, on clocks that a test moves (on a real engine: tests/e2e/cluster)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from gatelink.cluster import directory as module
from gatelink.cluster.directory import MAX_WAITING, TTL, WORKERS, Directory, Place, find_place, places_of
from gatelink.cluster.engine import Conflict, EngineUnavailable, Entry
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.links import Links
from gatelink.cluster.login_arbiter import MAX_BACKLOG, ClusterLoginArbiter, Replace
from gatelink.errors import CloseCode
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME, SessionManager
from gatelink.testing import FakeClock
from tests.fakes import Bench, settle

ODD = 7_777.5  # s; what the clocks start at
LONG = 30.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(ODD)


@pytest.fixture
def engine(clock: FakeClock) -> MemoryEngine:
    return MemoryEngine(clock)


class Racing(MemoryEngine):
    """Another gateway takes a key between a read and the write, the first `times`."""

    times = 0

    async def get(self, key: str) -> Entry | None:
        entry = await super().get(key)
        if self.times and key.startswith("players."):
            self.times -= 1
            epoch = msgspec.msgpack.decode(entry.value)[1] if entry is not None else 1
            await self.put(key, msgspec.msgpack.encode([2, epoch + 5]), TTL)
        return entry


# -- epochs --


async def test_an_epoch_is_above_any_before_and_the_login_before_is_told(engine: MemoryEngine) -> None:
    now = FakeClock(1_000.0)
    async with engine:
        directory = Directory(engine, 1, now)
        first, _ = await directory.take_epoch(7, 0)
        other, _ = await directory.take_epoch(8, 0)
        second, before = await directory.take_epoch(7, 0)
        assert first < other < second and before == Place(1, first)
        behind = Directory(engine, 2, FakeClock(5.0))
        third, before = await behind.take_epoch(7, 0)
        assert third > second and before == Place(1, second)


async def test_a_login_that_another_one_came_before_is_the_newer_of_the_two(clock: FakeClock) -> None:
    async with Racing(clock) as engine:
        directory = Directory(engine, 1, lambda: 0.0)
        engine.times = 3
        epoch, before = await directory.take_epoch(7, 0)
        assert before is not None and before.gateway == 2 and epoch > before.epoch
        assert await find_place(engine, 7) == Place(1, epoch)


async def test_gateways_of_any_version_read_each_other_s_entries(engine: MemoryEngine) -> None:
    async with engine:
        directory = Directory(engine, 3, lambda: 2.0)
        epoch, _ = await directory.take_epoch(7, 1)
        entry = await engine.get("players.7.1")
        assert entry is not None and msgspec.msgpack.decode(entry.value) == [3, epoch, False]
        await engine.put("players.8.0", msgspec.msgpack.encode([4, 9]), TTL)  # without `is_over`
        assert await find_place(engine, 8) == Place(4, 9)


# -- how long entries live --


async def test_an_entry_lives_for_its_time_after_each_renewal_and_no_longer(
    engine: MemoryEngine, clock: FakeClock
) -> None:
    async with engine:
        directory = Directory(engine, 1, lambda: 1.0)
        epoch, _ = await directory.take_epoch(7, 0)
        for _ in range(3):
            clock.advance(TTL - 1)
            assert (await directory.renew(7, 0, epoch))[0]
        clock.advance(TTL - 1)
        assert await find_place(engine, 7) == Place(1, epoch)
        clock.advance(2)
        assert await find_place(engine, 7) is None


async def test_a_renewal_never_undoes_a_newer_login(clock: FakeClock) -> None:
    async with Racing(clock) as engine:
        one, two = Directory(engine, 1, lambda: 1.0), Directory(engine, 2, lambda: 1.0)
        older, _ = await one.take_epoch(7, 0)
        assert (await one.renew(7, 0, older))[0], "its own entry"
        newer, _ = await two.take_epoch(7, 0)
        assert not (await one.renew(7, 0, older))[0]
        assert await find_place(engine, 7) == Place(2, newer)
        engine.times = 1  # the newer login comes right behind the look
        with pytest.raises(Conflict):
            await two.renew(7, 0, newer)


async def test_what_waits_for_a_player_is_told_to_its_next_login_for_that_long(
    engine: MemoryEngine, clock: FakeClock
) -> None:
    async with engine:
        directory = Directory(engine, 1, lambda: 1.0)
        epoch, _ = await directory.take_epoch(7, 0)
        directory.ended(7, 0, epoch, keep=60.0)
        await directory.close()
        assert await find_place(engine, 7) is None
        clock.advance(59.0)
        entry = await engine.get("players.7.0")
        assert entry is not None and msgspec.msgpack.decode(entry.value) == [1, epoch, True]
        clock.advance(2.0)
        later, before = await directory.take_epoch(7, 0)
        assert later > epoch and before is None


# -- ends --


async def test_the_end_of_a_session_whose_entry_is_gone_or_another_s_writes_nothing(engine: MemoryEngine) -> None:
    async with engine:
        directory = Directory(engine, 1, lambda: 1.0)
        older, _ = await directory.take_epoch(7, 0)
        newer, _ = await directory.take_epoch(7, 0)
        rows, writes = len(engine._rows), engine.stats.calls["update"]
        for keep in (0.0, 60.0):
            directory.ended(7, 0, older, keep)
            directory.ended(7, 1, older, keep)
            directory.ended(8, 0, older, keep)
        await directory.close()
        assert await find_place(engine, 7) == Place(1, newer) and len(engine._rows) == rows
        assert engine.stats.calls["update"] == writes and not engine.stats.calls["delete"]


class Moody(MemoryEngine):
    """Raises `errors` in order, one at each `get`, and nothing for None. Counts the calls that are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception | None] = []
        self.most = self.under_way = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def get(self, key: str) -> Entry | None:
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.may_answer.wait()
            return await super().get(key)
        finally:
            self.under_way -= 1


async def test_an_end_is_tried_again_while_the_engine_is_away_and_any_other_error_costs_that_end_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.0)
    monkeypatch.setattr(module, "WORKERS", 1)
    async with Moody() as engine:
        directory = Directory(engine, 1)
        epochs = {uid: (await directory.take_epoch(uid, 0))[0] for uid in (1, 2, 3, 4)}
        away = EngineUnavailable("away")
        engine.errors = [away, away, None, ValueError("a fault of ours"), Conflict("another came first")]
        for uid, epoch in epochs.items():
            directory.ended(uid, 0, epoch)
        with capture_logs() as lines:
            await directory.close(LONG)
        assert [(line["event"], line["uid"]) for line in lines] == [("the end of a session was not written", 2)]
        assert [uid for uid in epochs if await find_place(engine, uid) is not None] == [2, 3]
        assert not engine.errors and not directory.skipped


async def test_ends_are_written_several_at_a_time_and_a_stop_waits_for_them_only_so_long() -> None:
    async with Moody() as engine:
        directory = Directory(engine, 1)
        epochs = {uid: (await directory.take_epoch(uid, 0))[0] for uid in range(WORKERS + 5)}
        engine.most = 0
        engine.may_answer.clear()
        for uid, epoch in epochs.items():
            directory.ended(uid, 0, epoch)
        await settle()
        assert engine.under_way == engine.most == WORKERS
        await directory.close(0.0)
        assert directory.skipped == 5 and not engine.under_way
        engine.may_answer.set()
        directory.ended(0, 0, epochs[0])  # after a stop it can still be used
        await directory.close(LONG)
        assert await find_place(engine, 0) is None and await find_place(engine, 1) is not None


async def test_ends_over_the_room_for_them_are_counted(engine: MemoryEngine) -> None:
    async with engine:
        directory = Directory(engine, 1)
        for uid in range(MAX_WAITING + 3):
            directory.ended(uid, 0, 1)
        assert directory.skipped == 3
        await directory.close(0.0)


# -- logins on several gateways --


class Sessions:
    """The sessions of one gateway: what it was asked to end, and the backlog that it gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.backlog: list[bytes] | None = None
        self.by_key: dict[tuple[int, int], Any] = {}

    def supersede(self, *about: Any) -> list[bytes] | None:
        self.asked.append(about)
        return self.backlog

    def close_older(self, uid: int, slot: int, epoch: int) -> None:
        session = self.by_key.get((uid, slot))
        if session is not None and session.epoch < epoch:
            session.close(CloseCode.REPLACED, farewell=DUPLICATE_LOGIN_FRAME)


class NoLinks:
    """Gateways without links."""

    def get(self, id: int) -> None:
        return None

    def of_type(self, type: int) -> list[Any]:
        return []

    def may_live(self, id: int) -> bool:
        return False


class Gateways:
    """Two gateways on one engine."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.bench = Bench()
        self.engine = engine
        self.sessions = {1: Sessions(), 2: Sessions()}
        self.arbiters = {
            id: ClusterLoginArbiter(
                engine, id, self.bench.context, cast(SessionManager, sessions), cast(Links, NoLinks())
            )
            for id, sessions in self.sessions.items()
        }


@asynccontextmanager
async def gateways(engine: MemoryEngine) -> AsyncIterator[Gateways]:
    async with engine:
        both = Gateways(engine)
        for arbiter in both.arbiters.values():
            await arbiter.start()
        try:
            yield both
        finally:
            for arbiter in both.arbiters.values():
                await arbiter.close()
        assert not engine.when_back and not engine._served


async def test_a_login_ends_the_session_at_the_gateway_before_and_gets_what_waited_there(engine: MemoryEngine) -> None:
    async with gateways(engine) as both:
        first, backlog = await both.arbiters[1].claim(7, 3)
        assert backlog is None
        both.sessions[1].backlog = [b"one", b"two"]
        second, backlog = await both.arbiters[2].claim(7, 3, b"proof", b"older proof")
        assert second > first and backlog == [b"one", b"two"]
        assert both.sessions[1].asked == [(7, 3, second, MAX_BACKLOG, (b"proof", b"older proof"))]
        both.sessions[2].backlog = []
        assert (await both.arbiters[1].claim(7, 3))[1] == [], "a login with the token of the one before: nothing waits"
        both.sessions[1].backlog = None
        assert (await both.arbiters[2].claim(7, 3))[1] is None


async def test_a_login_where_the_one_before_was_or_none_was_asks_no_gateway(engine: MemoryEngine) -> None:
    async with gateways(engine) as both:
        await both.arbiters[1].claim(7, 0)
        await both.arbiters[1].claim(7, 0)
        await both.arbiters[2].claim(8, 0)
        assert not engine.stats.calls["request"]


async def test_a_gateway_that_does_not_answer_keeps_nobody_out(engine: MemoryEngine) -> None:
    async with gateways(engine) as both:
        await Directory(engine, 9).take_epoch(7, 0)  # by a gateway that is dead
        with capture_logs() as lines:
            epoch, backlog = await both.arbiters[1].claim(7, 0)
        assert backlog is None and await find_place(engine, 7) == Place(1, epoch)
        assert [(line["event"], line["gateway"]) for line in lines] == [("the older login was not reached", 9)]
        assert engine.stats.failures["request", "NoResponder"] == 1


@pytest.mark.parametrize("answer", [b"\xc1", b"", msgspec.msgpack.encode({"frames": []})])
async def test_a_gateway_whose_answer_cannot_be_read_keeps_nobody_out(engine: MemoryEngine, answer: bytes) -> None:
    async def serve(_: bytes) -> bytes:
        return answer

    async with gateways(engine) as both:
        await Directory(engine, 9).take_epoch(7, 0)
        serving = await engine.serve("gateway.9.replace", serve)
        epoch, backlog = await both.arbiters[1].claim(7, 0)
        assert backlog is None and await find_place(engine, 7) == Place(1, epoch)
        await serving.close()


async def test_an_entry_that_cannot_be_read_is_named_and_stays(engine: MemoryEngine) -> None:
    """Nobody knows where the user is: a login would leave a session of another version alive."""
    async with gateways(engine) as both:
        await engine.put("players.7.0", b"\xc1", LONG)
        directory = both.arbiters[1].directory
        for call in (
            both.arbiters[1].claim(7, 0),
            find_place(engine, 7),
            places_of(engine, 7),
            directory.renew(7, 0, 99),
        ):
            with pytest.raises(EngineUnavailable, match="players.7.0 can't be read"):
                await call
        entry = await engine.get("players.7.0")
        assert entry is not None and entry.value == b"\xc1"


async def test_a_request_of_a_gateway_without_proofs_ends_the_older_session_too(engine: MemoryEngine) -> None:
    """As an older gateway sends it."""
    async with gateways(engine) as both:
        await engine.request("gateway.1.replace", msgspec.msgpack.encode([7, 0, 99]), LONG)
        assert both.sessions[1].asked == [(7, 0, 99, MAX_BACKLOG, ())]
        assert msgspec.msgpack.encode(Replace(7, 0, 99, (b"p",))) == msgspec.msgpack.encode([7, 0, 99, [b"p"]])


async def test_a_session_with_a_newer_login_elsewhere_is_closed_at_its_renewal_and_told_why(
    engine: MemoryEngine,
) -> None:
    """Nobody asked this gateway to: the newer login's could not reach it."""
    async with gateways(engine) as both:
        arbiter = both.arbiters[1]
        session, stream = both.bench.session(uid=7, epoch=(await arbiter.directory.take_epoch(7, 0))[0])
        other, _ = both.bench.session(uid=8, epoch=(await arbiter.directory.take_epoch(8, 0))[0])
        both.sessions[1].by_key = {(7, 0): session, (8, 0): other}
        arbiter.opened(session)
        arbiter.opened(other)
        await both.arbiters[2].directory.take_epoch(7, 0)
        for call in engine.when_back:
            call()
        for _ in range(5):
            await settle()
        assert (session.close_code, other.close_code) == (CloseCode.REPLACED, None)
        assert stream.writes == [DUPLICATE_LOGIN_FRAME]
        assert len(arbiter.renewals) == 1


async def test_only_the_session_that_was_replaced_is_closed_not_the_next_of_the_user(engine: MemoryEngine) -> None:
    async with gateways(engine) as both:
        arbiter = both.arbiters[1]
        older, _ = both.bench.session(uid=7, epoch=(await arbiter.directory.take_epoch(7, 0))[0])
        arbiter.opened(older)
        gone, _ = both.bench.session(uid=9, epoch=(await arbiter.directory.take_epoch(9, 0))[0])
        arbiter.opened(gone)
        await both.arbiters[2].directory.take_epoch(9, 0)
        newer, _ = both.bench.session(uid=7, epoch=(await arbiter.directory.take_epoch(7, 0))[0])
        both.sessions[1].by_key = {(7, 0): newer}
        for call in engine.when_back:
            call()
        for _ in range(5):
            await settle()
        assert newer.close_code is None and not len(arbiter.renewals)


async def test_the_end_of_a_session_ends_its_renewals_and_its_entry(engine: MemoryEngine) -> None:
    async with gateways(engine) as both:
        arbiter = both.arbiters[1]
        epochs = {uid: (await arbiter.directory.take_epoch(uid, 0))[0] for uid in (7, 8)}
        for uid, epoch in epochs.items():
            arbiter.opened(both.bench.session(uid=uid, epoch=epoch)[0])
        arbiter.ended(7, 0, epochs[7], 0.0)
        arbiter.ended(8, 0, epochs[8], 60.0)
        assert not len(arbiter.renewals)
    async with engine:
        left = [key for key in engine._rows if key.startswith("players.")]
        assert left == ["players.8.0"], "8 has something that waits"
