"""A messages.json that can't be used is refused in one line; classes made of a good one decode the same bodies."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatelink.errors import ConfigError
from gatelink.schema.export import schema_of
from gatelink.schema.file import load_schema, schema_json
from gatelink.schema.nodes import FORMAT
from gatelink.schema.rebuild import catalog_of
from tests.unit.schema import messages as all_types
from tests.unit.schema.messages import catalog

INT = {"kind": "int"}


def file_of(tmp_path: Path, data: Any) -> Path:
    file = tmp_path / "messages.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def document(fields: list[Any], **changed: Any) -> dict[str, Any]:
    message = {"id": 11001, "name": "A", "type": "A", "codec": "msgpack"}
    return {"format": 1, "messages": [message], "types": {"A": {"kind": "struct", "fields": fields}}} | changed


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    schema = schema_of(catalog)
    assert load_schema(file_of(tmp_path, schema_json(schema))) == schema


def union(*types: Any) -> dict[str, Any]:
    return {"kind": "union", "types": types}


BAD = {
    "newer": (document([], format=FORMAT + 1), f"has format {FORMAT + 1}, and this gatelink reads up to {FORMAT}; ins"),
    "newer kind": ({"format": 2, "all": "else"}, "has format 2"),
    "no json": ("{", "is no messages.json: Input data was truncated"),
    "not UTF-8": (
        '{"format": 1, "\udc80"}'.encode("utf-8", "surrogateescape").decode("latin-1"),
        "is no messages.json",
    ),
    "deep": ("[" * 100_000, "is no messages.json"),
    "no format": ({"messages": [], "types": {}}, "missing required field `format`"),
    "unknown key": (document([], more=1), "unknown field `more`"),
    "unknown kind": (document([{"name": "a", "type": {"kind": "colour"}}]), "Invalid value 'colour'"),
    "no such type": (document([{"name": "a", "type": {"kind": "ref", "name": "B"}}]), "A.a refers to 'B'"),
    "two fields": (document([{"name": "a", "type": INT}] * 2), "A has two fields with one name"),
    "proto": (document([{"name": "__proto__", "type": INT}]), "A has a field called __proto__"),
    "name": (document([], types={"A-B": {"kind": "struct"}}, messages=[]), "a type is called 'A-B'"),
    "no definition": (document([], types={}), "does not fit its type 'A'"),
    "opaque": (document([], types={"A": {"kind": "opaque"}}), "message 'A' has codec msgpack, which does not fit"),
    "tag": (document([], types={"A": {"kind": "struct", "tag": "a"}}), "A has one of tag and tag_field"),
    "union": (
        document(
            [{"name": "a", "type": {"kind": "union", "types": [{"kind": "tuple", "items": []}, {**INT, "ge": 1}]}}]
        ),
        "A.a is a union that msgspec misreads",
    ),
    "answer": (
        document([], messages=[{"id": 11001, "name": "A", "type": "A", "codec": "json", "answer": 11002}]),
        "answered by 11002, which is not in the file",
    ),
    "ids": (
        document([], messages=[{"id": 11001, "name": name, "type": "A", "codec": "json"} for name in "AB"]),
        "two messages have one id or one name",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, what: str) -> None:
    data, text = BAD[what]
    with pytest.raises(ConfigError) as caught:
        load_schema(file_of(tmp_path, data))
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.json: No such file"):
        load_schema(tmp_path / "none.json")


UNFIT = {
    "id": (document([], messages=[{"id": 3, "name": "A", "type": "A", "codec": "json"}]), "A can't have id 3"),
    "width": (
        document([{"name": "a", "type": INT}], messages=[{"id": 11001, "name": "A", "type": "A", "codec": "binary"}]),
        "no width",
    ),
    "union": (document([{"name": "a", "type": union({"kind": "str"}, {"kind": "bytes"})}]), "str-like"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_file_whose_classes_can_t_be_made_is_refused(tmp_path: Path, what: str) -> None:
    data, text = UNFIT[what]
    schema = load_schema(file_of(tmp_path, data))
    with pytest.raises(ConfigError, match=text):
        catalog_of(schema)


def test_classes_made_of_the_file_decode_the_same_bodies() -> None:
    made = catalog_of(schema_of(catalog))
    bodies = {
        all_types.Row: all_types.Row(3),
        all_types.Ask: all_types.Ask(5),
        all_types.Table: all_types.Table([all_types.Row(1, "a")], all_types.Circle(1.5)),
        all_types.Fixed: all_types.Fixed(1, 2, 3, 2**64 - 1, -5, -6, -7, -8, 0.5, 0.25, True, "é", b"\xff"),
        all_types.Exact: all_types.Exact(7),
        all_types.Profile: all_types.Profile("é", {all_types.Mood.HAPPY: 2}),
        all_types.Texts: all_types.Texts("a", "b", "7", b"\x00"),
        all_types.Unions: all_types.Unions(
            all_types.Square(2.0),
            all_types.Line(1.0),
            [1],
            all_types.Mood.HAPPY,
            None,
            all_types.Rights.BAN | all_types.Rights.TALK,
            "a",
            2,
            all_types.Tree("root", [all_types.Tree("leaf")]),
            all_types.Spot(1),
            {"size": 1},
            all_types.Colour(1, 2),
            True,
        ),
    }
    for cls, sent in bodies.items():
        kind, body = catalog.encode(sent)
        read = made.by_id[kind.id].decode(body)
        assert msgspec.json.encode(read) == msgspec.json.encode(kind.decode(body)), cls
    assert made.by_id[21012].decode(b"abc") == b"abc"
