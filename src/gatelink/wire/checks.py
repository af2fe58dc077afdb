"""Messages that `encode` of a codec refuses, because the decoder of their own class would.

A Struct checks nothing when it is made or changed, so a handler may send one that every receiver refuses. Such a body
would end the receiver's session.

Each class has one compiled check. It compares the exact type of each field that is a plain int, float, str, bytes or
bool, optional or not. Otherwise the body is decoded again: for a value of another type, a field of another type, or a
class with bounds or a `__post_init__`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from gatelink.errors import InvalidMessage

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

MAX_COMPARED = 32
"""Fields that are compared one by one. Messages with more are decoded again."""

_PLAIN: list[tuple[inspect.Type, str]] = [
    (inspect.IntType(), "int"),
    (inspect.FloatType(), "float"),
    (inspect.StrType(), "str"),
    (inspect.BytesType(), "bytes"),
    (inspect.BoolType(), "bool"),
]


def checked(cls: type[msgspec.Struct], encode: Encode, decode: Decode, *, is_json: bool = False) -> Encode:
    """`encode` with a check: it raises InvalidMessage for a message that `encode` or `decode` refuses.

    is_json: a float that is not finite is refused too, because JSON writes it as null.
    """
    info = inspect.type_info(cls)
    has_floats = is_json and any(isinstance(part, (inspect.FloatType, inspect.AnyType)) for part in _parts(info, []))

    def check(message: Any, body: bytes) -> None:
        if has_floats and b"null" in body and (place := _not_finite(msgspec.to_builtins(message))):
            raise InvalidMessage(f"{cls.__qualname__}{place} is NaN or infinite, which JSON can't express")
        try:
            decode(body)
        except Exception as error:
            raise InvalidMessage(f"{cls.__qualname__}: {_words(error)}") from None

    def refuse(message: Any, error: Exception) -> InvalidMessage:
        return InvalidMessage(f"{cls.__qualname__}{_culprit(message, encode)} can't be written: {type(error).__name__}")

    # One compiled function without a loop, as in dataclasses: it runs for each sent message.
    source = f"""
def encode_checked(message):
    try:
        body = encode(message)
    except Exception as error:
        raise refuse(message, error) from None
    if not ({_comparison(cls, info, is_json)}):
        check(message, body)
    return body
"""
    names: dict[str, Any] = {"encode": encode, "check": check, "refuse": refuse}
    exec(source, names)  # noqa: S102 - the source holds only names of the class's fields
    compiled: Encode = names["encode_checked"]
    return compiled


def _comparison(cls: type[msgspec.Struct], info: inspect.Type, is_json: bool) -> str:
    """An expression that is true only for a valid message; `False` if no short expression can say that."""
    if not isinstance(info, inspect.StructType) or len(info.fields) > MAX_COMPARED or hasattr(cls, "__post_init__"):
        return "False"
    terms = []
    for field in info.fields:
        kinds = [kind for kind in _members(field.type) if not isinstance(kind, inspect.NoneType)]
        names = [name for plain, name in _PLAIN if kinds == [plain]]
        if not names:
            return "False"
        value = f"message.{field.name}"
        term = f"type({value}) is {names[0]}"
        if is_json and names[0] == "float":
            term += f" and {value} - {value} == 0.0"  # false for NaN and for an infinity
        terms.append(f"({value} is None or {term})" if len(_members(field.type)) > 1 else term)
    return " and ".join(terms) or "True"


def _members(type: inspect.Type) -> tuple[inspect.Type, ...]:
    """The members of a union, or the type itself, without what annotations add for people and other codecs."""
    bare = _bare(type)
    return tuple(map(_bare, bare.types)) if isinstance(bare, inspect.UnionType) else (bare,)


def _bare(type: inspect.Type) -> inspect.Type:
    return type.type if isinstance(type, inspect.Metadata) else type


def _parts(part: Any, seen: list[Any]) -> Iterator[inspect.Type]:
    """A type, and all types inside it."""
    if isinstance(part, (tuple, list)):
        for each in part:
            yield from _parts(each, seen)
    elif isinstance(part, (inspect.Type, inspect.Field)) and not any(part is each for each in seen):
        seen.append(part)
        if isinstance(part, inspect.Type):
            yield part
        for name in part.__struct_fields__:
            yield from _parts(getattr(part, name), seen)


def _not_finite(value: Any) -> str:
    """The place of a float that is not finite, as `.x[0]`, or "". Only keys that are identifiers are shown."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else " "
    if isinstance(value, dict):
        parts = [
            (f".{key}" if isinstance(key, str) and key.isidentifier() else "[...]", each) for key, each in value.items()
        ]
    elif isinstance(value, (list, tuple)):
        parts = [(f"[{at}]", each) for at, each in enumerate(value)]
    else:
        return ""
    for place, each in parts:
        if found := _not_finite(each):
            return place + found.rstrip()
    return ""


def _culprit(message: Any, encode: Encode) -> str:
    """The first field of `message` that can't be encoded, as `.text`; "" if each can."""
    for name in message.__struct_fields__:
        try:
            encode(getattr(message, name))
        except Exception:
            return f".{name}"
    return ""


def _words(error: Exception) -> str:
    """The field that a decoder refuses, and the expected type, without the value."""
    text, _, place = str(error).partition(" - at ")
    if not isinstance(error, msgspec.ValidationError) or not text.startswith("Expected"):
        text = "a value that the decoder of its class refuses"
    return f"{text}, at {place}" if place else text
