"""Control records: how connections begin, stay alive and end (docs/protocol.md, "The extension: control records").

    the payload of a CONTROL frame:    type u8 | fields

A record is a frozen Struct. `encode_control` and `decode_control` turn it into a payload and back. The frequent records
have a fixed layout, and take one call of the struct module. Others end with one string. HELLO and HANDSHAKE have their
own layouts.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from gatelink.errors import CloseCode, LocalError, ProtocolError
from gatelink.wire.frames import encode_control_frame
from gatelink.wire.noise import HANDSHAKE_FIELDS_SIZE, KEY_ID_SIZE, Pattern

VERSION = 1
MAX_U32 = 0xFFFFFFFF  # TICKET's seconds, GOAWAY's milliseconds
MAX_REASON = 123  # bytes; as in a WebSocket close frame
SESSION_ID_SIZE = 16
RESUME_KEY_SIZE = 32
MAC_SIZE = 32

_FIRST_IGNORED = 128  # unknown types from here on are ignored


class ControlType(IntEnum):
    """A control record's type byte."""

    HELLO = 1
    HANDSHAKE = 2
    TICKET = 3
    RESUME = 4
    RESUMED = 5
    PING = 6
    PONG = 7
    ACK = 8
    CLOSE = 9
    GOAWAY = 10
    RENEW = 11
    RENEWED = 12
    EXPIRING = 13
    LOST = 14


class Features(IntFlag):
    """The feature bits of a HELLO that this version knows."""

    RESUME = 1
    PING = 2
    REQUESTS = 4
    RENEWAL = 8
    LINK_REPORTS = 16
    """Only on links: the envelopes NewerLogin, Handled, KickUser and LostPushes."""
    LOSSES = 32


class Hello(Struct, frozen=True, gc=False):
    """HELLO: the version and features of one side. `slot` (0..255) and `app_version` are the client's keys 1 and 2.

    `features` is any u64, unknown bits included. Its type is int and not Features, because IntFlag caches every value
    it is made from, and a peer could send many.
    """

    version: int = VERSION
    features: int = 0
    slot: int = 0
    app_version: str = ""

    def answer(self, features: int) -> "Hello":
        """The answer of a side that has `features`: the lower version, and the features that both sides have."""
        return Hello(min(self.version, VERSION), self.features & features)


class Handshake(Struct, frozen=True, gc=False):
    """The first HANDSHAKE. `key_id` (4 bytes) names the responder's key. Both server ids are 0 if a client sends it."""

    pattern: Pattern
    key_id: bytes
    from_server: int
    to_server: int
    message: bytes

    def __post_init__(self) -> None:
        _require_size("key_id", self.key_id, KEY_ID_SIZE)

    @property
    def fields(self) -> bytes:
        """The 21 bytes before the Noise message. The prologue contains them."""
        return handshake_fields(self.pattern, self.key_id, self.from_server, self.to_server)


class HandshakeAnswer(Struct, frozen=True, gc=False):
    """The second HANDSHAKE: the responder's Noise message."""

    message: bytes


class Ticket(Struct, frozen=True, gc=False):
    """TICKET: lets the client resume this session within `window` seconds, at `address` (empty: where it is now)."""

    session_id: bytes
    resume_key: bytes
    window: int
    address: str

    def __post_init__(self) -> None:
        _require_size("session_id", self.session_id, SESSION_ID_SIZE)
        _require_size("resume_key", self.resume_key, RESUME_KEY_SIZE)

    def __repr__(self) -> str:  # logs and tracebacks must not hold keys
        return f"Ticket(session_id={self.session_id.hex()}, window={self.window}, address={self.address!r})"


class Resume(Struct, frozen=True, gc=False):
    """RESUME: continue a session. `received`: messages that the client has received. `attempt`: 1 for its first try."""

    session_id: bytes
    received: int
    attempt: int
    mac: bytes

    def __post_init__(self) -> None:
        _require_size("session_id", self.session_id, SESSION_ID_SIZE)
        _require_size("mac", self.mac, MAC_SIZE)


class Resumed(Struct, frozen=True, gc=False):
    """RESUMED: the session continues. `received`: messages that the server has received."""

    received: int
    mac: bytes

    def __post_init__(self) -> None:
        _require_size("mac", self.mac, MAC_SIZE)


class Ping(Struct, frozen=True, gc=False):
    """PING. `sent_at`: any number; the PONG returns it. `received`: as in an ACK."""

    sent_at: int
    received: int


class Pong(Struct, frozen=True, gc=False):
    """PONG. `sent_at`: the PING's. `received`: as in an ACK. `server_time`: unix milliseconds, 0 from a client."""

    sent_at: int
    received: int
    server_time: int


class Ack(Struct, frozen=True, gc=False):
    """ACK. `received`: messages that the sender has received since the session's start."""

    received: int


class Close(Struct, frozen=True, gc=False):
    """CLOSE: `code` (u16, a CloseCode or one yet unknown) and a `reason` for people, cut at 123 bytes when sent."""

    code: int
    reason: str = ""


class GoAway(Struct, frozen=True, gc=False):
    """GOAWAY: connect again within `reconnect_within` milliseconds, at `address` (empty: where you are now)."""

    reconnect_within: int
    address: str = ""


class Renew(Struct, frozen=True, gc=False):
    """RENEW: a fresh token for the session's login."""

    token: str

    def __repr__(self) -> str:  # logs and tracebacks must not hold tokens
        return f"Renew(token=<{len(self.token)} characters>)"


class Renewed(Struct, frozen=True, gc=False):
    """RENEWED. `result`: 0 accepted, 1 refused. `expires_in`: seconds until the login ends; 0: it does not."""

    result: int
    expires_in: int


class Expiring(Struct, frozen=True, gc=False):
    """EXPIRING: the login ends in so many `seconds`, unless it is renewed."""

    seconds: int


class Lost(Struct, frozen=True, gc=False):
    """LOST: messages between a client and the servers of a `type` that were lost, at most.

    to_server: of the client, that no server may have handled. to_client: of the servers, that the client may not have
    got. The record has the numbers since the session's start; `on_lost` gets those since the last call.
    """

    type: int
    to_server: int
    to_client: int


Control = (
    Hello
    | Handshake
    | HandshakeAnswer
    | Ticket
    | Resume
    | Resumed
    | Ping
    | Pong
    | Ack
    | Close
    | GoAway
    | Renew
    | Renewed
    | Expiring
    | Lost
)

# Layouts begin with the type byte. In those of _WITH_TEXT the last number is the length of the text that follows.
_FIXED: dict[type, tuple[ControlType, struct.Struct]] = {
    Ping: (ControlType.PING, struct.Struct("<BQQ")),
    Pong: (ControlType.PONG, struct.Struct("<BQQQ")),
    Ack: (ControlType.ACK, struct.Struct("<BQ")),
    Renewed: (ControlType.RENEWED, struct.Struct("<BBI")),
    Expiring: (ControlType.EXPIRING, struct.Struct("<BI")),
    Lost: (ControlType.LOST, struct.Struct("<BBII")),
    Resume: (ControlType.RESUME, struct.Struct(f"<B{SESSION_ID_SIZE}sQI{MAC_SIZE}s")),
    Resumed: (ControlType.RESUMED, struct.Struct(f"<BQ{MAC_SIZE}s")),
}
_WITH_TEXT: dict[type, tuple[ControlType, struct.Struct]] = {
    Ticket: (ControlType.TICKET, struct.Struct(f"<B{SESSION_ID_SIZE}s{RESUME_KEY_SIZE}sIH")),
    Close: (ControlType.CLOSE, struct.Struct("<BHH")),
    GoAway: (ControlType.GOAWAY, struct.Struct("<BIH")),
    Renew: (ControlType.RENEW, struct.Struct("<BH")),
}
_FIXED_BY_TYPE: dict[int, tuple[Any, struct.Struct]] = {kind: (cls, layout) for cls, (kind, layout) in _FIXED.items()}
_WITH_TEXT_BY_TYPE: dict[int, tuple[Any, struct.Struct]] = {
    kind: (cls, layout) for cls, (kind, layout) in _WITH_TEXT.items()
}
_HELLO = struct.Struct("<BBQB")  # type, version, features, n
_HELLO_ENTRY = struct.Struct("<BH")  # key, length of its value
_HANDSHAKE = struct.Struct(f"<B{KEY_ID_SIZE}sQQ")  # pattern, key id, from, to

_KEY_SLOT = 1
_KEY_APP_VERSION = 2


def encode_control(record: Control) -> bytes:
    """Encode `record` as the payload of a CONTROL frame. Raises struct.error for a number out of its field's range."""
    fixed = _FIXED.get(type(record))
    if fixed is not None:
        kind, layout = fixed
        return layout.pack(kind, *astuple(record))
    match record:
        case Hello():
            return _encode_hello(record)
        case Handshake():
            return bytes((ControlType.HANDSHAKE,)) + record.fields + record.message
        case HandshakeAnswer():
            return bytes((ControlType.HANDSHAKE,)) + record.message
    kind, layout = _WITH_TEXT[type(record)]
    *numbers, words = astuple(record)
    text = cut_text(words, MAX_REASON) if kind is ControlType.CLOSE else _to_bytes(words)
    return layout.pack(kind, *numbers, len(text)) + text


def decode_control(payload: bytes, *, handshake_answer: bool = False) -> Control | None:
    """Decode the payload of a CONTROL frame; None for the types 128..255, which are ignored.

    handshake_answer: decode a HANDSHAKE as the second one. The bytes do not show which one it is; the side that sent
    the first expects the second.
    Raises ProtocolError for any other unknown type, a field that is cut short or out of range, bytes after the known
    fields, and a HELLO with the same key twice.
    """
    if not payload:
        raise ProtocolError("control record of length 0 has no type")
    kind = payload[0]
    fixed = _FIXED_BY_TYPE.get(kind)
    if fixed is not None:
        cls, layout = fixed
        if len(payload) != layout.size:
            raise _wrong_size(kind, payload, f"it must have {layout.size}")
        return cls(*layout.unpack(payload)[1:])  # type: ignore[no-any-return]
    if kind in _WITH_TEXT_BY_TYPE:
        return _decode_with_text(kind, payload)
    if kind == ControlType.HELLO:
        return _decode_hello(payload)
    if kind == ControlType.HANDSHAKE:
        return HandshakeAnswer(payload[1:]) if handshake_answer else _decode_handshake(payload)
    if kind >= _FIRST_IGNORED:
        return None
    raise ProtocolError(f"control record of unknown type {kind}; known are 1 to {max(ControlType):d}")


def handshake_fields(pattern: Pattern, key_id: bytes, from_server: int, to_server: int) -> bytes:
    """The 21 bytes of the first HANDSHAKE before its Noise message. The prologue of that message contains them."""
    return _HANDSHAKE.pack(pattern, key_id, from_server, to_server)


def control_frame(record: Control) -> bytes:
    """The whole frame of a control record."""
    return encode_control_frame(encode_control(record))


def close_frame(code: CloseCode, reason: str = "") -> bytes:
    """The CLOSE that tells a peer why; `reason` is read by people there. UNEXPLAINED is never sent: it says NORMAL."""
    return control_frame(Close(CloseCode.NORMAL if code is CloseCode.UNEXPLAINED else code, reason))


def close_code(number: int) -> CloseCode:
    """The code of a CLOSE; NORMAL for one that this version does not know, or that is never sent."""
    try:
        code = CloseCode(number)
    except ValueError:
        return CloseCode.NORMAL
    return CloseCode.NORMAL if code is CloseCode.UNEXPLAINED else code


def printable(text: str) -> str:
    """A peer's words, fit for logs and screens: what is no printable character, or not even UTF-8, becomes `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _decode_with_text(kind: int, payload: bytes) -> Control:
    cls, layout = _WITH_TEXT_BY_TYPE[kind]
    if len(payload) < layout.size:
        raise _wrong_size(kind, payload, f"the least is {layout.size}")
    *numbers, size = layout.unpack_from(payload)[1:]
    if len(payload) - layout.size != size:
        raise _wrong_size(kind, payload, f"it must have {layout.size}, and {size} of text")
    if kind == ControlType.CLOSE and size > MAX_REASON:
        raise ProtocolError(f"CLOSE with a reason of {size} bytes; at most {MAX_REASON} are allowed")
    return cls(*numbers, _to_text(payload[layout.size :]))  # type: ignore[no-any-return]


def _encode_hello(hello: Hello) -> bytes:
    values = {}
    if hello.slot:
        values[_KEY_SLOT] = struct.pack("B", hello.slot)
    if hello.app_version:
        values[_KEY_APP_VERSION] = _to_bytes(hello.app_version)
    parts = [_HELLO.pack(ControlType.HELLO, hello.version, hello.features, len(values))]
    for key, value in values.items():
        parts += _HELLO_ENTRY.pack(key, len(value)), value
    return b"".join(parts)


def _decode_hello(payload: bytes) -> Hello:
    if len(payload) < _HELLO.size:
        raise _wrong_size(ControlType.HELLO, payload, f"the least is {_HELLO.size}")
    _, version, features, count = _HELLO.unpack_from(payload)
    if not version:
        raise ProtocolError("HELLO of version 0; the first is 1")
    values: dict[int, bytes] = {}
    at = _HELLO.size
    for _ in range(count):
        start = at + _HELLO_ENTRY.size
        if start > len(payload):
            raise _wrong_size(ControlType.HELLO, payload, f"cut short in its {count} keys")
        key, size = _HELLO_ENTRY.unpack_from(payload, at)
        at = start + size
        if key in values:  # receivers could disagree on which one counts
            raise ProtocolError(f"HELLO with key {key} twice")
        values[key] = payload[start:at]
    if at != len(payload):
        raise _wrong_size(ControlType.HELLO, payload, f"its {count} keys end at {at}")
    slot = values.get(_KEY_SLOT, b"\0")
    if len(slot) != 1:
        raise ProtocolError(f"HELLO with a slot of {len(slot)} bytes; it must have 1")
    return Hello(version, features, slot[0], _to_text(values.get(_KEY_APP_VERSION, b"")))


def _decode_handshake(payload: bytes) -> Handshake:
    if len(payload) < 1 + HANDSHAKE_FIELDS_SIZE:
        raise _wrong_size(ControlType.HANDSHAKE, payload, f"the least is {1 + HANDSHAKE_FIELDS_SIZE}")
    pattern, key_id, from_server, to_server = _HANDSHAKE.unpack_from(payload, 1)
    if pattern not in (Pattern.NK, Pattern.NNPSK0):
        raise ProtocolError(f"HANDSHAKE with unknown pattern {pattern}; known are 1 (NK) and 2 (NNpsk0)")
    return Handshake(Pattern(pattern), key_id, from_server, to_server, payload[1 + HANDSHAKE_FIELDS_SIZE :])


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def cut_text(text: str, most: int) -> bytes:
    """Encode a text for people, cut to `most` bytes. Closing must not fail for its reason, however odd that is."""
    try:
        data = _to_bytes(text)
    except UnicodeEncodeError:  # a lone surrogate
        data = text.encode("utf-8", "replace")
    return data if len(data) <= most else data[:most].decode("utf-8", "ignore").encode()


def _require_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise LocalError(f"{name} has {len(value)} bytes; it must have {size}")


def _wrong_size(kind: int, payload: bytes, expected: str) -> ProtocolError:
    return ProtocolError(f"{ControlType(kind).name} record of {len(payload)} bytes; {expected}")
