"""messages.json and messages.ts of a catalog: complete, deterministic, kept current; or refused with a way out."""

import enum
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from gatelink import Catalog
from gatelink.cli.loading import load
from gatelink.errors import CatalogError
from gatelink.schema import nodes
from gatelink.schema.export import schema_of
from gatelink.schema.file import load_schema, schema_json
from gatelink.schema.nodes import EnumDef, IntNode, ListNode, StrNode, StructDef, TupleNode, UnionNode, breaks_msgspec
from gatelink.schema.typescript import typescript
from tests.support import TEST_TIMEOUT

ROOT = Path(__file__).parents[3]
FILES = {
    "examples.arena.messages": "examples/arena/messages",
    "examples.codecs.messages:catalog": "examples/codecs/messages",
    "tests.typescript.messages:CATALOG": "clients/typescript/tests/messages",
    "tests.unit.schema.messages:catalog": "clients/typescript/tests/every_type",
}
"""The files that are made of each catalog, without `.json` and `.ts`."""

MAKE = "gatelink messages export {} --out {}.json && gatelink messages typescript {}.json --out {}.ts"


@pytest.mark.parametrize("reference", FILES)
def test_the_files_in_the_repository_are_current(reference: str) -> None:
    """Exported in another process: the default catalog of this one has the messages of other tests."""
    code = "from gatelink.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "messages", "export", reference, "--out", "-"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONHASHSEED": "1",
        },  # the files were made with others, so the order of sets is not in them
        timeout=TEST_TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    path = ROOT / FILES[reference]
    fix = "generate it again: " + MAKE.format(reference, *[FILES[reference]] * 3)
    assert done.stdout == path.with_suffix(".json").read_text("utf-8"), fix
    assert typescript(load_schema(path.with_suffix(".json"))) == path.with_suffix(".ts").read_text("utf-8"), fix


def test_a_catalog_with_every_kind_of_node_uses_them_all() -> None:
    text = (ROOT / "clients/typescript/tests/every_type.json").read_text()
    kinds = {each.__struct_config__.tag for each in nodes.Node.__args__}
    missing = {kind for kind in kinds if f'"kind": "{kind}"' not in text}
    assert not missing


def of(*classes: type, **how: Any) -> Catalog:
    catalog = Catalog()
    for id, cls in enumerate(classes, 11001):
        catalog.add(id, cls, **how)
    return catalog


def with_field(hint: Any, **config: Any) -> Catalog:
    return of(msgspec.defstruct("Thing", [("value", hint)], **config))


REFUSED = {
    "complex": (complex, "Thing.value is complex, which messages.json can't express; make it a Struct"),
    "object": (object, "Thing.value is object, which messages.json can't express; write Any"),
    "raw": (msgspec.Raw, "Thing.value is msgspec.Raw, which messages.json can't express; write bytes, or Any"),
    "ext": (msgspec.msgpack.Ext, "Thing.value is msgspec.msgpack.Ext, which messages.json can't express; write bytes"),
    "item": (list[complex], r"Thing.value\[...\] is complex"),
    "key": (dict[complex, int], "a key of Thing.value is complex"),
    "place": (tuple[int, complex], r"Thing.value\[1\] is complex"),
    "optional": (complex | None, "Thing.value is complex"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_type_that_can_t_be_expressed_is_refused_with_its_field_and_a_way_out(what: str) -> None:
    hint, text = REFUSED[what]
    with pytest.raises(CatalogError, match=text):
        schema_of(with_field(hint))


def test_a_nested_field_is_named_by_its_own_class() -> None:
    class Inner(Struct):
        bad: complex

    with pytest.raises(CatalogError, match="Inner.bad is complex"):
        schema_of(with_field(list[Inner]))


def test_a_field_called_proto_is_refused() -> None:
    with pytest.raises(CatalogError, match="Thing.value is called __proto__ on the wire.*rename it"):
        schema_of(with_field(int, rename={"value": "__proto__"}))


def test_two_types_with_one_name_are_refused_and_a_message_s_name_is_a_way_out() -> None:
    def chat() -> type:
        class Chat(Struct):
            text: str

        return Chat

    catalog = of(chat())
    catalog.add(11002, chat(), name="Chat.")
    with pytest.raises(CatalogError, match=r"message 'Chat.' \(11002\) and message 'Chat' \(11001\) would both be"):
        schema_of(catalog)
    catalog = of(chat())
    catalog.add(11002, chat(), name="room.chat")
    assert list(schema_of(catalog).types) == ["Chat", "RoomChat"]
    catalog = of(chat(), msgspec.defstruct("Nest", [("chat", chat())]))
    with pytest.raises(CatalogError, match="Chat and message 'Chat'.*rename one class"):
        schema_of(catalog)


def test_a_name_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(CatalogError, match="begins with a letter.*@message"):
        schema_of(of(msgspec.defstruct("Größe", [])))


@pytest.mark.parametrize("name", ["delete", "string", "Map", "list", "withDefault"])
def test_words_of_typescript_and_of_the_sdk_are_refused_as_names(name: str) -> None:
    schema = schema_of(of(msgspec.defstruct(name, [])))
    with pytest.raises(CatalogError, match=f"type '{name}' has a .* as its name; rename its class"):
        typescript(schema)


def test_names_of_fields_may_be_reserved_words() -> None:
    text = typescript(schema_of(of(msgspec.defstruct("Thing", [("default", int), ("delete", int)]))))
    assert "  default: number;\n  delete: number;\n" in text


def test_fields_that_javascript_would_reorder_are_refused_where_their_order_counts() -> None:
    cls = msgspec.defstruct("Thing", [("a", int), ("b", int)], rename={"b": "0"}, array_like=True)
    with pytest.raises(CatalogError, match="Thing.0: JavaScript moves fields"):
        typescript(schema_of(of(cls)))


def test_a_union_that_msgspec_misreads_is_refused() -> None:
    """Shown on nodes alone: to inspect such a class may end the process."""
    assert breaks_msgspec(UnionNode((TupleNode((IntNode(),)), IntNode(ge=1))))
    assert breaks_msgspec(UnionNode((ListNode(IntNode()), StrNode(pattern="a"))))
    assert not breaks_msgspec(UnionNode((ListNode(IntNode(), max_length=2), StrNode(max_length=3))))


def test_rates_of_handlers_are_in_the_file() -> None:
    catalog = with_field(int)
    schema = schema_of(catalog, {11001: 2.5})
    assert schema.messages[0].rate == 2.5
    assert "At most 2.5 a second" in typescript(schema)


def test_docs_are_those_of_the_class_alone() -> None:
    """Not those of its base, nor those that dataclasses and NamedTuple write."""

    class Documented(Struct):
        """Text."""

    class Silent(Documented):
        pass

    class Colour(enum.Enum):
        """Its own."""

        RED = 1

    schema = schema_of(of(Documented, Silent, msgspec.defstruct("Thing", [("c", Colour)])))
    docs = {name: found.doc for name, found in schema.types.items()}
    assert docs == {"Documented": "Text.", "Silent": "", "Colour": "Its own.", "Thing": ""}


def test_a_default_that_json_can_t_write_is_left_to_the_receiver() -> None:
    fields = [("a", float, float("nan")), ("b", float, float("inf")), ("c", float, 1.0)]
    found = schema_of(of(msgspec.defstruct("Thing", fields))).types["Thing"]
    assert isinstance(found, StructDef)
    assert [field.default for field in found.fields] == [msgspec.UNSET, msgspec.UNSET, 1.0]


def test_a_text_from_outside_can_t_leave_its_place_in_the_code() -> None:
    cls = msgspec.defstruct("Thing", [("value", str, '"); alert(1); ("')], namespace={"__doc__": "*/ alert(2) /*"})
    catalog = of()
    catalog.add(11001, cls, name='x"y')
    text = typescript(schema_of(catalog))
    assert r'withDefault(str, "\"); alert(1); (\"")' in text and r'"x\"y"' in text and "*/ alert" not in text


def test_aliases_of_an_enum_are_members_too() -> None:
    class Colour(enum.IntEnum):
        RED = 1
        CRIMSON = 1

    found = schema_of(with_field(Colour)).types["Colour"]
    assert isinstance(found, EnumDef) and [member.name for member in found.members] == ["RED", "CRIMSON"]


def test_the_same_catalog_gives_the_same_text() -> None:
    catalog = load("tests.unit.schema.messages:catalog", Catalog)
    assert schema_json(schema_of(catalog)) == schema_json(schema_of(catalog))
