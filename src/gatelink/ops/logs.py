"""Logs: one line an event, on standard error. For programs: a library leaves structlog as it finds it."""

import logging
import sys
from typing import Literal

import structlog

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]


def configure(format: Format = "console", level: Level = "info") -> None:
    """Has every logger of structlog write to standard error what is at least `level`.

    console: for people; texts are quoted, so that a peer's can't forge a line or steer the terminal.
    json: one object a line, with `timestamp` (ISO 8601, UTC), `level`, `logger`, `event` and the event's own keys.
    Tracebacks are without local variables: those hold tokens.
    """
    renderer: structlog.typing.Processor
    if format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), repr_native_str=True, exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if format == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_Logger,
    )


class _Logger(structlog.WriteLogger):
    """Writes to standard error; `name` is what `structlog.get_logger` was called with."""

    def __init__(self, name: str = "root") -> None:
        super().__init__(sys.stderr)
        self.name = name
