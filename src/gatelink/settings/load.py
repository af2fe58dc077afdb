"""Reading a configuration file."""

import re
import tomllib
from pathlib import Path

from gatelink.errors import ConfigError
from gatelink.settings.lines import Place, line_of, lines
from gatelink.settings.read import Reader, place_text
from gatelink.settings.settings import Settings

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_HINTS = (
    (re.compile(r"\r(?!$)"), "its lines end with CR alone; save it with the line ends of Unix or Windows"),
    (re.compile("[\u201c\u201d\u201e\u2018\u2019]"), 'write straight quotes: "text"'),
    (re.compile(r'"[^"]*\\'), r"""a backslash in "..." begins an escape; write / or '...' instead: 'C:\path'"""),
    (re.compile(r"=\s*(?:True|False|TRUE|FALSE|yes|no|on|off)\b"), "write true or false"),
    (re.compile(r"^\s*[\w.-]+\s*:"), "write = between a key and its value: key = value"),
    (re.compile(r"[=\[,]\s*[A-Za-z][\w+.-]*:"), 'a text needs quotes: "tcp://127.0.0.1:7000"'),
)
"""What a line that is not TOML may have, and what to do."""


class SettingsError(ConfigError):
    """Everything that is wrong with a configuration file, a line each: `cluster.toml:14: gateway.count: ...`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def load(path: str | Path, *, dev: bool = False) -> Settings:
    """The configuration in the TOML file at `path`; docs/configuration.md has its keys.

    Relative paths in it begin at its folder. Secrets are not read yet: whoever needs one reveals it, and with `dev` one
    that is missing is made up. Raises SettingsError with all that is wrong, or ConfigError if the file can't be read.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError([f"{path}:{line}: not UTF-8, which TOML is written in; save it as UTF-8"]) from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([_syntax(path, text, str(error))]) from None
    except RecursionError:
        raise SettingsError(
            [f"{path}:1: arrays or tables are nested too deeply; nothing here needs more than three"]
        ) from None
    reader = Reader(str(path), lines(text), path.parent, dev)
    settings = reader.read(tables, Settings)
    if reader.problems:
        raise SettingsError([f"{path}:{line}: {problem}" for line, problem in sorted(reader.problems)])
    assert isinstance(settings, Settings)
    return settings


def where(path: Path, place: Place) -> str:
    """Where `place` is in the configuration at `path`, which has been read: `cluster.toml:14: gateway.count`."""
    found = lines(path.read_bytes().decode("utf-8-sig"))
    return f"{path}:{line_of(found, place)}: {place_text(place)}"


def _syntax(path: Path, text: str, error: str) -> str:
    at = _AT_LINE.search(error)
    line = int(at[1]) if at and at[1] else text.count("\n") + 1
    here = (text.split("\n")[line - 1 : line] or [""])[0]
    hint = next((f"; {fix}" for pattern, fix in _HINTS if pattern.search(here)), "")
    return f"{path}:{line}: not valid TOML: {_AT_LINE.sub('', error)}{hint}"
