"""Any frame of a link: an envelope that packs to the same bytes, its inner frames within the limit, or a BodyError."""

from fuzz.harness import main
from gatelink.errors import BodyError
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.envelope import (
    BROADCAST_FRAME,
    CLIENT_FRAME,
    PUSH_FRAME,
    Encoded,
    broadcast_frames,
    client_frames,
    event,
    open_broadcast_frames,
    open_client_frames,
    open_event,
    open_push_frames,
    push_frames,
    sid_and_count,
    tags_in,
    without_tags,
)
from gatelink.wire.frames import ALL_FLAGS, ANSWER, CONTROL, REQUEST, Frame, encode_frame

MAX_FRAME = 300
FIRST_ID = 100
MESSAGE_FLAGS = ALL_FLAGS - {CONTROL}


def check(data: bytes) -> None:
    """data: the id less 100, then the body."""
    if data:
        id, body = FIRST_ID + data[0], data[1:]
        try:
            again = pack(id, body)
        except BodyError:
            return
        assert again == encode_frame(id, body), f"envelope {id} with body {body.hex()} became {again.hex()}"
        if id == CLIENT_FRAME:
            check_tags(again)


def check_tags(whole: Encoded) -> None:
    """A gateway that takes out the tagged frames leaves the others, in order."""
    sid, sent = open_client_frames(whole[6:], MAX_FRAME)
    plain = [frame for frame in sent if frame[1] < REQUEST]
    assert without_tags(whole) == (client_frames(sid, plain) if plain else None)
    assert len(tags_in(whole)) == sum(REQUEST <= flags < ANSWER for _, flags, _ in sent)


def pack(id: int, body: bytes) -> Encoded:
    """Open an envelope and pack it again. Raises BodyError."""
    if id == CLIENT_FRAME:
        sid, sent = open_client_frames(body, MAX_FRAME)
        for inner in sent:
            check_inner(inner)
        again = client_frames(sid, sent)
        assert sid_and_count(again) == (sid, len(sent))
        return again
    if id == PUSH_FRAME:
        sids, policy, key, frames = open_push_frames(body, MAX_FRAME)
        check_whole(frames, policy)
        return push_frames(sids, frames, policy, key)
    if id == BROADCAST_FRAME:
        group, policy, key, frames = open_broadcast_frames(body, MAX_FRAME)
        check_whole(frames, policy)
        return broadcast_frames(group, frames, policy, key)
    try:
        return event(open_event(id, body, speaks_requests=True))
    except BodyError:
        return event(open_event(id, body))


def check_inner(frame: Frame) -> None:
    id, flags, body = frame
    assert id and id not in FRAMEWORK_IDS and flags in ALL_FLAGS - {CONTROL} and len(body) + 2 <= MAX_FRAME, (
        f"let through {frame}"
    )


def check_whole(frames: list[Encoded], policy: int) -> None:
    assert frames and policy <= 2
    for frame in frames:
        head, id = int.from_bytes(frame[:4], "little"), int.from_bytes(frame[4:6], "little")
        assert head & 0xFFFFFF == len(frame) - 4
        check_inner((id, head >> 24, frame[6:]))


if __name__ == "__main__":
    main(check)
