"""messages.json: read and written (docs/messages-json.md)."""

from pathlib import Path

import msgspec

from gatelink.errors import ConfigError
from gatelink.schema.nodes import (
    FORMAT,
    IDENTIFIER,
    OpaqueDef,
    RefNode,
    Schema,
    StructDef,
    UnionNode,
    breaks_msgspec,
    parts,
)


class _Format(msgspec.Struct):
    """What all versions of the file have."""

    format: int


def schema_json(schema: Schema) -> str:
    """The text of messages.json. The same schema gives the same text."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def load_schema(file: Path) -> Schema:
    """The schema in a file. Raises ConfigError if it can't be read, is no messages.json, or is of a newer gatelink."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    try:
        format = msgspec.json.decode(data, type=_Format).format
        if format > FORMAT:
            raise ConfigError(
                f"{file} has format {format}, and this gatelink reads up to {FORMAT}; install a newer gatelink"
            )
        schema = msgspec.json.decode(data, type=Schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is no messages.json: {error}; write it with gatelink messages export") from None
    if problem := _problem(schema):
        raise ConfigError(f"{file} is no messages.json: {problem}; write it with gatelink messages export")
    return schema


def _problem(schema: Schema) -> str | None:
    """The reason why a schema is inconsistent; None if it is good."""
    ids = {message.id for message in schema.messages}
    if len(ids) < len(schema.messages) or len({message.name for message in schema.messages}) < len(ids):
        return "two messages have one id or one name"
    for name, definition in schema.types.items():
        if not IDENTIFIER.fullmatch(name):
            return f"a type is called {name!r}"
        if not isinstance(definition, StructDef):
            continue
        if (definition.tag is None) != (definition.tag_field is None):
            return f"{name} has one of tag and tag_field"
        names = [field.name for field in definition.fields]
        if "__proto__" in names:
            return f"{name} has a field called __proto__"
        if len(set(names)) < len(names):
            return f"{name} has two fields with one name"
        for field in definition.fields:
            for node in parts(field.type):
                if isinstance(node, RefNode) and isinstance(schema.types.get(node.name), (OpaqueDef, type(None))):
                    return f"{name}.{field.name} refers to {node.name!r}, which is no struct or enum of the file"
                if isinstance(node, UnionNode) and breaks_msgspec(node):
                    return (
                        f"{name}.{field.name} is a union that msgspec misreads, of a container and a type with bounds"
                    )
                if isinstance(node, UnionNode) and any(isinstance(each, UnionNode) for each in node.types):
                    return f"{name}.{field.name} has a union in a union"
    for message in schema.messages:
        found = schema.types.get(message.type)
        if not isinstance(found, OpaqueDef if message.codec in ("raw", "protobuf", "own") else StructDef):
            return f"message {message.name!r} has codec {message.codec}, which does not fit its type {message.type!r}"
        if message.answer is not None and message.answer not in ids:
            return f"message {message.name!r} is answered by {message.answer}, which is not in the file"
    return None
