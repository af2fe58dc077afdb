"""Processes that tests start: killed, with all that they started, at the latest when the block is left."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support import TEST_TIMEOUT

ROOT = Path(__file__).resolve().parents[1]

Process = asyncio.subprocess.Process

FORCING = ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables by which programs take a pipe for a terminal; where the suite runs they may be set for itself."""


def environment_of(more: dict[str, str] | None = None) -> dict[str, str]:
    """That of a process whose output is read: ours but for `FORCING`, 120 columns without colours, and `more`."""
    ours = {name: value for name, value in os.environ.items() if name not in FORCING}
    return {**ours, "COLUMNS": "120", "NO_COLOR": "1", **(more or {})}


def python(
    *arguments: str, cwd: Path = ROOT, environment: dict[str, str] | None = None, merged: bool = False
) -> contextlib.AbstractAsyncContextManager[Process]:
    """`program` with `python ARGUMENTS`."""
    return program(sys.executable, *arguments, cwd=cwd, environment=environment, merged=merged)


@contextlib.asynccontextmanager
async def program(
    *command: str, cwd: Path = ROOT, environment: dict[str, str] | None = None, merged: bool = False
) -> AsyncIterator[Process]:
    """A command, its output in pipes. environment: on top of ours; merged: standard error goes to its output.

    The block is left with TimeoutError when it takes longer than a test may.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment_of(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if merged else asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TEST_TIMEOUT):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def watches_files(process: Process) -> bool:
    """Whether a process has told the kernel which; what changed before goes unnoticed."""
    found = False
    for info in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has closed that one since
            found |= "inotify wd:" in info.read_text()
    return found


def put(file: Path, text: str) -> None:
    """Write a file in one step: one that watches it never finds it empty, nor changed twice."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def ended(process: Process) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a process that ends by itself."""
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), (err or b"").decode()
