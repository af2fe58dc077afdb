"""Names, comments and lines of generated TypeScript."""

import json
import re
from collections.abc import Iterable

from gatelink.errors import CatalogError

WIDTH = 120  # columns of a generated line
SDK_NAMES = frozenset(
    """any bigint binary binaryStrict bool bytes datetime dict enumOf f32 f64 float i16 i32 i64 i8 int json lazy limited
    list literal maybe message msgpack none optional rawMessage rawRequest request set str struct tuple u16 u32 u64 u8
    union withDefault Schema""".split()
)
"""What a generated file may import from the SDK."""

RESERVED = frozenset(
    """abstract any arguments as asserts async await bigint boolean break case catch class const constructor continue
    debugger declare default delete do else enum eval export extends false finally for from function get global if
    implements import in infer instanceof interface is keyof let module namespace never new null number object of
    package private protected public readonly require return satisfies set static string super switch symbol this throw
    true try type typeof undefined unique unknown using var void while with yield Array Date Map Number Object Set
    String Uint8Array NaN Infinity""".split()
)
"""Words that no type of a generated file can be called: reserved, types of the language, and globals that it uses."""


def check_name(name: str) -> None:
    if name in RESERVED or name in SDK_NAMES:
        what = "a word of TypeScript" if name in RESERVED else "a name of the SDK"
        raise CatalogError(
            f"type {name!r} has {what} as its name; rename its class, or give the message another name, as "
            "@message(id, name=...)"
        )


def quoted(value: object) -> str:
    """A value of JSON as an expression. It is escaped to ASCII if some character is not printable."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def property_name(name: str) -> str:
    """A name as a property of an object."""
    return name if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", name) else quoted(name)


def member_access(name: str) -> str:
    return f".{name}" if property_name(name) == name else f"[{quoted(name)}]"


def comment(text: str, indent: str = "") -> str:
    """A JSDoc comment; "" for no text."""
    lines = text.replace("*/", "*\\/").split("\n") if text else []
    if len(lines) == 1 and len(indent) + len(lines[0]) + 7 <= WIDTH:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n" if lines else ""


def wrapped(head: str, items: Iterable[str], tail: str) -> str:
    """A list of items in one line; if that is too long, one line for each."""
    items = list(items)
    line = head + ", ".join(items) + tail
    if len(line) <= WIDTH:
        return line
    return head.rstrip() + "\n" + "".join(f"  {item},\n" for item in items) + tail.lstrip()
