"""The engine's time: what a measurement says of it, and of this machine's clock."""

import pytest

from gatelink.cluster.engines.clock import KEPT, EngineClock
from gatelink.testing import FakeClock

UNIX = 1_700_000_000.0


class World:
    """A machine with a monotonic clock and a wall clock, and an engine `ahead` of the wall clock's first time."""

    def __init__(self) -> None:
        self.monotonic = FakeClock(50.0)
        self.stepped = 0.0  # how far the machine's clock was set
        self.engine_ahead = 0.0
        self.clock = EngineClock(self.monotonic, lambda: UNIX + self.monotonic() + self.stepped)

    @property
    def engine_time(self) -> float:
        return UNIX + self.monotonic() + self.engine_ahead

    def measure(self, there: float = 0.0, back: float = 0.0) -> None:
        """Ask for the time; the request and the answer take so many seconds."""
        sent = self.monotonic()
        self.monotonic.advance(there)
        shown = self.engine_time
        self.monotonic.advance(back)
        self.clock.measured(sent, shown, self.monotonic())


def test_before_a_measurement_the_machines_clock_is_the_best_guess() -> None:
    it = World()
    assert it.clock.now() == it.engine_time
    assert it.clock.skew == 0.0


@pytest.mark.parametrize("ahead", [-3_600.0, -600.0, 0.0, 600.0, 3_600.0])
def test_the_time_is_the_engines_whatever_this_machines_clock_says(ahead: float) -> None:
    it = World()
    it.engine_ahead = -ahead
    it.measure()
    it.monotonic.advance(7.5)
    assert it.clock.now() == pytest.approx(it.engine_time, abs=1e-3)
    assert it.clock.skew == pytest.approx(ahead, abs=1e-3)


@pytest.mark.parametrize("step", [-7_200.0, 7_200.0])
def test_a_step_of_the_machines_clock_changes_only_the_skew(step: float) -> None:
    it = World()
    it.measure()
    it.stepped = step
    assert it.clock.now() == pytest.approx(it.engine_time, abs=1e-3)
    assert it.clock.skew == pytest.approx(step, abs=1e-3)
    it.stepped = 0.0
    assert it.clock.skew == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("there", "back"), [(0.0, 4.0), (4.0, 0.0), (2.0, 2.0)])
def test_a_slow_answer_shows_no_skew_that_is_not_there(there: float, back: float) -> None:
    it = World()
    it.measure(there, back)
    assert abs(it.clock.now() - it.engine_time) <= (there + back) / 2 + 1e-6
    assert it.clock.skew == pytest.approx(0.0, abs=1e-6)


def test_a_slow_answer_does_not_replace_an_exact_measurement_until_that_is_old() -> None:
    it = World()
    it.measure()
    it.measure(0.0, 4.0)
    assert it.clock.now() == pytest.approx(it.engine_time, abs=1e-3)
    it.monotonic.advance(KEPT)
    it.measure(0.0, 4.0)
    assert it.clock.now() != pytest.approx(it.engine_time, abs=1e-3)


def test_an_engine_whose_clock_is_set_or_another_leader_is_followed_at_once() -> None:
    it = World()
    it.measure()
    it.engine_ahead = 90.0
    it.measure(0.5, 0.5)
    assert it.clock.now() == pytest.approx(it.engine_time, abs=0.5)
    assert it.clock.skew == pytest.approx(-90.0, abs=0.5 + 1e-6)
