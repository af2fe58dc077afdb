"""How long the event loop was blocked: one meter for the metrics, and for the load in a server's registry entry."""

import asyncio
from collections import deque
from time import perf_counter

STEP = 0.02
"""Seconds between two looks."""

NOTED = 1.5 * STEP
"""Seconds between two looks from which the loop counts as blocked for all of that time. A block is then measured at its
length, or up to STEP longer.
"""

WINDOW = 60.0
"""Seconds of history."""


class LoopLag:
    """Measures between `start` and `stop`. A call right after a block sees the block."""

    def __init__(self) -> None:
        self._worst: deque[tuple[float, float]] = deque()  # (time, seconds); each is longer than all later ones
        self._unseen = 0.0  # the longest since `since_last`
        self._looked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure, in the running loop. Does nothing if it has begun."""
        if self._timer is None:
            self._looked = perf_counter()
            self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def within(self, seconds: float) -> float:
        """The longest block, in seconds, of the last `seconds`, up to WINDOW."""
        self._look()
        since = self._looked - seconds
        return next((lag for when, lag in self._worst if when >= since), 0.0)

    def since_last(self, seconds: float) -> float:
        """The longest block since the last call, or of the last `seconds` if that is longer."""
        longest = max(self.within(seconds), self._unseen)
        self._unseen = 0.0
        return longest

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(STEP, self._turn)

    def _turn(self) -> None:
        self._look()
        self._arm()

    def _look(self) -> None:
        if self._timer is None:
            return
        now = perf_counter()
        between, self._looked = now - self._looked, now
        lag = between if between > NOTED else max(0.0, between - STEP)
        self._unseen = max(self._unseen, lag)
        worst = self._worst
        while worst and worst[-1][1] <= lag:
            worst.pop()
        worst.append((now, lag))
        while worst[0][0] < now - WINDOW:
            worst.popleft()
