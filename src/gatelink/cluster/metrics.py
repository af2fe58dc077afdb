"""Metrics of a gateway or service beside those of a server; docs/cluster.md says what each means.

Labels are bounded: a `type` is a server type, and an engine's calls and errors are gatelink's own.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gatelink.cluster.cluster import Cluster
from gatelink.cluster.cluster_handlers import ClusterHandlers
from gatelink.cluster.engine import EngineStats
from gatelink.cluster.login_arbiter import ClusterLoginArbiter
from gatelink.cluster.player_route import PlayerRouter
from gatelink.cluster.players import Players
from gatelink.ops.families import counter, counters, gauge, gauges
from gatelink.session.states import SessionState

_ENGINE_COUNTERS = {
    "losses": "Connections to the engine that were lost.",
    "resyncs": "Times that a watch of the engine had to begin again.",
    "contents_lost": "Times that what the engine held was found missing, or older.",
    "dropped": "Messages of the engine that came faster than they were handled.",
    "served": "Requests through the engine that were handled here.",
    "served_failed": "Of these, those whose handler raised or took longer than the caller waits.",
    "served_refused": "Requests that were refused, as too many were being handled.",
    "handler_errors": "Handlers of events that raised.",
}


def of_gateway(
    router: PlayerRouter, arbiter: ClusterLoginArbiter, cluster: Cluster, handlers: ClusterHandlers
) -> Iterator[Metric]:
    """Metrics of a gateway that has been started."""
    stats = router.stats
    yield counter("forwarded_frames", "Frames of players that were forwarded to servers.", stats.forwarded)
    yield counter("pushed_frames", "Frames of servers that were queued for players.", stats.pushed)
    yield counters("lost_frames", "Frames of players that no server got.", "type", _named(stats.lost))
    yield counter("misdirected_envelopes", "Envelopes for players that are not here.", stats.misdirected)
    yield counter("malformed_envelopes", "Envelopes that were dropped.", stats.malformed)
    yield counter("rebinds", "Players whose server died or drained.", stats.rebinds)
    yield counter("holds", "Times that a player waited because there was no server.", stats.held)
    yield counter("missed_binds", "Players that waited for a server that did not come.", stats.missed_binds)
    yield gauge("forwarded_players", "Players that frames are forwarded for.", len(router.players))
    bound: Counter[int] = Counter()
    for link, routes in router.bound.items():
        bound[link.type] += len(routes)
    yield gauges("bound_players", "Players that have a server, by its type.", "type", _named(bound))
    waiting = {type: len(routes) for type, routes in router.waiting.items()}
    yield gauges("waiting_players", "Players that wait for a server, by its type.", "type", _named(waiting))
    yield counter("directory_skipped", "Ends of sessions that were left to expire.", arbiter.directory.skipped)
    yield counter("directory_renewals_failed", "Renewals that are tried again.", arbiter.renewals.failed)
    yield from _of_cluster(cluster, handlers)


def of_service(players: Players, cluster: Cluster, handlers: ClusterHandlers) -> Iterator[Metric]:
    """Metrics of a service that has been started."""
    yield counter("malformed_envelopes", "Envelopes that were dropped.", players.malformed)
    yield counter("refused_players", "Players refused as handlers of their user had not ended.", players.refused)
    yield counter("stray_frames", "Frames of players that this service does not have.", players.strays)
    yield from _of_cluster(cluster, handlers)


def _of_cluster(cluster: Cluster, handlers: ClusterHandlers) -> Iterator[Metric]:
    posts, engine = handlers.post_fallback, cluster.engine
    links = GaugeMetricFamily("gatelink_links", "Links to other servers.", labels=("type", "state"))
    states = Counter((link.type, link.session.state is SessionState.OPEN) for link in cluster.links)
    for (type, is_open), count in states.items():
        links.add_metric((str(type), "open" if is_open else "broken"), count)
    yield links
    yield counter("standstills", "Times that this process stood still, and gave way.", cluster.standstills)
    yield counter("malformed_posts", "Posts of servers that did not decode.", posts.malformed_posts)
    yield counter("unhandled_posts", "Posts of servers that nothing here handles.", posts.unhandled_posts)
    yield gauge("engine_available", "1 while the engine is connected and its bucket can be used.", engine.is_available)
    yield gauge("engine_clock_skew_seconds", "How far this machine's clock is ahead of the engine's.", engine.skew)
    yield from _of_engine(engine.stats)


def _of_engine(stats: EngineStats) -> Iterator[Metric]:
    yield counters("engine_calls", "Calls of the engine.", "call", stats.calls)
    yield counters("engine_seconds", "How long they took together.", "call", stats.seconds)
    failures = CounterMetricFamily("gatelink_engine_failures", "Calls that raised.", labels=("call", "error"))
    for labels, count in stats.failures.items():
        failures.add_metric(labels, count)
    yield failures
    yield counters("engine_not_authentic", "Entries and messages that no server wrote.", "purpose", stats.not_authentic)
    for name, text in _ENGINE_COUNTERS.items():
        yield counter(f"engine_{name}", text, getattr(stats, name))


def _named(values: Mapping[int, int]) -> dict[str, float]:
    """By server type, as a label has it."""
    return {str(type): value for type, value in values.items()}
