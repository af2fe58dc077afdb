"""Any frame of a link: an envelope that packs to the same bytes, its inner frame within the limit, or a BodyError."""

from fuzz.harness import main
from gatelink.errors import BodyError
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.envelope import (
    BROADCAST_FRAME,
    CLIENT_FRAME,
    PUSH_FRAME,
    Encoded,
    broadcast_frame,
    client_frame,
    event,
    open_broadcast_frame,
    open_client_frame,
    open_event,
    open_push_frame,
    push_frame,
    sid_of,
)
from gatelink.wire.frames import Frame, encode_frame

MAX_FRAME = 300
FIRST_ID = 100


def check(data: bytes) -> None:
    """data: the id less 100, then the body."""
    if data:
        id, body = FIRST_ID + data[0], data[1:]
        try:
            again = pack(id, body)
        except BodyError:
            return
        assert again == encode_frame(id, body), f"envelope {id} with body {body.hex()} became {again.hex()}"


def pack(id: int, body: bytes) -> Encoded:
    """What was opened, whole again. Raises BodyError for what can't be opened."""
    if id == CLIENT_FRAME:
        sid, inner = open_client_frame(body, MAX_FRAME)
        check_inner(inner)
        again = client_frame(sid, *inner)
        assert sid_of(again) == sid
        return again
    if id == PUSH_FRAME:
        sids, policy, key, frame = open_push_frame(body, MAX_FRAME)
        check_whole(frame, policy)
        return push_frame(sids, frame, policy, key)
    if id == BROADCAST_FRAME:
        group, policy, key, frame = open_broadcast_frame(body, MAX_FRAME)
        check_whole(frame, policy)
        return broadcast_frame(group, frame, policy, key)
    return event(open_event(id, body))


def check_inner(frame: Frame) -> None:
    id, flags, body = frame
    assert id and id not in FRAMEWORK_IDS and flags < 4 and len(body) + 2 <= MAX_FRAME, f"let through {frame}"


def check_whole(frame: Encoded, policy: int) -> None:
    head, id = int.from_bytes(frame[:4], "little"), int.from_bytes(frame[4:6], "little")
    assert head & 0xFFFFFF == len(frame) - 4 and policy <= 2
    check_inner((id, head >> 24, frame[6:]))


if __name__ == "__main__":
    main(check)
