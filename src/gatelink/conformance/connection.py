"""One connection of the client at the scripted server: bytes in, frames out, and back; through WebSocket and Noise."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from gatelink.conformance.judge import Judge, Unmet
from gatelink.errors import PeerError
from gatelink.net.websocket import SUBPROTOCOL, accept_key, header_tokens
from gatelink.wire.control import Control, Hello, control_frame, decode_control
from gatelink.wire.frames import ALL_FLAGS, CONTROL, Frame, FrameDecoder
from gatelink.wire.resume import NO_HANDSHAKE
from gatelink.wire.secure import MAX_RECORD, SecureStream
from gatelink.wire.websocket import WebSocketStream

MAX_FRAME = 102_400
"""Bytes of payload that a server takes from a client by default (docs/protocol.md, "Frames")."""

MAX_WAITING = 1_000
"""Frames that wait because the client is not let in yet."""

MAX_HEAD = 8_192
"""Bytes of a WebSocket's request."""

_LINGER_0 = struct.pack("ii", 1, 0)  # closing sends RST, not FIN


class Receiver(Protocol):
    """The receiver of a connection's frames once its client is verified."""

    def receive(self, connection: "ScriptedConnection", frames: list[Frame]) -> None: ...


class ScriptedConnection(asyncio.Protocol):
    """One connection. Until `receiver` is set, its frames wait for `frame`.

    number: from 1, as they are accepted. hello: the client's, and `agreed` the answer, once they are there.
    is_over: the client has ended it, or it is closed.
    """

    def __init__(self, judge: Judge, number: int, is_web: bool, opened: Callable[["ScriptedConnection"], None]) -> None:
        self.number = number
        self.hello = Hello()
        self.agreed = Hello()
        self.handshake_hash = NO_HANDSHAKE
        self.receiver: Receiver | None = None
        self.frames: deque[Frame] = deque()
        self.is_over = False
        self._judge = judge
        self._opened = opened
        self._web = WebSocketStream(1 << 20) if is_web else None
        self._head: bytearray | None = bytearray() if is_web else None
        self._secure: SecureStream | None = None
        self._decoder = FrameDecoder(MAX_FRAME)
        self._decoder.allowed = ALL_FLAGS
        self._transport: asyncio.Transport
        self._left: int | None = None  # bytes that are still taken before the connection breaks

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._head is None:
            self._opened(self)
            self._judge.changed()

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if self._head is not None:
            self._upgrade(data)
        elif data:
            self._take(data)
        if self._left == 0:
            self.abort()
        self._judge.changed()

    def eof_received(self) -> bool:
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        self.is_over = True
        self._judge.changed()

    # -- what comes --

    def _upgrade(self, data: bytes) -> None:
        """Answers the request of the WebSocket (RFC 6455, section 4.2)."""
        assert self._head is not None
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) <= MAX_HEAD:
            return
        head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        named = dict(headers)
        for is_right, what in (
            (first.startswith(b"GET ") and first.endswith(b" HTTP/1.1"), f"begins with {first[:40]!r}"),
            (b"websocket" in header_tokens(headers, b"upgrade"), "has no `Upgrade: websocket`"),
            (named.get(b"sec-websocket-version") == b"13", "does not ask for version 13"),
            (
                SUBPROTOCOL.encode() in header_tokens(headers, b"sec-websocket-protocol"),
                f"does not offer {SUBPROTOCOL}",
            ),
            (not rest, "has bytes behind it, before its answer"),
        ):
            if not is_right:
                self._judge.blame(f"the WebSocket's request {what}")
                self.abort()
                return
        self._head = None
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: %b\r\nSec-WebSocket-Accept: %b\r\n\r\n"
            % (SUBPROTOCOL.encode(), accept_key(named.get(b"sec-websocket-key", b"")))
        )
        self._opened(self)

    def _take(self, data: bytes) -> None:
        if self._web is not None:
            data = self._web.feed(data)
            if self._web.pong:
                self._transport.write(self._web.pong)
                self._web.pong = b""
            if self._web.error is not None:
                self._judge.blame(f"WebSocket: {self._web.error}")
            if self._web.status is not None:
                self.close_web(self._web.status)
        if self._secure is not None:
            data = self._secure.feed(data)
            if self._secure.error is not None:
                self._judge.blame(f"the record layer: {self._secure.error}")
        while True:
            self.frames.extend(self._decoder.feed(data))
            data = b""
            if not self._decoder.more:
                break
        if self.receiver is None and len(self.frames) > MAX_WAITING:
            self._judge.blame(f"the client sent more than {MAX_WAITING} frames before an answer")
            self.abort()
        if self.receiver is not None and self.frames:
            frames = list(self.frames)
            self.frames.clear()
            self.receiver.receive(self, frames)
        if self._decoder.error is not None:
            self._judge.blame(f"the client sent: {self._decoder.error}")
            self.abort()

    async def frame(self, what: str) -> Frame:
        """The next frame, which is due as `what`. Raises Unmet."""
        await self._judge.until(lambda: self.frames or self.is_over, what)
        if not self.frames:
            raise Unmet(f"{what}: the client ended connection {self.number} instead")
        return self.frames.popleft()

    async def control(self, what: str) -> Control | None:
        """The next control record. Raises Unmet for a message."""
        id, flags, body = await self.frame(what)
        if flags != CONTROL:
            raise Unmet(f"{what}: message {id} came instead")
        try:
            return decode_control(body)
        except PeerError as error:
            raise Unmet(f"{what}: {error}") from None

    async def over(self, what: str) -> None:
        """Wait until the client has ended the connection."""
        await self._judge.until(lambda: self.is_over, what)

    # -- what goes --

    def secure(self, stream: SecureStream, handshake_hash: bytes) -> None:
        """From now on all bytes are sealed."""
        stream.max_record = MAX_RECORD
        self._secure = stream
        self.handshake_hash = handshake_hash

    def say(self, *records: Control) -> None:
        """Write control records."""
        self.write(b"".join(map(control_frame, records)))

    def write(self, data: bytes, first: int | None = None) -> None:
        """Write bytes of the inner stream as one record and one WebSocket message. first: only so many bytes of it."""
        if self._secure is not None:
            data = self._secure.seal(data)
        if self._web is not None:
            data = self._web.wrap(data)
        self.write_raw(data[:first])

    def write_raw(self, data: bytes) -> None:
        """Write bytes of the socket."""
        if not self._transport.is_closing():
            self._transport.write(data)

    # -- its end --

    def break_after(self, count: int) -> None:
        """Take `count` more bytes of the socket, and then break, as a path does inside of anything."""
        self._left = count

    def end(self) -> None:
        """End it in order (FIN), without a word."""
        self.is_over = True
        self._transport.close()

    def close_web(self, status: int) -> None:
        """Send a WebSocket's close frame, and end it."""
        assert self._web is not None
        self.write_raw(self._web.close_frame(status))
        self.end()

    def abort(self) -> None:
        """Reset it."""
        self.is_over = True
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError, ValueError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._transport.abort()
