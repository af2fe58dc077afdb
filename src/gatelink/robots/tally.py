"""What the robots of one run have counted together, as a whole and second by second."""

from collections import Counter, deque
from math import ceil, log2, sqrt
from time import perf_counter

import msgspec

KEPT_ERRORS = 20
"""Different texts of errors that are kept; errors of other texts are only counted."""

KEPT_SECONDS = 3600
"""Seconds of history that are kept: the last ones."""

SHORTEST_SECOND = 0.5
"""Seconds from which a part of a second gives a rate worth showing."""

LEAST = 1e-6
"""Seconds: what is shorter stands in the first bucket."""

PER_DOUBLING = 16
"""Buckets from one time to its double: a percentile is right to about 2 per cent."""

BUCKETS = 28 * PER_DOUBLING
"""Up to 268 s; what is longer stands in the last."""


class LatencyHistogram:
    """How often each latency was seen. `count` of them, the longest of `most` seconds."""

    __slots__ = ("_buckets", "count", "most")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self.count = 0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Counts one latency, of 0 s or more."""
        at = int(log2(seconds / LEAST) * PER_DOUBLING) if seconds > LEAST else 0
        self._buckets[min(at, BUCKETS - 1)] += 1
        self.count += 1
        if seconds > self.most:
            self.most = seconds

    def merge(self, other: "LatencyHistogram") -> None:
        """Counts what `other` has counted, too."""
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]
        self.count += other.count
        self.most = max(self.most, other.most)

    def percentile(self, percent: float) -> float:
        """The seconds that `percent` (above 0, up to 100) of the latencies did not exceed; 0.0 if there are none."""
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
    p99: float
    most: float

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> "Latency":
        return cls(histogram.count, histogram.percentile(50), histogram.percentile(99), histogram.most)


class Second(msgspec.Struct, frozen=True):
    """What happened in one second of a run."""

    at: float  # s from the run's start to this second's end
    sessions: int  # open at its end
    sent: float  # messages per second
    received: float
    errors: int  # in it
    latencies: dict[str, Latency]  # of it, by the name they were recorded under


class Error(msgspec.Struct):
    """All errors of one text."""

    text: str
    robot: int  # the first that had it
    at: float  # s from the run's start to the first
    count: int = 0


class Tally:
    """The counters of one run."""

    def __init__(self) -> None:
        self.sessions = 0  # open now
        self.most_sessions = 0  # open at one time
        self.all_sessions = 0  # that were opened, however short they were
        self.sent = 0  # messages
        self.received = 0
        self.errors = 0
        self.error_texts: dict[str, Error] = {}  # the first KEPT_ERRORS texts
        self.counts: Counter[str] = Counter()  # what scenarios count, by their names
        self.latencies: dict[str, LatencyHistogram] = {}
        self.seconds: deque[Second] = deque(maxlen=KEPT_SECONDS)
        self._now: dict[str, LatencyHistogram] = {}  # latencies of this second
        self._mark = (0.0, 0, 0, 0)  # elapsed, sent, received and errors when it began
        self._started = perf_counter()

    def start(self) -> None:
        """The run starts now."""
        self._started = perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    @property
    def held(self) -> bool:
        """Whether nothing failed."""
        return not self.errors

    def opened(self) -> None:
        """Counts a session that is there from now on."""
        self.sessions += 1
        self.all_sessions += 1
        self.most_sessions = max(self.most_sessions, self.sessions)

    def closed(self) -> None:
        """Counts the end of one."""
        self.sessions -= 1

    def record(self, name: str, seconds: float) -> None:
        """Counts one latency."""
        histogram = self._now.get(name)
        if histogram is None:
            histogram = self._now[name] = LatencyHistogram()
        histogram.add(seconds)

    def fail(self, robot: int, text: str) -> None:
        """Counts one error."""
        self.errors += 1
        error = self.error_texts.get(text)
        if error is None:
            if len(self.error_texts) >= KEPT_ERRORS:
                return
            error = self.error_texts[text] = Error(text, robot, self.elapsed)
        error.count += 1

    def end_second(self) -> None:
        """Closes the current second, and begins the next. One cut short by the end of the run is in the totals only."""
        begun, sent, received, errors = self._mark
        elapsed = self.elapsed
        took = elapsed - begun
        if took >= SHORTEST_SECOND:
            self.seconds.append(
                Second(
                    at=elapsed,
                    sessions=self.sessions,
                    sent=(self.sent - sent) / took,
                    received=(self.received - received) / took,
                    errors=self.errors - errors,
                    latencies={name: Latency.of(histogram) for name, histogram in self._now.items()},
                )
            )
        for name, histogram in self._now.items():
            self.latencies.setdefault(name, LatencyHistogram()).merge(histogram)
        self._now = {}
        self._mark = (elapsed, self.sent, self.received, self.errors)

    def summary(self) -> dict[str, object]:
        """The run in figures, ready for JSON; times in seconds."""
        return {
            "held": self.held,
            "seconds": round(self.elapsed, 3),
            "sessions": self.all_sessions,
            "most_sessions": self.most_sessions,
            "sent": self.sent,
            "received": self.received,
            "errors": self.errors,
            "error_texts": list(self.error_texts.values()),
            "counts": dict(self.counts),
            "latencies": {name: Latency.of(histogram) for name, histogram in self.latencies.items()},
        }
