"""Envelopes: the messages about players' sessions on links between servers (docs/protocol.md, "Between servers").

An envelope holds players' frames as they arrived. A gateway never decodes, decompresses or rewrites them. ClientFrame
and PushFrame carry all frames that one player sent, or is sent, in one turn of the loop. They are packed by hand. The
other envelopes are rare, and are binary Structs.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from msgspec import Struct

from gatelink._native import compiled
from gatelink.errors import BodyError, LocalError, ProtocolError
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.codecs import BINARY_STRICT, U8, U16, U32, U64, Decode, Encode
from gatelink.wire.frames import (
    ALL_FLAGS,
    ANSWER,
    HEAD_SIZE,
    HEADER_SIZE,
    MAX_LENGTH,
    REQUEST,
    TAG_SIZE,
    Frame,
    encode_frame,
    walk,
)

CLIENT_FRAME = 100
PUSH_FRAME = 101
BROADCAST_FRAME = 102
SESSION_OPENED = 103
LINK_READY = 109
HANDLED = 115
LOST_PUSHES = 117

MAX_COUNTS = 5_000
"""Players in one Handled, which has 12 bytes for each."""


class Arrival(IntEnum):
    """Why a player came to a server: the type of a SessionOpened."""

    NEW = 0
    """The player's first server of that type."""
    MOVED = 1
    """The player was bound to this server, or its server before stopped in order."""
    SERVER_DIED = 2

    @classmethod
    def _missing_(cls, value: object) -> "Arrival":
        return cls.NEW  # a value of a newer version


NEW, MOVED, SERVER_DIED = Arrival

RETURNED = 4
"""A bit of SessionOpened's type: the answer to the login said that the client has returned."""

CLIENT_HEAD = 14
"""Bytes of a whole ClientFrame without the frames in it."""

PUSH_HEAD = 25
"""Bytes of a whole PushFrame to one session without the frames in it."""

SID_SIZE = 8
"""Bytes of each further session in a PushFrame."""

MAX_SIDS = 0xFFFF

ALL_SLOTS = 256
"""The slot of a KickUser for all sessions of the user."""

Encoded = bytes
"""A whole frame, header included."""


class WholeFrames(list[Encoded]):
    """Whole message frames in the order in which they came.

    has_tags: whether there are requests, answers or failures among them. The compiled core has a type of its own in
    place of this list: there the frames stay in the body of their envelope.
    """

    __slots__ = ()

    @property
    def has_tags(self) -> bool:
        return any([frame[3] >= REQUEST for frame in self])


class SessionOpened(Struct, frozen=True):
    """A player's session belongs to this server from now on. Sent before the first ClientFrame."""

    sid: U64
    uid: U64
    slot: U8
    epoch: U64
    address: str
    type: U8  # an Arrival, and RETURNED
    lost: U32  # frames of the player that were lost with its server before
    claims: str  # JSON


class SessionOpenedFully(SessionOpened, frozen=True):
    """The SessionOpened of links that agreed on requests.

    features: those of the player's session. binding: counts the bindings of this player to servers of this type, from
    1. (epoch, binding) only grows. flags: HAS_CONNECTION. expires_in: seconds until the login's token ends; 0: never.
    """

    features: U64
    binding: U32
    flags: U8
    expires_in: U32


HAS_CONNECTION = 1
"""A bit of SessionOpenedFully's flags: the player has a connection now."""


class SessionClosed(Struct, frozen=True):
    """A player's session no longer belongs to this server. Sent after the last ClientFrame."""

    sid: U64
    code: U16


class Bind(Struct, frozen=True):
    """Binds the player's messages for a type of server to one server. With server 0, the gateway chooses again."""

    sid: U64
    type: U8
    server: U64


class Kick(Struct, frozen=True):
    """Ends the player's session."""

    sid: U64
    code: U16
    reason: str


class Join(Struct, frozen=True):
    """Adds the player to a broadcast group at its gateway."""

    sid: U64
    group: str


class Leave(Struct, frozen=True):
    """Removes the player from a broadcast group."""

    sid: U64
    group: str


class LinkReady(Struct, frozen=True):
    """On a new link: all sessions that were bound to this server before have been opened again."""


class Run(Struct, frozen=True):
    """The run of its id that a server is, as in its registry entry. The first envelope of each side on a new link."""

    instance: str


class Hold(Struct, frozen=True):
    """The player's handlers lag: the gateway stops reading from the player, until a Hold with `on` 0."""

    sid: U64
    on: U8


class NewerLogin(Struct, frozen=True):
    """From a gateway to another: close the session of `(uid, slot)` if its epoch is lower. Needs LINK_REPORTS."""

    uid: U64
    slot: U8
    epoch: U64


class KickUser(Struct, frozen=True):
    """From any server to a gateway: end the sessions of a user, all or those of one slot. Needs LINK_REPORTS.

    slot: ALL_SLOTS (256) for all. at: unix microseconds, by the engine's clock.
    """

    uid: U64
    slot: U16
    at: U64
    reason: str


class Renewed(Struct, frozen=True):
    """The player's login was renewed. claims: JSON. expires_in: seconds until its token ends; 0: it does not."""

    sid: U64
    claims: str
    expires_in: U32


class Connected(Struct, frozen=True):
    """The players' connections broke (`on` 0) or are back (1). At most MAX_SIDS of them."""

    on: int
    sids: tuple[int, ...]


RENEWED = 112
CONNECTED = 113

EVENTS: dict[int, type[Struct]] = {
    SESSION_OPENED: SessionOpened,
    104: SessionClosed,
    105: Bind,
    106: Kick,
    107: Join,
    108: Leave,
    LINK_READY: LinkReady,
    110: Hold,
    111: Run,
    114: NewerLogin,
    116: KickUser,
    RENEWED: Renewed,
}
"""The rare envelopes by id."""

_OPENED_FULLY = BINARY_STRICT.bind(SessionOpenedFully)
_ENCODERS: dict[type, tuple[int, Encode]] = {cls: (id, BINARY_STRICT.bind(cls)[0]) for id, cls in EVENTS.items()}
_ENCODERS[SessionOpenedFully] = SESSION_OPENED, _OPENED_FULLY[0]
_DECODERS: dict[int, Decode] = {id: BINARY_STRICT.bind(cls)[1] for id, cls in EVENTS.items()}

_CLIENT = struct.Struct("<IHQ")  # outer head, outer id, sid
_pack_client = _CLIENT.pack
_PUSH_ONE = struct.Struct("<IHHQBQ")  # outer head, outer id, the number of sids (1), sid, policy, key
_pack_push_one = _PUSH_ONE.pack
_TO_ONE = struct.Struct("<HQBQ")  # the number of sids (1), sid, policy, key
_unpack_to_one = _TO_ONE.unpack_from
_COUNT = struct.Struct("<QI")  # sid, count
_pack_count = _COUNT.pack
_BEHIND = struct.Struct("<BQ")  # policy, key
_HEAD = struct.Struct("<IH")
_pack_head = _HEAD.pack
_FIRST_FREE_ID = max(FRAMEWORK_IDS) + 1  # from here on all ids are the application's
_BANNED = FRAMEWORK_IDS | {0}  # players may not use them; 0 is a control record, which is not forwarded


def event(message: Struct) -> Encoded:
    """The whole frame of a rare envelope."""
    if isinstance(message, Connected):
        count = len(message.sids)
        return encode_frame(CONNECTED, struct.pack(f"<BH{count}Q", message.on, count, *message.sids))
    id, encode = _ENCODERS[type(message)]
    return encode_frame(id, encode(message))


def open_event(id: int, body: bytes, speaks_requests: bool = False) -> Any:
    """The rare envelope of `id`. Raises BodyError, also for an unknown id.

    speaks_requests: the two ends of the link agreed on requests.
    """
    if id == CONNECTED and speaks_requests:
        return _open_connected(body)
    decode = _OPENED_FULLY[1] if speaks_requests and id == SESSION_OPENED else _DECODERS.get(id)
    if decode is None:
        raise BodyError(f"no envelope has id {id}")
    return decode(body)


def _open_connected(body: bytes) -> Connected:
    count = int.from_bytes(body[1:3], "little")
    if len(body) != 3 + SID_SIZE * count:
        raise BodyError(f"Connected of {len(body)} bytes with {count} players")
    return Connected(body[0], struct.unpack_from(f"<{count}Q", body, 3))


@compiled
def client_frames(sid: int, frames: list[Frame]) -> Encoded:
    """The whole ClientFrame of frames that a player sent: at least one, at most MAX_LENGTH - 10 bytes of them."""
    inner = b"".join([_pack_head(len(body) + 2 | flags << 24, id) + body for id, flags, body in frames])
    return _pack_client(len(inner) + 10, CLIENT_FRAME, sid) + inner


@compiled
def open_client_frames(body: bytes, max_frame: int) -> tuple[int, list[Frame]]:
    """The sid and the player's frames in a ClientFrame's body.

    Raises BodyError if the frames do not fill the body, one is over `max_frame`, or a player may not use its id.
    """
    frames: list[Frame] = []
    _cut(body, SID_SIZE, max_frame, False, frames)
    return int.from_bytes(body[:SID_SIZE], "little"), frames


def _id_of(frame: Encoded) -> int:
    """The id of a whole frame."""
    return int.from_bytes(frame[HEADER_SIZE:HEAD_SIZE], "little")


def _sid_in(frame: Encoded) -> int:
    """The sid of a whole ClientFrame."""
    return int.from_bytes(frame[HEAD_SIZE:CLIENT_HEAD], "little")


def first_id(frame: Encoded) -> int:
    """The id of the first frame in a whole ClientFrame."""
    return int.from_bytes(frame[CLIENT_HEAD + HEADER_SIZE : CLIENT_HEAD + HEAD_SIZE], "little")


def sid_of(frame: Encoded) -> int:
    """The sid of a whole ClientFrame; 0 for any other frame."""
    return _sid_in(frame) if _id_of(frame) == CLIENT_FRAME else 0


def handled_counts(counts: list[tuple[int, int]], id: int = HANDLED) -> Encoded:
    """The whole Handled of (sid, count) of players: so many more of their frames are handled. At most MAX_COUNTS.

    id: with LOST_PUSHES, so many frames for them were lost.
    """
    return encode_frame(id, b"".join([_pack_count(sid, count) for sid, count in counts]))


def open_handled_counts(body: bytes) -> Iterable[tuple[int, int]]:
    """The (sid, count) of a Handled's body. Raises BodyError."""
    if len(body) % _COUNT.size:
        raise BodyError(f"a Handled of {len(body)} bytes; each count has {_COUNT.size}")
    return _COUNT.iter_unpack(body)


def sid_and_count(frame: Encoded) -> tuple[int, int]:
    """The sid of a whole ClientFrame, and the number of frames in it; (0, 0) for any other frame."""
    if _id_of(frame) != CLIENT_FRAME:
        return 0, 0
    frames: list[Encoded] = []
    walk(frame, _CLIENT.size, frames, MAX_LENGTH, len(frame), len(frame), whole=True, allowed=ALL_FLAGS)
    return _sid_in(frame), len(frames)


def lost_before(frame: Encoded, speaks_requests: bool) -> tuple[int, int]:
    """The sid of a whole SessionOpened, and the losses that it tells; (0, 0) for any other frame."""
    if _id_of(frame) != SESSION_OPENED:
        return 0, 0
    opened: SessionOpened = open_event(SESSION_OPENED, frame[HEAD_SIZE:], speaks_requests)
    return opened.sid, opened.lost


def pushed_counts(frame: Encoded) -> list[tuple[int, int]]:
    """The (sid, count) of a whole PushFrame: the frames in it for each session; none for another or a bad frame."""
    if _id_of(frame) != PUSH_FRAME:
        return []
    try:
        sids, _, _, frames = open_push_frames(frame[HEAD_SIZE:], MAX_LENGTH)
    except BodyError:
        return []
    return [(sid, len(frames)) for sid in sids]


def tags_in(frame: Encoded) -> list[int]:
    """The tags of the requests in a whole ClientFrame."""
    frames: list[Frame] = []
    walk(frame, _CLIENT.size, frames, MAX_LENGTH, len(frame), len(frame), allowed=ALL_FLAGS)
    return [int.from_bytes(body[:TAG_SIZE], "little") for _, flags, body in frames if REQUEST <= flags < ANSWER]


def without_tags(frame: Encoded) -> Encoded | None:
    """A whole ClientFrame without its requests and answers; None if no frame is left."""
    frames: list[Frame] = []
    walk(frame, _CLIENT.size, frames, MAX_LENGTH, len(frame), len(frame), allowed=ALL_FLAGS)
    left = [each for each in frames if each[1] < REQUEST]
    return client_frames(_sid_in(frame), left) if left else None


def push_frames(sids: Iterable[int], frames: Iterable[Encoded], policy: int = 0, key: int = 0) -> Encoded:
    """The whole PushFrame of whole message frames for sessions of one gateway.

    Raises LocalError for more than 65,535 sessions.
    """
    targets = list(sids)
    n = len(targets)
    if n > MAX_SIDS:
        raise LocalError(f"a push to {n} sessions; one takes at most {MAX_SIDS}")
    return encode_frame(PUSH_FRAME, struct.pack(f"<H{n}QBQ", n, *targets, policy, key) + b"".join(frames))


@compiled
def push_to_one(sid: int, frames: list[Encoded]) -> Encoded:
    """`push_frames` to one session, without policy and key. Nearly all pushes are of this form."""
    inner = b"".join(frames) if len(frames) > 1 else frames[0]
    return _pack_push_one(len(inner) + 21, PUSH_FRAME, 1, sid, 0, 0) + inner


@compiled
def open_push_frames(body: bytes, max_frame: int) -> tuple[tuple[int, ...], int, int, WholeFrames]:
    """The sids, policy, key and whole frames of a PushFrame's body. Raises BodyError."""
    if len(body) < 2:
        raise BodyError("PushFrame without a count")
    n = body[0] | body[1] << 8
    if n == 1 and len(body) >= _TO_ONE.size:  # nearly all pushes
        _, sid, policy, key = _unpack_to_one(body)
        _check_policy(policy)
        return (sid,), policy, key, _cut_whole(body, _TO_ONE.size, max_frame)
    at = 2 + SID_SIZE * n
    policy, key, frames = _open_behind(body, at, max_frame)
    return struct.unpack_from(f"<{n}Q", body, 2), policy, key, frames


def broadcast_frames(group: str, frames: Iterable[Encoded], policy: int = 0, key: int = 0) -> Encoded:
    """The whole BroadcastFrame of whole message frames. With `group` "" it is for all sessions of the gateway."""
    name = group.encode("utf-8", "surrogateescape")
    if len(name) > 0xFFFF:
        raise LocalError(f"a group name of {len(name)} bytes; the most is 65535")
    head = struct.pack("<H", len(name)) + name + _BEHIND.pack(policy, key)
    return encode_frame(BROADCAST_FRAME, head + b"".join(frames))


@compiled
def open_broadcast_frames(body: bytes, max_frame: int) -> tuple[str, int, int, WholeFrames]:
    """The group, policy, key and whole frames of a BroadcastFrame's body. Raises BodyError."""
    at = 2 + int.from_bytes(body[:2], "little")
    policy, key, frames = _open_behind(body, at, max_frame)
    return body[2:at].decode("utf-8", "surrogateescape"), policy, key, frames


def _open_behind(body: bytes, at: int, max_frame: int) -> tuple[int, int, WholeFrames]:
    """The policy, key and whole frames from offset `at` to the end of `body`."""
    behind = at + _BEHIND.size
    if behind > len(body):
        raise BodyError(f"envelope ends at {len(body)} bytes, before its frames")
    policy, key = _BEHIND.unpack_from(body, at)
    _check_policy(policy)
    return policy, key, _cut_whole(body, behind, max_frame)


def _check_policy(policy: int) -> None:
    if policy > 2:
        raise BodyError(f"policy {policy}; there are 0 to 2")


def _cut_whole(body: bytes, at: int, max_frame: int) -> WholeFrames:
    frames = WholeFrames()
    _cut(body, at, max_frame, True, frames)
    return frames


def _cut(body: bytes, at: int, max_frame: int, whole: bool, frames: list[Any]) -> None:
    """Appends the frames that fill `body` from offset `at`, at least one, as `walk` does. Raises BodyError."""
    size = len(body)
    try:
        end = walk(body, at, frames, max_frame, size, size, whole, _FIRST_FREE_ID, _BANNED, ALL_FLAGS)
    except ProtocolError as error:
        raise BodyError(f"in an envelope of {size} bytes: {error}") from None
    if end != size or not frames:
        raise BodyError(f"envelope of {size} bytes ends before its last frame does")
