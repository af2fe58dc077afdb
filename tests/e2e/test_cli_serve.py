"""The `gatelink` command as its users run it: a process, its output, its signals and its exit status."""

import asyncio
import json
import resource
import signal
import socket
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from examples.demo import reserved_ports
from gatelink import Catalog, Handlers, Session, connect
from gatelink.session.states import SessionState
from tests.e2e.support import until
from tests.processes import ROOT, Process, ended, program, put, python, watches_files

GAME = """
from gatelink import Server, StaticTokens
server = Server("tcp://127.0.0.1:0", tokens=StaticTokens())
"""


def gatelink(*arguments: str, cwd: Path) -> AbstractAsyncContextManager[Process]:
    return python("-m", "gatelink", *arguments, cwd=cwd)


async def started(process: Process) -> list[str]:
    """Where the server says that it listens; it logs in JSON."""
    assert process.stderr is not None
    seen = b""
    async for line in process.stderr:
        seen += line
        if line.startswith(b"{"):
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "started":
                return list(event["listen"])
    raise AssertionError(f"it ended without having started: {seen.decode()}")


@pytest.fixture
def game(tmp_path: Path) -> Path:
    """A directory with a module `game` that has a `server`."""
    (tmp_path / "game.py").write_text(GAME)
    return tmp_path


async def test_the_benchmarks_server_serves_where_it_is_told_and_stops_cleanly_on_sigterm() -> None:
    catalog = Catalog()

    @catalog.message(20001)
    class Echo(bytes):
        pass

    handlers = Handlers(catalog)
    echoed: asyncio.Queue[bytes] = asyncio.Queue()

    @handlers.on(Echo)
    def echo(session: Session, message: Echo) -> None:
        echoed.put_nowait(message)

    listen = ("--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0")
    async with gatelink("serve", "benchmarks.echo:server", *listen, "--log-format", "json", cwd=ROOT) as process:
        one, other = await started(process)
        assert one != other
        session = await connect(one, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog)
        session.send(Echo(b"hello"))
        assert await echoed.get() == b"hello"
        process.send_signal(signal.SIGTERM)
        await session.wait_closed()
        assert session.state is SessionState.CLOSED
        status, out, err = await ended(process)
    assert (status, out) == (0, "")
    assert json.loads(err.splitlines()[-1])["event"] == "stopped"


@pytest.mark.parametrize("allowed", [pytest.param(2_000, marks=pytest.mark.open_files(2_000)), 500])
async def test_it_takes_the_open_files_that_it_may_and_says_when_they_are_too_few(game: Path, allowed: int) -> None:
    text = f"{GAME}from gatelink import Limits\nserver.limits = Limits(max_connections=1_000)\n"
    (game / "game.py").write_text(text)
    needed = 1_000 + 64
    command = (
        f"ulimit -Sn 256; ulimit -Hn {allowed}; exec {sys.executable} -m gatelink serve game:server --log-format json"
    )
    async with program("bash", "-c", f"{command} --log-format json", cwd=game) as process:
        assert process.stderr is not None
        said = [json.loads(await process.stderr.readline()) for _ in range(1 + (allowed < needed))]
        soft, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert said[-1]["event"] == "started"
    assert soft == min(needed, allowed)
    assert [(line["needed"], line["allowed"]) for line in said[:-1]] == [(needed, allowed)][: allowed < needed]


async def test_one_that_cannot_start_does_not_say_that_it_stopped(game: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        async with gatelink("serve", "game:server", "--listen", where, cwd=game) as process:
            status, out, err = await ended(process)
    why = "Address already in use; choose an address of this machine and a port that is free"
    assert (status, out) == (78, "") and "stopped" not in err
    assert err.splitlines()[-1] == f"gatelink: cannot listen on {where}: {why}"


async def test_sigint_ends_it_with_0_too_and_without_a_traceback(game: Path) -> None:
    async with gatelink("serve", "game:server", "--log-format", "json", cwd=game) as process:
        await started(process)
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)
    assert status == 0 and "Traceback" not in err


async def test_the_admin_port_is_served_where_it_is_told(game: Path) -> None:
    with reserved_ports() as port:
        arguments = ("--admin", f"127.0.0.1:{port}", "--log-format", "json")
        async with gatelink("serve", "game:server", *arguments, cwd=game) as process:
            await started(process)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nok\n")
            writer.close()
            process.send_signal(signal.SIGTERM)
            assert (await ended(process))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("game:sever",), "module game has no sever; it has game:server"),
        (("game:server", "--listen", "127.0.0.1:7000"), "not an endpoint: '127.0.0.1:7000'"),
        (("game:server", "--admin", "9100"), "admin address '9100' is not host:port"),
    ],
)
async def test_what_cannot_be_run_is_one_line_and_exit_status_78(
    arguments: tuple[str, ...], says: str, game: Path
) -> None:
    async with gatelink("serve", *arguments, "--log-level", "error", cwd=game) as process:
        status, out, err = await ended(process)
    assert (status, out) == (78, "")
    assert len(err.splitlines()) == 1 and err.startswith("gatelink: ") and says in err


async def test_a_module_that_raises_shows_its_traceback_and_no_secret_of_it(tmp_path: Path) -> None:
    (tmp_path / "game.py").write_text("def check(key):\n    raise ValueError(len(key))\ncheck('s3' 'cret')\n")
    async with gatelink("serve", "game:server", cwd=tmp_path) as process:
        status, _, err = await ended(process)
    assert status == 78
    assert "ValueError: 6" in err and "game.py" in err and "s3cret" not in err


async def test_reload_restarts_it_when_a_file_changes_and_leaves_no_process_behind(game: Path) -> None:
    async with gatelink("serve", "game:server", "--reload", "--log-format", "json", cwd=game) as process:
        (first,) = await started(process)
        await until(lambda: watches_files(process))
        put(game / "game.py", GAME + "changed = True\n")
        assert process.stderr is not None
        said = await process.stderr.readuntil(b"restarting\n")
        assert said.endswith(b"gatelink: 1 file changed, restarting\n")
        (second,) = await started(process)
        port = int(second.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        process.send_signal(signal.SIGTERM)
        status, _, _ = await ended(process)
    assert status == 0
    for listen in (first, second):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(listen.rpartition(":")[2]))


async def test_reload_that_is_killed_takes_its_server_with_it(game: Path) -> None:
    async with gatelink("serve", "game:server", "--reload", "--log-format", "json", cwd=game) as process:
        (first,) = await started(process)
        await until(lambda: watches_files(process))
        put(game / "game.py", GAME + "changed = True\n")
        (second,) = await started(process)
        process.kill()
        status, _, err = await ended(process)  # once the server has ended, too: it has the other end of the pipe
    assert status == -signal.SIGKILL and '"stopped"' in err
    for listen in (first, second):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(listen.rpartition(":")[2]))


async def test_help_shows_every_command_on_one_screen() -> None:
    async with gatelink("--help", cwd=ROOT) as process:
        status, out, _ = await ended(process)
    assert status == 0 and len(out.strip().splitlines()) <= 30
    for command in (
        "serve",
        "up",
        "gateway",
        "service",
        "login",
        "top",
        "kick",
        "sessions",
        "robots",
        "decode",
        "keys",
        "config",
    ):
        assert f" {command} " in out


async def test_version_names_what_it_stands_on() -> None:
    async with gatelink("version", cwd=ROOT) as process:
        status, out, _ = await ended(process)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "gatelink",
        "core",
        "python",
        "uvloop",
        "msgspec",
        "platform",
    ]
