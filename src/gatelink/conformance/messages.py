"""The messages of the conformance kit: one that counts, one with every type in each codec, a request.

An SDK generates its own from `gatelink messages export gatelink.conformance.messages:catalog`.
"""

from datetime import UTC, datetime
from enum import Enum
from typing import Literal

from msgspec import Struct, field

from gatelink.wire.codecs import F32, F64, I8, I16, I32, I64, U8, U16, U32, U64
from gatelink.wire.messages import Catalog, Request

catalog = Catalog()


@catalog.message(11101)
class Count(Struct):
    """The message that is counted: each side numbers its own from 0."""

    number: U64
    text: str = ""


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Point(Struct):
    x: float
    y: float = 0.5


class Pair(Struct, array_like=True):
    left: int
    right: str


class Circle(Struct, tag="circle"):
    radius: float


class Square(Struct, tag="square"):
    side: float


class Kinds(Struct, rename="camel"):
    """Every kind of field that messages may have."""

    small_int: U8
    large_int: U64
    signed_int: I64
    real: float
    yes: bool
    nothing: None
    maybe: int | None
    text: str
    data: bytes
    numbers: list[I64]
    mixed: tuple[int, str]
    table: dict[str, int]
    words: set[str]
    color: Color
    state: Literal["on", "off"]
    when: datetime
    point: Point
    pair: Pair
    shape: Circle | Square
    left_out: int = 7
    empty: list[int] = field(default_factory=list)


@catalog.message(11102)
class Everything(Kinds):
    """All of it as MessagePack."""


@catalog.message(11103, codec="json")
class EverythingJson(Kinds):
    """All of it as JSON."""


@catalog.message(11104, codec="binary")
class Fields(Struct):
    """The binary layout: numbers of each width, text and bytes."""

    u8: U8
    u16: U16
    u32: U32
    u64: U64
    i8: I8
    i16: I16
    i32: I32
    i64: I64
    f32: F32
    f64: F64
    yes: bool
    text: str
    data: bytes


@catalog.message(11105)
class Raw(bytes):
    """Bytes as they are."""


@catalog.message(11107)
class Told(Struct):
    """The answer to `Ask`."""

    number: U64


@catalog.message(11106)
class Ask(Struct, Request[Told]):
    """A request, of either side. From 1000 on it is refused with its number."""

    number: U64


UNKNOWN_ID = 11999
"""No message has it: an SDK drops what comes with it, and counts it."""

TEXTS = ("", "plain", 'quote " backslash \\ tab \t', "Größe, 東京, 🎲, e\u0301", "\x00\x7f\u2028")


def samples(kind: type[Kinds]) -> list[Kinds]:
    """Messages of `kind` with the values at which decoders err."""
    return [
        kind(
            small_int=small,
            large_int=large,
            signed_int=signed,
            real=real,
            yes=bool(index % 2),
            nothing=None,
            maybe=maybe,
            text=TEXTS[index % len(TEXTS)],
            data=bytes(range(index * 5)),
            numbers=[signed, 0, -signed if signed > -(2**63) else 1, *range(index * 3)],
            mixed=(index, TEXTS[-1 - index % len(TEXTS)]),
            table={TEXTS[each]: each for each in range(index % len(TEXTS))},
            words=set(TEXTS[: index % len(TEXTS)]),
            color=Color.BLUE if index % 2 else Color.RED,
            state="off" if index % 2 else "on",
            when=datetime(1970 + 13 * index, 1 + index, 1, 23, 59, 59, 250_000 * (index % 4), tzinfo=UTC),
            point=Point(real, -0.25 * index),
            pair=Pair(-index, "right"),
            shape=Circle(1.5) if index % 2 else Square(-2.25),
            left_out=7 if index % 2 else 2**31,
            empty=[] if index % 2 else [index],
        )
        for index, (small, large, signed, real, maybe) in enumerate(
            [
                (0, 0, 0, 0.0, None),
                (127, 2**53 - 1, -(2**53) + 1, 0.1, 0),
                (128, 2**53 + 1, 2**53 + 1, -1.5e300, -1),
                (255, 2**64 - 1, 2**63 - 1, 5e-324, 2**31),
                (1, 2**63, -(2**63), 1.0, -(2**31) - 1),
                (42, 10_000_000_000_000_000_001, -(2**53) - 1, 123456789.125, 65_536),
            ]
        )
    ]


def layouts() -> list[Fields]:
    """Messages in the binary layout, with the ends of each field's range."""
    return [
        Fields(0, 0, 0, 0, -128, -(2**15), -(2**31), -(2**63), -0.5, 5e-324, False, "", b""),
        Fields(
            255,
            65_535,
            2**32 - 1,
            2**64 - 1,
            127,
            2**15 - 1,
            2**31 - 1,
            2**63 - 1,
            0.25,
            -1.5e300,
            True,
            "ü",
            b"\0\xff",
        ),
        Fields(1, 2, 3, 2**53 + 1, -1, -2, -3, -(2**53) - 1, 1.5, 0.1, True, TEXTS[3], bytes(300)),
    ]
