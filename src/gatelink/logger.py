"""The loggers of gatelink. A program may set up structlog as it likes; what its set-up raises must harm no session."""

from collections.abc import Callable
from time import monotonic

import structlog

INTERVAL = 1.0
"""Seconds between two lines of one event of a `RateLimitedLogger`."""


class Logger:
    """A structlog logger that raises nothing. A line that can't be written is counted.

    name: of the logger, as in `structlog.get_logger`.
    """

    lost = 0
    """Lines of all loggers that the program's own set-up of structlog could not take."""

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)

    def debug(self, event: str, **keys: object) -> None:
        self._write("debug", event, keys)

    def info(self, event: str, **keys: object) -> None:
        self._write("info", event, keys)

    def warning(self, event: str, **keys: object) -> None:
        self._write("warning", event, keys)

    def error(self, event: str, **keys: object) -> None:
        self._write("error", event, keys)

    def _write(self, method: str, event: str, keys: dict[str, object]) -> None:
        try:
            if "exc_info" in keys and not structlog.is_configured():
                # structlog's default shows the local variables of each frame, and tokens are among them.
                keys = dict(structlog.processors.format_exc_info(self._log, method, keys))
            getattr(self._log, method)(event, **keys)
        except KeyboardInterrupt:  # of a signal
            raise
        except BaseException:
            Logger.lost += 1


class RateLimitedLogger:
    """A logger for lines that peers, or a backend that is down, can cause at any rate.

    It writes at most one line a second for each event. Its key `left_out` counts the lines since the last written one.

    log: where it writes. clock: seconds. Events must be constants, because each is remembered.
    """

    def __init__(self, log: Logger, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._due: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def info(self, event: str, **keys: object) -> None:
        if self._may_write(event, keys):
            self._log.info(event, **keys)

    def error(self, event: str, **keys: object) -> None:
        if self._may_write(event, keys):
            self._log.error(event, **keys)

    def _may_write(self, event: str, keys: dict[str, object]) -> bool:
        """Whether `event` is due. If so, adds `left_out` to `keys`."""
        now = self._clock()
        if now < self._due.get(event, now):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return False
        self._due[event] = now + INTERVAL
        if left_out := self._left_out.pop(event, 0):
            keys["left_out"] = left_out
        return True
