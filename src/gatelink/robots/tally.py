"""The counters of one load test: of the whole run, and of each second."""

from collections import Counter, deque
from math import ceil, log2, sqrt
from time import perf_counter, process_time

import msgspec

KEPT_ERRORS = 20
"""Different texts of errors that are kept. Errors with other texts are only counted."""

KEPT_SECONDS = 3600
"""The last seconds, which are kept as history."""

SHORTEST_SECOND = 0.5
"""The shortest part of a second for which a rate is shown."""

LEAST = 1e-6
"""Seconds. Shorter latencies are in the first bucket."""

PER_DOUBLING = 16
"""Buckets from one time to its double. A percentile is right to about 2 per cent."""

BUCKETS = 28 * PER_DOUBLING
"""Up to 268 s. Longer latencies are in the last bucket."""


def milliseconds(seconds: float) -> str:
    """`0.0012345` -> `1.23 ms`: three significant digits, or all before the point."""
    value = seconds * 1000
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


class LatencyHistogram:
    """Latencies in a fixed number of buckets. count: of latencies. most: the longest, in seconds."""

    __slots__ = ("_buckets", "count", "most")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self.count = 0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency, 0 s or more."""
        at = int(log2(seconds / LEAST) * PER_DOUBLING) if seconds > LEAST else 0
        self._buckets[min(at, BUCKETS - 1)] += 1
        self.count += 1
        if seconds > self.most:
            self.most = seconds

    def merge(self, other: "LatencyHistogram") -> None:
        """Add the counts of `other`."""
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]
        self.count += other.count
        self.most = max(self.most, other.most)

    def percentile(self, percent: float) -> float:
        """The seconds that `percent` (above 0, up to 100) of the latencies do not exceed; 0.0 without latencies."""
        rank = ceil(self.count * percent / 100)
        seen = 0
        for at, count in enumerate(self._buckets):
            seen += count
            if seen >= rank and count:
                middle = LEAST * 2 ** (at / PER_DOUBLING) * sqrt(2 ** (1 / PER_DOUBLING))
                return min(middle, self.most)
        return 0.0


class Latency(msgspec.Struct, frozen=True):
    """A summary of latencies, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> "Latency":
        p50, p95, p99 = map(histogram.percentile, (50, 95, 99))
        return cls(histogram.count, p50, p95, p99, histogram.most)

    def figure(self, name: str) -> float:
        """The figure that people call `p50`, `p95`, `p99` or `longest`."""
        return {"p50": self.p50, "p95": self.p95, "p99": self.p99, "longest": self.most}[name]


class Second(msgspec.Struct, frozen=True):
    """One second of a run."""

    at: float  # s from the run's start to this second's end
    sessions: int  # open at one time in it, at most
    sent: float  # messages per second
    received: float
    errors: int  # in it
    latencies: dict[str, Latency]  # in it, by name


class Error(msgspec.Struct):
    """All errors with one text."""

    text: str
    robot: int  # the first with this error
    at: float  # s from the run's start to the first
    count: int = 0


class Tally:
    """The counters of one run."""

    def __init__(self) -> None:
        self.sessions = 0  # open now
        self.most_sessions = 0  # open at one time
        self.all_sessions = 0  # opened in all
        self.sent = 0  # messages
        self.received = 0
        self.errors = 0
        self.error_texts: dict[str, Error] = {}  # the first KEPT_ERRORS texts
        self.counts: Counter[str] = Counter()  # of scenarios, by name
        self.latencies: dict[str, LatencyHistogram] = {}
        self.seconds: deque[Second] = deque(maxlen=KEPT_SECONDS)
        self._now: dict[str, LatencyHistogram] = {}  # latencies of this second
        self._most_now = 0  # sessions open at one time in this second
        self._mark = (0.0, 0, 0, 0)  # elapsed, sent, received and errors at its begin
        self._started = perf_counter()
        self._cpu_started = process_time()
        self._ended: tuple[float, float] | None = None  # elapsed and CPU at the end of the run

    def start(self) -> None:
        """Start the clock of the run."""
        self._started, self._cpu_started = perf_counter(), process_time()

    def end(self) -> None:
        """End the last second, and stop the clock of the run."""
        self.end_second()
        self._ended = (self.elapsed, self.cpu)

    @property
    def elapsed(self) -> float:
        """Seconds since the start, up to the end."""
        return self._ended[0] if self._ended is not None else perf_counter() - self._started

    @property
    def cpu(self) -> float:
        """Cores that this process used since the start, up to the end."""
        if self._ended is not None:
            return self._ended[1]
        return (process_time() - self._cpu_started) / max(self.elapsed, 0.001)

    @property
    def held(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def opened(self) -> None:
        """Count an opened session."""
        self.sessions += 1
        self.all_sessions += 1
        self.most_sessions = max(self.most_sessions, self.sessions)
        self._most_now = max(self._most_now, self.sessions)

    def closed(self) -> None:
        """Count a closed session."""
        self.sessions -= 1

    def record(self, name: str, seconds: float) -> None:
        """Count one latency."""
        histogram = self._now.get(name)
        if histogram is None:
            histogram = self._now[name] = LatencyHistogram()
        histogram.add(seconds)

    def fail(self, robot: int, text: str) -> None:
        """Count one error."""
        self.errors += 1
        error = self.error_texts.get(text)
        if error is None:
            if len(self.error_texts) >= KEPT_ERRORS:
                return
            error = self.error_texts[text] = Error(text, robot, self.elapsed)
        error.count += 1

    def end_second(self) -> None:
        """End this second, and begin the next. A second cut short by the end of the run is in the totals only."""
        begun, sent, received, errors = self._mark
        elapsed = self.elapsed
        took = elapsed - begun
        if took >= SHORTEST_SECOND:
            self.seconds.append(
                Second(
                    at=elapsed,
                    sessions=self._most_now,
                    sent=(self.sent - sent) / took,
                    received=(self.received - received) / took,
                    errors=self.errors - errors,
                    latencies={name: Latency.of(histogram) for name, histogram in self._now.items()},
                )
            )
        for name, histogram in self._now.items():
            self.latencies.setdefault(name, LatencyHistogram()).merge(histogram)
        self._now = {}
        self._most_now = self.sessions
        self._mark = (elapsed, self.sent, self.received, self.errors)

    def summary(self) -> dict[str, object]:
        """The figures of the run, for JSON. Times are in seconds."""
        return {
            "held": self.held,
            "seconds": round(self.elapsed, 3),
            "sessions": self.all_sessions,
            "most_sessions": self.most_sessions,
            "sent": self.sent,
            "received": self.received,
            "cpu": round(self.cpu, 3),
            "errors": self.errors,
            "error_texts": list(self.error_texts.values()),
            "counts": dict(self.counts),
            "latencies": {name: Latency.of(histogram) for name, histogram in self.latencies.items()},
        }
