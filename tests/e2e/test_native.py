"""The compiled core's sockets: the same as a transport for every byte, and what can happen to a socket.

A listener with an accept hook has transports (docs/native.md), so one server has both kinds of stream.
"""

import asyncio
import contextlib
import gc
import os
import resource
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatelink import CloseCode, ConnectError, Handlers, Limits, Listen, Session, _native, connect
from gatelink.net import acceptor, dialer
from gatelink.net.connection import Connection
from gatelink.net.endpoints import Endpoint
from gatelink.net.sockets import open_socket
from gatelink.wire.control import Ack, control_frame
from gatelink.wire.frames import encode_control_frame, encode_frame
from tests.e2e.any_bytes import BLOB, NOTE, pieces_of, streams
from tests.e2e.both_cores import Journal, counted
from tests.e2e.extension import ExtendedClient
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
    neighbour,
    open_sockets,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.limits import with_window
from tests.support import run_watched

pytestmark = pytest.mark.skipif(_native.core is None, reason="the compiled core does not run")

LIMITS = Limits(max_frame=2_000, turn_frames=8, turn_bytes=1_500, write_high_water=4_000, base_linger=0.001)
HOOKED = Listen(endpoint=TCP, accept=lambda connection: None)
"""A listener whose connections have transports."""


def only_connection(server: EchoServer) -> Any:
    (connection,) = server.connections
    return connection


async def test_plain_listeners_have_the_core_s_streams_and_others_have_transports() -> None:
    async with serving(TCP, HOOKED) as server:
        async with closing(RawClient.verified(server, 7)) as client:
            assert not isinstance(only_connection(server), Connection)
            await client.echo(1)
        await until(lambda: not server.connections)
        async with closing(RawClient.verified(server.endpoints[1], 7)) as client:
            assert isinstance(only_connection(server), Connection)
            await client.echo(1)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_a_dialled_connection_is_the_core_s_at_both_ends(scheme: str, tmp_path: Path) -> None:
    async with serving(TCP if scheme == "tcp" else f"unix://{tmp_path}/listening") as server:
        came: asyncio.Queue[int] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: came.put_nowait(message.n))
        token = token_of(7).decode()
        session = await connect(str(server.endpoint), uid=7, token=token, handlers=handlers, catalog=CATALOG)
        for n in range(3):
            session.send(Echo(n))
            assert await came.get() == n
        assert len(session.context.reactor) == 1
        await leave(session)
        await until(lambda: not len(session.context.reactor))


async def test_dialling_leaves_no_socket_whether_it_is_refused_or_given_up(tmp_path: Path) -> None:
    before = open_sockets()
    with socket.socket() as nobody, socket.create_server(("127.0.0.1", 0)) as silent:
        nobody.bind(("127.0.0.1", 0))
        for where in (nobody.getsockname(), silent.getsockname()):
            with pytest.raises(ConnectError):
                await connect("tcp://{}:{}".format(*where), uid=7, token="x", timeout=0.2, catalog=CATALOG)
        with pytest.raises(ConnectError):
            await connect(f"unix://{tmp_path}/nobody", uid=7, token="x", catalog=CATALOG)
    await until(lambda: open_sockets() <= before)


async def test_a_peer_that_resets_before_its_connection_is_used_is_said_to_have_closed_it(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def open_and_lose(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> tuple[socket.socket, str]:
            opened = await open_socket(loop, endpoint)
            peer, _ = listening.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()  # with a reset
            await asyncio.to_thread(select.select, [opened[0]], [], [])
            return opened

        monkeypatch.setattr(dialer, "open_socket", open_and_lose)
        with pytest.raises(ConnectError, match="the server closed the connection before it verified us"):
            await connect("tcp://{}:{}".format(*listening.getsockname()), uid=7, token="x", catalog=CATALOG)
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


async def test_what_came_before_a_reset_is_handled_although_a_send_fails_first() -> None:
    async with serving(TCP) as server:
        assert server.endpoint.host is not None and server.endpoint.port is not None
        peer = socket.create_connection((server.endpoint.host, server.endpoint.port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # so that the notes leave before the reset

        @server.instead(Echo)
        def echo(session: Session, message: Echo) -> None:
            peer.sendall(frame_of(Note(1)) + frame_of(Note(2)))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()  # with a reset
            session.send(message)

        peer.sendall(verify_request(7))
        assert await asyncio.to_thread(peer.recv, 1_000)
        peer.sendall(frame_of(Echo(1)))
        await until(lambda: server.ended)
        assert server.notes == [(7, 1), (7, 2)]


# -- any bytes --

TRIES = 3
"""How often a conversation may differ: where a handler is interrupted for 5 ms, its session's turn is over, and what
follows is handled after the end of the stream. A real difference is there every time."""


async def conversation(server: EchoServer, endpoint: int, uid: int, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What the server sends to a client that sends these pieces and ends; and whether it reset the connection."""
    client = await RawClient.verified(server.endpoints[endpoint], uid)
    was_reset = False
    try:
        for piece in pieces:
            client.send(piece)
            await asyncio.sleep(0)
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's, if the server has closed already
            client.writer.write_eof()
        came = b""
        try:
            while data := await client.reader.read(65_536):
                came += data
        except ConnectionError:
            was_reset = True
    finally:
        await client.close()
    await until(lambda: not server.connections)
    return came, was_reset


A_TURN = [encode_frame(BLOB, bytes(700)), encode_frame(BLOB, bytes(1_400))]
RECORD = encode_control_frame(b"\1")
"""The shortest frame: five bytes."""


@settings(max_examples=25)
@example(conversations=[(A_TURN, [rest], [], 0, []) for rest in (RECORD, RECORD[:4], b"\5\0\0\3\1")])
@example(conversations=[([encode_frame(BLOB, b"")] * LIMITS.turn_frames, [RECORD], [], 0, [])])
@given(conversations=st.lists(streams, min_size=1, max_size=3))
def test_any_bytes_have_the_same_effect_over_both_streams(conversations: list[Any]) -> None:
    """The same messages to the same handlers, the same end and reason, the same bytes back, the same counts."""

    async def both() -> None:
        async with serving(TCP, HOOKED, limits=LIMITS) as server:
            journal = Journal(server)
            uid = 0
            for stream in conversations:
                pieces = pieces_of(stream)
                for _ in range(TRIES):
                    seen = []
                    for endpoint in (0, 1):
                        uid += 1
                        before = counted(server)
                        came, was_reset = await conversation(server, endpoint, uid, pieces)
                        after = counted(server)
                        counts = {name: after[name] - before.get(name, 0) for name in after}
                        seen.append((journal.of(uid), None if was_reset else came, counts))
                    native, transport = seen
                    if transport[1] is None or native[1] is None:  # the kernel drops some then
                        native, transport = (native[0], None, native[2]), (transport[0], None, transport[2])
                    if native == transport:
                        break
                assert native == transport

    run_watched(both())


# -- handlers, in the middle of a read --


@pytest.mark.parametrize("how", ["close", "kick", "abort", "raise", "full"])
async def test_a_handler_may_do_anything_in_the_middle_of_a_read(how: str) -> None:
    async with serving(limits=LIMITS) as server, neighbour(server):
        journal = Journal(server)
        async with closing(RawClient.verified(server, 7)) as client:
            straight, _ = _native.core.frame_counts()  # type: ignore[union-attr]
            client.send(*(frame_of(Echo(n, how if n == 3 else "")) for n in range(6)))
            if how in ("raise", "full"):
                for n in range(6):
                    if n == 3 and how == "full":
                        assert [await client.message() for _ in range(5)] == [
                            Blob(bytes([each]) * 300) for each in range(5)
                        ]
                    elif n != 3:
                        assert await client.message() == Echo(n)
                assert [each.n for each in journal.of(7)] == [*range(6)]
            else:
                await client.rest()
                await until(lambda: server.ended)
                assert [each.n for each in journal.of(7)[:-1]] == [*range(4)]
            assert _native.core.frame_counts()[0] >= straight + 4  # type: ignore[union-attr]


async def test_a_handler_may_stop_the_server_in_the_middle_of_a_read() -> None:
    async with serving() as server:
        seen: list[int] = []
        stopping: list[asyncio.Task[None]] = []

        @server.instead(Note)
        def note(session: Session, message: Note) -> None:
            seen.append(message.n)
            if message.n == 2:
                stopping.append(asyncio.get_running_loop().create_task(server.stop(0)))
                session.close(CloseCode.GOING_AWAY)

        async with closing(RawClient.verified(server, 7)) as client:
            client.send(*(frame_of(Note(n)) for n in range(6)))
            await client.rest()
        await asyncio.gather(*stopping)
        assert seen == [0, 1, 2] and server.ended == [(7, CloseCode.GOING_AWAY)]


async def test_a_handler_may_end_the_others_whose_messages_came_in_the_same_turn() -> None:
    """Their sockets are among the events that this turn has had already."""
    async with serving() as server, neighbour(server):
        heard: list[int] = []

        @server.instead(Note)
        def note(session: Session, message: Note) -> None:
            heard.append(session.uid)
            for other in server.sessions:
                if other.uid < 100 and other is not session:
                    other.abort()

        clients = [await RawClient.verified(server, uid) for uid in range(1, 9)]
        for client in clients:
            client.send(frame_of(Note(1)))
        await until(lambda: len(server.ended) == 7)
        assert len(heard) == 1 and heard[0] not in [uid for uid, _ in server.ended]
        for client in clients:
            await client.close()


async def test_a_handler_may_give_its_session_another_table_in_the_middle_of_a_read() -> None:
    handlers = Handlers(CATALOG)
    heard: list[tuple[str, int]] = []
    async with serving() as server:

        @server.instead(Note)
        def before(session: Session, message: Note) -> None:
            heard.append(("before", message.n))
            if message.n == 2:
                session.handlers = handlers

        @handlers.on(Note)
        def after(session: Session, message: Note) -> None:
            heard.append(("after", message.n))
            if message.n == 5:
                session.send(message)

        async with closing(RawClient.verified(server, 7)) as client:
            client.send(*(frame_of(Note(n)) for n in range(6)))
            assert await client.message() == Note(5)
        assert heard == [("before", n) for n in range(3)] + [("after", n) for n in range(3, 6)]


async def test_a_handler_may_take_away_the_handler_of_the_messages_behind_it() -> None:
    async with serving() as server:
        seen: list[int] = []

        @server.instead(Note)
        def note(session: Session, message: Note) -> None:
            seen.append(message.n)
            del server.handlers.routes[NOTE]
            gc.collect()

        async with closing(RawClient.verified(server, 7)) as client:
            client.send(*(frame_of(Note(n)) for n in range(4)), frame_of(Echo(1)))
            assert await client.message() == Echo(1)
        assert seen == [0] and server.stats.unhandled == 3


# -- acknowledgements among the messages of a read --

PLACES = {
    "before": [None, 0, 1, 2],
    "between": [0, None, 1, 2],
    "behind": [0, 1, 2, None],
    "everywhere": [None, 0, None, None, 1, 2, None],
    "alone": [None],
}


def read_with(ack: bytes, parts: list[int | None]) -> bytes:
    """Notes with these numbers, and `ack` for each None."""
    return b"".join(ack if n is None else frame_of(Note(n)) for n in parts)


@asynccontextmanager
async def resumable(uid: int = 7) -> AsyncIterator[tuple[EchoServer, ExtendedClient, Session, list[Any]]]:
    """A client that has 20 messages to acknowledge, and what the handler of its notes does: notes what it sees."""
    async with serving(resume_plain=True) as server:
        seen: list[Any] = []

        @server.instead(Note)
        def note(session: Session, message: Note) -> None:
            seen.append((message.n, session.unacknowledged))

        async with closing(ExtendedClient.logged_in(server, uid)) as client:
            session = server.session(uid)
            for n in range(20):
                session.send(Echo(n))
            await until(lambda: session.unacknowledged == 20)
            yield server, client, session, seen


@pytest.mark.parametrize("parts", PLACES.values(), ids=PLACES)
async def test_acknowledgements_take_the_straight_path_wherever_they_stand_and_before_any_handler(
    parts: list[int | None],
) -> None:
    async with resumable() as (_, client, session, seen):
        straight, listed = _native.core.frame_counts()  # type: ignore[union-attr]
        client.send(read_with(control_frame(Ack(13)), parts))
        await until(lambda: session.unacknowledged == 7)
        notes = [(n, 7) for n in parts if n is not None]
        await until(lambda: seen == notes)
        assert _native.core.frame_counts() == (straight + len(parts), listed)  # type: ignore[union-attr]
        assert session.extension is not None and session.extension.received == len(notes)


@pytest.mark.parametrize("received", [12, 21, 2**63, 2**64 - 1])
async def test_a_count_that_can_not_be_ends_the_session_after_the_messages_before_it(received: int) -> None:
    async with resumable() as (server, client, session, seen):
        wrong = control_frame(Ack(received))
        client.send(read_with(control_frame(Ack(13)), [None, 0, 1]) + wrong + read_with(wrong, [2, None]))
        await client.rest()
        await until(lambda: server.ended)
        assert seen == [(0, 7), (1, 7)] and server.ended == [(7, CloseCode.PROTOCOL_ERROR)]
        assert session.close_reason == f"peer has received {received} messages; 13 were acknowledged, 20 sent"


async def test_an_acknowledgement_makes_room_in_the_window_for_what_waits() -> None:
    async with serving(resume_plain=True, limits=with_window(Limits(), frames=4)) as server:
        async with closing(ExtendedClient.logged_in(server, 7)) as client:
            session = server.session(7)
            for n in range(10):
                session.send(Echo(n))
            for n in range(10):
                assert await client.message() == Echo(n)
                if n % 4 == 3:
                    assert session.outbox.count == 9 - n
                    client.send(control_frame(Ack(n + 1)))


@pytest.mark.parametrize("how", ["other table", "no route", "later", "turn over"])
async def test_what_is_left_of_a_read_has_no_acknowledgements(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler in the middle of a read leaves the rest to another table, to the slow path, or to the inbox."""
    handlers = Handlers(CATALOG)
    async with resumable() as (server, client, session, seen):
        handlers.on(Note)(lambda session, message: seen.append(message.n))

        @server.instead(Note)
        def note(session: Session, message: Note) -> Any:
            seen.append(message.n)
            if message.n == 1:
                match how:
                    case "other table":
                        session.handlers = handlers
                    case "no route":
                        server.instead(Note)(lambda session, message: seen.append(message.n))
                    case "later":
                        return asyncio.sleep(0)
                    case "turn over":
                        time.sleep(0.01)
            return None

        for behind in ([2, None, 3], [None]):
            seen.clear()
            client.send(read_with(control_frame(Ack(13)), [0, None, 1, None, *behind]))
            notes = [0, 1, *(n for n in behind if n is not None)]
            await until(lambda notes=notes: seen == notes and session.inbox is None)  # type: ignore[misc]
        assert not server.stats.unhandled and session.unacknowledged == 7
        assert session.close_code is None and session.extension is not None and session.extension.received == 6


# -- what can happen to a socket --


async def test_a_reset_in_the_middle_of_a_frame_ends_that_session_alone() -> None:
    async with serving() as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        client.send(frame_of(Blob(bytes(1_000)))[:500])
        await until(lambda: any(connection.buffered for connection in server.connections))
        client.reset()
        await until(lambda: server.ended)
        assert [uid for uid, _ in server.ended] == [7]


async def test_a_peer_that_does_not_read_and_resets_costs_no_spinning_and_nothing_stays() -> None:
    async with serving(limits=LIMITS) as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session = server.session(7)
        while session.outbox.count < 10:
            session.send(Blob(bytes(1_900)))
            await asyncio.sleep(0)
        client.reset()
        await until(lambda: server.ended)
        await until(lambda: len(server.connections) == 1)


async def test_a_large_frame_in_many_reads_arrives_and_what_it_takes_grows_with_what_came() -> None:
    big = 4 << 20
    limits = Limits(max_frame=big + 2, byte_rate=1e9, byte_burst=1 << 30, max_outbox_bytes=2 * big)
    async with serving(limits=limits) as server, closing(RawClient.verified(server, 7)) as client:
        frame = frame_of(Blob(os.urandom(big)))
        client.send(frame[:10])
        await until(lambda: only_connection(server).buffered == 10)
        assert only_connection(server).held_bytes == 10
        client.send(frame[10:])
        came = b""
        while len(came) < len(frame):
            came += await client.reader.read(1 << 20)
        assert came == frame


async def test_a_descriptor_that_the_application_closed_ends_its_session_alone() -> None:
    async with serving() as server, neighbour(server):
        client = await RawClient.verified(server, 7)
        (connection,) = (each for each in server.connections if getattr(each.receiver, "uid", 0) == 7)
        with connection.transport.get_extra_info("socket") as same:
            inode = os.fstat(same.fileno()).st_ino
            found = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) != same.fileno() and is_inode(fd, inode)]
        (fd,) = found
        spare = os.open("/dev/null", os.O_RDONLY)
        os.dup2(spare, fd)  # in its place, so that nothing else gets the number
        os.close(spare)
        server.session(7).send(Note(1))
        await until(lambda: server.ended)
        await client.close()


def is_inode(fd: str, inode: int) -> bool:
    try:
        return os.fstat(int(fd)).st_ino == inode
    except OSError:
        return False


async def test_without_descriptors_accepting_waits_a_second_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(acceptor.quiet, "error", lambda event, **keys: reported.append(event))
    async with serving() as server, neighbour(server):
        loop = asyncio.get_running_loop()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = socket.socket()
        waiting.setblocking(False)
        spare = os.dup(0)
        os.close(spare)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", server.endpoint.port))
            await until(lambda: reported)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        try:
            waiting.setblocking(False)
            await loop.sock_sendall(waiting, verify_request(7))
            assert await loop.sock_recv(waiting, 100)
        finally:
            waiting.close()
        assert reported == ["no connection is accepted for a second"]
        await until(lambda: server.ended)


async def test_a_fork_keeps_no_socket_of_its_parent_and_can_use_none() -> None:
    async with serving() as server, closing(RawClient.verified(server, 7)) as client:
        connection = only_connection(server)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:  # no test framework, no loop: only a look, and gone
            refused = False
            try:
                server.context.reactor.stream(os.dup(0), "", LIMITS, None)
            except RuntimeError:
                refused = True
            os.write(writing, b"%d %d" % (refused, connection.is_closing()))
            os._exit(0)
        os.close(writing)
        assert os.read(reading, 10) == b"1 1"
        os.close(reading)
        os.waitpid(child, 0)  # noqa: ASYNC222 - it has ended
        await client.echo(1)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_is_closed_with_streams_open_takes_them_along(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Although its server, which was not stopped, is still there."""
    before = open_sockets()
    loop = new_loop()

    async def begin() -> tuple[socket.socket, EchoServer]:
        server = EchoServer()
        await server.start()
        client = socket.create_connection(("127.0.0.1", server.endpoint.port))
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, verify_request(7))
        await until(lambda: server.connections)
        only_connection(server).get_extra_info("socket")  # a descriptor more
        return client, server

    client, server = loop.run_until_complete(begin())
    with client:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(100):
                pass
    assert open_sockets() <= before
    assert only_connection(server).is_closing()
