"""A peer that reads slowly or not at all costs only itself: memory is bounded, and policy says what it misses."""

import asyncio
import gc
import tracemalloc

import pytest

from gatelink import CloseCode, Full, Limits, Session, SessionClosed
from gatelink.session.stream import Pause
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import (
    AnyToken,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    neighbour,
    serving,
    until,
    verify_request,
    verify_succeeded,
)
from tests.support import MS

SMALL = Limits(max_outbox_bytes=100_000, write_high_water=20_000)


async def stuck_client(server: EchoServer, uid: int = 7) -> RawClient:
    """A verified client that doesn't read, and whose kernel buffers are small."""
    client = await RawClient.verified(server, uid)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    return client


async def fill(server: EchoServer, uid: int = 7) -> None:
    """Sends until the peer's kernel and ours hold all that they take, and the session's outbox begins to fill."""
    session = server.session(uid)
    connection = next(c for c in server._admission.connections if c.receiver is session)
    stuck = 0
    while stuck < 20:  # turns of the loop in which nothing left
        for _ in range(20):
            session.send(Blob(b"x" * 4_000), full=Full.DROP_NEWEST)
        before = connection.transport.get_write_buffer_size()
        await asyncio.sleep(0)
        stuck = stuck + 1 if not connection.writable and before == connection.transport.get_write_buffer_size() else 0


async def test_a_client_that_never_reads_is_closed_with_4006_and_its_memory_is_bounded() -> None:
    async with serving(limits=SMALL) as server, neighbour(server):
        client = await stuck_client(server)
        session = server.session(7)
        await fill(server)
        gc.collect()
        tracemalloc.start()
        with pytest.raises(SessionClosed, match="4006"):
            for _ in range(100_000):
                session.send(Echo(1, "x" * 1_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 500_000
        assert session.close_code is CloseCode.SLOW_CONSUMER
        await session.wait_closed()
        assert server.ended == [(7, CloseCode.SLOW_CONSUMER)]
        await client.close()


async def test_an_echo_that_is_never_read_ends_its_sender() -> None:
    """It floods and does not read: the session ends in the middle of a burst, with more of it waiting to be decoded."""
    async with serving(limits=SMALL) as server, neighbour(server):
        client = await stuck_client(server)
        while not server.ended:
            client.send(frame_of(Blob(b"x" * 100)) * 500)
            await asyncio.sleep(0)
        assert server.ended == [(7, CloseCode.SLOW_CONSUMER)]
        client.writer.transport.abort()


async def test_a_broadcast_passes_over_clients_that_do_not_read() -> None:
    async with serving(limits=SMALL) as server:
        stuck = await stuck_client(server, 1)
        good = await RawClient.verified(server, 2)
        sent = 0
        reading = asyncio.create_task(_read_until(good, -1))
        while server.sessions.get(1) is not None:
            server.sessions.broadcast(Echo(sent, "x" * 10_000))
            sent += 1
            await asyncio.sleep(0)
        server.sessions.broadcast(Echo(-1))
        assert await reading == list(range(sent))
        assert server.ended == [(1, CloseCode.SLOW_CONSUMER)]
        for client in (stuck, good):
            await client.close()


async def _read_until(client: RawClient, end: int) -> list[int]:
    """The numbers of the echoes before `end`."""
    seen: list[int] = []
    while (message := await client.message()) != Echo(end):
        if isinstance(message, Echo):
            seen.append(message.n)
    return seen


async def flooded(server: EchoServer, full: Full) -> Session:
    """The session of the stuck client, after 20,000 messages to it."""
    session = server.session(7)
    for n in range(20_000):
        session.send(Echo(n, "x" * 1_000), full=full)
        if n % 50 == 0:
            await asyncio.sleep(0)
    return session


async def test_drop_oldest_keeps_a_client_that_lags_alive_and_brings_the_freshest() -> None:
    async with serving(limits=SMALL) as server:
        client = await stuck_client(server)
        session = await flooded(server, Full.DROP_OLDEST)
        assert session.close_code is None and session.outbox.dropped
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        seen: list[int] = []
        while not seen or seen[-1] != 19_999:
            seen.append((await client.message()).n)
        assert seen == sorted(set(seen))
        assert len(seen) == 20_000 - session.outbox.dropped
        assert seen[-50:] == list(range(19_950, 20_000))
        await client.close()


async def test_drop_newest_keeps_what_was_queued_and_the_order() -> None:
    async with serving(limits=SMALL) as server:
        client = await stuck_client(server)
        session = await flooded(server, Full.DROP_NEWEST)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reading = asyncio.create_task(_read_until(client, -1))
        await session.drain()
        session.send(Echo(-1))
        seen = await reading
        assert seen == sorted(set(seen)) and len(seen) == 20_000 - session.outbox.dropped
        assert seen[:50] == list(range(50))
        await client.close()


async def test_a_key_brings_the_last_value_of_each() -> None:
    async with serving(limits=SMALL) as server:
        client = await stuck_client(server)
        session = server.session(7)
        await fill(server)
        for n in range(10_000):
            session.send(Echo(n, "x" * 1_000), key=1 + n % 10, full=Full.DROP_OLDEST)
        assert session.close_code is None
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reading = asyncio.create_task(_read_until(client, -1))
        await session.drain()
        session.send(Echo(-1))
        last = {n % 10: n for n in await reading}
        assert sorted(last.values()) == list(range(9_990, 10_000))
        await client.close()


async def test_a_client_that_reads_slowly_gets_everything_in_order() -> None:
    async with serving(limits=Limits(write_high_water=4_096)) as server:
        client = await RawClient.verified(server, 7)
        session = server.session(7)

        async def feed() -> None:
            for n in range(2_000):
                session.send(Echo(n, "x" * 1_000))
                if n % 20 == 0:
                    await session.drain()
            session.send(Echo(-1))

        feeding = asyncio.create_task(feed())
        seen = []
        while True:
            message = await client.message()
            if message.n == -1:
                break
            seen.append(message.n)
            if message.n % 100 == 0:
                await asyncio.sleep(MS)
        assert seen == list(range(2_000))
        await feeding
        await client.close()


async def test_a_client_that_does_not_read_and_says_nothing_ends_with_the_heartbeat_timeout() -> None:
    limits = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=1_500 * MS)
    async with serving(limits=limits) as server, neighbour(server):
        client = await stuck_client(server)
        await fill(server)
        await until(lambda: server.ended)
        assert server.ended == [(7, CloseCode.HEARTBEAT_TIMEOUT)]
        client.writer.transport.abort()


@pytest.mark.parametrize("is_extended", [False, True])
@pytest.mark.parametrize("is_reset", [False, True])
async def test_one_that_leaves_while_it_is_not_read_is_missed_by_its_next_heartbeats(
    is_extended: bool, is_reset: bool
) -> None:
    """Its silence does not count meanwhile: it is the writes that fail."""
    async with serving(limits=Limits(heartbeat_interval=50 * MS)) as server:
        client = await (ExtendedClient.logged_in(server, 7) if is_extended else RawClient.verified(server, 7))
        session = server.session(7)
        session.pause(Pause.LINK)
        if is_reset:
            client.reset()
        else:
            await client.close()
        await session.wait_closed()
        assert session.close_code is not CloseCode.HEARTBEAT_TIMEOUT


async def test_one_that_has_reset_while_it_is_read_and_then_is_not_read_is_missed_too() -> None:
    async with serving(limits=Limits(heartbeat_interval=50 * MS)) as server:
        client = await RawClient.verified(server, 7)
        session = server.session(7)

        @server.instead(Note)
        def answer(session: Session, message: Note) -> None:
            for _ in range(2):  # the first may be taken
                session.send(message)
                session.flush()
            session.pause(Pause.LINK)

        client.send(frame_of(Note(1)))
        client.reset()
        await session.wait_closed()


async def test_a_break_in_the_middle_of_a_write_keeps_what_was_not_handed_to_the_socket() -> None:
    """A partly written message counts as sent; those queued behind it go to the next login, in order."""
    async with serving(limits=Limits(write_high_water=20_000)) as server:
        client = await stuck_client(server)
        session = server.session(7)
        await fill(server)
        for n in range(50):
            session.send(Echo(n))
        client.reset()
        await session.wait_closed()
        again = await RawClient.open(server)
        again.send(verify_request(7))
        answer = verify_succeeded(7, back=True)
        assert await again.reader.readexactly(len(answer)) == answer
        again.send(frame_of(Echo(99)))
        assert await _read_until(again, 99) == list(range(50))
        await again.close()


async def test_a_replaced_session_that_does_not_read_is_cut_off_in_time() -> None:
    """Another token: it is a new start of the application, and what the older session has queued is the older's."""
    limits = Limits(close_timeout=200 * MS, write_high_water=20_000)
    async with serving(limits=limits, tokens=AnyToken()) as server:
        older = await stuck_client(server)
        session = server.session(7)
        await fill(server)
        newer = await RawClient.open(server)
        newer.send(verify_request(7, b"another"))
        assert await newer.reader.readexactly(len(verify_succeeded(7))) == verify_succeeded(7)
        await newer.echo(1)
        await session.wait_closed()
        await newer.echo(2)
        assert len(server._admission.connections) == 1
        older.writer.transport.abort()
        await newer.close()
