"""Latencies in a fixed number of buckets, however many there are."""

from math import ceil, log2, sqrt

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
