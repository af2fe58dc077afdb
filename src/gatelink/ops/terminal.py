"""Log lines for a person at a terminal: local time, short, in colours that can be read on black and on white."""

import io
import os
import sys
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any

from structlog.dev import plain_traceback  # without local variables, because those hold tokens
from structlog.processors import ExceptionRenderer
from structlog.typing import ExcInfo

UNDER_UP = "GATELINK_TERMINAL"
"""The environment variable by which `gatelink up` says that the output of its processes goes to a terminal."""

COLOURS = (30, 63, 28, 133, 64, 98, 31, 132)
"""Of the 256-colour palette, for the names of processes. Each has a contrast of 4 to 1 to black, and to white."""

GREEN, ORANGE, RED = 28, 130, 161
"""Of the same kind: for what is well, what needs a look, and what failed."""

_LEVELS = {"debug": ("dbug", "2"), "info": ("info", f"38;5;{GREEN}"), "warning": ("warn", f"1;38;5;{ORANGE}")}
_ERROR = ("err ", f"1;38;5;{RED}")
_PLAIN = frozenset("._:/@+-[]%,;")  # what a text may have, besides letters and digits, to be shown without quotes
_FIRST = ("timestamp", "level", "logger", "event", "exception", "exc_info")


def is_shown() -> bool:
    """Whether standard error is a terminal, or goes to the one of `gatelink up`."""
    return is_terminal() or bool(os.environ.get(UNDER_UP))


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def has_colour() -> bool:
    """Whether this terminal may get colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, codes: str) -> str:
    """`text` with a colour: `codes` of SGR, as "1;31"."""
    return f"\x1b[{codes}m{text}\x1b[0m" if has_colour() else text


def name_colour(index: int) -> str:
    """The codes for the name of the process with this index."""
    return f"38;5;{COLOURS[index % len(COLOURS)]}"


class TerminalRenderer:
    """Renders an event as `12:59:07 info verified  uid=7 address=127.0.0.1`; the last processor of structlog.

    Values that say nothing (None, False, an empty text) are left out, and so is the logger's name. Texts with blanks or
    control characters are quoted, so that a peer's text can't forge a line or control the terminal. label: before each
    line.
    """

    def __init__(self, label: str = "") -> None:
        self._label = label
        self._traceback = ExceptionRenderer(_formatted)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        word, codes = _LEVELS.get(event["level"], _ERROR)
        keys = " ".join(coloured(f"{key}=", "2") + _value(value) for key, value in _said(event).items())
        what = coloured(_printable(str(event["event"])), "1")
        line = f"{self._label}{coloured(f'{datetime.now():%H:%M:%S}', '2')} {coloured(word, codes)} {what}"
        lines = [f"{line}  {keys}" if keys else line]
        if trace := self._traceback(logger, method, event).get("exception"):
            lines += [f"{self._label}{_printable(each)}" for each in str(trace).splitlines()]
        return "\n".join(lines)


def _formatted(exc_info: ExcInfo) -> str:
    text = io.StringIO()
    plain_traceback(text, exc_info)
    return text.getvalue()


def _said(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event's own keys, without those that say nothing. A number is never left out."""
    return {
        key: value
        for key, value in event.items()
        if key not in _FIRST and not (value is None or value is False or (not value and not isinstance(value, int)))
    }


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_value, value))
    text = value if isinstance(value, str) else repr(value)
    if not isinstance(value, str) or text and all(char.isalnum() or char in _PLAIN for char in text):
        return _printable(text)
    return repr(text)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
