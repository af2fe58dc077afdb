"""What servers of a group say about players' sessions, on their links (docs/protocol.md, "Between servers").

A player's frame travels inside an envelope as it came: never decoded, decompressed or written anew by a gateway. The
two that every frame takes, ClientFrame and PushFrame, are packed by hand, and carry what a player sent, or was sent, in
one turn of the loop; the others are rare, and binary Structs.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from msgspec import Struct

from gatelink.errors import BodyError, LocalError, ProtocolError
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.codecs import BINARY_STRICT, U8, U16, U32, U64, Decode, Encode
from gatelink.wire.frames import MAX_LENGTH, Frame, encode_frame, walk

CLIENT_FRAME = 100
PUSH_FRAME = 101
BROADCAST_FRAME = 102
LINK_READY = 109


class Arrival(IntEnum):
    """How a player came to a server: the type of a SessionOpened."""

    NEW = 0
    """The player's first server of that type."""
    MOVED = 1
    """It was bound to this one, or the one before went away in order."""
    SERVER_DIED = 2

    @classmethod
    def _missing_(cls, value: object) -> "Arrival":
        return cls.NEW  # what a newer gateway says


NEW, MOVED, SERVER_DIED = Arrival

RETURNED = 4
"""Is added to a SessionOpened's type if the client was told that it is back."""

CLIENT_HEAD = 14
"""Bytes that a whole ClientFrame is longer than the frames in it."""

PUSH_HEAD = 25
"""Bytes that a whole PushFrame to one is longer than the frames in it."""

SID_SIZE = 8
"""Bytes of each further session in a PushFrame."""

MAX_SIDS = 0xFFFF

Encoded = bytes
"""A whole frame, header and all."""


class SessionOpened(Struct, frozen=True):
    """A player's session is this server's from now on; comes before the first ClientFrame."""

    sid: U64
    uid: U64
    slot: U8
    epoch: U64
    address: str
    type: U8  # an Arrival, and RETURNED
    lost: U32  # frames of the player that went down with the server before
    claims: str  # JSON


class SessionClosed(Struct, frozen=True):
    """A player's session is not this server's any more; comes after the last ClientFrame."""

    sid: U64
    code: U16


class Bind(Struct, frozen=True):
    """Has the gateway send the player's messages for a type of server to this one; server 0 lets it choose again."""

    sid: U64
    type: U8
    server: U64


class Kick(Struct, frozen=True):
    """Ends the player's session."""

    sid: U64
    code: U16
    reason: str


class Join(Struct, frozen=True):
    """Has the gateway send the player what is broadcast to a group."""

    sid: U64
    group: str


class Leave(Struct, frozen=True):
    """Ends a `Join`."""

    sid: U64
    group: str


class LinkReady(Struct, frozen=True):
    """Every session that was bound to this server before its link was new has been opened again."""


class Run(Struct, frozen=True):
    """Which run of its id a server is, as its entry in the registry says; the first envelope of each, on a new link."""

    instance: str


class Hold(Struct, frozen=True):
    """The player's handlers lag: the gateway stops reading from it, until one comes with `on` 0."""

    sid: U64
    on: U8


EVENTS: dict[int, type[Struct]] = {
    103: SessionOpened,
    104: SessionClosed,
    105: Bind,
    106: Kick,
    107: Join,
    108: Leave,
    LINK_READY: LinkReady,
    110: Hold,
    111: Run,
}
"""The rare envelopes by id."""

_ENCODERS: dict[type, tuple[int, Encode]] = {cls: (id, BINARY_STRICT.bind(cls)[0]) for id, cls in EVENTS.items()}
_DECODERS: dict[int, Decode] = {id: BINARY_STRICT.bind(cls)[1] for id, cls in EVENTS.items()}

_CLIENT = struct.Struct("<IHQ")  # the outer head and id, sid
_pack_client = _CLIENT.pack
_PUSH_ONE = struct.Struct("<IHHQBQ")  # the outer head and id, one sid, policy, key
_pack_push_one = _PUSH_ONE.pack
_TO_ONE = struct.Struct("<HQBQ")  # one sid, policy, key
_unpack_to_one = _TO_ONE.unpack_from
_BEHIND = struct.Struct("<BQ")  # policy, key
_HEAD = struct.Struct("<IH")
_pack_head = _HEAD.pack
_SID_SIZE = 8
_FIRST_FREE_ID = max(FRAMEWORK_IDS) + 1  # from here on every id is an application's
_BANNED = FRAMEWORK_IDS | {0}  # no player may use these, and no control record is forwarded


def event(message: Struct) -> Encoded:
    """The whole frame of a rare envelope."""
    id, encode = _ENCODERS[type(message)]
    return encode_frame(id, encode(message))


def open_event(id: int, body: bytes) -> Any:
    """The rare envelope of `id`. Raises BodyError, also for an id that none has."""
    decode = _DECODERS.get(id)
    if decode is None:
        raise BodyError(f"no envelope has id {id}")
    return decode(body)


def client_frames(sid: int, frames: list[Frame]) -> Encoded:
    """The whole ClientFrame of what a player sent: one frame or several, at most MAX_LENGTH - 10 bytes of them."""
    inner = b"".join([_pack_head(len(body) + 2 | flags << 24, id) + body for id, flags, body in frames])
    return _pack_client(len(inner) + 10, CLIENT_FRAME, sid) + inner


def open_client_frames(body: bytes, max_frame: int) -> tuple[int, list[Frame]]:
    """The sid, and the player's frames, of a ClientFrame's body.

    Raises BodyError if they do not fill it, or one is over `max_frame` or of an id that no player may use.
    """
    return int.from_bytes(body[:_SID_SIZE], "little"), _cut(body, _SID_SIZE, max_frame, False)


def sid_and_count(frame: Encoded) -> tuple[int, int]:
    """Whose frames a whole ClientFrame carries, and how many; (0, 0) for any other frame."""
    if int.from_bytes(frame[4:6], "little") != CLIENT_FRAME:
        return 0, 0
    frames: list[Encoded] = []
    walk(frame, _CLIENT.size, frames, MAX_LENGTH, len(frame), len(frame), whole=True)
    return int.from_bytes(frame[6:14], "little"), len(frames)


def push_frames(sids: Iterable[int], frames: list[Encoded], policy: int = 0, key: int = 0) -> Encoded:
    """The whole PushFrame of whole message frames for up to 65,535 sessions of one gateway. Raises LocalError."""
    targets = list(sids)
    n = len(targets)
    if n > MAX_SIDS:
        raise LocalError(f"a push to {n} sessions; one takes at most {MAX_SIDS}")
    return encode_frame(PUSH_FRAME, struct.pack(f"<H{n}QBQ", n, *targets, policy, key) + b"".join(frames))


def push_to_one(sid: int, frames: list[Encoded]) -> Encoded:
    """`push_frames` to one session, without policy and key: nearly all that a service sends."""
    inner = b"".join(frames) if len(frames) > 1 else frames[0]
    return _pack_push_one(len(inner) + 21, PUSH_FRAME, 1, sid, 0, 0) + inner


def open_push_frames(body: bytes, max_frame: int) -> tuple[tuple[int, ...], int, int, list[Encoded]]:
    """The sids, policy, key and whole frames of a PushFrame's body. Raises BodyError."""
    if len(body) < 2:
        raise BodyError("PushFrame without a count")
    n = body[0] | body[1] << 8
    if n == 1 and len(body) >= _TO_ONE.size:  # nearly all of them
        _, sid, policy, key = _unpack_to_one(body)
        _check_policy(policy)
        return (sid,), policy, key, _cut(body, _TO_ONE.size, max_frame, True)
    at = 2 + 8 * n
    policy, key, frames = _open_behind(body, at, max_frame)
    return struct.unpack_from(f"<{n}Q", body, 2), policy, key, frames


def broadcast_frames(group: str, frames: list[Encoded], policy: int = 0, key: int = 0) -> Encoded:
    """The whole BroadcastFrame of whole message frames; `group` "" is every session of the gateway."""
    name = group.encode("utf-8", "surrogateescape")
    if len(name) > 0xFFFF:
        raise LocalError(f"a group name of {len(name)} bytes; the most is 65535")
    head = struct.pack("<H", len(name)) + name + _BEHIND.pack(policy, key)
    return encode_frame(BROADCAST_FRAME, head + b"".join(frames))


def open_broadcast_frames(body: bytes, max_frame: int) -> tuple[str, int, int, list[Encoded]]:
    """The group, policy, key and whole frames of a BroadcastFrame's body. Raises BodyError."""
    at = 2 + int.from_bytes(body[:2], "little")
    policy, key, frames = _open_behind(body, at, max_frame)
    return body[2:at].decode("utf-8", "surrogateescape"), policy, key, frames


def _open_behind(body: bytes, at: int, max_frame: int) -> tuple[int, int, list[Encoded]]:
    """Policy, key and whole frames, which stand from `at` to the end."""
    behind = at + _BEHIND.size
    if behind > len(body):
        raise BodyError(f"envelope ends at {len(body)} bytes, before its frames")
    policy, key = _BEHIND.unpack_from(body, at)
    _check_policy(policy)
    return policy, key, _cut(body, behind, max_frame, True)


def _check_policy(policy: int) -> None:
    if policy > 2:
        raise BodyError(f"policy {policy}; there are 0 to 2")


def _cut(body: bytes, at: int, max_frame: int, whole: bool) -> list[Any]:
    """The frames that fill `body` from `at` on, at least one, as `wire.frames.walk` gives them. Raises BodyError."""
    frames: list[Any] = []
    size = len(body)
    try:
        end = walk(body, at, frames, max_frame, size, size, whole, _FIRST_FREE_ID, _BANNED)
    except ProtocolError as error:
        raise BodyError(f"in an envelope of {size} bytes: {error}") from None
    if end != size or not frames:
        raise BodyError(f"envelope of {size} bytes ends before its last frame does")
    return frames
