"""SEALED records: any chunking gives the same bytes, and nothing but what the peer sealed comes out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import FrameTooLarge, LocalError, ProtocolError
from gatelink.wire.frames import SEALED
from gatelink.wire.noise import MAX_MESSAGES, TAG_SIZE
from gatelink.wire.secure import MAX_PLAINTEXT, MAX_RECORD, MAX_RECORD_UNVERIFIED, RESERVED_RECORDS
from tests.twins import beside, twins

pytestmark = twins("SecureStream")

KEYS = bytes(32), bytes(32)  # the same both ways: any two streams with these understand each other


def stream_of(SecureStream: Any, keys: tuple[bytes, bytes], records: tuple[int, int] = (0, 0), *limit: int) -> Any:
    """A stream with the keys to send and to receive, which have sealed and opened so many records."""
    ciphers = tuple(map(beside(SecureStream, "CipherState"), keys))
    for cipher, n in zip(ciphers, records, strict=True):
        cipher.n = n
    return SecureStream(*ciphers, *limit)


def pair(SecureStream: Any, max_record: int = MAX_RECORD) -> tuple[Any, Any]:
    """Two ends whose keys belong together; `max_record` is the second's."""
    a, b = bytes([1]) * 32, bytes([2]) * 32
    return stream_of(SecureStream, (a, b)), stream_of(SecureStream, (b, a), (0, 0), max_record)


def header(length: int, flags: int = SEALED) -> bytes:
    return length.to_bytes(3, "little") + bytes((flags,))


def feed_in(stream: Any, data: bytes, cuts: list[int]) -> bytes:
    """What `stream` gives for `data` cut at `cuts`."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return b"".join(stream.feed(data[a:b]) for a, b in zip(edges, edges[1:], strict=False))


writes = st.lists(st.binary(max_size=200), max_size=6)


@given(writes, st.lists(st.integers(0, 1500), max_size=12))
def test_any_chunking_gives_the_same_plaintext(SecureStream: Any, plaintexts: list[bytes], cuts: list[int]) -> None:
    sender, receiver = pair(SecureStream)
    wire = b"".join(map(sender.seal, plaintexts))
    assert feed_in(receiver, wire, cuts) == b"".join(plaintexts)
    assert receiver.error is None and receiver.buffered == 0


def test_a_write_is_one_record_up_to_16_kib_and_as_few_as_possible_above(SecureStream: Any) -> None:
    sender, receiver = pair(SecureStream)
    for size, records in ((1, 1), (MAX_PLAINTEXT, 1), (MAX_PLAINTEXT + 1, 2), (3 * MAX_PLAINTEXT, 3)):
        plaintext = bytes(range(256)) * (size // 256 + 1)
        frames = sender.seal(plaintext[:size])
        assert len(frames) == size + records * 20
        assert frames[:4] == header(min(size, MAX_PLAINTEXT) + 16)
        assert receiver.feed(frames) == plaintext[:size]
    assert sender.seal(b"") == b""


@given(writes.filter(any), st.data())
def test_any_flipped_bit_is_detected(SecureStream: Any, plaintexts: list[bytes], data: st.DataObject) -> None:
    sender, receiver = pair(SecureStream)
    wire = bytearray(b"".join(map(sender.seal, plaintexts)))
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position] ^= 1 << data.draw(st.integers(0, 7))
    wire += sender.seal(bytes(MAX_RECORD))  # so that a length that grew has enough to read
    opened = receiver.feed(bytes(wire))
    assert receiver.error is not None
    assert b"".join(plaintexts).startswith(opened) and len(opened) < len(b"".join(plaintexts))


@given(st.data())
def test_any_bytes_give_plaintext_or_a_protocol_error_the_same_whole_as_byte_by_byte(
    SecureStream: Any, data: st.DataObject
) -> None:
    sender, whole = pair(SecureStream, max_record=300)
    _, bytewise = pair(SecureStream, max_record=300)
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


def test_what_came_before_an_error_is_given_and_nothing_after_it(SecureStream: Any) -> None:
    sender, receiver = pair(SecureStream)
    good, later = sender.seal(b"good"), sender.seal(b"later")
    assert receiver.feed(good + header(20, flags=0) + later) == b"good"
    assert "0x00" in str(receiver.error)
    assert receiver.feed(later) == b"" and receiver.buffered == 0


@pytest.mark.parametrize("flags", [0x00, 0x01, 0x02, 0x03, 0x05, 0x80, 0x84, 0xFF])
def test_a_frame_that_is_not_sealed_is_refused(SecureStream: Any, flags: int) -> None:
    _, receiver = pair(SecureStream)
    receiver.feed(header(100, flags))
    assert type(receiver.error) is ProtocolError


@pytest.mark.parametrize("length", [0, 16])
def test_a_record_without_plaintext_is_refused(SecureStream: Any, length: int) -> None:
    _, receiver = pair(SecureStream)
    receiver.feed(header(length))
    assert type(receiver.error) is ProtocolError


@pytest.mark.parametrize("limit", [MAX_RECORD_UNVERIFIED, MAX_RECORD])
def test_a_record_over_the_limit_is_refused_at_its_header(SecureStream: Any, limit: int) -> None:
    _, receiver = pair(SecureStream, limit)
    receiver.feed(header(limit))
    assert receiver.error is None
    _, receiver = pair(SecureStream, limit)
    receiver.feed(header(limit + 1))
    assert isinstance(receiver.error, FrameTooLarge)


def test_the_limit_can_be_raised_once_the_peer_is_verified(SecureStream: Any) -> None:
    sender, receiver = pair(SecureStream, MAX_RECORD_UNVERIFIED)
    receiver.max_record = MAX_RECORD
    largest = bytes(MAX_RECORD - TAG_SIZE)
    assert receiver.feed(sender._seal_record(largest)) == largest


def test_the_buffer_holds_what_has_arrived_not_what_was_declared(SecureStream: Any) -> None:
    _, receiver = pair(SecureStream)
    receiver.feed(header(MAX_RECORD))
    assert receiver.buffered == 4
    receiver.feed(b"x" * 10)
    assert receiver.buffered == 14


def test_a_record_repeated_dropped_or_reordered_is_refused(SecureStream: Any) -> None:
    sender, _ = pair(SecureStream)
    first, second, third = (sender.seal(text) for text in (b"1", b"2", b"3"))
    for wire, opened in ((first + first, b"1"), (first + third, b"1"), (second + first, b"")):
        _, receiver = pair(SecureStream)
        assert receiver.feed(wire) == opened
        assert receiver.error is not None


def test_a_record_sent_back_to_its_sender_is_refused(SecureStream: Any) -> None:
    sender, _ = pair(SecureStream)
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
def test_either_direction_is_exhausted_early_enough_to_say_goodbye(
    SecureStream: Any, sent: int, received: int, exhausted: bool
) -> None:
    stream = stream_of(SecureStream, KEYS, (sent, received))
    assert stream.exhausted is exhausted
    assert stream.seal(b"goodbye")


def test_both_ends_are_exhausted_by_the_very_record_that_leaves_the_reserve(SecureStream: Any) -> None:
    last = MAX_MESSAGES - RESERVED_RECORDS - 2
    sender, receiver = stream_of(SecureStream, KEYS, (last, 0)), stream_of(SecureStream, KEYS, (0, last))
    for exhausted in (False, True, True):
        assert receiver.feed(sender.seal(b"text")) == b"text"
        assert sender.exhausted is exhausted
        assert receiver.exhausted is exhausted


def test_nothing_is_sealed_or_opened_from_2_to_the_32_records(SecureStream: Any) -> None:
    stream = stream_of(SecureStream, KEYS, (MAX_MESSAGES, MAX_MESSAGES))
    with pytest.raises(LocalError, match="4011"):
        stream.seal(b"too late")
    stream.feed(header(17) + bytes(17))
    assert isinstance(stream.error, ProtocolError)


def test_a_record_in_any_number_of_reads_is_opened_once_it_is_whole(SecureStream: Any) -> None:
    sender, receiver = pair(SecureStream)
    plaintext = bytes(range(256)) * 255
    record = sender._seal_record(plaintext) + sender.seal(b"next")
    opened = [receiver.feed(record[at : at + 7]) for at in range(0, len(record), 7)]
    assert [data for data in opened if data] == [plaintext, b"next"]


def test_an_error_has_nothing_of_the_plaintext(SecureStream: Any) -> None:
    sender, receiver = pair(SecureStream)
    wire = bytearray(sender.seal(b"secret") + sender.seal(b"secret"))
    wire[-1] ^= 1
    assert receiver.feed(bytes(wire)) == b"secret"
    assert str(receiver.error) == "a sealed message did not verify"
