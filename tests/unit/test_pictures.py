"""The pictures of the pages load nothing, follow light and dark, and are small. A plot is that of its figures."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import draw_echo
from docs.draw_screens import Piece, Screen, below, drawn, recorded, screen, screens

ROOT = Path(__file__).resolve().parents[2]
PICTURES = sorted((ROOT / "docs").rglob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_loads_nothing_follows_the_scheme_and_is_small(picture: Path) -> None:
    text = picture.read_text()
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert (root.findtext(f"{SVG}title") or "").strip(), "a reader that can't see it needs a title"
    assert "prefers-color-scheme: dark" in text
    for each in root.iter():
        assert each.tag.rpartition("}")[2] not in ("script", "image", "iframe", "link", "use")
        assert not [name for name in each.keys() if name.endswith(("href", "src")) or name.startswith("on")]
    assert not re.search(r"@import|url\(|@font-face", text)
    assert len(text) < 150_000


def test_the_plot_of_the_benchmarks_is_that_of_its_figures() -> None:
    results = json.loads(draw_echo.RESULTS.read_text())
    assert draw_echo.PICTURE.read_text() == draw_echo.drawn(results), "run python -m benchmarks.draw_echo"
    table = re.sub(r"[,*]", "", (ROOT / "benchmarks" / "README.md").read_text())
    for point in results["points"]:
        row = f"| {point['conns']} | {point['depth']} | {point['body']} | {point['limit']['rate']:.0f} "
        assert f"{row}| {point['server']['rate']:.0f} | {point['ratio']:.2f} |" in table


def test_a_run_on_the_compiled_core_has_a_dot_for_pure_python() -> None:
    rates = {"limit": {"rate": 1e6}, "server": {"rate": 5e5}, "pure": {"rate": 1e5}}
    point = {"conns": 1, "depth": 1, "body": 64, "ratio": 0.5, **rates}
    text = draw_echo.drawn({"points": [point]})
    assert "gatelink, pure Python" in text
    assert [text.count(f'<circle class="{kind}"') for kind in rates] == [2, 2, 2], "in the key, and in the row"
    assert text.count("gatelink, pure Python") == 1 and "pure" not in re.sub(
        r"(?s)<style>.*</style>", "", draw_echo.drawn({"points": [{**point, "pure": None}]})
    )


# -- screens --

TWO = (
    "\x1b[?25l\x1b[1mrobots\x1b[0m 1\r\nup"
    "\r\x1b[2K\x1b[1A\x1b[2K\x1b[1mrobots\x1b[0m 2\r\n\x1b[1;38;5;28mup\x1b[0m\r\n\x1b[?25hend"
)
"""What a live display writes: a picture of two lines, and a second one over it."""


def test_the_pictures_of_a_live_display_are_told_apart() -> None:
    (begin, first), (then, second) = screens([(1.0, TWO[:30]), (2.0, TWO[30:])], 80)
    assert (begin, then) == (1.0, 2.0)
    assert first == {Piece(0, 0, "robots", "bold"), Piece(0, 7, "1", ""), Piece(1, 0, "up", "")}
    assert second == {
        Piece(0, 0, "robots", "bold"),
        Piece(0, 7, "2", ""),
        Piece(1, 0, "up", "green bold"),
        Piece(2, 0, "end", ""),
    }


def test_a_piece_is_drawn_once_for_the_turns_that_have_it() -> None:
    stays, first, last = Piece(0, 0, "stays", ""), Piece(1, 0, "first", "red"), Piece(1, 0, "last", "")
    text = drawn([screen_of(stays, first), screen_of(stays, first), screen_of(stays, last)], "title & more")
    found = {each.text: each for each in ET.fromstring(text).iter(f"{SVG}text")}
    assert list(found) == ["stays", "first", "last"]
    assert found["stays"].get("style") is None
    assert found["first"].get("style") == "animation-delay:-1.5s" and found["first"].get("class") == "red t2 gone"
    assert found["last"].get("style") == "animation-delay:-0.5s" and found["last"].get("class") == "t1"


def test_a_still_has_no_motion() -> None:
    text = drawn([below("gatelink top", screen("a <b>\n", 80))], "title")
    assert "animation" not in text and "a &lt;b&gt;" in text


def test_what_a_program_writes_on_a_terminal_is_recorded() -> None:
    written = recorded(["sh", "-c", "test -t 1 && stty size"], 90, 30)
    assert "".join(text for _, text in written).split() == ["30", "90"]


def test_a_read_may_end_inside_a_character() -> None:
    written = recorded([sys.executable, "-c", "print('█' * 20_000)"], 90, 30)
    assert len(written) > 1, "one read, so this test shows nothing"
    assert "".join(text for _, text in written).strip() == "█" * 20_000


def screen_of(*pieces: Piece) -> Screen:
    return frozenset(pieces)
