"""Code on the pages is code: blocks are whole and of their language, and none was reflowed into prose."""

import ast
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.test_docs import PAGES_OF_PIECES, every_page, name

LANGUAGES = {
    "mermaid",
    "python",
    "toml",
    "json",
    "sh",
    "ini",
    "text",
    "yaml",
    "nginx",
    "javascript",
    "typescript",
    "c",
    "csharp",
}

LOOKS_LIKE_CODE = {
    "a gap of blanks": re.compile(r"\S {3,}\S"),
    "a comment behind a command": re.compile(r" {2,}# "),
    "a prompt": re.compile(r"(?:^|\s)[$>] (?:gatelink|make|curl|pip|python|docker|kubectl|nats)\b"),
    "a command": re.compile(
        r"\b(?:gatelink (?:serve|up|top|gateway|service|login|robots|decode|version|keys|accounts|config) [\w./-]+"
        r"|(?:pip|apt-get) install [\w.'-]|git (?:clone|add|commit|push|pull) \S|curl -|python3? -m \w|openssl rand)"
    ),
    "a table of TOML": re.compile(r"(?:^|\s)\[\[?[a-z_]+(?:\.[a-z_A-Z]+)*\]\]? [a-z_]+ = "),
    "a statement": re.compile(
        r"(?:^|\s)(?:from [\w.]+ import \w|import [a-z]\w*(?:\s|$)(?=\w+ =|from|import|def|class)"
        r"|(?:async )?def \w+\(|@\w+(?:\.\w+)*\([^)]*\)\s|await \w+(?:\.\w+)*\(|class \w+(?:\(\w+\))?:)"
    ),
}
"""What prose never has outside `code`."""


class Block(NamedTuple):
    line: int
    language: str  # "" of an indented block
    text: str


class Page(NamedTuple):
    blocks: list[Block]
    prose: list[tuple[int, str]]  # (line, a paragraph or table row without its `code`)
    problems: list[str]


def read(text: str) -> Page:
    """The blocks and the prose of a page, and what is wrong with how they stand to each other."""
    page = Page([], [], [])
    paragraph: list[str] = []
    block: list[str] = []
    fence: str | None = None
    in_list = False
    start = 0

    def end_paragraph() -> None:
        if paragraph:
            page.prose.append((start, re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "`code`", "\n".join(paragraph), flags=re.S)))
            paragraph.clear()

    def end_block(language: str) -> None:
        if block:
            page.blocks.append(Block(start, language, inspect.cleandoc("\n".join(block)) + "\n"))
            block.clear()

    for number, line in enumerate([*text.splitlines(), ""], 1):
        if fence is not None:
            if line.strip() == "```":
                page.blocks.append(Block(start, fence, "\n".join(block) + "\n"))
                block.clear()
                fence = None
            else:
                block.append(line)
        elif line.startswith("```"):
            end_paragraph()
            end_block("")
            fence, start = line[3:].strip(), number
            if fence not in LANGUAGES:
                page.problems.append(f"{number}: a fence of {fence!r}; name one of {', '.join(sorted(LANGUAGES))}")
        elif not line.strip():
            end_paragraph()
            if block:
                block.append("")
        elif line.startswith("    ") and not in_list:
            if paragraph:
                page.problems.append(f"{number}: indented behind a line of prose: leave a line free")
            if not block:
                start = number
            block.append(line)
        else:
            end_block("")
            if "```" in line:
                page.problems.append(f"{number}: a fence in a line; it stands alone in its line")
            if re.match(r"\s*(?:[-*+]|\d+\.) ", line):
                end_paragraph()
                in_list = True
            elif not line.startswith(" ") and not paragraph:
                in_list = False
            if line.startswith(("|", "#")):
                end_paragraph()
            if not paragraph:
                start = number
            paragraph.append(line)
            if line.startswith(("|", "#")):
                end_paragraph()
    end_block("")
    if fence is not None:
        page.problems.append(f"{start}: a fence without its end")
    return page


def damage(page: Page, has_pieces: bool = False) -> Iterator[str]:
    """What on a page is code that is none, or prose that is code. has_pieces: its Python need not be whole."""
    yield from page.problems
    for line, text in page.prose:
        for what, pattern in LOOKS_LIKE_CODE.items():
            if (found := pattern.search(text)) is not None:
                yield f"{line}: prose with {what}: {found[0]!r}; was a block reflowed? Else write it as `code`"
    for block in page.blocks:
        if has_pieces and block.language == "python":
            continue
        try:
            check(block)
        except (SyntaxError, ValueError) as error:
            yield f"{block.line}: no {block.language or 'command'}: {error}"


def check(block: Block) -> None:
    """Raises SyntaxError or ValueError for a block that is not of its language."""
    match block.language:
        case "python":
            compile(block.text, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        case "toml":
            tomllib.loads(block.text)
        case "json":
            json.loads(block.text)
        case "sh":
            for command in block.text.replace("\\\n", " ").splitlines():
                shlex.split(command, comments=True)


@every_page
def test_every_block_is_code_of_its_language_and_no_prose_is(page: Path) -> None:
    found = list(damage(read(page.read_text()), has_pieces=page in PAGES_OF_PIECES))
    assert not found, f"{name(page)}:\n" + "\n".join(found)


WIDEST = 90
"""Columns of a line of code on a page, as the site has room for."""


@every_page
def test_no_line_of_code_is_wider_than_a_page(page: Path) -> None:
    wide = [
        f"{block.line}: {len(line)} columns: {line}"
        for block in read(page.read_text()).blocks
        for line in block.text.splitlines()
        if len(line) > WIDEST
    ]
    assert not wide, f"{name(page)}: at most {WIDEST} columns:\n" + "\n".join(wide)


DAMAGED = {
    "an indented block joined to its paragraph": "It works as one.    gatelink login --dev        # try\nthe API\n",
    "an indented block without a free line": "Start it:\n    gatelink serve a:b\n",
    "commands joined to a line": "Run gatelink up cluster.toml --dev and gatelink top to see it.\n",
    "a fence joined to a line": "Like this: ```python import asyncio```\n",
    "a fence without an end": "```python\nimport asyncio\n",
    "a fence without a language": "```\nimport asyncio\n```\n",
    "python that was reflowed": "```python\nimport asyncio from gatelink import connect\n```\n",
    "python as prose": "import asyncio from gatelink import connect\n",
    "a handler as prose": "@server.on(Hello) def hello(session, message): session.send(message)\n",
    "toml that was reflowed": '```toml\n[gateway] listen = ["tcp://127.0.0.1:7000"]\n```\n',
    "toml as prose": 'Write [gateway] listen = ["tcp://127.0.0.1:7000"] there.\n',
    "json cut off": '```json\n{"a": 1\n```\n',
    "a shell command cut off": '```sh\ncurl -d \'{"user": 1\n```\n',
    "a prompt in prose": "$ make demo 100 robots are in their rooms\n",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_found(text: str) -> None:
    assert list(damage(read(text)))


def test_whole_pages_are_not_damaged() -> None:
    text = (
        "# Title\n\nRun `gatelink up cluster.toml`, then\n`gatelink top`:\n\n    gatelink top     # all of it\n"
        "\n    $ curl -d x\n\n- an item\n  that goes on, in `make\n  demo`\n"
        "\n```python\nawait connect()\n```\n\n| a | `b    c` |\n"
    )
    assert list(damage(read(text))) == []
