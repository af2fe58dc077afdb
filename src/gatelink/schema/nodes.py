"""The messages of a catalog as data: the form of messages.json (docs/messages-json.md).

A `Schema` has messages and types. A type that has a name is a definition, and other types refer to it. So a type may
contain itself. All other types are nodes.
"""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from msgspec import UNSET, Struct

from gatelink.wire.unions import is_misread

FORMAT = 1
"""The version of messages.json that this gatelink writes, and the newest that it reads."""

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""The names of types: identifiers in every language that code is generated for."""

Width = Literal["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"]
CodecName = Literal["msgpack", "json", "binary", "binary-strict", "protobuf", "raw", "own"]


class _Part(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A part of messages.json. Keys at their default are left out; unknown ones are refused."""


class _Node(_Part, frozen=True, tag_field="kind"):
    """A type without a name."""

    word: ClassVar[str]  # what a value is called in a sentence


class AnyNode(_Node, frozen=True, tag="any"):
    word = "any value"


class NoneNode(_Node, frozen=True, tag="none"):
    word = "None"


class BoolNode(_Node, frozen=True, tag="bool"):
    word = "a bool"


class IntNode(_Node, frozen=True, tag="int"):
    """width: annotated `U8` to `I64`. Only the binary codec writes by it."""

    word = "an int"

    gt: int | None = None
    ge: int | None = None
    lt: int | None = None
    le: int | None = None
    multiple_of: int | None = None
    width: Width | None = None


class FloatNode(_Node, frozen=True, tag="float"):
    """width: annotated `F32` or `F64`."""

    word = "a float"

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    multiple_of: float | None = None
    width: Width | None = None


class StrNode(_Node, frozen=True, tag="str"):
    """The lengths are in code points. pattern: unanchored, as Python's `re` reads it."""

    word = "a str"

    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


class BytesNode(_Node, frozen=True, tag="bytes"):
    """`bytes`, `bytearray` or `memoryview`."""

    word = "bytes"

    min_length: int | None = None
    max_length: int | None = None


class DatetimeNode(_Node, frozen=True, tag="datetime"):
    """tz: whether it must have a time zone, or must not; None: either."""

    word = "a datetime"

    tz: bool | None = None


class TimeNode(_Node, frozen=True, tag="time"):
    word = "a time"

    tz: bool | None = None


class DateNode(_Node, frozen=True, tag="date"):
    word = "a date"


class TimedeltaNode(_Node, frozen=True, tag="timedelta"):
    word = "a timedelta"


class UuidNode(_Node, frozen=True, tag="uuid"):
    word = "a UUID"


class DecimalNode(_Node, frozen=True, tag="decimal"):
    word = "a Decimal"


class LiteralNode(_Node, frozen=True, tag="literal"):
    word = "a literal"

    values: tuple[int | str | None, ...]


class ListNode(_Node, frozen=True, tag="list"):
    """`list[X]` or `tuple[X, ...]`."""

    word = "a list"

    item: "Node"
    min_length: int | None = None
    max_length: int | None = None


class SetNode(_Node, frozen=True, tag="set"):
    """`set[X]` or `frozenset[X]`: an array on the wire."""

    word = "a set"

    item: "Node"
    min_length: int | None = None
    max_length: int | None = None


class TupleNode(_Node, frozen=True, tag="tuple"):
    """`tuple[X, Y]`: exactly these items."""

    word = "a tuple"

    items: tuple["Node", ...]


class DictNode(_Node, frozen=True, tag="dict"):
    word = "a dict"

    key: "Node"
    value: "Node"
    min_length: int | None = None
    max_length: int | None = None


class UnionNode(_Node, frozen=True, tag="union"):
    word = "a union"

    types: tuple["Node", ...]


class RefNode(_Node, frozen=True, tag="ref"):
    """A struct or enum of `Schema.types`."""

    word = "another class"

    name: str


Node = (
    AnyNode
    | NoneNode
    | BoolNode
    | IntNode
    | FloatNode
    | StrNode
    | BytesNode
    | DatetimeNode
    | TimeNode
    | DateNode
    | TimedeltaNode
    | UuidNode
    | DecimalNode
    | LiteralNode
    | ListNode
    | SetNode
    | TupleNode
    | DictNode
    | UnionNode
    | RefNode
)


class Field(_Part, frozen=True):
    """A field of a struct.

    name: on the wire. attribute: Python's name, if it is another. optional: whether it may be missing on the wire.
    default: what a receiver takes then, as the JSON codec writes it; UNSET: nothing, or a value of the receiver's own.
    """

    name: str
    type: Node
    doc: str = ""
    attribute: str | None = None
    optional: bool = False
    default: object = UNSET

    @property
    def python_name(self) -> str:
        return self.attribute or self.name


class StructDef(_Part, frozen=True, tag_field="kind", tag="struct"):
    """A Struct, dataclass, TypedDict or NamedTuple.

    array: written as an array, in the order of the fields. closed: unknown fields are refused.
    tag_field, tag: what a tagged union knows it by; both or neither. In an array the tag is the first item.
    omits_defaults: Python leaves a field out that has its default.
    """

    doc: str = ""
    fields: tuple[Field, ...] = ()
    array: bool = False
    closed: bool = False
    tag_field: str | None = None
    tag: str | int | None = None
    omits_defaults: bool = False


class Member(_Part, frozen=True):
    """A member of an enum."""

    name: str
    value: int | str


class EnumDef(_Part, frozen=True, tag_field="kind", tag="enum"):
    """An Enum: its members' values are all int or all str, and are what is written.

    flags: a Flag; the members are bits, and the value any union of them.
    """

    doc: str = ""
    members: tuple[Member, ...] = ()
    flags: bool = False


class OpaqueDef(_Part, frozen=True, tag_field="kind", tag="opaque"):
    """A message whose body only its codec knows. protobuf: the full name of the Protocol Buffers message."""

    doc: str = ""
    protobuf: str | None = None


Definition = StructDef | EnumDef | OpaqueDef


class Message(_Part, frozen=True):
    """A message.

    name: on the wire. type: its definition in `Schema.types`. answer: the id of the message that answers it.
    rate: how many a user may send in a second.
    """

    id: int
    name: str
    type: str
    codec: CodecName
    answer: int | None = None
    rate: float | None = None
    compress: bool = True


class Schema(_Part, frozen=True, omit_defaults=False):
    """The messages of a catalog, by id, and the types that they are made of, by name."""

    format: int
    messages: tuple[Message, ...]
    types: dict[str, Definition]

    def struct(self, node: Node) -> StructDef | None:
        """The definition that `node` refers to, if it is a struct."""
        found = self.types[node.name] if isinstance(node, RefNode) else None
        return found if isinstance(found, StructDef) else None


def parts(node: Node) -> Iterator[Node]:
    """`node`, and all nodes inside it. The definitions that it refers to are not followed."""
    yield node
    match node:
        case ListNode(item) | SetNode(item):
            yield from parts(item)
        case DictNode(key, value):
            yield from parts(key)
            yield from parts(value)
        case TupleNode(nodes) | UnionNode(nodes):
            for each in nodes:
                yield from parts(each)


def breaks_msgspec(union: UnionNode) -> bool:
    """Whether msgspec misreads a union: it refuses good values, and may end the process (wire.unions)."""
    has_tuple = any(isinstance(each, TupleNode) for each in union.types)
    has_container = has_tuple or any(isinstance(each, ListNode | SetNode | DictNode) for each in union.types)
    return is_misread(has_tuple, has_container, union.types)
