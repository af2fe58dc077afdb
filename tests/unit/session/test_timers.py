"""The wheel calls every item once, never early, at most two ticks late, and rests when it is empty."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.session.timers import ITEMS_A_TURN, STALL, TICK, Item, Wheel
from gatelink.testing import FakeClock
from tests.support import run_watched

LATE = 2 * TICK + 1e-9


class Alarm(Item):
    """Notes when it was called; `then` says what it does about it."""

    def __init__(self, then: "Callable[[Alarm], None] | None" = None) -> None:
        self._tick = 0
        self.calls: list[float] = []
        self._then = then

    def on_deadline(self, now: float) -> None:
        self.calls.append(now)
        if self._then is not None:
            self._then(self)


class FakeLoop:
    """The two things that a wheel asks of a loop."""

    def __init__(self) -> None:
        self.pending: list[asyncio.TimerHandle] = []
        self.reported: list[dict[str, Any]] = []
        self.time = FakeClock()

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        assert 0 < delay <= TICK
        handle = asyncio.TimerHandle(self.time() + delay, callback, (), self)  # type: ignore[arg-type]
        self.pending.append(handle)
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    @property
    def timers(self) -> int:
        return sum(not handle.cancelled() for handle in self.pending)

    def turn(self, seconds: float = TICK) -> None:
        """Let `seconds` pass, and call what is due; at once, as after a pause of the process."""
        self.time.advance(seconds)
        due = [handle for handle in self.pending if handle.when() <= self.time()]
        self.pending = [handle for handle in self.pending if handle.when() > self.time()]
        for handle in due:
            if not handle.cancelled():
                handle._run()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.turn(0.01)


def make() -> tuple[FakeLoop, Wheel]:
    loop = FakeLoop()
    return loop, Wheel(loop)  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.floats(0, 5)),  # hundredths of a second before it is set; its seconds
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 1e6),
)
def test_no_item_is_early_or_more_than_two_ticks_late(plan: list[tuple[int, float]], began: float) -> None:
    loop, wheel = make()
    loop.time.advance(began)
    alarms: list[tuple[float, Alarm]] = []
    for wait, seconds in plan:
        loop.pass_time(wait * 0.01)
        alarm = Alarm()
        wheel.set(alarm, seconds)
        alarms.append((loop.time() + seconds, alarm))
    loop.pass_time(5 + 3 * TICK)
    for deadline, alarm in alarms:
        assert len(alarm.calls) == 1
        assert deadline <= alarm.calls[0] <= deadline + LATE + 0.01  # the loop's own grain


def test_an_item_that_is_set_while_the_loop_is_late_is_not_early() -> None:
    loop, wheel = make()
    wheel.set(Alarm(), 10)
    loop.time.advance(3)  # somebody held the loop for 3 s, and then
    alarm = Alarm()
    wheel.set(alarm, 1)
    set_at = loop.time()
    while not alarm.calls:
        loop.turn()
    assert set_at + 1 <= alarm.calls[0] <= set_at + 1 + LATE


def test_setting_an_item_again_replaces_its_deadline() -> None:
    loop, wheel = make()
    alarm = Alarm()
    wheel.set(alarm, 1)
    wheel.set(alarm, 3)
    assert len(wheel) == 1
    loop.pass_time(2.9)
    assert not alarm.calls
    loop.pass_time(0.1 + 2 * TICK)
    assert len(alarm.calls) == 1


@pytest.mark.parametrize("how", ["cancel", "inf"])
def test_a_cancelled_item_is_not_called(how: str) -> None:
    loop, wheel = make()
    alarm = Alarm()
    wheel.set(alarm, 1)
    if how == "cancel":
        wheel.cancel(alarm)
        wheel.cancel(alarm)
    else:
        wheel.set(alarm, inf)
    assert len(wheel) == 0
    loop.pass_time(2)
    assert not alarm.calls


def test_call_calls_once_and_can_be_cancelled() -> None:
    loop, wheel = make()
    calls: list[str] = []
    wheel.call(1, lambda: calls.append("kept"))
    wheel.cancel(wheel.call(1, lambda: calls.append("cancelled")))
    loop.pass_time(5)
    assert calls == ["kept"]


def test_an_item_that_sets_itself_again_is_called_every_time() -> None:
    loop, wheel = make()
    alarm = Alarm(lambda self: wheel.set(self, 1))
    wheel.set(alarm, 1)
    loop.pass_time(20)
    gaps = [b - a for a, b in zip(alarm.calls, alarm.calls[1:], strict=False)]
    assert 15 <= len(alarm.calls) <= 20
    assert all(1 <= gap <= 1 + LATE + 0.01 for gap in gaps)


@pytest.mark.parametrize("seconds", [0, -5])
def test_an_item_that_sets_itself_to_now_is_not_called_twice_in_a_turn(seconds: float) -> None:
    loop, wheel = make()
    alarm = Alarm(lambda self: wheel.set(self, seconds))
    wheel.set(alarm, seconds)
    for turns in range(1, 6):
        loop.turn()
        assert len(alarm.calls) <= turns
    assert alarm.calls


def test_time_that_passes_while_items_are_called_loses_none_of_the_others() -> None:
    loop, wheel = make()

    def slow(alarm: Alarm) -> None:
        loop.time.advance(TICK)
        wheel.set(alarm, 1)

    first = Alarm(slow)
    wheel.set(first, 0)
    others = [Alarm() for _ in range(10)]
    for at, other in enumerate(others):
        wheel.set(other, at * TICK)
    loop.pass_time(3)
    assert [len(other.calls) for other in others] == [1] * 10


@pytest.mark.parametrize("what", ["cancel", "later"])
def test_an_item_may_cancel_or_move_one_that_is_due_with_it(what: str) -> None:
    loop, wheel = make()
    alarms: list[Alarm] = []

    def hold_back_the_other(this: Alarm) -> None:
        for other in alarms:
            if other is not this:
                wheel.cancel(other) if what == "cancel" else wheel.set(other, 1)

    alarms += [Alarm(hold_back_the_other), Alarm(hold_back_the_other)]
    for alarm in alarms:
        wheel.set(alarm, 0)
    loop.turn()
    assert sum(len(alarm.calls) for alarm in alarms) == 1
    assert len(wheel) == (what == "later")
    first_at = loop.time()
    loop.turn(1 + TICK)
    loop.turn()
    late = [at for alarm in alarms for at in alarm.calls if at > first_at]
    assert len(late) == (what == "later") and all(at >= first_at + 1 for at in late)


def test_one_item_that_raises_is_reported_and_stops_no_other() -> None:
    loop, wheel = make()

    def fail(_: Alarm) -> None:
        raise LookupError("mine")

    alarms = [Alarm(fail) if at == 3 else Alarm() for at in range(8)]
    for alarm in alarms:
        wheel.set(alarm, 1)
    loop.pass_time(2)
    assert [len(alarm.calls) for alarm in alarms] == [1] * 8
    (context,) = loop.reported
    assert isinstance(context["exception"], LookupError)
    wheel.set(alarms[0], 1)
    loop.pass_time(2)
    assert len(alarms[0].calls) == 2, "the wheel turns on"


def test_an_empty_wheel_has_no_timer() -> None:
    loop, wheel = make()
    assert loop.timers == 0
    wheel.set(Alarm(), 1)
    assert loop.timers == 1
    loop.pass_time(2)
    assert loop.timers == 0
    cancelled = Alarm()
    wheel.set(cancelled, 3_600)
    wheel.cancel(cancelled)
    loop.pass_time(2 * TICK)
    assert loop.timers == 0, "a deadline that nobody waits for keeps no timer"


def test_items_share_one_timer() -> None:
    loop, wheel = make()
    for seconds in range(100):
        wheel.set(Alarm(lambda self: wheel.set(self, 5)), seconds * 0.1)
    for _ in range(100):
        loop.turn()
        assert loop.timers == 1


def test_a_wheel_that_rested_keeps_its_promises() -> None:
    loop, wheel = make()
    for _ in range(3):
        loop.turn(1_234.567)
        alarm = Alarm()
        wheel.set(alarm, 1)
        deadline = loop.time() + 1
        loop.pass_time(1 + 3 * TICK)
        assert len(alarm.calls) == 1 and deadline <= alarm.calls[0] <= deadline + LATE + 0.01


def test_after_a_long_pause_everything_due_is_called_once_in_order() -> None:
    loop, wheel = make()
    called: list[int] = []
    alarms = [Alarm(lambda _, at=at: called.append(at)) for at in range(50)]  # type: ignore[misc]
    for at, alarm in enumerate(alarms):
        wheel.set(alarm, at)
    forever = Alarm()
    wheel.set(forever, 1e6)
    loop.turn(100_000)
    assert not called, "what arrived meanwhile is read before anybody is found to have been silent"
    loop.turn()
    assert called == list(range(50))
    assert not forever.calls and len(wheel) == 1


def test_deadlines_hold_where_every_turn_of_the_loop_is_late() -> None:
    loop, wheel = make()
    alarm = Alarm()
    began = loop.time()
    wheel.set(alarm, 5)
    for _ in range(10):
        loop.turn(2 * STALL)
    assert len(alarm.calls) == 1 and alarm.calls[0] <= began + 5 + 4 * STALL


def test_a_hundred_thousand_items_are_called_once_each() -> None:
    loop, wheel = make()
    calls: list[float] = []
    alarms = [wheel.call(at % 60, lambda: calls.append(loop.time())) for at in range(100_000)]
    assert len(wheel) == 100_000 and loop.timers == 1
    for alarm in alarms[::2]:
        wheel.cancel(alarm)
    for _ in range(620):
        loop.turn()
    assert len(calls) == 50_000
    assert len(wheel) == loop.timers == 0


def test_a_thousand_items_of_one_tick_leave_turns_of_the_loop_to_others() -> None:
    loop, wheel = make()
    calls: list[int] = []
    for number in range(1_000):
        wheel.call(1, lambda number=number: calls.append(number))  # type: ignore[misc]
    before = 0
    for _ in range(40):
        loop.turn(0.05)
        assert len(calls) - before <= ITEMS_A_TURN
        before = len(calls)
    assert sorted(calls) == list(range(1_000)) and len(wheel) == loop.timers == 0


def test_close_forgets_every_item_and_the_timer() -> None:
    loop, wheel = make()
    alarms = [Alarm() for _ in range(3)]
    for alarm in alarms:
        wheel.set(alarm, 1)
    wheel.close()
    assert len(wheel) == loop.timers == 0
    loop.pass_time(2)
    assert not any(alarm.calls for alarm in alarms)
    wheel.set(alarms[0], 1)
    loop.pass_time(2)
    assert len(alarms[0].calls) == 1, "a closed wheel can be used again"


def test_an_item_may_close_the_wheel_and_set_another() -> None:
    loop, wheel = make()
    after = Alarm()

    def close(_: Alarm) -> None:
        wheel.close()
        wheel.set(after, 1)

    alarms = [Alarm(close), Alarm(close), Alarm(close)]
    for alarm in alarms:
        wheel.set(alarm, 0.5)
    loop.pass_time(1)
    assert sum(len(alarm.calls) for alarm in alarms) == 1
    assert len(wheel) == loop.timers == 1
    loop.pass_time(2)
    assert len(after.calls) == 1


def test_an_item_is_called_by_a_real_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wheel = Wheel(loop)
        called: asyncio.Future[float] = loop.create_future()
        began = loop.time()
        wheel.call(0.15, lambda: called.set_result(loop.time()))
        assert await called >= began + 0.15

    run_watched(main())
