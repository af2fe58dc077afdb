"""docs/client-authors.md says the truth: its bytes are a login, its pictures are those bytes, its steps can be run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from examples.hello.server import Hello, hello
from gatelink import Catalog, CloseCode, Server, StaticTokens, WireOptions
from gatelink.cli.framedump import DecodedFrame, read_frames
from gatelink.conformance.run import select
from gatelink.wire.control import ControlType
from tests.e2e.support import TCP, RawClient, closing
from tests.unit.wire.test_extension_vectors import of_kind

PAGE = (Path(__file__).parents[2] / "docs" / "client-authors.md").read_text()
CATALOG = Catalog()
CATALOG.message(11_001)(Hello)
LINE = re.compile(r"(client|server|      )  ((?:[0-9a-f]{2} ?)+)(?: *  (\w.*))?")
AT_RANDOM = {"session_id", "resume_key"}


class Field(NamedTuple):
    """Bytes of the page with the note beside them."""

    side: str
    data: bytes
    note: str


def block(after: str, kind: str) -> str:
    """The first block of this kind behind a heading."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE.partition(f"\n## {after}\n")[2], re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def fields() -> list[Field]:
    """The fields of the login in bytes, in order. A line without a note goes on with the field before it."""
    found: list[Field] = []
    for line in block("The same login in bytes", "text").splitlines():
        parts = LINE.fullmatch(line)
        assert parts is not None, f"not a line of bytes and a note: {line!r}"
        side, data, note = parts[1].strip() or found[-1].side, bytes.fromhex(parts[2]), parts[3]
        if note is None:
            found[-1] = found[-1]._replace(data=found[-1].data + data)
        else:
            found.append(Field(side, data, note))
    return found


def frames() -> Iterator[tuple[str, list[Field], DecodedFrame]]:
    """(side, fields, the frame as the library decodes it) of each frame."""
    left = fields()
    while left:
        size = 4 + int.from_bytes(left[0].data[:3], "little")
        frame: list[Field] = []
        while sum(len(field.data) for field in frame) < size:
            frame.append(left.pop(0))
        (decoded,) = read_frames(b"".join(field.data for field in frame), CATALOG, WireOptions())
        yield frame[0].side, frame, decoded


def shown(data: bytes, value: object) -> str:
    """How the note of a field begins."""
    if isinstance(value, int):
        assert int.from_bytes(data, "little") == value
        return f"{value}"
    assert isinstance(value, str)
    if data.hex() == value:
        return f"{len(data)} bytes"
    assert data.endswith(value.encode())
    return repr(value) if len(value) < 20 else f"{len(value)} bytes of text"


def test_each_note_says_what_its_bytes_decode_to() -> None:
    count = 0
    for _, (header, kind, *rest), frame in frames():
        count += 1
        assert len(header.data) == 4
        length, flags = int.from_bytes(header.data[:3], "little"), header.data[3]
        assert header.note == f"length: {length}, flags: {flags:02x}" + (" CONTROL" if flags == 0x80 else "")
        assert kind.note == (f"id: {frame.id} {frame.name}" if frame.id else f"type: {kind.data[0]} {frame.name}")
        assert int.from_bytes(kind.data, "little") == (frame.id or ControlType[frame.name or ""])
        left = dict(frame.fields or {})
        for field in rest:
            name, _, note = field.note.partition(": ")
            if name == "keys":  # of a HELLO: how many follow
                assert note == str(field.data[0])
                continue
            value = left.pop(name)
            assert f"{note}, ".startswith(f"{shown(field.data, value)}, "), f"{field.note}: it is {value!r}"
        assert not any(left.values()), f"{frame.name} on the page lacks {left}"
    assert count == 8


async def test_a_server_answers_the_bytes_of_the_page_with_those_of_the_page() -> None:
    server = Server(TCP, tokens=StaticTokens(), catalog=CATALOG, resume_plain=True)
    server.on(Hello)(hello)
    async with server, closing(RawClient.open(server)) as client:
        for side, parts, expected in frames():
            data = b"".join(field.data for field in parts)
            if side == "client":
                client.send(data)
                continue
            got = await client.frame()
            while got[1] == 0x80 and got[2][0] in (ControlType.ACK, ControlType.PING):
                got = await client.frame()  # on a slow machine
            head = got[0].to_bytes(2, "little") if got[0] else b""
            whole = (len(head) + len(got[2])).to_bytes(3, "little") + bytes([got[1]]) + head + got[2]
            assert len(whole) == len(data)
            assert known(next(read_frames(whole, CATALOG, WireOptions()))) == known(expected)
        (session,) = server.sessions
        await session.wait_closed()
        assert session.close_code is CloseCode.NORMAL


def known(frame: DecodedFrame) -> tuple[int, str | None, dict[str, object]]:
    """What is the same in every run."""
    kept = {name: value for name, value in (frame.fields or {}).items() if name not in AT_RANDOM}
    return frame.id, frame.name, kept


def arrows(picture: str) -> list[tuple[str, str]]:
    """(side, what) of each arrow of a sequence."""
    return re.findall(r"(client|server)--?(?:>>|x)(?:client|server): (\w+)", picture)


def test_the_picture_of_a_login_is_its_bytes() -> None:
    names = [(side, (frame.name or "") if frame.name != "Hello" else "message") for side, _, frame in frames()]
    assert arrows(block("A login", "mermaid")) == names


def test_the_picture_of_a_resume_is_that_of_the_vectors() -> None:
    (transcript,) = [vector for vector in of_kind("transcript") if vector["name"] == "resume"]
    before, _, after = block("A resume", "mermaid").partition("the connection breaks")
    assert arrows(before) == [("client", "message"), ("server", "message")]
    steps = [
        (step["from"], what.replace("HANDSHAKE", "HELLO").removeprefix("the "))
        for step in transcript["connections"][1]["steps"]
        for what in step["what"].split(", ")
    ]
    assert steps[-1] == ("client", "CLOSE")
    assert arrows(after) == [(side, what.split()[0]) for side, what in steps[:-1]]


def test_the_kit_has_every_group_that_a_step_names() -> None:
    steps = re.findall(r"^\d+\. ", PAGE, re.MULTILINE)
    assert len(steps) == 10
    groups = re.findall(r"Groups:\s((?:`\w+`[,.]\s?)+)", PAGE)
    named = [name for each in groups for name in re.findall(r"\w+", each)]
    assert len(named) > 10
    assert {step.group for step in select(named)} == {step.group for step in select()}
