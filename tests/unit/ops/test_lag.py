"""The meter of the loop's blocks, by a clock of its own."""

import asyncio

import pytest

from gatelink.ops import lag
from gatelink.ops.lag import STEP, WINDOW, LoopLag


class Clock:
    def __init__(self) -> None:
        self.now = 1_234.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(lag, "perf_counter", found)
    return found


async def test_the_longest_block_shows_until_it_was_told_and_for_a_while(clock: Clock) -> None:
    meter = LoopLag()
    meter.start()
    clock.now += 0.3
    assert meter.within(1) == pytest.approx(0.3)
    clock.now += 0.1
    assert meter.within(1) == pytest.approx(0.3)
    assert meter.within(0.05) == pytest.approx(0.1)
    clock.now += STEP
    assert meter.since_last(0.001) == pytest.approx(0.3), "it was not told before"
    clock.now += STEP
    assert meter.since_last(0.001) == 0, "a look in time is no block"
    assert meter.since_last(1) == pytest.approx(0.3), "another scraper may not have seen it"
    meter.stop()


async def test_what_was_never_told_is_not_forgotten_and_the_rest_is(clock: Clock) -> None:
    meter = LoopLag()
    meter.start()
    clock.now += 0.3
    meter.within(0)
    for _ in range(10_000):
        clock.now += STEP
        meter.within(0)
    assert meter.within(WINDOW) == pytest.approx(0.0)
    assert meter.since_last(15) == pytest.approx(0.3)
    assert meter.since_last(15) == pytest.approx(0.0)
    meter.stop()


async def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = LoopLag()
    looked = asyncio.Event()
    times = iter(range(1_000))

    def clock() -> float:
        now = next(times)
        if now > 3:
            looked.set()
        return float(now)

    monkeypatch.setattr(lag, "perf_counter", clock)
    meter.start()
    meter.start()  # a second reader
    await looked.wait()
    meter.stop()
    assert meter.since_last(1_000) == 1
