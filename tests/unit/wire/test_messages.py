"""The catalog: which ids a message may have, and which codec a class gets."""

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from msgspec import Struct

import gatelink.wire.messages as messages
from gatelink.errors import CatalogError
from gatelink.wire.base import BASE_MESSAGES
from gatelink.wire.codecs import U8, Decode, Encode
from gatelink.wire.messages import Catalog


class Say(Struct):
    text: str


class Move(Struct):
    x: U8


class Position(bytes):
    pass


class Plain:
    pass


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


def test_a_new_catalog_has_the_base_messages_and_no_others(catalog: Catalog) -> None:
    found = [(kind.id, kind.name, kind.type) for kind in catalog.by_id.values()]
    assert found == list(BASE_MESSAGES)
    assert not any(kind.compress for kind in catalog.by_id.values())


def test_a_registered_class_is_found_by_id_type_and_name(catalog: Catalog) -> None:
    kind = catalog.add(11_001, Say)
    assert catalog.by_id[11_001] is catalog.by_type[Say] is catalog.by_name["Say"] is kind
    assert (kind.id, kind.name, kind.type, kind.compress) == (11_001, "Say", Say, True)


def test_the_decorator_registers_and_gives_the_class_back(catalog: Catalog) -> None:
    @catalog.message(11_002, name="shout", codec="json", compress=False)
    class Shout(Struct):
        text: str

    kind = catalog.by_name["shout"]
    assert kind.type is Shout
    assert not kind.compress
    assert catalog.encode(Shout("hi")) == (kind, b'{"text":"hi"}')


def test_the_modules_decorator_registers_in_the_default_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    default = messages.catalog
    for table in ("by_id", "by_type", "by_name"):
        monkeypatch.setattr(default, table, dict(getattr(default, table)))
    messages.message(59_999, name="OfThisTestAlone")(Say)
    assert default.by_type[Say].id == 59_999


def test_encode_gives_the_type_and_the_body(catalog: Catalog) -> None:
    kind = catalog.add(11_001, Say)
    found, body = catalog.encode(Say("hello"))
    assert found is kind
    assert kind.decode(body) == Say("hello")


def test_encoding_what_is_not_registered_says_how_to(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"Say is not a message of this catalog; decorate it with @message\(id\)"):
        catalog.encode(Say("hello"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("hello", "str is no message; give an object of a class with @message"),
        (None, "NoneType is no message; give"),
        ({"text": "hello"}, "dict is no message; give"),
        (Say, r"a class is no message; give an object of it, as Hello\(\)"),
    ],
)
def test_encoding_what_could_be_no_message_says_what_to_give(catalog: Catalog, wrong: object, words: str) -> None:
    catalog.add(11_001, Say)
    with pytest.raises(CatalogError, match=words):
        catalog.encode(wrong)


# -- codecs --


@pytest.mark.parametrize(
    ("cls", "value", "body"),
    [
        (Say, Say("a"), b"\x81\xa4text\xa1a"),
        (StringValue, StringValue(value="a"), b"\x0a\x01a"),
        (Position, Position(b"\x01\x02"), b"\x01\x02"),
    ],
    ids=["Struct is msgpack", "generated class is protobuf", "bytes are raw"],
)
def test_a_class_has_a_codec_by_itself(catalog: Catalog, cls: type, value: Any, body: bytes) -> None:
    kind = catalog.add(11_001, cls)
    assert catalog.encode(value) == (kind, body)
    assert kind.decode(body) == value
    assert type(kind.decode(body)) is cls


def test_a_class_without_a_codec_is_told_what_is_possible(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"Plain has no codec .* msgspec\.Struct .* bytes .* protobuf .* codec="):
        catalog.add(11_001, Plain)


def test_an_unknown_codec_is_told_the_names(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="no codec 'yaml' for Say; there are msgpack, json, protobuf, raw, binary"):
        catalog.add(11_001, Say, codec="yaml")


def test_a_codec_of_your_own_is_used(catalog: Catalog) -> None:
    class Reversed:
        def bind(self, cls: type) -> tuple[Encode, Decode]:
            return lambda say: say.text[::-1].encode(), lambda body: cls(body.decode()[::-1])

    kind = catalog.add(11_001, Say, codec=Reversed())
    assert catalog.encode(Say("abc")) == (kind, b"cba")
    assert kind.decode(b"cba") == Say("abc")


def test_a_class_that_names_itself_is_told_to_register_below(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"'Missing' is not defined.*catalog\.add\(11001, Node\) below"):

        @catalog.message(11_001)
        class Node(Struct):
            next: "Missing | None" = None  # type: ignore[name-defined] # noqa: F821

    assert 11_001 not in catalog.by_id


# -- ids --


@pytest.mark.parametrize("id", [5, 23, 25, 99, 200, 10_999, 11_000, 59_999])
def test_applications_have_these_ids(catalog: Catalog, id: int) -> None:
    assert catalog.add(id, Say).id == id


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        (-1, "applications have 5 to 59999"),
        (0, "applications have 5 to 59999"),
        (1, "base messages"),
        (4, "base messages"),
        (24, "base messages"),
        (100, "between servers"),
        (199, "between servers"),
        (60_000, "applications have 5 to 59999"),
        (65_536, "applications have 5 to 59999"),
    ],
)
def test_applications_do_not_have_these_ids(catalog: Catalog, id: int, reason: str) -> None:
    with pytest.raises(CatalogError, match=f"Say can't have id {id}: .*{reason}"):
        catalog.add(id, Say)
    assert Say not in catalog.by_type


@pytest.mark.parametrize(
    ("id", "cls", "name", "same"),
    [
        (11_001, Move, None, "id 11001"),
        (11_002, Move, "Say", "name 'Say'"),
        (11_002, Say, "Tell", "class"),
        (11_001, Say, None, "id 11001"),
    ],
    ids=["same id", "same name", "same class", "all the same"],
)
def test_nothing_is_registered_twice(catalog: Catalog, id: int, cls: type, name: str | None, same: str) -> None:
    catalog.add(11_001, Say)
    before = dict(catalog.by_id)
    with pytest.raises(CatalogError, match=rf"\.{cls.__name__} \(id {id}, .* has the {same} of .*\.Say \(id 11001"):
        catalog.add(id, cls, name=name)
    assert catalog.by_id == before


def test_the_base_messages_names_are_taken(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"has the name 'HeartBeat' of gatelink\.wire\.base\.HeartBeat \(id 4"):
        catalog.add(11_001, Say, name="HeartBeat")


@pytest.mark.parametrize("id", [5, 500, 9_999, 10_999])
def test_an_id_of_the_original_engine_is_given_to_a_message_only_with_its_codec(catalog: Catalog, id: int) -> None:
    """`@message(500)` is a slip; nothing would route it."""
    with pytest.raises(CatalogError, match=rf"id {id} is the original engine's, .* 11000 to 59999; .*codec="):
        catalog.message(id)(Say)
    assert Say not in catalog.by_type
    catalog.message(id, codec="binary")(Move)
    assert catalog.by_type[Move].id == id


def test_a_decorator_without_an_id_is_refused_and_does_not_swallow_the_class(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"give it an int, as @message\(11001\)"):

        @catalog.message  # type: ignore[arg-type]
        class Say(Struct):
            text: str
