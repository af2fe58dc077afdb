"""`gatelink decode`: what it shows of good frames, and what it says of bad ones."""

import codecs
import json
import subprocess
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from typer.testing import CliRunner, Result

from gatelink import Catalog, WireOptions
from gatelink.cli import app
from gatelink.errors import RequestCode
from gatelink.session.requests import failed_frame
from gatelink.wire.body import BodyCoder, compress
from gatelink.wire.control import Ack, Close, Handshake, HandshakeAnswer, Hello, Ping, encode_control
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_control_frame, encode_frame, tagged
from gatelink.wire.noise import Pattern

VECTORS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parents[2] / "vectors" / "base.jsonl").read_text("utf-8").splitlines()
]
BASE = [vector for vector in VECTORS if vector["name"] != "TestBinMsg"]
FIELDS = {"Source": "source", "UID": "uid", "SourceID": "source_id", "Type": "type"}

HEARTBEAT = encode_frame(4, b"")
BAD_FLAGS = bytes.fromhex("02000020 0400")

CATALOG = Catalog()


class Colour(Enum):
    RED = 1


class Inner(Struct, frozen=True):
    data: bytes


@CATALOG.message(22001, name="Thing")
class Thing(Struct, rename="camel"):
    a_text: str
    a_float: float
    inner: Inner
    many: dict[str, list[int]]
    colour: Colour
    at: datetime


@CATALOG.message(22002)
class Blob(bytes):
    pass


@CATALOG.message(22003, codec="binary")
class Note(Struct):
    text: str


def run(*arguments: str, input: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, ["decode", *arguments], input=input, catch_exceptions=False)


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def decode_json(data: bytes, *arguments: str) -> list[dict[str, Any]]:
    result = run("--json", *arguments, data.hex())
    assert result.exit_code == 0, result.stderr
    return objects(result)


def frame_of(message: Any) -> bytes:
    kind, body = CATALOG.encode(message)
    return encode_frame(kind.id, body)


with_catalog = ("--catalog", f"{__name__}:CATALOG")


@pytest.mark.parametrize("vector", BASE, ids=lambda v: f"{v['name']}-{v['flags']}")
def test_frames_of_the_original_show_their_fields_whatever_their_flags(vector: dict[str, Any]) -> None:
    (found,) = decode_json(bytes.fromhex(vector["frame"]))
    expected = {FIELDS[name]: value for name, value in vector["fields"].items() if name in FIELDS}
    if "Token_hex" in vector["fields"]:
        token = bytes.fromhex(vector["fields"]["Token_hex"])
        expected["token"] = token.decode("utf-8", "backslashreplace")
        assert token.hex() in found["body"]
    assert (found["id"], found["name"], found["flags"]) == (vector["id"], vector["name"], vector["flags"])
    assert found["fields"] == expected


def test_every_frame_of_a_stream_has_its_offset() -> None:
    frames = [bytes.fromhex(vector["frame"]) for vector in BASE]
    found = decode_json(b"".join(frames))
    assert [frame["offset"] for frame in found] == [sum(map(len, frames[:i])) for i in range(len(frames))]


def test_a_stream_longer_than_a_turn_of_the_decoder_is_shown_to_its_end() -> None:
    assert len(decode_json(encode_frame(22999, bytes(1_000)) * 300)) == 300


def test_a_person_gets_a_line_a_frame() -> None:
    frames = HEARTBEAT + encode_frame(30000, b"\x01\x02") + encode_control_frame(encode_control(Ack(5)))
    assert run(frames.hex()).stdout.splitlines() == [
        "       0  HeartBeat (4)  00",
        "       6  unknown (30000)  00  2 bytes 0102",
        "      14  ACK  80 control  received=5",
    ]


def test_an_unknown_message_shows_its_body_unscrambled_and_decompressed() -> None:
    body = b"the body " * 20
    coder = BodyCoder(WireOptions(compress_over=1, scramble=True))
    kind = CATALOG.by_type[Blob]
    flags, coded = coder.close(kind, body)
    (found,) = decode_json(encode_frame(30000, coded, flags))
    assert found == {"offset": 0, "id": 30000, "name": None, "flags": 3, "fields": None, "body": body.hex()}


def test_another_scramble_key_is_used_when_given() -> None:
    key = "0011223344556677"
    coder = BodyCoder(WireOptions(scramble=True, scramble_key=bytes.fromhex(key)))
    flags, coded = coder.close(CATALOG.by_type[Blob], b"secret")
    (found,) = decode_json(encode_frame(30000, coded, flags), "--scramble-key", key)
    assert bytes.fromhex(found["body"]) == b"secret"


def test_fields_have_the_names_of_the_class_and_only_types_of_json() -> None:
    thing = Thing("é", float("inf"), Inner(b"\xff\x00"), {"x": [1, 2]}, Colour.RED, datetime(2026, 1, 2, tzinfo=UTC))
    (found,) = decode_json(frame_of(thing), *with_catalog)
    assert found["name"] == "Thing"
    assert found["fields"] == {
        "a_text": "é",
        "a_float": "inf",
        "inner": {"data": "ff00"},
        "many": {"x": [1, 2]},
        "colour": "RED",
        "at": "2026-01-02 00:00:00+00:00",
    }


def test_a_raw_message_is_its_body() -> None:
    (found,) = decode_json(frame_of(Blob(b"\x01")), *with_catalog)
    assert (found["name"], found["fields"], found["body"]) == ("Blob", None, "01")


def test_bytes_that_are_not_utf8_are_escaped_and_whole_in_the_body() -> None:
    note = Note(b"a\xff\xe4\xbd\xa0".decode("utf-8", "surrogateescape"))
    (found,) = decode_json(frame_of(note), *with_catalog)
    assert found["fields"] == {"text": "a\\xff\u4f60"}
    assert found["body"] == "050061ffe4bda0"


def test_a_text_neither_forges_a_line_nor_steers_the_terminal() -> None:
    result = run(*with_catalog, frame_of(Note("x\n      99  HeartBeat\x1b[2J\x9b1m")).hex())
    assert len(result.stdout.splitlines()) == 1
    assert "\x1b" not in result.stdout and "\x9b" not in result.stdout


@pytest.mark.parametrize(
    ("record", "name", "fields"),
    [
        (Hello(1, 3, 2, "v1"), "HELLO", {"version": 1, "features": 3, "slot": 2, "app_version": "v1"}),
        (Ping(1, 2), "PING", {"sent_at": 1, "received": 2}),
        (Close(4000, "bye"), "CLOSE", {"code": 4000, "reason": "bye"}),
        (
            Handshake(Pattern.NK, b"\1\2\3\4", 0, 9, bytes(48)),
            "HANDSHAKE",
            {"pattern": "NK", "key_id": "01020304", "from_server": 0, "to_server": 9, "message": "00" * 48},
        ),
        (HandshakeAnswer(b"\xaa" * 48), "HANDSHAKE", {"message": "aa" * 48}),
    ],
)
def test_control_records_show_their_fields(record: Any, name: str, fields: dict[str, Any]) -> None:
    payload = encode_control(record)
    (found,) = decode_json(encode_control_frame(payload))
    expected = {"offset": 0, "id": 0, "name": name, "flags": 0x80, "fields": fields, "body": payload.hex()}
    assert found == expected


def test_requests_answers_and_failures_show_their_tag() -> None:
    kind, body = CATALOG.encode(Note("hi"))
    data = (
        tagged(encode_frame(kind.id, body), 0x0007_0312, REQUEST)
        + tagged(encode_frame(kind.id, compress(body), 1), 5, ANSWER)
        + tagged(encode_frame(29_999, b"abc"), 6, REQUEST)
        + failed_frame(kind.id, 5, RequestCode.REFUSED, 7, "voll")
    )
    found = decode_json(data, *with_catalog)
    assert "08 request tag=0x70312  text='hi'" in run(*with_catalog, data.hex()).stdout
    assert [(each["name"], each["flags"] & 0x18, each["tag"], each["fields"]) for each in found] == [
        ("Note", REQUEST, 0x0007_0312, {"text": "hi"}),
        ("Note", ANSWER, 5, {"text": "hi"}),
        (None, REQUEST, 6, None),
        ("Note", FAILED, 5, {"code": "refused", "detail": 7, "reason": "voll"}),
    ]
    assert found[2]["body"] == b"abc".hex()


def test_a_control_record_that_receivers_ignore_is_shown_as_such() -> None:
    (found,) = decode_json(encode_control_frame(b"\xc8xyz"))
    assert (found["name"], found["fields"]) == ("control type 200", None)


@pytest.mark.parametrize(
    "make",
    [
        lambda data: data,
        lambda data: data.hex(" ").upper().encode() + b"\n",
        lambda data: data.hex(" ").encode("utf-8-sig"),
        lambda data: data.hex().encode("utf-16"),  # as PowerShell's `>` writes
        lambda data: codecs.BOM_UTF16_BE + data.hex().encode("utf-16-be"),
    ],
)
def test_a_file_or_standard_input_may_be_binary_or_hex(make: Any, tmp_path: Path) -> None:
    data = make(HEARTBEAT * 2)
    (tmp_path / "capture").write_bytes(data)
    from_file = run("--file", str(tmp_path / "capture"))
    from_input = run(input=data)
    assert from_file.exit_code == from_input.exit_code == 0
    assert from_file.stdout == from_input.stdout == "       0  HeartBeat (4)  00\n       6  HeartBeat (4)  00\n"


@pytest.mark.parametrize("text", ["0200000004zz", "02 00 00 00 04 0", "0x020000000400", "hello"])
def test_a_file_that_was_meant_to_be_hex_is_told_what_is_wrong_with_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "capture").write_text(text)
    for result in (run("--file", str(tmp_path / "capture")), run(input=text.encode())):
        assert result.exit_code == 2 and "not hex: " in result.stderr


def test_nothing_is_no_frames() -> None:
    result = run(input=b"")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (BAD_FLAGS, "flags byte 0x20"),
        (encode_frame(30000, bytes(11), FAILED), "request or answer (flags 0x18) of length 13; the least is 14"),
        (bytes.fromhex("01000000 04"), "message of length 1"),
        (bytes.fromhex("02000000 0000"), "message id 0"),
        (bytes.fromhex("13000004") + bytes(19), "sealed record"),
        (HEARTBEAT[:3], "ends in the middle of a frame, after 3 bytes of it; a header has 4"),
        (b"\xff\xff\xff\0abc", "after 7 bytes of it; its header says 16777219, more than a server takes (102400"),
        (encode_frame(30000, b"body")[:-1], "ends in the middle of a frame, after 9 bytes"),
        (encode_frame(2, b"x"), "(2) does not decode"),
        (encode_frame(30000, b"\xff" * 9, 1), "snappy"),
        (encode_control_frame(b"\x0f"), "unknown type 15"),
    ],
)
def test_at_bad_bytes_it_shows_what_came_before_says_where_and_why_and_fails(bad: bytes, says: str) -> None:
    result = run("--json", (HEARTBEAT * 2 + bad).hex())
    assert result.exit_code == 1
    assert [frame["name"] for frame in objects(result)] == ["HeartBeat", "HeartBeat"]
    assert result.stderr.startswith("gatelink: offset 12: ") and says in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["xyz"], "not hex: 'x' is character 1"),
        (["0200 0000 0g"], "not hex: 'g' is character 12"),
        (["020"], "not hex: 3 digits, and a byte has two"),
        (["--scramble-key", "0", "00"], "not hex: 1 digits"),
        (["--file", "/nowhere/to/be/found"], "No such file"),
        (["--file", "/dev/null", "00"], "not both"),
        (["--scramble-key", "zz", "00"], "not hex"),
    ],
)
def test_what_cannot_be_read_is_a_usage_error(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and says in result.stderr


def test_the_messages_of_an_imported_module_are_known(tmp_path: Path) -> None:
    (tmp_path / "mygame.py").write_text(
        "from gatelink import message\n@message(22500, name='Hi')\nclass Greeting(bytes): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gatelink", "decode", "--import", "mygame", encode_frame(22500, b"!").hex()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, "       0  Hi (22500)  00  1 byte 21\n"), done.stderr
