"""`Tally`: how it counts errors, sessions and seconds."""

import pytest

from gatelink.robots.tally import KEPT_ERRORS, Tally


def test_errors_of_one_text_are_one_with_the_first_robot_that_had_it() -> None:
    tally = Tally()
    for robot in (7, 8, 9):
        tally.fail(robot, "lost a line")
    error = tally.error_texts["lost a line"]
    assert (error.count, error.robot) == (3, 7)
    assert not tally.held


def test_only_so_many_texts_are_kept_and_every_error_is_counted() -> None:
    tally = Tally()
    for number in range(KEPT_ERRORS + 5):
        tally.fail(0, f"error {number}")
    assert len(tally.error_texts) == KEPT_ERRORS
    assert tally.errors == KEPT_ERRORS + 5


def test_a_part_of_a_second_is_in_the_totals_and_not_in_the_plots() -> None:
    tally = Tally()
    tally.record("say", 0.25)
    tally.end_second()
    assert not tally.seconds
    assert tally.latencies["say"].count == 1


def test_a_run_without_errors_held() -> None:
    tally = Tally()
    tally.counts["breaks"] += 2
    assert tally.held
    assert tally.summary()["counts"] == {"breaks": 2}


def test_a_session_that_came_and_went_within_a_second_is_counted() -> None:
    tally = Tally()
    for _ in range(3):
        tally.opened()
        tally.opened()
        tally.closed()
        tally.closed()
    tally.end_second()
    assert (tally.sessions, tally.most_sessions, tally.all_sessions) == (0, 2, 6)
    assert (tally.summary()["sessions"], tally.summary()["most_sessions"]) == (6, 2)


def test_a_second_has_the_sessions_that_were_there_not_those_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.5
    monkeypatch.setattr("gatelink.robots.tally.perf_counter", lambda: now)
    tally = Tally()
    tally.start()
    for opened, closed in ((4, 1), (0, 3), (0, 0)):
        for _ in range(opened):
            tally.opened()
        for _ in range(closed):
            tally.closed()
        now += 1
        tally.end_second()
    assert [second.sessions for second in tally.seconds] == [4, 3, 0]


def test_the_clock_stops_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.5
    monkeypatch.setattr("gatelink.robots.tally.perf_counter", lambda: now)
    tally = Tally()
    tally.start()
    now += 4
    tally.end()
    cpu = tally.cpu
    now += 60
    assert tally.elapsed == 4 and tally.cpu == cpu and tally.summary()["seconds"] == 4
