"""Random schemas, random changes of them, and random values that their writers may send. One seed, one result."""

import datetime
import decimal
import math
import re
import uuid
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from gatelink.schema.nodes import (
    FORMAT,
    AnyNode,
    BoolNode,
    BytesNode,
    CodecName,
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
    breaks_msgspec,
    parts,
)

T = TypeVar("T")

STRUCTS = ("A", "B", "C")
KEYS: list[Node] = [StrNode(), StrNode(max_length=2), IntNode(), IntNode(ge=0), RefNode("E"), UuidNode()]
PATTERNS = {"^a": ("a", "ab"), "b$": ("b", "ab"), "[0-9]+": ("7", "x12")}
TAGS = (None, None, "x", "y", 1)
ENUMS: dict[str, tuple[int | str, ...]] = {"E": ("a", "b", "cc", "dd"), "N": (0, 1, 2, 3), "F": (1, 2, 4, 8)}


class Deep(Exception):
    """A value that does not end: its types contain themselves and may not be left out."""


class Schemas:
    """A generator with its own seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    # -- types --

    def node(self, depth: int = 0) -> Node:
        makers: list[Callable[[int], Node]] = [self.scalar] * 4 if depth < 3 else []
        makers += [self.scalar, self.number, self.text, *([self.nested] * (3 - depth))]
        return self.random.choice(makers)(depth)

    def nested(self, depth: int) -> Node:
        makers: list[Callable[[int], Node]] = [self.array, self.object, self.union]
        return self.random.choice(makers)(depth)

    def scalar(self, depth: int) -> Node:
        nodes: list[Node] = [
            BoolNode(),
            NoneNode(),
            AnyNode(),
            LiteralNode(("a", "b")),
            LiteralNode(("a",)),
            LiteralNode((1,)),
            LiteralNode((1, 2)),
            LiteralNode((2, None)),
            RefNode("E"),
            RefNode("N"),
            RefNode("F"),
        ]
        return self.random.choice(nodes)

    def number(self, depth: int) -> Node:
        kind = IntNode if self.random.random() < 0.5 else FloatNode
        low, high = self.random.choice([None, *range(-4, 5)]), self.random.choice([None, *range(5, 10)])
        step = self.random.choice([None, None, 1, 2, 3, 4])
        if self.random.random() < 0.5:
            return kind(ge=low, lt=high, multiple_of=step)
        return kind(gt=low, le=high, multiple_of=step)

    def lengths(self) -> Any:
        return {"min_length": self.random.choice([None, 0, 1, 2]), "max_length": self.random.choice([None, None, 2, 3])}

    def text(self, depth: int) -> Node:
        tz = self.random.choice([None, True, False])
        nodes: list[Node] = [
            StrNode(**self.lengths()),
            StrNode(pattern=self.random.choice(list(PATTERNS))),
            BytesNode(**self.lengths()),
            DatetimeNode(tz),
            TimeNode(tz),
            DateNode(),
            TimedeltaNode(),
            UuidNode(),
            DecimalNode(),
            StrNode(),
        ]
        return self.random.choice(nodes)

    def array(self, depth: int) -> Node:
        match self.random.randrange(3):
            case 0:
                return ListNode(self.node(depth + 1), **self.lengths())
            case 1:
                return SetNode(self.random.choice([self.number, self.text])(depth), **self.lengths())
        return TupleNode(tuple(self.node(depth + 1) for _ in range(self.random.randrange(3))))

    def object(self, depth: int) -> Node:
        if self.random.random() < 0.5:
            return RefNode(self.random.choice(STRUCTS))
        return DictNode(self.random.choice(KEYS), self.node(depth + 1), **self.lengths())

    def union(self, depth: int) -> Node:
        makers: list[Callable[[int], Node]] = [
            lambda depth: NoneNode(),
            lambda depth: BoolNode(),
            self.number,
            self.text,
            self.array,
            self.object,
        ]
        found = [maker(depth + 1) for maker in self.random.sample(makers, self.random.randint(2, 3))]
        if self.random.random() < 0.2:
            found = [RefNode("T"), RefNode("U"), *found[:1]]
        return UnionNode(tuple(found))

    def field(self) -> Field:
        return Field(self.random.choice("abcd"), self.node(), optional=self.random.random() < 0.5)

    def struct(self, tag: str | int | None) -> StructDef:
        fields = {field.name: field for field in (self.field() for _ in range(self.random.randrange(4)))}
        return StructDef(
            fields=tuple(sorted(fields.values(), key=lambda field: field.optional)),
            array=self.random.random() < 0.3,
            closed=self.random.random() < 0.3,
            tag=tag,
            tag_field=None if tag is None else "type",
        )

    def enum(self, name: str) -> EnumDef:
        return _enum(name, self.random.sample(ENUMS[name], self.random.randint(1, 3)))

    def schema(self, codec: CodecName) -> Schema:
        types: dict[str, Definition] = {name: self.struct(self.random.choice(TAGS)) for name in STRUCTS}
        types |= {name: replace(self.struct(name), array=False) for name in ("T", "U")}
        types |= {name: self.enum(name) for name in ENUMS}
        return Schema(FORMAT, (Message(11001, "A", "A", codec),), types)

    def one_field(self, codec: CodecName) -> tuple[Schema, Schema]:
        """A schema whose message has one field, and one where the type of that field, or what it refers to, differs."""
        schema = self.schema(codec)
        field = Field("a", self.random.choice([self.scalar, self.number, self.text, self.array, self.object])(1))
        changed = replace(field, type=self.changed_node(field.type))
        types: list[dict[str, Definition]] = [
            {**schema.types, "A": StructDef(fields=(each,)), **{name: self.enum(name) for name in ENUMS}}
            for each in (field, changed)
        ]
        return replace(schema, types=types[0]), replace(schema, types=types[1])

    # -- changes --

    def changed(self, schema: Schema) -> Schema:
        types = dict(schema.types)
        for _ in range(self.random.randint(1, 2)):
            name = self.random.choice(["A", "A", "A", *types])
            definition = types[name]
            types[name] = self.changed_struct(definition) if isinstance(definition, StructDef) else self.enum(name)
        return replace(schema, types=types)

    def changed_struct(self, struct: StructDef) -> StructDef:
        fields = list(struct.fields)
        change = self.random.choice(
            ["type"] * 6 + ["add", "drop", "optional", "order", "name", "form", "closed", "tag"]
        )
        at = self.random.randrange(len(fields)) if fields else 0
        match change:
            case "order":
                fields.reverse()
            case "form":
                return replace(struct, array=not struct.array)
            case "closed":
                return replace(struct, closed=not struct.closed)
            case "tag" if struct.tag not in ("T", "U"):
                tag = self.random.choice(TAGS)
                return replace(struct, tag=tag, tag_field=None if tag is None else "type")
            case "drop" if fields:
                del fields[at]
            case "optional" if fields:
                fields[at] = replace(fields[at], optional=not fields[at].optional)
            case "name" if fields:
                fields[at] = replace(fields[at], name="e")
            case "type" if fields:
                fields[at] = replace(fields[at], type=self.changed_node(fields[at].type))
            case _:
                new = self.field()
                if new.name not in [field.name for field in fields]:
                    fields.insert(len(fields) if new.optional else 0, new)
        return replace(struct, fields=tuple(fields))

    def changed_node(self, node: Node) -> Node:
        """Another node, most often a near relative of `node`."""
        relatives: list[Node] = [UnionNode((node, NoneNode()))] if not isinstance(node, UnionNode) else list(node.types)
        match node:
            case IntNode() | FloatNode():
                relatives += [
                    IntNode(),
                    FloatNode(),
                    FloatNode(ge=node.ge, lt=node.lt),
                    replace(node, ge=None, gt=None),
                ]
                relatives += [replace(node, multiple_of=None), replace(node, multiple_of=2), DecimalNode()]
            case DatetimeNode() | TimeNode():
                relatives += [replace(node, tz=tz) for tz in (None, True, False)]
            case StrNode(pattern=str()):
                relatives += [StrNode(), *(StrNode(pattern=pattern) for pattern in PATTERNS)]
            case StrNode() | BytesNode():
                relatives += [replace(node, max_length=None), replace(node, min_length=None), StrNode()]
            case ListNode(item) | SetNode(item):
                relatives += [ListNode(item), SetNode(IntNode()), replace(node, max_length=None, min_length=0)]
                relatives += [ListNode(self.changed_node(item))] * 3
                relatives += [SetNode(item, min_length=2), TupleNode((item,)), TupleNode((item, item))]
            case TupleNode(items):
                relatives += [
                    ListNode(items[0] if items else AnyNode()),
                    TupleNode(items[:1]),
                    TupleNode((*items, NoneNode())),
                ]
            case DictNode(_, item):
                relatives += [replace(node, max_length=None), replace(node, value=self.changed_node(item))]
                relatives += [replace(node, key=key) for key in KEYS]
            case UnionNode(types):
                relatives += [UnionNode(types[:2]), UnionNode(tuple(reversed(types)))]
                relatives.append(UnionNode((self.changed_node(types[0]), *types[1:])))
            case _:
                relatives += [StrNode(), IntNode(), AnyNode(), RefNode("A")]
        return self.random.choice([*relatives * 3, self.node(1)])

    # -- values --

    def body(self, schema: Schema, struct: StructDef, depth: int = 0) -> Any:
        """A struct as a writer sends it. It may leave out optional fields; in an array only the last ones."""
        fields = {}
        for field in struct.fields:
            if field.optional and (depth > 3 or self.random.random() < 0.5):
                if struct.array:
                    break
                continue
            fields[field.name] = self.value(schema, field.type, depth + 1)
        if struct.array:
            return [*([struct.tag] if struct.tag is not None else []), *fields.values()]
        return fields if struct.tag is None else {"type": struct.tag, **fields}

    def value(self, schema: Schema, node: Node, depth: int = 0) -> Any:
        """What a writer may send for a node, in types that msgspec encodes."""
        if depth > 12:
            raise Deep
        random = self.random
        match node:
            case AnyNode():
                return random.choice([None, True, "é", -5, 2.5, [], {}])
            case NoneNode():
                return None
            case BoolNode():
                return random.random() < 0.5
            case IntNode() | FloatNode():
                return self._number(node)
            case StrNode(pattern=str(pattern)):
                return random.choice(PATTERNS[pattern])
            case StrNode():
                return "".join(random.choices("aé0\U0001f600", k=self._count(node, depth)))
            case BytesNode():
                return random.randbytes(self._count(node, depth))
            case DatetimeNode(tz):
                return datetime.datetime(
                    2026, 1, random.randint(1, 28), 3, 4, 5, random.randrange(10**6), self._zone(tz)
                )
            case TimeNode(tz):
                return datetime.time(random.randrange(24), 4, 5, random.randrange(10**6), self._zone(tz))
            case DateNode():
                return datetime.date(2026, 1, random.randint(1, 28))
            case TimedeltaNode():
                return datetime.timedelta(seconds=random.randint(-100, 100))
            case UuidNode():
                return uuid.UUID(int=random.getrandbits(128))
            case DecimalNode():
                return decimal.Decimal(random.randint(-1000, 1000)) / 100
            case LiteralNode():
                return random.choice(node.values)
            case ListNode(item):
                return [self.value(schema, item, depth + 1) for _ in range(self._count(node, depth))]
            case SetNode(item):
                unique = {self.value(schema, item, depth + 1) for _ in range(self._count(node, depth))}
                if len(unique) < (node.min_length or 0):
                    raise Deep
                return list(unique)
            case TupleNode(types):
                return [self.value(schema, each, depth + 1) for each in types]
            case DictNode(key, item):
                count = range(self._count(node, depth))
                found = {self.value(schema, key, depth + 1): self.value(schema, item, depth + 1) for _ in count}
                if len(found) < (node.min_length or 0):
                    raise Deep
                return found
            case UnionNode(types):
                return self.value(schema, random.choice(types), depth + 1)
            case RefNode(name):
                definition = schema.types[name]
                if isinstance(definition, StructDef):
                    return self.body(schema, definition, depth + 1)
                assert isinstance(definition, EnumDef)
                values = [member.value for member in definition.members]
                if definition.flags:
                    return sum(
                        each for each in random.sample(values, random.randint(1, len(values))) if isinstance(each, int)
                    )
                return random.choice(values)

    def _number(self, node: IntNode | FloatNode) -> Any:
        low = max(-20 if node.ge is None else node.ge, -20 if node.gt is None else node.gt + 1)
        high = min(20 if node.le is None else node.le, 20 if node.lt is None else node.lt - 1)
        step = int(node.multiple_of or 1)
        least, most = math.ceil(low / step), math.floor(high / step)
        if least > most:
            raise Deep
        value = self.random.randint(least, most) * step
        if isinstance(node, FloatNode):
            if node.multiple_of is None:
                edges = [float(low), float(high), self.random.uniform(low, high)]
                return self.random.choice(edges + [1e300, -0.0] * (node == FloatNode()))
            return float(value)
        return self.random.choice([value, -(2**63), 2**64 - 1]) if node == IntNode() else value

    def _count(self, node: Any, depth: int) -> int:
        least, most = node.min_length or 0, 3 if node.max_length is None else node.max_length
        return self.random.randint(least, most) if depth < 5 else least

    def _zone(self, tz: bool | None) -> datetime.timezone | None:
        return datetime.UTC if (self.random.random() < 0.5 if tz is None else tz) else None


def _enum(name: str, values: list[int | str]) -> EnumDef:
    members = tuple(Member(f"M{value}", value) for value in values)
    return EnumDef(members=members, flags=name == "F")


def is_valid(schema: Schema) -> bool:
    """Whether msgspec takes all unions: at most one number, text, array and object, or objects with different tags."""
    return all(
        _is_valid_union(schema, node)
        for definition in schema.types.values()
        if isinstance(definition, StructDef)
        for field in definition.fields
        for node in parts(field.type)
        if isinstance(node, UnionNode)
    )


def _is_valid_union(schema: Schema, union: UnionNode) -> bool:
    if breaks_msgspec(union):
        return False
    shapes: list[str] = []
    for node in union.types:
        match node:
            case UnionNode() | AnyNode():
                return False  # they would be one with `union`
            case StrNode() | BytesNode() | DatetimeNode() | TimeNode() | DateNode() | TimedeltaNode():
                shapes.append("text")
            case UuidNode() | DecimalNode():
                shapes.append("text")
            case LiteralNode(values):
                shapes += {"text" if isinstance(each, str) else "int" for each in values}
            case ListNode() | SetNode() | TupleNode():
                shapes.append("array")
            case DictNode():
                shapes.append("object")
            case RefNode(name):
                definition = schema.types[name]
                if isinstance(definition, StructDef):
                    if name not in ("T", "U"):
                        shapes.append("array" if definition.array else "object")
                    elif "object" in shapes:
                        return False
                else:
                    shapes.append("text" if name == "E" else "int")
            case _:
                shapes.append(re.sub("Node", "", type(node).__name__).lower())
    tagged = any(isinstance(node, RefNode) and node.name in ("T", "U") for node in union.types)
    return len(set(shapes)) == len(shapes) and not (tagged and {"object", "array"} & set(shapes))
