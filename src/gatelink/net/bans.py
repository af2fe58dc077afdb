"""The record of each address: how often it connects, and how often its logins fail.

Both are bounded in number (limits.max_addresses). Over it the record of the oldest address is cleared. A client that
changes its address a thousand times clears only its own bans, and no other client is refused for it.
"""

from collections import OrderedDict

from gatelink.config import Limits
from gatelink.session.rates import TokenBucket


class ConnectRates:
    """A bucket for each address that has connected of late (limits.connect_rate, connect_burst).

    Keys are those of `endpoints.address_key`. now: seconds of any clock, the same in all calls.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # the one used last at the end

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> bool:
        """Whether `key` may connect once more."""
        limits = self._limits
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            self._make_room(now)
            bucket = TokenBucket(limits.connect_rate, limits.connect_burst, now)
        self._buckets[key] = bucket
        return bucket.take(now)

    def _make_room(self, now: float) -> None:
        """Drop the oldest if there are too many, and up to two that are full again, so that few stay."""
        while len(self._buckets) >= self._limits.max_addresses:
            self._buckets.popitem(last=False)
        for _ in range(min(2, len(self._buckets))):
            key, bucket = next(iter(self._buckets.items()))
            if bucket.refill(now) < bucket.burst:
                return
            del self._buckets[key]


class _Record:
    """One address's failures."""

    __slots__ = ("failed_at", "failures", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.failed_at = 0.0
        self.until = 0.0  # when its ban ends


class BanTable:
    """Addresses from which logins fail: after limits.free_failures each one more bans for twice as long.

    A login that succeeds takes one failure back. So behind a provider's NAT, where most logins succeed, one player's
    wrong tokens do not ban the others. Keys and `now` as for `ConnectRates`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._records: OrderedDict[str, _Record] = OrderedDict()  # the one that failed last at the end

    def __len__(self) -> int:
        return len(self._records)

    def failed(self, key: str, now: float) -> float:
        """A login from `key` failed: the seconds for which it is banned now, 0 for not at all."""
        limits = self._limits
        record = self._records.pop(key, None)
        if record is None or now - record.failed_at >= limits.ban_memory:
            self._make_room(now)
            record = _Record()
        self._records[key] = record
        record.failures += 1
        record.failed_at = now
        over = record.failures - limits.free_failures
        if over <= 0:
            return 0.0
        seconds = min(limits.ban_longest, limits.ban_first * 2.0 ** min(over - 1, 64))
        record.until = now + seconds
        return seconds

    def succeeded(self, key: str) -> None:
        """A login from `key` succeeded. A ban that has begun goes on."""
        record = self._records.get(key)
        if record is not None and record.failures:
            record.failures -= 1

    def is_banned(self, key: str, now: float) -> bool:
        record = self._records.get(key)
        return record is not None and now < record.until

    def banned(self, now: float) -> int:
        """The number of addresses that are banned now. Takes time in proportion to all records."""
        return sum(now < record.until for record in self._records.values())

    def _make_room(self, now: float) -> None:
        """Drop the oldest if there are too many, and up to two that have expired."""
        while len(self._records) >= self._limits.max_addresses:
            self._records.popitem(last=False)
        for _ in range(min(2, len(self._records))):
            key, record = next(iter(self._records.items()))
            if now - record.failed_at < self._limits.ban_memory:
                return
            del self._records[key]
