"""A catalog with every type that messages.json can express."""

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from gatelink import Catalog, Request
from gatelink.wire.codecs import F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Decode, Encode

catalog = Catalog()
T = TypeVar("T")


class Mood(enum.Enum):
    """How a player feels."""

    HAPPY = "happy"
    VERY_SAD = "very sad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.IntFlag):
    """What a player may do."""

    TALK = 1
    BAN = 2


class Circle(Struct, tag="circle"):
    radius: float


class Square(Struct, tag="square", tag_field="type"):
    side: float


class Line(Struct, tag=3, array_like=True):
    """An array on the wire: [3, from, to]."""

    start: float
    end: float = 1.0


class Disc(Struct, tag_field="type", tag="disc"):
    radius: float


class Box(Struct, Generic[T]):
    content: T


class Tree(Struct):
    """A type that contains itself."""

    name: str
    children: list["Tree"] = []


class Spot(NamedTuple):
    x: int
    y: int = 0


class Extra(TypedDict):
    note: NotRequired[str]
    size: int


@dataclass
class Colour:
    red: int = 0
    green: int = 0


@catalog.message(21001)
class Numbers(Struct):
    """Numbers, with bounds
    and without.

    A comment can't be ended by */ in it.
    """

    any_int: int
    bounded: Annotated[int, Meta(ge=0, lt=10)]
    far: Annotated[int, Meta(ge=-(2**63), le=2**62)]
    uid: U64
    small: U8
    even: Annotated[int, Meta(multiple_of=2)]
    any_float: float
    share: Annotated[float, Meta(gt=0, le=1, description="A part of the whole.")]
    ids: list[U64] = []
    count: int = 7
    uid_or_not: U64 | None = None
    zero: U64 = 0


@catalog.message(21002)
class Texts(Struct, rename="camel"):
    any_text: str
    short_text: Annotated[str, Meta(min_length=1, max_length=20, pattern="^[a-z]+$")]
    digits: Annotated[str, Meta(pattern=r"^\d+$")]
    data: bytes
    some_data: Annotated[bytes, Meta(max_length=4)] = b"ab"
    default_text: str = 'say "hello"'
    maybe_text: str | UnsetType = UNSET
    made: str = field(default_factory=lambda: "each time another")
    renamed: str = field(default="", name="a-b")


@catalog.message(21003)
class Times(Struct):
    at: datetime.datetime
    zoned: Annotated[datetime.datetime, Meta(tz=True)]
    day: datetime.date
    hour: datetime.time
    pause: datetime.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    since: datetime.datetime = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@catalog.message(21004)
class Containers(Struct):
    names: list[str]
    several: Annotated[list[int], Meta(min_length=1, max_length=3)]
    pair: tuple[int, str]
    row: tuple[int, ...]
    unique: set[int]
    frozen: frozenset[str]
    scores: dict[str, int]
    by_id: dict[int, list[float | None]]
    anything: Any
    boxed: Box[int]
    boxes: Box[list[str]]
    tags: set[str] = set()
    limits: dict[str, int] = {}
    origin: tuple[int, int] = (0, 0)
    nothing: None = None


@catalog.message(21005)
class Unions(Struct):
    shape: Disc | Square
    line: Line
    value: int | str | list[int] | None
    mood: Mood
    level: Level | None
    rights: Rights
    kind: Literal["a", "b"]
    number: Literal[1, 2, None]
    tree: Tree
    spot: Spot
    extra: Extra
    colour: Colour
    flag: bool
    feels: Mood = Mood.VERY_SAD
    start: Spot = Spot(1)
    best: Disc | Square = field(default_factory=lambda: Disc(1.0))


@catalog.message(21006, name="table.row")
class Row(Struct, array_like=True, forbid_unknown_fields=True):
    id: int
    name: str = "?"


@catalog.message(21007)
class Table(Struct):
    rows: list[Row]
    circle: Circle


@catalog.message(21008, compress=False)
class Ask(Struct, Request[Table], omit_defaults=True):
    """A request."""

    page: int = 0


@catalog.message(21009, codec="json")
class Profile(Struct):
    name: str
    moods: dict[Mood, int]


@catalog.message(21010, codec="binary")
class Fixed(Struct):
    a: U8
    b: U16
    c: U32
    d: U64
    e: I8
    f: I16
    g: I32
    h: I64
    i: F32
    j: F64
    k: bool
    l: str  # noqa: E741
    m: bytes


@catalog.message(21011, codec="binary-strict")
class Exact(Struct):
    a: U8


@catalog.message(21012)
class Voice(bytes):
    """Raw bytes."""


class Own:
    def bind(self, cls: type) -> tuple[Encode, Decode]:
        return msgspec.json.encode, msgspec.json.Decoder[Any](cls).decode


@catalog.message(21013, codec=Own())
@dataclass
class Spell:
    name: str


@catalog.message(21014, answer=Table)
class Find(bytes):
    pass
