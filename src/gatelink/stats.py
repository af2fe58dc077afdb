"""Plain counters, written on the hot path and read at each scrape of the metrics."""

from bisect import bisect_left
from collections import Counter

from gatelink._native import compiled
from gatelink.errors import CloseCode


@compiled
class Traffic:
    """Messages of one type, in one direction."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


RTT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds, in seconds, of the round trip histogram: from the same rack to another continent, and worse."""


TOKEN_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds, in seconds, of the check of a token: from a check in this process to an overloaded engine."""


REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the wait for an answer: from a plain handler near by to the usual deadline."""


class Histogram:
    """Counts values by size. counts[i]: values up to bounds[i] and above the bound before; the last: all others."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Stats:
    """The counters of one server, or of the client side of one process, since its start.

    They only grow, except `held_bytes`.
    """

    def __init__(self) -> None:
        self.accepted = 0  # connections
        self.refused: Counter[str] = Counter()  # connections refused, by reason
        self.verified = 0  # logins of clients that succeeded
        self.token_seconds = Histogram(TOKEN_BUCKETS)  # of `Tokens.verify`, whatever its result
        self.closed: Counter[CloseCode] = Counter()  # closed sessions, by code
        self.closed_by_peer: Counter[CloseCode] = Counter()  # of these, those closed by the peer's CLOSE
        self.bans = 0  # times that an address was banned
        self.sent: dict[str, Traffic] = {}  # by message name; unregistered ids are `other`
        self.unrouted: dict[str, Traffic] = {}  # received without a handler: base messages, forwarded, unhandled
        self.unhandled = 0  # messages without a handler, dropped
        self.handler_errors: Counter[str] = Counter()  # by message name
        self.dropped = 0  # messages dropped or replaced by an outbox's policy
        self.paused = 0  # times that reading from a peer paused because its handlers lag
        self.rate_paused = 0  # times that reading from a peer paused because of its rates
        self.rate_dropped: Counter[str] = Counter()  # messages dropped for the rate of their type, by name
        self.requests_asked: Counter[str] = Counter()  # requests of this side that are over, by outcome
        self.requests_served: Counter[str] = Counter()  # requests of peers that are over, by outcome
        self.renewals: Counter[str] = Counter()  # renewals of logins, by outcome
        self.stray_answers = 0  # answers to nothing
        self.request_seconds = Histogram(REQUEST_BUCKETS)  # from a request of this side to its end
        self.held_bytes = 0  # of all sessions, at the last look
        self.backlogs_dropped = 0  # messages of detached sessions whose window or room ended
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
