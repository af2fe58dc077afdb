"""Envelopes: a player's frame crosses a link byte for byte, and nothing else that claims to be one gets through."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import BodyError, LocalError
from gatelink.wire import envelope
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.frames import Frame, FrameDecoder, encode_frame

MAX_FRAME = 1_000

U64S = st.integers(0, 2**64 - 1)
IDS = st.integers(1, 0xFFFF).filter(lambda id: id not in FRAMEWORK_IDS)
FRAMES = st.tuples(IDS, st.integers(0, 3), st.binary(max_size=200))
POLICIES = st.integers(0, 2)

# Written by hand from docs/protocol.md, "Between servers".
WIRE: list[tuple[bytes, str]] = [
    (envelope.client_frame(7, 11001, 1, b"ab"), "120000 00 6400 0700000000000000 040000 01 f92a 6162"),
    (
        envelope.push_frame([5, 6], encode_frame(11001, b"x", 2), 1, 9),
        "240000 00 6500 0200 0500000000000000 0600000000000000 01 0900000000000000 030000 02 f92a 78",
    ),
    (
        envelope.push_one(5, encode_frame(11001, b"x"), 2, 0),
        "1c0000 00 6500 0100 0500000000000000 02 0000000000000000 030000 00 f92a 78",
    ),
    (
        envelope.broadcast_frame("13/a", encode_frame(11001, b"x"), 0, 1),
        "180000 00 6600 0400 31332f61 00 0100000000000000 030000 00 f92a 78",
    ),
    (
        envelope.event(envelope.SessionOpened(1, 2, 3, 4, "::1", 2, 5, "{}")),
        "290000 00 6700 0100000000000000 0200000000000000 03 0400000000000000 0300 3a3a31 02 05000000 0200 7b7d",
    ),
    (envelope.event(envelope.SessionClosed(1, 4009)), "0c0000 00 6800 0100000000000000 a90f"),
    (envelope.event(envelope.Bind(1, 12, 77)), "130000 00 6900 0100000000000000 0c 4d00000000000000"),
    (envelope.event(envelope.Kick(1, 4009, "no")), "100000 00 6a00 0100000000000000 a90f 0200 6e6f"),
    (envelope.event(envelope.Join(1, "g")), "0d0000 00 6b00 0100000000000000 0100 67"),
    (envelope.event(envelope.Leave(1, "g")), "0d0000 00 6c00 0100000000000000 0100 67"),
    (envelope.event(envelope.LinkReady()), "020000 00 6d00"),
    (envelope.event(envelope.Hold(1, 1)), "0b0000 00 6e00 0100000000000000 01"),
    (envelope.event(envelope.Run("ab")), "060000 00 6f00 0200 6162"),
]


def body_of(frame: bytes, id: int) -> bytes:
    """The body of the one whole frame that `frame` is, which has `id`."""
    (found,) = FrameDecoder(1 << 20).feed(frame)
    assert found[:2] == (id, 0)
    return found[2]


@pytest.mark.parametrize(("frame", "hex"), WIRE, ids=[hex[10:14] for _, hex in WIRE])
def test_an_envelope_is_on_the_wire_as_the_protocol_says(frame: bytes, hex: str) -> None:
    assert frame == bytes.fromhex(hex)


@given(sid=U64S, frame=FRAMES)
def test_a_players_frame_comes_out_as_it_went_in(sid: int, frame: Frame) -> None:
    whole = envelope.client_frame(sid, *frame)
    assert envelope.open_client_frame(body_of(whole, envelope.CLIENT_FRAME), MAX_FRAME) == (sid, frame)
    assert envelope.sid_of(whole) == sid


@given(sids=st.lists(U64S, max_size=20), frame=FRAMES, policy=POLICIES, key=U64S)
def test_a_push_keeps_its_targets_policy_key_and_frame(sids: list[int], frame: Frame, policy: int, key: int) -> None:
    id, flags, body = frame
    inner = encode_frame(id, body, flags)
    whole = envelope.push_frame(sids, inner, policy, key)
    opened = envelope.open_push_frame(body_of(whole, envelope.PUSH_FRAME), MAX_FRAME)
    assert opened == (tuple(sids), policy, key, inner)
    assert envelope.sid_of(whole) == 0


@given(group=st.text(max_size=40), frame=FRAMES, policy=POLICIES, key=U64S)
def test_a_broadcast_keeps_its_group_policy_key_and_frame(group: str, frame: Frame, policy: int, key: int) -> None:
    id, flags, body = frame
    inner = encode_frame(id, body, flags)
    whole = envelope.broadcast_frame(group, inner, policy, key)
    opened = envelope.open_broadcast_frame(body_of(whole, envelope.BROADCAST_FRAME), MAX_FRAME)
    assert opened == (group, policy, key, inner)


@given(st.binary(max_size=80))
@pytest.mark.parametrize(
    "open",
    [envelope.open_client_frame, envelope.open_push_frame, envelope.open_broadcast_frame],
)
def test_any_bytes_are_an_envelope_or_a_body_error(open: Any, body: bytes) -> None:
    try:
        *_, frame = open(body, MAX_FRAME)
    except BodyError:
        return
    id, flags = frame[:2] if isinstance(frame, tuple) else (frame[4] | frame[5] << 8, frame[3])
    assert id and id not in FRAMEWORK_IDS and flags <= 3


@given(st.integers(0, 300), st.binary(max_size=80))
def test_any_bytes_are_a_rare_envelope_or_a_body_error(id: int, body: bytes) -> None:
    try:
        event = envelope.open_event(id, body)
    except BodyError:
        return
    assert body_of(envelope.event(event), id) == body


@pytest.mark.parametrize("id", [0, 1, 4, 24, 100, 109, 199])
def test_a_frame_of_the_frameworks_own_ids_is_refused(id: int) -> None:
    with pytest.raises(BodyError, match="application's id"):
        envelope.open_client_frame(body_of(envelope.client_frame(1, id, 0, b""), envelope.CLIENT_FRAME), MAX_FRAME)


def test_a_frame_over_the_receivers_limit_is_refused() -> None:
    fits = envelope.client_frame(1, 11001, 0, bytes(MAX_FRAME - 2))
    over = envelope.client_frame(1, 11001, 0, bytes(MAX_FRAME - 1))
    assert envelope.open_client_frame(body_of(fits, envelope.CLIENT_FRAME), MAX_FRAME)[0] == 1
    with pytest.raises(BodyError, match="within 1000 bytes"):
        envelope.open_client_frame(body_of(over, envelope.CLIENT_FRAME), MAX_FRAME)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_frame_that_does_not_fill_its_envelope_is_refused(change: int) -> None:
    body = bytearray(body_of(envelope.client_frame(1, 11001, 0, b"abc"), envelope.CLIENT_FRAME))
    body[8] += change
    with pytest.raises(BodyError, match="fill the envelope"):
        envelope.open_client_frame(bytes(body), MAX_FRAME)


def test_a_push_to_more_sessions_than_it_can_count_is_refused() -> None:
    frame = encode_frame(11001, b"")
    assert len(envelope.push_frame(range(65_535), frame)) > 8 * 65_535
    with pytest.raises(LocalError, match="65536"):
        envelope.push_frame(range(65_536), frame)
