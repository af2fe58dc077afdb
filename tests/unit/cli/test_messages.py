"""`gatelink messages` and `gatelink decode --messages`: what they write, and what they refuse."""

import json
from pathlib import Path

import pytest
from msgspec import Struct
from typer.testing import CliRunner, Result

from gatelink import Catalog, Handlers, Session
from gatelink.cli import app
from gatelink.errors import ConfigError
from gatelink.wire.frames import encode_frame

CATALOG = Catalog()
UNFIT = Catalog()


@CATALOG.message(22001)
class Say(Struct, rename={"text": "t"}):
    text: str


@UNFIT.message(22001)
class Bad(Struct):
    value: complex


HANDLERS, OTHERS = Handlers(CATALOG), Handlers(UNFIT)


@HANDLERS.on(Say, rate=3)
def say(session: Session, message: Say) -> None:
    pass


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["messages", *words], catch_exceptions=False)


def exported(tmp_path: Path, *words: str) -> Path:
    file = tmp_path / "messages.json"
    assert run("export", f"{__name__}:CATALOG", "--out", str(file), *words).stdout == f"wrote {file}\n"
    return file


def test_export_writes_the_file_with_the_rates_of_handlers(tmp_path: Path) -> None:
    found = json.loads(exported(tmp_path, "--handlers", f"{__name__}:HANDLERS").read_text())
    assert found["messages"] == [{"id": 22001, "name": "Say", "type": "Say", "codec": "msgpack", "rate": 3.0}]


def test_typescript_is_made_of_the_file(tmp_path: Path) -> None:
    out = tmp_path / "messages.ts"
    assert run("typescript", str(exported(tmp_path)), "--out", str(out)).exit_code == 0
    assert 'message<Say>(22001, "Say", msgpack, { t: str })' in out.read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["export", f"{__name__}:UNFIT"], "Bad.value is complex"),
        (["export", f"{__name__}:HANDLERS"], "is a Handlers, not a Catalog"),
        (["export", f"{__name__}:CATALOG", "--handlers", f"{__name__}:OTHERS"], "has another catalog"),
        (["export", f"{__name__}:CATALOG", "--handlers", f"{__name__}:CATALOG"], "not a table of handlers or a server"),
        (["export", f"{__name__}:CATALOG", "--out", "/nowhere/messages.json"], "No such file"),
        (["typescript", "/nowhere/messages.json"], "No such file"),
        (["check", "/nowhere/a.json", "/nowhere/b.json"], "No such file"),
    ],
)
def test_what_can_t_be_done_is_said_in_one_line(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*words)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_check_ends_with_1_if_something_breaks_and_with_0_if_nothing_does(tmp_path: Path) -> None:
    old = exported(tmp_path)
    new = tmp_path / "new.json"
    new.write_text(old.read_text().replace('"kind": "str"', '"kind": "int"'))
    done = run("check", str(old), str(new))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "Say.t (22001), old sender, new receiver: a str is read as an int",
        "Say.t (22001), new sender, old receiver: an int is read as a str",
        "messages: 1 break, 0 changed, 0 added, 0 the same",
    ]
    done = run("check", str(old), str(old))
    assert (done.exit_code, done.stdout) == (0, "messages: 0 break, 0 changed, 0 added, 1 the same\n")


def test_decode_shows_fields_by_the_file_as_by_the_classes(tmp_path: Path) -> None:
    kind, body = CATALOG.encode(Say("hello"))
    frame = encode_frame(kind.id, body).hex()
    by_file = CliRunner().invoke(app, ["decode", "--json", "--messages", str(exported(tmp_path)), frame])
    by_class = CliRunner().invoke(app, ["decode", "--json", "--catalog", f"{__name__}:CATALOG", frame])
    assert by_file.stdout == by_class.stdout and json.loads(by_file.stdout)["fields"] == {"text": "hello"}


def test_decode_takes_a_file_or_classes_but_not_both(tmp_path: Path) -> None:
    words = ["decode", "--messages", str(exported(tmp_path)), "--import", "json", "00"]
    assert CliRunner().invoke(app, words).exit_code == 2
