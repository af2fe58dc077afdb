"""The faults by name, and what is printed of their runs."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from tests.adversity.cluster.analysis import Cost, Direction
from tests.adversity.cluster.faults import FAULTS, chosen
from tests.adversity.cluster.report import COLUMNS, Run, line, table
from tests.processes import ROOT

HARMLESS = Cost(
    refused={"login1": 0.0, "login2": 0.0},
    unreported={"login1": 0.0, "login2": 0.0},
    silence=0.3,
    longest_silence=0.5,
    up=Direction(sent=100),
    down=Direction(sent=100),
    told=0,
    untold=0,
    heard_twice=0,
    overlapped=0,
    overlap=0.0,
    misfenced=0,
    healed=0.0,
    ends={},
)


def run(fault: str = "leader-killed", number: int = 1, **cost: Any) -> Run:
    """A run that cost nothing but this."""
    seen = msgspec.structs.replace(HARMLESS, **cost)
    return Run(fault=fault, seed=1, run=number, robots=4, seconds=30.0, late=0.0, cost=seen, notes=[])


def test_without_names_all_faults_are_chosen_else_those_in_their_order() -> None:
    assert [each.name for each in chosen([])] == list(FAULTS)
    assert [each.name for each in chosen(["slow-path", "leader-killed"])] == ["slow-path", "leader-killed"]


def test_a_name_that_is_no_fault_is_refused_with_the_names_that_are() -> None:
    with pytest.raises(ValueError, match=r"no fault leader-kiled; the faults are leader-killed, "):
        chosen(["slow-path", "leader-kiled"])


def test_every_fault_says_what_it_does() -> None:
    assert all(fault.text and fault.watch > 0 for fault in FAULTS.values())


def test_the_table_has_the_worst_of_the_runs_of_each_fault() -> None:
    runs = [
        run(refused={"login1": 2.0, "login2": 4.0}, unreported={"login1": 0.5, "login2": 0.0}, told=3),
        run("slow-path", longest_silence=7.25),
        run(number=2, refused={"login1": 5.5}, told=1, healed=1.5),
    ]
    lines = table(runs).splitlines()
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 1] * 4
    assert lines[2].startswith("| leader-killed | 5.5 (0.5) | 0.3 | 0.5 | 0 (3) | 0 |")
    assert lines[2].endswith("| 1.5 |")
    assert lines[3].startswith("| slow-path | 0.0 (0.0) | 0.3 | 7.2 |")


def test_the_table_counts_whatever_came_twice_or_out_of_order() -> None:
    wrong = run(
        up=Direction(doubled=1, reordered=2), down=Direction(doubled=4, reordered=8), heard_twice=16, misfenced=32
    )
    assert table([wrong]).endswith("| 63 | 0.0 | 0.0 |")


def test_an_older_login_that_another_service_heard_for_a_while_is_a_figure_of_its_own() -> None:
    seen = run(overlapped=2, overlap=1.25)
    assert "older login heard at another service 2 (up to 1.2 s)" in line(seen)
    assert "BROKEN" not in line(seen)
    assert table([seen, run(number=2)]).endswith("| 0 | 1.2 | 0.0 |")


def test_a_fault_that_did_not_heal_in_one_run_did_not_heal() -> None:
    assert table([run(), run(number=2, healed=None)]).endswith("| not |")


def test_a_line_names_broken_promises_and_missed_aims() -> None:
    text = line(run(refused={"login1": 9.0}, unreported={"login1": 0.0}, heard_twice=2))
    assert "BROKEN 2 messages were handled after one of a newer session, there or over 10 s ago" in text
    assert "missed new players were refused for 9.0 s, and should be 6 s at most" in text
    assert "missed" not in line(run(refused={"login1": 6.0}, unreported={"login1": 0.0}))


def test_a_line_says_how_sessions_ended_and_whether_the_robots_were_late() -> None:
    seen = run(ends={"4012 the server is gone": 3})
    assert "3 sessions ended with 4012 the server is gone" in line(seen)
    assert "late" not in line(seen)
    assert "the robots themselves were 1.2 s late" in line(msgspec.structs.replace(seen, late=1.2))


def test_a_wrong_name_ends_the_command_with_the_status_of_wrong_arguments() -> None:
    command = [sys.executable, "-m", "tests.adversity.cluster", "--faults", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no fault nonsense" in done.stderr
