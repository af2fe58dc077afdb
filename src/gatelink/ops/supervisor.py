"""Child processes that are kept running: their output in one stream with their names, restarts with backoff.

The kernel takes the children along when this process ends, however it does.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

log = structlog.get_logger("gatelink.supervisor")

FIRST_WAIT = 0.2
MOST_WAIT = 10.0
"""Seconds before a process that ended is started again: doubled for each that ends early, up to the most."""

STEADY = 10.0
"""Seconds that a process must have run for its next end to be a first one again."""

MAX_LINE = 65_536
"""Bytes of one line of output; a longer one is cut."""

UNUSABLE = 2
"""The exit status of a process that can't run as it is configured: starting it again changes nothing."""


class Program(msgspec.Struct, frozen=True):
    """One process. stage: those of a higher stage are stopped first, and only then those of the next lower."""

    name: str
    command: tuple[str, ...]
    stage: int = 0


class Supervisor:
    """Runs programs until it is told to stop, or one of them says that it can't run as configured.

    environment: of the children. write: takes a line of output, with its program's name. grace: seconds that a program
    has to end once it is told to; then it is killed.
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
        self._stopping: set[str] = set()
        self._unusable: asyncio.Future[str]
        self.restarts = 0

    def pid(self, name: str) -> int | None:
        """The process id of a program that runs."""
        child = self._children.get(name)
        return child.pid if child is not None else None

    async def run(self, stop: asyncio.Event) -> str | None:
        """Runs until `stop` is set; the name of the program that could not run, if that was why it ended."""
        self._unusable = asyncio.get_running_loop().create_future()
        keepers = {program: asyncio.create_task(self._keep(program)) for program in self._programs}
        stopped = asyncio.create_task(stop.wait())
        try:
            waiting: list[asyncio.Future[Any]] = [stopped, self._unusable]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            for stage in sorted({program.stage for program in self._programs}, reverse=True):
                await self._stop([program for program in self._programs if program.stage == stage], keepers)
        return self._unusable.result() if self._unusable.done() else None

    async def _stop(self, programs: Sequence[Program], keepers: "dict[Program, asyncio.Task[None]]") -> None:
        for program in programs:
            self._stopping.add(program.name)
            self._signal(program.name, signal.SIGTERM)
        tasks = [keepers[program] for program in programs]
        _, late = await asyncio.wait(tasks, timeout=self._grace)
        if late:
            for program in programs:
                self._signal(program.name, signal.SIGKILL)
            _, late = await asyncio.wait(late, timeout=MOST_WAIT)
        for task in late:
            task.cancel()

    def _signal(self, name: str, number: signal.Signals) -> None:
        child = self._children.get(name)
        if child is not None and child.returncode is None:
            child.send_signal(number)

    async def _keep(self, program: Program) -> None:
        """Runs a program, and again when it ends, until it is to stop."""
        wait = FIRST_WAIT
        while program.name not in self._stopping:
            began = time.monotonic()
            status = await self._run_once(program)
            if program.name in self._stopping:
                return
            if status == UNUSABLE:
                if not self._unusable.done():
                    self._unusable.set_result(program.name)
                return
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            log.error("ended, and is started again", program=program.name, status=status, seconds=round(wait, 1))
            self.restarts += 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, MOST_WAIT)

    async def _run_once(self, program: Program) -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _BECOME,
            str(os.getpid()),
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            limit=MAX_LINE,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
        )
        self._children[program.name] = child
        assert child.stdout is not None
        await self._copy(program.name, child.stdout)
        status = await child.wait()
        del self._children[program.name]
        return status

    async def _copy(self, name: str, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:
                self._write(name, f"(a line of over {MAX_LINE} bytes)")
                continue
            if not line:
                return
            self._write(name, line.decode(errors="replace").rstrip("\r\n"))


# The child asks the kernel to be told when its parent ends, then becomes the program. 1 is PR_SET_PDEATHSIG.
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
