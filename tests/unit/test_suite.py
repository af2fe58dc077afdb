"""The suite itself runs where people run it: with few open files, as root in a folder of root's own."""

import os
import pwd
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import OPEN_FILES, raised
from tests.postgres import BIN, reachable
from tests.processes import FORCING, ended, program, python

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1_024, 524_288, 8_192),
        (1_024, 4_096, 4_096),
        (1_024, 1_024, 1_024),
        (1_024, INFINITE, 8_192),
        (20_000, 20_000, 20_000),
        (INFINITE, INFINITE, INFINITE),
    ],
)
def test_the_soft_limit_of_open_files_is_raised_as_far_as_the_hard_one_lets_it(
    soft: int, hard: int, expected: int
) -> None:
    assert raised(soft, hard, 8_192) == expected


async def test_a_test_that_needs_more_open_files_than_there_may_be_is_skipped_and_says_so(tmp_path: Path) -> None:
    """With a hard limit of 1,024; a test without the mark runs there."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest, resource\n"
        f"@pytest.mark.open_files({OPEN_FILES})\n"
        "def test_many(): raise AssertionError\n"
        "@pytest.mark.open_files(1_024)\n"
        "def test_few(): assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1_024, 1_024)\n"
    )
    limits = "ulimit -Sn 512 && ulimit -Hn 1024"
    run = 'exec "$0" -m pytest -q --no-cov -p no:cacheprovider -p tests.conftest -c pyproject.toml "$1"'
    async with program("bash", "-c", f"{limits} && {run}", sys.executable, str(file), merged=True) as process:
        status, out, _ = await ended(process)
    assert status == 0, out
    assert "1 passed, 1 skipped" in out
    assert "needs 8,192 open files, and the hard limit is 1,024; raise it: ulimit -Hn 8192" in out


async def test_processes_of_tests_write_as_to_a_pipe_whatever_is_forced_on_the_suite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CI may set FORCE_COLOR for the suite's own output."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in FORCING:
        monkeypatch.setenv(name, "1")
    async with python("-m", "gatelink", "robots", "--help") as process:
        status, out, _ = await ended(process)
    assert status == 0 and "--report" in out and "\x1b" not in out


async def test_processes_of_tests_take_the_signals_that_a_shell_has_the_suite_ignore(tmp_path: Path) -> None:
    """A shell ignores SIGINT for what runs in the background, and nohup SIGHUP."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "import subprocess, sys\n"
        "SHOW = 'import signal as s; print(s.SIG_IGN in map(s.getsignal, (s.SIGINT, s.SIGHUP)))'\n"
        "def test_it(): assert subprocess.check_output([sys.executable, '-c', SHOW]) == b'False\\n'\n"
    )
    run = 'exec "$0" -m pytest -q --no-cov -p no:cacheprovider -p tests.conftest -c pyproject.toml "$1"'
    command = ("bash", "-c", f"trap '' INT HUP && {run}", sys.executable, str(file))
    async with program(*command, merged=True) as process:
        status, out, _ = await ended(process)
    assert status == 0, out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_root_postgresql_runs_though_only_root_may_enter_the_folder_of_its_binaries(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = BIN.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        (private / part.name).symlink_to(part)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        found = reachable(private / BIN.relative_to(package.parent), nobody.pw_uid, nobody.pw_gid, Path(folder))
        assert found.is_relative_to(folder)
        for name in ("initdb", "postgres"):
            done = subprocess.run(
                [found / name, "--version"],
                capture_output=True,
                text=True,
                cwd="/",
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
            )
            assert "PostgreSQL" in done.stdout, done.stderr


def test_every_verb_of_the_makefile_is_run_though_a_file_has_its_name() -> None:
    def make(*arguments: str) -> str:
        return subprocess.run(
            ["make", "-Rr", "--no-print-directory", *arguments], check=True, capture_output=True, text=True
        ).stdout

    (phony,) = [line for line in make("-pn", "help").splitlines() if line.startswith(".PHONY: ")]
    verbs = [line.split()[1] for line in make("help").splitlines()]
    assert {"test", "traces", "test-browser"} <= set(verbs)
    assert phony.split()[1:] == verbs
