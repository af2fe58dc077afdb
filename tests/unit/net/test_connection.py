"""A connection over a transport that takes notes: what it reads, holds, writes, and how it ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatelink.errors import CloseCode, FrameTooLarge, PeerError, ProtocolError
from gatelink.net.acceptor import UnverifiedReader
from gatelink.net.connection import NULL_RECEIVER, Connection, KeyExhausted
from gatelink.session.states import ConnectionState
from gatelink.session.stream import FrameReceiver, Pause
from gatelink.wire.frames import (
    ALL_FLAGS,
    CONTROL,
    REQUEST,
    Frame,
    FrameDecoder,
    encode_control_frame,
    encode_frame,
)
from gatelink.wire.noise import CipherState
from gatelink.wire.secure import MAX_PLAINTEXT, MAX_RECORD, MAX_RECORD_UNVERIFIED, RESERVED_RECORDS, SecureStream
from tests.fakes import settle, turn

ID = 11_001
BAD = b"\0\0\0\x7f"  # a header with flags that no peer may send


def message(text: bytes = b"") -> bytes:
    return encode_frame(ID, text)


def frame(text: bytes = b"") -> Frame:
    return ID, 0, text


class Transport(asyncio.Transport):
    """Notes what is done to it. has_eof: whether it can close one direction alone."""

    def __init__(self, has_eof: bool = True, peername: object = ("10.0.0.9", 1), tls: object = None) -> None:
        super().__init__({"peername": peername, "ssl_object": tls})
        self.has_eof = has_eof
        self.reset = False  # its peer has reset the connection, which nobody has read yet
        self.closing = False
        self.reading = True
        self.protocol: Any = None
        self.out = b""
        self.calls: list[str] = []

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closing, "a transport that closes is not read"
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol
        self.calls.append(f"set_protocol, {'reading' if self.reading else 'paused'}")

    def can_write_eof(self) -> bool:
        return self.has_eof

    def write(self, data: Any) -> None:
        self.out += data

    def write_eof(self) -> None:
        self.calls.append("eof")
        if self.reset:
            raise OSError("reset")

    def get_write_buffer_size(self) -> int:
        return len(self.out)

    def close(self) -> None:
        self.closing = True
        self.calls.append("close")

    def abort(self) -> None:
        self.closing = True
        self.calls.append("abort")


class Receiver:
    """Takes notes; none of a read that leaves nothing behind. then: called with each list of frames."""

    def __init__(self, then: Callable[[list[Frame]], object] | None = None) -> None:
        self.close_code: CloseCode | None = None
        self.then = then
        self.calls: list[Any] = []

    def receive(self, frames: list[Frame]) -> None:
        self.calls.append(frames)
        if self.then is not None:
            self.then(frames)

    def waiting(self, buffered: int) -> None:
        if buffered:
            self.calls.append(buffered)

    def broken(self, error: PeerError) -> None:
        self.calls.append(type(error))

    def writable(self) -> None:
        self.calls.append("writable")

    def lost(self, error: Exception | None) -> None:
        self.calls.append(("lost", error))

    def when_handled(self, call: Callable[[], None]) -> None:
        call()

    def take(self) -> list[Any]:
        """What was noted since the last call."""
        calls, self.calls = self.calls, []
        return calls


class Meter:
    def __init__(self) -> None:
        self.charges: list[tuple[int, int]] = []

    def charge(self, frames: int, size: int) -> None:
        self.charges.append((frames, size))


class Carrier:
    """As WebSocket is. is_tls: whether it says that TLS protects the way."""

    def __init__(self, is_tls: bool = False) -> None:
        self.is_tls = is_tls
        self.close_code = 0


def state_of(connection: Connection) -> ConnectionState:
    """`connection.state`, of which mypy would believe that it never changes."""
    return connection.state


def writable(connection: Connection) -> bool:
    return connection.writable


def connected(
    turn_frames: int = 100, transport: Transport | None = None, decoder: FrameDecoder | None = None
) -> tuple[Connection, Transport, Receiver]:
    """A connection with a transport, and the receiver that it has before verification."""
    transport, receiver = transport or Transport(), Receiver()
    connection = Connection(decoder or FrameDecoder(1_000, turn_frames), lambda _: None)
    connection.connection_made(transport)
    connection.receiver = receiver
    return connection, transport, receiver


def ciphers(sent: int = 0) -> tuple[SecureStream, SecureStream]:
    """Two ends of a sealed connection. sent: records that the first has sealed already."""
    up, down = bytes(32), bytes([1]) * 32
    here, there = (CipherState(up), CipherState(down)), (CipherState(down), CipherState(up))
    here[0].n = there[1].n = sent
    return SecureStream(*here, MAX_RECORD_UNVERIFIED), SecureStream(*there)


# -- reading --


def test_the_frames_of_a_read_come_in_one_call_and_an_unfinished_one_is_told_by_its_size() -> None:
    connection, _, receiver = connected()
    connection.data_received(message(b"a") + message(b"b"))
    assert receiver.take() == [[frame(b"a"), frame(b"b")]]
    connection.data_received(message(b"c")[:5])
    assert receiver.take() == [5] and connection.buffered == connection.held_bytes == 5
    connection.data_received(message(b"c")[5:])
    assert receiver.take() == [[frame(b"c")]] and connection.buffered == 0


def test_a_wrong_header_is_told_behind_the_frames_before_it() -> None:
    connection, _, receiver = connected()
    assert not connection.has_more
    connection.data_received(message(b"a") + BAD)
    assert receiver.take() == [[frame(b"a")], ProtocolError] and connection.has_more


def test_an_end_of_the_stream_closes_the_connection() -> None:
    connection, _, _ = connected()
    assert connection.eof_received() is False


def test_the_receiver_learns_when_it_may_write_again() -> None:
    connection, _, receiver = connected()
    assert writable(connection)
    connection.pause_writing()
    assert not writable(connection) and receiver.take() == []
    connection.resume_writing()
    assert writable(connection) and receiver.take() == ["writable"]


async def test_frames_over_the_share_of_a_turn_wait_for_the_next_turns_unread() -> None:
    connection, transport, receiver = connected(turn_frames=2)
    connection.data_received(b"".join(message(b"%d" % n) for n in range(5)) + BAD)
    assert receiver.take() == [[frame(b"0"), frame(b"1")]] and not transport.is_reading()
    await turn()
    assert receiver.take() == [[frame(b"2"), frame(b"3")]] and not transport.is_reading()
    await settle()
    assert receiver.take() == [[frame(b"4")], ProtocolError] and transport.is_reading()


@pytest.mark.parametrize("goes_on", ["before its turn", "after its turn"])
async def test_a_peer_that_is_paused_during_its_turns_gets_no_turn_until_it_is_resumed(goes_on: str) -> None:
    connection, transport, receiver = connected(turn_frames=1)
    connection.data_received(message(b"a") + message(b"b") + message(b"c"))
    connection.pause(Pause.INBOX)
    if goes_on == "after its turn":
        await settle()
    assert receiver.take() == [[frame(b"a")]]
    connection.resume(Pause.INBOX)
    assert receiver.take() == [] and not transport.is_reading()
    await turn()
    assert receiver.take() == [[frame(b"b")]], "one turn, not two"
    await settle()
    assert receiver.take() == [[frame(b"c")]] and transport.is_reading()


async def test_a_receiver_that_pauses_within_a_turn_stays_paused() -> None:
    connection, transport, receiver = connected(turn_frames=1)
    receiver.then = lambda frames: connection.pause(Pause.INBOX) if frames == [frame(b"b")] else None
    connection.data_received(message(b"a") + message(b"b"))
    await settle()
    assert receiver.take() == [[frame(b"a")], [frame(b"b")]] and not transport.is_reading()
    connection.resume(Pause.INBOX)
    assert transport.is_reading()


async def test_a_connection_that_ends_within_a_turn_is_read_no_more() -> None:
    connection, transport, receiver = connected(turn_frames=1)
    receiver.then = lambda frames: connection.abort() if frames == [frame(b"b")] else None
    connection.data_received(message(b"a") + message(b"b") + message(b"c"))
    await settle()
    assert receiver.take() == [[frame(b"a")], [frame(b"b")]] and transport.calls == ["abort"]


def test_reading_goes_on_when_no_reason_is_left() -> None:
    connection, transport, _ = connected()
    connection.pause(Pause.INBOX)
    connection.pause(Pause.RATE)
    connection.resume(Pause.LINK)
    connection.resume(Pause.INBOX)
    connection.resume(Pause.INBOX)
    assert not transport.is_reading()
    connection.resume(Pause.RATE)
    assert transport.is_reading()
    connection.pause(Pause.INBOX)
    transport.closing = True
    connection.resume(Pause.INBOX)
    assert not transport.is_reading()


# -- before and after verification --


@pytest.mark.parametrize("peername, address", [(("10.0.0.9", 1), "10.0.0.9"), ("/tmp/socket", ""), (None, "")])
def test_the_address_is_the_hosts_unless_a_proxy_has_named_one(peername: object, address: str) -> None:
    made: list[Connection] = []
    for named in (None, "192.0.2.1"):
        connection = Connection(FrameDecoder(1_000), made.append)
        connection.address = named
        connection.connection_made(Transport(peername=peername))
        assert connection.address == (named or address) and made.pop() is connection and not made


def test_a_verified_peer_gets_its_receiver_limits_and_meter() -> None:
    connection, transport, _ = connected(turn_frames=1, decoder=FrameDecoder(10, 1))
    receiver, meter = Receiver(), Meter()
    connection.bind(receiver, 50, 2, meter, ALL_FLAGS)
    assert state_of(connection) is ConnectionState.BOUND and transport.is_reading() and not transport.calls
    request = encode_frame(ID, bytes(30), REQUEST)
    connection.data_received(request + message())
    assert receiver.take() == [[(ID, REQUEST, bytes(30)), frame()]]
    assert meter.charges == [(2, len(request) + 6)]
    connection.data_received(message(bytes(49)))
    assert receiver.take() == [FrameTooLarge]


def test_a_verified_peer_of_the_base_protocol_may_send_no_requests() -> None:
    connection, _, _ = connected()
    receiver = Receiver()
    connection.bind(receiver, 50, 2)
    connection.data_received(encode_frame(ID, bytes(30), REQUEST))
    assert receiver.take() == [ProtocolError]


async def test_what_comes_behind_a_login_is_held_and_handled_in_order_once_the_peer_may_be_read() -> None:
    connection, transport, login = connected(turn_frames=1)
    connection.reader = UnverifiedReader(connection, memoryview(bytearray(100)))
    login.then = lambda frames: connection.hold()
    connection.data_received(message(b"login") + message(b"a"))
    await settle()
    connection.data_received(message(b"b")[:3])
    assert login.take() == [[frame(b"login")], 10] and connection.buffered == 10
    receiver = Receiver()
    connection.bind(receiver, 1_000, 100)
    assert transport.protocol is connection and transport.calls == ["set_protocol, paused"]
    await settle()
    assert receiver.take() == []
    connection.resume(Pause.UNVERIFIED)
    await settle()
    assert receiver.take() == [[frame(b"a")]] and transport.is_reading()
    connection.data_received(message(b"b")[3:])
    assert receiver.take() == [[frame(b"b")]] and login.take() == []


async def test_frames_that_are_put_back_come_again_before_those_behind_them() -> None:
    connection, transport, receiver = connected(turn_frames=2)
    control = encode_control_frame(b"\xc8")
    connection.data_received(message(b"a") + control + message(b"b") + message(b"c")[:4])
    (frames,) = receiver.take()
    assert frames == [frame(b"a"), (0, CONTROL, b"\xc8")]
    connection.take_together(100)
    connection.put_back(frames)
    assert receiver.take() == [] and not transport.is_reading()
    await settle()
    assert receiver.take() == [[*frames, frame(b"b")]] and transport.is_reading() and connection.buffered == 4


async def test_frames_that_are_put_back_come_again_though_nothing_is_behind_them() -> None:
    connection, transport, receiver = connected()
    connection.data_received(message(b"a"))
    receiver.take()
    connection.put_back([frame(b"a")])
    await settle()
    assert receiver.take() == [[frame(b"a")]] and transport.is_reading()


# -- what it holds --


@pytest.mark.parametrize("how", ["plain", "tls", "sealed", "carried"])
def test_only_a_plain_socket_says_what_of_a_write_is_unsent(how: str) -> None:
    connection, transport, _ = connected(transport=Transport(tls=object() if how == "tls" else None))
    if how == "carried":
        connection.carrier = Carrier()
    connection.write(bytes(20))
    if how == "sealed":
        connection._secure = ciphers()[0]
    assert connection.unsent == (20 if how == "plain" else 0) and connection.held_bytes == 20
    assert connection.is_tls is (how == "tls")


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_carrier_says_whether_tls_protects_the_way(is_tls: bool) -> None:
    connection, _, _ = connected(transport=Transport(tls=None if is_tls else object()))
    connection.carrier = Carrier(is_tls)
    assert connection.is_tls is is_tls


# -- sealing --


async def test_a_sealed_connection_opens_what_comes_and_seals_each_write() -> None:
    connection, transport, receiver = connected()
    near, far = ciphers()
    record = far.seal(message(b"a"))
    connection.data_received(record[:3])  # the rest of the read that brought the handshake
    assert receiver.take() == [3]
    connection.seal(near)
    assert connection.buffered == connection.held_bytes == 3 and connection.has_more
    connection.data_received(record[3:])
    assert receiver.take() == [[frame(b"a")]] and connection.buffered == 0
    connection.write(message(b"c"))
    assert far.feed(transport.out) == message(b"c")


async def test_what_came_behind_the_handshake_is_opened_and_a_meter_counts_sealed_bytes() -> None:
    connection, _, receiver = connected()
    near, far = ciphers()
    receiver.then = lambda frames: connection.seal(near) if frames == [frame(b"handshake")] else None
    first, second = far.seal(message(b"a")), far.seal(message(b"b") * 2)
    connection._decoder.turn_frames = 1
    connection.data_received(message(b"handshake") + first)
    assert receiver.take() == [[frame(b"handshake")], [frame(b"a")]]
    meter = Meter()
    connection.bind(receiver, 1_000, 100, meter)
    connection.data_received(second)
    assert receiver.take() == [[frame(b"b")] * 2] and meter.charges == [(2, len(second))]
    assert not connection.has_more and connection.buffered == 0


async def test_a_wrong_record_is_told_behind_the_frames_before_it() -> None:
    connection, _, receiver = connected()
    near, far = ciphers()
    connection.seal(near)
    connection.data_received(far.seal(message(b"a")) + message(b"plain"))
    assert receiver.take() == [[frame(b"a")], ProtocolError] and connection.has_more


async def test_only_a_verified_peer_may_send_large_records() -> None:
    for is_bound in (False, True):
        connection, _, receiver = connected()
        near, far = ciphers()
        connection.seal(near)
        if is_bound:
            connection.bind(receiver, MAX_RECORD, 10)
        connection.data_received(far.seal(message(bytes(MAX_PLAINTEXT - 6))))
        assert receiver.take() == ([[frame(bytes(MAX_PLAINTEXT - 6))]] if is_bound else [FrameTooLarge])


async def test_a_sealed_connection_keeps_the_limits_of_its_decoder() -> None:
    connection, _, receiver = connected(decoder=FrameDecoder(30, 2, 20))
    near, far = ciphers()
    connection.seal(near)
    connection.data_received(far.seal(message() * 3))
    assert receiver.take() == [[frame()] * 2]
    await settle()
    assert receiver.take() == [[frame()]]
    connection.data_received(far.seal(message(bytes(18)) + message()))
    assert receiver.take() == [[frame(bytes(18))]]
    await settle()
    assert receiver.take() == [[frame()]]
    connection.data_received(far.seal(message(bytes(29))))
    assert receiver.take() == [FrameTooLarge]


async def test_a_key_that_is_nearly_used_up_ends_the_connection_after_the_write() -> None:
    connection, transport, receiver = connected()
    near, far = ciphers(2**32 - RESERVED_RECORDS - 2)
    connection.seal(near)
    connection.write(b"a")
    await turn()
    assert receiver.take() == []
    connection.write(b"b")
    assert receiver.take() == [], "never within a write, which may be within a call of the receiver"
    await turn()
    assert receiver.take() == [KeyExhausted] and KeyExhausted.code is CloseCode.GOING_AWAY
    assert far.feed(transport.out) == b"ab"


# -- its end --


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_a_closed_connection_reads_on_for_nothing_until_the_peer_is_done(is_sealed: bool) -> None:
    connection, transport, receiver = connected(turn_frames=1)
    near, far = ciphers()
    if is_sealed:
        connection.seal(near)
    meter = Meter()
    connection.bind(receiver, 1_000, 1, meter)
    connection.data_received(far.seal(message() * 3) if is_sealed else message() * 3)
    receiver.take()
    meter.charges.clear()
    connection.pause(Pause.INBOX)
    connection.close()
    connection.close()
    assert transport.calls[0] == "eof" and set(transport.calls) == {"eof"}
    assert transport.is_reading() and state_of(connection) is ConnectionState.CLOSING
    connection.data_received(message() + BAD)
    connection.data_received(far.seal(message()))
    await settle()
    assert receiver.take() == [] and meter.charges == []
    connection.connection_lost(None)
    assert receiver.take() == [("lost", None)] and state_of(connection) is ConnectionState.CLOSED


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_close_where_no_direction_can_be_closed_alone_closes_both(is_reset: bool) -> None:
    connection, transport, receiver = connected(transport=Transport(has_eof=is_reset))
    receiver.close_code = CloseCode.NORMAL
    transport.reset = is_reset
    connection.close()
    assert transport.calls == (["eof", "abort"] if is_reset else ["close"])


@pytest.mark.parametrize("code", [None, CloseCode.KICKED])
async def test_a_carrier_tells_the_peer_why_the_connection_closes(
    monkeypatch: pytest.MonkeyPatch, code: CloseCode | None
) -> None:
    monkeypatch.setattr("gatelink.net.connection.LAST_FRAME", 0.0)
    for is_close in (True, False):
        connection, transport, receiver = connected()
        connection.carrier = carrier = Carrier()
        receiver.close_code = code
        (connection.close if is_close else connection.abort)()
        assert carrier.close_code == (code or 0)
        assert transport.calls == ["eof" if is_close or code else "abort"]
        while not is_close and "abort" not in transport.calls:
            await turn()


def test_an_abort_or_a_drop_is_at_once_and_a_second_end_is_none() -> None:
    for is_drop in (True, False):
        connection, transport, receiver = connected()
        receiver.close_code = CloseCode.PROTOCOL_ERROR
        (connection.drop if is_drop else connection.abort)()
        connection.write(b"too late")
        assert transport.out == b""
        assert transport.calls == ["abort"] and state_of(connection) is ConnectionState.CLOSING
        connection.data_received(message())
        connection.close()
        connection.connection_lost(None)
        connection.abort()
        connection.close()
        assert transport.calls == ["abort"]
        assert receiver.take() == ([] if is_drop else [("lost", None)])


async def test_the_end_is_told_once_to_the_receiver_and_then_to_the_owner() -> None:
    ends: list[FrameReceiver] = []
    transport, receiver = Transport(), Receiver()
    connection = Connection(FrameDecoder(1_000, 1), lambda _: None, lambda _, receiver: ends.append(receiver))
    connection.connection_made(transport)
    connection.bind(receiver, 1_000, 1, Meter())
    connection.data_received(message() * 2)
    assert receiver.take() == [[frame()]]
    error = ConnectionResetError()
    connection.connection_lost(error)
    assert receiver.take() == [("lost", error)] and ends == [receiver] and connection.receiver is NULL_RECEIVER
    connection.write(b"too late")
    await settle()
    assert transport.out == b"" and receiver.take() == [] and connection._meter is None


@pytest.mark.parametrize("is_reading", [True, False])
def test_a_connection_that_is_handed_over_counts_no_more(is_reading: bool) -> None:
    ends: list[FrameReceiver] = []
    made: list[asyncio.BaseTransport] = []

    class Other(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    transport, other = Transport(), Other()
    connection = Connection(FrameDecoder(1_000), lambda _: None, lambda _, receiver: ends.append(receiver))
    connection.connection_made(transport)
    if not is_reading:
        transport.pause_reading()
    connection.hand_over(other)
    assert transport.calls == ["set_protocol, paused"] and transport.protocol is other
    assert made == [transport] and ends == [NULL_RECEIVER] and transport.is_reading() is is_reading
    connection.close()
    connection.abort()
    assert transport.calls == ["set_protocol, paused"], "it is the other's"
    assert state_of(connection) is ConnectionState.CLOSED


def test_a_protocol_that_fails_as_it_takes_over_loses_the_connection() -> None:
    class Failing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise ValueError("mine")

    connection, transport, _ = connected()
    with pytest.raises(ValueError, match="mine"):
        connection.hand_over(Failing())
    assert transport.calls[-1] == "abort"


def test_a_connection_without_a_receiver_takes_frames_for_nobody() -> None:
    connection, transport = Connection(FrameDecoder(1_000), lambda _: None), Transport()
    connection.connection_made(transport)
    connection.data_received(message() + message()[:3])
    connection.data_received(BAD)
    connection.pause_writing()
    connection.resume_writing()
    handled: list[int] = []
    connection.receiver.when_handled(lambda: handled.append(1))
    assert handled and not transport.calls
    connection.carrier = Carrier()
    connection.drop()
    assert transport.calls == ["abort"], "nobody has a reason to tell"
    connection.connection_lost(None)
