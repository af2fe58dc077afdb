"""Every example does what it says, over real sockets; hello as a newcomer runs it, the others in this process."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatelink import CloseCode, ConnectError, Listen, Server, connect
from gatelink.robots import Run
from gatelink.wire.base import VERIFY_FAILED, VERIFY_REQUEST, VERIFY_SUCCEEDED, ClientVerifyRequest
from gatelink.wire.codecs import BINARY
from gatelink.wire.frames import FrameDecoder, encode_frame
from tests.support import MS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 10_000 * MS
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


# -- hello --


@asynccontextmanager
async def program(*arguments: str, **streams: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m ARGUMENTS` in the repository, killed at the latest when the block is left."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT, env=environment, **streams
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_hello_runs_as_the_readme_says() -> None:
    serve = ("gatelink", "serve", "examples.hello.server:server", "--listen", "tcp://127.0.0.1:0")
    async with (
        asyncio.timeout(LIMIT),
        program(*serve, "--log-format", "json", stderr=asyncio.subprocess.PIPE) as server,
    ):
        assert server.stderr is not None
        address = json.loads(await server.stderr.readline())["listen"][0]
        async with program("examples.hello.client", address, stdout=asyncio.subprocess.PIPE) as client:
            out, _ = await client.communicate()
        assert (client.returncode, out) == (0, b"hello, 7!\n")
        server.send_signal(signal.SIGTERM)
        await server.stderr.read()
        assert await server.wait() == 0


async def test_hellos_robots_find_nothing_wrong() -> None:
    from examples.hello.robots import Greeter
    from examples.hello.server import server

    async with running(server) as (address,):
        tally = await Run(Greeter, address=address, count=5, seconds=LIMIT).run()
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
    from examples.world import client
    from examples.world.server import server

    async with running(server) as (address,):
        await client.main(address)
    steps = [float(x) for x in re.findall(r"player 7 is at ([\d.]+), 0\.00", capsys.readouterr().out)]
    assert steps == sorted(set(steps)) and steps[-1] >= 1


# -- doors --


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the doors' certificate and desk; the server's module reads its name when it is imported."""
    from examples.doors import certificate

    folder = tmp_path_factory.mktemp("doors")
    certificate.make(folder)
    os.environ["DOORS"] = str(folder)
    return folder


async def test_a_player_gets_a_token_at_the_desk_and_in_by_tls(doors: Path) -> None:
    from examples.doors import client
    from examples.doors.server import server

    async with running(server) as (tls, _, _):
        session = await client.enter(tls, doors, uid=7)
        assert server.sessions.get(7) is not None
        session.close()
        await session.wait_closed()
        with pytest.raises(ConnectError) as refused:
            await connect(tls, uid=7, token="a guess", tls=client.trust(doors))
        assert refused.value.code is CloseCode.VERIFY_FAILED


async def test_the_balancers_door_counts_and_bans_by_the_address_it_names(doors: Path) -> None:
    from examples.doors.client import fetch_token
    from examples.doors.server import server

    async with running(server) as (_, tcp, _):
        port = int(tcp.rpartition(":")[2])
        peers = [await Peer.come_in(port, "203.0.113.7", uid, await fetch_token(doors, uid)) for uid in (1, 2)]
        assert [await peer.first_id() for peer in peers] == [VERIFY_SUCCEEDED, VERIFY_SUCCEEDED]
        assert [session.uid for session in server.sessions.at("203.0.113.7")] == [1, 2]

        for host, reason in (("203.0.113.7", "address-full"), ("198.51.100.66", "accept-hook")):
            peer = await Peer.come_in(port, host, 3, await fetch_token(doors, 3))
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
    from examples.tokens import client
    from examples.tokens.server import server, tokens

    ada, bob = tokens.issue(7, "Ada"), tokens.issue(8, "Bob", "moderator")
    async with running(server) as (address,):
        player = asyncio.create_task(client.main(address, 7, ada))
        moderator = asyncio.create_task(client.main(address, 8, bob, ban=7))
        await player
        with pytest.raises(ConnectError, match="the server refused the token"):
            await client.main(address, 7, ada)
        with pytest.raises(ConnectError, match="the server refused the token"):
            await client.main(address, 9, bob)
        server.sessions.get(8).close()  # type: ignore[union-attr]
        await moderator
    out = capsys.readouterr().out
    assert "in as Ada" in out and "7 is banned" in out
    assert "7 is gone: kicked, banned by a moderator" in out


# -- flow --


async def watch(how: str) -> tuple[list[int], list[int], int]:
    """What a slow watcher saw, before and after the gap, and the number of the first picture after it could read."""
    from examples.flow import slow

    async with asyncio.timeout(LIMIT):
        numbers = await slow.main(how)
    gaps = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
    assert len(gaps) <= 1 and numbers == sorted(set(numbers))
    at = gaps[0] if gaps else len(numbers)
    return numbers[:at], numbers[at:], numbers[-1]


async def test_latest_gives_a_slow_reader_the_newest_only() -> None:
    _, after, _ = await watch("latest")
    assert len(after) >= 1
