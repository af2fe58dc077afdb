"""tools/environment.py: what is missing is told all at once, and pip's silence is filled."""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.processes import ROOT
from tools import environment


def test_a_compiler_is_needed_for_the_tools_alone() -> None:
    assert environment.needs("login", "no-such-compiler") == []
    (need,) = environment.needs("dev", "no-such-compiler")
    assert "C compiler (no-such-compiler)" in need and "apt-get install gcc libc6-dev" in need


def test_the_headers_of_python_are_needed_for_the_compiled_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/no-such-folder")
    (need,) = environment.needs("dev", "cc")
    assert "no C headers of" in need and "apt-get install python3-dev" in need


def test_everything_that_is_missing_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "OLDEST", (9, 99))
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(sys, "argv", ["environment.py", "dev", "--cc", "no-such-compiler"])
    assert environment.main() == 1
    err = capsys.readouterr().err
    for need in ("or newer is needed", "python3-venv", "may not write to", "C compiler"):
        assert need in err
    assert not (tmp_path / ".venv").exists()


def test_a_command_that_is_silent_is_told_of_every_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "EVERY", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "print('Collecting uvloop>=0.23\\n  Downloading uvloop-0.23.whl (4.5 MB)', flush=True)\n"
        f"open({str(pipe)!r}).read()"
    )
    told: list[str] = []

    def say(text: str) -> None:
        """Lets the command end once it was told of."""
        told.append(text)
        if "4 MB so far" in text:
            with contextlib.suppress(OSError):  # it does not read yet
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    monkeypatch.setattr(environment, "say", say)
    status, lines = environment.run_with_progress([sys.executable, "-c", program], "starting")
    assert status == 0 and lines[0] == "Collecting uvloop>=0.23"
    assert re.fullmatch(r"collecting uvloop-0.23.whl; 1 packages, 4 MB so far \(\d+ s\)", told[-1])


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("  Downloading litestar-2.25.0-py3-none-any.whl (569 kB)", 0.569),
        ("Downloading https://index/uvloop-0.23.0.whl (4.5 MB)", 4.5),
        ("  Downloading uvloop-0.23.0.whl.metadata (4.9 kB)", 0.0),
        ("  Using cached uvloop-0.23.0.whl (4.5 MB)", 0.0),
    ],
)
def test_what_pip_downloads_is_added_up(line: str, size: float) -> None:
    assert environment.megabytes(line) == pytest.approx(size)


def test_the_demos_need_no_tools() -> None:
    """`make -n` shows what would be run in a clone without .venv."""
    done = subprocess.run(
        ["make", "-n", "demo", "VENV=no-such-venv"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tools/environment.py login" in done.stdout and " dev" not in done.stdout
    done = subprocess.run(
        ["make", "-n", "test", "VENV=no-such-venv"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tools/environment.py dev" in done.stdout


def test_the_demos_import_what_their_extra_brings() -> None:
    """No module below examples/arena and examples/chat needs the tools, nor another extra."""
    banned = ("pytest", "hypothesis", "google.protobuf", "asyncpg", "mypy", "tests", "benchmarks")
    check = f"import sys, examples.arena.demo, examples.chat.demo; print([n for n in {banned} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
