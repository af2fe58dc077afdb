"""The engine's time, so that machines whose clocks differ agree on what has expired."""

import time
from collections.abc import Callable

KEPT = 60.0
"""Seconds after which a less exact measurement replaces a more exact one: clocks drift."""


class EngineClock:
    """The engine's time as this process knows it, and how far this machine's clock is from it.

    It runs on the monotonic clock between measurements. So a step of the machine's clock changes only `skew`. Before
    the first measurement, the machine's clock is the best guess.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] | None = None
    ) -> None:
        self.monotonic = monotonic
        self._wall = wall or _machines_time
        self._offset: float | None = None  # the engine's unix time, less the monotonic clock's
        self._error = 0.0  # of `_offset`, at most
        self._measured_at = 0.0

    def measured(self, sent: float, shown: float, received: float) -> None:
        """Take a measurement: a request, sent and answered at these monotonic times, found unix time `shown`."""
        offset, error = shown - (sent + received) / 2, (received - sent) / 2
        is_exact = self._offset is None or error <= self._error or received - self._measured_at > KEPT
        if is_exact or abs(offset - (self._offset or 0.0)) > error + self._error:  # or the engine's clock was set
            self._offset, self._error, self._measured_at = offset, error, received

    def now(self) -> float:
        """The engine's time in unix seconds."""
        return self._wall() if self._offset is None else self.monotonic() + self._offset

    @property
    def skew(self) -> float:
        """Seconds that this machine's clock is ahead of the engine's (negative: behind), at least.

        The error of the measurement, half of its round trip, is taken off. So a slow network shows no skew.
        """
        ahead = self._wall() - self.now()
        certain = max(0.0, abs(ahead) - self._error)
        return certain if ahead > 0 else -certain


def _machines_time() -> float:
    return time.time()
