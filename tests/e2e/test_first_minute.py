"""What a person sees at a terminal: a start that ends with where to connect, and lines that are told apart."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.test_up import CLUSTER, EVENT, GAME, child
from tests.processes import Process, python
from tests.support import TEST_TIMEOUT

SERVER = """
from gatelink import Server, StaticTokens
server = Server("tcp://127.0.0.1:0", tokens=StaticTokens())
"""
LOGIN = '[login]\nlisten = "http://127.0.0.1:0"\nmethods = ["guest"]\n[accounts]\nurl = "sqlite:///users.db"\n'


class Screen:
    """A process at a terminal, and what it wrote there."""

    def __init__(self, process: Process, reader: asyncio.StreamReader) -> None:
        self.process = process
        self.text = ""
        self._reader = reader

    async def line(self, *parts: str) -> str:
        """The next line with all of these, without its colours."""
        while True:
            raw = (await self._reader.readline()).decode(errors="replace")
            assert raw, f"no line with {parts} in\n{self.text}"
            self.text += raw
            plain = EVENT.sub("", raw).rstrip()
            if all(part in plain for part in parts):
                return plain

    async def end(self) -> int:
        """Ctrl-C, as the terminal sends it."""
        self.process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end is closed: its read fails, with all that was written read before
            self.text += (await self._reader.read()).decode(errors="replace")
        return await self.process.wait()


@asynccontextmanager
async def at_terminal(*arguments: str, folder: Path, **environment: str) -> AsyncIterator[Screen]:
    ours, theirs = pty.openpty()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb"))
    wanted = {"TERM": "xterm-256color", "NO_COLOR": "", **environment}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatelink", *arguments),
            cwd=folder,
            env={**os.environ, **wanted},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        async with asyncio.timeout(TEST_TIMEOUT):
            yield Screen(process, reader)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        transport.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "game.py").write_text(GAME + SERVER)
    (tmp_path / "cluster.toml").write_text(CLUSTER + LOGIN)
    return tmp_path


async def test_up_ends_its_start_with_where_to_log_in_connect_and_watch_and_colours_each_process(folder: Path) -> None:
    async with at_terminal("up", "cluster.toml", "--dev", folder=folder) as screen:
        await screen.line("gatelink 0.1.0 is ready")
        assert re.search(r"log in at +http://127\.0\.0\.1:\d+/docs", await screen.line("log in at"))
        assert re.search(r"connect to +tcp://127\.0\.0\.1:\d+$", await screen.line("connect to"))
        assert re.search(r"admin +http://127\.0\.0\.1:\d+/metrics", await screen.line("admin"))
        assert (await screen.line("watch with")).endswith("gatelink top --config cluster.toml --dev")
        assert (await screen.line("stop with")).endswith("Ctrl-C")
        before = screen.text
        os.kill(child(screen.process.pid, "service", "game:lobby"), signal.SIGKILL)
        ended = await screen.line("is started again")
        assert ended.startswith("up        | ") and "program=lobby-1 how='killed by SIGKILL'" in ended
        await screen.line("lobby-1", "started")
        assert await screen.end() == 0, screen.text
    started = [line for line in before.splitlines() if "started" in line]
    assert len({line[: line.index("|")] for line in started}) == 3, "each name has a colour of its own"
    assert all(line.startswith("\x1b[38;5;") and "minfo\x1b" in line for line in started)
    assert "verified" not in screen.text and "linked" not in before, "links between servers are no news for a person"
    assert screen.text.count("is ready") == 1


async def test_quiet_leaves_the_block_and_no_color_leaves_no_colours(folder: Path) -> None:
    async with at_terminal("up", "cluster.toml", "--dev", "--quiet", folder=folder, NO_COLOR="1") as screen:
        await screen.line("stop with")
        assert await screen.end() == 0, screen.text
    assert "started" not in screen.text and "stopped" not in screen.text and "\x1b" not in screen.text
    assert "secrets are made up" in screen.text, "a warning is shown"


async def test_a_second_start_with_dev_knows_the_secrets_of_the_first_and_finds_no_entry_that_is_not_authentic(
    folder: Path,
) -> None:
    for word in ("first=env:", "as in the run before"):
        async with at_terminal("up", "cluster.toml", "--dev", "--quiet", folder=folder, NO_COLOR="1") as screen:
            assert word in await screen.line("secrets are made up")
            await screen.line("stop with")
            assert await screen.end() == 0, screen.text
        assert " err " not in screen.text, screen.text
    assert (folder / "engine" / "dev-secret").stat().st_mode & 0o777 == 0o600


async def test_serve_says_where_to_connect_and_that_a_client_hung_up(folder: Path) -> None:
    async with at_terminal("serve", "game:server", "--admin", "127.0.0.1:0", folder=folder) as screen:
        await screen.line("is ready")
        where = re.search(r"connect to +tcp://(127\.0\.0\.1):(\d+)$", await screen.line("connect to"))
        assert where is not None and "/metrics" in await screen.line("admin")
        await screen.line("stop with")
        code = (
            "import asyncio, os, sys\nfrom gatelink import Catalog, Handlers, connect\n"
            "async def main():\n"
            "    await connect(sys.argv[1], uid=7, token=f'{7:032d}', handlers=Handlers(Catalog()), resume=False)\n"
            "    os._exit(0)\n"
            "asyncio.run(main())\n"
        )
        async with python("-c", code, f"tcp://{where[1]}:{where[2]}") as client:
            assert await client.wait() == 0
        assert "uid=7" in await screen.line("verified")
        assert "reason='hung up' by=peer" in await screen.line("closed")
        assert await screen.end() == 0, screen.text


async def test_elsewhere_the_log_has_a_line_that_says_ready(folder: Path) -> None:
    async with python("-m", "gatelink", "up", "cluster.toml", "--dev", cwd=folder, merged=True) as process:
        assert process.stdout is not None
        async for raw in process.stdout:
            if b" ready " in raw:
                break
        line = raw.decode()
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+Z \[info ", line) and "connect=['tcp://" in line, line
        process.send_signal(signal.SIGTERM)
        rest = await process.stdout.read()
        assert await process.wait() == 0 and b"is ready" not in rest and b"\x1b" not in rest


async def test_top_is_sorted_and_left_by_keys_and_leaves_the_terminal_as_it_was(folder: Path) -> None:
    async with at_terminal("up", "cluster.toml", "--dev", folder=folder) as up:
        await up.line("stop with")
        ours, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatelink", "top", "--config", "cluster.toml", "--dev"),
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(ours), "rb")
        )
        try:
            seen = b""
            while b"engine" not in seen or b"q" not in seen.partition(b"engine")[2]:
                seen += await reader.read(4_096)
            assert "gateway" in (text := EVENT.sub("", seen.decode(errors="replace"))) and "lobby" in text
            assert "1 player" not in text and "0 players" in text and "login" in text
            assert not termios.tcgetattr(theirs)[3] & termios.ECHO
            os.write(ours, b"mcq")
            reading = asyncio.create_task(reader.read())
            assert await process.wait() == 0
            assert termios.tcgetattr(theirs) == before
        finally:
            os.close(theirs)
            transport.close()
            os.close(ours)
        reading.cancel()
        await asyncio.wait([reading])
        assert await up.end() == 0


@pytest.mark.parametrize("end", ["hangup", "closed"])
async def test_top_ends_when_its_terminal_is_gone(end: str, folder: Path) -> None:
    async with at_terminal("up", "cluster.toml", "--dev", folder=folder) as up:
        await up.line("stop with")
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatelink", "top", "--config", "cluster.toml", "--dev"),
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            await asyncio.to_thread(os.read, ours, 1)  # it draws
            if end == "hangup":
                process.send_signal(signal.SIGHUP)
            else:
                os.close(ours)
            async with asyncio.timeout(TEST_TIMEOUT / 2):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if end == "hangup":
                os.close(ours)
        assert await up.end() == 0
