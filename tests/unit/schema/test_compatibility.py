"""Every row of the tables in docs/messages.md: which change breaks which direction, with which codec."""

import re
from enum import Enum, Flag
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct, field

from gatelink import Catalog
from gatelink.schema.compatibility import compare
from gatelink.schema.export import schema_of
from gatelink.schema.nodes import OpaqueDef, Schema, StructDef
from gatelink.wire.codecs import F32, U8, U16

PAGE = (Path(__file__).parents[3] / "docs" / "messages.md").read_text()
ROWS = {
    cells[0].replace("\\|", "|"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]]
}
DIRECTIONS = {
    frozenset(): "fits",
    frozenset({"old"}): "old to new fails",
    frozenset({"new"}): "new to old fails",
    frozenset({"old", "new"}): "both fail",
}
COLUMNS: dict[str, list[dict[str, Any]]] = {
    "msgpack, json": [{"codec": "msgpack"}, {"codec": "json"}],
    "array_like": [{"codec": "msgpack", "array_like": True}, {"codec": "json", "array_like": True}],
    "binary": [{"codec": "binary"}],
    "binary-strict": [{"codec": "binary-strict"}],
}


class Old(Enum):
    A = "a"


class More(Enum):
    A = "a"
    B = "b"


class Renamed(Enum):
    LETTER = "a"


class First(Struct, tag=1):
    pass


class Second(Struct, tag=2):
    pass


Fields = list[Any]


def schema(fields: Fields, column: dict[str, Any], doc: str = "", **config: Any) -> Schema:
    column = dict(column)
    codec = column.pop("codec")
    cls = msgspec.defstruct("Thing", fields, namespace={"__doc__": doc}, **(column | config))
    catalog = Catalog()
    catalog.add(11001, cls, codec=codec)
    return schema_of(catalog)


def broken(old: Schema, new: Schema) -> str:
    return DIRECTIONS[frozenset(each.writer for each in compare(old, new).breaks)]


A, B, X = ("a", U8), ("b", U8), ("x", U8)
WITH_DEFAULT = ("b", U8, 1)
CHANGES: dict[str, tuple[Fields, Fields, dict[str, Any]]] = {
    "a field with a default is added at the end": ([A], [A, WITH_DEFAULT], {}),
    "a field without a default is added at the end": ([A], [A, B], {}),
    "the last field, with a default, is removed": ([A, WITH_DEFAULT], [A], {}),
    "the last field, without a default, is removed": ([A, B], [A], {}),
    "two fields change places": ([A, B], [B, A], {}),
    "a field is renamed": ([A], [X], {}),
    "a field gets a default": ([A, B], [A, WITH_DEFAULT], {}),
    "a field loses its default": ([A, WITH_DEFAULT], [A, B], {}),
    "a default becomes another one": ([WITH_DEFAULT], [("b", U8, 2)], {}),
    "a default becomes another one, with omit_defaults": ([WITH_DEFAULT], [("b", U8, 2)], {"omit_defaults": True}),
    "`U8` becomes `U16`": ([A], [("a", U16)], {}),
    "`int` becomes `float`": ([A], [("a", F32)], {}),
    "a bound becomes tighter": ([A], [("a", Annotated[U8, Meta(le=9)])], {}),
    "a bound becomes looser": ([("a", Annotated[U8, Meta(le=9)])], [("a", Annotated[U8, Meta(le=10)])], {}),
    "a type becomes `type | None`": ([("a", int)], [("a", int | None)], {}),
    "an Enum or Literal gets a value": (
        [("a", Old), ("b", Literal[1])],
        [("a", More), ("b", Literal[1, 2])],
        {},
    ),
    "an Enum or Literal loses a value": (
        [("a", More), ("b", Literal[1, 2])],
        [("a", Old), ("b", Literal[1])],
        {},
    ),
    "a tagged union gets a Struct": ([("a", First)], [("a", First | Second)], {}),
    "the tag of a Struct changes": ([("a", First)], [("a", Second)], {}),
    "`list` becomes `set`, or the other way round": (
        [("a", list[int]), ("b", set[int])],
        [("a", set[int]), ("b", list[int])],
        {},
    ),
    "`str` becomes `bytes`": ([("a", str)], [("a", bytes)], {}),
}


def cells(change: str) -> list[tuple[str, dict[str, Any]]]:
    """What the page says of a change, and the codecs that it says it of."""
    columns = zip(ROWS[change], COLUMNS.values(), strict=True)
    return [(said, way) for said, ways in columns for way in ways if said != "-"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_fields_breaks_what_the_page_says(change: str) -> None:
    before, after, config = CHANGES[change]
    for said, column in cells(change):
        if change == "`str` becomes `bytes`" and column["codec"] == "json":
            said = "old to new fails"  # the exception that the page names below the table
        assert broken(schema(before, column, **config), schema(after, column, **config)) == said, column


def test_an_object_that_becomes_an_array_breaks_both() -> None:
    (said, column), *_ = cells("an object becomes an array")
    assert broken(schema([A], column), schema([A], column, array_like=True)) == said


def test_forbidding_unknown_fields_breaks_nothing_until_a_field_is_added() -> None:
    for said, column in cells("unknown fields become forbidden"):
        closed = schema([A], column, forbid_unknown_fields=True)
        assert broken(schema([A], column), closed) == said
        assert broken(closed, schema([A, WITH_DEFAULT], column, forbid_unknown_fields=True)) == "new to old fails"


def test_names_of_classes_and_docs_break_nothing() -> None:
    for said, column in cells("a class or an Enum's member is renamed, or docs change"):
        fields = [[A], [A]] if column["codec"].startswith("binary") else [[A, ("e", Old)], [A, ("e", Renamed)]]
        assert broken(schema(fields[0], column), schema(fields[1], column, "Another text.")) == said


def message(id: int = 11001, *, rate: float | None = None, with_answer: int = 0, **how: Any) -> Schema:
    class Thing(Struct):
        a: U8

    class Answer(Struct):
        pass

    class Other(Struct):
        pass

    catalog = Catalog()
    catalog.add(11002, Answer)
    catalog.add(11003, Other)
    catalog.add(id, Thing, answer=(None, Answer, Other)[with_answer], **how)
    return schema_of(catalog, {} if rate is None else {id: rate})


def protobuf(name: str) -> Schema:
    found = message()
    types = {**found.types, "Thing": OpaqueDef(protobuf=name)}
    messages = tuple(
        msgspec.structs.replace(each, codec="protobuf") if each.type == "Thing" else each for each in found.messages
    )
    return Schema(1, messages, types)


MESSAGES = {
    "a message is added": [(Schema(1, (), {}), message())],
    "a message is removed, or gets another id": [(message(), Schema(1, (), {})), (message(), message(11005))],
    "its name on the wire changes": [(message(), message(name="Other thing"))],
    "its codec changes": [(message(), message(codec="json")), (message(codec="binary"), message(codec="json"))],
    "binary becomes binary-strict": [(message(codec="binary"), message(codec="binary-strict"))],
    "it becomes a request": [(message(), message(with_answer=1))],
    "a request becomes a plain message, or is answered by another one": [
        (message(with_answer=1), message()),
        (message(with_answer=1), message(with_answer=2)),
    ],
    "its rate becomes lower": [(message(rate=5), message(rate=4)), (message(), message(rate=5))],
    "its rate becomes higher": [(message(rate=4), message(rate=5)), (message(rate=5), message())],
    "its `compress` changes": [(message(), message(compress=False))],
    "a Protocol Buffers message becomes another one": [(protobuf("a.B"), protobuf("a.C"))],
}


@pytest.mark.parametrize("change", MESSAGES)
def test_a_change_of_a_message_breaks_what_the_page_says(change: str) -> None:
    for old, new in MESSAGES[change]:
        assert [broken(old, new)] == ROWS[change]


def test_every_row_of_the_page_has_a_test() -> None:
    lines = PAGE.split("## What breaks what")[1].split("## What can be exported")[0].splitlines()
    rows = {re.split(r"(?<!\\)\|", line)[1].strip().replace("\\|", "|") for line in lines if line.startswith("| ")}
    others = {
        "an object becomes an array",
        "unknown fields become forbidden",
        "a class or an Enum's member is renamed, or docs change",
    }
    assert rows - {"change", "---", "change of a message"} == {*CHANGES, *MESSAGES, *others}


def test_a_comparison_names_what_is_added_changed_and_the_same() -> None:
    class Same(Struct):
        a: int

    class Grown(Struct):
        a: int
        b: list[int] = field(default_factory=list)

    class Brand(Struct):
        pass

    old, new = Catalog(), Catalog()
    old.add(11001, Same)
    old.add(11002, msgspec.defstruct("Grown", [("a", int)]))
    new.add(11001, Same)
    new.add(11002, Grown)
    new.add(11003, Brand)
    found = compare(schema_of(old), schema_of(new))
    assert (found.breaks, found.added, found.changed, found.same) == ([], ["Brand"], ["Grown"], ["Same"])


def test_types_that_contain_each_other_are_compared_to_the_end() -> None:
    """`Left` is good but for `Right`, and `Right` but for its last field: neither may hide the other's change."""

    def types(leaf: type) -> Schema:
        right = msgspec.defstruct("Right", [("left", Any), ("leaf", leaf)])
        left = msgspec.defstruct("Left", [("right", right | None)])
        right.__annotations__["left"] = left | None
        catalog = Catalog()
        catalog.add(11001, msgspec.defstruct("Root", [("either", left | None), ("other", right | None)]))
        return schema_of(catalog)

    assert broken(types(int), types(int)) == "fits"
    assert broken(types(int), types(str)) == "both fail"
    places = {each.place for each in compare(types(int), types(float)).breaks}
    assert places == {"either.right.leaf", "other.leaf"}


def test_a_field_deep_inside_is_named() -> None:
    class Row(Struct):
        name: str

    column = {"codec": "msgpack"}
    old = schema([("rows", dict[str, list[Row]])], column)
    new_row = msgspec.defstruct("Row", [("name", Annotated[str, Meta(max_length=3)])])
    new = schema([("rows", dict[str, list[new_row]])], column)  # type: ignore[valid-type]
    (found,) = compare(old, new).breaks
    assert str(found) == (
        "Thing.rows[...][...].name (11001), old sender, new receiver: lengths to any are read with max_length 3"
    )
    assert isinstance(new.types["Row"], StructDef)


class Bits(Flag):
    A = 1
    B = 2


class FewerBits(Flag):
    A = 1


@pytest.mark.parametrize(
    ("writer", "reader", "said"),
    [
        (Bits, FewerBits, "old to new fails"),
        (Annotated[list[int], Meta(min_length=2)], Annotated[set[int], Meta(min_length=2)], "old to new fails"),
        (Annotated[set[int], Meta(min_length=2)], Annotated[list[int], Meta(min_length=2)], "new to old fails"),
        (Annotated[int, Meta(le=10)], Annotated[int, Meta(le=9)], "old to new fails"),
        (Annotated[str, Meta(max_length=10)], Annotated[str, Meta(max_length=9)], "old to new fails"),
    ],
)
def test_what_random_values_seldom_show_is_judged_right(writer: Any, reader: Any, said: str) -> None:
    """A bit that no value has, items that are all different, a value at its bound."""
    column = {"codec": "msgpack"}
    assert broken(schema([("a", writer)], column), schema([("a", reader)], column)) == said
