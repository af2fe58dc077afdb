"""What the kit and a driver tell each other: one JSON object a line (docs/conformance.md)."""

import base64
import binascii
import json
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

MAX_LINE = 1_048_576
"""Bytes of a driver's line. The largest message of a step is a tenth of it."""


class Ready(Struct, tag_field="event", tag="ready"):
    sdk: str
    can: list[str] = []


class Connected(Struct, tag_field="event", tag="connected"):
    s: int


class Suspended(Struct, tag_field="event", tag="suspended"):
    s: int


class Resumed(Struct, tag_field="event", tag="resumed"):
    s: int


class Restarted(Struct, tag_field="event", tag="restarted"):
    s: int


class Closed(Struct, tag_field="event", tag="closed"):
    s: int
    code: int = 0
    reason: str = ""


class Message(Struct, tag_field="event", tag="message"):
    s: int
    name: str
    fields: Any  # JSON, to be compared with `differences`


class Answer(Struct, tag_field="event", tag="answer"):
    s: int
    n: int
    number: str


class Failed(Struct, tag_field="event", tag="failed"):
    s: int
    n: int
    code: int = 0
    detail: int = 0
    reason: str = ""


class Lost(Struct, tag_field="event", tag="lost"):
    s: int
    type: int
    to_server: int
    to_client: int


class Reset(Struct, tag_field="event", tag="reset"):
    pass


SessionEvent = Connected | Suspended | Resumed | Restarted | Closed | Message | Answer | Failed | Lost
Event = SessionEvent | Ready | Reset

decode_event = msgspec.json.Decoder(Event).decode
"""An event from its line. Raises msgspec.DecodeError."""


class Connect(Struct, tag_field="do", tag="connect"):
    s: int
    address: str
    uid: str
    tokens: list[str]
    slot: int
    server_key: str
    backoff: tuple[float, float]
    attempts: int
    heartbeat: tuple[float, float]


class Send(Struct, tag_field="do", tag="send"):
    s: int
    number: str
    count: int
    text: str


class Request(Struct, tag_field="do", tag="request"):
    s: int
    n: int
    number: str
    timeout: float


class Close(Struct, tag_field="do", tag="close"):
    s: int


class Clock(Struct, tag_field="do", tag="clock"):
    seconds: float


class ResetAll(Struct, tag_field="do", tag="reset"):
    pass


Command = Connect | Send | Request | Close | Clock | ResetAll


def encode_command(command: Command) -> bytes:
    """The line of a command, in ASCII: some languages end a line at U+2028, too."""
    return json.dumps(msgspec.to_builtins(command)).encode() + b"\n"


def differences(expected: Any, reported: Any, where: str) -> Iterator[str]:
    """What of `reported`, JSON from a driver, is not the value `expected`. where: its place, for the texts."""
    match expected:
        case Struct():
            yield from _of_struct(expected, reported, where)
        case dict():
            yield from _of_table(expected, reported, where)
        case set():
            items = list(expected)
            if not isinstance(reported, list) or len(reported) != len(items) or expected != set(map(str, reported)):
                yield _text(where, sorted(expected), reported)
        case list() | tuple():
            if not isinstance(reported, list) or len(reported) != len(expected):
                yield _text(where, expected, reported)
                return
            for index, (item, other) in enumerate(zip(expected, reported, strict=True)):
                yield from differences(item, other, f"{where}[{index}]")
        case _:
            if not _is_same(expected, reported):
                yield _text(where, expected, reported)


def _of_struct(expected: Struct, reported: Any, where: str) -> Iterator[str]:
    infos = msgspec.structs.fields(expected)
    if isinstance(reported, list):  # an array-like one may be shown as an array
        reported = dict(zip((info.encode_name for info in infos), reported, strict=False))
    if not isinstance(reported, dict):
        yield _text(where, expected, reported)
        return
    for info in infos:
        value = getattr(expected, info.name)
        if info.encode_name in reported or info.name in reported:
            other = reported.get(info.encode_name, reported.get(info.name))
            yield from differences(value, other, f"{where}.{info.encode_name}")
        else:
            yield f"{where}.{info.encode_name} is missing"


def _of_table(expected: dict[str, Any], reported: Any, where: str) -> Iterator[str]:
    if not isinstance(reported, dict) or reported.keys() != expected.keys():
        yield _text(where, expected, reported)
        return
    for key, value in expected.items():
        yield from differences(value, reported[key], f"{where}[{key!r}]")


def _is_same(expected: Any, reported: Any) -> bool:
    match expected:
        case bool() | None:
            return expected is reported
        case int():
            is_int = isinstance(reported, int | str) and not isinstance(reported, bool)
            return (is_int or (isinstance(reported, float) and abs(reported) < 2**53)) and _number(reported) == expected
        case float():
            return isinstance(reported, int | float) and not isinstance(reported, bool) and float(reported) == expected
        case bytes():
            return isinstance(reported, str) and _unbase64(reported) == expected
        case datetime():
            return isinstance(reported, str) and _moment(reported) == expected
        case Enum():
            return bool(expected.value == reported)
        case _:
            return bool(expected == reported)


def _number(reported: Any) -> int | None:
    try:
        return int(reported)
    except ValueError:
        return None


def _unbase64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _text(where: str, expected: Any, reported: Any) -> str:
    return f"{where} is {_short(reported)}, not {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
