"""Processes whose log can't be written, or is not read: players notice nothing, and SIGTERM ends them in order."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec import Struct

from examples.demo import reserved_ports
from gatelink import Catalog, CloseCode, ConnectError, Handlers, Session, connect
from tests.e2e.support import EchoServer, Note, RawClient, frame_of, leave, until
from tests.processes import Process
from tests.support import TEST_TIMEOUT

GAME = """
from msgspec import Struct
from gatelink import Catalog, Server, StaticTokens
catalog = Catalog()

@catalog.message(11001)
class Echo(Struct):
    n: int

server = Server("tcp://127.0.0.1:{port}", tokens=StaticTokens(), catalog=catalog)

@server.on(Echo)
def echo(session, message):
    if message.n == 0:
        raise ValueError("unlucky " * 100)
    session.send(message)

def tell(what):
    with open("told", "a") as file:
        file.write(what + "\\n")

server.on_verified(lambda session: tell("verified"))
server.on_closed(lambda session: tell("closed"))

@server.on_stop
async def stop():
    tell("stopped")
"""
LOGINS = 20

catalog = Catalog()


@catalog.message(11001)
class Echo(Struct):
    n: int


@pytest.fixture
def port() -> Iterator[int]:
    """One where the server of the test may listen."""
    with reserved_ports() as found:
        yield found


@asynccontextmanager
async def shell(script: str, cwd: Path, stderr: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec("bash", "-c", script, cwd=cwd, stderr=stderr, start_new_session=True)
    try:
        async with asyncio.timeout(TEST_TIMEOUT):
            yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def enter(port: int, uid: int, handlers: Handlers) -> Session:
    while True:
        try:
            return await connect(
                f"tcp://127.0.0.1:{port}", uid=uid, token=f"{uid:032d}", handlers=handlers, catalog=catalog
            )
        except ConnectError:
            await asyncio.sleep(0.05)  # it has not started yet


@pytest.mark.parametrize("trouble", ["closed pipe", "full disk", "pipe that is not read", "none at all"])
async def test_a_server_whose_log_is_in_trouble_serves_on(trouble: str, port: int, tmp_path: Path) -> None:
    (tmp_path / "game.py").write_text(GAME.format(port=port))
    reading, writing = os.pipe()
    if trouble == "closed pipe":
        os.close(reading)
    elif trouble == "full disk":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    elif trouble == "pipe that is not read":
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, bytes(4_096))
        os.set_blocking(writing, True)
    closed = " 2>&-" if trouble == "none at all" else ""
    script = f"exec {sys.executable} -m gatelink serve game:server{closed}"
    async with shell(script, tmp_path, writing) as process:
        os.close(writing)
        answers: asyncio.Queue[int] = asyncio.Queue()
        handlers = Handlers(catalog)

        @handlers.on(Echo)
        def echo(session: Session, message: Echo) -> None:
            answers.put_nowait(message.n)

        for uid in range(1, LOGINS + 1):
            session = await enter(port, uid, handlers)
            session.send(Echo(0))
            session.send(Echo(uid))
            assert await answers.get() == uid
            await leave(session)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    told = (tmp_path / "told").read_text().split()
    assert (told.count("verified"), told.count("closed"), told[-1]) == (LOGINS, LOGINS, "stopped")


CLUSTER = """
[engine]
data = "engine"

[login]
listen = "http://127.0.0.1:0"
methods = ["guest"]

[gateway]
listen = ["tcp://127.0.0.1:{port}"]
drain_seconds = 0.1

[services.lobby]
type = 12
run = "lobby:lobby"
"""
LOBBY = """
import sys
from gatelink import Service
lobby = Service("lobby", type=12)

@lobby.on_start
async def chatter():
    for _ in range(3_000):
        print("x" * 1_000, file=sys.stderr)
    with open("lobby started", "w"):
        pass
"""


@pytest.mark.parametrize("is_closed", [False, True])
async def test_up_reads_its_children_and_ends_in_order_though_nobody_reads_it(
    is_closed: bool, port: int, tmp_path: Path
) -> None:
    """3 MB of output: more than all pipes hold."""
    (tmp_path / "cluster.toml").write_text(CLUSTER.format(port=port))
    (tmp_path / "lobby.py").write_text(LOBBY)
    reading, writing = os.pipe()
    if is_closed:
        os.close(reading)
    async with shell(f"exec {sys.executable} -m gatelink up cluster.toml --dev", tmp_path, writing) as process:
        os.close(writing)
        while not (tmp_path / "lobby started").exists():  # noqa: ASYNC110 - a file tells of no event
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    if not is_closed:
        os.close(reading)


async def test_a_login_service_with_a_full_disk_starts_and_ends(port: int, tmp_path: Path) -> None:
    listen = f"http://127.0.0.1:{port}"
    full = os.open("/dev/full", os.O_WRONLY)
    async with shell(f"exec {sys.executable} -m gatelink login --dev --listen {listen}", tmp_path, full) as process:
        os.close(full)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        writer.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_program_s_own_log_that_raises_takes_no_event_from_a_session() -> None:
    def fail(logger: object, method: str, event: Any) -> Any:
        raise RuntimeError("the log is not there")

    server = EchoServer()
    begun: list[int] = []
    server.on_verified(lambda session: begun.append(session.uid))
    before = structlog.get_config()
    structlog.configure(processors=[fail])
    try:
        async with server:
            older = await RawClient.verified(server, 7)
            newer = await RawClient.verified(server, 7)  # replaces it
            await newer.echo(1)
            await until(lambda: server.ended == [(7, CloseCode.REPLACED)])
            wrong = await RawClient.open(server)
            wrong.send(frame_of(Note(1)))
            await wrong.rest()
            await newer.close()
            await until(lambda: len(server.ended) == 2)
            await older.close()
            await wrong.close()
            await server.stop(0)
    finally:
        structlog.configure(**before)
    assert begun == [7, 7]
