"""`make demo-chat` in small: two processes, strict robots, and an exit status that says whether all held."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import MS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 20_000 * MS


@asynccontextmanager
async def program(*arguments: str, secret: str | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m ARGUMENTS` in the repository, asked to end at the latest when the block is left."""
    environment = {name: value for name, value in os.environ.items() if name != "CHAT_SECRET"}
    if secret is not None:
        environment["CHAT_SECRET"] = secret
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        cwd=ROOT,
        env=environment | {"COLUMNS": "120", "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT):
            yield process
    finally:
        if process.returncode is None:
            process.terminate()  # it ends its own children
        await process.communicate()


async def end_of(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """(exit status, all that it printed)."""
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_demo_holds_and_says_so() -> None:
    async with program("examples.chat.demo", "--count", "20", "--seconds", "4") as process:
        status, out = await end_of(process)
    assert status == 0, out
    assert out.endswith("Everything held.\n")
    for figure in ("sessions", "say p50", "say p99", "breaks with a gap", "lines missed over breaks", "errors"):
        assert figure in out


async def test_the_demo_fails_when_its_robots_do() -> None:
    async with program("examples.chat.demo", "--count", "1", "--seconds", "1", "--report", "no/where.html") as process:
        status, out = await end_of(process)
    assert status == 1
    assert out.endswith("It did not hold: the robots' exit status is 2.\n")


async def test_a_demo_that_is_asked_to_end_leaves_no_process() -> None:
    async with program("examples.chat.demo", "--count", "5", "--seconds", "60") as process:
        assert process.stdout is not None
        first = await process.stdout.readline()
        assert first.startswith(b"chat server at tcp://127.0.0.1:"), first
        server = int(first.split()[-1])
        os.kill(server, 0)
        process.terminate()
        status, _ = await end_of(process)  # ends when the last of them has closed its output
    assert status == 128 + 15
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


async def test_the_chat_server_does_not_start_without_a_secret_that_nobody_can_guess() -> None:
    for secret in (None, "short"):
        async with program("gatelink", "serve", "examples.chat.server:server", secret=secret) as process:
            status, out = await end_of(process)
        assert status == 2
        assert f"CHAT_SECRET has {len(secret or '')} characters" in out and "export CHAT_SECRET=" in out
