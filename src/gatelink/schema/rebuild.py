"""A catalog made from a schema: its classes decode the same bodies as the ones that were exported."""

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gatelink.errors import CatalogError, ConfigError
from gatelink.schema.export import WIDTHS
from gatelink.schema.nodes import (
    AnyNode,
    BoolNode,
    BytesNode,
    DateNode,
    DatetimeNode,
    DecimalNode,
    DictNode,
    EnumDef,
    Field,
    FloatNode,
    IntNode,
    ListNode,
    LiteralNode,
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
)
from gatelink.wire.codecs import WIDTH
from gatelink.wire.messages import Catalog

_FORMATS = {name: format for format, name in WIDTHS.items()}


def catalog_of(schema: Schema) -> Catalog:
    """A catalog with classes like those that were exported. Raises ConfigError for types that msgspec refuses.

    A message whose body only its codec knows, such as Protocol Buffers, is bytes here.
    """
    classes = _Classes(schema)
    catalog = Catalog()
    for message in schema.messages:
        is_opaque = isinstance(schema.types[message.type], OpaqueDef)
        try:
            catalog.add(
                message.id,
                classes.of(message.type),
                name=message.name,
                codec="raw" if is_opaque else message.codec,
                compress=message.compress,
            )
        except (CatalogError, TypeError, ValueError) as error:
            raise ConfigError(f"messages.json, message {message.name!r}: {error}") from None
    return catalog


class _Classes:
    """The classes of a schema's definitions, each made when it is first asked for."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._made: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        if name not in self._made:
            definition = self._schema.types[name]
            if isinstance(definition, EnumDef):
                make: Any = enum.IntFlag if definition.flags else enum.Enum
                self._made[name] = make(name, [(member.name, member.value) for member in definition.members])
            elif isinstance(definition, StructDef):
                self._struct(name, definition)
            else:
                self._made[name] = type(name, (bytes,), {})
        return self._made[name]

    def _struct(self, name: str, definition: StructDef) -> None:
        fields = definition.fields
        optional = [field.optional for field in fields]
        self._made[name] = cls = msgspec.defstruct(
            name,
            [(field.python_name, Any, self._default(field)) for field in fields],
            rename={field.python_name: field.name for field in fields},
            array_like=definition.array,
            forbid_unknown_fields=definition.closed,
            tag_field=definition.tag_field,
            tag=definition.tag,
            omit_defaults=definition.omits_defaults,
            kw_only=optional != sorted(optional),  # else a field with a default can't stand before one without
        )
        for field in fields:  # only now, since a class may refer to itself; msgspec reads annotations at first use
            hint = self._hint(field.type)
            cls.__annotations__[field.python_name] = hint | UnsetType if field.optional else hint

    def _default(self, field: Field) -> Any:
        if not field.optional:
            return msgspec.field()
        if field.default is UNSET:
            return msgspec.field(default=UNSET)
        written = msgspec.json.encode(field.default)
        return msgspec.field(default_factory=lambda: msgspec.json.decode(written, type=self._hint(field.type)))

    def _hint(self, node: Node) -> Any:
        """The annotation of a node."""
        match node:
            case IntNode() | FloatNode():
                extra = {WIDTH: _FORMATS[node.width]} if node.width else None
                bounds = {name: getattr(node, name) for name in ("gt", "ge", "lt", "le", "multiple_of")}
                return _limited(int if isinstance(node, IntNode) else float, extra=extra, **bounds)
            case StrNode(least, most, pattern):
                return _limited(str, min_length=least, max_length=most, pattern=pattern)
            case BytesNode(least, most):
                return _limited(bytes, min_length=least, max_length=most)
            case DatetimeNode(tz):
                return _limited(datetime.datetime, tz=tz)
            case TimeNode(tz):
                return _limited(datetime.time, tz=tz)
            case LiteralNode(values):
                return Literal[values]
            case ListNode(item, least, most):
                return _limited(list[self._hint(item)], min_length=least, max_length=most)  # type: ignore[misc]
            case SetNode(item, least, most):
                return _limited(frozenset[self._hint(item)], min_length=least, max_length=most)  # type: ignore[misc]
            case TupleNode(items):
                return tuple[tuple(map(self._hint, items))]  # type: ignore[misc]
            case DictNode(key, value, least, most):
                pair = (self._hint(key), self._hint(value))
                return _limited(dict.__class_getitem__(pair), min_length=least, max_length=most)
            case UnionNode(types):
                return Union[tuple(map(self._hint, types))]  # noqa: UP007 - `|` takes no tuple
            case RefNode(name):
                return self.of(name)
        return _PLAIN[type(node)]


def _limited(hint: Any, **limits: Any) -> Any:
    """`hint` annotated with the limits that are not None. Without any it stays plain, as the binary codec needs it."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Annotated[hint, Meta(**given)] if given else hint


_PLAIN: dict[type, Any] = {
    AnyNode: Any,
    NoneNode: None,
    BoolNode: bool,
    DateNode: datetime.date,
    TimedeltaNode: datetime.timedelta,
    UuidNode: uuid.UUID,
    DecimalNode: decimal.Decimal,
}
