"""Promises: a process that stood still is noticed once, before anything else, and a busy one is not."""

import asyncio

from gatelink.session.standstill import Standstill, machine_time
from gatelink.session.timers import Wheel
from gatelink.testing import FakeClock


def standstill(clock: FakeClock, wheel: Wheel) -> tuple[Standstill, list[float]]:
    seen: list[float] = []
    return Standstill(wheel, 6.0, seen.append, clock), seen


async def test_it_is_noticed_once_by_the_first_that_asks() -> None:
    clock = FakeClock()
    wheel = Wheel(asyncio.get_running_loop(), clock)
    watched, seen = standstill(clock, wheel)
    clock.advance(6.0)
    assert not watched.check()
    clock.advance(6.5)
    assert watched.check()
    assert not watched.check()
    wheel.run_due()
    assert seen == [6.5]
    wheel.close()


async def test_it_looks_by_itself_so_that_a_silent_process_does_not_count() -> None:
    clock = FakeClock()
    wheel = Wheel(asyncio.get_running_loop(), clock)
    watched, seen = standstill(clock, wheel)
    for _ in range(100):
        clock.advance(0.5)
        wheel.run_due()
    assert seen == []
    clock.advance(60.0)
    wheel.run_due()
    assert seen == [60.0]
    watched.stop()
    assert len(wheel) == 0
    wheel.close()


async def test_it_looks_on_after_a_callback_that_raises_and_not_after_one_that_stops_it() -> None:
    clock = FakeClock()
    loop = asyncio.get_running_loop()
    faults: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    wheel = Wheel(loop, clock)

    def fail(seconds: float) -> None:
        raise RuntimeError(f"{seconds:g} s")

    failing = Standstill(wheel, 6.0, fail, clock)
    for _ in range(2):
        clock.advance(60.0)
        wheel.run_due()
    assert [str(each) for each in faults] == ["60 s", "60 s"]
    failing.stop()
    stopping = Standstill(wheel, 6.0, lambda seconds: stopping.stop(), clock)
    clock.advance(60.0)
    wheel.run_due()
    assert len(wheel) == 0
    wheel.close()


def test_the_time_that_a_machine_sleeps_counts() -> None:
    """CLOCK_MONOTONIC stands still in that time."""
    import time

    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= machine_time() <= time.clock_gettime(time.CLOCK_BOOTTIME)
