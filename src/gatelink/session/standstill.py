"""Notices that this process stood still: it was stopped, its machine was paused, or something blocked its loop.

The other servers may have gone on without it. So the messages that wait in its sockets and inboxes may be out of date.
"""

import time
from collections.abc import Callable

from gatelink.config import Limits
from gatelink.session.timers import Item, Wheel

LOOK_SECONDS = 0.25
"""Seconds between two checks of the clock, at most."""


def machine_time() -> float:
    """Seconds since the machine's start, with those that it slept. The loop's time leaves these out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def longest_silence(limits: Limits) -> float:
    """Seconds of silence after which the other end of a link may have given up this process.

    The other end gives up after `heartbeat_timeout` without a frame. Its last frame may be up to two intervals older
    than the silence here.
    """
    return max(limits.heartbeat_timeout - 2 * limits.heartbeat_interval, limits.heartbeat_timeout / 2)


class Standstill(Item):
    """Calls `on_standstill(seconds)` when `check` has not run for longer than `longest` seconds.

    A timer runs `check`. But a loop that wakes reads its sockets before it calls its timers. So code that reads or
    handles messages calls `check` first.

    clock: seconds, for tests.
    """

    __slots__ = ("_clock", "_on_standstill", "_seen", "_wheel", "longest")

    def __init__(
        self,
        wheel: Wheel,
        longest: float,
        on_standstill: Callable[[float], None],
        clock: Callable[[], float] = machine_time,
    ) -> None:
        self._tick = 0
        self.longest = longest
        self._wheel = wheel
        self._clock = clock
        self._on_standstill = on_standstill
        self._seen = clock()
        self.on_deadline(0.0)

    def check(self) -> bool:
        """Look at the clock. Returns True if the process stood still until now, after a call of `on_standstill`."""
        now = self._clock()
        stood, self._seen = now - self._seen, now
        if stood <= self.longest:
            return False
        self._on_standstill(stood)
        return True

    def on_deadline(self, now: float) -> None:
        self._wheel.set(self, min(LOOK_SECONDS, self.longest / 4))  # before: the callback may stop it, or raise
        self.check()

    def stop(self) -> None:
        """Stop the timer."""
        self._wheel.cancel(self)
