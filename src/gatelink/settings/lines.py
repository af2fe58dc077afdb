"""Where each key of a TOML text stands: `tomllib` reads values and forgets their lines."""

import re
import tomllib
from typing import TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of tables, indices of arrays."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s=.\]\"']+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_SCALAR = re.compile(r"[^,\]}\n#]+")  # a number, a boolean, or a date, which may have a space


def lines(text: str) -> dict[Place, int]:
    """The line, from 1, of every table, key and array item in `text`, which `tomllib` has read without an error.

    A table that has no header of its own is where it is first named; `()` is line 1.
    """
    return _Scanner(text).scan()


def line_of(found: dict[Place, int], place: Place) -> int:
    """The line of `place`, or of what it would be in."""
    while place not in found:
        place = place[:-1]
    return found[place]


class _Scanner:
    """One pass over a text: `at` is how far it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Place, int] = {(): 1}
        self.lengths: dict[Place, int] = {}  # of arrays of tables, so far
        self._counted = (0, 1)  # a position, and its line

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        self.skip()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip()
        return self.found

    def header(self) -> Place:
        """`[table]` or `[[item of an array of tables]]`; the place that what follows is in."""
        line = self.line()
        is_item = self.text.startswith("[[", self.at)
        self.at += 2 if is_item else 1
        place: Place = ()
        keys = self.keys()
        for key in keys[:-1]:
            place = self.note((*place, key), line)
            if place in self.lengths:
                place = (*place, self.lengths[place] - 1)
        place = self.note((*place, keys[-1]), line)
        if is_item:
            index = self.lengths.get(place, 0)
            self.lengths[place] = index + 1
            place = self.note((*place, index), line)
        self.at += 2 if is_item else 1
        return place

    def pair(self, table: Place) -> None:
        """`key = value`, in a table or an inline one."""
        line = self.line()
        place = table
        for key in self.keys():
            place = self.note((*place, key), line)
        self.at += 1  # the =
        self.skip()
        self.value(place)

    def keys(self) -> list[str]:
        """A dotted key, and the blanks around it."""
        keys = []
        while True:
            self.skip()
            if self.text[self.at] in "\"'":
                keys.append(str(tomllib.loads(f"key = {self.match(_STRING)}")["key"]))
            else:
                keys.append(self.match(_BARE_KEY))
            self.skip()
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def value(self, place: Place) -> None:
        """What `place` is; notes what is in it."""
        start = self.text[self.at]
        if start in "\"'":
            self.match(_STRING)
        elif start in "[{":
            self.at += 1
            self.skip()
            index = 0
            while self.text[self.at] not in "]}":
                if start == "{":
                    self.pair(place)
                else:
                    self.value(self.note((*place, index), self.line()))
                    index += 1
                self.skip()
                if self.text[self.at] == ",":
                    self.at += 1
                    self.skip()
            self.at += 1
        else:
            self.match(_SCALAR)

    def note(self, place: Place, line: int) -> Place:
        self.found.setdefault(place, line)
        return place

    def line(self) -> int:
        """The line that `at` is in."""
        position, line = self._counted
        self._counted = self.at, line + self.text.count("\n", position, self.at)
        return self._counted[1]

    def skip(self) -> None:
        self.match(_BLANK)

    def match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None, f"line {self.line()} is no TOML, though tomllib read it"
        self.at = found.end()
        return found[0]
