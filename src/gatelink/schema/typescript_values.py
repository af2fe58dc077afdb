"""Defaults as TypeScript: messages.json has them as the JSON codec writes them."""

import base64
import datetime
import json
import re

from gatelink.errors import CatalogError
from gatelink.schema.nodes import (
    AnyNode,
    BoolNode,
    BytesNode,
    DatetimeNode,
    DictNode,
    EnumDef,
    FloatNode,
    IntNode,
    ListNode,
    LiteralNode,
    Node,
    NoneNode,
    RefNode,
    Schema,
    SetNode,
    StructDef,
    TupleNode,
    UnionNode,
)
from gatelink.schema.typescript_words import member_access, property_name, quoted

_SAFE = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER

_CONSTANT = re.compile(r"\".*\"|-?\d.*|null|true|false|\w+\.\w+|\w+\[\".*\"\]", re.DOTALL)
"""An expression whose value can't be changed, so that all messages may share it."""


class Defaults:
    """Writes the defaults of a schema's fields."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def expression(self, node: Node, value: object, at: str) -> str:
        """A field's default for the SDK's `withDefault`: a constant, or a function that makes a new value each time.

        at: the field, for the error. Raises CatalogError for a default that TypeScript can't express.
        """
        text = self.value(node, value, at)
        return text if _CONSTANT.fullmatch(text) else f"() => {text}"

    def value(self, node: Node, value: object, at: str) -> str:
        """The expression of a value of messages.json. Raises CatalogError."""
        match node:
            case IntNode() if isinstance(value, int):
                return f"{value}n" if is_big(node) else str(value)
            case BytesNode() if isinstance(value, str):
                data = ", ".join(map(str, base64.b64decode(value)))
                return f"new Uint8Array([{data}])" if data else "new Uint8Array()"
            case DatetimeNode() if isinstance(value, str):
                return f"new Date({quoted(_utc(value))})"
            case ListNode(item) if isinstance(value, list):
                return f"[{', '.join(self.value(item, each, at) for each in value)}]"
            case TupleNode(types) if isinstance(value, list):
                return f"[{', '.join(self.value(item, each, at) for item, each in zip(types, value, strict=True))}]"
            case SetNode(item) if isinstance(value, list):
                return f"new Set([{', '.join(self.value(item, each, at) for each in value)}])" if value else "new Set()"
            case DictNode(key, item) if isinstance(value, dict):
                pairs = [f"[{self._key_value(key, k, at)}, {self.value(item, v, at)}]" for k, v in value.items()]
                return f"new Map([{', '.join(pairs)}])" if pairs else "new Map()"
            case UnionNode(types):
                for each in types:
                    if self._is_of(each, value):
                        return self.value(each, value, at)
            case RefNode(name):
                definition = self._schema.types[name]
                if isinstance(definition, StructDef):
                    return self._struct_value(name, definition, value, at)
                if isinstance(definition, EnumDef):
                    for member in definition.members:
                        if member.value == value and not definition.flags:
                            return f"{name}{member_access(member.name)}"
                    return quoted(value)
            case _ if value is None or isinstance(value, (bool, int, float, str)):
                return quoted(value)
            case AnyNode():
                return f"({quoted(value)})"
        raise CatalogError(f"{at}: its default can't be written in TypeScript; leave it out, or make it a simpler one")

    def _key_value(self, node: Node, key: object, at: str) -> str:
        """The expression of a dict's key. In JSON all keys are texts, so a number is parsed."""
        if isinstance(node, (IntNode, FloatNode)) and isinstance(key, str):
            return self.value(node, json.loads(key), at)
        if isinstance(node, RefNode) and isinstance(key, str):
            definition = self._schema.types[node.name]
            if isinstance(definition, EnumDef) and any(isinstance(each.value, int) for each in definition.members):
                return self.value(node, int(key), at)
        return self.value(node, key, at)

    def _struct_value(self, name: str, definition: StructDef, value: object, at: str) -> str:
        given: dict[str, object] = {}
        if isinstance(value, dict):
            given = value
        elif isinstance(value, list):
            names = [field.name for field in definition.fields]
            given = dict(zip(names, value[1:] if definition.tag is not None else value, strict=False))
        fields = [
            f"{property_name(field.name)}: {self.value(field.type, given[field.name], at)}"
            for field in definition.fields
            if field.name in given
        ]
        return f"{name}({{ {', '.join(fields)} }})" if fields else f"{name}({{}})"

    def _is_of(self, node: Node, value: object) -> bool:
        """Whether a value is of this member of a union. At most one member has its JSON kind, or its tag."""
        match node:
            case AnyNode():
                return True
            case NoneNode():
                return value is None
            case BoolNode():
                return isinstance(value, bool)
            case IntNode():
                return isinstance(value, int) and not isinstance(value, bool)
            case FloatNode():
                return isinstance(value, float)
            case LiteralNode(values):
                return any(each == value and type(each) is type(value) for each in values)
            case ListNode() | SetNode() | TupleNode():
                return isinstance(value, list)
            case DictNode():
                return isinstance(value, dict)
            case RefNode(name):
                definition = self._schema.types[name]
                if isinstance(definition, EnumDef):
                    return any(member.value == value for member in definition.members)
                if isinstance(definition, StructDef) and isinstance(value, list):
                    return definition.array and (definition.tag is None or value[:1] == [definition.tag])
                if isinstance(definition, StructDef) and isinstance(value, dict):
                    return not definition.array and value.get(definition.tag_field or "") == definition.tag
                return False
        return isinstance(value, str)


def is_big(node: IntNode) -> bool:
    """Whether the field may have integers that a JavaScript number can't hold, so that it is a bigint."""
    if node.width is not None:
        return node.width in ("u64", "i64")
    return any(abs(bound) > _SAFE for bound in (node.gt, node.ge, node.lt, node.le) if bound is not None)


def _utc(text: str) -> str:
    """A moment in UTC; one without a time zone is taken for UTC."""
    moment = datetime.datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
