"""`make cluster` where it cannot run, or runs already."""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.adversity.cluster import __main__ as command


def test_without_root_it_says_that_it_was_not_run_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    monkeypatch.setattr(sys, "argv", ["cluster", "--short"])
    assert command.main() == 0
    assert "were NOT run: it needs root" in capsys.readouterr().err


def test_where_no_namespace_can_be_made_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command, "PROGRAMS", ())
    monkeypatch.setattr(command, "ISOLATED", ["sh", "-c", "echo not permitted >&2; exit 1"])
    monkeypatch.setattr(sys, "argv", ["cluster", "--short"])
    assert command.main() == 0
    assert "does not let us make namespaces (not permitted)" in capsys.readouterr().err


def test_a_second_rig_beside_a_running_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "impossible", lambda: "")
    monkeypatch.setattr(command, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(sys, "argv", ["cluster"])
    with (tmp_path / "lock").open("w") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        assert command.main() == 1
    assert "another rig runs on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--runs", "--robots"])
def test_none_of_something_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cluster", option, "0"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "must be 1 or more" in capsys.readouterr().err


def test_when_a_rig_was_killed_none_of_its_processes_is_left() -> None:
    if why := command.impossible():
        pytest.skip(why)
    marker = f"1000.{uuid4().int}"
    script = f"for _ in $(seq 50); do sleep {marker} & done; echo started; wait"
    with subprocess.Popen([*command.ISOLATED, "sh", "-c", script], stdout=subprocess.PIPE) as rig:
        try:
            assert rig.stdout is not None and rig.stdout.readline() == b"started\n"
            deadline = time.monotonic() + command.ENDING
            while len(running(marker)) < 50:  # one that becomes `sleep` just now has no command line
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            command.end(rig)
        assert running(marker) == []


def running(marker: str) -> list[str]:
    """The processes with this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if marker in path.read_text():
                found.append(path.parent.name)
    return found
