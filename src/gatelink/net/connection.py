"""One socket: bytes up to the decoder and the receiver, bytes down to the transport.

A `Connection` is an asyncio protocol over any stream transport (TCP, TLS, Unix socket), and a `Stream` for the session.
`data_received` is the beginning of the hot path: one read, one decode, one dispatch, one write.
"""

import asyncio
from collections.abc import Callable, Set
from typing import Protocol, cast

from gatelink._native import compiled
from gatelink.errors import CloseCode, PeerError
from gatelink.session.rates import Charged
from gatelink.session.states import CONNECTION, ConnectionEvent, ConnectionState, step
from gatelink.session.stream import FrameReceiver, Pause
from gatelink.wire.frames import BASE_FLAGS, CONTROL, Frame, FrameDecoder, encode_control_frame, encode_frame
from gatelink.wire.secure import MAX_RECORD, SecureStream


class _NullReceiver:
    """The receiver of a connection whose frames are no longer wanted."""

    close_code = None

    def receive(self, frames: list[Frame]) -> None: ...

    def waiting(self, buffered: int) -> None: ...

    def broken(self, error: PeerError) -> None: ...

    def writable(self) -> None: ...

    def lost(self, error: Exception | None) -> None: ...

    def when_handled(self, call: Callable[[], None]) -> None:
        call()


class KeyExhausted(PeerError):
    """The connection has sealed 2**32 records, and needs a new handshake. No fault of its peer."""

    code = CloseCode.GOING_AWAY


class _Discard(FrameDecoder):
    """The decoder of a connection that is closing."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[Frame]:
        return []


class _Held(FrameDecoder):
    """Keeps the bytes behind a login request until the request is answered."""

    __slots__ = ()

    def __init__(self, rest: bytes) -> None:
        super().__init__(0)
        self._tail = bytearray(rest)

    def feed(self, data: bytes) -> list[Frame]:
        assert self._tail is not None
        self._tail += data
        return []


LAST_FRAME = 0.05
"""Seconds that a carrier has to tell its peer why a connection is aborted: a few bytes, if the socket takes them."""


class Carrier(Protocol):
    """Something between a connection and its socket that has messages of its own, as WebSocket has.

    is_tls: whether TLS protects the way, here or up to a proxy of ours. close_code: what it tells the peer at a close.
    """

    is_tls: bool
    close_code: int


class Reader(Protocol):
    """The reader of a connection until its peer is verified."""

    def release(self) -> None:
        """Forget the connection, which has another reader now or is closed."""


@compiled
def deliver(decoder: FrameDecoder, data: bytes, came: int, receiver: FrameReceiver, meter: Charged | None) -> None:
    """Give a receiver the frames that `data` completes. came: bytes of the read, as they were on the wire."""
    frames = decoder.feed(data)
    if meter is not None:
        meter.charge(len(frames), came)
    if frames:
        receiver.receive(frames)
    else:
        receiver.waiting(decoder.buffered)


NULL_RECEIVER = _NullReceiver()
"""The receiver of a connection that has no login check and no session."""

_DISCARD = _Discard(0)


def _write_nothing(data: bytes) -> None:
    """The `write` of a closed connection."""


def peer_host(transport: asyncio.BaseTransport) -> str:
    """The host at the other end, as an address; "" for a Unix socket."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


class Connection(asyncio.Protocol):
    """One stream and its frames.

    address: the peer's host, "" for a Unix socket; behind a proxy, the one that the proxy gives.
    carrier: the layer between it and its socket, if there is one.
    made: called with the connection when its transport is there; it sets `receiver`, or refuses with `drop`.
    closed: called once when the transport is closed, with the receiver whose `lost` was called.
    """

    __slots__ = (
        "_decoder",
        "_held_by",
        "_closed",
        "_paused",
        "_made",
        "_meter",
        "_secure",
        "address",
        "carrier",
        "reader",
        "receiver",
        "state",
        "transport",
        "writable",
        "write",
    )

    def __init__(
        self,
        decoder: FrameDecoder,
        made: "Callable[[Connection], None]",
        closed: "Callable[[Connection, FrameReceiver], None] | None" = None,
    ) -> None:
        self._decoder = decoder
        self._made: Callable[[Connection], None] | None = made
        self._closed = closed
        self._paused = Pause(0)
        self._meter: Charged | None = None
        self._secure: SecureStream | None = None
        self._held_by: FrameDecoder | None = None  # the decoder that gets the held bytes
        self.reader: Reader | None = None  # an `UnverifiedReader`, while that reads for it
        self.address: str | None = None
        self.carrier: Carrier | None = None
        self.receiver: FrameReceiver = NULL_RECEIVER
        self.state = ConnectionState.UNVERIFIED
        self.transport: asyncio.Transport
        self.write: Callable[[bytes], None]
        self.writable = True

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        if self.address is None:
            self.address = peer_host(transport)
        made, self._made = self._made, None  # it belongs to the listener: do not keep that alive
        if made is not None:
            made(self)

    def data_received(self, data: bytes) -> None:
        came = len(data)
        secure = self._secure
        if secure is not None:
            data = secure.feed(data)
        decoder = self._decoder
        deliver(decoder, data, came, self.receiver, self._meter)
        if decoder.more:
            self._next_turn()
        elif decoder.error is not None:
            self.receiver.broken(decoder.error)
        elif secure is not None and secure.error is not None:
            self.receiver.broken(secure.error)

    def eof_received(self) -> bool:
        return False  # half-open is not a state of this protocol: the transport closes itself

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = step(CONNECTION, self.state, ConnectionEvent.LOST)
        receiver, self.receiver = self.receiver, NULL_RECEIVER
        self._meter = None
        self._release_reader()
        receiver.lost(exc)
        self.write = _write_nothing  # a sealed one's `write` refers to this connection
        self._drop_ciphers()
        if self._closed is not None:
            self._closed(self, receiver)

    # -- for the receiver (Stream) --

    def pause(self, why: Pause) -> None:
        if not self._paused:
            self.transport.pause_reading()
        self._paused |= why

    def resume(self, why: Pause) -> None:
        if not self._paused & why:
            return
        self._paused &= ~why
        if not self._paused:
            if self._decoder.more:
                self._next_turn()
            elif not self.transport.is_closing():
                self.transport.resume_reading()

    def close(self) -> None:
        if self.state is ConnectionState.CLOSED or self.transport.is_closing():
            return
        self.discard_input()
        if self.carrier is not None and (code := self.receiver.close_code) is not None:
            self.carrier.close_code = code
        if self.transport.can_write_eof():
            # Closing a socket with unread bytes resets it, and the peer may lose our last bytes. So end our side,
            # and read on until the peer ends its side. The caller of `close` has a deadline for that.
            try:
                self.transport.write_eof()
            except OSError:  # the peer has reset the connection, which we have not read yet
                self.transport.abort()
        else:
            self.transport.close()

    def abort(self) -> None:
        if self.state is not ConnectionState.CLOSED:
            self.write = _write_nothing
            self.discard_input()
            if self.carrier is not None and (code := self.receiver.close_code) is not None:
                self.carrier.close_code = code
                self.transport.write_eof()
                asyncio.get_running_loop().call_later(LAST_FRAME, self.transport.abort)
            else:
                self.transport.abort()

    def drop(self) -> None:
        self.receiver = NULL_RECEIVER
        self.abort()

    def discard_input(self) -> None:
        """Read and discard all further bytes; the connection is closing."""
        self.state = step(CONNECTION, self.state, ConnectionEvent.CLOSE)
        self._decoder = _DISCARD
        self._drop_ciphers()
        self._meter = None
        if self._paused:
            self._paused = Pause(0)
            self.transport.resume_reading()

    def _drop_ciphers(self) -> None:
        """Free the ciphers now; others may refer to the stream for a while."""
        if self._secure is not None:
            self._secure.rest()
            self._secure = None

    # -- for the login check --

    @property
    def buffered(self) -> int:
        """Bytes that arrived and are not yet opened or decoded."""
        return self._decoder.buffered + (0 if self._secure is None else self._secure.buffered)

    @property
    def has_more(self) -> bool:
        """Whether bytes came behind the frames that the receiver has; a header that is wrong counts, too."""
        secure = self._secure
        return bool(
            self.buffered or self._decoder.error is not None or (secure is not None and secure.error is not None)
        )

    @property
    def is_tls(self) -> bool:
        if self.carrier is not None:
            return self.carrier.is_tls
        return self.transport.get_extra_info("ssl_object") is not None

    @property
    def unsent(self) -> int:
        """As of a `Stream`; 0 where TLS, sealing or a carrier stands between: a record there can't be taken back."""
        is_exact = self._secure is None and self.carrier is None and not self.is_tls
        return self.transport.get_write_buffer_size() if is_exact else 0

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in it: arrived and not yet decoded, written and not yet out."""
        return self.buffered + self.transport.get_write_buffer_size()

    def take_together(self, frames: int) -> None:
        """Give the receiver up to so many frames of a read at once."""
        self._decoder.turn_frames = frames

    def hold(self) -> None:
        """Keep further bytes undecoded, until `bind`; `waiting` tells the receiver their number."""
        self._held_by = decoder = self._decoder
        self._decoder = _Held(decoder.take_rest())

    def put_back(self, frames: list[Frame]) -> None:
        """Give the receiver `frames`, and then the bytes behind them, as soon as the peer may be read."""
        data = b"".join(
            encode_control_frame(body) if flags == CONTROL else encode_frame(id, body, flags)
            for id, flags, body in frames
        )
        self._decoder.put_back(data + self._decoder.take_rest())
        self._next_turn()

    def bind(
        self,
        receiver: FrameReceiver,
        max_frame: int,
        turn_frames: int,
        meter: Charged | None = None,
        allowed: Set[int] = BASE_FLAGS,
    ) -> None:
        """The peer is verified: its frames go to `receiver` from now on, within the limits of verified peers.

        allowed: the flags bytes of frames that the peer may send.

        If an `UnverifiedReader` has read so far, the connection reads by itself from now on. It is paused for
        UNVERIFIED then; the caller resumes it when the receiver may get the held bytes.
        """
        self.state = step(CONNECTION, self.state, ConnectionEvent.VERIFIED)
        self.receiver = receiver
        if self._held_by is not None:
            held, self._decoder, self._held_by = self._decoder, self._held_by, None
            self._decoder.put_back(held.take_rest())
        if self.reader is not None:
            self.pause(Pause.UNVERIFIED)
            self.transport.set_protocol(self)
            self._release_reader()
        if self._secure is not None:
            self._secure.max_record = MAX_RECORD
        self._decoder.max_length = max_frame
        self._decoder.turn_frames = turn_frames
        self._decoder.allowed = allowed
        self._meter = meter

    def seal(self, stream: SecureStream) -> None:
        """Open all further bytes with `stream`, and seal each write with it."""
        decoder = self._decoder
        rest = decoder.take_rest()
        self._decoder = FrameDecoder(decoder.max_length, decoder.turn_frames, decoder.turn_bytes)
        self._secure = stream
        transport_write = self.transport.write
        call_soon = asyncio.get_running_loop().call_soon

        def expire() -> None:
            self.receiver.broken(KeyExhausted("this connection's key has sealed nearly 2**32 records"))

        def write(data: bytes) -> None:
            transport_write(stream.seal(data))
            if stream.exhausted:
                call_soon(expire)  # not at once: this may be within a call of the receiver

        self.write = write
        if rest:
            self.data_received(rest)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the transport to another protocol, from `connection_made` on; for an accept hook.

        The connection is no longer gatelink's, and counts against no limit.
        """
        self.state = step(CONNECTION, self.state, ConnectionEvent.LOST)
        if is_reading := self.transport.is_reading():
            self.transport.pause_reading()  # uvloop asks what kind a protocol is when reading starts
        self.transport.set_protocol(protocol)
        if is_reading:
            self.transport.resume_reading()
        self._release_reader()
        if self._closed is not None:
            self._closed(self, NULL_RECEIVER)
        try:
            protocol.connection_made(self.transport)
        except BaseException:
            self.transport.abort()
            raise

    def _release_reader(self) -> None:
        """Break the cycle of reader, connection and transport. With uvloop's TLS it holds 0.3 MB."""
        if self.reader is not None:
            self.reader.release()
            self.reader = None

    def _next_turn(self) -> None:
        """Let the rest wait for the next turn of the loop: this connection has had its share of this one."""
        if not self._paused & Pause.TURN:
            self.pause(Pause.TURN)
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._paused &= ~Pause.TURN
        if self._paused or self.state is ConnectionState.CLOSED:
            return
        self.data_received(b"")
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()
