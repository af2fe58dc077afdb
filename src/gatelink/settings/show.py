"""A configuration as TOML again, with its defaults, and with secrets as references."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from gatelink.settings.secret import Secret

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def show(settings: msgspec.Struct) -> str:
    """`settings` as a TOML document that reads back as the same. A secret is shown as its reference."""
    return "\n".join(_tables(settings, "")).lstrip("\n") + "\n"


def toml(value: Any) -> str:
    """One value in TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case Secret():
            return toml(value.reference)
        case bytes():
            return toml(value.hex())
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case msgspec.Struct():
            return toml(_present(value))
        case dict():
            pairs = ", ".join(f"{key_text(key)} = {toml(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
    return str(value)  # a date or a time


def key_text(key: str) -> str:
    """A key in TOML, quoted if necessary."""
    return key if _BARE.fullmatch(key) else toml(key)


def _present(table: Any) -> dict[str, Any]:
    """The keys of a struct or table with a value; TOML has no None."""
    items = msgspec.structs.asdict(table) if isinstance(table, msgspec.Struct) else table
    return {key: value for key, value in items.items() if value is not None}


def _tables(table: Any, name: str) -> list[str]:
    """The lines of a table and the tables in it. TOML needs its own keys first."""
    lines: list[str] = []
    inner: list[str] = []
    for key, value in _present(table).items():
        full = f"{name}.{key_text(key)}" if name else key_text(key)
        if isinstance(value, (dict, msgspec.Struct)):
            inner += _tables(value, full)
        else:
            lines.append(f"{key_text(key)} = {toml(value)}")
    if name and (lines or not inner):
        lines = ["", f"[{name}]", *lines]
    return lines + inner
