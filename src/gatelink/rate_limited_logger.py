"""A logger for lines that peers, or a backend that is down, can cause at any rate."""

from collections.abc import Callable
from time import monotonic
from typing import Any

INTERVAL = 1.0  # s between two lines of one event


class RateLimitedLogger:
    """Writes at most one line a second for each event. Its key `left_out` counts the lines since the last written one.

    log: a structlog logger. clock: seconds. Events must be constants, because each is remembered.
    """

    def __init__(self, log: Any, clock: Callable[[], float] = monotonic) -> None:
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
