"""Codecs: they turn messages into bodies, and back.

| name | for | body |
| --- | --- | --- |
| msgpack | msgspec Structs | MessagePack |
| json | msgspec Structs | JSON |
| binary | msgspec Structs with fields of fixed width | docs/protocol.md's own little-endian layout |
| binary-strict | the same | the same; bytes after the last field are refused |
| protobuf | classes that protoc generated | Protocol Buffers |
| raw | subclasses of bytes | the bytes |

A codec is bound to a class once, when the class is registered. `decode` may raise any exception for a bad body; the
fault is the peer's. `encode` gets instances of exactly that class. It raises InvalidMessage for a message that `decode`
would refuse, or MessageTooLarge. Nothing checks that of your own codec.
"""

import inspect
import re
import struct
from typing import Annotated, Any, Protocol, get_origin

import msgspec

from gatelink.errors import BodyError, CatalogError, InvalidMessage, MessageTooLarge
from gatelink.wire.checks import Decode as Decode
from gatelink.wire.checks import Encode as Encode
from gatelink.wire.checks import checked
from gatelink.wire.unions import check_unions


class Codec(Protocol):
    """A codec, for `codec=`."""

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        """`encode` and `decode` for `cls`. Raises CatalogError for a class that this codec can't encode."""
        ...


class _Msgpack:
    """MessagePack. Unknown fields are skipped; wrong types and trailing bytes are refused."""

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        struct = _require_struct("msgpack", cls)
        check_unions(struct)
        decode = msgspec.msgpack.Decoder(struct).decode
        return checked(struct, msgspec.msgpack.Encoder().encode, decode), decode


class _Json:
    """JSON, as strict as msgpack."""

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        struct = _require_struct("json", cls)
        check_unions(struct)
        decode = msgspec.json.Decoder(struct).decode
        return checked(struct, msgspec.json.Encoder().encode, decode, is_json=True), decode


class _Protobuf:
    """Protocol Buffers. Generated classes are recognised by their two methods, so gatelink need not import protobuf."""

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        if not is_protobuf(cls):
            raise CatalogError(f"codec protobuf is for classes that protoc generated; {cls.__qualname__} is not one")
        generated: Any = cls
        if not hasattr(generated, "DESCRIPTOR") or not _may_be_refused(generated.DESCRIPTOR, set(), ()):
            return generated.SerializeToString, generated.FromString

        def encode(message: Any) -> bytes:
            try:
                body: bytes = message.SerializeToString()
                decode(body)
            except Exception as error:
                raise InvalidMessage(f"{cls.__qualname__}: {_unset(message) or type(error).__name__}") from None
            return body

        def decode(body: bytes) -> Any:
            message = generated.FromString(body)
            if not message.IsInitialized():
                raise BodyError(f"{cls.__qualname__}: {_unset(message)}")
            return message

        return encode, decode


class _Raw:
    """The message is the body: `class Position(bytes): ...`."""

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        if not issubclass(cls, bytes):
            raise CatalogError(f"codec raw is for subclasses of bytes; {cls.__qualname__} is not one")
        is_plain = all(getattr(cls, name, None) is getattr(bytes, name, None) for name in _METHODS)
        return bytes if is_plain else plain_bytes, cls


_METHODS = ("__len__", "__bytes__", "__radd__")  # what `len(body)`, `bytes(body)` and `head + body` call


def plain_bytes(body: bytes) -> bytes:
    """The same bytes, without the methods of a subclass: its `__len__` may count something else."""
    return b"".join((body,))


WIDTH = "width"
"""The key of a number's width in the `extra` of its `msgspec.Meta`: a format of the struct module."""


def _width(format: str) -> msgspec.Meta:
    """The width of a number in the binary codec. Other codecs ignore it."""
    return msgspec.Meta(extra={WIDTH: format})


U8 = Annotated[int, _width("B")]
U16 = Annotated[int, _width("H")]
U32 = Annotated[int, _width("I")]
U64 = Annotated[int, _width("Q")]
I8 = Annotated[int, _width("b")]
I16 = Annotated[int, _width("h")]
I32 = Annotated[int, _width("i")]
I64 = Annotated[int, _width("q")]
F32 = Annotated[float, _width("f")]
F64 = Annotated[float, _width("d")]

_TEXTS = ("str", "bytes")
_MAX_TEXT = 0xFFFF  # bytes; the length is a u16


class _Binary:
    """The base protocol's layout: the fields in order, little-endian, without padding.

    Such protocols grow at the end of a message, so bytes after the last field are skipped, unless `is_strict`.

    Fields are U8 to F64, `bool` (one byte), and `str` and `bytes` (u16 length, then the bytes; a str is UTF-8 with
    surrogateescape). `decode` raises BodyError. `encode` raises MessageTooLarge for a str or bytes over 65,535 bytes,
    and InvalidMessage for any other value that does not fit its field.
    """

    def __init__(self, is_strict: bool = False) -> None:
        self._is_strict = is_strict

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        name = "binary-strict" if self._is_strict else "binary"
        struct = _require_struct(name, cls)
        if any(p.kind is p.KEYWORD_ONLY for p in inspect.signature(cls).parameters.values()):
            raise CatalogError(f"codec {name} needs fields in order; make {cls.__qualname__} without kw_only")
        layout = _Layout(cls, self._is_strict)
        if hasattr(cls, "__post_init__"):  # it may refuse values that fit the fields
            return checked(struct, layout.encode, layout.decode), layout.decode
        return layout.encode, layout.decode


MSGPACK: Codec = _Msgpack()
JSON: Codec = _Json()
PROTOBUF: Codec = _Protobuf()
RAW: Codec = _Raw()
BINARY: Codec = _Binary()
BINARY_STRICT: Codec = _Binary(is_strict=True)

CODECS = {
    "msgpack": MSGPACK,
    "json": JSON,
    "protobuf": PROTOBUF,
    "raw": RAW,
    "binary": BINARY,
    "binary-strict": BINARY_STRICT,
}


_FIELD = re.compile(r"`\$\.?([^`]*)`$")  # the place in msgspec's text: names of fields, [...] for an item or a key


def codec_name(codec: Codec) -> str:
    """The name of a codec in `CODECS`, or `own` for an application's own."""
    return next((name for name, each in CODECS.items() if each is codec), "own")


def decode_error(error: Exception) -> str:
    """The error of a codec in words, without any data of the body: only types and names of the class's fields."""
    text = type(error).__name__
    if isinstance(error, msgspec.ValidationError):  # other texts of it may quote the body
        said = str(error).partition(" - at ")[0]
        if said.startswith(("Expected `", "Object missing required field `")):
            text += f": {said}"
        if (field := _FIELD.search(str(error))) is not None:
            text += f" at {field[1]}"
    return text


def is_protobuf(cls: type) -> bool:
    """Whether protoc generated `cls`."""
    return hasattr(cls, "SerializeToString") and hasattr(cls, "FromString")


def _require_struct(codec: str, cls: type) -> type[msgspec.Struct]:
    if not issubclass(cls, msgspec.Struct):
        raise CatalogError(f"codec {codec} is for msgspec Structs; make it `class {cls.__name__}(msgspec.Struct)`")
    return cls


def _may_be_refused(descriptor: Any, seen: set[str], above: tuple[str, ...]) -> bool:
    """Whether a decoder can refuse a message of its class: it has required fields (proto2), or may nest too deeply."""
    if descriptor.full_name in above or descriptor.is_extendable:  # an extension may have required fields
        return True
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    here = (*above, descriptor.full_name)
    return any(
        field.is_required or (field.message_type is not None and _may_be_refused(field.message_type, seen, here))
        for field in descriptor.fields
    )


def _unset(message: Any) -> str:
    """The required fields of a protobuf message that are not set, in words; "" if all are set."""
    unset = ", ".join(message.FindInitializationErrors())
    return f"required and not set: {unset}" if unset else ""


class _Layout:
    """One class's binary layout, compiled: `<run> text <run> text ... <run>`.

    A run is a struct.Struct of adjacent fixed fields and the u16 length of the text, a str or bytes, after them. The
    last run has no text after it.
    """

    __slots__ = ("_cls", "_formats", "_is_strict", "_last", "_last_at", "_steps")

    def __init__(self, cls: type, is_strict: bool) -> None:
        self._cls = cls
        self._is_strict = is_strict
        self._formats = {field.name: _format(cls, field) for field in msgspec.structs.fields(cls)}
        self._steps: list[tuple[struct.Struct, int, int, str, bool]] = []  # run, its first field, text, name, is a str
        run, start = "<", 0
        for i, (name, format) in enumerate(self._formats.items()):
            if format in _TEXTS:
                self._steps.append((struct.Struct(run + "H"), start, i, name, format == "str"))
                run, start = "<", i + 1
            else:
                run += format
        self._last = struct.Struct(run)
        self._last_at = start

    def encode(self, message: Any) -> bytes:
        values = msgspec.structs.astuple(message)
        try:
            if not self._steps:
                return self._last.pack(*values)
            parts: list[bytes | bytearray] = []
            for run, start, end, name, is_str in self._steps:
                text = values[end].encode("utf-8", "surrogateescape") if is_str else values[end]
                if not isinstance(text, (bytes, bytearray)):
                    raise self._misfit(values)
                if len(text) > _MAX_TEXT:
                    raise MessageTooLarge(
                        f"{self._cls.__qualname__}.{name} is {len(text)} bytes; codec binary takes up to {_MAX_TEXT}"
                    )
                parts += run.pack(*values[start:end], len(text)), text
            parts.append(self._last.pack(*values[self._last_at :]))
            return b"".join(parts)
        except (struct.error, OverflowError, AttributeError, TypeError, UnicodeEncodeError):
            raise self._misfit(values) from None

    def decode(self, body: bytes) -> Any:
        values: list[Any] = []
        at = 0
        for run, _, _, name, is_str in self._steps:
            start = at + run.size
            if start > len(body):
                raise BodyError(f"{self._cls.__qualname__}: body ends at {len(body)} bytes, before its field {name}")
            values += run.unpack_from(body, at)
            at = start + values.pop()
            text = body[start:at]
            values.append(text.decode("utf-8", "surrogateescape") if is_str else text)
        end = at + self._last.size
        if end != len(body) and (end > len(body) or self._is_strict):
            raise BodyError(f"{self._cls.__qualname__}: body is {len(body)} bytes, expected {end}")
        try:
            return self._cls(*values, *self._last.unpack_from(body, at))
        except (ValueError, TypeError) as error:  # from the class's __post_init__; msgspec's decoders do the same
            name = type(error).__name__  # its text may have values
            raise BodyError(f"{self._cls.__qualname__} refuses its fields: {name}") from error

    def _misfit(self, values: tuple[Any, ...]) -> InvalidMessage:
        """The field that does not fit, and why, without its value."""
        for (name, format), value in zip(self._formats.items(), values, strict=True):
            field = f"{self._cls.__qualname__}.{name}"
            if format in _TEXTS:
                if type(value).__name__ != format:
                    return InvalidMessage(f"{field} must be {format}, got {type(value).__name__}")
                try:
                    if format == "str":
                        value.encode("utf-8", "surrogateescape")
                except UnicodeEncodeError:
                    return InvalidMessage(f"{field} has surrogates that stand for no byte")
                continue
            try:
                struct.pack("<" + format, value)
            except (struct.error, OverflowError, TypeError) as error:
                return InvalidMessage(f"{field} can't be this {type(value).__name__}: {error}")
        return InvalidMessage(f"{self._cls.__qualname__} can't be written with codec binary")


def _format(cls: type, field: msgspec.structs.FieldInfo) -> str:
    """The field's format in the struct module, or `str` or `bytes`."""
    if get_origin(field.type) is Annotated:
        for extra in field.type.__metadata__:
            if isinstance(extra, msgspec.Meta) and extra.extra is not None and WIDTH in extra.extra:
                return str(extra.extra[WIDTH])
    elif field.type is bool:
        return "?"
    elif field.type in (str, bytes):
        return str(field.type.__name__)
    raise CatalogError(
        f"{cls.__qualname__}.{field.name} is {field.type!r}, which has no width in codec binary; "
        "annotate it U8 to U64, I8 to I64, F32, F64, bool, str or bytes"
    )
