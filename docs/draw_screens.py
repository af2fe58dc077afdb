"""Runs what it draws: `python docs/draw_screens.py demo|top|report` writes a picture of that name to docs/pictures.

demo: a cast of `make demo`, which kills its own processes. top: a screen of `gatelink top`. report: the page that the
robots of a demo write. Nothing in a picture is loaded from elsewhere. Each follows the reader's light or dark scheme.
"""

import argparse
import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from rich.ansi import AnsiDecoder
from rich.console import Console

DEMO = (sys.executable, "-m", "examples.arena.demo")
PICTURES = Path(__file__).with_name("pictures")
REDRAW = re.compile(
    r"\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*|\x1b\[H"
)  # what rich writes before each picture
MODES = re.compile(r"\x1b\[\?\d+[hl]")  # the cursor is hidden, the other screen is shown
CELL, LINE, PAD = (
    8.4,
    19,
    16,
)  # user units: the width and height of a character, the margin
TURN = 0.5  # s that a picture of a cast is shown; a run is drawn once in STEP seconds
STEP = 1.0
LAST = 12  # turns that the last picture is shown

STYLE = """\
svg { --back: #f6f8fa; --edge: #d1d9e0; --text: #1f2328; --soft: #59636e }
svg { --green: #1a7f37; --red: #d1242f; --orange: #9a6700 }
@media (prefers-color-scheme: dark) {
  svg { --back: #151b23; --edge: #3d444d; --text: #f0f6fc; --soft: #9198a1 }
  svg { --green: #3fb950; --red: #ff7b72; --orange: #d29922 }
}
rect { fill: var(--back); stroke: var(--edge) }
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
text { fill: var(--text); white-space: pre }
.soft { fill: var(--soft) } .green { fill: var(--green) } .red { fill: var(--red) } .orange { fill: var(--orange) }
.bold { font-weight: 600 }
"""
COLOURS = {28: "green", 161: "red", 130: "orange"}
"""The colours of gatelink's screens, by their numbers in the 256-colour palette."""


class Piece(NamedTuple):
    """Characters of one style without a gap between them, at a place of the screen."""

    row: int
    column: int
    text: str
    style: str


Screen = frozenset[Piece]


# -- recording --


def recorded(
    command: Sequence[str], columns: int, rows: int, seconds: float = 300.0
) -> list[tuple[float, str]]:
    """Run a command on a terminal of this size. Returns what it wrote, with the seconds since its start.

    After `seconds` it gets SIGINT. Raises CalledProcessError if it fails, but for that.
    """
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = os.environ | {
        "TERM": "xterm-256color",
        "COLUMNS": str(columns),
        "LINES": str(rows),
    }
    environment.pop("NO_COLOR", None)
    began = time.monotonic()
    written: list[tuple[float, str]] = []
    decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end inside a character
    with subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, env=environment
    ) as process:
        os.close(there)
        stops = False
        while data := _read(here):
            written.append((time.monotonic() - began, decoder.decode(data)))
            if not stops and written[-1][0] > seconds:
                stops = True
                process.send_signal(signal.SIGINT)
        if process.wait() and not stops:
            raise subprocess.CalledProcessError(
                process.returncode, command, "".join(text for _, text in written)
            )
    os.close(here)
    return written


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def screens(
    written: Sequence[tuple[float, str]], columns: int
) -> Iterator[tuple[float, Screen]]:
    """The pictures in what a live display of rich wrote, each with its time; lines behind the last are part of it."""
    text = "".join(part for _, part in written)
    times = [when for when, part in written for _ in part]
    begin = 0
    for border in [*REDRAW.finditer(text), None]:
        end = border.start() if border else len(text)
        picture = MODES.sub("", text[begin:end]).replace("\r", "")
        if picture.strip():
            yield times[begin], screen(picture, columns)
        begin = border.end() if border else end


def screen(text: str, columns: int) -> Screen:
    """The pieces of the lines of a terminal, which may have codes of colours."""
    console, found = Console(width=columns), []
    for row, line in enumerate(AnsiDecoder().decode(text)):
        column = 0
        for words, style, _ in line.render(console):
            colour = style.color.number if style and style.color else None
            names = [COLOURS.get(colour, "")] if colour is not None else []
            names += [
                name
                for name, is_on in (
                    ("bold", style and style.bold),
                    ("soft", style and style.dim),
                )
                if is_on
            ]
            for piece in re.finditer(r"\S+(?: \S+)*", words):
                found.append(
                    Piece(row, column + piece.start(), piece[0], " ".join(names))
                )
            column += len(words)
    return frozenset(found)


# -- drawing --


def drawn(turns: Sequence[Screen], title: str) -> str:
    """An SVG that shows these screens, one in TURN seconds, again and again; the last one where nothing moves.

    A piece is drawn once for all turns in a row that have it.
    """
    rows = 1 + max(piece.row for each in turns for piece in each)
    columns = max(piece.column + len(piece.text) for each in turns for piece in each)
    width, height = round(columns * CELL + 2 * PAD), rows * LINE + 2 * PAD
    moving: dict[int, str] = {}
    texts = []
    for piece, first, length in sorted(_lives(turns)):
        names, delay = piece.style, ""
        if length < len(turns):
            names += f" t{length}" + ("" if first + length == len(turns) else " gone")
            delay = f' style="animation-delay:{(first - len(turns)) * TURN:g}s"'
            share = f"{100 * (length - 0.02) / len(turns):.4g}%"  # before the next piece of this place is shown
            steps = f"0% {{ visibility: visible }} {share} {{ visibility: hidden }}"
            moving[length] = (
                f"@keyframes t{length} {{ {steps} }} .t{length} {{ animation-name: t{length} }}"
            )
        x, y = PAD + piece.column * CELL, PAD + piece.row * LINE + 14
        size = (
            f' textLength="{len(piece.text) * CELL:g}" lengthAdjust="spacingAndGlyphs"'
            if len(piece.text) > 1
            else ""
        )
        shown = f' class="{names.strip()}"' if names.strip() else ""
        texts.append(
            f'<text x="{x:g}" y="{y}"{size}{shown}{delay}>{escape(piece.text, quote=False)}</text>'
        )
    motion = ""
    if moving:
        moves = f"[style] {{ animation: {len(turns) * TURN:g}s step-end infinite }} .gone {{ visibility: hidden }}"
        motion = "\n".join(
            [
                moves,
                *moving.values(),
                "@media (prefers-reduced-motion: reduce) { [style] { animation: none } }",
                "",
            ]
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">\n'
        f'<title id="title">{escape(title)}</title>\n<style>\n{STYLE}{motion}</style>\n'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


def _lives(turns: Sequence[Screen]) -> Iterator[tuple[Piece, int, int]]:
    """(piece, its first turn, how many turns it stays) of each piece."""
    for piece in frozenset().union(*turns):
        first = None
        for turn in range(len(turns) + 1):
            is_there = turn < len(turns) and piece in turns[turn]
            if is_there and first is None:
                first = turn
            elif not is_there and first is not None:
                yield piece, first, turn - first
                first = None


def below(command: str, picture: Screen) -> Screen:
    """The screen with the command above it."""
    typed = [Piece(0, 0, "$", "soft"), Piece(0, 2, command, "bold")]
    return frozenset([*typed, *(piece._replace(row=piece.row + 2) for piece in picture)])


def demo(columns: int = 100) -> str:
    """The cast of a demo that kills its processes."""
    arguments = ["--count", "100", "--kill"]
    written = recorded([*DEMO, *arguments], columns, 50)
    turns: list[Screen] = []
    due = 0.0
    for when, picture in screens(written, columns):
        last = below(f"make demo DEMO_ARGS='{' '.join(arguments)}'", picture)
        if when >= due:
            turns.append(last)
            due = when + STEP
    return drawn(
        [*turns, *[last] * LAST],
        "The demo kills its own processes, and all robots come back",
    )


def top(columns: int = 104, rows: int = 24) -> str:
    """A screen of `gatelink top` beside a demo."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*DEMO, "--count", "200", "--seconds", "45"]
        environment = os.environ | {"TMPDIR": folder}
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as playing:
            assert playing.stdout is not None
            next(
                line
                for line in playing.stdout
                if re.search(r": \d+ robots are in their rooms", line)
            )
            (configuration,) = Path(folder).glob("*/cluster.toml")
            looking = [
                sys.executable,
                "-m",
                "gatelink",
                "top",
                "--config",
                str(configuration),
                "--dev",
            ]
            written = recorded(looking, columns, rows, seconds=32)
            playing.terminate()
            playing.stdout.read()
    *_, (_, picture), _ = screens(
        written, columns
    )  # the signal may have cut the last one
    return drawn(
        [below("gatelink top", picture)], "gatelink top shows the servers of a cluster"
    )


def report(width: int = 900, height: int = 880) -> str:
    """The page of a demo that kills its processes, down to its plots: HTML in an SVG."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        subprocess.run(
            [*DEMO, "--count", "100", "--kill", "--report", str(page)], check=True
        )
        text = page.read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    body = re.search(r"</style>(.*?)<h2>Whole run", text, re.DOTALL)
    assert style is not None and body is not None, (
        "the page has no style, or no end of its plots"
    )
    plots = body[1].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    rules = (
        style[1] + "  body { background: none }\n"
    )  # the rectangle has its colour, and an edge
    rules = rules.replace("\n  svg {", "\n  figure svg {")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">\n'
        f'<title id="title">The report of a load test: no errors, and four plots</title>\n<style>{rules}</style>\n'
        f'<rect width="{width}" height="{height}" rx="8" style="fill: var(--paper); stroke: var(--grid)"/>\n'
        f'<foreignObject width="{width}" height="{height}"><body xmlns="http://www.w3.org/1999/xhtml">{plots}</body>'
        "</foreignObject>\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python docs/draw_screens.py", description="Draw screens of real runs."
    )
    known: dict[str, Callable[[], str]] = {"demo": demo, "top": top, "report": report}
    parser.add_argument("screen", choices=known)
    name = parser.parse_args().screen
    PICTURES.joinpath(f"{name}.svg").write_text(known[name]())


if __name__ == "__main__":
    main()
