"""The blocks of docs/browser-tutorial.md, each with the file of the project that its first line names."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.processes import ROOT

PAGE = ROOT / "docs" / "browser-tutorial.md"
BLOCK = re.compile(
    r"^```(?:python|typescript)\n(?:#|//) ([^\n]*?)((?:mygame|web)/\w+\.\w+)([^\n]*)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
IN_PLACE = {
    "the import": 'import { Said, Say } from "./messages.ts";\n',
    "the send": "  client.send(Say({ text: line.value }));\n",
}


def pieces() -> Iterator[tuple[str, str]]:
    """(file, text) of each block that shows what `gatelink new` has made."""
    for before, file, behind, text in BLOCK.findall(PAGE.read_text()):
        if not before and not behind:
            yield file, text


def change(project: Path) -> None:
    """Make the page's changes in a project called mygame."""
    for before, name, behind, text in BLOCK.findall(PAGE.read_text()):
        file = project / name
        match before.strip(), behind.removeprefix(", in place of "):
            case "", "":
                continue
            case "all of", "":
                file.write_text(text)
            case "at the end of", "":
                file.write_text(file.read_text() + text)
            case "", what:
                was = file.read_text()
                assert was.count(IN_PLACE[what]) == 1, f"{name} has no {IN_PLACE[what]!r}"
                file.write_text(was.replace(IN_PLACE[what], text))
            case other:
                raise AssertionError(f"the page says {other} of {name}")
