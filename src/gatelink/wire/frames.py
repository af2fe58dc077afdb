"""Frames: bytes in chunks of any size in, whole frames out (docs/protocol.md, "Frames").

    length u24 | flags u8 | payload         payload of a message: id u16 | body
                                            of a request, answer or failure: id u16 | tag u32 | body

`walk` is the only loop that cuts bytes into frames. The decoder and the envelopes between servers call it. It allocates
nothing for bytes that were declared and have not arrived. It is the hottest code of a server, so a message without
flags takes a short path.
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
REQUEST = 0x08
ANSWER = 0x10
FAILED = 0x18
CONTROL = 0x80

HEADER_SIZE = 4
TAG_SIZE = 4

HEAD_SIZE = 6
"""Bytes of a message frame before its body: the header and the id. `walk` has the number itself, to be fast."""

FAILED_SIZE = 14
"""Bytes of a FAILED payload with an empty reason."""

BASE_FLAGS = frozenset({0, 1, 2, 3, CONTROL})
"""The flags bytes that every peer may send."""

REQUEST_FLAGS = frozenset({*range(REQUEST, REQUEST + 4), *range(ANSWER, ANSWER + 4), FAILED})
"""The flags bytes that only a peer may send that agreed on requests (docs/protocol.md, "Requests")."""

ALL_FLAGS = BASE_FLAGS | REQUEST_FLAGS

Frame = tuple[int, int, bytes]
"""`(id, flags, body)`. The body of a CONTROL frame, with id 0, is its payload. A request's begins with its tag."""

_HEAD = struct.Struct("<IH")
_unpack_head = _HEAD.unpack_from
_pack_head = _HEAD.pack


def encode_frame(id: int, body: bytes, flags: int = 0) -> bytes:
    """The message frame of `body`, already compressed and scrambled as `flags` say. Raises MessageTooLarge."""
    if len(body) > MAX_LENGTH - 2:
        raise MessageTooLarge(f"message {id} with a body of {len(body)} bytes; a frame holds at most {MAX_LENGTH - 2}")
    return _pack_head(len(body) + 2 | flags << 24, id) + body


def tagged(frame: bytes, tag: int, kind: int) -> bytes:
    """The frame of a request or an answer: the whole message frame `frame` with a tag. kind: REQUEST or ANSWER."""
    word, id = _unpack_head(frame)
    return _pack_head(word + TAG_SIZE | kind << 24, id) + tag.to_bytes(TAG_SIZE, "little") + frame[HEAD_SIZE:]


def encode_control_frame(payload: bytes) -> bytes:
    """The CONTROL frame of a record's payload: its type and fields."""
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
    allowed: Set[int] = BASE_FLAGS,
) -> int:
    """Cut `data` from offset `at` into frames, and append them to `frames`. Returns the offset of the rest.

    max_length: bytes of payload that a frame may declare.
    most: frames to cut at most. stop: a frame that begins behind `stop` - 6 is left in the rest.
    whole: append the bytes of each frame, header included, and not a `Frame`.
    banned: ids that are an error; a CONTROL frame has id 0. first_id: from here on no id is in `banned`.
    allowed: flags bytes that are no error.

    Raises ProtocolError or FrameTooLarge at the first bad header. The good frames before it have been appended.
    """
    size = len(data)
    last = min(size, stop) - 6
    for _ in repeat(None, most):
        if at > last:
            break
        word, id = _unpack_head(data, at)
        if 2 <= word <= max_length and id >= first_id:  # no flags: they are the highest byte of the word
            end = at + 4 + word
            if end > size:
                return at
            frames.append(data[at:end] if whole else (id, 0, data[at + 6 : end]))
        else:
            end = _cut_other(data, at, frames, max_length, whole, banned, allowed)
            if end < 0:
                return at
        at = end
    else:
        return at
    if at > size - 6:  # too short for the loop, but it may be a whole frame, or a bad one
        while (end := _cut_other(data, at, frames, max_length, whole, banned, allowed)) >= 0:
            at = end
    return at


def _cut_other(
    data: bytes, at: int, frames: list[Any], max_length: int, whole: bool, banned: Set[int], allowed: Set[int]
) -> int:
    """Cut one frame with any flags or size. Returns the offset of its end; -1 if some of it has not arrived."""
    have = len(data) - at
    if have < HEADER_SIZE:
        return -1
    length = int.from_bytes(data[at : at + 3], "little")
    flags = data[at + 3]
    if flags not in allowed:
        raise ProtocolError(f"flags byte {flags:#04x} is {_what(flags)}", data[at : at + HEADER_SIZE])
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
        if flags >= REQUEST and length < (least := FAILED_SIZE if flags == FAILED else 2 + TAG_SIZE):
            raise ProtocolError(f"request or answer (flags {flags:#04x}) of length {length}; the least is {least}")
        if have < HEAD_SIZE:
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
        frames.append((id, flags, data[at + HEADER_SIZE if flags == CONTROL else at + HEAD_SIZE : end]))
    return end


def _what(flags: int) -> str:
    if flags == SEALED:
        return "a sealed record without a handshake"
    if flags in REQUEST_FLAGS:
        return "a request's, and the two sides did not agree on requests"
    return "unknown; messages have 0 to 3, control 0x80"


def messages_from(data: bytes, start: int) -> list[bytes]:
    """The message frames, header included, that begin at `start` or later in `data`, which this side has encoded."""
    frames: list[bytes] = []
    walk(data, 0, frames, MAX_LENGTH, len(data), len(data), whole=True, allowed=ALL_FLAGS)
    ends = accumulate(map(len, frames))
    return [frame for frame, end in zip(frames, ends, strict=True) if end - len(frame) >= start and frame[3] != CONTROL]


class FrameDecoder:
    """Turns one peer's byte stream into frames.

    max_length: bytes of payload that a frame may declare. allowed: flags bytes that are no error. Both may change
        between two calls of `feed`.
    turn_frames, turn_bytes: the most that one call returns, so that one peer does not delay the others. If there is
        more, `more` is true, and `feed(b"")` continues.

    At the first bad header, `error` is set, and `feed` returns the frames before it. Later calls return nothing.
    """

    __slots__ = ("_need", "_tail", "allowed", "error", "max_length", "more", "turn_bytes", "turn_frames")

    def __init__(self, max_length: int, turn_frames: int = 256, turn_bytes: int = 65_536) -> None:
        self.max_length = max_length
        self.turn_frames = turn_frames
        self.turn_bytes = turn_bytes
        self.allowed: Set[int] = BASE_FLAGS
        self.more = False
        self.error: ProtocolError | None = None
        self._tail: bytearray | None = None
        self._need = 0

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and are not in a frame that `feed` gave."""
        return len(self._tail) if self._tail is not None else 0

    def take_rest(self) -> bytes:
        """Take out the buffered bytes: after a handshake they are records, not frames."""
        rest = bytes(self._tail or b"")
        self._tail = None
        self.more = False
        return rest

    def put_back(self, data: bytes) -> None:
        """Buffer the bytes that `take_rest` gave, and those that arrived since. `feed(b"")` decodes them."""
        if data:
            self._tail = bytearray(data)
            self._need = 0
            self.more = True

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order."""
        if self._tail is not None and not (data := self.gather(data)):
            return []
        frames: list[Frame] = []
        self.more = False
        stop = self.turn_bytes + HEAD_SIZE
        try:
            at = walk(data, 0, frames, self.max_length, self.turn_frames, stop, allowed=self.allowed)
        except ProtocolError as error:
            self.error = error
            self._tail = bytearray()  # makes the next `feed` look for an error; the usual one need not
            return frames
        if at < len(data):
            self.keep(data, at, len(frames))
        return frames

    def gather(self, data: bytes) -> bytes:
        """The bytes to cut into frames now: the buffered ones, then `data`. Empty if they complete no frame."""
        tail = self._tail
        if tail is None:
            return data
        if self.error is not None:
            return b""
        tail += data
        if len(tail) < self._need:
            return b""
        self._tail = None
        self.more = False
        return bytes(tail)

    def keep(self, data: bytes, at: int, frames: int) -> None:
        """Buffer `data` from offset `at`, where the last of so many frames of a turn ends."""
        size = len(data)
        self.more = frames == self.turn_frames or (at > self.turn_bytes and size - at >= HEAD_SIZE)
        self._tail = bytearray(memoryview(data)[at:])
        self._need = 0 if self.more else self._wanted(self._tail)

    def _wanted(self, tail: bytearray) -> int:
        """How many bytes must be there before the next look."""
        if len(tail) < HEADER_SIZE:
            return HEADER_SIZE
        length = int.from_bytes(tail[:3], "little")
        return HEAD_SIZE if len(tail) < HEAD_SIZE <= length + HEADER_SIZE else HEADER_SIZE + length
