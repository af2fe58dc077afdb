"""Keeps child processes running: restarts them with backoff, and passes on their output line by line.

If this process ends, even by SIGKILL, the kernel ends the children.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from gatelink import tasks
from gatelink.errors import counted
from gatelink.logger import Logger

log = Logger("gatelink.supervisor")

FIRST_WAIT = 0.2
MOST_WAIT = 10.0
"""Seconds before a process is started again: FIRST_WAIT, doubled after each early end up to MOST_WAIT."""

STEADY = 10.0
"""Seconds that a process must run to reset its wait to FIRST_WAIT."""

HURRY = 2.0
"""Seconds from the second `stop` until the processes that still run are killed."""

LAST_WORDS = 1.0
"""Seconds to read on after a process has ended. There may be no end of file: its own children may hold the pipe."""

MAX_LINE = 65_536
"""Bytes of one line of output; a longer one is cut."""

UNUSABLE = os.EX_CONFIG
"""78, the exit status of a process that can't run as it is configured. It is not started again."""

REPLACED = 3
"""The exit status of a process whose server id was taken by a newer one. A restart would only take the id back."""

ORPHANS_EVERY = 1.0
"""Seconds between two searches for orphans that have ended."""


class Program(msgspec.Struct, frozen=True):
    """A program to keep running. stage: the highest stage is stopped first; the next one when all of it has ended.

    environment: (name, value) of its own environment, if it is not to have the supervisor's.
    """

    name: str
    command: tuple[str, ...]
    stage: int = 0
    environment: tuple[tuple[str, str], ...] | None = None


class Supervisor:
    """Runs programs until `stop` is called, or one of them can't run as configured.

    environment: the environment of the children. write: called with a program's name and a line of its output. grace:
    seconds from the SIGTERM of a stage until its programs that still run are killed.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        environment: Mapping[str, str],
        write: Callable[[str, str], None],
        grace: float,
    ) -> None:
        self._programs = programs
        self._environment = dict(environment)
        self._write = write
        self._grace = grace
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = {program.stage: asyncio.Event() for program in programs}
        self._over = asyncio.Event()
        self._hurried = asyncio.Event()
        self._unusable: str | None = None
        self._last_lines: dict[str, str] = {}
        self.restarts = 0
        self.cause = ""
        """The last line of the program that could not run."""

    def pid(self, name: str) -> int | None:
        """The process id of a program; None if it does not run."""
        child = self._children.get(name)
        return child.pid if child is not None else None

    def stop(self) -> None:
        """Stop the programs, stage by stage; `run` returns when they have ended.

        A second call does not wait for the stages. All programs get SIGTERM, maybe again. Those that still run after
        2 s are killed.
        """
        if self._over.is_set():
            self._hurried.set()
        self._over.set()

    def forward(self, number: signal.Signals) -> None:
        """Send a signal to all running programs."""
        for child in self._children.values():
            _signal(child, number)

    async def run(self) -> str | None:
        """Run until `stop`, or until a program can't run as configured. Returns its name, or None."""
        keepers = {program: tasks.live(partial(self._keep, program), "keeping a program") for program in self._programs}
        reaping = tasks.live(_reap_orphans, "reaping of orphans") if _adopts_orphans() else None
        try:
            await self._over.wait()
            stages = sorted(self._stopping, reverse=True)
            for stage in stages:
                if not self._hurried.is_set():
                    await self._stop_stage(stage, keepers)
            if self._hurried.is_set():
                await self._end(stages, keepers)
        finally:
            self._terminate(list(self._stopping))  # usually none is left; some are if this was cancelled
            await self._kill(list(self._stopping), keepers)
            if reaping is not None:
                reaping.cancel()
        return self._unusable

    async def _stop_stage(self, stage: int, keepers: "Mapping[Program, asyncio.Task[None]]") -> None:
        """Terminate the programs of a stage, and wait until they have ended or `stop` is called again."""
        self._terminate([stage])
        hurried = asyncio.create_task(self._hurried.wait())
        late = [keeper for program, keeper in keepers.items() if program.stage == stage]
        end = time.monotonic() + self._grace
        while late and not hurried.done() and (left := end - time.monotonic()) > 0:
            await asyncio.wait([hurried, *late], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            late = [keeper for keeper in late if not keeper.done()]
        hurried.cancel()
        if not self._hurried.is_set():
            await self._kill([stage], keepers)

    async def _end(self, stages: Sequence[int], keepers: "Mapping[Program, asyncio.Task[None]]") -> None:
        """Terminate all at once, and kill those that do not end."""
        self._terminate(stages)
        await asyncio.wait(keepers.values(), timeout=HURRY)
        await self._kill(stages, keepers)

    def _terminate(self, stages: Sequence[int]) -> None:
        for stage in stages:
            self._stopping[stage].set()
        for program in self._programs:
            if program.stage in stages and program.name in self._children:
                _signal(self._children[program.name], signal.SIGTERM)

    async def _kill(self, stages: Sequence[int], keepers: "Mapping[Program, asyncio.Task[None]]") -> None:
        late = [program for program, keeper in keepers.items() if program.stage in stages and not keeper.done()]
        for program in late:
            if program.name in self._children:
                _signal(self._children[program.name], signal.SIGKILL)
            log.error("did not end, and is killed", program=program.name)
        if late:
            await asyncio.wait([keepers[program] for program in late], timeout=MOST_WAIT)

    async def _keep(self, program: Program) -> None:
        """Run a program, and start it again when it ends, until its stage stops."""
        stopping = self._stopping[program.stage]
        wait = FIRST_WAIT
        while not stopping.is_set():
            began = time.monotonic()
            status = await self._run_once(program)
            if stopping.is_set():
                return
            if status == UNUSABLE:
                if self._unusable is None:
                    self._unusable = program.name
                    self.cause = self._last_lines.get(program.name, "")
                self._over.set()
                log.error("can't run as it is configured", program=program.name)
                return
            if status == REPLACED:
                log.error("ended, and is not started again: a newer process has its server id", program=program.name)
                return
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            self.restarts += 1
            say = log.info if status == 0 else log.error  # status 0: it was probably ended by hand
            say("ended, and is started again", program=program.name, **_how(status), seconds=round(wait, 1))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stopping.wait()
            wait = min(wait * 2, MOST_WAIT)

    async def _run_once(self, program: Program) -> int | None:
        """Run a program once. Returns its exit status, negative for a signal, None if it did not start."""
        reading, writing = os.pipe()  # with PIPE, `child.wait` would also wait for grandchildren that hold the pipe
        try:
            child = await asyncio.create_subprocess_exec(
                *tied_to_parent(program.command, signal.SIGTERM),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=self._environment if program.environment is None else dict(program.environment),
                start_new_session=True,  # Ctrl-C must reach only the supervisor, which stops its children in order
            )
        except BaseException as error:
            os.close(reading)
            if not isinstance(error, OSError):
                raise
            log.error("did not start", program=program.name, error=str(error))  # e.g. no memory, or too many processes
            return None
        finally:
            os.close(writing)
        self._children[program.name] = child
        output = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", buffering=0)
        )
        copying = tasks.keep(self._copy(program.name, output), "output of a program")
        try:
            if self._stopping[program.stage].is_set():  # `stop` was called during the start, and found no child
                _signal(child, signal.SIGTERM)
            status = await child.wait()
            await asyncio.wait([copying], timeout=LAST_WORDS)
        finally:
            copying.cancel()
            transport.close()
            del self._children[program.name]
        return status

    async def _copy(self, name: str, output: asyncio.StreamReader) -> None:
        """Write each line, cut at MAX_LINE bytes."""
        line = bytearray()
        cut = 0
        while data := await output.read(MAX_LINE):
            *ends, rest = data.split(b"\n")
            for end in ends:
                cut += _extend(line, end)
                self._write_line(name, _text(line, cut))
                line.clear()
                cut = 0
            cut += _extend(line, rest)
        if line:
            self._write_line(name, _text(line, cut))

    def _write_line(self, name: str, line: str) -> None:
        self._last_lines[name] = line
        self._write(name, line)


def _extend(line: bytearray, data: bytes) -> int:
    """Add `data` to `line`, up to MAX_LINE bytes. Returns how many bytes were cut."""
    taken = data[: MAX_LINE - len(line)]
    line += taken
    return len(data) - len(taken)


def _text(line: bytearray, cut: int) -> str:
    text = line.decode(errors="replace").rstrip("\r")
    return f"{text} (and {counted(cut, 'byte')} more)" if cut else text


def _how(status: int | None) -> dict[str, object]:
    """How a program ended, as keys of a log line."""
    if status is None or status >= 0:
        return {"status": status}
    try:
        return {"how": f"killed by {signal.Signals(-status).name}"}
    except ValueError:  # a real-time signal
        return {"how": f"killed by signal {-status}"}


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):  # the process has just ended
            child.send_signal(number)


# Run by a fresh interpreter, which then becomes the command. A `preexec_fn` could deadlock in a program with threads.
_BECOME = """
import ctypes, os, sys
parent, number, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit("the parent has ended")
os.execv(command[0], command)
"""


def tied_to_parent(command: Sequence[str], number: signal.Signals) -> list[str]:
    """A command line that runs `command`. It gets the signal `number` when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), str(int(number)), *command]


_PR_GET_CHILD_SUBREAPER = 37


def _adopts_orphans() -> bool:
    """Whether this process becomes the parent of orphans: as process 1, or as a "child subreaper"."""
    is_reaper = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(is_reaper), 0, 0, 0)
    return os.getpid() == 1 or bool(is_reaper.value)


async def _reap_orphans() -> None:
    """Reap orphans that have ended. asyncio reaps its own children at once, so a zombie seen twice is an orphan."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(ORPHANS_EVERY)
        found = _ended_children()
        for pid in found & before:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        before = found


def _ended_children() -> set[int]:
    """The ids of zombie children."""
    me = str(os.getpid())
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent, *_ = file.read().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue  # the child was reaped in the meantime
            if state == "Z" and parent == me:
                found.add(int(name))
    return found
