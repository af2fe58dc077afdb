"""Whether a reader takes every body that a writer may send: two types and one codec.

A yes is certain. A no may be wrong: some types are reported although their reader would take all bodies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nextafter

from msgspec import UNSET

from gatelink.schema.nodes import (
    AnyNode,
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


def family(codec: str) -> str:
    """Codecs that write the same bytes."""
    return "binary" if codec == "binary-strict" else codec


_Array = ListNode | SetNode | TupleNode
_ARRAYS = (ListNode, SetNode, TupleNode)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a reader refuses, or reads as something else. place: the field of the message."""

    place: str
    text: str


class Reading:
    """Compares the types of a writer with those of its reader. codec: the reader's; the writer's is of its `family`."""

    def __init__(self, writer: Schema, reader: Schema, codec: str) -> None:
        self._writer = writer
        self._reader = reader
        self._codec = codec
        self._good: set[tuple[str, str]] = set()  # pairs of Structs that count as compatible until one is not
        self._bad: dict[tuple[str, str], list[Problem]] = {}

    def message(self, writer: str, reader: str) -> list[Problem]:
        """The problems of a message, given the names of its two definitions; [] if every body is read."""
        wrote, reads = self._writer.types[writer], self._reader.types[reader]
        if isinstance(wrote, OpaqueDef) and isinstance(reads, OpaqueDef) and wrote.protobuf != reads.protobuf:
            return [Problem("", f"{wrote.protobuf} is read as {reads.protobuf}")]
        if not isinstance(wrote, StructDef) or not isinstance(reads, StructDef):
            return []
        if family(self._codec) == "binary":
            return list(self._binary(wrote, reads))
        while True:  # a type may contain itself, so a pair counts as good until it is found bad; then look again
            self._good.clear()
            known = len(self._bad)
            problems = list(self._struct(wrote, reads, ""))
            if len(self._bad) == known:
                return problems

    # -- the binary codec: positions --

    def _binary(self, wrote: StructDef, reads: StructDef) -> Iterator[Problem]:
        """Fields in order, without names. Bounds are not checked. A reader may skip bytes behind its last field."""
        for writer, reader in zip(wrote.fields, reads.fields, strict=False):
            if (was := _layout(writer.type)) != (now := _layout(reader.type)):
                yield Problem(reader.name, f"{was} is read as {now}")
            elif moved := _moved(writer, reader, wrote, reads):
                yield moved
        for reader in reads.fields[len(wrote.fields) :]:
            yield Problem(reader.name, "the reader has one more field, and codec binary has no defaults")
        if self._codec == "binary-strict":
            for writer in wrote.fields[len(reads.fields) :]:
                yield Problem(writer.name, "the writer has one more field, and codec binary-strict skips nothing")

    # -- msgpack and json --

    def node(self, wrote: Node, reads: Node, place: str = "") -> list[Problem]:
        """The problems of two types; [] if the reader takes all values."""
        if isinstance(reads, AnyNode):
            return []
        if isinstance(wrote, UnionNode):
            return [problem for each in wrote.types for problem in self.node(each, reads, place)]
        if isinstance(wrote, LiteralNode) and len(wrote.values) != 1:
            return [problem for value in wrote.values for problem in self.node(LiteralNode((value,)), reads, place)]
        if isinstance(reads, UnionNode):
            return self._union(wrote, reads, place)
        if (values := self._values(wrote)) is not None:
            return self._constants(values, reads, place)
        if isinstance(wrote, RefNode) and isinstance(reads, RefNode):
            return self._refs(wrote.name, reads.name, place)
        if isinstance(wrote, _ARRAYS) and isinstance(reads, _ARRAYS):
            return self._arrays(wrote, reads, place)
        if isinstance(wrote, DictNode) and isinstance(reads, DictNode):
            inner = f"{place}[...]"
            inside = [*self.node(wrote.key, reads.key, inner), *self.node(wrote.value, reads.value, inner)]
            return [*inside, *_lengths(wrote, reads, place)]
        if isinstance(wrote, IntNode | FloatNode) and isinstance(reads, DecimalNode):
            return []
        if isinstance(wrote, IntNode | FloatNode) and isinstance(reads, type(wrote) | FloatNode):
            return list(_bounds(wrote, reads, place))
        if isinstance(wrote, StrNode) and isinstance(reads, StrNode):
            if reads.pattern not in (None, wrote.pattern):
                return [Problem(place, f"pattern {wrote.pattern!r} is read with pattern {reads.pattern!r}")]
            return list(_lengths(wrote, reads, place))
        if isinstance(wrote, BytesNode) and isinstance(reads, BytesNode):
            return list(_lengths(wrote, reads, place))
        if isinstance(wrote, DatetimeNode | TimeNode) and isinstance(reads, type(wrote)):
            return [] if reads.tz in (None, wrote.tz) else [Problem(place, f"tz={wrote.tz} is read as tz={reads.tz}")]
        if type(wrote) is type(reads) or (reads == StrNode() and self._is_text(wrote)):
            return []
        return [Problem(place, f"{self._shown(wrote, self._writer)} is read as {self._shown(reads, self._reader)}")]

    def _is_text(self, node: Node) -> bool:
        """Whether a value without a Python type of its own would be a text on the wire."""
        if isinstance(node, (DatetimeNode, BytesNode)):
            return self._codec == "json"
        return isinstance(node, (TimeNode, DateNode, TimedeltaNode, UuidNode, DecimalNode))

    def _union(self, wrote: Node, reads: UnionNode, place: str) -> list[Problem]:
        tries = [self.node(wrote, each, place) for each in reads.types]
        best = min(tries, key=len)
        if not best:
            return []
        for each, problems in zip(reads.types, tries, strict=True):
            if self._is_same_kind(wrote, each):
                return problems  # say what differs inside
        shown = self._shown(wrote, self._writer)
        return [
            Problem(
                place, f"{shown} is not one of {', '.join(self._shown(each, self._reader) for each in reads.types)}"
            )
        ]

    def _is_same_kind(self, wrote: Node, reads: Node) -> bool:
        """Whether a decoder takes the one for the other, whatever is inside: Structs by their form and tag."""
        writer, reader = self._writer.struct(wrote), self._reader.struct(reads)
        if writer is not None and reader is not None:
            return (writer.array, writer.tag) == (reader.array, reader.tag)
        return type(wrote) is type(reads) and not isinstance(wrote, RefNode)

    def _values(self, node: Node) -> tuple[int | str | None, ...] | None:
        """All values that a literal or an enum may have; None for any other type."""
        if isinstance(node, LiteralNode):
            return node.values
        found = self._writer.types[node.name] if isinstance(node, RefNode) else None
        return _enum_values(found) if isinstance(found, EnumDef) else None

    def _constants(self, values: tuple[int | str | None, ...], reads: Node, place: str) -> list[Problem]:
        refused = [repr(value) for value in values if not self._takes(reads, value)]
        if not refused:
            return []
        return [Problem(place, f"{', '.join(refused)} is read as {self._shown(reads, self._reader)}")]

    def _takes(self, reads: Node, value: int | str | None) -> bool:
        match reads:
            case NoneNode():
                return value is None
            case LiteralNode(values):
                return any(each == value and type(each) is type(value) for each in values)
            case RefNode(name):
                found = self._reader.types[name]
                return isinstance(found, EnumDef) and value in (_enum_values(found) or ())
            case IntNode() | FloatNode():
                if isinstance(value, bool) or not isinstance(value, int):
                    return False
                return not list(_bounds(IntNode(ge=value, le=value, multiple_of=value or None), reads, ""))
            case DecimalNode():
                return isinstance(value, int) and not isinstance(value, bool)
            case StrNode(least, most, pattern):
                return (
                    isinstance(value, str)
                    and (least or 0) <= len(value) <= (inf if most is None else most)
                    and not pattern
                )
        return False

    def _refs(self, writer: str, reader: str, place: str) -> list[Problem]:
        wrote, reads = self._writer.types[writer], self._reader.types[reader]
        if isinstance(wrote, StructDef) and isinstance(reads, StructDef):
            pair = (writer, reader)
            if pair not in self._bad and pair not in self._good:
                self._good.add(pair)
                if problems := list(self._struct(wrote, reads, "")):
                    self._bad[pair] = problems
            return [Problem(_inside(place, problem.place), problem.text) for problem in self._bad.get(pair, ())]
        if isinstance(wrote, EnumDef) and isinstance(reads, EnumDef) and wrote.flags and reads.flags:
            if lost := _bits(wrote) & ~_bits(reads):
                return [Problem(place, f"bits {lost:#x} of {writer} are not in {reader}")]
            return []
        return [Problem(place, f"{writer} is read as {reader}")]

    def _struct(self, wrote: StructDef, reads: StructDef, place: str) -> Iterator[Problem]:
        if wrote.array != reads.array:
            yield Problem(place, f"{_form(wrote)} is read as {_form(reads)}")
            return
        if wrote.tag != reads.tag or (wrote.tag_field != reads.tag_field and not wrote.array):
            yield Problem(place, f"{_tag(wrote)} is read as {_tag(reads)}")
            return
        yield from self._array_fields(wrote, reads, place) if wrote.array else self._object_fields(wrote, reads, place)

    def _object_fields(self, wrote: StructDef, reads: StructDef, place: str) -> Iterator[Problem]:
        written = {field.name: field for field in wrote.fields}
        for reader in reads.fields:
            writer = written.pop(reader.name, None)
            at = _inside(place, reader.name)
            if writer is None:
                if not reader.optional:
                    yield Problem(at, "the reader requires it, and the writer does not have it")
                continue
            if writer.optional and not reader.optional:
                yield Problem(at, "the reader requires it, and the writer may leave it out")
            elif wrote.omits_defaults and writer.default is not UNSET and writer.default != reader.default:
                yield Problem(at, f"the writer leaves out {writer.default!r}, and the reader takes {_said(reader)}")
            yield from self.node(writer.type, reader.type, at)
        if reads.closed:
            for name in written:
                yield Problem(_inside(place, name), "the writer has this field, and the reader forbids unknown ones")

    def _array_fields(self, wrote: StructDef, reads: StructDef, place: str) -> Iterator[Problem]:
        for writer, reader in zip(wrote.fields, reads.fields, strict=False):
            at = _inside(place, reader.name)
            if writer.optional and not reader.optional:
                yield Problem(at, "the reader requires it, and the writer may leave it out")
            if problems := self.node(writer.type, reader.type, at):
                yield from problems
            elif moved := _moved(writer, reader, wrote, reads):
                yield Problem(at, moved.text)
        for reader in reads.fields[len(wrote.fields) :]:
            if not reader.optional:
                yield Problem(_inside(place, reader.name), "the reader requires it, and the writer does not have it")
        if reads.closed:
            for writer in wrote.fields[len(reads.fields) :]:
                yield Problem(_inside(place, writer.name), "the writer has one more field, and the reader forbids it")

    def _arrays(self, wrote: _Array, reads: _Array, place: str) -> list[Problem]:
        if isinstance(reads, TupleNode):
            count = len(reads.items)
            least, most = _length(wrote)
            if not least == most == count:
                return [Problem(place, f"{_count(wrote)} is read as a tuple of {count}")]
            pairs = list(zip(_items(wrote, count), reads.items, strict=True))
        else:
            pairs = [(item, reads.item) for item in _items(wrote, 1)]
            if isinstance(reads, SetNode) and not isinstance(wrote, SetNode) and (reads.min_length or 0) > 1:
                return [
                    Problem(place, f"{wrote.word} is read as a set of {reads.min_length} or more, without equal items")
                ]
        problems = [] if isinstance(reads, TupleNode) else list(_lengths(wrote, reads, place))
        for writer, reader in pairs:
            problems += self.node(writer, reader, f"{place}[...]")
        return problems

    def _shown(self, node: Node, schema: Schema) -> str:
        """A node in words."""
        match node:
            case RefNode(name):
                return name
            case LiteralNode(values):
                return f"a literal of {', '.join(map(repr, values))}"
            case UnionNode(types):
                return " | ".join(self._shown(each, schema) for each in types)
        return node.word


def _enum_values(found: EnumDef) -> tuple[int | str, ...] | None:
    """The values of an enum; None for flags, whose values are all unions of their bits."""
    return None if found.flags else tuple(member.value for member in found.members)


def _bits(flags: EnumDef) -> int:
    bits = 0
    for member in flags.members:
        bits |= member.value if isinstance(member.value, int) else 0
    return bits


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place and name else place or name


def _form(struct: StructDef) -> str:
    return "an array" if struct.array else "an object"


def _tag(struct: StructDef) -> str:
    return (
        "a Struct without a tag" if struct.tag is None else f"a Struct with tag {struct.tag!r} in {struct.tag_field!r}"
    )


def _said(field: Field) -> str:
    return "its own value" if field.default is UNSET else repr(field.default)


def _moved(writer: Field, reader: Field, wrote: StructDef, reads: StructDef) -> Problem | None:
    """The problem of two fields at one position, if one of them was moved there. Another name alone is none."""
    if writer.name == reader.name:
        return None
    if writer.name in [field.name for field in reads.fields] or reader.name in [field.name for field in wrote.fields]:
        return Problem(reader.name, f"what is written as {writer.name} is read as {reader.name}: fields have moved")
    return None


def _layout(node: Node) -> str:
    """What the binary codec writes for a node."""
    if isinstance(node, (IntNode, FloatNode)):
        return node.width or "a number without width"
    return node.word


def _range(node: IntNode | FloatNode) -> tuple[float, float]:
    """The least and greatest value, both inclusive."""
    step = 1 if isinstance(node, IntNode) else None
    low: float = -inf if node.ge is None else node.ge
    high: float = inf if node.le is None else node.le
    if node.gt is not None:
        low = max(low, node.gt + step if step else nextafter(node.gt, inf))
    if node.lt is not None:
        high = min(high, node.lt - step if step else nextafter(node.lt, -inf))
    return low, high


def _bounds(wrote: IntNode | FloatNode, reads: IntNode | FloatNode, place: str) -> Iterator[Problem]:
    (low, high), (least, most) = _range(wrote), _range(reads)
    if low < least:
        yield Problem(place, f"values from {_number(low)} are read with bound {_number(least)}")
    if high > most:
        yield Problem(place, f"values to {_number(high)} are read with bound {_number(most)}")
    if reads.multiple_of is not None and (wrote.multiple_of is None or wrote.multiple_of % reads.multiple_of != 0):
        yield Problem(place, f"multiples of {wrote.multiple_of or 1} are read as multiples of {reads.multiple_of}")


def _number(value: float) -> str:
    return "any" if value in (inf, -inf) else f"{value:g}" if isinstance(value, float) else str(value)


_Sized = StrNode | BytesNode | ListNode | SetNode | DictNode


def _length(node: _Sized | TupleNode) -> tuple[float, float]:
    if isinstance(node, TupleNode):
        return len(node.items), len(node.items)
    return node.min_length or 0, inf if node.max_length is None else node.max_length


def _lengths(wrote: _Sized | TupleNode, reads: _Sized, place: str) -> Iterator[Problem]:
    (low, high), (least, most) = _length(wrote), _length(reads)
    if low < least:
        yield Problem(place, f"lengths from {_number(low)} are read with min_length {_number(least)}")
    if high > most:
        yield Problem(place, f"lengths to {_number(high)} are read with max_length {_number(most)}")


def _items(node: _Array, count: int) -> tuple[Node, ...]:
    return node.items if isinstance(node, TupleNode) else (node.item,) * count


def _count(node: _Array) -> str:
    return f"a tuple of {len(node.items)}" if isinstance(node, TupleNode) else node.word
