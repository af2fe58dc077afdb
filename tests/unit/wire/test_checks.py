"""The decoder of a class takes all that `encode` takes; else `encode` says which field of which class is wrong."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from gatelink.errors import BodyError, InvalidMessage, LocalError, MessageTooLarge
from gatelink.wire.codecs import BINARY, F32, I8, JSON, MSGPACK, PROTOBUF, RAW, U16, U64, Codec
from gatelink.wire.messages import Catalog


class Plain(Struct):
    n: int
    x: float
    text: str
    data: bytes
    on: bool


class Optional(Struct, array_like=True):
    n: int | None = None
    x: float | None = None
    text: str | None = None


class Bounded(Struct):
    level: Annotated[int, Meta(ge=1, le=99)]
    name: Annotated[str, Meta(min_length=1, max_length=8)] = "a"


class Inner(Struct, forbid_unknown_fields=True):
    values: list[float]


class Nested(Struct, tag=True, rename="camel"):
    first_inner: Inner
    by_name: dict[str, float | None]
    kind: Literal["a", "b"] = "a"


class Anything(Struct):
    value: Any


class Proud(Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n == 13:
            raise ValueError("unlucky")


class Empty(Struct):
    pass


class Packed(Struct):
    small: I8
    large: U64
    x: F32
    on: bool
    text: str
    data: bytes


class PackedProud(Struct):
    n: U16

    def __post_init__(self) -> None:
        if self.n == 13:
            raise ValueError("unlucky")


class Body(bytes):
    pass


STRUCTS = [Plain, Optional, Bounded, Inner, Nested, Anything, Proud, Empty]
BOUND: list[tuple[Codec, type]] = [
    *((MSGPACK, cls) for cls in STRUCTS),
    *((JSON, cls) for cls in STRUCTS),
    (BINARY, Packed),
    (BINARY, PackedProud),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 13, 100, 2**63, 2**64, -(2**63) - 1])
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["\ud800", "\udc80", "null"])
    | st.builds(lambda: "x" * 70_000)
    | st.builds(lambda: 10**5_000)
    | st.binary()
    | st.builds(lambda: bytearray(b"array"))
    | st.builds(lambda: memoryview(b"view1234").cast("I"))
    | st.builds(object)
)
values = st.recursive(
    scalars | st.builds(Inner, st.lists(st.floats() | st.integers() | st.none())),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.floats() | st.none(), inner, max_size=3)
        | st.builds(Inner, inner)
    ),
    max_leaves=8,
)


def made(cls: type, fields: list[Any]) -> Any:
    """An instance that no `__post_init__` has looked at, as one that a handler changed."""
    message = cls(*[0] * len(fields))
    for name, value in zip(cls.__struct_fields__, fields, strict=True):  # type: ignore[attr-defined]
        setattr(message, name, value)
    return message


@given(data=st.data())
@pytest.mark.parametrize(("codec", "cls"), BOUND, ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_what_encode_takes_decode_takes(codec: Codec, cls: type, data: st.DataObject) -> None:
    encode, decode = codec.bind(cls)
    count = len(cls.__struct_fields__)  # type: ignore[attr-defined]
    message = made(cls, data.draw(st.lists(values, min_size=count, max_size=count)))
    try:
        body = encode(message)
    except (InvalidMessage, MessageTooLarge) as error:
        assert cls.__qualname__ in str(error)
        return
    assert type(body) is bytes
    decode(body)
    if codec is JSON:
        assert is_finite(message), "it would be read as None"


def is_finite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case Struct():
            return all(is_finite(getattr(value, name)) for name in value.__struct_fields__)
        case dict():
            return all(map(is_finite, value.values()))
        case list():
            return all(map(is_finite, value))
    return True


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("codec", "message", "words"),
    [
        (JSON, Plain(1, math.nan, "", b"", True), r"Plain\.x is NaN or infinite"),
        (JSON, Optional(x=math.inf), r"Optional\[1\] is NaN or infinite"),
        (JSON, Nested(Inner([1.0, -math.inf]), {}), r"Nested\.firstInner\.values\[1\] is NaN or infinite"),
        (JSON, Nested(Inner([]), {SECRET + " ": math.nan}), r"Nested\.byName\[\.\.\.\] is NaN or infinite"),
        (JSON, Anything([{"x": math.nan}]), r"Anything\.value\[0\]\.x is NaN"),
        (MSGPACK, made(Plain, [1, 1.0, 5, b"", True]), r"Plain: Expected `str`, got `int`, at `\$\.text`"),
        (MSGPACK, Plain(2**64, 1.0, SECRET, b"", True), r"Plain\.n can't be written: OverflowError"),
        (MSGPACK, Plain(1, 1.0, SECRET + "\ud800", b"", True), r"Plain\.text can't be written: UnicodeEncodeError"),
        (MSGPACK, Bounded(100, SECRET), r"Bounded: Expected `int` <= 99, at `\$\.level`"),
        (JSON, Bounded(5, SECRET * 2), r"Bounded: Expected `str` of length <= 8, at `\$\.name`"),
        (
            JSON,
            made(Nested, [Inner([]), {}, SECRET]),
            r"Nested: a value that the decoder of its class refuses, at `\$\.kind`",
        ),
        (MSGPACK, made(Proud, [13]), r"Proud: a value that the decoder of its class refuses"),
        (MSGPACK, made(Empty, []), ""),
        (BINARY, Packed(200, 0, 0.0, True, SECRET, b""), r"Packed\.small can't be this int"),
        (BINARY, Packed(0, -1, 0.0, True, SECRET, b""), r"Packed\.large can't be this int"),
        (BINARY, Packed(0, 0, 1e300, True, SECRET, b""), r"Packed\.x can't be this float"),
        (BINARY, Packed(0, 0, 0.0, True, SECRET + "\ud800", b""), r"Packed\.text has surrogates"),
        (BINARY, made(Packed, [0, 0, 0.0, True, "", SECRET]), r"Packed\.data must be bytes, got str"),
        (BINARY, made(PackedProud, [13]), r"PackedProud: a value that the decoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_error_names_class_and_field_and_nothing_of_the_value(codec: Codec, message: Any, words: str) -> None:
    encode, decode = codec.bind(type(message))
    if not words:
        assert decode(encode(message)) == message
        return
    with pytest.raises(InvalidMessage, match=words) as caught:
        encode(message)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None
    assert isinstance(caught.value, LocalError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])
@pytest.mark.parametrize(
    "message",
    [
        Plain(5, 1, "", b"", False),  # an int is a float
        Optional(),
        Plain(1, 1.5, "null", b"null", True),
        Nested(Inner([1, 2.5]), {"x": None, "null": 1.0}),
        Anything({"a": [None, 1.5, "null"]}),
        Bounded(99),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_good_is_written(codec: Codec, message: Struct) -> None:
    encode, decode = codec.bind(type(message))
    assert decode(encode(message)) == message


def test_a_codec_of_your_own_gives_bytes() -> None:
    class Lines:
        def bind(self, cls: type) -> tuple[Callable[[Any], Any], Callable[[bytes], Any]]:
            return str, bytes.decode

    catalog = Catalog()
    catalog.add(11_001, Plain, codec=Lines())
    with pytest.raises(InvalidMessage, match="codec of Plain gave a str; it must give bytes"):
        catalog.encode(Plain(1, 1.0, "", b"", True))


# -- Protocol Buffers --

FIELD = descriptor_pb2.FieldDescriptorProto


def generated(name: str, syntax: str, *fields: tuple[str, int, int, str]) -> Any:
    """A class as protoc makes it. fields: name, type, label and, of a message, the full name of its type."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=f"tests.{name}", syntax=syntax)
    message = file.message_type.add(name="M")
    for number, (field, kind, label, of) in enumerate(fields, 1):
        message.field.add(name=field, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}.M"))


Required = generated("required", "proto2", ("a", FIELD.TYPE_INT32, 2, ""), ("b", FIELD.TYPE_STRING, 1, ""))
Tree = generated("tree", "proto3", ("child", FIELD.TYPE_MESSAGE, 1, ".tests.tree.M"))
Free = generated("free", "proto3", ("n", FIELD.TYPE_UINT64, 1, ""), ("x", FIELD.TYPE_DOUBLE, 1, ""))


def test_a_required_field_that_is_not_set_is_neither_sent_nor_heard() -> None:
    encode, decode = PROTOBUF.bind(Required)
    with pytest.raises(InvalidMessage, match="required and not set: a"):
        encode(Required(b=SECRET))
    with pytest.raises(BodyError, match="required and not set: a"):
        decode(Required(b=SECRET).SerializePartialToString())
    assert decode(encode(Required(a=1))).a == 1


def test_a_message_that_is_nested_too_deeply_for_the_decoder_is_not_sent() -> None:
    encode, decode = PROTOBUF.bind(Tree)
    tree = Tree()
    leaf = tree
    for _ in range(90):
        leaf = leaf.child
    leaf.SetInParent()
    assert decode(encode(tree)) == tree
    for _ in range(90):
        leaf = leaf.child
    leaf.SetInParent()
    with pytest.raises(InvalidMessage, match="M: "):
        encode(tree)


def test_a_class_that_can_hide_nothing_is_written_by_its_own_method() -> None:
    encode, decode = PROTOBUF.bind(Free)
    assert encode is Free.SerializeToString
    assert math.isnan(decode(encode(Free(n=2**64 - 1, x=math.nan))).x)


def test_a_raw_message_is_its_body() -> None:
    encode, decode = RAW.bind(Body)
    assert decode(encode(Body(b"\xff"))) == b"\xff"
