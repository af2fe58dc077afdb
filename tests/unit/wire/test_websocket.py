"""WebSocket framing without a socket: the same whole or in any pieces."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink import _native
from gatelink.errors import CloseCode
from gatelink.wire.websocket import (
    MAX_WRITTEN,
    SMALL,
    Status,
    WebSocketError,
    WebSocketStream,
    mask,
    mask_in_python,
)
from tests.e2e.websocket import BINARY, CLOSE, PING, PONG, ws_frame
from tests.twins import built, core, twins

LIMIT = 70_000


def server() -> WebSocketStream:
    return WebSocketStream(LIMIT)


def client() -> WebSocketStream:
    return WebSocketStream(2 * MAX_WRITTEN, is_client=True)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(the bytes that the messages carry, the frames of a client that carries them): fragments, pings in between."""
    plain, wire = b"", b""
    for _ in range(draw(st.integers(1, 5))):
        parts = draw(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
        for index, part in enumerate(parts):
            if draw(st.booleans()):
                wire += ws_frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)))
            wire += ws_frame(BINARY if index == 0 else 0, part, fin=index == len(parts) - 1)
            plain += part
    return plain, wire


@given(messages(), st.data())
def test_what_messages_carry_is_the_same_in_any_pieces(made: tuple[bytes, bytes], data: st.DataObject) -> None:
    plain, wire = made
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    stream = server()
    taken = b"".join(stream.feed(wire[a:b]) for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True))
    assert taken == plain
    assert stream.error is None and stream.status is None


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_each_side_reads_what_the_other_writes(writes: list[bytes]) -> None:
    for writer, reader in ((server(), client()), (client(), server())):
        wire = b"".join(writer.wrap(data) for data in writes)
        assert reader.feed(wire) == b"".join(writes)
        assert reader.error is None


@given(st.binary(max_size=300))
def test_any_bytes_give_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    whole, slow = server(), server()
    taken = whole.feed(data)
    assert b"".join(slow.feed(data[at : at + 1]) for at in range(len(data))) == taken
    assert repr(slow.error) == repr(whole.error)
    assert (slow.status, slow.small) == (whole.status, whole.small)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MAX_WRITTEN, MAX_WRITTEN + 1])
def test_every_form_of_a_length(size: int) -> None:
    data = bytes(size)
    assert client().feed(server().wrap(data)) == data
    reader = WebSocketStream(2 * MAX_WRITTEN)
    assert reader.feed(client().wrap(data)) == data


@given(st.binary(max_size=600), st.binary(min_size=4, max_size=4))
def test_masks_in_c_and_in_python_are_the_same(data: bytes, key: bytes) -> None:
    assert mask is not mask_in_python, "the C of the library websockets is gone, or has another name"
    assert mask(data, key) == mask_in_python(data, key)


def test_a_key_masks_what_it_unmasks() -> None:
    """The example of RFC 6455, section 5.7: a masked "Hello"."""
    key = bytes.fromhex("37fa213d")
    assert mask(b"Hello", key) == bytes.fromhex("7f9f4d5158")
    assert mask(mask(b"Hello", key), key) == b"Hello"


def test_a_client_masks_each_frame_with_another_key() -> None:
    frames = {client().wrap(b"abcdefgh") for _ in range(20)}
    assert len(frames) == 20


def test_what_came_before_an_error_is_given_and_nothing_after_it() -> None:
    stream = server()
    good = ws_frame(BINARY, b"before")
    assert stream.feed(good + ws_frame(1, b"text") + good) == b"before"
    assert stream.error is not None and stream.error.status == Status.NOT_BINARY
    assert stream.feed(good) == b""


def test_the_last_ping_is_answered_with_its_own_payload() -> None:
    stream = server()
    stream.feed(ws_frame(PING, b"1") + ws_frame(PING, b"2"))
    assert stream.pong == b"\x8a\x012"


@pytest.mark.parametrize("payload, status", [(b"", 1005), (b"\x03\xe8", 1000), (b"\x0f\xa9bye", 4009)])
def test_the_code_of_a_close_frame(payload: bytes, status: int) -> None:
    stream = server()
    assert stream.feed(ws_frame(CLOSE, payload) + ws_frame(BINARY, b"late")) == b""
    assert stream.status == status
    echoed = stream.close_frame(status)
    assert echoed == (b"\x88\x00" if not payload else b"\x88\x02" + payload[:2])


def test_a_message_is_refused_before_its_payload_comes() -> None:
    stream = server()
    assert stream.feed(ws_frame(BINARY, bytes(LIMIT + 1))[:10]) == b""
    assert stream.error is not None
    assert (stream.error.status, stream.error.code) == (Status.TOO_BIG, CloseCode.FRAME_TOO_LARGE)


def test_fragments_count_together_and_messages_apart() -> None:
    half = bytes(LIMIT // 2)
    stream = server()
    assert stream.feed(ws_frame(BINARY, half, fin=False) + ws_frame(0, half)) == half + half
    assert stream.feed(ws_frame(BINARY, half)) == half
    stream.feed(ws_frame(BINARY, half, fin=False) + ws_frame(0, half + b"more")[:14])
    assert stream.error is not None and stream.error.status == Status.TOO_BIG


def test_frames_that_carry_next_to_nothing_are_counted() -> None:
    stream = server()
    least = bytes(SMALL)
    stream.feed(ws_frame(BINARY, least) * 3 + ws_frame(BINARY, least[1:]) + ws_frame(PING) + ws_frame(BINARY))
    stream.feed(ws_frame(BINARY, least))
    assert stream.small == 3
    stream.feed(ws_frame(BINARY, b"x"))
    assert stream.small == 4


def test_a_server_s_masked_frame_is_an_error() -> None:
    stream = client()
    assert stream.feed(ws_frame(BINARY, b"abc")) == b""
    assert isinstance(stream.error, WebSocketError) and stream.error.status == Status.PROTOCOL


@twins("whole_messages")
@given(start=st.integers(0, 300), rest=st.sampled_from([b"", b"\x82", ws_frame(PING, b""), ws_frame(BINARY, b"")]))
def test_whole_messages_end_at_the_first_that_is_not_simple(whole_messages: Any, start: int, rest: bytes) -> None:
    payloads: list[bytes] = []
    simple = ws_frame(BINARY, b"first") + ws_frame(BINARY, bytes(200))
    at, small = whole_messages(bytes(start) + simple + rest, start, LIMIT, payloads)
    assert b"".join(payloads) == b"first" + bytes(200)
    assert (at, small) == (start + len(simple), 1)


@built
@given(messages(), st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=3), st.integers(1, 300))
def test_whole_messages_are_the_same_on_both_cores(
    made: tuple[bytes, bytes], changes: list[tuple[int, int]], limit: int
) -> None:
    wire = bytearray(ws_frame(BINARY, b"one whole message") + made[1])
    for at, value in changes:
        wire[at % len(wire)] = value
    for begin in range(0, len(wire), 7):
        pure: list[bytes] = []
        native: list[bytes] = []
        expected = _native.pure["whole_messages"](bytes(wire), begin, limit, pure)
        assert core.whole_messages(bytes(wire), begin, limit, native) == expected
        assert b"".join(native) == b"".join(pure)
