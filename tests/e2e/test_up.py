"""`gatelink up`, `top`, `gateway` and `service` as an operator meets them: output, signals, exit statuses."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from examples.demo import reserved_ports
from gatelink import Catalog, Handlers, connect
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.messages import LoginReply
from gatelink.testing.chaos import ChaosProxy
from tests.processes import Process, python

GAME = """
from gatelink import Service
lobby = Service("lobby", type=12)
"""
CLUSTER = """
[engine]
data = "engine"

[gateway]
listen = ["tcp://127.0.0.1:0"]
admin = "127.0.0.1:0"
drain_seconds = 1

[services.lobby]
type = 12
run = "game:lobby"
"""
EVENT = re.compile(r"\x1b\[[0-9;]*m")


class Up:
    """A `gatelink` process whose output is read line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, *parts: str) -> str:
        """The next line that has all of these in it."""
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            line = EVENT.sub("", raw.decode(errors="replace")).rstrip()
            self.lines.append(line)
            if all(part in line for part in parts):
                return line
        raise AssertionError(f"no line with {parts} in\n" + "\n".join(self.lines))

    async def lines_with(self, *each: str) -> None:
        """Waits for a line with each of these, in whatever order."""
        missing = set(each)
        while missing:
            line = await self.line()
            missing -= {part for part in missing if all(word in line for word in part.split(" + "))}

    async def end(self) -> int:
        assert self.process.stdout is not None
        rest = (await self.process.stdout.read()).decode(errors="replace")
        self.lines += EVENT.sub("", rest).splitlines()
        return await self.process.wait()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@asynccontextmanager
async def gatelink(*arguments: str, folder: Path) -> AsyncIterator[Up]:
    wide = {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    async with python("-m", "gatelink", *arguments, cwd=folder, environment=wide, merged=True) as process:
        yield Up(process)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "game.py").write_text(GAME)
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    return tmp_path


def child(of: int, *words: str) -> int:
    """The process id of the child whose command has these words."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
        if parent == of and all(word in command for word in words):
            return int(entry.name)
    raise AssertionError(f"{of} has no child {words}")


LINKED = ("gateway-1 + linked", "lobby-1 + linked")


async def test_a_cluster_comes_up_heals_is_seen_by_top_and_drains_on_ctrl_c(folder: Path) -> None:
    async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED)
        url = folder / "engine" / "url"
        assert url.stat().st_mode & 0o777 == 0o600

        os.kill(child(up.process.pid, "nats-server", "-c"), signal.SIGKILL)
        await up.line("nats-server ended, and is started again")
        os.kill(child(up.process.pid, "service", "game:lobby"), signal.SIGKILL)
        await up.lines_with("ended, and is started again + lobby-1", *LINKED)

        async with gatelink("top", "--config", "cluster.toml", "--dev", "--once", folder=folder) as top:
            assert await top.end() == 0, top.text
        (row,) = [line for line in top.lines if "gateway" in line and "inner" in line]
        assert re.search(r"admin 127\.0\.0\.1:\d+", row) and " 0.1.0 " in row and " up " in row
        assert any("lobby" in line and "12001" in line for line in top.lines)
        assert "2 servers" in top.text and "2 up" in top.text

        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0, up.text
        ends = [line for line in up.lines if "stopped" in line or "stopping" in line]
        assert ends[0].startswith("gateway-1") and ends[-1].startswith("lobby-1"), up.text
        assert not url.exists()
        assert url.parent.exists()

    async with gatelink("top", "--config", "cluster.toml", "--dev", "--once", folder=folder) as top:
        assert await top.end() == 78
        assert "no cluster runs here" in top.text and "gatelink up" in top.text


async def test_a_second_process_of_an_id_replaces_the_first_which_ends_with_3_and_leaves_the_cluster_up(
    folder: Path,
) -> None:
    async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED)
        arguments = ("service", "game:lobby", "--config", "cluster.toml", "--dev")
        async with gatelink(*arguments, folder=folder) as second:
            await second.line("started")
            await up.lines_with("ended, and is not started again", "lobby-1 + another server has the id 12001")
            async with gatelink(*arguments, folder=folder) as third:
                await third.line("started")
                assert await second.end() == 3, second.text
                third.process.send_signal(signal.SIGTERM)
                assert await third.end() == 0, third.text
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0, up.text


async def test_a_second_signal_ends_a_cluster_that_drains(folder: Path) -> None:
    (folder / "cluster.toml").write_text(CLUSTER.replace("drain_seconds = 1", "drain_seconds = 600"))
    async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED, "gateway-1 + started")
        started = next(line for line in up.lines if line.startswith("gateway-1") and "started" in line)
        found = re.search(r"tcp://127\.0\.0\.1:(\d+)", started)
        assert found is not None, started
        _, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))  # a client that keeps the gateway waiting
        try:
            up.process.send_signal(signal.SIGINT)
            await up.line("gateway-1", "draining")
            up.process.send_signal(signal.SIGINT)
            assert await up.end() == 0, up.text
        finally:
            writer.close()


@pytest.mark.parametrize("program", ["missing:lobby", "game:nothing"])
async def test_a_cluster_that_cannot_run_ends_with_78_and_the_reason(folder: Path, program: str) -> None:
    (folder / "cluster.toml").write_text(CLUSTER.replace("game:lobby", program))
    async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
        assert await up.end() == 78, up.text
        assert re.search(rf"lobby-1 +\| gatelink: .*{program.split(':')[0]}", up.text), up.text
        assert re.search(rf"^gatelink: lobby-1 can't run as it is configured: .*{program.split(':')[0]}", up.lines[-1])


@pytest.mark.parametrize(
    ("arguments", "text", "reason"),
    [
        (("gateway",), "[services.lobby]\ntype = 12\nrun = 'game:lobby'\n", "no [gateway]"),
        (("gateway", "--index", "2"), CLUSTER, "--index 2, but gateway.count is 1"),
        (("service", "game:lobby", "--index", "3"), CLUSTER, "--index 3, but services.lobby.count is 1"),
        (("service", "game:lobby"), CLUSTER.replace("type = 12", "type = 13"), "type 12"),
        (("service", "game:lobby"), "[gateway]\n", "no [services.lobby]"),
        (("gateway",), CLUSTER, "no cluster runs here"),
        (("gateway",), '[engine]\nurl = "memory"\n' + CLUSTER.split("\n\n", 1)[1], "only this process can reach"),
    ],
)
async def test_a_process_that_the_configuration_does_not_have_ends_with_78(
    folder: Path, arguments: tuple[str, ...], text: str, reason: str
) -> None:
    (folder / "cluster.toml").write_text(text)
    async with gatelink(*arguments, "--config", "cluster.toml", "--dev", folder=folder) as process:
        assert await process.end() == 78, process.text
        assert reason in process.text and "Traceback" not in process.text


async def test_missing_secrets_keep_a_cluster_from_starting_and_are_named(folder: Path) -> None:
    async with gatelink("up", "cluster.toml", folder=folder) as up:
        assert await up.end() == 78, up.text
        assert "GATELINK_CLUSTER_KEY" in up.text and "--dev" in up.text
        assert not (folder / "engine" / "url").exists()


async def test_an_address_of_a_cluster_that_has_ended_is_told_from_one_that_runs(folder: Path) -> None:
    (folder / "engine").mkdir()
    (folder / "engine" / "url").write_text("nats://gatelink:secret@127.0.0.1:1")
    async with gatelink("top", "--config", "cluster.toml", "--dev", "--once", folder=folder) as top:
        assert await top.end() == 78
        assert "has ended" in top.text and "secret" not in top.text


NASTY = [
    "josé 游戏 50%41 {x} a?b=c&d #e \"f\" 'g' $HOME \\n *",
    "new\nline\ttab",
    os.fsdecode(b"not UTF-8 \xff"),
]


@pytest.mark.parametrize("name", NASTY, ids=ascii)
async def test_a_cluster_runs_in_a_folder_of_any_name_and_keeps_its_data_there(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "game.py").write_text(GAME)
    login = '[login]\nlisten = "http://127.0.0.1:0"\n[accounts]\nurl = "sqlite:///accounts.db"\n'
    (folder / "cluster.toml").write_text(CLUSTER + login)
    config = str(folder / "cluster.toml")
    async with gatelink("up", config, "--dev", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED, "login + started")
        async with gatelink("top", "--config", config, "--dev", "--once", folder=folder) as top:
            assert await top.end() == 0, top.text
            assert "2 up" in top.text
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0, up.text
    assert (folder / "engine" / "store" / "jetstream").is_dir() and (folder / "engine" / "log").is_file()
    assert (folder / "accounts.db").is_file()
    assert os.listdir(tmp_path) == [name]
    async with gatelink("config", "check", config, "--dev", folder=folder) as check:
        assert await check.end() == 0, check.text


async def guest(url: str) -> LoginReply:
    """Log in as a guest at the login service of a cluster that has just started."""
    async with LoginClient(url) as client, asyncio.timeout(60):
        while True:
            try:
                return await client.guest(device_id="0123456789abcdef")
            except LoginFailed as error:  # the gateway's links are there, and its entry may be on its way
                assert error.code == "no-gateway"
                await asyncio.sleep(0.1)


PAGE = """
[login]
listen = "http://127.0.0.1:0"
methods = ["guest"]

[accounts]
url = "sqlite:///users.db"

[page]
folder = "web"
listen = "http://127.0.0.1:{port}"
"""


async def fetched(url: str, **headers: str) -> tuple[bytes, Message]:
    """The body and the headers of a reply."""

    def fetch() -> tuple[bytes, Message]:
        with urlopen(Request(url, headers=headers), timeout=60) as reply:
            return reply.read(), reply.headers

    return await asyncio.to_thread(fetch)


async def test_up_with_dev_serves_the_page_which_may_log_in_and_resumes_without_tls(folder: Path) -> None:
    (folder / "web").mkdir()
    (folder / "web" / "index.html").write_text("the game")
    with reserved_ports() as port:
        text = CLUSTER.replace('"tcp://127.0.0.1:0"]', '"ws://127.0.0.1:0"]')
        (folder / "cluster.toml").write_text(text + PAGE.format(port=port))
        async with gatelink("up", "cluster.toml", "--dev", folder=folder) as up:
            ready = await up.line("ready", f"page='http://127.0.0.1:{port}/'")
            login = re.search(r"login='(http://[0-9.:]+)'", ready)
            assert login is not None, ready
            assert (await fetched(f"http://127.0.0.1:{port}/"))[0] == b"the game"
            assert (await fetched(f"http://127.0.0.1:{port}/gatelink.json"))[0] == f'{{"login":"{login[1]}"}}'.encode()
            origin = f"http://localhost:{port}"
            _, headers = await fetched(f"{login[1]}/v1/servers", Origin=origin)
            assert headers["Access-Control-Allow-Origin"] == origin

            reply = await guest(login[1])
            resumed = asyncio.Event()
            handlers = Handlers(Catalog())
            handlers.on_resumed(lambda session: resumed.set())
            gateway = int(reply.addresses["ws"].rpartition(":")[2])
            async with ChaosProxy(("127.0.0.1", gateway), ()) as proxy:
                at = f"ws://127.0.0.1:{proxy.address[1]}"
                session = await connect(at, uid=reply.uid, token=reply.token, handlers=handlers, resume=True)
                proxy.cut_all()
                await resumed.wait()
                session.close()
                await session.wait_closed()
            up.process.send_signal(signal.SIGINT)
            assert await up.end() == 0, up.text


async def test_up_with_dev_says_that_the_page_s_folder_is_missing(folder: Path) -> None:
    (folder / "cluster.toml").write_text(CLUSTER + PAGE.format(port=8000))
    async with gatelink("up", "cluster.toml", "--dev", folder=folder) as up:
        assert await up.end() == 78, up.text
        assert "there is no folder" in up.lines[-1] and up.lines[-1].startswith("gatelink: ")


ORPHANS = """
import subprocess, sys
from gatelink import Service
lobby = Service("lobby", type=12)

@lobby.on_start
async def leave_orphans():
    # A shell that ends at once, and leaves a process that ends after it: the child of the process that adopts it.
    subprocess.run(["sh", "-c", "sleep 0.2 & echo $! > orphan"], check=True)
"""
ADOPT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as process 1 of a container
os.execv(sys.executable, [sys.executable, "-m", "gatelink", "up", "cluster.toml", "--dev", "--log-level", "debug"])
"""


async def test_up_as_the_first_process_of_a_container_takes_note_of_orphans(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    (tmp_path / "game.py").write_text(ORPHANS)
    async with python("-c", ADOPT, cwd=tmp_path, merged=True) as process:
        up = Up(process)
        await up.lines_with(*LINKED)
        orphan = tmp_path / "orphan"
        async with asyncio.timeout(60):
            while not orphan.exists() or not orphan.read_text().strip():  # noqa: ASYNC110 - a file tells of no event
                await asyncio.sleep(0.05)
            pid = int(orphan.read_text())
            while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - nor does a process of somebody else's
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await up.end() == 0


async def test_a_hangup_ends_neither_up_nor_its_processes(folder: Path) -> None:
    async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED)
        for _ in range(3):
            up.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.1)
        up.process.send_signal(signal.SIGTERM)
        assert await up.end() == 0
        assert "is started again" not in up.text


async def test_the_login_has_its_own_keys_and_not_the_clusters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789abcdef" * 4
    monkeypatch.setenv("GATELINK_CLUSTER_KEY", secret)
    monkeypatch.delenv("GATELINK_LOGIN_KEY", raising=False)
    text = (
        CLUSTER
        + '[login]\nlisten = "http://127.0.0.1:0"\nmethods = ["guest"]\n[accounts]\nurl = "sqlite:///users.db"\n'
    )
    (folder / "cluster.toml").write_text(text)
    async with gatelink("up", "cluster.toml", "--log-level", "debug", folder=folder) as up:
        await up.lines_with(*LINKED, "login + started + http://")
        pid = child(up.process.pid, "gatelink", "login")
        environment = (Path("/proc") / str(pid) / "environ").read_bytes()
        assert secret.encode() not in environment and b"GATELINK_LOGIN_KEY=login-key " in environment
        pid = child(up.process.pid, "gatelink", "gateway")
        assert secret.encode() in (Path("/proc") / str(pid) / "environ").read_bytes()
        url = re.search(r"listen='(http://127.0.0.1:\d+)", up.text)
        assert url is not None
        reply = await guest(url[1])
        session = await connect(reply.addresses["tcp"], uid=reply.uid, token=reply.token, handlers=Handlers(Catalog()))
        session.close()
        await session.wait_closed()
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0
