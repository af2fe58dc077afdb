"""The schema of a catalog: what msgspec's inspection says of its classes, in the nodes of messages.json."""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from inspect import cleandoc
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET, inspect

from gatelink.errors import CatalogError
from gatelink.schema.nodes import (
    FORMAT,
    IDENTIFIER,
    AnyNode,
    BoolNode,
    BytesNode,
    DateNode,
    DatetimeNode,
    DecimalNode,
    Definition,
    DictNode,
    EnumDef,
    Field,
    FloatNode,
    IntNode,
    ListNode,
    LiteralNode,
    Member,
    Message,
    Node,
    NoneNode,
    OpaqueDef,
    RefNode,
    Schema,
    SetNode,
    StrNode,
    StructDef,
    TimedeltaNode,
    TimeNode,
    TupleNode,
    UnionNode,
    UuidNode,
    Width,
)
from gatelink.wire.base import BASE_IDS
from gatelink.wire.codecs import WIDTH, is_protobuf
from gatelink.wire.messages import Catalog, MessageType

WIDTHS: dict[str, Width] = {
    "B": "u8",
    "H": "u16",
    "I": "u32",
    "Q": "u64",
    "b": "i8",
    "h": "i16",
    "i": "i32",
    "q": "i64",
    "f": "f32",
    "d": "f64",
}
"""The widths of messages.json, by the formats of the struct module."""

_SEPARATORS = re.compile(r"[ -/:-@\[-^`{-~]+")  # the ASCII that is in no identifier

_Object = inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType


def schema_of(catalog: Catalog, rates: Mapping[int, float] | None = None) -> Schema:
    """The messages of `catalog`, without the base messages.

    rates: what one user may send in a second, by message id, as in `Handlers.rates`.
    Raises CatalogError for a type that messages.json can't express, with its field and a way out.
    """
    kinds = [kind for id, kind in sorted(catalog.by_id.items()) if id not in BASE_IDS]
    names = _Names()
    for kind in kinds:
        names.give(kind.type, _type_name(kind), f"message {kind.name!r} ({kind.id})")
    writer = _Inspection(names)
    for kind in kinds:
        writer.define(kind)
    messages = []
    for kind in kinds:
        answer = catalog.answer_to(kind)
        messages.append(
            Message(
                id=kind.id,
                name=kind.name,
                type=names.of(kind.type),
                codec=kind.codec,  # type: ignore[arg-type]
                answer=answer.id if answer else None,
                rate=(rates or {}).get(kind.id),
                compress=kind.compress,
            )
        )
    return Schema(FORMAT, tuple(messages), dict(sorted(writer.types.items())))


def _type_name(kind: MessageType) -> str:
    """The wire name as an identifier: `lobby.join` is `LobbyJoin`."""
    if IDENTIFIER.fullmatch(kind.name):
        return kind.name
    return "".join(part[:1].upper() + part[1:] for part in _SEPARATORS.split(kind.name))


class _Names:
    """The names of types: each class has one, and no two have the same."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._owners: dict[str, str] = {}

    def give(self, cls: Any, name: str, owner: str) -> None:
        """Raises CatalogError for a name that is taken, or that generated code can't have."""
        if not IDENTIFIER.fullmatch(name):
            raise CatalogError(
                f"{owner} would be called {name!r}, and a type's name begins with a letter, and has letters, digits "
                "and _ of ASCII; rename its class, or give a message another name, as @message(id, name=...)"
            )
        if name in self._owners:
            raise CatalogError(
                f"{owner} and {self._owners[name]} would both be called {name}; "
                "rename one class, or give a message another name, as @message(id, name=...)"
            )
        self._owners[name] = owner
        self._names[cls] = name

    def of(self, cls: Any) -> str:
        """The name of a class. A class that is no message gets its own name, a generic one its arguments' as well."""
        if cls not in self._names:
            self.give(cls, _words(cls), f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', cls)}")
        return self._names[cls]


def _words(cls: Any) -> str:
    """`Box` for a class, `BoxListInt` for `Box[list[int]]`."""
    origin = get_origin(cls)
    if origin is None:
        return str(getattr(cls, "__name__", None) or _SEPARATORS.sub("", str(cls)))
    words = [_words(origin), *map(_words, get_args(cls))]
    return "".join(word[:1].upper() + word[1:] for word in words)


class _Inspection:
    """Collects the definitions of the messages' classes, and of all classes that these refer to."""

    def __init__(self, names: _Names) -> None:
        self.types: dict[str, Definition] = {}
        self._names = names

    def define(self, kind: MessageType) -> None:
        name = self._names.of(kind.type)
        if kind.codec in ("raw", "protobuf", "own"):
            protobuf = kind.type.DESCRIPTOR.full_name if is_protobuf(kind.type) else None  # type: ignore[attr-defined]
            self.types[name] = OpaqueDef(_doc(kind.type), protobuf)
        elif name not in self.types:
            self._node(inspect.type_info(kind.type), name)

    def _node(self, type: inspect.Type, at: str) -> Node:
        """The node of a type. at: its place, as `Chat.tags[...]`, for errors."""
        match type:
            case inspect.Metadata():
                return self._annotated(type, at)
            case inspect.AnyType():
                return AnyNode()
            case inspect.NoneType():
                return NoneNode()
            case inspect.BoolType():
                return BoolNode()
            case inspect.IntType(gt, ge, lt, le, multiple_of):
                return IntNode(gt, ge, lt, le, multiple_of)
            case inspect.FloatType(gt, ge, lt, le, multiple_of):
                return FloatNode(gt, ge, lt, le, multiple_of)
            case inspect.StrType(min_length, max_length, pattern):
                return StrNode(min_length, max_length, pattern)
            case (
                inspect.BytesType(least, most)
                | inspect.ByteArrayType(least, most)
                | inspect.MemoryViewType(least, most)
            ):
                return BytesNode(least, most)
            case inspect.DateTimeType(tz):
                return DatetimeNode(tz)
            case inspect.TimeType(tz):
                return TimeNode(tz)
            case inspect.DateType():
                return DateNode()
            case inspect.TimeDeltaType():
                return TimedeltaNode()
            case inspect.UUIDType():
                return UuidNode()
            case inspect.DecimalType():
                return DecimalNode()
            case inspect.LiteralType(values):
                return LiteralNode(values)
            case inspect.ListType(item, least, most) | inspect.VarTupleType(item, least, most):
                return ListNode(self._node(item, f"{at}[...]"), least, most)
            case inspect.SetType(item, least, most) | inspect.FrozenSetType(item, least, most):
                return SetNode(self._node(item, f"{at}[...]"), least, most)
            case inspect.TupleType(items):
                return TupleNode(tuple(self._node(item, f"{at}[{i}]") for i, item in enumerate(items)))
            case inspect.DictType(key, value, least, most) | inspect.FrozenDictType(key, value, least, most):
                return DictNode(self._node(key, f"a key of {at}"), self._node(value, f"{at}[...]"), least, most)
            case inspect.UnionType(types):
                return UnionNode(tuple(self._node(each, at) for each in types))
            case inspect.EnumType(cls):
                return self._enum(cls)
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
                return self._struct(type)
        raise CatalogError(f"{at} is {_shown(type)}, which messages.json can't express; {_way_out(type)}")

    def _annotated(self, type: inspect.Metadata, at: str) -> Node:
        node = self._node(type.type, at)
        width = WIDTHS.get((type.extra or {}).get(WIDTH, ""))
        if width is not None and isinstance(node, (IntNode, FloatNode)):
            return msgspec.structs.replace(node, width=width)
        return node

    def _enum(self, cls: type[enum.Enum]) -> Node:
        name = self._names.of(cls)
        if name not in self.types:
            members = tuple(Member(member_name, member.value) for member_name, member in cls.__members__.items())
            self.types[name] = EnumDef(_doc(cls), members, issubclass(cls, enum.Flag))
        return RefNode(name)

    def _struct(self, type: _Object) -> Node:
        name = self._names.of(type.cls)
        if name in self.types:
            return RefNode(name)
        self.types[name] = StructDef()  # its fields may refer to it
        fields = tuple(self._field(field, name) for field in type.fields)
        if isinstance(type, inspect.StructType):
            config = (get_origin(type.cls) or type.cls).__struct_config__
            found = StructDef(
                _doc(type.cls),
                fields,
                type.array_like,
                type.forbid_unknown_fields,
                type.tag_field,
                type.tag,
                config.omit_defaults,
            )
        else:
            is_array = isinstance(type, inspect.NamedTupleType)
            found = StructDef(_doc(type.cls), fields, is_array, closed=is_array)
        self.types[name] = found
        return RefNode(name)

    def _field(self, field: inspect.Field, of: str) -> Field:
        at = f"{of}.{field.name}"
        if field.encode_name == "__proto__":
            raise CatalogError(
                f"{at} is called __proto__ on the wire, which is no name of a field in JavaScript; rename it"
            )
        described = field.type.extra_json_schema if isinstance(field.type, inspect.Metadata) else None
        return Field(
            name=field.encode_name,
            type=self._node(field.type, at),
            doc=(described or {}).get("description", ""),
            attribute=field.name if field.name != field.encode_name else None,
            optional=not field.required,
            default=_default(field),
        )


def _default(field: inspect.Field) -> object:
    """The default as the JSON codec writes it; UNSET if the field has no default, or one that JSON can't write.

    Of factories only those of empty containers and of Structs are called: others may give another value each time.
    """
    value = field.default
    if value is msgspec.NODEFAULT:
        factory = field.default_factory
        if factory is msgspec.NODEFAULT or not (
            factory in (list, dict, set, frozenset, tuple, bytearray)
            or (isinstance(factory, type) and issubclass(factory, msgspec.Struct))
        ):
            return UNSET
        try:
            value = factory()
        except TypeError:  # a Struct whose fields have no defaults
            return UNSET
    try:
        built = msgspec.to_builtins(value, str_keys=True, order="deterministic")
        return json.loads(json.dumps(built, allow_nan=False))
    except (TypeError, ValueError, OverflowError):
        return UNSET


def _doc(cls: Any) -> str:
    """The docstring of the class itself: not its bases', and none that dataclasses or NamedTuple generated."""
    cls = get_origin(cls) or cls
    doc = vars(cls).get("__doc__")
    if not isinstance(doc, str):
        return ""
    is_made = (is_dataclass(cls) or hasattr(cls, "_fields")) and doc.startswith(f"{cls.__name__}(")
    return "" if is_made else cleandoc(doc)


def _shown(type: inspect.Type) -> str:
    if isinstance(type, inspect.CustomType):
        return f"{type.cls.__module__}.{type.cls.__qualname__}".removeprefix("builtins.")
    return {"RawType": "msgspec.Raw", "ExtType": "msgspec.msgpack.Ext"}.get(type.__class__.__name__, str(type))


def _way_out(type: inspect.Type) -> str:
    match type:
        case inspect.CustomType(cls) if cls is object:
            return "write Any"
        case inspect.RawType():
            return "write bytes, or Any"
        case inspect.ExtType():
            return "write bytes, and an int beside it for the code"
    return "make it a Struct or a dataclass, or write it as str or bytes"
