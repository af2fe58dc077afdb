"""Epochs only grow in the whole cluster, whatever clocks say, the engine forgets, and replies get lost."""

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.epochs import AT_ONCE, BASE_KEY, Epochs
from tests.faulty_engine import Fault, Store

HOUR = 3_600.0
NOW = 1_800_000_000.0


def ahead() -> float:
    return NOW + HOUR


def behind() -> float:
    return NOW - HOUR


async def test_they_grow_over_gateways_whose_clocks_are_hours_apart() -> None:
    async with MemoryEngine() as engine:
        gateways = [Epochs(engine, 1, ahead), Epochs(engine, 2, behind)]
        given = [await gateways[n % 2].next() for n in range(10)]
        assert given == sorted(given) and len(set(given)) == 10


async def test_they_are_above_those_of_version_0_1_which_were_microseconds() -> None:
    async with MemoryEngine() as engine:
        assert await Epochs(engine, 1, behind).next() > ahead() * 1_000_000


async def test_logins_at_once_share_a_write_and_have_an_epoch_each() -> None:
    async with MemoryEngine() as engine:
        epochs = Epochs(engine, 1)
        await epochs.next()
        writes = engine.stats.calls["update"]
        given = await asyncio.gather(*(epochs.next() for _ in range(AT_ONCE + 10)))
        assert len(set(given)) == AT_ONCE + 10
        assert engine.stats.calls["update"] <= writes + 3


async def test_one_that_was_asked_for_later_is_higher_than_all_that_were_given_before() -> None:
    """Also if the write of this gateway came before the other one's, and its reply comes later."""
    store = Store()
    async with store.engine() as slow, store.engine() as fast:
        slow.fault = lambda call, key: Fault.LATE_REPLY if call == "update" else Fault.NONE
        one, two = Epochs(slow, 1), Epochs(fast, 2)
        for _ in range(20):
            early = asyncio.create_task(one.next())
            await asyncio.sleep(0)
            there = await two.next()
            late = await one.next()
            assert late > there and late > await early


@pytest.mark.parametrize("clock", [ahead, behind], ids=["its clock is ahead", "its clock is behind"])
async def test_when_the_engine_lost_everything_they_go_on_above_what_was_given(clock: object) -> None:
    store = Store()
    engine = store.engine()
    async with engine:
        one, two = Epochs(engine, 1, ahead), Epochs(engine, 2, behind)
        await two.begin_again()
        before = [await one.next() for _ in range(3)]
        store.empty()
        after = [await two.next(), await one.next(), await two.next()]
        assert min(after) > max(before) and after == sorted(after)


async def test_when_an_older_copy_came_back_they_go_on_above_what_was_given() -> None:
    store = Store()
    async with store.engine() as engine:
        one, two = Epochs(engine, 1), Epochs(engine, 2)
        await one.next(), await two.next()
        copy = store.copy()
        before = [await one.next(), await two.next()]
        store.become(*copy)
        after = [await two.next(), await one.next()]
        assert min(after) > max(before) and after == sorted(after)


async def test_a_base_of_an_earlier_loss_that_a_gateway_missed_is_not_taken_for_a_new_one() -> None:
    store = Store()
    async with store.engine() as engine:
        one, other = Epochs(engine, 1), Epochs(engine, 2)
        for each in (one, other):
            await each.next()
        store.become({}, 1)
        await one.begin_again()  # the other one is cut off, and misses this loss
        await one.next()
        copy = store.copy()
        newest = [await one.next() for _ in range(3)][-1]
        store.become(*copy)
        await other.begin_again()
        assert await other.next() > newest


async def test_without_the_engine_all_that_wait_are_told_and_the_next_is_given_when_it_is_back() -> None:
    store = Store()
    async with store.engine() as engine:
        epochs = Epochs(engine, 1)
        first = await epochs.next()
        await engine.go_away()
        told = await asyncio.gather(*(epochs.next() for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in told] == [EngineUnavailable] * 5
        await engine.come_back()
        assert await epochs.next() > first


async def test_a_base_that_leaves_no_epochs_is_named() -> None:
    async with MemoryEngine() as engine:
        await engine.put(BASE_KEY, ((1 << 64) - 1).to_bytes(8, "little"), 60)
        epochs = Epochs(engine, 1)
        with pytest.raises(EngineUnavailable, match=BASE_KEY):
            for _ in range(2):
                await epochs.next()


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("login"), st.integers(0, 2)),
            st.tuples(st.just("empty"), st.just(0)),
            st.tuples(st.just("copy"), st.just(0)),
            st.tuples(st.just("restore"), st.just(0)),
        ),
        max_size=30,
    ),
    faults=st.lists(st.sampled_from(Fault), max_size=60),
)
def test_in_any_order_of_logins_and_losses_with_any_faults_they_grow(
    steps: list[tuple[str, int]], faults: list[Fault]
) -> None:
    """After a loss each gateway begins again before its next login, as the arbiter does."""
    asyncio.run(_run(steps, faults))


async def _run(steps: list[tuple[str, int]], faults: list[Fault]) -> None:
    store = Store()
    engine = store.engine()
    remaining = iter(faults)
    async with engine:
        now = [NOW]
        skews = (0.0, 0.9, -0.9)  # s; more is refused at start
        gateways = [Epochs(engine, n, partial(lambda skew: now[0] + skew, skews[n])) for n in range(3)]
        for gateway in gateways:
            await gateway.begin_again()
        engine.fault = lambda call, key: next(remaining, Fault.NONE)
        copy = store.copy()
        highest = 0
        lost: set[int] = set()
        for step, number in steps:
            if step == "login":
                try:
                    if number in lost:
                        await gateways[number].begin_again()
                        lost.discard(number)
                    epoch = await gateways[number].next()
                except EngineUnavailable:
                    continue
                assert epoch > highest
                highest = epoch
            elif step == "copy":
                copy = store.copy()
            else:
                store.become(*(({}, 1) if step == "empty" else copy))
                lost = {0, 1, 2}
                now[0] += 10.0
