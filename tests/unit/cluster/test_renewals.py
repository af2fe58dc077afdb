"""Entries of the directory are renewed by due time: none expires, however many, however slow, whatever fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gatelink.cluster.directory import TTL, Directory, Place, find_place
from gatelink.cluster.engine import Conflict, EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.renewals import AT_ONCE, Renewals
from gatelink.testing import FakeClock
from tests.e2e.support import until

ODD = 7_777.5  # s; what the clock starts at

Renew = Callable[[int, int, int], Awaitable[bool]]


class Bench:
    """Renewals whose time passes by `advance` alone, and what they told of."""

    def __init__(self, renew: Renew | None = None, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock(ODD)
        self.calls: list[tuple[float, int]] = []
        self.replaced: list[tuple[int, int, int]] = []
        self.renewals = Renewals(renew or self.renew, lambda *key: self.replaced.append(key), ttl=TTL, clock=self.clock)

    async def renew(self, uid: int, slot: int, epoch: int) -> bool:
        self.calls.append((self.clock(), uid))
        return True

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.renewals.wake()
        await self.settled()

    async def settled(self) -> None:
        """All that is due has begun, and what can end has ended."""
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    task = asyncio.create_task(bench.renewals.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_entry_is_renewed_within_a_third_of_its_life_again_and_again() -> None:
    async with running(Bench()) as bench:
        last: dict[int, float] = {}
        for uid in range(300):
            bench.renewals.add(uid, 0, uid)
            last[uid] = bench.clock()
            await bench.advance(1.0)
        seen = 0
        for _ in range(int(2 * TTL)):
            await bench.advance(1.0)
            for at, uid in bench.calls[seen:]:
                assert TTL / 6 - 1 <= at - last[uid] <= TTL / 3 + 1
                last[uid] = at
            seen = len(bench.calls)
        assert all(bench.clock() - at <= TTL / 3 + 1 for at in last.values())


async def test_those_that_were_written_together_part() -> None:
    async with running(Bench()) as bench:
        for uid in range(1_000):
            bench.renewals.add(uid, 0, uid)
        most = 0
        for _ in range(int(TTL / 3)):
            before = len(bench.calls)
            await bench.advance(1.0)
            most = max(most, len(bench.calls) - before)
        assert len({uid for _, uid in bench.calls}) == 1_000 and most < 30


async def test_however_many_and_however_slow_nothing_expires_and_a_round_takes_a_third_of_a_life() -> None:
    """6,000 sessions that all came at once, and an engine whose every reply takes 2 s, the longest that one may."""
    bench: Bench
    waiting: list[tuple[float, asyncio.Future[None]]] = []
    most = 0

    async def slow(uid: int, slot: int, epoch: int) -> bool:
        nonlocal most
        written = asyncio.get_running_loop().create_future()
        waiting.append((bench.clock() + 4.0, written))
        most = max(most, len(waiting))
        await written
        life[uid] = bench.clock() + TTL
        return True

    bench = Bench(slow)
    life = dict.fromkeys(range(6_000), bench.clock() + TTL)
    async with running(bench):
        for uid in life:
            bench.renewals.add(uid, 0, uid)
        for _ in range(int(TTL / 4)):
            await bench.advance(4.0)
            now = bench.clock()
            due = [future for at, future in waiting if at <= now]
            waiting[:] = [each for each in waiting if each[0] > now]
            for future in due:
                future.set_result(None)
            await bench.settled()
            assert min(life.values()) - now > TTL / 3
        assert most == AT_ONCE or most > 50
        bench.renewals.all_are_due()  # all at one moment: even that is done in a third of a life
        started = bench.clock()
        while any(at < started + TTL for at in life.values()):
            await bench.advance(4.0)
            for _, future in waiting:
                future.set_result(None)
            waiting.clear()
            await bench.settled()
        assert bench.clock() - started < TTL / 3
        assert most == AT_ONCE


async def test_what_failed_while_the_engine_was_away_is_tried_again_soon_and_at_once_when_it_is_back() -> None:
    away = True
    tried: list[int] = []

    async def renew(uid: int, slot: int, epoch: int) -> bool:
        tried.append(uid)
        if away:
            raise EngineUnavailable("away")
        return True

    async with running(Bench(renew)) as bench:
        for uid in range(50):
            bench.renewals.add(uid, 0, uid)
        for _ in range(int(TTL / 3) + 1):
            await bench.advance(1.0)
        assert set(tried) == set(range(50)) and bench.renewals.failed == len(tried) > 50
        away = False
        del tried[:]
        bench.renewals.all_are_due()
        await bench.settled()
        assert sorted(tried) == list(range(50)), "all of them, and no time has passed"
        await bench.advance(2.0)
        assert len(tried) == 50, "they are done"


@pytest.mark.parametrize("error", [Conflict("another came first"), ValueError("a fault of ours")])
async def test_whatever_a_renewal_raises_it_is_tried_again_and_the_others_go_on(error: Exception) -> None:
    failing = {3}
    done: list[int] = []

    async def renew(uid: int, slot: int, epoch: int) -> bool:
        if uid in failing:
            raise error
        done.append(uid)
        return True

    async with running(Bench(renew)) as bench:
        for uid in range(5):
            bench.renewals.add(uid, 0, uid)
        await bench.advance(TTL / 3)
        assert sorted(done) == [0, 1, 2, 4]
        failing.clear()
        await bench.advance(1.0)
        assert sorted(done) == [0, 1, 2, 3, 4]


async def test_a_session_that_has_a_newer_login_is_told_of_once_and_kept_no_more() -> None:
    async def renew(uid: int, slot: int, epoch: int) -> bool:
        return False

    async with running(Bench(renew)) as bench:
        bench.renewals.add(7, 1, 99)
        await bench.advance(TTL / 3)
        assert bench.replaced == [(7, 1, 99)] and not len(bench.renewals)
        bench.renewals.all_are_due()
        await bench.advance(TTL)
        assert len(bench.replaced) == 1


async def test_what_has_ended_is_renewed_no_more_and_takes_no_room() -> None:
    async with running(Bench()) as bench:
        for uid in range(10_000):
            bench.renewals.add(uid, 0, uid)
            bench.renewals.discard(uid, 0, uid)
        assert not len(bench.renewals) and len(bench.renewals._queue) <= 65
        await bench.advance(TTL)
        assert not bench.calls


async def test_the_engine_may_be_lost_while_an_entry_is_being_renewed() -> None:
    go_on = asyncio.Event()
    calls = 0

    async def renew(uid: int, slot: int, epoch: int) -> bool:
        nonlocal calls
        calls += 1
        await go_on.wait()
        return True

    async with running(Bench(renew)) as bench:
        bench.renewals.add(7, 0, 1)
        await bench.advance(TTL / 3)
        assert calls == 1
        bench.renewals.all_are_due()  # what the first call wrote may be lost by now
        go_on.set()
        await bench.settled()
        assert calls == 2


async def test_with_a_directory_no_entry_is_ever_gone_and_a_newer_login_elsewhere_is_found() -> None:
    clock = FakeClock(ODD)
    async with MemoryEngine(clock) as engine:
        here, elsewhere = Directory(engine, 1, lambda: 1_000.0), Directory(engine, 2, lambda: 1_000.0)

        async def renew(uid: int, slot: int, epoch: int) -> bool:
            return (await here.renew(uid, slot, epoch))[0]

        bench = Bench(renew, clock)
        async with running(bench):
            epochs = {}
            for uid in range(20):
                epochs[uid], _ = await here.take_epoch(uid, 0)
                bench.renewals.add(uid, 0, epochs[uid])
            for _ in range(int(3 * TTL / 60)):
                await bench.advance(60.0)
                for uid, epoch in epochs.items():
                    assert await find_place(engine, uid) == Place(1, epoch)
            newer, _ = await elsewhere.take_epoch(3, 0)
            bench.renewals.all_are_due()
            await until(lambda: bench.replaced == [(3, 0, epochs[3])])
            assert await find_place(engine, 3) == Place(2, newer)
