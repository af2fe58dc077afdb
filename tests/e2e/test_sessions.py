"""Sessions over real sockets: messages there and back in order, events once, ends that deliver what was queued."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest

from gatelink import CloseCode, Full, Handlers, Limits, Listen, Session, SessionClosed, WireOptions, connect
from gatelink.wire.frames import encode_frame
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    leave,
    make_certificate,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.support import MS

Stream = tuple[str | Listen, ssl.SSLContext | None]


@pytest.fixture(params=["tcp", "unix", "tls"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Stream:
    """Where to listen, and what a client needs to connect there."""
    if request.param == "unix":
        return f"unix://{tmp_path}/gate.sock", None
    if request.param == "tls":
        certificate, key, context = make_certificate(tmp_path)
        return Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key), context
    return TCP, None


async def test_a_message_comes_back_over_every_kind_of_stream(stream: Stream) -> None:
    listen, tls = stream
    async with serving(listen) as server:
        answers: asyncio.Queue[Echo] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: answers.put_nowait(message))
        session = await connect(
            str(server.endpoint), uid=7, token=token_of(7).decode(), handlers=handlers, tls=tls, catalog=CATALOG
        )
        for n in range(10):
            session.send(Echo(n, "x" * n))
            assert await answers.get() == Echo(n, "x" * n)
        assert server.session(7).address == session.address == ("" if server.endpoint.scheme == "unix" else "127.0.0.1")
        await leave(session)
        await until(lambda: server.ended == [(7, CloseCode.NORMAL)])


async def test_a_large_burst_comes_back_in_order_over_every_kind_of_stream(stream: Stream) -> None:
    """More than one turn's share of frames and bytes, each way, in a few writes."""
    listen, tls = stream
    async with serving(listen) as server, closing(RawClient.verified(server.endpoint, 7, tls)) as client:
        burst = [Echo(n, "x" * (n % 700)) for n in range(3_000)]
        client.send(*map(frame_of, burst))
        assert [await client.message() for _ in burst] == burst


async def test_a_stream_cut_into_single_bytes_is_the_same_stream(stream: Stream) -> None:
    listen, tls = stream
    async with serving(listen) as server, closing(RawClient.open(server.endpoint, tls)) as client:
        for byte in verify_request(7) + frame_of(Echo(1)) + frame_of(Blob()) + frame_of(Blob(b"2")):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        await client.frame()
        assert [await client.message() for _ in range(3)] == [Echo(1), Blob(), Blob(b"2")]


async def test_frames_of_every_size_up_to_the_limit_arrive_and_the_first_over_it_does_not() -> None:
    async with serving(limits=Limits(max_frame=5_000)) as server, closing(RawClient.verified(server, 7)) as client:
        for size in (0, 1, 3, 4, 5, 4_997, 4_998):
            client.send(frame_of(Blob(b"x" * size)))
            assert await client.message() == Blob(b"x" * size)
        client.send(frame_of(Blob(b"x" * 4_999)))
        assert await client.rest() == []
        assert server.ended == [(7, CloseCode.FRAME_TOO_LARGE)]


@pytest.mark.parametrize("options", [WireOptions(scramble=True), WireOptions(compress_over=64, scramble=True)])
async def test_compressed_and_scrambled_messages_are_the_same_messages(options: WireOptions) -> None:
    async with serving(wire=options) as server:
        answers: asyncio.Queue[Echo] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: answers.put_nowait(message))
        session = await connect(
            str(server.endpoint), uid=7, token=token_of(7).decode(), handlers=handlers, wire=options, catalog=CATALOG
        )
        for text in ("", "short", "long " * 1_000):
            session.send(Echo(1, text))
            assert await answers.get() == Echo(1, text)
        await leave(session)


async def test_typed_and_raw_messages_leave_in_the_order_they_were_sent() -> None:
    async with serving() as server, closing(RawClient.verified(server, 7)) as client:
        session = server.session(7)
        for n in range(0, 300, 3):
            session.send(Echo(n))
            session.send_raw(11_001, CATALOG.encode(Echo(n + 1))[1])
            session.send_frame(frame_of(Echo(n + 2)))
        assert [(await client.message()).n for _ in range(300)] == list(range(300))


async def test_async_handlers_of_one_session_run_in_order_and_sessions_do_not_wait_for_each_other() -> None:
    server = EchoServer()
    gate = asyncio.Event()

    @server.instead(Note)
    async def wait(session: Session, message: Note) -> None:
        if session.uid == 1:
            await gate.wait()
        session.send(Echo(message.n))

    async with server:
        held, free = await RawClient.verified(server, 1), await RawClient.verified(server, 2)
        for client in (held, free):
            client.send(*(frame_of(Note(n)) if n % 2 else frame_of(Echo(n)) for n in range(1, 100)))
        assert [(await free.message()).n for _ in range(1, 100)] == list(range(1, 100))
        gate.set()
        assert [(await held.message()).n for _ in range(1, 100)] == list(range(1, 100))
        await held.close()
        await free.close()


async def test_a_handler_that_raises_costs_its_message_and_nothing_else() -> None:
    server = EchoServer()

    @server.instead(Note)
    def fail(session: Session, message: Note) -> None:
        raise ValueError("on purpose")

    async with server, neighbour(server):
        client = await RawClient.verified(server, 7)
        client.send(frame_of(Echo(1)), frame_of(Note(1)), frame_of(Echo(2)))
        assert [await client.message(), await client.message()] == [Echo(1), Echo(2)]
        assert server.stats.handler_errors == {"Note": 1}
        await client.close()


async def test_events_come_once_each_around_the_sessions_messages() -> None:
    seen: list[str] = []
    server = EchoServer()
    server.on_verified(lambda session: seen.append(f"verified {session.uid}"))
    server.instead(Note)(lambda session, message: seen.append(f"note {message.n}"))
    async with server:
        client = await RawClient.open(server)
        client.send(verify_request(7), frame_of(Note(1)), frame_of(Note(2)))
        await client.frame()
        client.send(frame_of(Note(3)))
        await client.close()
        await until(lambda: server.ended)
        seen.append("closed")
    assert seen == ["verified 7", "note 1", "note 2", "note 3", "closed"]
    assert server.ended == [(7, CloseCode.NORMAL)]


async def test_close_delivers_queued_messages_even_to_a_client_that_still_sends() -> None:
    async with serving(limits=Limits(write_high_water=4_096)) as server:
        client = await RawClient.verified(server, 7)
        session = server.session(7)
        client.send(*[frame_of(Note(n)) for n in range(10_000)])
        for n in range(500):
            session.send(Echo(n, "x" * 1_000))
        session.kick("enough")
        with pytest.raises(SessionClosed, match="4009 kicked"):
            session.send(Echo(-1))
        frames = await client.rest()
        assert [CATALOG.by_id[id].decode(body).n for id, _, body in frames] == list(range(500))
        await client.close()
        await session.wait_closed()
        assert server.ended == [(7, CloseCode.KICKED)]


async def test_after_close_no_handler_hears_the_session() -> None:
    server = EchoServer()
    heard: list[int] = []

    @server.instead(Note)
    def first(session: Session, message: Note) -> None:
        heard.append(message.n)
        session.close()

    async with server:
        client = await RawClient.verified(server, 7)
        client.send(*(frame_of(Note(n)) for n in range(1_000)))
        await client.rest()
        assert heard == [0]
        await client.close()


async def test_a_peer_that_keeps_a_closed_session_open_is_cut_off() -> None:
    async with serving(limits=Limits(close_timeout=200 * MS)) as server:
        client = await RawClient.verified(server, 7)
        session = server.session(7)
        session.close()
        await session.wait_closed()  # the client neither closes nor reads
        assert len(server._admission.connections) == 0
        await client.close()


async def test_a_close_right_behind_a_reset_that_nobody_has_read_yet_ends_the_session() -> None:
    async with serving() as server:
        client = socket.create_connection((server.endpoint.host, server.endpoint.port))
        client.sendall(verify_request(7))
        await until(lambda: server.sessions.get(7))
        session = server.session(7)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await leave(session)
        assert server.ended == [(7, CloseCode.NORMAL)] and not server.connections


async def test_abort_ends_a_session_at_once_even_in_the_middle_of_a_burst() -> None:
    server = EchoServer()
    server.instead(Note)(lambda session, message: session.abort())
    async with server, neighbour(server):
        client = await RawClient.verified(server, 7)
        client.send(*(frame_of(Note(n)) for n in range(2_000)))
        await client.rest()
        await until(lambda: (7, CloseCode.NORMAL) in server.ended)
        await client.close()


async def test_drain_waits_for_the_socket_and_ends_with_the_session() -> None:
    async with serving(limits=Limits(write_high_water=1_000)) as server:
        client = await RawClient.verified(server, 7)
        session = server.session(7)
        session.send(Blob(b"x" * 50_000))
        await session.drain()
        assert session.outbox.count == 0
        for _ in range(200):
            session.send(Blob(b"x" * 90_000), full=Full.DROP_NEWEST)
            await asyncio.sleep(0)
        waiting = asyncio.create_task(session.drain())
        await asyncio.sleep(0)
        assert not waiting.done()
        client.reset()
        with pytest.raises(SessionClosed):
            await waiting


async def test_broadcast_reaches_every_open_session_once() -> None:
    async with serving() as server:
        clients = [await RawClient.verified(server, uid) for uid in range(1, 31)]
        server.session(30).close()
        assert server.sessions.broadcast(Echo(5)) == 29
        assert server.sessions.broadcast(Echo(6), to=[server.session(1), server.session(2)]) == 2
        server.sessions.broadcast(Echo(7))
        for client in clients[2:29]:
            assert [await client.message(), await client.message()] == [Echo(5), Echo(7)]
        assert [(await clients[0].message()).n for _ in range(3)] == [5, 6, 7]
        assert server.sessions.at("127.0.0.1") == list(server.sessions)
        for client in clients:
            await client.close()


async def test_unhandled_application_messages_are_forwarded_as_they_came() -> None:
    server = EchoServer()
    forwarded: list[bytes] = []
    server.on_forward(lambda session, frame: forwarded.append(frame.encode()))
    async with server:
        client = await RawClient.verified(server, 7)
        frames = [encode_frame(12_000, b"plain"), encode_frame(59_999, b"\x01\x02", 3)]
        client.send(*frames)
        await client.echo(1)
        assert forwarded == frames
        await client.close()


# -- heartbeats --

HEARTBEATS = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=2_000 * MS)  # live peers may be held up


async def test_a_silent_peer_hears_heartbeats_and_then_ends() -> None:
    async with serving(limits=HEARTBEATS) as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        heard = b""
        while data := await client.reader.read(100):
            heard += data
        assert heard and heard == encode_frame(4, b"") * (len(heard) // 6)
        assert server.ended == [(7, CloseCode.HEARTBEAT_TIMEOUT)]
        await client.close()


async def test_a_peer_that_answers_heartbeats_stays() -> None:
    async with serving(limits=HEARTBEATS) as server, closing(RawClient.verified(server, 7)) as client:
        session = server.session(7)
        for _ in range(13):
            assert await client.reader.readexactly(6) == encode_frame(4, b"")
            client.send(encode_frame(4, b""))
        assert server.sessions.get(7) is session


async def test_two_idle_gatelink_sides_stay_connected() -> None:
    async with serving(limits=HEARTBEATS) as server:
        session = await connect(
            str(server.endpoint), uid=7, token=token_of(7).decode(), catalog=CATALOG, limits=HEARTBEATS
        )
        start = server.context.loop.time()
        await until(lambda: server.context.loop.time() > start + 1.25 * HEARTBEATS.heartbeat_timeout)
        assert server.ended == [] and session.close_code is None
        await leave(session)


async def test_part_of_a_frame_dripping_in_is_no_sign_of_life() -> None:
    async with serving(limits=HEARTBEATS) as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        frame = frame_of(Blob(b"x" * 90_000))
        for byte in frame:
            client.send(bytes([byte]))
            await asyncio.sleep(20 * MS)
            if server.ended:
                break
        assert server.ended == [(7, CloseCode.HEARTBEAT_TIMEOUT)]
        await client.close()
