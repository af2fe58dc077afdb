"""Many connections, or many messages, from few: refused or held back, and the others hardly notice."""

import asyncio
import socket

import pytest

from gatelink import CloseCode, Limits, Session
from tests.e2e.support import (
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    neighbour,
    open_sockets,
    serving,
    until,
    verify_request,
)
from tests.support import MS


@pytest.mark.open_files(4_000)
async def test_three_thousand_connects_from_one_address_at_once() -> None:
    connects = 3_000
    limits = Limits(exempt=(), max_per_address=100, max_unverified_per_address=100)
    before = open_sockets()
    async with serving(limits=limits) as server, neighbour(server):
        address = ("127.0.0.1", server.endpoint.port)
        flood = []
        for n in range(connects):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            flood.append(one)
            if n % 100 == 99:
                await asyncio.sleep(0)
        await until(lambda: server.stats.accepted + server.stats.refused["address-full"] >= connects + 1)
        assert server.stats.accepted == 100 and len(server._admission.connections) == 100
        assert server.stats.refused == {"address-full": connects - 99}
        for one in flood:
            one.close()
        await until(lambda: len(server._admission.connections) == 1)
        client = await RawClient.verified(server, 7)  # the address has room again
        await client.close()
    await until(lambda: open_sockets() <= before)


@pytest.mark.open_files(4_000)
async def test_connect_and_leave_as_fast_as_possible() -> None:
    async with serving(limits=Limits(exempt=(), max_per_address=50)) as server, neighbour(server):
        address = ("127.0.0.1", server.endpoint.port)
        for n in range(3_000):
            with socket.socket() as one:
                one.setblocking(False)
                one.connect_ex(address)
            if n % 20 == 19:
                await asyncio.sleep(0)
        await until(lambda: server.stats.accepted + sum(server.stats.refused.values()) >= 3_000)
        await until(lambda: len(server._admission.connections) == 1)
        assert len(server.logins) == 0 and len(server._admission._addresses) == 1


async def test_silent_connections_fill_the_server_only_until_the_deadline() -> None:
    limits = Limits(max_connections=200, verify_timeout=2_000 * MS)
    async with serving(limits=limits) as server, neighbour(server):
        silent = [await RawClient.open(server) for _ in range(250)]
        await until(lambda: server.stats.refused["server-full"] == 51)
        await until(lambda: server.stats.refused["verify-timeout"] == 199)
        client = await RawClient.verified(server, 7)
        for one in (*silent, client):
            await one.close()


async def test_wrong_tokens_by_the_thousand_let_nobody_in() -> None:
    async with serving() as server, neighbour(server):

        async def guess(n: int) -> None:
            client = await RawClient.open(server)
            client.send(verify_request(7, b"guess %d" % n))
            assert [id for id, _, _ in await client.rest()] == [3]
            await client.close()

        for start in range(0, 1_000, 200):
            await asyncio.gather(*(guess(n) for n in range(start, start + 200)))
        assert server.stats.refused == {"verify-failed": 1_000}
        assert server.stats.verified == 1


async def test_a_client_that_floods_with_messages_gets_its_share_of_each_turn() -> None:
    async with serving() as server, neighbour(server):
        flooder = await RawClient.verified(server, 7)
        session = server.session(7)
        data = frame_of(Note(1)) * 10_000
        flooder.send(data * 5)
        await until(lambda: len(server.notes) == 50_000)
        assert server.sessions.get(7) is session
        await flooder.close()


async def test_a_flood_into_a_slow_handler_is_held_back_at_the_inbox() -> None:
    server = EchoServer(limits=Limits(max_inbox=100))
    gate = asyncio.Event()

    @server.instead(Note)
    async def slow(session: Session, message: Note) -> None:
        await gate.wait()
        server.notes.append((session.uid, message.n))

    async with server:
        async with neighbour(server):
            flooder = await RawClient.verified(server, 7)
            session = server.session(7)
            sending = asyncio.create_task(_send_all(flooder, [frame_of(Note(n)) for n in range(20_000)]))
            await until(lambda: server.stats.paused)
            for _ in range(20):
                await asyncio.sleep(MS)
            assert session.inbox is not None and len(session.inbox.items) <= 100 + server.limits.turn_frames
        gate.set()
        await sending
        await until(lambda: len(server.notes) == 20_000)
        assert [n for _, n in server.notes] == list(range(20_000))
        await flooder.close()
        await until(lambda: (7, CloseCode.NORMAL) in server.ended)


async def _send_all(client: RawClient, frames: list[bytes]) -> None:
    for at in range(0, len(frames), 500):
        client.send(*frames[at : at + 500])
        await client.writer.drain()


async def test_logins_of_one_user_in_a_flood_leave_the_neighbour_alone() -> None:
    async with serving() as server, neighbour(server):
        clients = []
        for _ in range(300):
            client = await RawClient.open(server)
            client.send(verify_request(7))
            clients.append(client)
        await until(lambda: server.stats.verified == 301)
        assert len(server.sessions) == 2
        last = server.session(7)
        for client in clients:
            await client.close()
        await until(lambda: last.close_code is not None and len(server.sessions) == 1)


async def test_messages_that_come_byte_by_byte_are_answered_all_the_same() -> None:
    async with serving() as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame_of(Echo(1)) * 50:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        for _ in range(50):
            assert await client.message() == Echo(1)
        await client.close()
