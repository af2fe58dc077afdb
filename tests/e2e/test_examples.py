"""Every example does what it says, over real sockets; hello as a newcomer runs it, the others in this process."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import ssl
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.demo import reserved_ports
from gatelink import CloseCode, ConnectError, Handlers, Listen, Server, Session, connect
from gatelink.login.client import LoginFailed
from gatelink.robots import LoadTest
from gatelink.wire.base import VERIFY_FAILED, VERIFY_REQUEST, VERIFY_SUCCEEDED, ClientVerifyRequest
from gatelink.wire.codecs import BINARY
from gatelink.wire.frames import FrameDecoder, encode_frame
from tests import issuer
from tests.e2e.support import leave
from tests.processes import ended, python
from tests.support import MS, TEST_TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
LIMIT = TEST_TIMEOUT  # on a busy machine four logins over HTTP take longer than 30 s
TOKEN = f"{7:032d}"


def on_free_port(listen: str | Listen) -> str | Listen:
    """The same door, at any port that is free."""
    if isinstance(listen, str):
        return re.sub(r":\d+$", ":0", listen)
    return msgspec.structs.replace(listen, endpoint=str(on_free_port(listen.endpoint)))


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[list[str]]:
    """Runs an example's server at free ports; where it listens."""
    server.listen = tuple(map(on_free_port, server.listen))
    async with asyncio.timeout(LIMIT), server:
        yield [str(endpoint) for endpoint in server.endpoints]


async def listening_at(log: asyncio.StreamReader) -> str:
    """Where a server listens, by its log in JSON; a warning may stand before that."""
    async for line in log:
        if "listen" in (event := json.loads(line)):
            return str(event["listen"][0])
    raise AssertionError("the server ended before it listened")


# -- hello --


async def test_hello_runs_as_the_readme_says() -> None:
    serve = ("gatelink", "serve", "examples.hello.server:server", "--listen", "tcp://127.0.0.1:0")
    async with python("-m", *serve, "--log-format", "json") as server:
        assert server.stderr is not None
        address = await listening_at(server.stderr)
        async with python("-m", "examples.hello.client", address) as client:
            assert await ended(client) == (0, "hello, 7!\n", "")
        server.send_signal(signal.SIGTERM)
        assert (await ended(server))[0] == 0


README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def section(heading: str) -> str:
    """The text of the README below a heading."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README.md has no heading {heading!r}"
    return found[1]


async def test_a_game_from_an_empty_folder_runs_as_the_readme_says(tmp_path: Path) -> None:
    """Its files and commands, but for those that install, and with a port of the test's."""
    text = section("In a project of your own")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "game.py").write_text(code)
    commands = re.findall(r"^    \.venv/bin/(.*)$", text, re.MULTILINE)
    install, serve, play = (shlex.split(command) for command in commands)
    assert install[:2] == ["pip", "install"] and serve[0] == "gatelink" and play[0] == "python"
    listening = ("--listen", "tcp://127.0.0.1:0", "--log-format", "json")
    async with python("-m", *serve, *listening, cwd=tmp_path) as server:
        assert server.stderr is not None
        address = await listening_at(server.stderr)
        async with python(*play[1:], address, cwd=tmp_path) as client:
            status, out, err = await ended(client)
            assert (status, err) == (0, "")
        server.send_signal(signal.SIGTERM)
        assert (await ended(server))[0] == 0
    promised = re.search(r"which prints `([^`]*)`, `([^`]*)` and `([^`]*)`", text)
    assert promised is not None and out.splitlines() == list(promised.groups())


def test_every_extra_that_the_readme_installs_is_there() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    there = set(project["optional-dependencies"])
    named = {extra for group in re.findall(r"gatelink\[([a-z,]+)\]", README) for extra in group.split(",")}
    assert named <= there and named >= there - {"dev"}


EXAMPLES = (ROOT / "examples" / "README.md").read_text()


def test_every_example_is_in_the_table_once() -> None:
    folders = [path.name for path in ROOT.glob("examples/*") if path.is_dir() and path.name[0] not in "._"]
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)/", EXAMPLES, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(folders)
    assert all(name == folder for name, folder in rows)


ALONE = re.findall(r"\| `python -m ([\w. ]+)` \|$", EXAMPLES, re.MULTILINE)
"""The commands of the table that run a server and its client together."""


@pytest.mark.parametrize("command", [each for each in ALONE if "URL" not in each])
async def test_an_example_that_runs_alone_prints_what_matters_and_no_log(command: str) -> None:
    async with python("-m", *command.split()) as process:
        status, out, err = await ended(process)
    assert (status, err) == (0, "") and 1 <= len(out.splitlines()) <= 4, out + err


INTERRUPTED = """
import asyncio, os, runpy, signal, sys
import gatelink.testing

ARGUMENTS = {
    "examples.cluster_client.client": ["http://127.0.0.1:8080", "a device"],
    "examples.slow_readers.slow": ["latest"],
    "examples.token_store.client": ["7", "a token"],
}
run = asyncio.run
os.dup2(os.pipe()[0], 0)  # an input that says nothing, for the driver


async def interrupted(main):
    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C, while the loop runs
    await main


asyncio.run = lambda main: run(interrupted(main))
for module in sys.argv[1:]:
    if os.fork() == 0:  # for each a process, which need not import gatelink again
        sys.argv[1:] = ARGUMENTS.get(module, [])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    _, status = os.wait()
    print(module, os.waitstatus_to_exitcode(status), flush=True)
"""


async def test_ctrl_c_ends_each_example_without_a_traceback(tmp_path: Path) -> None:
    from examples.listeners import certificate

    certificate.make(tmp_path)
    files = [file for file in sorted(ROOT.glob("examples/*/*.py")) if "asyncio.run(" in file.read_text()]
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    assert {"examples.hello.client", "examples.start.game", "examples.cluster_calls.market"} <= set(modules)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "desk.sock"))
        silent.listen()
        async with python("-c", INTERRUPTED, *modules, environment={"LISTENERS": str(tmp_path)}) as process:
            _, out, err = await ended(process)
    assert (out.splitlines(), err) == ([f"{module} 0" for module in modules], "")


REFUSED = """
import asyncio, runpy, sys
import gatelink.testing
from gatelink import ConnectError


def refused(main):
    main.close()
    raise ConnectError("tcp://127.0.0.1:7000: Connection refused; is the server running there?")


asyncio.run = refused
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


CLIENTS: dict[str, list[str]] = {
    "hello.client": [],
    "start.game": [],
    "game_loop.client": [],
    "codecs.client": [],
    "metrics.client": [],
    "listeners.client": [],
    "token_store.client": ["7", "a token"],
    "cluster_client.client": ["http://127.0.0.1:8080", "a device"],
}
"""The clients of a server that runs elsewhere, and their arguments."""


@pytest.mark.parametrize("module", CLIENTS)
async def test_a_client_without_its_server_says_so_in_one_line(module: str) -> None:
    async with python("-c", REFUSED, f"examples.{module}", *CLIENTS[module]) as process:
        status, out, err = await ended(process)
    assert (status, out) == (1, "")
    assert err == "tcp://127.0.0.1:7000: Connection refused; is the server running there?\n"


async def test_hellos_client_without_a_server_asks_whether_it_runs_there() -> None:
    with reserved_ports() as port:
        async with python("-m", "examples.hello.client", f"tcp://127.0.0.1:{port}") as client:
            status, out, err = await ended(client)
    assert (status, out) == (1, "")
    assert err == f"tcp://127.0.0.1:{port}: Connection refused; is the server running there?\n"


async def test_hellos_robots_find_nothing_wrong() -> None:
    from examples.hello.robots import Greeter
    from examples.hello.server import server

    async with running(server) as (address,):
        tally = await LoadTest(Greeter, address=address, count=5, seconds=LIMIT).run()
        assert tally.held and tally.sent == tally.received == 50


# -- codecs --


async def test_every_codec_comes_back_equal_and_an_unknown_id_as_it_was() -> None:
    from examples.codecs import client
    from examples.codecs.server import server

    seen: list[Any] = []
    async with running(server) as (address,):
        await client.main(address, seen.append)
    assert seen[:-1] == client.MESSAGES
    assert [type(message) for message in seen[:-1]] == [type(message) for message in client.MESSAGES]
    assert seen[-1] == (client.UNKNOWN, 0, b"as it is")


# -- world --


async def test_the_world_moves_a_player_tick_by_tick(capsys: pytest.CaptureFixture[str]) -> None:
    from examples.game_loop import client
    from examples.game_loop.server import server

    async with running(server) as (address,):
        await client.main(address)
    steps = [float(x) for x in re.findall(r"player 7 is at ([\d.]+), 0\.00", capsys.readouterr().out)]
    assert steps == sorted(steps) and len(set(steps)) > 1 and steps[-1] >= 1


# -- websocket --


async def test_everybody_on_the_page_hears_what_anybody_says() -> None:
    from examples.websocket.server import Said, Say, server

    heard: asyncio.Queue[tuple[int, Said]] = asyncio.Queue()
    handlers = Handlers()
    handlers.on(Said)(lambda session, message: heard.put_nowait((session.uid, message)))
    async with running(server) as (address,):
        sessions = [await connect(address, uid=uid, token=f"{uid:032d}", handlers=handlers) for uid in (7, 8)]
        sessions[0].send(Say("hello"))
        assert {(await heard.get())[0], (await heard.get())[0]} == {7, 8}
        for session in sessions:
            await leave(session)


# -- listeners --


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the listeners' certificate and desk; the server's module reads its name when it is imported."""
    from examples.listeners import certificate

    made = tmp_path_factory.mktemp("listeners")
    certificate.make(made)
    os.environ["LISTENERS"] = str(made)
    return made


async def test_a_player_gets_a_token_at_the_desk_and_in_by_tls(folder: Path) -> None:
    from examples.listeners import client
    from examples.listeners.server import server

    async with running(server) as (tls, _, _):
        session = await client.enter(tls, folder, uid=7)
        assert server.sessions.get(7) is not None
        await leave(session)
        with pytest.raises(ConnectError) as refused:
            trusted = ssl.create_default_context(cafile=folder / "certificate.pem")
            await connect(tls, uid=7, token="a guess", tls=trusted)
        assert refused.value.code is CloseCode.VERIFY_FAILED


async def test_the_balancers_listener_counts_and_bans_by_the_address_it_names(folder: Path) -> None:
    from examples.listeners.client import fetch_token
    from examples.listeners.server import server

    async with running(server) as (_, tcp, _):
        port = int(tcp.rpartition(":")[2])
        peers = [await Peer.come_in(port, "203.0.113.7", uid, await fetch_token(folder, uid)) for uid in (1, 2)]
        assert [await peer.first_id() for peer in peers] == [VERIFY_SUCCEEDED, VERIFY_SUCCEEDED]
        assert [session.uid for session in server.sessions.at("203.0.113.7")] == [1, 2]

        for host, reason in (("203.0.113.7", "address-full"), ("198.51.100.66", "accept-hook")):
            peer = await Peer.come_in(port, host, 3, await fetch_token(folder, 3))
            assert await peer.first_id() is None
            assert server.stats.refused[reason] == 1
            peer.writer.close()

        wrong = await Peer.come_in(port, "203.0.113.8", 3, "a guess")
        assert await wrong.first_id() == VERIFY_FAILED
        for peer in [*peers, wrong]:
            peer.writer.close()


class Peer:
    """A bare socket that comes through a load balancer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def come_in(cls, port: int, host: str, uid: int, token: str) -> "Peer":
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        addresses = bytes(map(int, host.split("."))) + bytes([127, 0, 0, 1]) + bytes(4)
        encode, _ = BINARY.bind(ClientVerifyRequest)
        request = encode_frame(VERIFY_REQUEST, encode(ClientVerifyRequest(source=0, uid=uid, token=token)))
        peer.writer.write(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + addresses + request)
        return peer

    async def first_id(self) -> int | None:
        """The id of the first message that comes; None when the connection ends before."""
        decoder = FrameDecoder(1_024)
        try:
            while data := await self.reader.read(1_024):
                for id, _, _ in decoder.feed(data):
                    return id
        except ConnectionError:
            pass
        return None


# -- tokens --


async def test_a_banned_player_is_out_and_stays_out(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ.setdefault("ACCOUNTS", str(tmp_path_factory.mktemp("tokens") / "accounts.db"))
    from examples.token_store import client
    from examples.token_store.messages import catalog
    from examples.token_store.server import server, tokens

    ada, bob = tokens.issue(7, "Ada"), tokens.issue(8, "Bob", "moderator")
    async with running(server) as (address,):
        player = await connect(address, uid=7, token=ada, handlers=client.handlers, catalog=catalog)
        tablet = await connect(address, uid=7, token=ada, catalog=catalog, slot=1)
        moderator = asyncio.create_task(client.main(address, 8, bob, ban=7))
        await player.wait_closed()
        await tablet.wait_closed()
        assert not server.sessions.of(7)
        for uid, token in ((7, ada), (9, bob)):
            with pytest.raises(ConnectError, match="the server refused the token"):
                await client.main(address, uid, token)
        open_one = server.sessions.get(8)
        assert open_one is not None
        open_one.close()
        await moderator
    out = capsys.readouterr().out
    assert "in as Ada" in out and "7 is banned; 2 sessions were open" in out
    assert "7 is gone: kicked, banned by a moderator" in out


# -- logins --


async def test_a_login_service_of_ones_own_lets_in_a_forums_users_and_an_issuers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.login_service import client
    from examples.login_service.server import running, server

    key = issuer.new_key("ES256")
    (tmp_path / "keys.json").write_bytes(issuer.jwks(key))
    server.listen = ("tcp://127.0.0.1:0",)
    async with (
        asyncio.timeout(LIMIT),
        running("http://127.0.0.1:0", issuer.NAME, issuer.AUDIENCE, str(tmp_path / "keys.json")) as login,
    ):
        assert await client.main(login.url, "ada", "correct horse") == 7
        id_token = issuer.sign(key, "ES256", issuer.claims(sub="5", name="eve"))
        assert await client.main(login.url, id_token=id_token) == 1_000_005
        for user, password in (("ada", "battery staple"), ("mallory", "correct horse")):
            with pytest.raises(LoginFailed) as refused:
                await client.main(login.url, user, password)
            assert refused.value.code == "wrong-credentials"
    came = re.findall(r"^(\w+) is in as (\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert came == [("ada", "7"), ("eve", "1000005")]


# -- flow --


async def watch(how: str) -> tuple[list[int], int]:
    """The numbers that a slow watcher saw after its last gap, none if it had none; and the last that was taken."""
    from examples.slow_readers import slow

    async with asyncio.timeout(LIMIT):
        watcher = await slow.main(how)
    seen = watcher.numbers
    gaps = [at for at in range(1, len(seen)) if seen[at] != seen[at - 1] + 1]
    assert seen == sorted(set(seen)), seen
    return seen[gaps[-1] :] if gaps else [], int(watcher.goal)


@pytest.fixture(params=[1, 5], ids=["timely", "late"])
def camera(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera's ticks come in time, or so late that there are five in one turn, as on a busy machine."""
    from examples.slow_readers import server

    def ticks(seconds: float) -> None:
        for _ in range(request.param):
            server.tick(seconds)

    monkeypatch.setattr(server.server, "_on_tick", ticks)


@pytest.mark.usefixtures("camera")
async def test_a_key_gives_a_slow_reader_the_newest_only() -> None:
    after, taken = await watch("latest")
    assert after == [taken]


@pytest.mark.usefixtures("camera")
async def test_drop_oldest_gives_a_slow_reader_as_many_of_the_newest_as_fit() -> None:
    after, taken = await watch("recent")
    assert len(after) >= 4 and after[-1] == taken


async def test_a_slow_reader_that_must_not_miss_anything_is_closed() -> None:
    from examples.slow_readers.server import server

    closed = server.stats.closed[CloseCode.SLOW_CONSUMER]
    after, _ = await watch("all")
    assert after == [] and server.stats.closed[CloseCode.SLOW_CONSUMER] == closed + 1


async def test_drain_sends_a_film_larger_than_the_outbox() -> None:
    from examples.slow_readers.messages import Download, Part, catalog
    from examples.slow_readers.server import FILM, PART, server

    parts: list[int] = []
    handlers = Handlers(catalog)

    @handlers.on(Part)
    def part(session: Session, message: Part) -> None:
        parts.append(message.number)
        if message.number == message.of:
            session.close()

    assert len(FILM) > 4 * server.limits.max_outbox_bytes
    async with running(server) as (address,):
        session = await connect(address, uid=7, token=TOKEN, handlers=handlers, catalog=catalog)
        session.send(Download())
        await session.wait_closed()
    assert parts == list(range(1, len(FILM) // PART + 1))


# -- breaks --


async def test_every_number_comes_back_once_however_often_the_connection_breaks() -> None:
    from examples.resume import client

    async with asyncio.timeout(LIMIT):
        seen, breaks = await client.main()
    assert breaks >= 5 and seen == list(range(1, client.LAST + 1))


# -- requests --


async def test_two_players_are_in_the_room_a_third_is_refused_and_a_login_is_renewed() -> None:
    from examples.requests import client

    async with asyncio.timeout(LIMIT):
        told = await client.main()
    assert told == [
        "7 is in the room with [7]",
        "8 is in the room with [7, 8]",
        "9 is refused: blue has two players",
        "7 has renewed its login",
    ]


# -- peers --


async def test_every_coin_is_in_the_bank_however_often_the_link_to_it_breaks() -> None:
    from examples.linked_servers import client

    async with asyncio.timeout(LIMIT):
        coins, breaks = await client.main()
    assert coins == client.COINS and breaks >= 3


# -- porting --


async def walker(address: str, catalog: Any, *what: Any) -> list[Any]:
    """The messages that a client gets after it sent `what`, up to as many answers."""
    handlers, heard, all_heard = Handlers(catalog), list[Any](), asyncio.Event()

    @handlers.default
    def hear(session: Session, message: Any) -> None:
        heard.append(message)
        if len(heard) == len(what):
            all_heard.set()

    session = await connect(address, uid=7, token=TOKEN, handlers=handlers, catalog=catalog)
    for message in what:
        session.send(message)
    await all_heard.wait()
    await leave(session)
    return heard


async def test_a_receiver_of_ones_own_and_another_beside_it_hear_each_message() -> None:
    from examples.porting.messages import Chat, catalog
    from examples.porting.receiver import server

    seen: list[Any] = []
    server.handlers.on(Chat, also=True)(lambda session, message: seen.append(session.data))
    async with running(server) as (address,):
        assert await walker(address, catalog, Chat("one"), Chat("two")) == [Chat("one"), Chat("two")]
        while not server.stats.closed or seen[0][-1] != "left":  # noqa: ASYNC110
            await asyncio.sleep(MS)
    assert seen[0] == ["came", "one", "two", "left"]


async def test_each_session_has_a_handler_object_of_its_own() -> None:
    from examples.porting.each import server
    from examples.porting.messages import Chat, Walk, catalog

    async with running(server) as (address,):
        for _ in range(2):  # each begins at 0
            assert await walker(address, catalog, Walk(1), Walk(2), Chat("run")) == [Walk(1), Walk(3), Walk(13)]


async def test_a_server_that_dials_a_server_forwards_to_it_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from examples.porting import front, space
    from examples.porting.messages import Walk, catalog

    async with running(space.server) as (backend,):
        monkeypatch.setattr(front, "space_address", backend)
        async with running(front.server) as (address,):
            assert await walker(address, catalog, Walk(3), Walk(5)) == [Walk(6), Walk(10)]


# -- talk --


async def test_services_post_call_and_hear_events(capsys: pytest.CaptureFixture[str]) -> None:
    from examples.cluster_calls import market

    async with asyncio.timeout(LIMIT):
        await market.main()
    said = ["a rope costs 3", "the bell rings 2 times", "server 32001 sold a lamp for 12"]
    assert [line for line in capsys.readouterr().out.splitlines() if line in said] == said


# -- metrics --


async def test_the_admin_port_counts_what_was_asked_and_what_failed() -> None:
    from examples.metrics import client
    from examples.metrics.server import server

    server.admin = "127.0.0.1:0"
    async with running(server) as (address,):
        found = await client.main(address, f"127.0.0.1:{server.admin_port}")
    assert found['gatelink_messages_total{direction="in",message="Ask"}'] == client.QUESTIONS + 1
    assert found['gatelink_messages_total{direction="out",message="Answer"}'] == client.QUESTIONS
    assert found['gatelink_handler_errors_total{message="Ask"}'] == 1
    assert found["gatelink_logins_total"] == 1
