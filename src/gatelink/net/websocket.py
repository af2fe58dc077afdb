"""WebSocket between a socket and a connection: the bytes of binary messages go up, a write goes down as one message.

The connection has it as its transport, and knows nothing of WebSocket. The socket's transport has it as its protocol.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.net.connection import Connection
from gatelink.session.rates import TokenBucket
from gatelink.session.states import ConnectionState
from gatelink.wire.frames import HEADER_SIZE
from gatelink.wire.websocket import Status, WebSocketError, WebSocketStream

SUBPROTOCOL = "gatelink.1"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

LEAST_MESSAGE = 1_048_576
"""Bytes that a message may have in its fragments; more if one frame of the inner stream may.

No message is held whole, so this bounds no memory. Before the login what arrives is bounded, and not what a message
declares: a base client may send a large message right behind its login.
"""

SMALL_RATE = 256
SMALL_BURST = 4_096
"""Frames a second, and at once, that carry less than the smallest frame of the inner stream: pings, fragments of one
byte. Each costs about as much as a message, and no other limit counts it."""


def max_message(limits: Limits) -> int:
    return max(LEAST_MESSAGE, limits.max_frame + HEADER_SIZE)


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def header_tokens(headers: Sequence[tuple[bytes, bytes]], named: bytes) -> list[bytes]:
    """The comma-separated tokens of a header, in lower case. headers: with names in lower case."""
    return [token.strip().lower() for name, value in headers if name == named for token in value.split(b",")]


class WebSocketTransport(asyncio.Transport, asyncio.Protocol):
    """The transport of `connection` on a WebSocket, after its upgrade.

    transport: the socket's. is_tls: whether TLS protects the way, here or up to a proxy of ours. now: returns the time
    in seconds, by the wheel's clock.
    """

    __slots__ = (
        "_connection",
        "_is_closing",
        "_is_paused",
        "_now",
        "_protocol",
        "_small",
        "_stream",
        "_transport",
        "_waits",
        "close_code",
        "is_tls",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        connection: Connection,
        stream: WebSocketStream,
        now: Callable[[], float],
        is_tls: bool,
    ) -> None:
        self.is_tls = is_tls
        self.close_code: int = CloseCode.NORMAL
        self._transport = transport
        self._connection = connection
        self._protocol: asyncio.Protocol = connection
        self._stream = stream
        self._now = now
        self._small: TokenBucket | None = None
        self._is_closing = False  # our close frame is written
        self._is_paused = False
        self._waits = False  # the stream has ended, and the connection does not know yet
        connection.carrier = self

    # -- from the socket's transport (asyncio.Protocol) --

    @property
    def buffered(self) -> int:
        """Bytes that the connection holds."""
        return self._connection.buffered

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        payload = stream.feed(data)
        if payload:
            self._protocol.data_received(payload)
        if stream.small:
            self._bound_small(stream)
        if stream.pong:
            pong, stream.pong = stream.pong, b""
            if not self._is_closing:
                self._transport.write(pong)
        if stream.error is not None or stream.status is not None:
            self._waits = True
            if not self._is_paused:
                self._end()

    def eof_received(self) -> bool:
        self._protocol.eof_received()
        return False

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        del self._protocol, self._connection  # they refer to this transport, and with TLS to 0.3 MB

    def _bound_small(self, stream: WebSocketStream) -> None:
        """Pay for the frames that carry next to nothing; beyond their rate the stream is in error."""
        now = self._now()
        if self._small is None:
            self._small = TokenBucket(SMALL_RATE, SMALL_BURST, now)
        tokens = self._small.refill(now)
        self._small.tokens = tokens - stream.small
        stream.small = 0
        if self._small.tokens < 0 and stream.error is None:
            text = f"more than {SMALL_RATE} WebSocket frames a second that carry next to nothing"
            stream.error = WebSocketError(text, Status.POLICY)

    def _end(self) -> None:
        """The stream has ended, by the peer's close frame or by an error; the connection has all that came before."""
        self._waits = False
        error, status = self._stream.error, self._stream.status
        if self._transport.is_closing():
            return
        if self._is_closing:  # we are done, too
            self._transport.close()
        elif error is None:
            self._write_close(Status.NONE if status is None else status)
            self._transport.close()
        elif self._connection.state is ConnectionState.CLOSED:  # it was handed over
            self._transport.abort()
        else:
            self._connection.receiver.broken(error)

    def _write_close(self, status: int) -> None:
        self._is_closing = True
        self._transport.write(self._stream.close_frame(status))

    # -- for the connection (asyncio.Transport) --

    def write(self, data: Any) -> None:
        if data and not self._is_closing:
            self._transport.write(self._stream.wrap(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Write our close frame. Then read on until the peer has sent its own."""
        if self._is_closing:
            return
        error = self._stream.error
        self._write_close(self.close_code if error is None else error.status)
        if error is not None:  # nothing more of what comes can be read
            self._transport.close()

    def close(self) -> None:
        self.write_eof()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        return not self._is_paused

    def pause_reading(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._waits:
            self._end()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on all that comes goes to `protocol`: the connection, once its peer is verified."""
        self._protocol = cast(asyncio.Protocol, protocol)
        self._transport.set_protocol(self)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()
