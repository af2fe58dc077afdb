"""Bounds of latencies: what they are, and when a run did not keep them."""

import pytest

from gatelink.errors import ConfigError
from gatelink.robots.bounds import Bound, exceeded
from gatelink.robots.tally import LatencyHistogram


def latencies(**seconds: float) -> dict[str, LatencyHistogram]:
    """Of each name 100 latencies: 99 of that time, and one ten times as long."""
    found = {}
    for name, each in seconds.items():
        found[name] = LatencyHistogram()
        for index in range(100):
            found[name].add(each * (10 if index == 99 else 1))
    return found


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("p99=50ms", ("", "p99", 0.05)),
        ("say.p95=0.2s", ("say", "p95", 0.2)),
        ("log in.longest=900us", ("log in", "longest", 0.0009)),
        ("a.b.p50=1s", ("a.b", "p50", 1.0)),
    ],
)
def test_a_bound_has_a_figure_a_time_and_maybe_a_name(text: str, bound: tuple[str, str, float]) -> None:
    found = Bound.parse(text)
    assert (found.name, found.figure, found.text) == (*bound[:2], text) and found.most == pytest.approx(bound[2])


@pytest.mark.parametrize("text", ["", "p99", "p99=50", "p98=50ms", "p99=-1ms", ".p99=1ms", "p99=1e3ms", "p99=1 ms"])
def test_what_is_no_bound_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ConfigError, match="write a figure .* as p99=50ms"):
        Bound.parse(text)


def test_every_latency_is_held_against_a_bound_without_a_name() -> None:
    found = latencies(say=0.010, connect=0.040)
    assert exceeded([Bound.parse("p50=45ms"), Bound.parse("p95=45ms")], found) == []
    assert exceeded([Bound.parse("p50=20ms")], found) == ["p50=20ms: p50 of connect is 39.8 ms"]
    assert len(exceeded([Bound.parse("p50=5ms")], found)) == 2
    assert exceeded([Bound.parse("say.longest=99ms")], found) == ["say.longest=99ms: longest of say is 100 ms"]
    slow = latencies(say=2.5)
    assert exceeded([Bound.parse("say.longest=99ms")], slow) == ["say.longest=99ms: longest of say is 25,000 ms"]


def test_what_was_never_measured_kept_no_bound() -> None:
    assert exceeded([Bound.parse("p50=1s")], {}) == ["p50=1s: nothing was measured"]
    assert exceeded([Bound.parse("say.p50=1s")], latencies(connect=0.001)) == [
        "say.p50=1s: nothing was measured as say"
    ]
