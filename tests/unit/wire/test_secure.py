"""SEALED records: any chunking gives the same bytes, and nothing but what the peer sealed comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import FrameTooLarge, LocalError, ProtocolError
from gatelink.wire.frames import SEALED
from gatelink.wire.noise import MAX_MESSAGES, TAG_SIZE, CipherState
from gatelink.wire.secure import MAX_PLAINTEXT, MAX_RECORD, MAX_RECORD_UNVERIFIED, RESERVED_RECORDS, SecureStream


def pair(max_record: int = MAX_RECORD) -> tuple[SecureStream, SecureStream]:
    """Two ends whose keys belong together; `max_record` is the second's."""
    a, b = bytes([1]) * 32, bytes([2]) * 32
    return SecureStream(CipherState(a), CipherState(b)), SecureStream(CipherState(b), CipherState(a), max_record)


def header(length: int, flags: int = SEALED) -> bytes:
    return length.to_bytes(3, "little") + bytes((flags,))


def feed_in(stream: SecureStream, data: bytes, cuts: list[int]) -> bytes:
    """What `stream` gives for `data` cut at `cuts`."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return b"".join(stream.feed(data[a:b]) for a, b in zip(edges, edges[1:], strict=False))


writes = st.lists(st.binary(max_size=200), max_size=6)


@given(writes, st.lists(st.integers(0, 1500), max_size=12))
def test_any_chunking_gives_the_same_plaintext(plaintexts: list[bytes], cuts: list[int]) -> None:
    sender, receiver = pair()
    wire = b"".join(map(sender.seal, plaintexts))
    assert feed_in(receiver, wire, cuts) == b"".join(plaintexts)
    assert receiver.error is None and receiver.buffered == 0


def test_a_write_is_one_record_up_to_16_kib_and_as_few_as_possible_above() -> None:
    sender, receiver = pair()
    for size, records in ((1, 1), (MAX_PLAINTEXT, 1), (MAX_PLAINTEXT + 1, 2), (3 * MAX_PLAINTEXT, 3)):
        plaintext = bytes(range(256)) * (size // 256 + 1)
        frames = sender.seal(plaintext[:size])
        assert len(frames) == size + records * 20
        assert frames[:4] == header(min(size, MAX_PLAINTEXT) + 16)
        assert receiver.feed(frames) == plaintext[:size]
    assert sender.seal(b"") == b""


@given(writes.filter(any), st.data())
def test_any_flipped_bit_is_detected(plaintexts: list[bytes], data: st.DataObject) -> None:
    sender, receiver = pair()
    wire = bytearray(b"".join(map(sender.seal, plaintexts)))
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position] ^= 1 << data.draw(st.integers(0, 7))
    wire += sender.seal(bytes(MAX_RECORD))  # so that a length that grew has enough to read
    opened = receiver.feed(bytes(wire))
    assert receiver.error is not None
    assert b"".join(plaintexts).startswith(opened) and len(opened) < len(b"".join(plaintexts))


@given(st.data())
def test_any_bytes_give_plaintext_or_a_protocol_error_the_same_whole_as_byte_by_byte(data: st.DataObject) -> None:
    sender, whole = pair(max_record=300)
    _, bytewise = pair(max_record=300)
    part = st.one_of(
        st.binary(max_size=40),
        st.builds(sender.seal, st.binary(min_size=1, max_size=300)),
        st.builds(lambda length, flags: header(length, flags), st.integers(0, 320), st.sampled_from([SEALED, 0, 0x80])),
    )
    wire = b"".join(data.draw(st.lists(part, max_size=6)))
    opened = whole.feed(wire)
    assert feed_in(bytewise, wire, list(range(len(wire)))) == opened
    assert str(bytewise.error) == str(whole.error)
    assert type(bytewise.error) is type(whole.error)
    if whole.error is None:
        assert bytewise.buffered == whole.buffered
    else:
        assert isinstance(whole.error, ProtocolError)


def test_what_came_before_an_error_is_given_and_nothing_after_it() -> None:
    sender, receiver = pair()
    good, later = sender.seal(b"good"), sender.seal(b"later")
    assert receiver.feed(good + header(20, flags=0) + later) == b"good"
    assert "0x00" in str(receiver.error)
    assert receiver.feed(later) == b"" and receiver.buffered == 0


@pytest.mark.parametrize("flags", [0x00, 0x01, 0x02, 0x03, 0x05, 0x80, 0x84, 0xFF])
def test_a_frame_that_is_not_sealed_is_refused(flags: int) -> None:
    _, receiver = pair()
    receiver.feed(header(100, flags))
    assert type(receiver.error) is ProtocolError


@pytest.mark.parametrize("length", [0, 16])
def test_a_record_without_plaintext_is_refused(length: int) -> None:
    _, receiver = pair()
    receiver.feed(header(length))
    assert type(receiver.error) is ProtocolError


@pytest.mark.parametrize("limit", [MAX_RECORD_UNVERIFIED, MAX_RECORD])
def test_a_record_over_the_limit_is_refused_at_its_header(limit: int) -> None:
    _, receiver = pair(limit)
    receiver.feed(header(limit))
    assert receiver.error is None
    _, receiver = pair(limit)
    receiver.feed(header(limit + 1))
    assert isinstance(receiver.error, FrameTooLarge)


def test_the_limit_can_be_raised_once_the_peer_is_verified() -> None:
    sender, receiver = pair(MAX_RECORD_UNVERIFIED)
    receiver.max_record = MAX_RECORD
    largest = bytes(MAX_RECORD - TAG_SIZE)
    assert receiver.feed(sender._seal_record(largest)) == largest


def test_the_buffer_holds_what_has_arrived_not_what_was_declared() -> None:
    _, receiver = pair()
    receiver.feed(header(MAX_RECORD))
    assert receiver.buffered == 4
    receiver.feed(b"x" * 10)
    assert receiver.buffered == 14


def test_a_record_repeated_dropped_or_reordered_is_refused() -> None:
    sender, _ = pair()
    first, second, third = (sender.seal(text) for text in (b"1", b"2", b"3"))
    for wire, opened in ((first + first, b"1"), (first + third, b"1"), (second + first, b"")):
        _, receiver = pair()
        assert receiver.feed(wire) == opened
        assert receiver.error is not None


def test_a_record_sent_back_to_its_sender_is_refused() -> None:
    sender, _ = pair()
    assert sender.feed(sender.seal(b"mine")) == b""
    assert sender.error is not None


@pytest.mark.parametrize(
    ("sent", "received", "exhausted"),
    [
        (0, 0, False),
        (MAX_MESSAGES - RESERVED_RECORDS - 1, MAX_MESSAGES - RESERVED_RECORDS - 1, False),
        (MAX_MESSAGES - RESERVED_RECORDS, 0, True),
        (0, MAX_MESSAGES - RESERVED_RECORDS, True),
    ],
)
def test_either_direction_is_exhausted_early_enough_to_say_goodbye(sent: int, received: int, exhausted: bool) -> None:
    send, receive = CipherState(bytes(32)), CipherState(bytes(32))
    send.n, receive.n = sent, received
    stream = SecureStream(send, receive)
    assert stream.exhausted is exhausted
    assert stream.seal(b"goodbye")


def test_both_ends_are_exhausted_by_the_very_record_that_leaves_the_reserve() -> None:
    sender_send, receiver_receive = CipherState(bytes(32)), CipherState(bytes(32))
    sender_send.n = receiver_receive.n = MAX_MESSAGES - RESERVED_RECORDS - 2
    sender = SecureStream(sender_send, CipherState(bytes(32)))
    receiver = SecureStream(CipherState(bytes(32)), receiver_receive)
    for exhausted in (False, True, True):
        assert receiver.feed(sender.seal(b"text")) == b"text"
        assert sender.exhausted is exhausted
        assert receiver.exhausted is exhausted


def test_nothing_is_sealed_or_opened_from_2_to_the_32_records() -> None:
    send, receive = CipherState(bytes(32)), CipherState(bytes(32))
    send.n = receive.n = MAX_MESSAGES
    stream = SecureStream(send, receive)
    with pytest.raises(LocalError, match="4011"):
        stream.seal(b"too late")
    stream.feed(header(17) + bytes(17))
    assert isinstance(stream.error, ProtocolError)
