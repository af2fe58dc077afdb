"""Every codec: what goes in comes out, and any bytes give a message or an exception."""

import enum
from collections.abc import Callable
from math import isnan
from typing import Annotated, Any

import msgspec
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from msgspec import DecodeError, Struct, ValidationError

from gatelink.config import WireOptions
from gatelink.errors import BodyError, CatalogError, MessageTooLarge
from gatelink.wire.codecs import (
    BINARY,
    BINARY_STRICT,
    CODECS,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    JSON,
    MSGPACK,
    PROTOBUF,
    RAW,
    U8,
    U16,
    U32,
    U64,
    Codec,
    decode_error,
)
from gatelink.wire.messages import Catalog
from tests.fakes import Bench


class Item(Struct):
    name: str
    count: int


class Bag(Struct):
    owner: str
    items: list[Item] = []
    note: bytes | None = None


class Everything(Struct):
    a: U8
    b: U16
    c: U32
    d: U64
    e: I8
    f: I16
    g: I32
    h: I64
    i: bool
    name: str
    blob: bytes
    j: F32
    k: F64
    last: str


class Numbers(Struct):
    x: I16
    y: I16
    on: bool


class Text(Struct):
    text: str


class Position(bytes):
    pass


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


counts = st.integers(-(1 << 63), (1 << 64) - 1)
bags = st.builds(Bag, st.text(), st.lists(st.builds(Item, st.text(), counts), max_size=5), st.none() | st.binary())
everythings = st.builds(
    Everything,
    *(integers(bits, signed) for signed in (False, True) for bits in (8, 16, 32, 64)),
    st.booleans(),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.floats(width=32, allow_nan=False),
    st.floats(allow_nan=False),
    st.text(max_size=50),
)
EVERYTHING = Everything(1, 2, 3, 4, -5, -6, -7, -8, True, "näme", b"\x00\xff", 0.5, -0.25, "")

CASES: list[tuple[Codec, type, st.SearchStrategy[Any]]] = [
    (MSGPACK, Bag, bags),
    (JSON, Bag, bags),
    (BINARY, Everything, everythings),
    (PROTOBUF, StringValue, st.builds(StringValue, value=st.text())),
    (RAW, Position, st.builds(Position, st.binary())),
]
every_codec = pytest.mark.parametrize(
    ("codec", "cls", "messages"), CASES, ids=["msgpack", "json", "binary", "protobuf", "raw"]
)


@every_codec
@given(data=st.data())
def test_what_is_encoded_comes_back(
    codec: Codec, cls: type, messages: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    encode, decode = codec.bind(cls)
    message = data.draw(messages)
    body = encode(message)
    assert type(body) is bytes
    back = decode(body)
    assert type(back) is cls
    assert back == message


@every_codec
@given(data=st.data())
def test_any_bytes_give_a_message_or_an_exception(
    codec: Codec, cls: type, messages: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    encode, decode = codec.bind(cls)
    body = bytearray(encode(data.draw(messages)))
    for at in data.draw(st.lists(st.integers(0, max(len(body) - 1, 0)), max_size=3)):
        body[at : at + 1] = data.draw(st.binary(max_size=3))
    for candidate in (bytes(body), data.draw(st.binary())):
        try:
            message = decode(candidate)
        except Exception:
            continue
        assert type(message) is cls


@pytest.mark.parametrize("codec", [MSGPACK, JSON, BINARY_STRICT], ids=["msgpack", "json", "binary-strict"])
def test_bytes_behind_the_message_are_refused(codec: Codec) -> None:
    encode, decode = codec.bind(Text)
    body = encode(Text("hello"))
    with pytest.raises((BodyError, DecodeError), match="trailing|expected 7"):
        decode(body + body)


def test_the_binary_layout_skips_fields_of_a_newer_version() -> None:
    encode, decode = BINARY.bind(Text)
    assert decode(encode(Text("hello")) + b"more") == Text("hello")
    with pytest.raises(BodyError):
        decode(encode(Text("hello"))[:-1])


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])
def test_a_field_of_another_type_is_refused(codec: Codec) -> None:
    encode, _ = codec.bind(Text)
    _, decode = codec.bind(Item)
    with pytest.raises(ValidationError, match="missing required field"):
        decode(encode(Text("hello")))


def test_a_huge_declared_list_costs_nothing() -> None:
    _, decode = MSGPACK.bind(Bag)
    with pytest.raises(DecodeError, match="truncated"):
        decode(b"\x82\xa5owner\xa1a\xa5items\xdd\xff\xff\xff\xff")


# -- binary --


def test_binary_is_the_protocols_layout() -> None:
    encode, _ = BINARY.bind(Everything)
    assert encode(EVERYTHING) == bytes.fromhex(
        "01 0200 03000000 0400000000000000 fb faff f9ffffff f8ffffffffffffff 01"
        "0500 6ec3a46d65 0200 00ff 0000003f 000000000000d0bf 0000"
    )


def test_every_cut_of_a_binary_body_is_a_body_error() -> None:
    encode, decode = BINARY.bind(Everything)
    body = encode(EVERYTHING)
    for size in range(len(body)):
        with pytest.raises(BodyError, match="Everything: body"):
            decode(body[:size])
    with pytest.raises(BodyError, match="Everything: body"):
        BINARY_STRICT.bind(Everything)[1](body + b"\x00")


@given(st.binary(max_size=80))
def test_any_bytes_give_binary_messages_or_a_body_error(body: bytes) -> None:
    for cls in (Everything, Numbers, Text):
        _, decode = BINARY.bind(cls)
        try:
            assert type(decode(body)) is cls
        except BodyError:
            pass


@given(st.binary(max_size=200))
def test_text_that_is_not_utf8_survives(text: bytes) -> None:
    encode, decode = BINARY.bind(Text)
    body = len(text).to_bytes(2, "little") + text
    assert encode(decode(body)) == body


def test_not_a_number_survives() -> None:
    class Reading(Struct):
        value: F64

    encode, decode = BINARY.bind(Reading)
    assert isnan(decode(encode(Reading(float("nan")))).value)


def test_the_longest_text_passes_and_the_next_is_too_large() -> None:
    encode, decode = BINARY.bind(Text)
    assert decode(encode(Text("x" * 65_535))) == Text("x" * 65_535)
    with pytest.raises(MessageTooLarge, match=r"Text\.text is 65536 bytes"):
        encode(Text("ä" * 32_768))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Numbers(40_000, 0, True), r"Numbers\.x can't be this int: "),
        (lambda: Numbers(0, "1", True), r"Numbers\.y can't be this str: "),  # type: ignore[arg-type]
        (lambda: Text(None), r"Text\.text must be str, got NoneType"),  # type: ignore[arg-type]
        (lambda: Text(b"hello"), r"Text\.text must be str, got bytes"),  # type: ignore[arg-type]
    ],
    ids=["number too large", "no number", "None for a str", "bytes for a str"],
)
def test_a_value_that_does_not_fit_names_its_field(make: Callable[[], Struct], text: str) -> None:
    message = make()
    encode, _ = BINARY.bind(type(message))
    with pytest.raises(ValueError, match=text):
        encode(message)


def test_a_float_over_its_width_names_its_field() -> None:
    class Speed(Struct):
        value: F32

    encode, _ = BINARY.bind(Speed)
    with pytest.raises(ValueError, match=r"Speed\.value can't be this float: "):
        encode(Speed(1e300))


def test_a_binary_class_may_refuse_its_fields() -> None:
    class Even(Struct):
        number: U8

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    _, decode = BINARY.bind(Even)
    assert decode(b"\x02").number == 2
    with pytest.raises(BodyError, match="Even refuses its fields: ValueError$"):
        decode(b"\x01")


def test_binary_refuses_a_field_without_width() -> None:
    with pytest.raises(CatalogError, match=r"Item\.count is <class 'int'>, which has no width"):
        BINARY.bind(Item)


def test_binary_refuses_fields_without_order() -> None:
    class Keyed(Struct, kw_only=True):
        a: U8

    with pytest.raises(CatalogError, match="kw_only"):
        BINARY.bind(Keyed)


# -- which class is for which codec --


@pytest.mark.parametrize("name", list(CODECS))
def test_a_codec_refuses_a_class_that_it_can_not_serve(name: str) -> None:
    class Plain:
        pass

    with pytest.raises(CatalogError, match=f"codec {name} is for"):
        CODECS[name].bind(Plain)


# -- what is wrong with a body --


class Inner(msgspec.Struct):
    count: int


class Kind(enum.Enum):
    A = "a"


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=5)]
    inner: Inner
    many: list[Inner] = []
    table: dict[str, int] = {}
    kind: Kind = Kind.A

    def __post_init__(self) -> None:
        if self.text == "s3cret":
            raise ValueError(f"{self.text} is refused")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": 5, "inner": {"count": 1}}, "Expected `str`, got `int` at text"),
        ({"text": "s3cret more", "inner": {"count": 1}}, "Expected `str` of length <= 5 at text"),
        ({"text": "a", "inner": {"count": "s3cret"}}, "Expected `int`, got `str` at inner.count"),
        ({"text": "a", "inner": {"count": 1}, "many": [{"count": "s3cret"}]}, "got `str` at many[0].count"),
        ({"text": "a", "inner": {"count": 1}, "table": {"s3cret": "x"}}, "Expected `int`, got `str` at table[...]"),
        ({"text": "a"}, "Object missing required field `inner`"),
        ({"text": "a", "inner": {}}, "Object missing required field `count` at inner"),
        ({"text": "a", "inner": {"count": 1}, "kind": "s3cret"}, "ValidationError at kind"),
        ({"text": "a", "inner": {"count": 1}, "s3cret": 1}, "ValidationError"),
    ],
)
@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_an_error_names_the_field_and_nothing_of_the_body(codec: str, body: Any, said: str) -> None:
    _, decode = CODECS[codec].bind(Outer)
    encoded = msgspec.msgpack.encode(body) if codec == "msgpack" else msgspec.json.encode(body)
    with pytest.raises(msgspec.ValidationError) as caught:
        decode(encoded)
    assert decode_error(caught.value).endswith(said)
    assert "s3cret" not in decode_error(caught.value)


@pytest.mark.parametrize("codec", ["msgpack", "json", "binary", "binary-strict"])
def test_what_a_class_itself_says_of_its_fields_is_left_out(codec: str) -> None:
    class Picky(msgspec.Struct):
        text: str

        def __post_init__(self) -> None:
            raise ValueError(f"{self.text} is refused")

    bodies = {"msgpack": msgspec.msgpack.encode({"text": "s3cret"}), "json": b'{"text": "s3cret"}'}
    _, decode = CODECS[codec].bind(Picky)
    with pytest.raises((msgspec.ValidationError, BodyError)) as caught:
        decode(bodies.get(codec, b"\x06\x00s3cret"))
    said = str(caught.value) if isinstance(caught.value, BodyError) else decode_error(caught.value)
    assert "s3cret" not in said and "is refused" not in said


class Path(bytes):
    """Steps of two bytes, with methods of its own."""

    def __len__(self) -> int:
        return super().__len__() // 2

    def __bytes__(self) -> bytes:
        return b"a path"

    def __radd__(self, other: bytes) -> bytes:
        return other


class Steps(Struct):
    path: bytes


class Own:
    """A codec of the application, whose bodies are of a class of its own."""

    def bind(self, cls: type) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return lambda message: Path(message.path), lambda body: cls(body)


@pytest.mark.parametrize("options", [WireOptions(), WireOptions(compress_over=1), WireOptions(scramble=True)])
async def test_a_body_with_methods_of_its_own_is_sent_as_the_bytes_that_it_has(options: WireOptions) -> None:
    catalog = Catalog()
    catalog.add(11_001, Path)
    catalog.add(11_002, Steps, codec=Own())
    bench = Bench(options=options, catalog=catalog)
    session, stream = bench.session()
    session.send(Path(b"12345"))
    session.send(Steps(b"12345"))
    session.flush()
    assert [bench.context.open_body(flags, body) for _, flags, body in stream.frames] == [b"12345"] * 2
