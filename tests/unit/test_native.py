"""Which core runs, what says so, and that constants which both have are the same."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gatelink import _native, handlers
from gatelink.handling.route import TIME_BUCKETS
from gatelink.session.outbox import Outbox
from gatelink.wire.base import BASE_IDS
from tests.twins import core

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "src" / "gatelink" / "native"
built = pytest.mark.skipif(core is None, reason="the compiled core is not built here")


def run(wanted: str, program: str = "from gatelink import _native; print(_native.description())") -> tuple[int, str]:
    """The exit status and output of a program with this GATELINK_NATIVE."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, _native.VARIABLE: wanted},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_pure_core_runs_unless_the_other_is_asked_for_and_says_why() -> None:
    assert run("0") == (0, "pure Python (GATELINK_NATIVE=0)\n")
    assert run("") == (0, "pure Python (GATELINK_NATIVE is not set)\n")


@built
@pytest.mark.parametrize("wanted", ["1", "auto"])
def test_the_compiled_core_runs_where_it_is_built(wanted: str) -> None:
    assert run(wanted) == (0, "native\n")


def test_a_core_that_is_wanted_and_not_there_is_an_error_with_the_reason() -> None:
    hidden = "import sys; sys.modules['gatelink._core'] = None; import gatelink"
    status, output = run("1", hidden)
    assert status == 1 and "GATELINK_NATIVE=1, but there is no compiled core: it was not built" in output
    status, output = run("auto", f"{hidden}; print(gatelink._native.description())")
    assert (status, output) == (0, "pure Python (it was not built (docs/native.md))\n")


def test_a_wrong_choice_is_an_error_that_names_the_right_ones() -> None:
    status, output = run("yes")
    assert status == 1 and "GATELINK_NATIVE=yes: give 0 (pure Python), 1 (the compiled core) or auto" in output


def test_the_classes_that_run_are_those_of_the_core_that_runs() -> None:
    expected = "gatelink._core" if _native.core is not None else "gatelink.session.outbox"
    assert Outbox.__module__ == expected
    assert set(_native.pure) >= {"Outbox", "SendWindow", "StraightPath", "Encoder", "Intake", "Route", "Traffic"}


def test_the_core_has_the_constants_of_pure_python() -> None:
    turn = re.compile(r"^(?:DEF )?TURN_SECONDS = ([\d.]+)", re.MULTILINE)  # the tests patch the name itself
    (pure,) = turn.findall(Path(str(handlers.__file__)).read_text())
    assert turn.findall((NATIVE / "straight_path.pxi").read_text()) == [pure]
    assert f"TIME_BUCKETS = {TIME_BUCKETS}" in (NATIVE / "counters.pxi").read_text()
    assert f"DEF LAST_BASE_ID = {max(BASE_IDS)}" in (NATIVE / "system.pxi").read_text()


@built
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.00011, 0.004, 0.5, 100.0])
def test_both_routes_count_a_call_alike(seconds: float) -> None:
    pure: Any = _native.pure["Route"]("say", print, bytes)
    compiled = core.Route("say", print, bytes)
    for route in (pure, compiled):
        route.handled(10, seconds)
        route.handled(20, seconds)
    assert [pure.buckets, pure.count, pure.bytes, pure.seconds, pure.logged] == [
        compiled.buckets,
        compiled.count,
        compiled.bytes,
        compiled.seconds,
        compiled.logged,
    ]
