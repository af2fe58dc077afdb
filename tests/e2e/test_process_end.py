"""A process ends in bounded time whatever is at work in it, and says what that was; SIGHUP ends nothing."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gatelink import connect
from tests.e2e.support import until
from tests.processes import Process, program, put, python, watches_files

GAME = """
import asyncio, threading, time
from msgspec import Struct
from gatelink import Catalog, Limits, Server, StaticTokens
catalog = Catalog()

@catalog.message(11001)
class Work(Struct):
    kind: str

server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=catalog, limits=Limits(close_timeout=0.3))

def thread():
    time.sleep(1_000)

async def stubborn():
    while True:
        try:
            await asyncio.sleep(1_000)
        except BaseException:
            pass

@server.on(Work)
async def work(session, message):
    print("at work", flush=True)
    match message.kind:
        case "to_thread":
            await asyncio.to_thread(time.sleep, 1_000)
        case "stubborn":
            await stubborn()
        case "task":
            server.kept = asyncio.create_task(stubborn())
        case "thread":
            threading.Thread(target=thread, name="saver").start()
        case "blocked":
            time.sleep(1_000)
        case "quick":
            threading.Thread(target=time.sleep, args=(0.1,), name="saver").start()

@server.on_stop
async def stop():
    print("on_stop", flush=True)
"""


SCRIPT = """
from gatelink.ops import logs
from game import server
logs.configure("json")
server.run()
"""


async def read_until(process: Process, event: str) -> list[dict[str, Any]]:
    """The log's lines up to the one of `event`."""
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    async for line in process.stderr:
        if line.startswith(b"{"):
            lines.append(json.loads(line))
            if lines[-1]["event"] == event:
                return lines
        else:
            lines.append({"event": line.decode()})
    raise AssertionError(f"it ended without {event!r}: {lines}")


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "game.py").write_text(GAME)
    return tmp_path


async def set_to_work(process: Process, kind: str) -> None:
    from msgspec import Struct

    from gatelink import Catalog

    catalog = Catalog()

    @catalog.message(11001)
    class Work(Struct):
        kind: str

    started = (await read_until(process, "started"))[-1]
    session = await connect(started["listen"][0], uid=7, token=f"{7:032d}", catalog=catalog)
    session.send(Work(kind))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"at work\n"


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("to_thread", "concurrent/futures/thread.py"),
        ("stubborn", "Handlers._finish_inbox"),
        ("task", "stubborn at "),
        ("thread", "saver at "),
        ("blocked", "MainThread at "),
    ],
)
@pytest.mark.parametrize("how", ["command", "script"])
async def test_what_does_not_end_is_named_and_the_process_ends_with_0(
    kind: str, named: str, how: str, game: Path
) -> None:
    command = ["-m", "gatelink", "serve", "game:server", "--log-format", "json"]
    if how == "script":
        (game / "script.py").write_text(SCRIPT)
        command = ["script.py"]
    async with python(*command, cwd=game) as process:
        await set_to_work(process, kind)
        process.send_signal(signal.SIGTERM)
        left = (await read_until(process, "the process ends although this has not ended"))[-1]
        assert await process.wait() == 0
        assert any(named in each for each in (*left["tasks"], *left["threads"])), left
        assert process.stdout is not None
        assert kind == "blocked" or await process.stdout.readline() == b"on_stop\n"


async def test_a_thread_that_ends_in_the_grace_is_waited_for(game: Path) -> None:
    async with python("-m", "gatelink", "serve", "game:server", "--log-format", "json", cwd=game) as process:
        await set_to_work(process, "quick")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        rest = await process.stderr.read()
        assert await process.wait() == 0
        assert json.loads(rest.splitlines()[-1])["event"] == "stopped"


async def test_what_a_script_does_after_the_run_is_not_cut_off(game: Path) -> None:
    (game / "script.py").write_text(SCRIPT + "import time\ntime.sleep(1.5)\nprint('done', flush=True)\n")
    async with python("script.py", cwd=game) as process:
        await read_until(process, "started")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert (await process.stdout.read()).splitlines() == [b"on_stop", b"done"]
        assert await process.wait() == 0


async def test_sighup_kills_nothing_and_opens_the_log_anew(game: Path) -> None:
    log, moved = game / "log", game / "log.1"
    script = f"exec {sys.executable} -m gatelink serve game:server --log-format json 2>>log"
    async with program("bash", "-c", script, cwd=game) as process:
        await until(lambda: log.exists() and "started" in log.read_text())
        log.rename(moved)
        process.send_signal(signal.SIGHUP)
        await until(lambda: log.exists() and "opened again" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert "stopped" in log.read_text() and "stopped" not in moved.read_text()


async def test_sighup_from_the_first_moment_on_kills_no_server(game: Path) -> None:
    (game / "game.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(0.2)\n" + GAME)
    async with python("-m", "gatelink", "serve", "game:server", "--log-format", "json", cwd=game) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        for _ in range(20):
            process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.02)
        await read_until(process, "started")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        assert await process.wait() == 0


async def test_reload_and_ctrl_c_of_a_terminal_run_on_stop_to_its_end(game: Path) -> None:
    slow = GAME.replace(
        '    print("on_stop", flush=True)', '    await asyncio.sleep(0.2)\n    print("on_stop", flush=True)'
    )
    (game / "game.py").write_text(slow)
    arguments = ("-m", "gatelink", "serve", "game:server", "--reload", "--log-format", "json")
    async with python(*arguments, cwd=game) as process:
        await read_until(process, "started")
        await until(lambda: watches_files(process))
        put(game / "game.py", slow + "\n")
        await read_until(process, "stopped")
        await read_until(process, "started")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
        assert process.stdout is not None
        assert (await process.stdout.read()).splitlines() == [b"on_stop", b"on_stop"]
        assert await process.wait() == 0
