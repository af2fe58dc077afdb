"""Frames: bytes of any chunking in, whole frames out (protocol.md, "Frames").

    length u24 | flags u8 | payload                          message payload: id u16 | body

`walk` is the one loop that cuts bytes into frames; the decoder and the envelopes between servers call it. It works on
what has arrived and allocates nothing for what was only declared. It is the hottest code of a server: a message without
flags takes its short path.
"""

import struct
from collections.abc import Set
from itertools import accumulate, repeat
from typing import Any

from gatelink.config import MAX_LENGTH as MAX_LENGTH
from gatelink.errors import FrameTooLarge, MessageTooLarge, ProtocolError

COMPRESSED = 0x01
SCRAMBLED = 0x02
SEALED = 0x04
CONTROL = 0x80

HEADER_SIZE = 4

Frame = tuple[int, int, bytes]
"""`(id, flags, body)`. A CONTROL frame has id 0 and its whole payload as body."""

_HEAD = struct.Struct("<IH")
_unpack_head = _HEAD.unpack_from
_pack_head = _HEAD.pack


def encode_frame(id: int, body: bytes, flags: int = 0) -> bytes:
    """The message frame of `body`, which is already compressed or scrambled as `flags` say. Raises MessageTooLarge."""
    if len(body) > MAX_LENGTH - 2:
        raise MessageTooLarge(f"message {id} with a body of {len(body)} bytes; a frame holds at most {MAX_LENGTH - 2}")
    return _pack_head(len(body) + 2 | flags << 24, id) + body


def encode_control_frame(payload: bytes) -> bytes:
    """The CONTROL frame of a record's payload (type and fields)."""
    return (len(payload) | CONTROL << 24).to_bytes(HEADER_SIZE, "little") + payload


def walk(
    data: bytes,
    at: int,
    frames: list[Any],
    max_length: int,
    most: int,
    stop: int,
    whole: bool = False,
    first_id: int = 1,
    banned: Set[int] = frozenset(),
) -> int:
    """Cuts `data` from `at` on into frames, and appends them to `frames`; where the first stands that it left.

    max_length: bytes of payload that a frame may declare. most: how many frames it cuts. stop: the first that it leaves
    begins behind `stop` - 6. whole: appends each frame's own bytes, not a `Frame`. first_id: ids from here on are not
    in `banned`; a frame whose id is (a CONTROL frame has 0) is an error.
    Raises ProtocolError, with the good frames before it appended; FrameTooLarge.
    """
    size = len(data)
    last = min(size, stop) - 6
    for _ in repeat(None, most):
        if at > last:
            break
        word, id = _unpack_head(data, at)
        if 2 <= word <= max_length and id >= first_id:  # a message with no flags: these are the word's highest byte
            end = at + 4 + word
            if end > size:
                return at
            frames.append(data[at:end] if whole else (id, 0, data[at + 6 : end]))
        else:
            end = _cut_other(data, at, frames, max_length, whole, banned)
            if end < 0:
                return at
        at = end
    else:
        return at
    if at > size - 6:  # too short for the loop, but perhaps whole, or wrong
        while (end := _cut_other(data, at, frames, max_length, whole, banned)) >= 0:
            at = end
    return at


def _cut_other(data: bytes, at: int, frames: list[Any], max_length: int, whole: bool, banned: Set[int]) -> int:
    """Cuts one frame with any flags, or with less than 6 bytes at hand: where it ends; -1 if there is more to come."""
    have = len(data) - at
    if have < HEADER_SIZE:
        return -1
    length = int.from_bytes(data[at : at + 3], "little")
    flags = data[at + 3]
    if flags > 3 and flags != CONTROL:
        what = "a sealed record without a handshake" if flags == SEALED else "unknown"
        text = f"flags byte {flags:#04x} is {what}; messages have 0 to 3, control 0x80"
        raise ProtocolError(text, data[at : at + HEADER_SIZE])
    if length > max_length:
        text = f"frame of {length} bytes is over this connection's {max_length} (limits.max_frame)"
        raise FrameTooLarge(text, data[at : at + HEADER_SIZE])
    end = at + HEADER_SIZE + length
    id = 0
    if flags == CONTROL:
        if not length:
            raise ProtocolError("control record of length 0 has no type")
    else:
        if length < 2:
            raise ProtocolError(f"message of length {length} has no id; the least is 2")
        if have < 6:
            return -1
        id = data[at + 4] | data[at + 5] << 8
        if not id:
            raise ProtocolError("message id 0")
    if id in banned:
        raise ProtocolError(f"message {id}, flags {flags:#04x} has no place here")
    if end > len(data):
        return -1
    if whole:
        frames.append(data[at:end])
    else:
        frames.append((id, flags, data[at + HEADER_SIZE if flags == CONTROL else at + 6 : end]))
    return end


def messages_from(data: bytes, start: int) -> list[bytes]:
    """The whole message frames of `data` that begin at `start` or behind it. `data` is what this side has encoded."""
    frames: list[bytes] = []
    walk(data, 0, frames, MAX_LENGTH, len(data), len(data), whole=True)
    ends = accumulate(map(len, frames))
    return [frame for frame, end in zip(frames, ends, strict=True) if end - len(frame) >= start and frame[3] != CONTROL]


class FrameDecoder:
    """Turns one peer's byte stream into frames.

    max_length: bytes of payload that a frame may declare; may be changed between two calls of `feed`.
    turn_frames, turn_bytes: what one call gives at most, so that one peer does not hold up the others;
        `more` is then true, and `feed(b"")` goes on.

    After the first bad header `error` is set, `feed` gives what came before it and then nothing more.
    """

    __slots__ = ("_need", "_tail", "error", "max_length", "more", "turn_bytes", "turn_frames")

    def __init__(self, max_length: int, turn_frames: int = 256, turn_bytes: int = 65_536) -> None:
        self.max_length = max_length
        self.turn_frames = turn_frames
        self.turn_bytes = turn_bytes
        self.more = False
        self.error: ProtocolError | None = None
        self._tail: bytearray | None = None
        self._need = 0

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and are not yet given out."""
        return len(self._tail) if self._tail is not None else 0

    def take_rest(self) -> bytes:
        """Takes out what has arrived and is not given out: the bytes after a handshake are not frames any more."""
        rest = bytes(self._tail or b"")
        self._tail = None
        self.more = False
        return rest

    def put_back(self, data: bytes) -> None:
        """Takes back what `take_rest` gave, and what arrived since; `feed(b"")` decodes it."""
        if data:
            self._tail = bytearray(data)
            self._need = 0
            self.more = True

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order."""
        tail = self._tail
        if tail is not None:
            if self.error is not None:
                return []
            tail += data
            if len(tail) < self._need:
                return []
            data = bytes(tail)
            self._tail = None
        frames: list[Frame] = []
        self.more = False
        stop = self.turn_bytes + 6
        try:
            at = walk(data, 0, frames, self.max_length, self.turn_frames, stop)
        except ProtocolError as error:
            self.error = error
            self._tail = bytearray()  # it stays, so that `feed` need not look for an error before each read
            return frames
        size = len(data)
        if at < size:
            self.more = len(frames) == self.turn_frames or (at > self.turn_bytes and size - at >= 6)
            self._tail = bytearray(memoryview(data)[at:])
            self._need = 0 if self.more else self._wanted(self._tail)
        return frames

    def _wanted(self, tail: bytearray) -> int:
        """How many bytes there must be before it is worth looking again."""
        if len(tail) < HEADER_SIZE:
            return HEADER_SIZE
        length = int.from_bytes(tail[:3], "little")
        return 6 if len(tail) < 6 <= length + HEADER_SIZE else HEADER_SIZE + length
