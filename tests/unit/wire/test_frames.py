"""Any bytes in any chunks: the same frames and the same error, nothing held but what has arrived."""

import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatelink.errors import FrameTooLarge, MessageTooLarge, ProtocolError
from gatelink.wire import frames as frames_module
from gatelink.wire.frames import (
    COMPRESSED,
    CONTROL,
    HEADER_SIZE,
    MAX_LENGTH,
    SCRAMBLED,
    SEALED,
    Frame,
    FrameDecoder,
    encode_control_frame,
    encode_frame,
    walk,
)

LIMIT = 40
Outcome = tuple[list[Frame], type[ProtocolError] | None, str]


def reference(data: bytes, limit: int) -> Outcome:
    """What protocol.md, "Frames", says of `data`, read as slowly as possible."""
    frames: list[Frame] = []
    while len(data) >= HEADER_SIZE:
        length, flags, payload = int.from_bytes(data[:3], "little"), data[3], data[4:]
        if flags not in (0, 1, 2, 3, CONTROL):
            return frames, ProtocolError, f"{flags:#04x}"
        if length > limit:
            return frames, FrameTooLarge, f"{length} bytes is over this connection's {limit}"
        if length < (1 if flags == CONTROL else 2):
            return frames, ProtocolError, f"length {length}"
        if flags != CONTROL and len(payload) >= 2 and payload[:2] == b"\0\0":
            return frames, ProtocolError, "message id 0"
        if len(payload) < length:
            break
        if flags == CONTROL:
            frames.append((0, CONTROL, payload[:length]))
        else:
            frames.append((int.from_bytes(payload[:2], "little"), flags, payload[2:length]))
        data = payload[length:]
    return frames, None, ""


def go_on(decoder: FrameDecoder) -> list[Frame]:
    """Turn after turn, until no more than part of a frame is left."""
    frames: list[Frame] = []
    while decoder.more:
        frames += decoder.feed(b"")
    return frames


def decode(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[Frame], type[ProtocolError] | None, str]:
    frames: list[Frame] = []
    for chunk in chunks:
        frames += decoder.feed(chunk)
        frames += go_on(decoder)
    error = decoder.error
    return frames, None if error is None else type(error), str(error or "")


def error_of(decoder: FrameDecoder) -> ProtocolError | None:
    """`decoder.error`, of which mypy would believe that it never changes."""
    return decoder.error


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def assert_is(outcome: Outcome, expected: Outcome) -> None:
    assert outcome[:2] == expected[:2]
    assert expected[2] in outcome[2]


ids = st.integers(1, 0xFFFF)
flags = st.sampled_from([0, 0, 0, COMPRESSED, SCRAMBLED, COMPRESSED | SCRAMBLED])
frames = st.builds(encode_frame, ids, st.binary(max_size=LIMIT - 2), flags) | st.builds(
    encode_control_frame, st.binary(min_size=1, max_size=LIMIT)
)
bad_frames = st.builds(encode_frame, st.integers(0, 1), st.binary(max_size=LIMIT), st.integers(0, 255))
streams = st.lists(frames, max_size=12).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Good frames with a few bytes that are not, so that every check is reached behind good frames."""
    data = bytearray(draw(st.lists(frames | bad_frames, max_size=12).map(b"".join)))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 0x80, 0xFF]))
    return bytes(data[: draw(st.integers(0, len(data)))])


anything = st.one_of(streams, mutated(), st.binary(max_size=80))
cuts = st.lists(st.integers(0, 10_000), max_size=10)


@given(anything, cuts)
@example(b"\x01\x00\x00\x80\x05", [])
@example(b"\x1e\x00\x00\x00\x00\x00", [])
@example(b"\x02\x00\x00\x00\x00\x00", [4])
@example(encode_frame(5, b"") + b"\xff\xff\xff\x00", [6])
def test_any_chunking_gives_the_frames_and_the_error_that_the_protocol_says(data: bytes, at: list[int]) -> None:
    expected = reference(data, LIMIT)
    assert_is(decode(FrameDecoder(LIMIT), [data]), expected)
    assert_is(decode(FrameDecoder(LIMIT), cut(data, at)), expected)
    assert_is(decode(FrameDecoder(LIMIT), [bytes([byte]) for byte in data]), expected)


@given(anything, cuts, st.integers(1, 4), st.integers(1, 60))
def test_a_turn_budget_changes_when_frames_come_but_not_which(
    data: bytes, at: list[int], turn_frames: int, turn_bytes: int
) -> None:
    expected = reference(data, LIMIT)
    assert_is(decode(FrameDecoder(LIMIT, turn_frames, turn_bytes), cut(data, at)), expected)


@given(streams, cuts, st.integers(1, 4), st.integers(1, 60))
def test_a_turn_gives_no_more_than_its_budget_and_one_frame(
    data: bytes, at: list[int], turn_frames: int, turn_bytes: int
) -> None:
    decoder = FrameDecoder(LIMIT, turn_frames, turn_bytes)
    for chunk in cut(data, at):
        given = decoder.feed(chunk)
        while True:
            assert len(given) <= turn_frames
            sizes = [len(body) + (HEADER_SIZE if flags == CONTROL else 6) for _, flags, body in given]
            assert sum(sizes) <= turn_bytes + LIMIT + 4
            if not decoder.more:
                break
            given = decoder.feed(b"")


@given(streams, cuts, st.integers(1, 3))
def test_bytes_that_arrive_before_the_next_turn_come_after_what_waits(data: bytes, at: list[int], turn: int) -> None:
    decoder = FrameDecoder(LIMIT, turn)
    given = [frame for chunk in cut(data, at) for frame in decoder.feed(chunk)]
    given += go_on(decoder)
    assert (given, None, "") == reference(data, LIMIT)


def test_more_is_true_only_while_a_turn_left_something() -> None:
    frame = encode_frame(5, b"x")
    decoder = FrameDecoder(LIMIT, turn_frames=2)
    seen = [(len(decoder.feed(data)), decoder.more) for data in (frame * 2, frame * 5, b"", b"", b"")]
    assert seen == [(2, False), (2, True), (2, True), (1, False), (0, False)]
    assert decoder.buffered == 0


def test_the_byte_budget_counts_where_a_frame_starts() -> None:
    frame = encode_frame(5, bytes(14))  # 20 bytes
    decoder = FrameDecoder(LIMIT, turn_bytes=40)
    assert len(decoder.feed(frame * 5)) == 3 and decoder.more
    assert len(decoder.feed(b"")) == 2 and not decoder.more


def test_an_error_behind_a_turns_budget_waits_for_its_turn() -> None:
    decoder = FrameDecoder(LIMIT, turn_frames=2)
    assert len(decoder.feed(encode_frame(5, b"") * 3 + b"\x02\x00\x00\x77..")) == 2
    assert error_of(decoder) is None and decoder.more
    assert len(decoder.feed(b"")) == 1
    assert type(error_of(decoder)) is ProtocolError
    assert decoder.feed(b"") == []


@given(anything, streams)
def test_after_an_error_feed_gives_nothing_and_keeps_nothing(data: bytes, later: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    before = decoder.feed(data + b"\0\0\0\x05..")
    error = error_of(decoder)
    if error is None:  # the first bytes were part of a frame that took in the bad header
        return
    assert before == reference(data + b"\0\0\0\x05..", LIMIT)[0]
    for _ in range(3):
        assert decoder.feed(later) == []
        assert error_of(decoder) is error and decoder.buffered == 0 and not decoder.more


@pytest.mark.parametrize("flags", range(256))
def test_every_flags_byte_is_a_kind_of_frame_or_an_error(flags: int) -> None:
    decoder = FrameDecoder(LIMIT)
    given = decoder.feed(bytes([5, 0, 0, flags]) + b"\x0b\x00abc")
    if flags <= 3:
        assert given == [(11, flags, b"abc")]
    elif flags == CONTROL:
        assert given == [(0, CONTROL, b"\x0b\x00abc")]
    else:
        assert given == [] and type(decoder.error) is ProtocolError
        assert f"{flags:#04x}" in str(decoder.error)


@pytest.mark.parametrize("flags", [0, 1, 2, 3, CONTROL])
@pytest.mark.parametrize("length", [0, 1, 2, LIMIT - 1, LIMIT, LIMIT + 1, MAX_LENGTH])
def test_a_length_is_checked_as_soon_as_the_header_is_there(flags: int, length: int) -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(length.to_bytes(3, "little") + bytes([flags])) == []
    least = 1 if flags == CONTROL else 2
    if length > LIMIT:
        assert isinstance(decoder.error, FrameTooLarge)
    elif length < least:
        assert type(decoder.error) is ProtocolError
    else:
        assert decoder.error is None
        payload = b"\x01" * length
        (frame,) = decoder.feed(payload)
        assert frame == ((0, CONTROL, payload) if flags == CONTROL else (0x0101, flags, payload[2:]))


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_id_0_is_an_error_as_soon_as_it_is_there(flags: int) -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(bytes([30, 0, 0, flags, 0, 0])) == []
    assert type(decoder.error) is ProtocolError and "id 0" in str(decoder.error)


def test_what_is_held_is_what_has_arrived_not_what_was_declared() -> None:
    decoder = FrameDecoder(MAX_LENGTH)
    tracemalloc.start()
    try:
        decoder.feed(MAX_LENGTH.to_bytes(3, "little") + b"\0" + b"\x01\x02" + b"x" * 100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.buffered == 106
    assert peak < 10_000


def test_max_length_holds_from_the_next_call_on() -> None:
    small, large = encode_frame(5, bytes(8)), encode_frame(5, bytes(98))
    decoder = FrameDecoder(10)
    assert len(decoder.feed(small)) == 1
    decoder.max_length = 100
    assert len(decoder.feed(large + large[:50])) == 1
    decoder.max_length = 10
    assert decoder.feed(large[50:] + small) == []
    assert isinstance(decoder.error, FrameTooLarge)


def test_what_waits_for_its_turn_is_judged_by_the_new_max_length() -> None:
    decoder = FrameDecoder(10, turn_frames=1)
    large = encode_frame(6, bytes(98))
    assert decoder.feed(encode_frame(5, b"") + large) == [(5, 0, b"")] and decoder.more
    decoder.max_length = 100
    assert decoder.feed(b"") == [(6, 0, bytes(98))]


def test_a_large_frame_in_small_chunks_is_copied_a_few_times_not_once_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counting(data: bytes, *rest: Any, **more: Any) -> int:
        nonlocal looked
        looked += 1
        return walk(data, *rest, **more)

    monkeypatch.setattr(frames_module, "walk", counting)
    size = 4 * 1_048_576
    data = encode_frame(5, bytes(size), COMPRESSED)
    decoder = FrameDecoder(size + 2)
    given: list[Frame] = []
    for at in range(0, len(data), 1_000):
        given += decoder.feed(data[at : at + 1_000])
    assert given == [(5, COMPRESSED, bytes(size))]
    assert looked == 2, "the buffer is walked when the first chunk is there and when the frame is whole"


@pytest.mark.parametrize("given", [0, 1, 2])
def test_the_rest_is_every_byte_that_no_frame_was_given_of(given: int) -> None:
    frame = encode_frame(5, b"x")
    stream = frame * 3 + frame[:5]
    decoder = FrameDecoder(LIMIT, turn_frames=1)
    assert decoder.take_rest() == b""
    for data in (stream, *[b""] * given):
        assert len(decoder.feed(data)) == 1
    assert decoder.take_rest() == stream[len(frame) * (given + 1) :]
    assert (decoder.buffered, decoder.more, decoder.feed(b"")) == (0, False, [])
    assert decoder.feed(frame) == [(5, 0, b"x")]


@pytest.mark.parametrize("at", range(13))
def test_what_is_put_back_is_decoded_as_if_it_had_never_been_taken(at: int) -> None:
    stream = encode_frame(5, b"a") + encode_control_frame(b"b")
    decoder = FrameDecoder(LIMIT, turn_frames=1)
    given = decoder.feed(stream[:at])
    rest = decoder.take_rest()
    decoder.put_back(rest + stream[at:])
    assert decoder.more is bool(rest + stream[at:])
    assert given + go_on(decoder) == [(5, 0, b"a"), (0, CONTROL, b"b")] and decoder.buffered == 0


@pytest.mark.parametrize("head", [bytes([20, 0, 0, 0x16]), bytes([LIMIT + 1, 0, 0, 0])])
def test_an_error_has_the_bytes_that_were_taken_for_a_header(head: bytes) -> None:
    """Other tests say what such bytes look like, as TLS."""
    decoder = FrameDecoder(LIMIT)
    assert len(decoder.feed(encode_frame(5, b"a") + head + b"more")) == 1
    assert decoder.error is not None and decoder.error.head == head


def test_a_sealed_record_on_a_plain_connection_is_called_by_its_name() -> None:
    for flags, what in ((SEALED, "a sealed record without a handshake"), (0x40, "unknown")):
        decoder = FrameDecoder(LIMIT)
        decoder.feed(bytes([20, 0, 0, flags]))
        assert what in str(decoder.error)


@given(ids, st.binary(max_size=200), st.sampled_from([0, 1, 2, 3]))
def test_encode_frame_is_what_the_decoder_reads(id: int, body: bytes, flags: int) -> None:
    assert FrameDecoder(MAX_LENGTH).feed(encode_frame(id, body, flags)) == [(id, flags, body)]


def test_a_body_that_no_length_can_say_is_refused() -> None:
    largest = bytes(MAX_LENGTH - 2)
    assert encode_frame(5, largest)[:4] == b"\xff\xff\xff\x00"
    with pytest.raises(MessageTooLarge, match="16777214 bytes; a frame holds at most 16777213"):
        encode_frame(5, largest + b"x")
