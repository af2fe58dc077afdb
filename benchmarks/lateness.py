"""How late the timers of an event loop run, and how much of its core the process had."""

import asyncio
from pathlib import Path
from time import perf_counter

from gatelink.robots.tally import LatencyHistogram

PERIOD = 0.01
"""Seconds between two samples."""


class Lateness:
    """Every 10 ms: how much later than asked for its timer was called. To be made where the loop runs."""

    def __init__(self) -> None:
        self.seen = LatencyHistogram()
        self._loop = asyncio.get_running_loop()
        self._ask()

    def take(self) -> LatencyHistogram:
        """What was seen since the last call."""
        seen, self.seen = self.seen, LatencyHistogram()
        return seen

    def _ask(self) -> None:
        self._due = perf_counter() + PERIOD
        self._loop.call_later(PERIOD, self._called)

    def _called(self) -> None:
        self.seen.add(max(0.0, perf_counter() - self._due))
        self._ask()


class Core:
    """What this process had of its core, and what it waited for while others had it."""

    def __init__(self) -> None:
        self._before = self._read()

    def take(self) -> tuple[float, float]:
        """Since the last call: the share that it ran, and the share that it could have run and had to wait."""
        wall, ran, waited = self._before
        self._before = now = self._read()
        seconds = now[0] - wall
        return (now[1] - ran) / seconds, (now[2] - waited) / seconds

    def _read(self) -> tuple[float, float, float]:
        ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
        return perf_counter(), int(ran) / 1e9, int(waited) / 1e9


def summary(times: LatencyHistogram) -> dict[str, float]:
    """The figures of a histogram, in seconds, for JSON."""
    return {"count": times.count, "p50": times.percentile(50), "p99": times.percentile(99), "longest": times.most}
