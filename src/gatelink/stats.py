"""Plain counters, written on the hot path and read when somebody scrapes the metrics."""

from bisect import bisect_left
from collections import Counter

from gatelink.errors import CloseCode


class Traffic:
    """Messages of one type, one way."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


RTT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds, in seconds, of the round trip histogram: from the same rack to another continent, and worse."""


TOKEN_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds, in seconds, of how long checking a token took: from in this process to an engine that is overloaded."""


class Histogram:
    """How often which values came. counts: of values up to each of `bounds` and above the one before; then the rest."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Stats:
    """What one server, or the client side of one process, has counted since its start. Only grows, but for
    `held_bytes`.
    """

    def __init__(self) -> None:
        self.accepted = 0  # connections
        self.refused: Counter[str] = Counter()  # connections refused, by reason
        self.verified = 0  # logins of clients that succeeded
        self.token_seconds = Histogram(TOKEN_BUCKETS)  # that `Tokens.verify` took, whatever came of it
        self.closed: Counter[CloseCode] = Counter()  # sessions that ended, by code
        self.closed_by_peer: Counter[CloseCode] = Counter()  # of these, those whose code the peer's CLOSE gave
        self.bans = 0  # times that an address was banned
        self.sent: dict[str, Traffic] = {}  # by message name; unregistered ids are `other`
        self.unrouted: dict[str, Traffic] = {}  # received without a handler: the framework's, forwarded, unhandled
        self.unhandled = 0  # messages that nothing here handles, dropped
        self.handler_errors: Counter[str] = Counter()  # by message name
        self.dropped = 0  # messages dropped or replaced by an outbox's policy
        self.paused = 0  # times that reading from a peer paused because its handlers lag
        self.rate_paused = 0  # times that it paused because it sends more than its rates allow
        self.rate_dropped: Counter[str] = Counter()  # messages dropped for the rate of their type, by name
        self.held_bytes = 0  # what all sessions held when they were last weighed
        self.backlogs_dropped = 0  # messages of broken sessions whose window or room was over
        self.rtt = Histogram(RTT_BUCKETS)  # seconds from a PING to its PONG, of clients
        self.ticks = 0
        self.tick_overruns = 0

    def sent_of(self, name: str) -> Traffic:
        """The counter of messages sent under `name`."""
        return _of(self.sent, name)

    def unrouted_of(self, name: str) -> Traffic:
        """The counter of messages received under `name` that no handler took."""
        return _of(self.unrouted, name)


def _of(counters: dict[str, Traffic], name: str) -> Traffic:
    found = counters.get(name)
    if found is None:
        found = counters[name] = Traffic()
    return found
