"""A client that sends too much is not read for a while, then closed with 4005; or messages of one type are dropped."""

import asyncio

from gatelink import CloseCode, Limits, Session
from gatelink.session.extension import PONGS_PER_SECOND
from gatelink.wire.control import Close, Ping, Pong, decode_control
from gatelink.wire.frames import COMPRESSED, encode_frame
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import CATALOG, Blob, Echo, EchoServer, Note, RawClient, frame_of, neighbour, serving, until
from tests.support import MS

NOTE = CATALOG.find(Note).id


def notes(count: int) -> bytes:
    return b"".join(frame_of(Note(n)) for n in range(count))


async def test_a_flood_comes_in_at_its_rate_whole_and_in_order() -> None:
    limits = Limits(exempt=(), message_rate=500, message_burst=100, rate_timeout=60)
    async with serving(limits=limits) as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        start = asyncio.get_running_loop().time()
        client.send(notes(600))
        await until(lambda: len(server.notes) == 600)
        # a turn of 256 may be on credit when the last is handled
        assert asyncio.get_running_loop().time() - start >= (600 - 100 - limits.turn_frames) / 500
        assert [n for _, n in server.notes] == list(range(600))
        assert server.stats.rate_paused and server.session(7).close_code is None
        await client.close()


async def test_many_bytes_come_in_at_their_rate() -> None:
    limits = Limits(exempt=(), byte_rate=2_000_000, byte_burst=102_400)
    async with serving(limits=limits) as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        start = asyncio.get_running_loop().time()
        blob = Blob(bytes(100_000))
        client.send(frame_of(blob) * 15)
        for _ in range(15):
            assert await client.message() == blob
        assert asyncio.get_running_loop().time() - start >= (15 * 100_000 - 102_400 - 262_144) / 2_000_000
        assert server.stats.rate_paused
        await client.close()


async def test_a_client_that_does_not_slow_down_is_told_4005_and_closed() -> None:
    limits = Limits(exempt=(), message_rate=50, message_burst=50, rate_timeout=0.5)
    async with serving(limits=limits) as server:
        calm = await RawClient.verified(server, 8)
        client = await ExtendedClient.logged_in(server, 7)
        client.send(notes(5_000))
        last = (await client.end())[-1]
        assert isinstance(last, Close) and last.code == CloseCode.RATE_LIMITED
        assert last.reason.startswith("more than 50 messages")
        await until(lambda: (7, CloseCode.RATE_LIMITED) in server.ended)
        assert len(server.notes) < 1_000
        await calm.echo(1)
        await calm.close()
        await client.close()


async def test_what_is_charged_is_charged_before_it_is_decoded() -> None:
    """Compressed rubbish costs its sender as much as messages do, and the session for the first of it."""
    limits = Limits(exempt=(), message_rate=1, message_burst=10)
    async with serving(limits=limits) as server:
        client = await RawClient.verified(server, 7)
        client.send(notes(11) + encode_frame(NOTE, b"rubbish", COMPRESSED))
        await until(lambda: server.ended)
        assert server.stats.rate_paused == 1
        await client.close()


async def test_control_records_count_and_pings_are_answered_four_a_second() -> None:
    limits = Limits(exempt=(), message_rate=200, message_burst=100, rate_timeout=60)
    async with serving(limits=limits) as server, neighbour(server):
        client = await ExtendedClient.logged_in(server, 7)
        start = asyncio.get_running_loop().time()
        client.say(*(Ping(n + 1, 0) for n in range(400)))
        client.send(frame_of(Echo(1)))
        pongs = 0
        while isinstance(await _record_or_message(client), Pong):
            pongs += 1
        seconds = asyncio.get_running_loop().time() - start
        assert seconds >= (400 - 100 - limits.turn_frames) / 200 and server.stats.rate_paused
        assert 1 <= pongs <= PONGS_PER_SECOND * (seconds + 1)
        await client.close()


async def _record_or_message(client: ExtendedClient) -> object:
    id, _, body = await client.frame()
    return CATALOG.by_id[id].decode(body) if id else decode_control(body)


async def test_a_resume_brings_no_new_burst() -> None:
    limits = Limits(exempt=(), message_rate=1, message_burst=100)
    async with serving(limits=limits, resume_plain=True) as server:
        client = await ExtendedClient.logged_in(server, 7)
        session = server.session(7)
        client.send(notes(95))
        await until(lambda: len(server.notes) == 95)
        meter = session.meter
        for attempt in (1, 2):
            client.reset()
            await until(lambda: session.state.name == "DETACHED")
            ticket = client.ticket
            client = await ExtendedClient.extended(server)
            client.resume(ticket, 0, attempt)
            assert await client.resumed(ticket, attempt) == 95
            client.ticket = ticket
        assert session.meter is meter and server.stats.rate_paused == 0
        client.send(notes(20))
        await until(lambda: server.stats.rate_paused)
        await client.close()


async def test_exempt_networks_have_no_rates() -> None:
    async with serving(limits=Limits(message_rate=1, message_burst=1, byte_rate=1, byte_burst=102_400)) as server:
        client = await RawClient.verified(server, 7)
        assert server.session(7).meter is None
        client.send(notes(5_000))
        await until(lambda: len(server.notes) == 5_000)
        assert server.stats.rate_paused == 0
        await client.close()


async def test_a_closed_session_is_not_held_by_its_rate() -> None:
    """Messages queued for a client leave, and its connection ends in time, though it is not read for its rate."""
    limits = Limits(exempt=(), message_rate=1, message_burst=1, rate_timeout=60)
    async with serving(limits=limits) as server:
        client = await RawClient.verified(server, 7)
        client.send(notes(100))
        await until(lambda: server.stats.rate_paused)
        session = server.session(7)
        session.send(Echo(1, "bye"))
        session.kick()
        assert await client.message() == Echo(1, "bye")
        assert await client.rest() == []
        await client.close()
        await session.wait_closed()


# -- the rate of one message type --


def rated(ticks: float = 0, rate: float = 5) -> EchoServer:
    server = EchoServer(tick_hz=ticks)
    del server.handlers.routes[NOTE]

    @server.on(Note, rate=rate)
    def take(session: Session, message: Note) -> None:
        server.notes.append((session.uid, message.n))

    return server


async def test_messages_over_the_rate_of_their_type_are_dropped_and_counted() -> None:
    for ticks in (0, 100):
        async with rated(ticks) as server:
            client = await RawClient.verified(server, 7)
            client.send(notes(50))
            await client.echo(1)  # of another type: no rate
            assert server.notes == [(7, n) for n in range(5)]
            assert server.stats.rate_dropped == {"Note": 45}
            await asyncio.sleep(300 * MS)  # the rate gives a message again in that time
            client.send(frame_of(Note(99)))
            await client.echo(2)
            assert server.notes[-1] == (7, 99)
            await client.close()
            await server.stop(0)


async def test_what_is_dropped_is_not_decoded() -> None:
    async with rated() as server:
        client = await RawClient.verified(server, 7)
        client.send(notes(5) + encode_frame(NOTE, b"rubbish", COMPRESSED) * 5)
        await client.echo(1)
        assert server.session(7).close_code is None
        await client.close()
        await server.stop(0)


async def test_each_session_has_the_rate_of_a_type_for_itself() -> None:
    async with rated() as server:
        clients = [await RawClient.verified(server, uid) for uid in (7, 8)]
        for client in clients:
            client.send(notes(6))
            await client.echo(1)
        assert [uid for uid, _ in server.notes] == [7] * 5 + [8] * 5
        for client in clients:
            await client.close()
        await server.stop(0)
