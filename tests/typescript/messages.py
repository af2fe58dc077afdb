"""The messages of the SDK's tests. `gatelink messages` makes clients/typescript/tests/messages.ts of them."""

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from gatelink import Catalog
from gatelink.wire.codecs import F32, F64, I16, I64, U8, U16, U32, U64
from gatelink.wire.messages import Request

CATALOG = Catalog()


@CATALOG.message(11_001)
class Echo(Struct):
    """Comes back as it was sent."""

    n: int
    text: str = ""


@CATALOG.message(11_002)
class Blob(bytes):
    """Comes back as it was sent."""


@CATALOG.message(11_004)
class Sum(Struct):
    total: U64


@CATALOG.message(11_003)
class Add(Struct, Request[Sum]):
    numbers: list[U64]


@CATALOG.message(11_006)
class Told(Struct):
    n: int


@CATALOG.message(11_005)
class Ask(Struct, Request[Told]):
    """The server asks the client: what is this number, doubled?"""

    n: int


@CATALOG.message(11_007)
class Order(Struct):
    """Tells the server to do something to this session."""

    what: str
    n: int = 0


class Point(Struct):
    x: float
    y: float = 0


class Pair(Struct, array_like=True):
    a: int
    b: str


class Circle(Struct, tag="circle"):
    r: float


class Square(Struct, tag="square"):
    side: int


class Tree(Struct):
    value: int
    children: "list[Tree]" = []


class Mood(Enum):
    HAPPY = "happy"
    SAD = "sad"


class Everything(Struct, kw_only=True):
    flag: bool
    whole: int
    long: I64
    real: float
    text: str
    data: bytes
    nothing: None
    perhaps: str | None
    items: list[int]
    pair: tuple[int, str]
    names: set[str]
    ages: dict[str, int]
    by_id: dict[U64, Point] = field(name="byId")
    mood: Mood
    level: Literal[1, 2, 3]
    when: datetime
    at: Point
    both: Pair
    shape: Circle | Square
    mixed: int | str | None
    number: int | float
    tree: Tree
    bounded: Annotated[int, Meta(ge=0, lt=10)]
    word: Annotated[str, Meta(min_length=1, max_length=4, pattern="^[a-zé]+$")]
    camel_case: U8 = field(name="camelCase")
    unset: int | UnsetType = UNSET
    defaulted: list[int] = []
    whatever: Any


@CATALOG.message(11_010)
class InMsgpack(Everything, kw_only=True):
    pass


@CATALOG.message(11_011, codec="json")
class InJson(Everything, kw_only=True):
    pass


class Fixed(Struct):
    a: U8
    b: U16
    c: U32
    d: U64
    e: I16
    f: I64
    g: F32
    h: F64
    flag: bool
    text: str
    data: bytes
    last: U8


@CATALOG.message(11_012, codec="binary")
class InBinary(Fixed):
    pass


@CATALOG.message(11_013, codec="binary-strict")
class InBinaryStrict(Fixed):
    pass
