"""Log lines on a terminal: short, whole, in colours for every background, and with nothing that a peer forged."""

import os
import pty
import re
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog

from gatelink.ops import terminal
from gatelink.ops.logs import configure, flush

log = structlog.get_logger("gatelink.test")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error goes to the terminal of a `gatelink up`, which has colours."""
    monkeypatch.setenv(terminal.UNDER_UP, "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    monkeypatch.delenv(terminal.UNDER_UP)
    configure()


def written(capsys: pytest.CaptureFixture[str]) -> str:
    assert flush(30)
    return capsys.readouterr().err


def luminance(colour: int) -> float:
    """Of the 256-colour palette's cube, as WCAG 2 defines it."""
    steps = (0, 95, 135, 175, 215, 255)
    at = colour - 16
    parts = [steps[at // 36] / 255, steps[at // 6 % 6] / 255, steps[at % 6] / 255]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [*terminal.COLOURS, terminal.GREEN, terminal.ORANGE, terminal.RED])
def test_every_colour_can_be_read_on_black_and_on_white(colour: int) -> None:
    assert (luminance(colour) + 0.05) / 0.05 >= 4 and 1.05 / (luminance(colour) + 0.05) >= 4


def test_an_event_is_one_line_with_local_time_level_event_and_keys_and_fits_into_100_columns(
    shown: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(label="gateway-1 | ")
    log.info(
        "closed", uid=1_000_002, address="127.0.0.1", code="normal", reason="hung up", by="peer", admin=None, back=False
    )
    (line,) = written(capsys).splitlines()
    plain = COLOUR.sub("", line)
    time = plain.removeprefix("gateway-1 | ")[:8]
    assert datetime.strptime(time, "%H:%M:%S") and len(plain) <= 100
    rest = "info closed  uid=1000002 address=127.0.0.1 code=normal reason='hung up' by=peer"
    assert plain == f"gateway-1 | {time} {rest}"


@pytest.mark.parametrize(("level", "word"), [("info", "info"), ("warning", "warn"), ("error", "err ")])
def test_levels_have_colours_but_not_with_no_color(
    level: str, word: str, shown: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    getattr(log, level)("news", uid=0)
    assert f"m{word}\x1b[0m" in written(capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    getattr(log, level)("news", uid=0)
    line = written(capsys)
    assert "\x1b" not in line and f" {word} news  uid=0" in line


def test_a_text_neither_forges_a_line_nor_steers_the_terminal(
    shown: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    configure()
    log.info("seen\x1b[2J\nforged", text="x\n12:00:00 err forged\x1b[2J", several=["a b", "\x07"], raw=b"\x1b")
    line = written(capsys)
    assert line.count("\n") == 1 and "\x1b" not in line and "\x07" not in line
    assert r"text='x\n12:00:00 err forged\x1b[2J'" in line and r"several='a b','\x07'" in line


def test_a_traceback_follows_its_line_without_local_variables(shown: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure(label="up | ")
    token = "s3" + "cret"
    try:
        raise ValueError(f"a token of {len(token)} characters\x1b[2J")
    except ValueError as error:
        log.error("failed", exc_info=error)
    lines = written(capsys).splitlines()
    assert all(line.startswith("up | ") for line in lines) and "failed" in lines[0]
    assert lines[-1] == r"up | ValueError: a token of 6 characters\x1b[2J"
    assert "s3cret" not in "\n".join(lines)


def test_json_stays_json_on_a_terminal(shown: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    log.info("news")
    assert written(capsys).startswith('{"event": "news"')


def test_a_terminal_is_told_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not terminal.is_shown()
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert terminal.is_terminal() and terminal.is_shown()
