"""Logs: one line for each event, on standard error. Only programs call `configure`; the library does not.

Code that logs never waits for the log, and gets no error from it (log_writer.py).
"""

import atexit
import logging
import sys
from collections.abc import MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import structlog
from structlog.typing import Processor

from gatelink.logger import Logger
from gatelink.ops import terminal
from gatelink.ops.log_writer import LogFile, LogWriter

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]

LAST_LINES = 1.0
"""Seconds that the queued lines have at the end of the process."""

_NAME = "gatelink.logs"
log = Logger(_NAME)

_writer = LogWriter()
_file: LogFile | None = None

atexit.register(lambda: flush(LAST_LINES))


def configure(format: Format = "console", level: Level = "info", label: str = "") -> None:
    """Write structlog's events from `level` up, and warnings of `logging`, to standard error.

    console: for people. Texts are quoted, so that a peer's text can't forge a line or control the terminal. On a
    terminal a line is short and coloured, with `label` before it (terminal.py); elsewhere it is whole, with the time as
    ISO 8601 in UTC.
    json: one object for each line, with `timestamp` (ISO 8601, UTC), `level`, `logger`, `event` and the event's keys.
    Tracebacks have no local variables, because those hold tokens.
    """
    global _file
    if _file is None:
        _file = LogFile()
    renderer: Processor
    if format == "json":
        renderer = structlog.processors.JSONRenderer()
    elif terminal.is_shown():
        renderer = terminal.TerminalRenderer(label)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=False, repr_native_str=True, exception_formatter=structlog.dev.plain_traceback
        )
    render = _Render([*([structlog.processors.format_exc_info] if format == "json" else []), renderer])
    _writer.missing = lambda lines: render.line("log lines were dropped", lines=lines)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_Logger,
    )
    root = logging.getLogger()
    if not root.handlers:  # else the program has its own
        root.addHandler(_Handler(logging.WARNING))


def write(line: str) -> None:
    """Write a line to standard error as the log does: without waiting, and without an error."""
    _writer.write(sys.stderr, line)


def say(line: str) -> None:
    """`write`, and `flush`: for the last line of a command, which follows all earlier log lines."""
    write(line)
    flush()


def flush(seconds: float = LAST_LINES) -> bool:
    """Wait up to `seconds` until all lines have been written or dropped. Returns whether they were."""
    return _writer.flush(seconds)


def dropped() -> int:
    """How many lines could not be written, since the process started."""
    return _writer.dropped + Logger.lost


def reopen() -> None:
    """If standard error is a file, append to a new file of that name: a rotation has moved the old one."""
    if _file is None:
        return
    try:
        if _file.reopen():
            log.info("the log file is opened again", file=_file.path)
    except OSError as error:
        log.error("the log file can't be opened again; the old one is kept", file=_file.path, error=str(error))


class _Logger:
    """Writes to standard error. name: the argument of `structlog.get_logger`."""

    def __init__(self, name: str = "root") -> None:
        self.name = name

    def msg(self, message: str) -> None:
        write(message)

    log = debug = info = warn = warning = err = error = exception = critical = fatal = failure = msg


class _Render:
    """The last processor. If a value of an event can't be shown, the event is shown without its values."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        kept = {key: value for key, value in event.items() if key in ("timestamp", "level", "logger", "event")}
        try:
            return self._render(logger, method, event)
        except Exception as error:
            kept["event"] = str(kept.get("event"))
            return self._render(logger, method, {**kept, "not_shown": type(error).__name__})

    def line(self, event: str, **keys: object) -> str:
        """A line of the log itself."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return self(None, "error", {"timestamp": now, "level": "error", "logger": _NAME, "event": event, **keys})

    def _render(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        done: Any = event
        for processor in self._processors:
            done = processor(logger, method, done)
        return str(done)


class _Handler(logging.Handler):
    """Passes events of `logging`, from libraries, to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # its arguments do not fit its text
            text = f"{record.msg} (not shown: {type(error).__name__})"
        logger = Logger(record.name)
        (logger.error if record.levelno >= logging.ERROR else logger.warning)(text, exc_info=record.exc_info)
