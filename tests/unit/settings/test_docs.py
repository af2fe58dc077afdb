"""docs/configuration.md has every key of every section, its type, and its true default."""

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest

from gatelink.config import Limits, WireOptions
from gatelink.login.limits import LoginLimits, Rule
from gatelink.settings import (
    AccountSettings,
    Argon2Settings,
    ClusterSettings,
    EngineSettings,
    GatewaySettings,
    ListenSettings,
    LoginSettings,
    LogSettings,
    OidcSettings,
    PageSettings,
    Secret,
    ServiceSettings,
    Settings,
    StaticServer,
    TokenSettings,
)
from gatelink.settings.sections import DatabaseUrl, Hex32, UrlOrPath
from gatelink.settings.show import toml

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"

SECTIONS: dict[str, Any] = {
    "[engine]": EngineSettings,
    "[tokens]": TokenSettings,
    "[accounts]": AccountSettings,
    "[accounts.argon2]": Argon2Settings,
    "[login]": LoginSettings,
    "[login.oidc]": OidcSettings,
    "[[login.servers]]": StaticServer,
    "[login.limits]": LoginLimits,
    "[login.limits.NAME]": Rule,
    "[cluster]": ClusterSettings,
    "[gateway]": GatewaySettings,
    "gateway.listen": ListenSettings,
    "[services.NAME]": ServiceSettings,
    "[page]": PageSettings,
    "[logs]": LogSettings,
}
ELSEWHERE = {Limits, WireOptions}  # docs/limits.md has their tables, and tests/unit/test_docs.py checks those

NAMES = {
    str: "string",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Secret: "secret",
    Path: "path",
    Hex32: "64 hex digits",
    DatabaseUrl: "URL",
    UrlOrPath: "URL or path",
}


def type_text(type: Any) -> str:
    """A type as the page writes it."""
    if type in NAMES:
        return NAMES[type]
    if get_origin(type) in (Union, types.UnionType):
        return type_text(next(part for part in get_args(type) if part is not types.NoneType))
    if get_origin(type) is Annotated:
        bare, meta = get_args(type)
        bounds = [f"{sign} {bound:,}" for sign, bound in _bounds(meta) if abs(bound) < 2**63 - 1]
        return f"{NAMES[bare]} {', '.join(bounds)}".strip()
    if get_origin(type) is Literal:
        return ", ".join(f"`{toml(choice)}`" for choice in get_args(type))
    if get_origin(type) is tuple:
        item = get_args(type)[0]
        text = type_text(item)
        if item is ListenSettings:
            text = "strings or tables"
        return f"array of {text}" if text.endswith(("`", "s")) else f"array of {text}s"
    return "table"


def _bounds(meta: msgspec.Meta) -> list[tuple[str, float]]:
    bounds = [(">", meta.gt), ("≥", meta.ge), ("<", meta.lt), ("≤", meta.le)]
    return [(sign, bound) for sign, bound in bounds if bound is not None]


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """A default as the page writes it."""
    if field.required:
        return "required"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(default, msgspec.Struct):
        if isinstance(default, Rule):
            return f"`{toml(default)}`"
        return "its defaults"
    if default is None:
        return "none"
    if default == GatewaySettings().listen:
        return '`["tcp://127.0.0.1:7000"]`'
    return f"`{toml(default)}`"


def section(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by key."""
    text = PAGE.read_text()
    found = re.search(rf"^## `{re.escape(heading)}`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/configuration.md has no heading ## `{heading}`"
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in found[1].splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize(
    ("heading", "field"),
    [
        pytest.param(heading, field, id=f"{heading} {field.name}")
        for heading, struct in SECTIONS.items()
        for field in msgspec.structs.fields(struct)
    ],
)
def test_every_key_is_documented_with_its_type_and_default(heading: str, field: msgspec.structs.FieldInfo) -> None:
    row = section(heading).get(field.name)
    assert row is not None, f"{heading} has no row of {field.name}"
    assert row[1:3] == [type_text(field.type), default_text(field)]
    assert len(row) == 4 and row[3], f"{heading} {field.name} needs its meaning"


@pytest.mark.parametrize("heading", SECTIONS)
def test_no_key_is_documented_that_is_not_there(heading: str) -> None:
    assert set(section(heading)) == set(SECTIONS[heading].__struct_fields__)


def test_every_section_is_on_the_page() -> None:
    def structs(struct: Any) -> set[Any]:
        found = {struct}
        for field in msgspec.structs.fields(struct):
            pending = [field.type]
            while pending:
                type = pending.pop()
                pending += get_args(type)
                if hasattr(type, "__struct_fields__"):
                    found |= structs(type)
        return found

    assert structs(Settings) - {Settings} == set(SECTIONS.values()) | ELSEWHERE
    text = PAGE.read_text()
    assert "## `[limits]`" in text and "## `[wire]`" in text
