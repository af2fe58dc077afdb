"""The supervisor with real child processes: what it starts again, what it does not, and how it ends them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatelink.ops import supervisor
from gatelink.ops.supervisor import MAX_LINE, Program, Supervisor
from tests.support import MS

LIMIT = 30_000 * MS
LONG = 600.0

WAITS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("is up", flush=True)
signal.sigwait([signal.SIGTERM])
"""
POLITE = WAITS + "print('ends', flush=True)"
"""Ends when it is told to."""

STUBBORN = (
    WAITS
    + """
while True:
    print("was told", flush=True)
    signal.sigwait([signal.SIGTERM])
"""
)
"""Does not."""


def python(name: str, code: str, stage: int = 0) -> Program:
    return Program(name, (sys.executable, "-I", "-S", "-c", code), stage)


class Cluster:
    """A supervisor, and what its programs wrote."""

    def __init__(self, *programs: Program, grace: float = LONG) -> None:
        self.supervisor = Supervisor(programs, os.environ, self._write, grace)
        self.lines: list[tuple[str, str]] = []
        self._wrote = asyncio.Event()

    def _write(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._wrote.set()

    async def heard(self, name: str, line: str, times: int = 1) -> None:
        """Waits until a program has written a line so often."""
        while self.lines.count((name, line)) < times:
            self._wrote.clear()
            await self._wrote.wait()

    def pid(self, name: str) -> int:
        found = self.supervisor.pid(name)
        assert found is not None, f"{name} does not run"
        return found


@asynccontextmanager
async def running(*programs: Program, grace: float = LONG) -> AsyncIterator[tuple[Cluster, "asyncio.Task[str | None]"]]:
    """A supervisor that runs; its children are gone at the end."""
    group = Cluster(*programs, grace=grace)
    task = asyncio.create_task(group.supervisor.run())
    try:
        async with asyncio.timeout(LIMIT):
            yield group, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def gone(pid: int) -> None:
    while not is_gone(pid):  # noqa: ASYNC110 - no event tells of another's child
        await asyncio.sleep(0.01)


async def test_a_process_that_is_killed_is_started_again() -> None:
    async with running(python("a", POLITE)) as (group, task):
        await group.heard("a", "is up")
        first = group.pid("a")
        os.kill(first, signal.SIGKILL)
        await group.heard("a", "is up", times=2)
        assert group.pid("a") != first
        assert group.supervisor.restarts == 1
        group.supervisor.stop()
        assert await task is None


async def test_each_early_end_doubles_the_wait_up_to_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(supervisor, "MOST_WAIT", 0.3)
    with capture_logs() as logs:
        async with running(python("a", "print('runs', flush=True)")) as (group, _):
            await group.heard("a", "runs", times=5)
    waits = [entry["seconds"] for entry in logs if entry["event"] == "ended, and is started again"]
    assert waits[:4] == [0.1, 0.2, 0.3, 0.3]


async def test_a_program_that_ran_for_long_is_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(supervisor, "STEADY", 0.0)
    with capture_logs() as logs:
        async with running(python("a", "print('runs', flush=True)")) as (group, _):
            await group.heard("a", "runs", times=4)
    waits = [entry["seconds"] for entry in logs if entry["event"] == "ended, and is started again"]
    assert waits[:3] == [0.1, 0.1, 0.1]


async def test_a_process_that_cannot_run_as_configured_ends_all_and_is_named() -> None:
    wrong = python("wrong", "import sys; print('no such port', flush=True); sys.exit(78)")
    async with running(python("a", POLITE), wrong) as (group, task):
        assert await task == "wrong"
        assert group.lines.count(("wrong", "no such port")) == 1
        assert group.supervisor.restarts == 0
        assert group.supervisor.pid("a") is None
        assert group.supervisor.cause == "no such port"


@pytest.mark.parametrize(("status", "level"), [(0, "info"), (1, "error")])
async def test_only_a_process_that_failed_is_an_error_in_the_log(status: int, level: str) -> None:
    with capture_logs() as logs:
        async with running(python("a", f"import sys; print('runs', flush=True); sys.exit({status})")) as (group, _):
            await group.heard("a", "runs", times=2)
    ends = [entry for entry in logs if entry["event"] == "ended, and is started again"]
    assert ends and {entry["log_level"] for entry in ends} == {level}


async def test_a_status_that_application_code_may_end_with_is_no_wrong_configuration() -> None:
    async with running(python("a", "print('runs', flush=True); raise SystemExit(2)")) as (group, task):
        await group.heard("a", "runs", times=2)
        assert not task.done()


async def test_a_process_whose_id_a_newer_one_took_stays_down_and_the_others_stay_up() -> None:
    with capture_logs() as logs:
        async with running(python("a", POLITE), python("older", "raise SystemExit(3)")) as (group, task):
            while not any("not started again" in entry["event"] for entry in logs):  # noqa: ASYNC110 - a log line has no event
                await asyncio.sleep(MS)
            await asyncio.sleep(5 * MS)
            assert group.supervisor.restarts == 0 and group.supervisor.pid("older") is None
            assert group.supervisor.pid("a") is not None and not task.done()


async def test_a_program_that_waits_to_be_started_again_does_not_delay_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", LONG)
    with capture_logs() as logs:
        async with running(python("a", "raise SystemExit(1)")) as (group, task):
            while not logs:  # noqa: ASYNC110 - a log line has no event
                await asyncio.sleep(0.01)
            group.supervisor.stop()
            assert await task is None


async def test_a_stop_that_comes_while_a_process_starts_ends_it() -> None:
    async with running(python("a", POLITE)) as (group, task):
        await asyncio.sleep(0)  # the keeper has begun, the child is not there yet
        assert group.supervisor.pid("a") is None
        group.supervisor.stop()
        assert await task is None


async def test_stages_end_one_after_the_other_the_highest_first() -> None:
    programs = [python("back", POLITE, 0), python("front", POLITE, 1), python("front too", POLITE, 1)]
    async with running(*programs) as (group, task):
        for program in programs:
            await group.heard(program.name, "is up")
        group.supervisor.stop()
        await task
        ends = [name for name, line in group.lines if line == "ends"]
        assert sorted(ends[:2]) == ["front", "front too"] and ends[2:] == ["back"]


async def test_a_program_that_does_not_end_in_its_grace_is_killed_and_the_next_stage_gets_its_own() -> None:
    async with running(python("back", POLITE, 0), python("front", STUBBORN, 1), grace=1.5) as (group, task):
        await group.heard("front", "is up")
        await group.heard("back", "is up")
        pid = group.pid("front")
        group.supervisor.stop()
        await task
        assert is_gone(pid)
        assert group.lines[-2:] == [("front", "was told"), ("back", "ends")]


async def test_a_second_stop_tells_all_stages_at_once_and_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HURRY", 1.5)
    async with running(python("back", POLITE, 0), python("front", STUBBORN, 1)) as (group, task):
        await group.heard("front", "is up")
        await group.heard("back", "is up")
        group.supervisor.stop()
        await group.heard("front", "was told")
        group.supervisor.stop()
        await task  # though its grace is ten minutes
        assert ("back", "ends") in group.lines
        assert group.lines.count(("front", "was told")) == 2


async def test_a_long_line_is_cut_and_those_around_it_are_whole() -> None:
    code = f"print('before'); print('x' * {3 * MAX_LINE}); print('after'); print('no end', end='', flush=True)"
    async with running(python("a", code)) as (group, _):
        await group.heard("a", "no end")
        first = [line for _, line in group.lines[:4]]
    assert first == ["before", "x" * MAX_LINE + f" (and {2 * MAX_LINE} bytes more)", "after", "no end"]


async def test_bytes_that_are_no_text_are_written_all_the_same() -> None:
    async with running(python("a", r"import os; os.write(1, b'\xff\xfe!\n')")) as (group, _):
        await group.heard("a", "\ufffd\ufffd!")


async def test_a_process_of_a_process_that_holds_the_output_does_not_hide_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "LAST_WORDS", 0.2)
    code = "import os, time\nif os.fork() == 0: print(os.getpid(), flush=True); time.sleep(600)"
    async with running(python("a", code)) as (group, _):
        while len(group.lines) < 2:  # noqa: ASYNC110 - whatever it writes
            await asyncio.sleep(0.01)
        for _, line in group.lines:
            with suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)


async def test_the_children_end_when_the_supervisor_is_killed() -> None:
    program = f"""
import asyncio, os, sys
from gatelink.ops.supervisor import Program, Supervisor
code = "import os, time; print(os.getpid(), flush=True); time.sleep({LONG})"
child = Program("a", (sys.executable, "-I", "-S", "-c", code))
asyncio.run(Supervisor([child], os.environ, lambda name, line: print(line, flush=True), 1.0).run())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT):
        assert parent.stdout is not None
        child = int(await parent.stdout.readline())
        assert not is_gone(child)
        parent.kill()
        await parent.wait()
        await gone(child)
