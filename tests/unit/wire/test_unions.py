"""Classes with unions that msgspec 0.22 misreads are refused before a decoder is made, which may crash the process."""

import gc
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar

import msgspec
import pytest
from msgspec import Meta, Struct

from gatelink.errors import CatalogError
from gatelink.wire.codecs import U32
from gatelink.wire.messages import Catalog

Short = Annotated[str, Meta(max_length=3)]
Word = Annotated[str, Meta(pattern="^a")]
Small = Annotated[int, Meta(ge=0)]


class Pair(NamedTuple):
    a: int
    b: str


T = TypeVar("T")


class Box(Struct, Generic[T]):
    content: T | tuple[int, str]


class Tree(Struct):
    children: "list[Tree] | None" = None


class Point(Struct):
    x: int


def with_field(annotation: Any) -> type:
    return msgspec.defstruct("Bad", [("field", annotation)])


MISREAD = [
    tuple[int, str] | Annotated[float, Meta(lt=5)],
    tuple[int, str] | Small,
    tuple[int, str] | Short | None,
    tuple[()] | Annotated[bytes, Meta(min_length=1)],
    tuple[int, str] | Annotated[dict[str, int], Meta(max_length=2)],
    tuple[int, ...] | Word,
    list[int] | Word,
    frozenset[int] | Word | None,
    dict[str, int] | Word,
    list[tuple[int, str] | Small],
    Annotated[tuple[int, str] | int, Meta(ge=0)],
    tuple[int, str] | NewType("Level", Small),
    dict[str, Annotated[tuple[int, str] | Small, Meta(description="nested")]],
]

READ = [
    tuple[int, str] | int | str | None,
    tuple[int, str] | U32,  # a width is no bound
    list[int] | Small,
    dict[str, int] | Short,
    Pair | Small,
    Point | Word,
    tuple[Small, Word],
]


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize("annotation", MISREAD, ids=str)
def test_a_misread_union_is_refused_with_its_field(annotation: Any, codec: str) -> None:
    with pytest.raises(CatalogError, match=r"Bad\.field has a union that msgspec misreads"):
        Catalog().add(11001, with_field(annotation), codec=codec)


def test_a_misread_union_is_refused_in_a_class_inside() -> None:
    outer = msgspec.defstruct("Outer", [("bads", list[with_field(MISREAD[0])])])  # type: ignore[misc]
    with pytest.raises(CatalogError, match=r"Bad\.field has"):
        Catalog().add(11001, outer)


def test_a_misread_union_is_refused_in_a_generic_class() -> None:
    with pytest.raises(CatalogError, match=r"Box\.content has"):
        Catalog().add(11001, msgspec.defstruct("Outer", [("box", Box[Small])]))
    Catalog().add(11001, msgspec.defstruct("Outer", [("box", Box[int])]))


def test_a_class_may_contain_itself() -> None:
    Catalog().add(11001, Tree)


@pytest.mark.parametrize("annotation", READ, ids=str)
def test_other_unions_are_read(annotation: Any) -> None:
    Catalog().add(11001, with_field(annotation))


def test_the_process_lives_on() -> None:
    """A class that msgspec misreads would end the process here."""
    for annotation in MISREAD:
        with pytest.raises(CatalogError):
            Catalog().add(11001, with_field(annotation))
    gc.collect()
