"""The directory: of all logins of one player, on any gateways in any order, exactly one is the newest."""

import asyncio
import random

import pytest

from gatelink.cluster.directory import Directory, Place, find_place
from gatelink.cluster.engines.memory import MemoryEngine
from tests.e2e.cluster.support import cluster, player
from tests.e2e.engines import NewEngine
from tests.e2e.support import until


class Clock:
    """Unix seconds of one gateway, which another's need not agree with."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def test_a_claim_tells_where_the_player_was_and_is_then_found(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        one, two = Directory(engine, 1), Directory(engine, 2)
        first, nowhere = await one.take_epoch(7, 0)
        second, before = await two.take_epoch(7, 0)
        assert nowhere is None and before == Place(1, first)
        assert second > first
        assert await find_place(engine, 7) == Place(2, second)
        assert await find_place(engine, 7, 1) is None


async def test_an_epoch_is_above_the_last_even_if_this_gateways_clock_is_behind(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        ahead, behind = Directory(engine, 1, Clock(2_000.0)), Directory(engine, 2, Clock(1_000.0))
        first, _ = await ahead.take_epoch(7, 0)
        second, _ = await behind.take_epoch(7, 0)
        assert second > first


async def test_an_epoch_is_above_that_of_an_entry_that_nobody_here_gave(new_engine: NewEngine) -> None:
    """One of a time before the engine lost what it knows of epochs."""
    async with new_engine() as engine:
        directory = Directory(engine, 2)
        await directory.take_epoch(7, 0)
        await Directory(engine, 1).renew(8, 0, 9_000_000_000 << 30)
        epoch, before = await directory.take_epoch(8, 0)
        assert before == Place(1, 9_000_000_000 << 30) and epoch > before.epoch
        later, _ = await directory.take_epoch(7, 0)
        assert later > epoch


async def test_epochs_of_one_gateway_name_one_session_each_of_any_user(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        directory = Directory(engine, 1, Clock(1_000.0))
        claims = await asyncio.gather(*(directory.take_epoch(uid, 0) for uid in range(50)))
        assert len({epoch for epoch, _ in claims}) == 50


async def test_of_logins_at_once_on_two_gateways_each_has_its_own_epoch_and_sees_the_one_before(
    new_engine: NewEngine,
) -> None:
    async with new_engine() as one, new_engine() as two:
        gateways = [Directory(one, 1), Directory(two, 2)]

        async def log_in(gateway: Directory) -> tuple[Place, Place | None]:
            await asyncio.sleep(random.uniform(0, 0.002))
            epoch, before = await gateway.take_epoch(7, 0)
            return Place(gateway.gateway, epoch), before

        before_all = None
        for _ in range(30):
            logins = await asyncio.gather(*(log_in(gateway) for gateway in gateways * 2))
            in_order = sorted(logins, key=lambda login: login[0].epoch)
            assert [before for _, before in in_order] == [before_all, *(place for place, _ in in_order[:-1])]
            before_all = await find_place(one, 7)
            assert before_all == in_order[-1][0]


async def test_the_end_of_an_older_session_leaves_the_newer_ones_entry(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        one, two = Directory(engine, 1), Directory(engine, 2)
        older, _ = await one.take_epoch(7, 0)
        newer, _ = await two.take_epoch(7, 0)
        one.ended(7, 0, older)
        await one.close()
        assert await find_place(engine, 7) == Place(2, newer)
        two.ended(7, 0, newer)
        await two.close()
        assert await find_place(engine, 7) is None


async def test_renewing_an_older_session_does_not_take_the_place_of_a_newer_one(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        one, two = Directory(engine, 1), Directory(engine, 2)
        older, _ = await one.take_epoch(7, 0)
        newer, _ = await two.take_epoch(7, 0)
        await one.renew(7, 0, older)
        assert await find_place(engine, 7) == Place(2, newer)


async def test_an_entry_that_the_engine_lost_is_made_anew(new_engine: NewEngine) -> None:
    async with new_engine() as engine:
        directory = Directory(engine, 1)
        epoch, _ = await directory.take_epoch(7, 0)
        await engine.delete("players.7.0")
        await directory.renew(7, 0, epoch)
        assert await find_place(engine, 7) == Place(1, epoch)


async def test_an_end_with_something_that_waits_is_known_to_the_next_login_for_that_long_and_to_nobody_else(
    new_engine: NewEngine,
) -> None:
    async with new_engine() as engine:
        directory = Directory(engine, 1)
        epoch, _ = await directory.take_epoch(7, 0)
        directory.ended(7, 0, epoch, keep=60.0)
        await directory.close()
        assert await find_place(engine, 7) is None
        epoch, before = await directory.take_epoch(7, 0)
        assert before is not None and before.is_over and before.epoch < epoch
        directory.ended(7, 0, epoch, keep=2.0)
        await directory.close()
        async with asyncio.timeout(30), engine.watch("players") as watch:
            if watch.entries:
                change = await anext(aiter(watch))
                assert (change.key, change.value) == ("players.7.0", None)
        assert await find_place(engine, 7) is None


async def test_an_end_that_comes_while_the_engine_is_away_is_written_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatelink.cluster.directory.RETRY", 0.01)
    async with MemoryEngine() as engine:
        directory = Directory(engine, 1)
        epoch, _ = await directory.take_epoch(7, 0)
        users, engine._users = engine._users, 0
        directory.ended(7, 0, epoch)
        failures = engine.stats.failures
        await until(lambda: failures["get", "EngineUnavailable"] > 2, "it is tried again")
        engine._users = users
        await directory.close()
        assert await find_place(engine, 7) is None and not directory.skipped


async def test_a_gateway_keeps_the_entries_of_the_sessions_that_it_has_and_of_no_other() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        async with player(one, 7), player(one, 8), player(two, 9):
            assert len(one.arbiter.renewals) == 2 and len(two.arbiter.renewals) == 1
            async with player(two, 7):
                assert len(one.arbiter.renewals) == 1 and len(two.arbiter.renewals) == 2
            await until(lambda: len(two.arbiter.renewals) == 1)
        await until(lambda: not len(one.arbiter.renewals) and not len(two.arbiter.renewals))
        assert len(town.engine.when_back) == 4, "a registry and the renewals of each"
        await one.stop()
        await two.stop()
        assert not town.engine.when_back


async def test_entries_outlive_an_engine_that_is_away_for_half_of_their_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries live for 6 s here, and the engine is away when the first of them is due."""
    monkeypatch.setattr("gatelink.cluster.directory.TTL", 6.0)
    async with MemoryEngine() as engine, cluster(engine) as town:
        one, two = await town.gateway(1), await town.gateway(2)
        async with player(one, 7), player(one, 8):
            users, engine._users = engine._users, 0
            await until(lambda: one.arbiter.renewals.failed >= 2, "both were due")
            engine._users = users
            failures = engine.stats.failures["get", "EngineUnavailable"]
            written = engine.stats.calls["update"]
            await until(lambda: engine.stats.calls["update"] >= written + 8)
            assert engine.stats.failures["get", "EngineUnavailable"] == failures
            for uid in (7, 8):
                place = await two.cluster.find(uid)
                assert place is not None and place.gateway == 1


async def test_ends_over_the_room_for_them_are_counted_and_left_to_expire(
    monkeypatch: pytest.MonkeyPatch, new_engine: NewEngine
) -> None:
    monkeypatch.setattr("gatelink.cluster.directory.MAX_WAITING", 3)
    async with new_engine() as engine:
        directory = Directory(engine, 1)
        for uid in range(5):
            directory.ended(uid, 0, 1)
        assert directory.skipped == 2
        await directory.close()
