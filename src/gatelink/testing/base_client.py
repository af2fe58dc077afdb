"""A client that behaves as the deployed ones: it speaks the base protocol, and handles messages in a frame loop.

It is written from docs/protocol.md and shares no framing with the server. It has three habits of such clients:

- Messages queued before the login are sent in one write, right after ClientVertifyReq.
- Messages are handled in a frame loop, every 33 ms.
- The reader reports the end of the connection at once. So the end may be reported before a message that came earlier.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import NamedTuple, Self, cast

from gatelink.config import WireOptions
from gatelink.net.endpoints import parse_endpoint
from gatelink.wire.body import Scrambler, compress, decompress

FRAME_SECONDS = 0.033
HEARTBEAT_SECONDS = 10.0
MAX_BODY = 1 << 24

_HEAD = struct.Struct("<I")
_ID = struct.Struct("<H")
_REQUEST, _ANSWER, _HEARTBEAT = 1, 2, 4
_COMPRESSED, _SCRAMBLED = 1, 2


class Received(NamedTuple):
    """An event for the client's code: a message, or `CLOSED`."""

    id: int
    body: bytes


CLOSED = Received(0, b"")
"""The connection has ended. No message has id 0."""


class Answer(NamedTuple):
    """The fields of ClientVertifySucceedRet."""

    source: int
    uid: int
    source_id: int
    type: int


class BaseClient(asyncio.Protocol):
    """One login of a deployed client.

    events: the events that its code has handled, in order, without heartbeats.
    answer: ClientVertifySucceedRet, once it has been handled.
    flags_received: the id and flags byte of every frame that arrived.

    async with BaseClient(7, token) as client:
        client.send(11_001, b"queued")
        await client.open("tcp://127.0.0.1:7000")
        body = await client.message(11_002)
    """

    def __init__(self, uid: int, token: bytes, *, scramble: bool = False, compress: bool = False) -> None:
        """uid, token: of the login. scramble, compress: the form of sent messages; all four forms are read."""
        self.events: list[Received] = []
        self.answer: Answer | None = None
        self.flags_received: list[tuple[int, int]] = []
        self._flags = (_SCRAMBLED if scramble else 0) | (_COMPRESSED if compress else 0)
        self._scrambler = Scrambler(WireOptions().scramble_key)
        self._queued = self._frame(_REQUEST, struct.pack("<BQH", 0, uid, len(token)) + token)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._arrived: list[Received] = []  # for the next turn of the frame loop
        self._changed = asyncio.Event()
        self._frames: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self, endpoint: str) -> None:
        """Connect to a tcp:// or unix:// endpoint, and write the request and the queued messages.

        Raises OSError if nothing listens there, ConfigError for an invalid endpoint.
        """
        loop = asyncio.get_running_loop()
        where = parse_endpoint(endpoint)
        if where.scheme == "unix":
            await loop.create_unix_connection(lambda: self, where.path)
        else:
            await loop.create_connection(lambda: self, where.host, where.port)
        self._frames = loop.create_task(self._run())

    def send(self, id: int, body: bytes = b"") -> None:
        """Write a message. Before `open` it is queued after the request; after the stream's end it is dropped."""
        self.write(self._frame(id, body))

    def write(self, data: bytes) -> None:
        """Write raw bytes, as `send` writes a message."""
        if self._transport is None:
            self._queued += data
        elif not self._transport.is_closing():
            self._transport.write(data)

    def stop_reading(self) -> None:
        """Leave received bytes in the kernel, as a client does when its network has changed."""
        assert self._transport is not None
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        """Read again after `stop_reading`."""
        assert self._transport is not None
        self._transport.resume_reading()

    async def message(self, id: int) -> bytes:
        """The body of the first message `id`. Raises ConnectionError if the connection ends without one."""
        await self.until(lambda: any(event.id == id for event in self.events) or self._has_handled_all)
        for event in self.events:
            if event.id == id:
                return event.body
        raise ConnectionError(f"the server closed before message {id}; received {[event.id for event in self.events]}")

    async def verified(self) -> Answer:
        """The answer to the login. Raises ConnectionError if the server closes before it."""
        await self.message(_ANSWER)
        assert self.answer is not None
        return self.answer

    async def closed(self) -> None:
        """Wait until its code has handled the end, and every message before it."""
        await self.until(lambda: self._has_handled_all)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true. It is called after each turn of the frame loop and at the end."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """End the connection and the frame loop."""
        if self._transport is not None:
            self._transport.abort()
            await self._is_over.wait()
        if self._frames is not None:
            self._frames.cancel()
            await asyncio.wait([self._frames])

    @property
    def _has_handled_all(self) -> bool:
        return CLOSED in self.events and not self._arrived

    # -- asyncio.Protocol: the reader --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._queued)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 6:
            word = _HEAD.unpack_from(received)[0]
            end = 4 + (word & 0xFFFFFF)
            if len(received) < end:
                return
            self._take(word >> 24, _ID.unpack_from(received, 4)[0], bytes(received[6:end]))
            del received[:end]

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._is_over.set()

    def _end(self) -> None:
        if CLOSED not in self.events:
            self.events.append(CLOSED)
            self._changed.set()

    def _take(self, flags: int, id: int, body: bytes) -> None:
        if flags > _COMPRESSED | _SCRAMBLED:
            raise ValueError(f"flags {flags:#04x} to a client of the base protocol; it knows 0 to 3")
        self.flags_received.append((id, flags))
        if flags & _SCRAMBLED:
            body = self._scrambler.unscramble(body)
        if flags & _COMPRESSED:
            body = decompress(body, MAX_BODY)
        if id != _HEARTBEAT:
            self._arrived.append(Received(id, body))

    # -- the frame loop --

    async def _run(self) -> None:
        beat_at = asyncio.get_running_loop().time() + HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(FRAME_SECONDS)
            arrived, self._arrived = self._arrived, []
            for event in arrived:
                if event.id == _ANSWER:
                    self.answer = Answer(*struct.unpack_from("<BQQB", event.body))
            self.events += arrived
            self._changed.set()
            if (now := asyncio.get_running_loop().time()) >= beat_at:
                beat_at = now + HEARTBEAT_SECONDS
                self.send(_HEARTBEAT)

    def _frame(self, id: int, body: bytes) -> bytes:
        flags = self._flags
        if flags & _COMPRESSED and not body:
            flags &= ~_COMPRESSED
        if flags & _COMPRESSED:
            body = compress(body)
        if flags & _SCRAMBLED:
            body = self._scrambler.scramble(body)
        return _HEAD.pack(len(body) + 2 | flags << 24) + _ID.pack(id) + body
