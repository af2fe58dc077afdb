"""Any bytes in: frames or a documented error, the same whole or byte by byte; no byte is lost or made up."""

from collections.abc import Set

from fuzz.harness import main
from gatelink.errors import ProtocolError, RequestCode
from gatelink.session.requests import open_failure, tag_of
from gatelink.wire.frames import (
    ALL_FLAGS,
    BASE_FLAGS,
    CONTROL,
    FAILED,
    HEADER_SIZE,
    REQUEST,
    TAG_SIZE,
    Frame,
    FrameDecoder,
    encode_control_frame,
    encode_frame,
    tagged,
)

LIMIT = 100
EVERYTHING = 1 << 20


def check(data: bytes) -> None:
    for allowed in (BASE_FLAGS, ALL_FLAGS):
        check_with(data, allowed)


def check_with(data: bytes, allowed: Set[int]) -> None:
    whole = FrameDecoder(LIMIT, EVERYTHING, EVERYTHING)
    whole.allowed = allowed
    frames = whole.feed(data)
    assert not whole.more

    for id, flags, body in frames:
        assert flags in allowed, f"let flags {flags:#x} through"
        if flags >= REQUEST and flags != CONTROL:
            check_tagged(id, flags, body)
    taken = b"".join(map(encode, frames))
    assert data.startswith(taken), "the frames are not the bytes that came"
    if whole.error is None:
        assert taken + whole.take_rest() == data, "bytes are lost between frames and rest"
    else:
        assert whole.feed(b"\2\0\0\0\1\0") == [] and not whole.buffered, "it goes on after an error"

    slow = FrameDecoder(LIMIT)
    slow.allowed = allowed
    bytewise: list[Frame] = []
    for at in range(len(data)):
        bytewise += slow.feed(data[at : at + 1])
        assert slow.buffered <= HEADER_SIZE + LIMIT, f"{slow.buffered} bytes held"
    assert bytewise == frames, "byte by byte gives other frames"
    assert repr(slow.error) == repr(whole.error), "byte by byte gives another error"

    shares = FrameDecoder(LIMIT, turn_frames=2, turn_bytes=16)
    shares.allowed = allowed
    turns = [shares.feed(data)]
    while shares.more:
        turns.append(shares.feed(b""))
    in_turns = [frame for turn in turns for frame in turn]
    assert max(map(len, turns)) <= 2 and len(turns) <= len(frames) + 2, f"turns of {[*map(len, turns)]} frames"
    assert in_turns == frames, "in turns gives other frames"
    assert repr(shares.error) == repr(whole.error), "in turns gives another error"


def check_tagged(id: int, flags: int, body: bytes) -> None:
    """A request, answer or failure has its tag in front; a failure reads, or is a ProtocolError."""
    tag = tag_of(body)
    if flags != FAILED:
        message = encode_frame(id, body[TAG_SIZE:], flags % REQUEST)
        assert tagged(message, tag, flags & FAILED) == encode_frame(id, body, flags)
        return
    try:
        code, detail, _ = open_failure(body)
    except ProtocolError:
        return
    assert int.from_bytes(body[6:10], "little") == detail and code < RequestCode.TIMEOUT


def encode(frame: Frame) -> bytes:
    id, flags, body = frame
    return encode_control_frame(body) if flags == CONTROL else encode_frame(id, body, flags)


if __name__ == "__main__":
    main(check)
