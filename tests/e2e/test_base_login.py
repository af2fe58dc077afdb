"""Deployed clients write behind their login request without waiting (docs/protocol.md, "Frames")."""

import asyncio
import struct
from pathlib import Path
from random import Random

import pytest

from gatelink import Identity, Limits, Listen
from gatelink.testing import BaseClient
from gatelink.wire.frames import encode_frame
from tests.e2e.base_clients import SAY, WORLDS, say, world
from tests.e2e.support import TCP, Echo, RawClient, frame_of, make_certificate, serving, token_of, until, verify_request
from tests.support import MS

COUNTS = (1, 4, 6, 10, 200)
PROXY_HEADERS = (
    b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\0\1\0\2",
)


class Gated:
    """Tokens that are checked when `gate` opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        await self.gate.wait()
        return Identity(uid)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("form", [{}, {"scramble": True, "compress": True}], ids=["plain", "both"])
async def test_messages_right_behind_the_request_all_arrive_in_order(
    name: str, count: int, form: dict[str, bool]
) -> None:
    async with world(name) as there, BaseClient(7, token_of(7), **form) as client:
        for n in range(count):
            client.send(SAY, say(n))
        await client.open(there.endpoint)
        await client.until(lambda: len(client.events) == 1 + count)
        assert [heard.id for heard in client.events] == [2] + [SAY] * count
        assert there.numbers(7) == list(range(count))
        assert there.front.stats.refused == {} and there.front.stats.bans == 0


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("size", [1_022, 1_100, 2_048, 60_000])
async def test_one_large_message_behind_the_request_arrives(name: str, size: int) -> None:
    """The limit of a frame before verification is the request's, not that of what comes behind it."""
    async with world(name) as there, BaseClient(7, token_of(7)) as client:
        client.send(SAY, say(1, b"x" * size))
        client.send(SAY, say(2))
        await client.open(there.endpoint)
        await client.until(lambda: len(client.events) == 3)
        assert client.events[1].body == say(1, b"x" * size) and there.numbers(7) == [1, 2]


@pytest.mark.parametrize("name", WORLDS)
async def test_what_is_written_while_the_token_is_checked_arrives_behind_what_came_with_it(name: str) -> None:
    tokens = Gated()
    async with world(name, tokens=tokens) as there, BaseClient(7, b"any") as client:
        client.send(SAY, say(0))
        await client.open(there.endpoint)
        await until(lambda: [c for c in there.front.connections if c.buffered])
        for n in range(1, 500):
            client.send(SAY, say(n, b"x" * 50))
        await until(lambda: max(c.buffered for c in there.front.connections) == Limits().max_unverified_bytes)
        tokens.gate.set()
        await client.until(lambda: len(client.events) == 501)
        assert there.numbers(7) == list(range(500))


async def test_what_comes_behind_a_request_is_no_failure_whatever_it_is() -> None:
    """The token is wrong, and that alone counts; garbage behind a good one ends a session, and bans nobody."""
    limits = Limits(exempt=(), free_failures=1)
    garbage = b"\xff" * 5_000
    async with world("one process", limits=limits) as there:
        for _ in range(5):
            async with BaseClient(7, token_of(7)) as client:
                client.write(garbage)
                await client.open(there.endpoint)
                await client.closed()
                assert client.answer is not None
        assert there.front.stats.refused == {} and there.front.stats.bans == 0


@pytest.mark.parametrize("name", WORLDS)
async def test_a_login_that_is_refused_hears_so_however_much_it_has_written(name: str) -> None:
    async with world(name) as there, BaseClient(7, b"wrong") as client:
        for n in range(2_000):
            client.send(SAY, say(n, b"x" * 100))
        await client.open(there.endpoint)
        await client.message(3)
        assert there.heard == [] and there.front.stats.refused == {"verify-failed": 1}


async def test_a_client_that_leaves_while_its_token_is_checked_is_noticed() -> None:
    async with serving(tokens=Gated()) as server:
        client = await RawClient.open(server)
        client.send(verify_request(7))
        await until(lambda: server.logins)
        await client.close()
        await until(lambda: not server.logins and not server.connections)
        assert server.stats.refused == {"left-unverified": 1}


@pytest.mark.open_files(2_000)
async def test_connections_that_send_all_they_can_before_verification_hold_no_more_than_the_bound() -> None:
    """Each sends its request, then as much as the kernel takes; the server reads `max_unverified_bytes` of it."""
    count = 500
    limits = Limits(max_per_address=count, max_unverified_per_address=count, verify_timeout=60)
    async with serving(tokens=Gated(), limits=limits) as server:
        clients = [await RawClient.open(server) for _ in range(count)]
        for uid, client in enumerate(clients, 1):
            client.send(verify_request(uid), bytes(300_000))
        await until(lambda: len(server.connections) == count and all(c.buffered for c in server.connections))
        full = limits.max_unverified_bytes
        await until(lambda: all(connection.buffered == full for connection in server.connections))
        assert len(server.logins) == count and server.stats.refused == {}
        assert max(connection.held_bytes for connection in server.connections) <= full
        assert all(not connection.transport.is_reading() for connection in server.connections)
        for client in clients:
            client.writer.transport.abort()


@pytest.mark.parametrize("size", [1, 100, 1_023])
async def test_a_frame_that_never_gets_whole_holds_what_it_has_sent_and_no_more(size: int) -> None:
    async with serving(limits=Limits(verify_timeout=1_000 * MS)) as server:
        client = await RawClient.open(server)
        client.send(struct.pack("<I", 1_024)[:3] + b"\0" + b"\1" * size)
        await until(lambda: [c.buffered for c in server.connections] == [4 + size])
        assert await client.rest() == [] and server.stats.refused == {"verify-timeout": 1}
        await client.close()


async def test_over_tls_messages_behind_the_request_arrive_too(tmp_path: Path) -> None:

    certificate, key, context = make_certificate(tmp_path)
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(listen) as server:
        client = await RawClient.open(server, context)
        client.send(verify_request(7), *(frame_of(Echo(n, "x" * 50)) for n in range(200)))
        assert (await client.frame())[0] == 2
        assert [(await client.message()).n for _ in range(200)] == list(range(200))
        await client.close()


@pytest.mark.parametrize("count, size", [(200, 50), (200, 1_100), (3, 60_000)])
@pytest.mark.parametrize("header", PROXY_HEADERS, ids=["version 1", "version 2"])
async def test_behind_a_proxy_header_and_a_request_in_one_write_messages_arrive_too(
    header: bytes, count: int, size: int
) -> None:
    listen = Listen(endpoint=TCP, proxies=("127.0.0.0/8",))
    async with serving(listen) as server:
        client = await RawClient.open(server)
        client.send(header + verify_request(7) + b"".join(frame_of(Echo(n, "x" * size)) for n in range(count)))
        assert (await client.frame())[0] == 2
        assert [(await client.message()).n for _ in range(count)] == list(range(count))
        await client.close()


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(3))
async def test_messages_behind_the_request_may_be_cut_anywhere(name: str, seed: int) -> None:
    random = Random(seed)
    async with world(name) as there:
        client = await RawClient.open(there.front)
        frames = (encode_frame(SAY, say(n, b"x" * random.randrange(2_500))) for n in range(60))
        data = verify_request(7) + b"".join(frames)
        while data:
            size = random.choice([1, 3, 7, 100, 2_048, 5_000])
            client.send(data[:size])
            data = data[size:]
            await asyncio.sleep(0)
        await until(lambda: there.numbers(7) == list(range(60)))
        await client.close()
