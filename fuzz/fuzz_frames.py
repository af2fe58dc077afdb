"""Any bytes in: frames or a documented error, the same whole or byte by byte; no byte is lost or made up."""

from fuzz.harness import main
from gatelink.wire.frames import CONTROL, HEADER_SIZE, Frame, FrameDecoder, encode_control_frame, encode_frame

LIMIT = 100
EVERYTHING = 1 << 20


def check(data: bytes) -> None:
    whole = FrameDecoder(LIMIT, EVERYTHING, EVERYTHING)
    frames = whole.feed(data)
    assert not whole.more

    taken = b"".join(map(encode, frames))
    assert data.startswith(taken), "the frames are not the bytes that came"
    if whole.error is None:
        assert taken + whole.take_rest() == data, "bytes are lost between frames and rest"
    else:
        assert whole.feed(b"\2\0\0\0\1\0") == [] and not whole.buffered, "it goes on after an error"

    slow = FrameDecoder(LIMIT)
    bytewise: list[Frame] = []
    for at in range(len(data)):
        bytewise += slow.feed(data[at : at + 1])
        assert slow.buffered <= HEADER_SIZE + LIMIT, f"{slow.buffered} bytes held"
    assert bytewise == frames, "byte by byte gives other frames"
    assert repr(slow.error) == repr(whole.error), "byte by byte gives another error"

    shares = FrameDecoder(LIMIT, turn_frames=2, turn_bytes=16)
    turns = [shares.feed(data)]
    while shares.more:
        turns.append(shares.feed(b""))
    in_turns = [frame for turn in turns for frame in turn]
    assert max(map(len, turns)) <= 2 and len(turns) <= len(frames) + 2, f"turns of {[*map(len, turns)]} frames"
    assert in_turns == frames, "in turns gives other frames"
    assert repr(shares.error) == repr(whole.error), "in turns gives another error"


def encode(frame: Frame) -> bytes:
    id, flags, body = frame
    return encode_control_frame(body) if flags == CONTROL else encode_frame(id, body, flags)


if __name__ == "__main__":
    main(check)
