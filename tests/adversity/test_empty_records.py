"""TLS records that carry nothing cost their sender its connection; those of honest clients cost nothing."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks.tlsclient import TlsRecords
from gatelink import CloseCode, Identity, Limits, Listen, StaticTokens
from gatelink.net import tls_watch
from gatelink.net.certificates import Certificate
from gatelink.session.stream import Pause
from gatelink.wire.control import Hello, control_frame
from gatelink.wire.frames import FrameDecoder
from tests.e2e.support import (
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    frame_of,
    make_certificate,
    neighbour,
    serving,
    until,
    verify_request,
)
from tests.support import MS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("records"))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at in every tick."""
    monkeypatch.setattr(tls_watch, "INTERVAL", 1 * MS)


@asynccontextmanager
async def both(files: tuple[str, str, ssl.SSLContext], **settings: Any) -> AsyncIterator[EchoServer]:
    """A server with a plain listener, where a neighbour echoes all the while, and one with TLS."""
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=files[0], key=files[1])
    async with serving(TCP, tls, **settings) as server, neighbour(server):
        yield server


class Client:
    """Sends records of its own making to the TLS listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: TlsRecords) -> None:
        self.reader, self.writer, self.tls = reader, writer, tls
        self._decoder = FrameDecoder(1 << 20, turn_frames=1 << 20, turn_bytes=1 << 30)
        self._frames: list[Any] = []

    @classmethod
    async def open(cls, server: EchoServer, certificate: str) -> "Client":
        endpoint = server.endpoints[1]
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        client = cls(reader, writer, TlsRecords(ssl.create_default_context(cafile=certificate)))
        while not client.tls.is_open():
            writer.write(client.tls.out())
            client.tls.take(await reader.read(65_536))
        writer.write(client.tls.out())
        return client

    @classmethod
    async def verified(cls, server: EchoServer, certificate: str, uid: int = 7) -> "Client":
        client = await cls.open(server, certificate)
        client.say(verify_request(uid))
        assert (await client.frame())[0] == 2
        return client

    def say(self, *plaintexts: bytes) -> None:
        """Each in a record of its own."""
        self.writer.write(b"".join(map(self.tls.seal, plaintexts)))

    async def frame(self) -> Any:
        while not self._frames:
            data = await self.reader.read(65_536)
            assert data, "the server closed the connection"
            self._frames += [frame for frame in self._decoder.feed(self.tls.take(data)) if frame[0] != 4]
        return self._frames.pop(0)

    async def flood(self, records: Callable[[], bytes], most: int = 2_000) -> int:
        """Writes `records()` again and again until the server has closed; how often it could."""
        for count in range(most):
            if self.writer.transport.is_closing():
                return count
            try:
                self.writer.write(records())
                await self.writer.drain()
            except ConnectionError:
                return count
            await asyncio.sleep(MS)
        raise AssertionError("the server takes them all")

    async def close(self) -> None:
        self.writer.transport.abort()


async def test_a_flood_of_key_updates_ends_a_session_and_nobody_else_notices(files: Any) -> None:
    async with both(files) as server:
        client = await Client.verified(server, files[0])
        await client.flood(lambda: client.tls.key_updates(50))
        await until(lambda: server.ended == [(7, CloseCode.RATE_LIMITED)])
        await until(lambda: len(server.connections) == 1)
        await client.close()


async def test_a_look_that_fails_ends_no_watch(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unexplained = tls_watch.TlsConnection.unexplained
    failed: list[object] = []

    def failing(connection: tls_watch.TlsConnection) -> float:
        if not failed:
            failed.append(connection)
            raise RuntimeError("a fault of ours")
        return unexplained(connection)

    monkeypatch.setattr(tls_watch.TlsConnection, "unexplained", failing)
    loop = asyncio.get_running_loop()
    async with both(files) as server:
        client = await Client.verified(server, files[0])
        loop.set_exception_handler(lambda loop, context: None)
        await until(lambda: bool(failed))
        loop.set_exception_handler(None)
        await client.flood(lambda: client.tls.key_updates(50))
        await until(lambda: server.ended == [(7, CloseCode.RATE_LIMITED)])
        await client.close()


@pytest.mark.parametrize("byte_rate", [131_072, 262_144])
async def test_the_kernel_takes_little_of_a_tls_peer_so_one_turn_of_the_loop_opens_little(
    files: Any, byte_rate: int
) -> None:
    """A buffer with a size does not grow with what comes. Linux doubles the size, for its own use."""
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=files[0], key=files[1])
    async with serving(TCP, tls, limits=Limits(byte_rate=byte_rate)) as server:
        client = await Client.verified(server, files[0])
        (connection,) = server.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * byte_rate / 4
        await client.close()


async def test_so_it_ends_one_that_sends_messages_between_them(files: Any) -> None:
    async with both(files) as server:
        client = await Client.verified(server, files[0])
        await client.flood(lambda: client.tls.key_updates(50) + client.tls.seal(frame_of(Note(1))))
        await until(lambda: server.ended == [(7, CloseCode.RATE_LIMITED)])
        await client.close()


async def test_padding_is_nothing_too(files: Any) -> None:
    async with both(files) as server:
        client = await Client.verified(server, files[0])
        await client.flood(lambda: client.tls.seal(frame_of(Note(1)), 16_000))
        await until(lambda: server.ended == [(7, CloseCode.RATE_LIMITED)])
        await client.close()


@pytest.mark.parametrize("first", [b"", verify_request(7)[:5], control_frame(Hello())], ids=["", "part", "hello"])
async def test_before_the_login_they_are_bounded_too(files: Any, first: bytes) -> None:
    async with both(files, limits=Limits(verify_timeout=3_600)) as server:
        client = await Client.open(server, files[0])
        if first:
            client.say(first)
        await client.flood(lambda: client.tls.key_updates(50))
        await until(lambda: server.stats.refused == {"unverified-limit": 1})
        await until(lambda: len(server.connections) == 1)
        await client.close()


async def test_so_are_they_while_the_token_is_checked(files: Any) -> None:
    gate = asyncio.Event()

    class Slow(StaticTokens):
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            if uid == 7:
                await gate.wait()
            return await super().verify(token, uid, source, address)

    async with both(files, limits=Limits(verify_timeout=3_600, token_timeout=3_000), tokens=Slow()) as server:
        client = await Client.open(server, files[0])
        client.say(control_frame(Hello()), verify_request(7))
        await until(lambda: server.stats.token_seconds is not None and len(server.logins) == 1)
        await client.flood(lambda: client.tls.key_updates(50))
        await until(lambda: server.stats.refused == {"unverified-limit": 1})
        await client.close()


async def test_so_are_they_while_a_closed_session_is_kept_open(files: Any) -> None:
    async with both(files, limits=Limits(close_timeout=3_600)) as server:
        client = await Client.verified(server, files[0])
        server.session(7).kick()
        await client.flood(lambda: client.tls.key_updates(50))
        await until(lambda: len(server.connections) == 1)
        await client.close()


async def test_an_address_that_does_it_again_and_again_is_banned(files: Any) -> None:
    limits = Limits(exempt=(), free_failures=2)
    async with both(files, limits=limits) as server:
        for uid in (7, 8):
            client = await Client.verified(server, files[0], uid)
            await client.flood(lambda client=client: client.tls.key_updates(50))  # type: ignore[misc]
            await until(lambda uid=uid: (uid, CloseCode.RATE_LIMITED) in server.ended)  # type: ignore[misc]
            await client.close()
            assert server.stats.bans == (uid == 8)


@pytest.mark.parametrize("cut", [None, 100], ids=["one record a message", "records of 100 bytes"])
async def test_an_honest_client_is_left_alone_however_it_cuts_its_records(files: Any, cut: int | None) -> None:
    """Two thousand small messages, each in a record of its own; or large ones in small records."""
    async with both(files) as server:
        client = await Client.verified(server, files[0])
        for n in range(60):
            if cut is None:
                client.say(*[frame_of(Note(n))] * 50)
            else:
                data = frame_of(Blob(bytes(10_000)))
                client.say(*[data[at : at + cut] for at in range(0, len(data), cut)])
                await client.frame()
            client.writer.write(client.tls.key_updates(1))
            client.say(frame_of(Echo(n))[:4], frame_of(Echo(n))[4:])
            await client.frame()
        await asyncio.sleep(300 * MS)  # that the client stays has no event
        assert server.ended == []
        await client.close()


async def test_an_honest_client_that_is_not_read_for_a_while_is_left_alone(files: Any) -> None:
    """Records of a client that is not read wait in the kernel and in TLS, unopened: nothing explains them yet."""
    go = asyncio.Event()
    async with both(files, limits=Limits(max_inbox=1)) as server:

        @server.instead(Blob)
        async def blob(session: Any, message: Blob) -> None:
            await go.wait()

        client = await Client.verified(server, files[0])
        data = client.tls.seal(frame_of(Blob(bytes(10_000))))
        client.writer.write(data)
        for _ in range(150):
            client.say(frame_of(Blob(bytes(10_000))))
        await asyncio.sleep(500 * MS)  # that the client stays has no event
        assert server.ended == []
        go.set()
        client.say(frame_of(Echo(1)))
        await client.frame()
        assert server.ended == []
        await client.close()


async def test_so_is_one_that_is_checked_as_soon_as_it_is_read_again(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport decrypts what it holds in the turn after the pause. Until then, nothing explains these bytes."""
    watches: list[tls_watch.TlsWatch] = []
    add, resume = tls_watch.TlsWatch.add, tls_watch.TlsConnection.resume

    def adding(watch: tls_watch.TlsWatch, connection: tls_watch.TlsConnection) -> None:
        watches.append(watch)
        add(watch, connection)

    def resuming(connection: tls_watch.TlsConnection, why: Pause) -> None:
        was_reading = connection.transport.is_reading()
        resume(connection, why)
        if connection.transport.is_reading() and not was_reading:
            connection.check_at = 0.0
            watches[0].on_deadline(time.monotonic())

    monkeypatch.setattr(tls_watch.TlsWatch, "add", adding)
    monkeypatch.setattr(tls_watch.TlsConnection, "resume", resuming)
    await test_an_honest_client_that_is_not_read_for_a_while_is_left_alone(files)


def test_no_client_of_tls_1_2_renegotiates(files: Any) -> None:
    assert Certificate("tls://x:1", files[0], files[1]).context.options & ssl.OP_NO_RENEGOTIATION


def test_the_kernel_says_what_a_socket_received(files: Any) -> None:
    """Where it did not, nothing would be bounded."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as one:
        other, _ = listening.accept()
        with other:
            connection = tls_watch.TlsConnection(other, FrameDecoder(9), lambda _: None, lambda *_: None, 0.0)
            one.sendall(bytes(1_000))
            other.recv(400, socket.MSG_WAITALL)
            assert connection.unexplained() == 1_000
            assert connection.unread() == 600
            connection.begin()
            assert connection.unexplained() == 0
        assert connection.unexplained() <= 0 and connection.unread() == 0, "it is closed"
