"""Reading a configuration file: typed sections out of TOML, and every error at once, each with its line and the fix."""

import difflib
import math
import re
import tomllib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import StructMeta

from gatelink.errors import ConfigError
from gatelink.settings.lines import Place, line_of, lines
from gatelink.settings.secret import Secret
from gatelink.settings.sections import DatabaseUrl, ListenSettings, Settings, UrlOrPath
from gatelink.settings.show import key_text, toml

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_HINTS = (
    (re.compile(r"\r(?!$)"), "its lines end with CR alone; save it with the line ends of Unix or Windows"),
    (re.compile("[\u201c\u201d\u201e\u2018\u2019]"), 'write straight quotes: "text"'),
    (re.compile(r'"[^"]*\\'), r"""a backslash in "..." begins an escape; write / or '...' instead: 'C:\path'"""),
    (re.compile(r"=\s*(?:True|False|TRUE|FALSE|yes|no|on|off)\b"), "write true or false"),
    (re.compile(r"^\s*[\w.-]+\s*:"), "write = between a key and its value: key = value"),
    (re.compile(r"[=\[,]\s*[A-Za-z][\w+.-]*:"), 'a text needs quotes: "tcp://127.0.0.1:7000"'),
)
"""Common mistakes in a line that is not TOML, and the fix of each."""


class SettingsError(ConfigError):
    """All errors of a configuration file, one a line: `cluster.toml:14: gateway.count: ...`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def load(path: str | Path, *, dev: bool = False) -> Settings:
    """The configuration in the TOML file at `path`; docs/configuration.md has its keys.

    Relative paths in it start at its folder. Secrets are not read yet: their users reveal them. With `dev` a missing
    secret is made up, and the page of `[page]` may log in and connect. Raises SettingsError with all errors, or
    ConfigError if the file can't be read.
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
    settings: Settings = reader.read(tables, Settings)
    if reader.problems:
        raise SettingsError([f"{path}:{line}: {problem}" for line, problem in sorted(reader.problems)])
    return settings.for_development() if dev else settings


def where(path: Path, place: Place) -> str:
    """File, line and name of `place` in a configuration that is valid: `cluster.toml:14: gateway.count`."""
    found = lines(path.read_bytes().decode("utf-8-sig"))
    return f"{path}:{line_of(found, place)}: {place_text(place)}"


def _syntax(path: Path, text: str, error: str) -> str:
    at = _AT_LINE.search(error)
    line = int(at[1]) if at and at[1] else text.count("\n") + 1
    here = (text.split("\n")[line - 1 : line] or [""])[0]
    hint = next((f"; {fix}" for pattern, fix in _HINTS if pattern.search(here)), "")
    return f"{path}:{line}: not valid TOML: {_AT_LINE.sub('', error)}{hint}"


_BAD: Any = object()
"""Stands for a value with an error, which is in `problems` already."""

_KINDS: dict[type, tuple[str, str]] = {
    str: ("a string", '"text"'),
    int: ("a whole number", "10"),
    float: ("a number", "1.5"),
    bool: ("true or false", "true"),
    list: ("an array", '["text"]'),
    dict: ("a table", '{ key = "value" }'),
}
"""The name of a type, and an example of it."""

_SUBJECT = re.compile(r"([A-Za-z_][\w.-]*)(: | )")


class Reader:
    """Reads one file's tables. `problems` has (line, error), in the order of reading.

    file: its name for errors. found: the line of each place. folder: where relative paths start. dev: for secrets.
    """

    def __init__(self, file: str, found: dict[Place, int], folder: Path, dev: bool) -> None:
        self.file = file
        self.found = found
        self.folder = folder
        self.dev = dev
        self.problems: list[tuple[int, str]] = []

    def read(self, value: Any, type: Any, place: Place = (), default: Any = msgspec.NODEFAULT) -> Any:
        """`value` as `type`: a struct, a tuple or a table of such types, a secret, a path, or a plain value.

        default: the field's own, for examples. Returns `_BAD` after an error.
        """
        if get_origin(type) in (Union, types.UnionType):
            (type,) = [part for part in get_args(type) if part is not types.NoneType]
        if isinstance(type, StructMeta):
            if type is ListenSettings and isinstance(value, str):
                value = {"endpoint": value}
            return self._struct(value, type, place, default)
        if get_origin(type) is tuple:
            return self._array(value, get_args(type)[0], place)
        if get_origin(type) is dict:
            key, item = get_args(type)
            return self._table(value, key, item, place)
        if type in (Secret, Path, DatabaseUrl, UrlOrPath, bytes):
            return self._text(value, type, place)
        return self._plain(value, type, place, default)

    def _struct(self, table: Any, struct: Any, place: Place, default: Any) -> Any:
        if not isinstance(table, dict):
            return self._error(place, f"must be a table, not {_kind(table)}; write it as [{'.'.join(map(str, place))}]")
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        defaults = msgspec.structs.asdict(default) if isinstance(default, struct) else {}
        values: dict[str, Any] = {}
        for key in table:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                fix = f"did you mean {near[0]}?" if near else f"it may be {', '.join(fields)}"
                self._error((*place, key), f"there is no such key; {fix}")
                values[key] = _BAD
        for name, field in fields.items():
            inner = (*place, name)
            if name in defaults:
                of_field = defaults[name]
            elif field.default_factory is not msgspec.NODEFAULT:
                of_field = field.default_factory()
            else:
                of_field = field.default
            if name in table:
                values[name] = self.read(table[name], field.type, inner, of_field)
            elif of_field is msgspec.NODEFAULT:
                example = '"mygame.lobby:service"' if name == "run" else _example(field.type, None)
                values[name] = self._error(place, f"{name} is missing; write {name} = {example}")
            else:
                values[name] = self._default(of_field, field.type, inner)
        if _BAD in values.values():
            return _BAD
        try:
            return struct(**values)
        except ConfigError as error:
            return self._add_struct_error(str(error), place)

    def _default(self, default: Any, type: Any, place: Place) -> Any:
        """A default, its paths and secrets placed as if they were in the file."""
        if isinstance(default, msgspec.Struct):
            types_of = {field.name: field.type for field in msgspec.structs.fields(default)}
            values = msgspec.structs.asdict(default)
            placed = {name: self._default(value, types_of[name], (*place, name)) for name, value in values.items()}
            return msgspec.structs.replace(default, **placed)
        if isinstance(default, Secret):
            return self._placed(default, place)
        if isinstance(default, tuple):
            return tuple(self._placed(item, place) if isinstance(item, Secret) else item for item in default)
        if isinstance(default, Path) or type in (DatabaseUrl, UrlOrPath):
            return self._text(str(default), type, place)
        return default

    def _array(self, value: Any, item: Any, place: Place) -> Any:
        if not isinstance(value, list):
            if isinstance(item, StructMeta) and item is not ListenSettings:
                example = f"[[{place_text(place)}]]"
            else:
                example = f"{place[-1]} = [{toml(value) if isinstance(value, (str, int)) else _example(item, None)}]"
            return self._error(place, f"must be an array, not {_kind(value)}; write it as {example}")
        values = [self.read(part, item, (*place, index)) for index, part in enumerate(value)]
        return _BAD if _BAD in values else tuple(values)

    def _table(self, value: Any, key_type: Any, item: Any, place: Place) -> Any:
        if not isinstance(value, dict):
            inner_name = ".NAME" if isinstance(value, list) else ""  # [[services]] was meant to be [services.lobby]
            return self._error(
                place, f"must be a table, not {_kind(value)}; write it as [{'.'.join(map(str, place))}{inner_name}]"
            )
        values = {}
        for key, part in value.items():
            inner = (*place, key)
            values[key] = self.read(part, item, inner)
            if self._plain(key, key_type, inner, None) is _BAD:
                values[key] = _BAD
        return _BAD if _BAD in values.values() else values

    def _text(self, value: Any, type: Any, place: Place) -> Any:
        """A type that TOML writes as a string."""
        if not isinstance(value, str):
            example = '"env:NAME" or "file:PATH"' if type is Secret else '"path/to/file"' if type is Path else '"text"'
            return self._error(place, f"must be a string, not {_kind(value)}; write it as {example}")
        if type is Secret:
            try:
                return self._placed(Secret(value), place)
            except ConfigError as error:
                return self._error(place, str(error))
        if type is bytes:
            try:
                return bytes.fromhex(value)
            except ValueError:
                return self._error(place, f'must be hex digits; write it as {place[-1]} = "29fd0138"')
        if type is Path:
            return self.folder / value
        if type is DatabaseUrl:
            scheme, slashes, path = value.partition(":///")
            if not scheme.startswith("sqlite") or not path or path.startswith(("/", ":memory:")):
                return value
            folder = str(self.folder.absolute()).replace("%", "%25").replace("?", "%3F")  # as a URL of SQLite has them
            return f"{scheme}{slashes}{folder}/{path}"
        return value if "://" in value else str(self.folder.absolute() / value)

    def _plain(self, value: Any, type: Any, place: Place, default: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return self._error(place, "must be a finite number")
        try:
            return msgspec.convert(value, type)
        except msgspec.ValidationError:
            return self._error(place, _wrong(value, type, place[-1], default))

    def _placed(self, secret: Secret, place: Place) -> Secret:
        where = f"{self.file}:{line_of(self.found, place)}: {place_text(place)}"
        return secret.placed(self.folder, where, self.dev)

    def _error(self, place: Place, text: str) -> Any:
        label = f"{place_text(place)}: " if place else ""
        self.problems.append((line_of(self.found, place), label + text))
        return _BAD

    def _add_struct_error(self, text: str, place: Place) -> Any:
        """Add an error of a struct, which begins with the field's name: `limits.max_frame is 0`, `routes: ...`."""
        subject = _SUBJECT.match(text)
        names = subject[1].split(".") if subject else []
        parts: Place = tuple(int(name) if name.isdecimal() else name for name in names)
        if place and parts[:1] == place[-1:] and len(parts) > 1:
            text = text[len(names[0]) + 1 :]
            parts = parts[1:]
        label = f"{place_text(place)}: " if place else ""
        self.problems.append((line_of(self.found, (*place, *parts)), label + text))
        return _BAD


def place_text(place: Place) -> str:
    """A place as text: `gateway.listen[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{key_text(part)}"
    return text


def _kind(value: Any) -> str:
    """The name of the type of a TOML value."""
    return _KINDS.get(type(value), ("a date or time", ""))[0] if not isinstance(value, bool) else _KINDS[bool][0]


def _bare(type: Any) -> tuple[Any, msgspec.Meta]:
    """A type without its bounds, and the bounds."""
    if get_origin(type) is Annotated:
        bare, *metas = get_args(type)
        return bare, metas[0]
    return type, msgspec.Meta()


def _example(type: Any, default: Any) -> str:
    """An example of a value of `type`."""
    bare, meta = _bare(type)
    if isinstance(default, (str, int, float)):
        return toml(default)
    if meta.examples:
        return toml(meta.examples[0])
    if get_origin(bare) is Literal:
        return toml(get_args(bare)[0])
    if get_origin(bare) is tuple:
        return f"[{_example(get_args(bare)[0], None)}]"
    return _KINDS.get(bare, _KINDS[str])[1]


def _meant(value: Any, bare: Any) -> str | None:
    """The number or boolean in the text `value`: 2 of "2", 30 of "30s"; None if the text has no such value."""
    if not isinstance(value, str):
        return None
    if bare is bool:
        return value.lower() if value.lower() in ("true", "false") else None
    number = re.match(r"\s*(-?[0-9]+(?:\.[0-9]+)?)", value) if bare in (int, float) else None
    return number[1] if number and (bare is float or "." not in number[1]) else None


def _wrong(value: Any, type: Any, name: str | int, default: Any) -> str:
    """The error of a plain value, and how to write it."""
    bare, meta = _bare(type)
    if get_origin(bare) is Literal:
        choices = get_args(bare)
        near = difflib.get_close_matches(str(value), [each for each in choices if isinstance(each, str)], 1)
        mean = f"; did you mean {toml(near[0])}?" if near else ""
        return f"must be {' or '.join(map(toml, choices))}, not {toml(value)}{mean}"
    right = isinstance(value, (int, float) if bare is float else bare) and isinstance(value, bool) == (bare is bool)
    if not right:
        target = f"{name} = " if isinstance(name, str) else ""
        example = _meant(value, bare) or _example(type, default)
        return f"must be {_KINDS[bare][0]}, not {_kind(value)}; write it as {target}{example}"
    if meta.pattern is not None:
        return f"must be {meta.description}, as {_example(type, None)}"
    bounds = {"above": meta.gt, "at least": meta.ge, "below": meta.lt, "at most": meta.le}
    wanted = " and ".join(f"{word} {toml(bound)}" for word, bound in bounds.items() if bound is not None)
    return f"is {toml(value)}; it must be {wanted}"
