"""A TypeScript file from a schema: an interface and a descriptor for each type (clients/typescript has the SDK).

A definition stands below those that it needs. Only where types contain each other, one names the other by `lazy`.
"""

import re
from collections.abc import Iterator

from msgspec import UNSET

from gatelink.errors import CatalogError
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
    parts,
)
from gatelink.schema.typescript_values import Defaults, is_big
from gatelink.schema.typescript_words import WIDTH, check_name, comment, property_name, quoted, wrapped

HEADER = "// Made by `gatelink messages typescript` from messages.json. Do not edit.\n"

_PURE = "/* @__PURE__ */ "

_CODECS = {"msgpack": "msgpack", "json": "json", "binary": "binary", "binary-strict": "binaryStrict"}

_TEXTS = (DateNode, TimeNode, TimedeltaNode, UuidNode, DecimalNode)  # strings in TypeScript, as msgspec writes them
_SAME_PATTERN = re.compile(r"(?:[^\\()]|\((?!\?)|\(\?[:=!]|\)|\\[\^$\\.*+?()\[\]{}|/])*")
"""Patterns that Python's `re` and JavaScript's `RegExp` with flag u read alike."""


def typescript(schema: Schema) -> str:
    """The text of the file. The same schema gives the same text.

    Raises CatalogError for what TypeScript can't express, with the type's name and a way out.
    """
    return _File(schema).text()


class _File:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._defaults = Defaults(schema)
        self._messages = {message.type: message for message in schema.messages}
        self._written: list[str] = []  # types, in the order of the file
        self._imports: set[str] = set()

    def text(self) -> str:
        for name in self._schema.types:
            check_name(name)
        blocks = [self._block(name) for name in self._order()]
        imports = sorted(self._imports - {"Schema"}) + ["type Schema"] * ("Schema" in self._imports)
        head = HEADER
        if imports:
            head += "\n" + wrapped("import { ", imports, ' } from "gatelink";') + "\n"
        return head + "".join(f"\n{block}" for block in blocks)

    def _order(self) -> list[str]:
        """The types: by id of the messages, each below the types that it needs. The others come last, by name."""
        found: dict[str, None] = {}
        begun: set[str] = set()

        def visit(name: str) -> None:
            if name in begun:
                return
            begun.add(name)
            for other in self._needs(name):
                visit(other)
            found[name] = None

        for message in self._schema.messages:
            visit(message.type)
        for name in self._schema.types:
            visit(name)
        return list(found)

    def _needs(self, name: str) -> Iterator[str]:
        definition = self._schema.types[name]
        if isinstance(definition, StructDef):
            for field in definition.fields:
                yield from (node.name for node in parts(field.type) if isinstance(node, RefNode))

    # -- definitions --

    def _block(self, name: str) -> str:
        definition = self._schema.types[name]
        match definition:
            case EnumDef():
                text = self._enum(name, definition)
            case OpaqueDef():
                text = self._opaque(name, definition)
            case StructDef():
                text = self._struct(name, definition)
        self._written.append(name)
        return text

    def _enum(self, name: str, definition: EnumDef) -> str:
        members = [f"{property_name(member.name)}: {quoted(member.value)}" for member in definition.members]
        text = comment(definition.doc) + wrapped(f"export const {name} = {{ ", members, " } as const;") + "\n"
        if definition.flags:
            return text + f"/** Any union of the bits in {{@link {name}}}. */\nexport type {name} = number;\n"
        return text + f"export type {name} = (typeof {name})[keyof typeof {name}];\n"

    def _opaque(self, name: str, definition: OpaqueDef) -> str:
        message = self._messages[name]
        notes = [definition.doc] if definition.doc else []
        if message.codec == "protobuf":
            notes.append(
                f"The body is the Protocol Buffers message {definition.protobuf}: encode and decode it with a library "
                "for them."
            )
        elif message.codec == "own":
            notes.append("The body is of the server's own codec: encode and decode it yourself.")
        notes += _rate_note(message)
        call = self._call("rawMessage" if message.answer is None else "rawRequest")
        arguments = [str(message.id), quoted(message.name), *self._answer(message)]
        return comment("\n\n".join(notes)) + f"export const {name} = {call}({', '.join(arguments)});\n"

    def _struct(self, name: str, definition: StructDef) -> str:
        message = self._messages.get(name)
        notes = [definition.doc] if definition.doc else []
        if message is not None:
            notes += _rate_note(message)
        self._check_order(name, definition, message)
        lines = (
            [f"  {property_name(definition.tag_field)}: {quoted(definition.tag)};\n"] if definition.tag_field else []
        )
        lines += [self._property(field) for field in definition.fields]
        text = comment("\n\n".join(notes))
        text += f"export interface {name} {{\n{''.join(lines)}}}\n" if lines else f"export interface {name} {{}}\n"
        return text + f"export const {name} = {self._descriptor(name, definition, message)};\n"

    def _check_order(self, name: str, definition: StructDef, message: Message | None) -> None:
        is_ordered = definition.array or (message is not None and message.codec.startswith("binary"))
        for field in definition.fields:
            if is_ordered and field.name.isdigit():
                raise CatalogError(
                    f"{name}.{field.name}: JavaScript moves fields whose names are numbers to the front, and here the "
                    "order counts; rename it"
                )
            if definition.tag_field == field.name:
                raise CatalogError(f"{name}.{field.name} is the tag's name, too; rename it, or give another tag_field")

    def _property(self, field: Field) -> str:
        is_maybe = field.optional and field.default is UNSET
        notes = [field.doc] if field.doc else []
        if words := sorted({node.word for node in parts(field.type) if isinstance(node, _TEXTS)}):
            notes.append(f"As text: {' or '.join(words)}.")
        if any(isinstance(node, StrNode) and not _is_same(node.pattern) for node in parts(field.type)):
            notes.append("The server checks it with a pattern that JavaScript may read otherwise.")
        return (
            comment(" ".join(notes), "  ")
            + f"  {property_name(field.name)}{'?' if is_maybe else ''}: {self._type(field.type)};\n"
        )

    def _descriptor(self, name: str, definition: StructDef, message: Message | None) -> str:
        defaulted = [definition.tag_field] if definition.tag_field else []
        defaulted += [field.name for field in definition.fields if field.optional and field.default is not UNSET]
        generics = [name]
        if message is not None and message.answer is not None:
            generics.append(self._answer_type(message))
        if defaulted:
            generics.append(" | ".join(map(quoted, defaulted)))
        fields = [f"{property_name(field.name)}: {self._field(name, field)}" for field in definition.fields]
        options = ["arrayLike: true"] if definition.array else []
        if definition.tag_field is not None:
            options.append(f"tag: [{quoted(definition.tag_field)}, {quoted(definition.tag)}]")
        if message is None:
            head = f"{self._call('struct')}<{', '.join(generics)}>({quoted(name)}, "
        else:
            call = self._call("message" if message.answer is None else "request")
            codec = self._use(_CODECS[message.codec])
            head = f"{call}<{', '.join(generics)}>({message.id}, {quoted(message.name)}, {codec}, "
        tail = "".join(f", {answer}" for answer in (self._answer(message) if message else []))
        tail += f", {{ {', '.join(options)} }})" if options else ")"
        if not fields:
            return f"{head}{{}}{tail}"
        line = f"{head}{{ {', '.join(fields)} }}{tail}"
        if len(f"export const {name} = {line};") <= WIDTH:
            return line
        return f"{head}{{\n{''.join(f'  {field},' + chr(10) for field in fields)}}}{tail}"

    def _answer(self, message: Message) -> list[str]:
        return [] if message.answer is None else [f"() => {self._type_of(message.answer).type}"]

    def _answer_type(self, message: Message) -> str:
        answer = self._type_of(message.answer)
        return "Uint8Array" if isinstance(self._schema.types[answer.type], OpaqueDef) else answer.type

    def _type_of(self, id: int | None) -> Message:
        return next(message for message in self._schema.messages if message.id == id)

    # -- types and descriptors of nodes --

    def _use(self, name: str) -> str:
        """A name of the SDK, which the file imports."""
        self._imports.add(name)
        return name

    def _call(self, name: str) -> str:
        """A function of the SDK to be called, marked so that a bundler drops the call if its result is not used."""
        return _PURE + self._use(name)

    def _field(self, of: str, field: Field) -> str:
        node = self._node(field.type, of)
        if not field.optional:
            return node
        if field.default is UNSET:
            return f"{self._call('maybe')}({node})"
        value = self._defaults.expression(field.type, field.default, f"{of}.{field.name}")
        return f"{self._call('withDefault')}({node}, {value})"

    def _type(self, node: Node) -> str:
        """The TypeScript type of a node."""
        match node:
            case AnyNode():
                return "unknown"
            case NoneNode():
                return "null"
            case BoolNode():
                return "boolean"
            case IntNode():
                return "bigint" if is_big(node) else "number"
            case FloatNode():
                return "number"
            case BytesNode():
                return "Uint8Array"
            case DatetimeNode():
                return "Date"
            case LiteralNode(values):
                return " | ".join(map(quoted, values))
            case ListNode(item):
                inner = self._type(item)
                return f"({inner})[]" if isinstance(item, (UnionNode, LiteralNode)) else f"{inner}[]"
            case SetNode(item):
                return f"Set<{self._type(item)}>"
            case TupleNode(items):
                return f"[{', '.join(map(self._type, items))}]"
            case DictNode(key, value):
                return f"Map<{self._type(key)}, {self._type(value)}>"
            case UnionNode(types):
                return " | ".join(dict.fromkeys(map(self._type, types)))
            case RefNode(name):
                return name
        return "string"  # str, and what is text on the wire

    def _node(self, node: Node, of: str) -> str:
        """The descriptor of a node in the definition called `of`."""
        match node:
            case AnyNode():
                return self._use("any")
            case NoneNode():
                return self._use("none")
            case BoolNode():
                return self._use("bool")
            case IntNode():
                return self._limited(self._use(node.width or ("bigint" if is_big(node) else "int")), node)
            case FloatNode():
                return self._limited(self._use(node.width or "float"), node)
            case BytesNode():
                return self._limited(self._use("bytes"), node)
            case DatetimeNode():
                return self._use("datetime")
            case LiteralNode(values):
                return f"{self._call('literal')}({', '.join(map(quoted, values))})"
            case ListNode(item):
                return self._limited(f"{self._call('list')}({self._node(item, of)})", node)
            case SetNode(item):
                return self._limited(f"{self._call('set')}({self._node(item, of)})", node)
            case TupleNode(items):
                return f"{self._call('tuple')}({', '.join(self._node(item, of) for item in items)})"
            case DictNode(key, value):
                return self._limited(f"{self._call('dict')}({self._node(key, of)}, {self._node(value, of)})", node)
            case UnionNode(types):
                rest = [each for each in types if not isinstance(each, NoneNode)]
                if len(rest) == 1 and len(types) == 2:
                    return f"{self._call('optional')}({self._node(rest[0], of)})"
                return f"{self._call('union')}({', '.join(self._node(each, of) for each in types)})"
            case RefNode(name):
                return self._reference(name)
        return self._limited(self._use("str"), node)

    def _reference(self, name: str) -> str:
        definition = self._schema.types[name]
        if isinstance(definition, EnumDef):
            return self._use("int") if definition.flags else f"{self._call('enumOf')}({name})"
        if name in self._written:
            return name
        return f"{self._call('lazy')}((): {self._use('Schema')}<{name}> => {name})"

    def _limited(self, text: str, node: Node) -> str:
        limits = {}
        for name, key in _LIMITS.items():
            value = getattr(node, name, None)
            if value is None or (name == "pattern" and not _is_same(value)):
                continue
            limits[key] = f"{value}n" if isinstance(node, IntNode) and is_big(node) else quoted(value)
        if not limits:
            return text
        return f"{self._call('limited')}({text}, {{ {', '.join(f'{key}: {value}' for key, value in limits.items())} }})"


_LIMITS = {
    "gt": "gt",
    "ge": "ge",
    "lt": "lt",
    "le": "le",
    "multiple_of": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}
"""The bounds of a node, and their names in the SDK."""


def _is_same(pattern: str | None) -> bool:
    return pattern is None or _SAME_PATTERN.fullmatch(pattern) is not None


def _rate_note(message: Message) -> list[str]:
    return [] if message.rate is None else [f"At most {message.rate:g} a second; the server drops more."]
