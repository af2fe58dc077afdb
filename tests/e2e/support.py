"""What tests over real sockets share: an echo server, a client on a bare stream, a neighbour that must not suffer."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gatelink import Catalog, CloseCode, Identity, Listen, Server, Session, StaticTokens
from gatelink.net.endpoints import Endpoint
from gatelink.wire.base import DUPLICATE_LOGIN, HEARTBEAT, VERIFY_FAILED, VERIFY_REQUEST, VERIFY_SUCCEEDED
from gatelink.wire.frames import ALL_FLAGS, Frame, FrameDecoder, encode_frame
from tests.support import MS

CATALOG = Catalog()
TCP = "tcp://127.0.0.1:0"

HEARTBEAT_FRAME = encode_frame(HEARTBEAT, b"")
VERIFY_FAILED_FRAME = encode_frame(VERIFY_FAILED, b"")
DUPLICATE_LOGIN_FRAME = encode_frame(DUPLICATE_LOGIN, b"")


@CATALOG.message(11_001)
class Echo(msgspec.Struct):
    """Comes back as it was sent."""

    n: int
    text: str = ""


@CATALOG.message(11_002)
class Blob(bytes):
    """Comes back as it was sent."""


@CATALOG.message(11_003)
class Note(msgspec.Struct):
    """No answer."""

    n: int


class AnyToken:
    """Believes everybody."""

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        return Identity(uid)


class EchoServer(Server):
    """Echoes, and remembers how each session ended, and what its notes were."""

    def __init__(self, *listen: str | Listen, **settings: Any) -> None:
        settings.setdefault("tokens", StaticTokens())
        super().__init__(*(listen or (TCP,)), catalog=CATALOG, **settings)
        self.ended: list[tuple[int, CloseCode | None]] = []  # (uid, why)
        self.notes: list[tuple[int, int]] = []  # (uid, n)
        self.on(Echo)(lambda session, message: session.send(message))
        self.on(Blob)(lambda session, message: session.send(message))
        self.on(Note)(lambda session, message: self.notes.append((session.uid, message.n)))
        self.on_closed(lambda session: self.ended.append((session.uid, session.close_code)))

    def instead(self, what: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: handles `what` in place of the handler that it has here."""
        del self.handlers.routes[CATALOG.find(what).id]
        return self.on(what)

    @property
    def endpoint(self) -> Endpoint:
        return self.endpoints[0]

    def session(self, uid: int) -> Session:
        found = self.sessions.get(uid)
        assert found is not None, f"uid {uid} has no session"
        return found


@contextlib.asynccontextmanager
async def serving(*listen: str | Listen, **settings: Any) -> AsyncIterator[EchoServer]:
    """An `EchoServer` that runs; it must stop without having anything to wait for."""
    async with EchoServer(*listen, **settings) as server:
        yield server
        await server.stop(0)


def token_of(uid: int) -> bytes:
    """What `StaticTokens` takes."""
    return b"%032d" % uid


def verify_request(uid: int, token: bytes | None = None, source: int = 0) -> bytes:
    token = token_of(uid) if token is None else token
    return encode_frame(VERIFY_REQUEST, struct.pack("<BQH", source, uid, len(token)) + token)


def verify_succeeded(uid: int, back: bool = False, source_id: int = 0) -> bytes:
    return encode_frame(VERIFY_SUCCEEDED, struct.pack("<BQQB", 0, uid, source_id, back))


def frame_of(message: Any) -> bytes:
    kind, body = CATALOG.encode(message)
    return encode_frame(kind.id, body)


class RawClient:
    """A client of bytes: it sends what it is told, and does nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = FrameDecoder(1 << 20, turn_frames=1 << 20, turn_bytes=1 << 30)
        self._decoder.allowed = ALL_FLAGS
        self._frames: list[Frame] = []

    @classmethod
    async def open(cls, server: Server | Endpoint, tls: ssl.SSLContext | None = None) -> Self:
        endpoint = server if isinstance(server, Endpoint) else server.endpoints[0]
        if endpoint.scheme == "unix":
            return cls(*await asyncio.open_unix_connection(endpoint.path))
        return cls(*await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls))

    @classmethod
    async def verified(cls, server: Server | Endpoint, uid: int, tls: ssl.SSLContext | None = None) -> Self:
        client = await cls.open(server, tls)
        client.send(verify_request(uid))
        frame = await client.frame()
        assert frame[0] == VERIFY_SUCCEEDED, f"answered with {frame}"
        return client

    def send(self, *data: bytes) -> None:
        """Nothing, once the server has closed."""
        if not self.writer.transport.is_closing():
            self.writer.write(b"".join(data))

    async def frame(self) -> Frame:
        """The next frame that isn't a heartbeat."""
        while not self._frames:
            data = await self.reader.read(65_536)
            assert data, "the server closed the connection"
            self._take(data)
        return self._frames.pop(0)

    async def message(self) -> Any:
        """The next message, decoded."""
        id, _, body = await self.frame()
        return CATALOG.by_id[id].decode(body)

    async def echo(self, n: int) -> None:
        """One message there and back."""
        self.send(frame_of(Echo(n)))
        assert await self.message() == Echo(n)

    async def rest(self) -> list[Frame]:
        """Reads until the server closes, or resets; the frames that came."""
        self._take(await self.rest_bytes())
        frames, self._frames = self._frames, []
        return frames

    async def rest_bytes(self) -> bytes:
        """Reads until the server closes, or resets; what came."""
        rest = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data := await self.reader.read(65_536):
                rest += data
        return rest

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass

    def reset(self) -> None:
        """Closes with a reset instead of an end of stream."""
        plain = self.writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _take(self, data: bytes) -> None:
        self._frames += [frame for frame in self._decoder.feed(data) if frame[0] != HEARTBEAT]
        assert self._decoder.error is None


@contextlib.asynccontextmanager
async def neighbour(server: Server, uid: int = 4_000_000_000) -> AsyncIterator[RawClient]:
    """Another client, which echoes during the block, and has the same session with no message lost at the end."""
    client = await RawClient.verified(server, uid)
    session = server.sessions.get(uid)
    done = False

    async def chat() -> int:
        n = 0
        while not done or not n:
            await client.echo(n)
            n += 1
            await asyncio.sleep(MS)
        return n

    chatting = asyncio.create_task(chat())
    try:
        yield client
    finally:
        done = True
        await chatting
        await client.echo(-1)
        assert server.sessions.get(uid) is session
        await client.close()


class Closable(Protocol):
    async def close(self) -> None: ...


_Client = TypeVar("_Client", bound=Closable)


@contextlib.asynccontextmanager
async def closing(opening: Awaitable[_Client]) -> AsyncIterator[_Client]:
    """Await a client of bytes, and close it at the end: `async with closing(RawClient.open(server)) as client`."""
    client = await opening
    try:
        yield client
    finally:
        await client.close()


async def leave(session: Session) -> None:
    """Close the session, and wait until nothing of it is left."""
    session.close()
    await session.wait_closed()


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Waits until `condition` is true; for what no event tells of."""
    try:
        async with asyncio.timeout(30_000 * MS):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(MS)
    except TimeoutError:
        raise AssertionError(f"never came true: {what or condition}") from None


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def open_sockets() -> set[str]:
    """The sockets that this process has open. (What else it has open, the loop and the logs may have opened.)"""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own has gone
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {name for name in found if name.startswith("socket:")}


def make_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[str, str, ssl.SSLContext]:
    """A certificate of its own for `address`: the files of it and its key, and a client's context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"gatelink test {address}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(pem), str(key_pem), ssl.create_default_context(cafile=str(pem))
