"""An extension of griffe, for the website: what a docstring says of each argument becomes an item of a list.

In the source, arguments are explained in running text: `limits: of clients' sessions. wire: how messages are written.`
"""

import ast
import re
from typing import Any

import griffe


class Arguments(griffe.Extension):
    """The extension that zensical.toml names."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        list_arguments(func, [each.name for each in func.parameters])

    def on_class_members(self, *, node: ast.AST | griffe.ObjectNode, cls: griffe.Class, **_: Any) -> None:
        attributes = [name for name in cls.members if not name.startswith("_")]
        list_arguments(cls, [*attributes, *(each.name for each in cls.parameters)])


def list_arguments(documented: griffe.Object, names: list[str]) -> None:
    """Make a list of what the docstring of `documented` says of `names`."""
    if documented.docstring is not None:
        documented.docstring.value = listed(documented.docstring.value, names)


def listed(text: str, names: list[str]) -> str:
    """`text` with an item for each sentence that begins with names and a colon."""
    if not names:
        return text
    name = "|".join(map(re.escape, names))
    item = re.compile(rf"(?:^|(?<=[.;] ))({name})((?:, (?:{name}))*): ", re.MULTILINE)
    paragraphs = []
    for paragraph in text.split("\n\n"):
        starts = [found.start() for found in item.finditer(paragraph)]
        if not starts or paragraph.startswith(("    ", "```")):
            paragraphs.append(paragraph)
            continue
        parts = [paragraph[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        items = ["- " + item.sub(r"**\1\2**: ", " ".join(part.split()), count=1) for part in parts]
        paragraphs.append("\n\n".join(filter(None, [paragraph[: starts[0]].strip(), "\n".join(items)])))
    return "\n\n".join(paragraphs)
