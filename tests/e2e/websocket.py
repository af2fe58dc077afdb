"""A WebSocket client of bytes, for tests: it sends what it is told, right or wrong."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Self

from gatelink.net.endpoints import Endpoint

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def request(*more: str, without: str = "", target: str = "/") -> bytes:
    """A request that is answered with 101. more: header lines. without: the name of a header to leave out."""
    lines = [
        "Host: play.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: gatelink.1",
    ]
    kept = [line for line in lines if not without or not line.lower().startswith(f"{without.lower()}:")]
    return "\r\n".join((f"GET {target} HTTP/1.1", *kept, *more, "", "")).encode()


def ws_frame(opcode: int, payload: bytes = b"", fin: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """A frame of a client, as section 5.2 draws it."""
    size = len(payload)
    first = (0x80 if fin else 0) | bits | opcode
    second = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, second | size))
    elif size < 65_536:
        head = bytes((first, second | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, second | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = b"\x11\x22\x33\x44"
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


class WebClient:
    """One connection. `frame` reads a frame of the server: (opcode, payload)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """A connection without its upgrade."""
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    @classmethod
    @contextlib.asynccontextmanager
    async def upgraded(
        cls, endpoint: Endpoint, *headers: str, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Self]:
        async with cls.open(endpoint, tls) as client:
            client.send(request(*headers))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            yield client

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        assert first >= 0x80 and second < 0x80, "a server's frame is whole here, and not masked"
        size = second
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """The code of the server's close frame, and the end of the stream behind it."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                break
        self.send(ws_frame(CLOSE, payload))
        with contextlib.suppress(ConnectionResetError):
            assert await self.reader.read() == b"", "something came behind the close frame"
        return int.from_bytes(payload[:2], "big")

    async def response(self) -> tuple[int, bytes]:
        """The status and the whole text of an HTTP response, up to the end of the stream."""
        text = await self.reader.read()
        return int(text.split(b" ", 2)[1]), text
