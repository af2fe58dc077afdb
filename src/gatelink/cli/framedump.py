"""Decode bytes to frames for people, with builtin types only."""

import re
from collections.abc import Iterator
from enum import Enum
from math import isfinite
from typing import Any

import msgspec

from gatelink.config import Limits, WireOptions
from gatelink.errors import GatelinkError, ProtocolError, counted
from gatelink.session.requests import open_failure, tag_of
from gatelink.wire.body import BodyCoder
from gatelink.wire.codecs import is_protobuf
from gatelink.wire.control import ControlType, decode_control
from gatelink.wire.frames import (
    ALL_FLAGS,
    ANSWER,
    COMPRESSED,
    CONTROL,
    FAILED,
    HEADER_SIZE,
    MAX_LENGTH,
    REQUEST,
    SCRAMBLED,
    TAG_SIZE,
    FrameDecoder,
)
from gatelink.wire.messages import Catalog

_FLAG_NAMES = ((COMPRESSED, "compressed"), (SCRAMBLED, "scrambled"), (CONTROL, "control"))
_KINDS = {REQUEST: "request", ANSWER: "answer", FAILED: "failed"}
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # a byte, decoded by surrogateescape


class BadFrame(GatelinkError):
    """Bytes that can't be decoded, `offset` bytes into the input."""

    def __init__(self, offset: int, text: str) -> None:
        self.offset = offset
        super().__init__(text)


class DecodedFrame(msgspec.Struct, frozen=True):
    """One frame. A control record has id 0, and its whole payload as `body`.

    name: the message's wire name or the control record's type; None for an unregistered id.
    body: unscrambled and decompressed. fields: of JSON's types; None if the message has no fields.
    tag: of a request, its answer or its failure; else None. `body` is without it.
    """

    offset: int
    id: int
    name: str | None
    flags: int
    body: bytes
    fields: dict[str, Any] | None
    tag: int | None = None

    @property
    def flag_names(self) -> list[str]:
        kinds = [name for kind, name in _KINDS.items() if self.flags & FAILED == kind]
        return kinds + [name for bit, name in _FLAG_NAMES if self.flags & bit]


def read_frames(data: bytes, catalog: Catalog, options: WireOptions) -> Iterator[DecodedFrame]:
    """The frames in `data`, in order. Raises BadFrame at the first one that is bad or cut short."""
    decoder = FrameDecoder(MAX_LENGTH, turn_frames=len(data) + 1, turn_bytes=len(data))
    decoder.allowed = ALL_FLAGS
    coder = BodyCoder(options)
    offset = 0
    for id, flags, body in decoder.feed(data):
        size = HEADER_SIZE + len(body) + (2 if id else 0)
        try:
            if flags == CONTROL:
                yield _control(offset, body)
            elif flags == FAILED:
                yield _failure(offset, id, body, catalog)
            else:
                yield _message(offset, id, flags, body, catalog, coder)
        except GatelinkError as error:
            raise BadFrame(offset, str(error)) from None
        offset += size
    if decoder.error is not None:
        raise BadFrame(offset, str(decoder.error))
    if offset < len(data):
        raise BadFrame(offset, _cut_short(data[offset:]))


def _cut_short(data: bytes) -> str:
    """The error for a frame of which only `data` is there."""
    text = f"the input ends in the middle of a frame, after {counted(len(data), 'byte')} of it"
    if len(data) < HEADER_SIZE:
        return f"{text}; a header has {HEADER_SIZE}"
    length, limit = int.from_bytes(data[:3], "little"), Limits().max_frame
    text += f"; its header says {HEADER_SIZE + length}"
    if length > limit:
        text += f", more than a server takes ({limit}, limits.max_frame): does a frame begin here?"
    return text


def _message(offset: int, id: int, flags: int, body: bytes, catalog: Catalog, coder: BodyCoder) -> DecodedFrame:
    tag = None
    if flags >= REQUEST:
        tag, body = tag_of(body), body[TAG_SIZE:]
    body = coder.open(flags % REQUEST, body, MAX_LENGTH)
    kind = catalog.by_id.get(id)
    if kind is None:
        return DecodedFrame(offset, id, None, flags, body, None, tag)
    try:
        message = kind.decode(body)
    except Exception as error:  # a codec may raise anything
        raise ProtocolError(f"{kind.name} ({id}) does not decode: {error}; its body is {body.hex()}") from None
    fields = _plain(message)
    return DecodedFrame(offset, id, kind.name, flags, body, fields if isinstance(fields, dict) else None, tag)


def _failure(offset: int, id: int, body: bytes, catalog: Catalog) -> DecodedFrame:
    code, detail, reason = open_failure(body)
    kind = catalog.by_id.get(id)
    fields = {"code": code.label, "detail": detail, "reason": reason}
    return DecodedFrame(offset, id, kind.name if kind else None, FAILED, body[TAG_SIZE:], fields, tag_of(body))


def _control(offset: int, payload: bytes) -> DecodedFrame:
    try:
        record = decode_control(payload)
    except ProtocolError:
        if payload[0] != ControlType.HANDSHAKE:
            raise
        record = decode_control(payload, handshake_answer=True)  # only the peers know which of the two it is
    name = ControlType(payload[0]).name if record is not None else f"control type {payload[0]}"
    return DecodedFrame(offset, 0, name, CONTROL, payload, None if record is None else _plain(record))


def _plain(value: Any) -> Any:
    """`value` in JSON's types. Bytes become hex; a byte of a text that is not UTF-8 becomes \\xNN."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _NOT_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if is_protobuf(type(value)):
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value)
