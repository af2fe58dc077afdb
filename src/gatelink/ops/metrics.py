"""One server's metrics for Prometheus, read from its counters at each scrape.

Labels are bounded: messages have their names in the catalog, unregistered ids are `other`, and close codes and reasons
for refusals are gatelink's own. docs/operations.md says what each metric means.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from gatelink.errors import CloseCode
from gatelink.handlers import Handlers
from gatelink.handling.routes import TIME_BUCKETS, Route
from gatelink.net.frontend import Frontend
from gatelink.ops.families import Exposition, counter, counters, gauge, histogram
from gatelink.ops.lag import LoopLag
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import MessageSource
from gatelink.session.outbox import Outbox
from gatelink.session.running_handlers import LONG
from gatelink.session.states import ConnectionState
from gatelink.stats import Stats

_BOUNDS = (*map(str, TIME_BUCKETS), "+Inf")


class Sessions(Protocol):
    """The sessions of one server: of a `SessionManager`, or the `Players` of a service."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MessageSource]: ...

    def outboxes(self) -> Iterable[Outbox]: ...


class Metrics(Exposition):
    """The counters of a started server, and the sizes of what it holds now.

    clients: its frontend for clients. sessions: its clients, or the players of a service. handlers: its table for
    them. lag: of its loop. more: further metrics.
    """

    def __init__(
        self,
        clients: Frontend,
        sessions: Sessions,
        handlers: Handlers,
        lag: LoopLag,
        more: Callable[[], Iterable[Metric]],
    ) -> None:
        super().__init__(lag)
        self._clients = clients
        self._sessions = sessions
        self._handlers = handlers
        self._stats = clients.context.stats
        self._more = more

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        sessions, admission = self._sessions, self._clients.admission
        running = self._clients.context.running
        yield gauge("sessions", "Open sessions.", len(sessions))
        yield gauge("connections", "Connections admitted and not yet gone.", len(admission.connections))
        unverified = sum(connection.state is ConnectionState.UNVERIFIED for connection in admission.connections)
        yield gauge("unverified_connections", "Connections between accept and verified.", unverified)
        yield from self.of_process()
        yield counter("accepted_connections", "Connections admitted.", stats.accepted)
        yield counters("refusals", "Connections closed before they were verified.", "reason", stats.refused)
        yield counter("logins", "Logins of clients that succeeded.", stats.verified)
        yield histogram("token_seconds", "Checking one token, whatever came of it.", stats.token_seconds)
        yield counter("bans", "Times that an address was banned.", stats.bans)
        yield gauge("banned_addresses", "Addresses that are banned now.", admission.banned())
        waiting = len(admission.handshakes)
        yield gauge("handshakes_waiting", "Connections that wait for their turn to make a handshake.", waiting)
        yield _closes(stats)
        yield from self._traffic()
        yield counter("unhandled_messages", "Messages that nothing here handles, dropped.", stats.unhandled)
        yield self._handler_seconds()
        yield counters("handler_errors", "Handlers that raised.", "message", stats.handler_errors)
        yield gauge("handlers_running", "Async handlers that run now.", running.count())
        yield gauge("handlers_long", f"Of them, those that have run for {LONG:g} s.", running.count(LONG))
        outboxes = list(sessions.outboxes())
        yield from _queues(outboxes, [session.inbox for session in sessions if session.inbox is not None])
        dropped = stats.dropped + sum(outbox.dropped for outbox in outboxes)
        yield counter("dropped_messages", "Messages dropped or replaced by an outbox's policy.", dropped)
        yield counter("reading_pauses", "Times that reading from a peer paused: its handlers lag.", stats.paused)
        yield counter("rate_pauses", "Times that reading from a peer paused: over its rates.", stats.rate_paused)
        yield counters(
            "rate_dropped_messages", "Messages dropped for the rate of their type.", "message", stats.rate_dropped
        )
        yield _requests(stats)
        yield histogram("request_seconds", "Requests to peers, until their answer or failure.", stats.request_seconds)
        yield counter("stray_answers", "Answers to nothing that waits for one, dropped.", stats.stray_answers)
        yield counters("renewals", "Renewals of logins.", "outcome", stats.renewals)
        yield histogram("rtt_seconds", "Round trips to clients: from a PING to its PONG.", stats.rtt)
        yield gauge("held_bytes", "Bytes of messages that all users and links hold.", stats.held_bytes)
        yield counter(
            "backlog_messages_dropped", "Queued messages of users that did not return.", stats.backlogs_dropped
        )
        yield counter("ticks", "Ticks of the game loop.", stats.ticks)
        yield counter("tick_overruns", "Ticks that took longer than their period.", stats.tick_overruns)
        yield from self._more()

    def _routes(self) -> list[Route]:
        """The routes of messages; events are routes too, with ids below 0."""
        routes = {**self._handlers.defaults, **self._handlers.routes}
        return [route for id, route in routes.items() if id >= 0]

    def _traffic(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(
            "gatelink_messages", "Messages received (in) and queued for sending (out).", labels=("direction", "message")
        )
        bytes = CounterMetricFamily(
            "gatelink_bytes", "Bytes of their frames, headers included.", labels=("direction", "message")
        )
        received: dict[str, tuple[int, int]] = {}
        for route in self._routes():
            received[route.name] = (route.count, route.bytes)
        for name, traffic in self._stats.unrouted.items():
            count, size = received.get(name, (0, 0))
            received[name] = (count + traffic.messages, size + traffic.bytes)
        for name, (count, size) in received.items():
            messages.add_metric(("in", name), count)
            bytes.add_metric(("in", name), size)
        for name, traffic in self._stats.sent.items():
            messages.add_metric(("out", name), traffic.messages)
            bytes.add_metric(("out", name), traffic.bytes)
        yield messages
        yield bytes

    def _handler_seconds(self) -> Metric:
        family = HistogramMetricFamily(
            "gatelink_handler_seconds", "Decoding and handling one message, waiting included.", labels=("message",)
        )
        for route in self._routes():
            total = route.count - sum(route.buckets)  # of the first bucket: what is not in the others
            cumulative = []
            for bound, count in zip(_BOUNDS, route.buckets, strict=True):
                total += count
                cumulative.append((bound, total))
            family.add_metric((route.name,), cumulative, route.seconds)
        return family


def _requests(stats: Stats) -> Metric:
    """By direction: those of peers that were answered here (in), and those to peers (out)."""
    family = CounterMetricFamily("gatelink_requests", "Requests that are over.", labels=("direction", "outcome"))
    for direction, outcomes in (("in", stats.requests_served), ("out", stats.requests_asked)):
        for outcome, count in outcomes.items():
            family.add_metric((direction, outcome), count)
    return family


def _closes(stats: Stats) -> Metric:
    """By the side that closed: a peer can send any code, and must not be counted as what happened here."""
    family = CounterMetricFamily("gatelink_closes", "Sessions that ended.", labels=("code", "by"))
    for code in CloseCode:
        by_peer = stats.closed_by_peer[code]
        family.add_metric((code.label, "here"), stats.closed[code] - by_peer)
        family.add_metric((code.label, "peer"), by_peer)
    return family


def _queues(outboxes: list[Outbox], inboxes: list[Inbox]) -> Iterator[Metric]:
    """How much waits in all sessions' queues together, and in the fullest."""
    for name, what, sizes in (
        ("outbox_bytes", "Bytes queued for sending", [outbox.bytes for outbox in outboxes]),
        ("outbox_frames", "Frames queued for sending", [outbox.count for outbox in outboxes]),
        ("inbox_frames", "Frames received and not yet handled", [len(inbox.items) for inbox in inboxes]),
    ):
        yield gauge(name, f"{what}, all sessions together.", sum(sizes))
        yield gauge(f"{name}_max", f"{what}, the session with the most.", max(sizes, default=0))
