"""The line of each key of a TOML text: `tomllib` reads values and forgets their lines."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""The path to a value: keys of tables, indices of arrays."""

_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}=,.\n]"
    r"|[^\s\[\]{}=,.#\"']+"  # a bare key, or a part of a number or date
)


def lines(text: str) -> dict[Place, int]:
    """The line, from 1, of every table, key and array item in `text`, which `tomllib` has read without an error.

    A table without a header is in the line that first names it; `()` is line 1.
    """
    return _Scanner(text).scan()


def line_of(found: dict[Place, int], place: Place) -> int:
    """The line of `place`; for one that is not there, the line of the closest table around it."""
    while place not in found:
        place = place[:-1]
    return found[place]


class _Scanner:
    """One pass over the tokens of a text. `token` is the next one, in `line`; "" is the end."""

    def __init__(self, text: str) -> None:
        self.found: dict[Place, int] = {(): 1}
        self.lengths: Counter[Place] = Counter()  # of arrays of tables, so far
        self._rest = _tokens(text)
        self.token, self.line = next(self._rest)

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        while self.skip_newlines():
            if self.token == "[":
                table = self.header()
            else:
                self.pair(table)
        return self.found

    def header(self) -> Place:
        """Read `[table]` or `[[item of an array of tables]]`, and return the place of the keys below it."""
        line, brackets = self.line, 0
        place: Place = ()
        while self.token == "[":
            self.take()
            brackets += 1
        for key in self.keys():
            if place in self.lengths:
                place = (*place, self.lengths[place] - 1)
            place = self.note((*place, key), line)
        if brackets == 2:
            self.lengths[place] += 1
            place = self.note((*place, self.lengths[place] - 1), line)
        while self.token == "]":
            self.take()
        return place

    def pair(self, table: Place) -> None:
        """`key = value`, in a table or an inline one."""
        line, place = self.line, table
        for key in self.keys():
            place = self.note((*place, key), line)
        self.take()  # the =
        self.value(place)

    def keys(self) -> Iterator[str]:
        """The parts of a dotted key."""
        while True:
            key = self.take()
            yield str(tomllib.loads(f"key = {key}")["key"]) if key[0] in "\"'" else key
            if self.token != ".":
                return
            self.take()

    def value(self, place: Place) -> None:
        """The value at `place`, and all that is in it."""
        start = self.take()
        if start not in ("[", "{"):
            while self.token not in (",", "]", "}", "\n", ""):
                self.take()
            return
        index = 0
        while self.skip_newlines() not in ("]", "}", ""):
            if start == "{":
                self.pair(place)
            else:
                self.value(self.note((*place, index), self.line))
                index += 1
            if self.skip_newlines() == ",":
                self.take()
        self.take()

    def note(self, place: Place, line: int) -> Place:
        self.found.setdefault(place, line)
        return place

    def skip_newlines(self) -> str:
        while self.token == "\n":
            self.take()
        return self.token

    def take(self) -> str:
        taken = self.token
        self.token, self.line = next(self._rest, ("", self.line))
        return taken


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """The tokens and their lines; comments are left out."""
    line = 1
    for match in _TOKEN.finditer(text):
        if not match[0].startswith("#"):
            yield match[0], line
        line += match[0].count("\n")
    yield "", line
