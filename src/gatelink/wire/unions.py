"""Unions with which msgspec 0.22 ends the process: sooner or later, in a collection of garbage.

They are looked for in the annotations. A decoder of such a class is too late, and msgspec's inspection makes one.
"""

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from gatelink.errors import CatalogError

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
_CONTAINERS = (collections.abc.Sequence, collections.abc.Set, collections.abc.Mapping)

_Arguments = Mapping[Any, Any]
"""What the type variables of a generic class stand for."""


class _Member(typing.NamedTuple):
    """A member of a union, and the limits in its annotations."""

    hint: Any
    limits: tuple[Meta, ...]


def check_unions(cls: type) -> None:
    """Raises CatalogError if a field of `cls`, or of a class inside it, is a union that msgspec misreads."""
    seen: set[Any] = set()
    waiting: list[Any] = [cls]
    while waiting:
        owner = waiting.pop()
        if owner in seen:
            continue
        seen.add(owner)
        found = get_origin(owner) or owner
        arguments = dict(zip(getattr(found, "__parameters__", ()), get_args(owner), strict=False))
        for name, hint in _fields(found).items():
            for part in _parts(hint, arguments):
                if _misreads(part):
                    raise CatalogError(
                        f"{found.__qualname__}.{name} has a union that msgspec misreads: a tuple beside bounds, or a "
                        "container beside a pattern; leave the bounds or the pattern out, or make the container a "
                        "Struct"
                    )
                waiting += [each.hint for each in part if _has_fields(get_origin(each.hint) or each.hint)]


def _has_fields(hint: Any) -> bool:
    return isinstance(hint, type) and (
        issubclass(hint, msgspec.Struct)
        or dataclasses.is_dataclass(hint)
        or typing.is_typeddict(hint)
        or hasattr(hint, "_fields")  # a NamedTuple
        or hasattr(hint, "__attrs_attrs__")
    )


def _fields(cls: type) -> dict[str, Any]:
    """The annotations of a class; none if one names what does not exist yet, as then msgspec refuses the class."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        return {}


def _parts(hint: Any, arguments: _Arguments) -> Iterator[list[_Member]]:
    """`hint` and all hints inside it, each as the members of a union; one that is no union is its only member."""
    members = list(_members(_Member(hint, ()), arguments))
    yield members
    for each in members:
        for inside in get_args(each.hint):
            if inside is not Ellipsis and get_origin(each.hint) is not typing.Literal:
                yield from _parts(inside, arguments)


def _members(whole: _Member, arguments: _Arguments) -> Iterator[_Member]:
    """The members of a union, or the type itself, without Annotated, aliases and type variables."""
    hint, limits = whole
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *extras = get_args(hint)
        added = tuple(extra for extra in extras if isinstance(extra, Meta))
        yield from _members(_Member(inner, limits + added), arguments)
    elif origin in (Union, types.UnionType):
        for each in get_args(hint):
            yield from _members(_Member(each, limits), arguments)
    elif isinstance(hint, TypeVar):
        meant = arguments.get(hint, hint.__bound__ or Any)
        yield from _members(_Member(meant, limits), {}) if meant is not hint else (whole,)
    elif isinstance(hint, typing.NewType):
        yield from _members(_Member(hint.__supertype__, limits), arguments)
    elif hasattr(hint, "__value__"):  # of a `type` statement
        yield from _members(_Member(hint.__value__, limits), arguments)
    else:
        yield whole


def _misreads(members: list[_Member]) -> bool:
    if len(members) == 1:
        return False
    limits = [limit for each in members for limit in each.limits]
    has_tuple = any(get_origin(each.hint) is tuple and Ellipsis not in get_args(each.hint) for each in members)
    has_container = any(_is_container(get_origin(each.hint) or each.hint) for each in members)
    return is_misread(has_tuple, has_container, limits)


def is_misread(has_tuple: bool, has_container: bool, limits: Sequence[object]) -> bool:
    """The rule: msgspec misreads a union of a tuple and bounds, or of any container and a pattern.

    has_tuple: it has a `tuple[X, Y]`. limits: those of its members; they have some of the attributes of a `Meta`.
    """

    def are_given(*names: str) -> bool:
        return any(getattr(limit, name, None) is not None for limit in limits for name in names)

    return (has_container and are_given("pattern")) or (has_tuple and are_given(*_BOUNDS))


def _is_container(origin: Any) -> bool:
    return (
        isinstance(origin, type)
        and issubclass(origin, _CONTAINERS)
        and not issubclass(origin, (str, bytes, bytearray, memoryview))
        and not _has_fields(origin)
    )
