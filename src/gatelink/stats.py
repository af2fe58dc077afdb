"""Plain counters, written on the hot path and read when somebody scrapes the metrics."""

from collections import Counter

from gatelink.errors import CloseCode


class Traffic:
    """Messages of one type, one way."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


class Stats:
    """What one server, or the client side of one process, has counted since its start. Only grows, but for `open`."""

    def __init__(self) -> None:
        self.accepted = 0  # connections
        self.refused: Counter[str] = Counter()  # connections refused, by reason
        self.verified = 0  # logins that succeeded
        self.closed: Counter[CloseCode] = Counter()  # sessions that ended, by code
        self.sent: dict[str, Traffic] = {}  # by message name; unregistered ids are `other`
        self.unrouted: dict[str, Traffic] = {}  # received without a handler: the framework's, forwarded, unhandled
        self.unhandled = 0  # messages that nothing here handles, dropped
        self.handler_errors: Counter[str] = Counter()  # by message name
        self.dropped = 0  # messages dropped or replaced by an outbox's policy
        self.paused = 0  # times that reading from a peer paused because its handlers lag
        self.backlogs_dropped = 0  # messages of broken sessions whose window or room was over
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
