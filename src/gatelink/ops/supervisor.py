"""Child processes that are kept running: their output in one stream with their names, restarts with backoff.

The kernel takes the children along when this process ends, however it does.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from gatelink import tasks
from gatelink.ops import orphans

log = structlog.get_logger("gatelink.supervisor")

FIRST_WAIT = 0.2
MOST_WAIT = 10.0
"""Seconds before a process that ended is started again: doubled for each that ends early, up to the most."""

STEADY = 10.0
"""Seconds that a process must have run for its next end to be a first one again."""

HURRY = 2.0
"""Seconds that a process has to end after `hurry`; then it is killed."""

LAST_WORDS = 1.0
"""Seconds that the output of a process which has ended is still read: a child of its own may hold it open."""

MAX_LINE = 65_536
"""Bytes of one line of output; a longer one is cut."""

UNUSABLE = os.EX_CONFIG
"""78, the exit status of a process that can't run as it is configured: starting it again changes nothing."""

REPLACED = 3
"""The exit status of a process whose server id a newer one took: started again, it would only take that back."""


class Program(msgspec.Struct, frozen=True):
    """One process. stage: those of a higher stage are stopped first, and only then those of the next lower."""

    name: str
    command: tuple[str, ...]
    stage: int = 0


class Supervisor:
    """Runs programs until it is told to stop, or one of them says that it can't run as configured.

    environment: of the children. write: takes a line of output, with its program's name. grace: seconds that the
    programs of a stage have to end once they are told to; then they are killed.
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
        """The last line of the program that could not run: why."""

    def pid(self, name: str) -> int | None:
        """The process id of a program that runs."""
        child = self._children.get(name)
        return child.pid if child is not None else None

    def stop(self) -> None:
        """Ends the programs, stage by stage; `run` returns when they have ended. Again: in a hurry.

        Then all are told at once, those that were told before a second time, and have 2 s until they are killed.
        """
        if self._over.is_set():
            self._hurried.set()
        self._over.set()

    def forward(self, number: signal.Signals) -> None:
        """Sends a signal to all programs that run."""
        for child in self._children.values():
            _signal(child, number)

    async def run(self) -> str | None:
        """Runs until `stop`; the name of the program that could not run, if that was why it ended."""
        keepers = {program: tasks.live(partial(self._keep, program), "keeping a program") for program in self._programs}
        reaping = tasks.live(orphans.reap, "reaping of orphans") if orphans.adopts() else None
        try:
            await self._over.wait()
            stages = sorted(self._stopping, reverse=True)
            for stage in stages:
                if not self._hurried.is_set():
                    await self._stop_stage(stage, keepers)
            if self._hurried.is_set():
                await self._end(stages, keepers)
        finally:
            self._tell(list(self._stopping))  # nothing is left of them, unless this was cancelled
            await self._kill(list(self._stopping), keepers)
            if reaping is not None:
                reaping.cancel()
        return self._unusable

    async def _stop_stage(self, stage: int, keepers: "Mapping[Program, asyncio.Task[None]]") -> None:
        """Tells the programs of a stage to end, and waits for that, but no longer once there is a hurry."""
        self._tell([stage])
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
        """Tells all to end, now, and kills those that do not."""
        self._tell(stages)
        await asyncio.wait(keepers.values(), timeout=HURRY)
        await self._kill(stages, keepers)

    def _tell(self, stages: Sequence[int]) -> None:
        for stage in stages:
            self._stopping[stage].set()
        for program in self._programs:
            if program.stage in stages and program.name in self._children:
                _signal(self._children[program.name], signal.SIGTERM)

    async def _kill(self, stages: Sequence[int], keepers: "Mapping[Program, asyncio.Task[None]]") -> None:
        late = [program for program, keeper in keepers.items() if program.stage in stages and not keeper.done()]
        for program in late:
            log.error("did not end, and is killed", program=program.name)
            if program.name in self._children:
                _signal(self._children[program.name], signal.SIGKILL)
        if late:
            await asyncio.wait([keepers[program] for program in late], timeout=MOST_WAIT)

    async def _keep(self, program: Program) -> None:
        """Runs a program, and again when it ends, until it is to stop."""
        stopping = self._stopping[program.stage]
        wait = FIRST_WAIT
        while not stopping.is_set():
            began = time.monotonic()
            status = await self._run_once(program)
            if stopping.is_set():
                return
            if status == UNUSABLE:
                log.error("can't run as it is configured", program=program.name)
                if self._unusable is None:
                    self._unusable = program.name
                    self.cause = self._last_lines.get(program.name, "")
                self._over.set()
                return
            if status == REPLACED:
                log.error("ended for good: a newer process has its server id", program=program.name)
                return
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            say = log.info if status == 0 else log.error  # who ended it by hand had no fault
            say("ended, and is started again", program=program.name, status=status, seconds=round(wait, 1))
            self.restarts += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stopping.wait()
            wait = min(wait * 2, MOST_WAIT)

    async def _run_once(self, program: Program) -> int | None:
        """From its start to its end; its exit status, negative for a signal, None if it could not be started."""
        reading, writing = os.pipe()  # not asyncio's: with that, `wait` may wait for whoever else has it open
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
            )
        except BaseException as error:
            os.close(reading)
            if not isinstance(error, OSError):
                raise
            log.error("did not start", program=program.name, error=str(error))  # no more processes, or no memory
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
            if self._stopping[program.stage].is_set():  # while it was being started
                _signal(child, signal.SIGTERM)
            status = await child.wait()
            await asyncio.wait([copying], timeout=LAST_WORDS)
        finally:
            copying.cancel()
            transport.close()
            del self._children[program.name]
        return status

    async def _copy(self, name: str, output: asyncio.StreamReader) -> None:
        """Writes each line, without what it has over MAX_LINE bytes."""
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
    """Adds what has room; how many bytes had none."""
    taken = data[: MAX_LINE - len(line)]
    line += taken
    return len(data) - len(taken)


def _text(line: bytearray, cut: int) -> str:
    text = line.decode(errors="replace").rstrip("\r")
    return f"{text} (and {cut} bytes more)" if cut else text


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):  # it has ended, and nobody has noticed yet
            child.send_signal(number)


# The child asks the kernel to be told when its parent ends, then becomes the program. 1 is PR_SET_PDEATHSIG.
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
