"""What servers of a group say about players' sessions, on their links (docs/protocol.md, "Between servers").

A player's frame travels inside an envelope as it came: never decoded, decompressed or written anew by a gateway. The
two that every frame takes, ClientFrame and PushFrame, are packed by hand; the others are rare, and binary Structs.
"""

import struct
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from gatelink.errors import BodyError, LocalError
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.codecs import BINARY, U8, U16, U32, U64, Decode, Encode
from gatelink.wire.frames import MAX_LENGTH, Frame, encode_frame

CLIENT_FRAME = 100
PUSH_FRAME = 101
BROADCAST_FRAME = 102
LINK_READY = 109

NEW, MOVED, SERVER_DIED = 0, 1, 2
"""Types of a SessionOpened: the player's first server of that type, it was bound to another, or that one died."""

CLIENT_HEAD = 14
"""Bytes that a ClientFrame is longer than the player's frame in it."""

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
    type: U8  # NEW, MOVED, SERVER_DIED
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

_ENCODERS: dict[type, tuple[int, Encode]] = {cls: (id, BINARY.bind(cls)[0]) for id, cls in EVENTS.items()}
_DECODERS: dict[int, Decode] = {id: BINARY.bind(cls)[1] for id, cls in EVENTS.items()}

_CLIENT = struct.Struct("<IHQIH")  # the outer head and id, sid, the inner head and id
_pack_client = _CLIENT.pack
_INNER = struct.Struct("<QIH")
_unpack_inner = _INNER.unpack_from
_PUSH_ONE = struct.Struct("<IHHQBQ")  # the outer head and id, one sid, policy, key
_pack_push_one = _PUSH_ONE.pack
_TO_ONE = struct.Struct("<HQBQIH")  # one sid, policy, key, the inner head and id
_unpack_to_one = _TO_ONE.unpack_from
_BEHIND = struct.Struct("<BQIH")  # policy, key, the inner head and id
_HEAD = struct.Struct("<IH")


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


def client_frame(sid: int, id: int, flags: int, body: bytes) -> Encoded:
    """The whole ClientFrame of what a player sent. The receiver's limit leaves CLIENT_HEAD bytes for the envelope."""
    size = len(body) + 2
    return _pack_client(size + 14, CLIENT_FRAME, sid, size | flags << 24, id) + body


def sid_of(frame: Encoded) -> int:
    """The sid of a whole ClientFrame; 0 for any other frame."""
    _, id = _HEAD.unpack_from(frame)
    return int.from_bytes(frame[6:14], "little") if id == CLIENT_FRAME else 0


def open_client_frame(body: bytes, max_frame: int) -> tuple[int, Frame]:
    """The sid, and the player's frame, of a ClientFrame's body.

    Raises BodyError for a frame that is not whole, over `max_frame`, or of an id that no player may use.
    """
    if len(body) < 14:
        raise BodyError(f"ClientFrame of {len(body)} bytes; the least is 14")
    sid, head, id = _unpack_inner(body)
    _check_inner(head, id, len(body) - 12, max_frame)
    return sid, (id, head >> 24, body[14:])


def push_frame(sids: Iterable[int], frame: Encoded, policy: int = 0, key: int = 0) -> Encoded:
    """The whole PushFrame of a whole message frame for up to 65,535 sessions of one gateway. Raises LocalError."""
    targets = list(sids)
    n = len(targets)
    if n == 1:
        return push_one(targets[0], frame, policy, key)
    if n > MAX_SIDS:
        raise LocalError(f"a push to {n} sessions; one takes at most {MAX_SIDS}")
    return encode_frame(PUSH_FRAME, struct.pack(f"<H{n}QBQ", n, *targets, policy, key) + frame)


def push_one(sid: int, frame: Encoded, policy: int = 0, key: int = 0) -> Encoded:
    """`push_frame` to one session: nearly all that a service sends."""
    return _pack_push_one(len(frame) + 21, PUSH_FRAME, 1, sid, policy, key) + frame


def open_push_frame(body: bytes, max_frame: int) -> tuple[tuple[int, ...], int, int, Encoded]:
    """The sids, policy, key and whole frame of a PushFrame's body. Raises BodyError."""
    if len(body) < 2:
        raise BodyError("PushFrame without a count")
    n = body[0] | body[1] << 8
    if n == 1 and len(body) >= _TO_ONE.size:  # nearly all of them
        _, sid, policy, key, head, id = _unpack_to_one(body)
        _check_policy(policy)
        _check_inner(head, id, len(body) - 23, max_frame)
        return (sid,), policy, key, body[19:]
    at = 2 + 8 * n
    policy, key, frame = _open_behind(body, at, max_frame)
    return struct.unpack_from(f"<{n}Q", body, 2), policy, key, frame


def broadcast_frame(group: str, frame: Encoded, policy: int = 0, key: int = 0) -> Encoded:
    """The whole BroadcastFrame of a whole message frame; `group` "" is every session of the gateway."""
    name = group.encode("utf-8", "surrogateescape")
    if len(name) > 0xFFFF:
        raise LocalError(f"a group name of {len(name)} bytes; the most is 65535")
    return encode_frame(BROADCAST_FRAME, struct.pack("<H", len(name)) + name + struct.pack("<BQ", policy, key) + frame)


def open_broadcast_frame(body: bytes, max_frame: int) -> tuple[str, int, int, Encoded]:
    """The group, policy, key and whole frame of a BroadcastFrame's body. Raises BodyError."""
    at = 2 + int.from_bytes(body[:2], "little")
    policy, key, frame = _open_behind(body, at, max_frame)
    return body[2:at].decode("utf-8", "surrogateescape"), policy, key, frame


def _open_behind(body: bytes, at: int, max_frame: int) -> tuple[int, int, Encoded]:
    """Policy, key and whole frame, which stand from `at` to the end."""
    if at + _BEHIND.size > len(body):
        raise BodyError(f"envelope ends at {len(body)} bytes, before its frame")
    policy, key, head, id = _BEHIND.unpack_from(body, at)
    _check_policy(policy)
    _check_inner(head, id, len(body) - at - 13, max_frame)
    return policy, key, body[at + 9 :]


def _check_policy(policy: int) -> None:
    if policy > 2:
        raise BodyError(f"policy {policy}; there are 0 to 2")


def _check_inner(head: int, id: int, rest: int, max_frame: int) -> None:
    length = head & MAX_LENGTH
    if length != rest or length > max_frame or head >> 26 or not id or id in FRAMEWORK_IDS:
        raise BodyError(
            f"inner frame of message {id}, flags {head >> 24:#04x}, length {length} where {rest} bytes are left; "
            f"it must fill the envelope, be within {max_frame} bytes, and have flags 0 to 3 and an application's id"
        )
