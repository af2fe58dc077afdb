"""The contract with drivers: what counts as a value, and what as an event."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.conformance.driver import as_json
from gatelink.conformance.contract import Closed, Connect, Send, decode_event, differences, encode_command
from gatelink.conformance.messages import Everything, Fields, Pair, Raw, layouts, samples

MESSAGES = [*samples(Everything), *layouts()]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_the_example_driver_reports_is_the_message(message: msgspec.Struct) -> None:
    reported = msgspec.json.decode(msgspec.json.encode(as_json(msgspec.to_builtins(message))))
    assert not list(differences(message, reported, "it"))


def test_raw_bytes_are_one_text() -> None:
    assert not list(differences(Raw(b"\0\xff"), as_json(b"\0\xff"), "it"))


@pytest.mark.parametrize(
    "expected, reported",
    [
        (2**64 - 1, 18446744073709551616.0),
        (2**53 + 1, 9007199254740992.0),
        (2**53 + 1, "9007199254740992"),
        (1, True),
        (True, 1),
        (None, 0),
        (0, None),
        (1.5, "1.5"),
        (b"\0", "AQ=="),
        (b"\0", "no base64"),
        ("1", 1),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:01Z"),
        (datetime(2026, 1, 1, tzinfo=UTC), "yesterday"),
        ([1, 2], [2, 1]),
        ([1, 2], [1]),
        ({"a"}, ["a", "a"]),
        ({"a": 1}, {"a": 1, "b": 2}),
        (Pair(1, "x"), [1, "y"]),
        (Pair(1, "x"), {"left": 1}),
        (Pair(1, "x"), "text"),
    ],
)
def test_another_value_is_a_difference(expected: Any, reported: Any) -> None:
    assert list(differences(expected, reported, "it"))


@pytest.mark.parametrize(
    "expected, reported",
    [
        (2**64 - 1, str(2**64 - 1)),
        (7, 7.0),
        (1.0, 1),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T01:00:00.000+01:00"),
        ({"a", "b"}, ["b", "a"]),
        ((1, "x"), ["1", "x"]),
        (Pair(1, "x"), {"left": "1", "right": "x"}),
        (Pair(1, "x"), [1, "x"]),
    ],
)
def test_the_same_value_in_any_of_its_forms_is_none(expected: Any, reported: Any) -> None:
    assert not list(differences(expected, reported, "it"))


@given(st.integers(0, 2**64 - 1))
def test_an_int_that_went_through_a_double_differs_unless_the_double_holds_it(number: int) -> None:
    assert bool(list(differences(number, float(number), "it"))) is (abs(number) >= 2**53)


def test_a_difference_names_the_field_and_both_values() -> None:
    (message, *_) = layouts()
    reported = as_json(msgspec.to_builtins(message)) | {"u64": 1}
    assert list(differences(message, reported, "Fields")) == ["Fields.u64 is 1, not 0"]
    assert isinstance(message, Fields)


def test_a_command_is_a_line_also_where_lines_end_at_more_characters() -> None:
    assert encode_command(Send(1, "0", 1, "ü\u2028")).isascii()


def test_events_and_commands_are_lines_of_json() -> None:
    assert decode_event(b'{"event": "closed", "s": 1, "later": true}') == Closed(1, 0, "")
    line = encode_command(Connect(1, "ws://h:1", "7", ["t"], 0, "", (0.1, 1), 3, (10, 30)))
    assert line.index(b"\n") == len(line) - 1
    assert msgspec.json.decode(line)["do"] == "connect"


@pytest.mark.parametrize(
    "line", [b"", b"connected", b"{}", b'{"event": "sent", "s": 1}', b'{"event": "closed"}', b"\xff"]
)
def test_any_other_line_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(line)
