"""Each metric of a gateway or service shows the counter that it names."""

from types import SimpleNamespace
from typing import Any, NamedTuple

from prometheus_client.core import Metric

from gatelink.cluster.engine import EngineStats
from gatelink.cluster.metrics import of_gateway, of_service
from gatelink.cluster.type_route import ForwardStats


class Bound(NamedTuple):
    """A link to a server of a type."""

    type: int


HANDLERS: Any = SimpleNamespace(post_fallback=SimpleNamespace(malformed_posts=3, unhandled_posts=4))
FORWARDED = {
    "forwarded_frames": "forwarded",
    "pushed_frames": "pushed",
    "misdirected_envelopes": "misdirected",
    "malformed_envelopes": "malformed",
    "rebinds": "rebinds",
    "missed_binds": "missed_binds",
    "holds": "held",
}
OF_ENGINE = {
    "engine_losses": "losses",
    "engine_resyncs": "resyncs",
    "engine_contents_lost": "contents_lost",
    "engine_dropped": "dropped",
    "engine_served": "served",
    "engine_served_failed": "served_failed",
    "engine_served_refused": "served_refused",
    "engine_handler_errors": "handler_errors",
}


def new_cluster() -> Any:
    """A cluster without links, in which each counter of the engine has a number of its own."""
    stats = EngineStats()
    for number, field in enumerate(OF_ENGINE.values(), 500):
        setattr(stats, field, number)
    stats.failures["get", "EngineUnavailable"] = 6
    stats.not_authentic["event"] = 7
    engine = SimpleNamespace(is_available=True, skew=0.25, stats=stats)
    return SimpleNamespace(links=[], standstills=5, engine=engine)


def of_cluster() -> dict[tuple[str, ...], float]:
    counters = {(name,): number for number, name in enumerate(OF_ENGINE, 500)}
    return counters | {
        ("standstills",): 5,
        ("malformed_posts",): 3,
        ("unhandled_posts",): 4,
        ("engine_available",): 1,
        ("engine_clock_skew_seconds",): 0.25,
        ("engine_failures", "EngineUnavailable", "get"): 6,
        ("engine_not_authentic", "event"): 7,
    }


def values(metrics: list[Metric]) -> dict[tuple[str, ...], float]:
    """By name, without prefix, and the values of its labels."""
    return {
        (metric.name.removeprefix("gatelink_"), *sorted(sample.labels.values())): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_every_counter_of_a_gateway_is_shown_under_its_own_name() -> None:
    stats = ForwardStats()
    for number, field in enumerate(FORWARDED.values(), 100):
        setattr(stats, field, number)
    stats.lost[21] = 8
    router: Any = SimpleNamespace(stats=stats, players=[1, 2], bound={Bound(21): [1, 2, 3]}, waiting={22: [1]})
    arbiter: Any = SimpleNamespace(directory=SimpleNamespace(skipped=9), renewals=SimpleNamespace(failed=10))
    assert values(list(of_gateway(router, arbiter, new_cluster(), HANDLERS))) == of_cluster() | {
        (name,): number for number, name in enumerate(FORWARDED, 100)
    } | {
        ("lost_frames", "21"): 8,
        ("forwarded_players",): 2,
        ("bound_players", "21"): 3,
        ("waiting_players", "22"): 1,
        ("directory_skipped",): 9,
        ("directory_renewals_failed",): 10,
    }


def test_every_counter_of_a_service_is_shown_under_its_own_name() -> None:
    players: Any = SimpleNamespace(malformed=11, refused=12, strays=13)
    assert values(list(of_service(players, new_cluster(), HANDLERS))) == of_cluster() | {
        ("malformed_envelopes",): 11,
        ("refused_players",): 12,
        ("stray_frames",): 13,
    }
