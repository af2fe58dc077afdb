"""Envelopes: a player's frame crosses a link byte for byte, and nothing else that claims to be one gets through."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink import _native
from gatelink.errors import BodyError, LocalError
from gatelink.wire import envelope
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.frames import Frame, FrameDecoder, encode_frame
from tests.twins import core

MAX_FRAME = 1_000

U64S = st.integers(0, 2**64 - 1)
IDS = st.integers(1, 0xFFFF).filter(lambda id: id not in FRAMEWORK_IDS)
FRAMES = st.tuples(IDS, st.integers(0, 3), st.binary(max_size=200))
SOME_FRAMES = st.lists(FRAMES, min_size=1, max_size=5)
POLICIES = st.integers(0, 2)

# Written by hand from docs/protocol.md, "Between servers".
WIRE: list[tuple[bytes, str]] = [
    (envelope.client_frames(7, [(11001, 1, b"ab")]), "120000 00 6400 0700000000000000 040000 01 f92a 6162"),
    (
        envelope.client_frames(7, [(11001, 1, b"ab"), (11002, 0, b"")]),
        "180000 00 6400 0700000000000000 040000 01 f92a 6162 020000 00 fa2a",
    ),
    (
        envelope.push_frames([5, 6], [encode_frame(11001, b"x", 2)], 1, 9),
        "240000 00 6500 0200 0500000000000000 0600000000000000 01 0900000000000000 030000 02 f92a 78",
    ),
    (
        envelope.push_to_one(5, [encode_frame(11001, b"x")]),
        "1c0000 00 6500 0100 0500000000000000 00 0000000000000000 030000 00 f92a 78",
    ),
    (
        envelope.push_to_one(5, [encode_frame(11001, b"x"), encode_frame(11002, b"")]),
        "220000 00 6500 0100 0500000000000000 00 0000000000000000 030000 00 f92a 78 020000 00 fa2a",
    ),
    (
        envelope.broadcast_frames("13/a", [encode_frame(11001, b"x")], 0, 1),
        "180000 00 6600 0400 31332f61 00 0100000000000000 030000 00 f92a 78",
    ),
    (
        envelope.event(envelope.SessionOpened(1, 2, 3, 4, "::1", 2, 5, "{}")),
        "290000 00 6700 0100000000000000 0200000000000000 03 0400000000000000 0300 3a3a31 02 05000000 0200 7b7d",
    ),
    (envelope.event(envelope.SessionClosed(1, 4009)), "0c0000 00 6800 0100000000000000 a90f"),
    (envelope.event(envelope.Bind(1, 12, 77)), "130000 00 6900 0100000000000000 0c 4d00000000000000"),
    (
        envelope.event(envelope.KickUser(1, 256, 2, "no")),
        "180000 00 7400 0100000000000000 0001 0200000000000000 0200 6e6f",
    ),
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


def encoded(frames: list[Frame]) -> list[bytes]:
    return [encode_frame(id, body, flags) for id, flags, body in frames]


@pytest.mark.parametrize(("frame", "hex"), WIRE, ids=[hex[10:14] for _, hex in WIRE])
def test_an_envelope_is_on_the_wire_as_the_protocol_says(frame: bytes, hex: str) -> None:
    assert frame == bytes.fromhex(hex)


@given(sid=U64S, frames=SOME_FRAMES)
def test_a_players_frames_come_out_as_they_went_in(sid: int, frames: list[Frame]) -> None:
    whole = envelope.client_frames(sid, frames)
    assert envelope.open_client_frames(body_of(whole, envelope.CLIENT_FRAME), MAX_FRAME) == (sid, frames)
    assert envelope.sid_and_count(whole) == (sid, len(frames))


@given(sids=st.lists(U64S, max_size=20), frames=SOME_FRAMES, policy=POLICIES, key=U64S)
def test_a_push_keeps_its_targets_policy_key_and_frames(
    sids: list[int], frames: list[Frame], policy: int, key: int
) -> None:
    inner = encoded(frames)
    whole = envelope.push_frames(sids, inner, policy, key)
    opened = envelope.open_push_frames(body_of(whole, envelope.PUSH_FRAME), MAX_FRAME)
    assert opened == (tuple(sids), policy, key, inner)
    assert envelope.sid_and_count(whole) == (0, 0)


@given(sid=U64S, frames=SOME_FRAMES)
def test_a_push_to_one_is_a_push_to_a_list_of_one(sid: int, frames: list[Frame]) -> None:
    assert envelope.push_to_one(sid, encoded(frames)) == envelope.push_frames([sid], encoded(frames))


@given(group=st.text(max_size=40), frames=SOME_FRAMES, policy=POLICIES, key=U64S)
def test_a_broadcast_keeps_its_group_policy_key_and_frames(
    group: str, frames: list[Frame], policy: int, key: int
) -> None:
    inner = encoded(frames)
    whole = envelope.broadcast_frames(group, inner, policy, key)
    opened = envelope.open_broadcast_frames(body_of(whole, envelope.BROADCAST_FRAME), MAX_FRAME)
    assert opened == (group, policy, key, inner)


@given(st.binary(max_size=80))
@pytest.mark.parametrize(
    "open",
    [envelope.open_client_frames, envelope.open_push_frames, envelope.open_broadcast_frames],
)
def test_any_bytes_are_an_envelope_or_a_body_error(open: Any, body: bytes) -> None:
    try:
        *_, frames = open(body, MAX_FRAME)
    except BodyError:
        return
    assert frames
    for frame in frames:
        id, flags = frame[:2] if isinstance(frame, tuple) else (frame[4] | frame[5] << 8, frame[3])
        assert id and id not in FRAMEWORK_IDS and flags <= 3


OPENERS = ("open_client_frames", "open_push_frames", "open_broadcast_frames")
HEADS = (bytes(8), b"\1\0" + bytes(8) + b"\1" + bytes(8), b"\2\0ab" + bytes(9))  # of their bodies
ODD = (
    b"\0\0\0\0",  # a message of length 0
    b"\1\0\0\0\1",
    b"\2\0\0\0\0\0",  # id 0
    b"\2\0\0\0\1\0",  # one of the framework's
    b"\2\0\0\0\x64\0",
    b"\1\0\0\x80\1",  # a control record
    b"\5\0\0\x08\xf9\x2a\0\0\0",  # a request without a whole tag
    b"\6\0\0\x0c\xf9\x2a\0\0\0\0",  # unknown flags
    b"\x0d\0\0\x18\xf9\x2a" + bytes(11),  # a failure that is too short
    b"\xff\xff\xff\0\xf9\x2a",
)
TAGGED = st.tuples(IDS, st.sampled_from([8, 11, 16, 19, 24]), st.binary(min_size=12, max_size=30))
INSIDE = st.lists(
    st.one_of(FRAMES.map(lambda frame: encode_frame(frame[0], frame[2], frame[1])), st.sampled_from(ODD))
    | TAGGED.map(lambda frame: encode_frame(frame[0], frame[2], frame[1])),
    max_size=4,
)


def opened(open: Any, body: bytes) -> Any:
    """What it gives, or its error."""
    try:
        *head, frames = open(body, MAX_FRAME)
    except BodyError as error:
        return str(error)
    return *head, list(frames)


@pytest.mark.skipif(core is None, reason="the compiled core is not built here")
@pytest.mark.parametrize(("name", "head"), [*zip(OPENERS, HEADS, strict=True)])
@given(inside=INSIDE, lacks=st.integers(0, 3), spoilt=st.none() | st.tuples(st.integers(0, 60), st.integers(0, 255)))
def test_both_cores_open_the_same_envelopes_and_refuse_the_others_with_the_same_words(
    name: str, head: bytes, inside: list[bytes], lacks: int, spoilt: tuple[int, int] | None
) -> None:
    body = bytearray(head + b"".join(inside))
    del body[len(body) - lacks :]
    if spoilt is not None and spoilt[0] < len(body):
        body[spoilt[0]] = spoilt[1]
    pure, native = _native.pure[name], getattr(core, name)
    assert opened(pure, bytes(body)) == opened(native, bytes(body))
    if not isinstance(found := opened(native, bytes(body)), str) and name != "open_client_frames":
        assert native(bytes(body), MAX_FRAME)[-1].has_tags == any(frame[3] >= 8 for frame in found[-1])


@pytest.mark.skipif(core is None, reason="the compiled core is not built here")
@pytest.mark.parametrize("name", OPENERS)
@given(body=st.binary(max_size=60))
def test_both_cores_take_any_bytes_alike(name: str, body: bytes) -> None:
    assert opened(_native.pure[name], body) == opened(getattr(core, name), body)


@pytest.mark.skipif(core is None, reason="the compiled core is not built here")
@given(sid=U64S, frames=SOME_FRAMES)
def test_both_cores_pack_the_same_bytes(sid: int, frames: list[Frame]) -> None:
    for name, arguments in (("client_frames", frames), ("push_to_one", encoded(frames))):
        assert _native.pure[name](sid, arguments) == getattr(core, name)(sid, arguments)


@pytest.mark.skipif(core is None, reason="the compiled core is not built here")
def test_the_compiled_core_refuses_what_is_no_frame() -> None:
    for wrong in ([(1, 2)], [b"ab"], [(1, 2, "text")], [(1 << 16, 0, b"")], [(11001, 256, b"")]):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            core.client_frames(1, wrong)
    for wrong_frames in (["text"], [b"abc"], [b"\2\0\0\0\1"]):
        with pytest.raises((TypeError, ValueError)):
            core.WholeFrames(wrong_frames)
    assert list(core.WholeFrames()) == [] and not core.WholeFrames().has_tags


@given(st.integers(0, 300), st.binary(max_size=80))
def test_any_bytes_are_a_rare_envelope_or_a_body_error(id: int, body: bytes) -> None:
    try:
        event = envelope.open_event(id, body)
    except BodyError:
        return
    assert body_of(envelope.event(event), id) == body


@pytest.mark.parametrize("behind", [[], [(11001, 0, b"x")]])
@pytest.mark.parametrize("id", [0, 1, 4, 24, 100, 109, 199])
def test_a_frame_of_the_frameworks_own_ids_is_refused(id: int, behind: list[Frame]) -> None:
    for frames in ([(id, 0, b""), *behind], [*behind, (id, 0, b"")]):
        whole = envelope.client_frames(1, frames)
        with pytest.raises(BodyError, match="has no place here|message id 0"):
            envelope.open_client_frames(body_of(whole, envelope.CLIENT_FRAME), MAX_FRAME)


@pytest.mark.parametrize("flags", [0, 1])
def test_a_frame_over_the_receivers_limit_is_refused(flags: int) -> None:
    fits = envelope.client_frames(1, [(11001, flags, bytes(MAX_FRAME - 2))])
    over = envelope.client_frames(1, [(11001, flags, bytes(MAX_FRAME - 1))])
    assert envelope.open_client_frames(body_of(fits, envelope.CLIENT_FRAME), MAX_FRAME)[0] == 1
    with pytest.raises(BodyError, match="frame of 1001 bytes is over this connection's 1000"):
        envelope.open_client_frames(body_of(over, envelope.CLIENT_FRAME), MAX_FRAME)


@pytest.mark.parametrize("cut", range(1, 20))
def test_frames_that_do_not_fill_their_envelope_are_refused(cut: int) -> None:
    frames: list[Frame] = [(11001, 0, b"abc"), (11002, 0, b"1234567890123")]  # the last has 19 bytes
    client = body_of(envelope.client_frames(1, frames), envelope.CLIENT_FRAME)
    push = body_of(envelope.push_frames([1], encoded(frames)), envelope.PUSH_FRAME)
    for open, body in ((envelope.open_client_frames, client), (envelope.open_push_frames, push)):
        if cut < 19:
            with pytest.raises(BodyError, match="in an envelope of|before its last frame"):
                open(body[:-cut], MAX_FRAME)
        with pytest.raises(BodyError, match="in an envelope of|before its last frame"):
            open(body + bytes(cut), MAX_FRAME)


def test_an_envelope_without_a_frame_is_refused() -> None:
    for open, body in (
        (envelope.open_client_frames, bytes(8)),
        (envelope.open_push_frames, b"\1" + bytes(18)),
        (envelope.open_push_frames, bytes(11)),
        (envelope.open_broadcast_frames, bytes(11)),
    ):
        with pytest.raises(BodyError, match="before its last frame"):
            open(body, MAX_FRAME)


def test_a_push_to_more_sessions_than_it_can_count_is_refused() -> None:
    frames = [encode_frame(11001, b"")]
    assert len(envelope.push_frames(range(65_535), frames)) > 8 * 65_535
    with pytest.raises(LocalError, match="65536"):
        envelope.push_frames(range(65_536), frames)


def test_counts_of_handled_frames_come_back_and_other_sizes_are_refused() -> None:
    counts = [(1, 5), ((1 << 64) - 1, (1 << 32) - 1)]
    lost = envelope.handled_counts(counts, envelope.LOST_PUSHES)
    assert int.from_bytes(lost[4:6], "little") == envelope.LOST_PUSHES
    frame = envelope.handled_counts(counts)
    assert int.from_bytes(frame[4:6], "little") == envelope.HANDLED
    assert list(envelope.open_handled_counts(frame[6:])) == counts
    assert list(envelope.open_handled_counts(b"")) == []
    for size in (1, 11, 13, 25):
        with pytest.raises(BodyError, match="Handled"):
            envelope.open_handled_counts(bytes(size))


def test_the_frames_of_a_push_are_counted_for_each_session() -> None:
    two = [encode_frame(12_001, b"a"), encode_frame(12_002, b"")]
    assert envelope.pushed_counts(envelope.push_frames((7, 8), two)) == [(7, 2), (8, 2)]
    assert envelope.pushed_counts(envelope.push_to_one(9, two[:1])) == [(9, 1)]
    assert envelope.pushed_counts(envelope.client_frames(7, [(12_001, 0, b"")])) == []
    assert envelope.pushed_counts(encode_frame(envelope.PUSH_FRAME, b"abc")) == [], "spoilt"
