"""Processes of a measurement, with commands: a JSON line on stdin for each, and a JSON line on stdout as its answer.

    with Child("benchmarks.chaos.server", core=0) as server:   # here
        port = server.ask("start", sessions=1_000)["port"]

    uvloop.run(obey({"start": start}))                          # there

A child ends when its stdin does, so none outlives the process that started it.
"""

import asyncio
import inspect
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Self

from benchmarks.harness import ENDING, ROOT, BenchmarkError, end, pinned, tail

ANSWER_BYTES = 1 << 20
"""Bytes of one line, at most."""


class Child:
    """`python -m module` as a child, held to `core` (None: any); `ask` it, and it ends with the block."""

    def __init__(self, module: str, core: int | None = None) -> None:
        command = [sys.executable, "-m", module]
        self._module = module
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command if core is None else pinned(core, *command),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._rest = b""
        self.pid = self._process.pid

    def ask(self, command: str, seconds: float = 60.0, **arguments: Any) -> Any:
        """The result of the child's `command`. Raises BenchmarkError if it fails, ends, or takes over `seconds`."""
        self.tell(command, **arguments)
        return self.answer(seconds)

    def tell(self, command: str, **arguments: Any) -> None:
        """Let the child begin with `command`. `answer` waits for its result."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        except BrokenPipeError:
            raise self._failed("ended") from None

    def answer(self, seconds: float = 60.0) -> Any:
        """The answer to the oldest `tell` without one."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise self._failed(f"did not answer within {seconds:g} s")
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                raise self._failed("ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            end(self._process)
        self._process.stdout.close()
        self._errors.close()

    def _failed(self, how: str) -> BenchmarkError:
        error = BenchmarkError(f"{self._module} (pid {self.pid}) {how}")
        error.add_note(f"it wrote:\n{tail(self._errors)}")
        return error


async def obey(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Run the command of each line of stdin, one after the other, until stdin ends.

    What a command, a plain or async function, returns is the answer; what it raises ends the process.
    """
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=ANSWER_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command, arguments = json.loads(line)
        answer = commands[command](**arguments)
        if inspect.isawaitable(answer):
            answer = await answer
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
