"""`LatencyHistogram`: its percentiles are near the true ones, and merging loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.robots.tally import BUCKETS, LatencyHistogram

LATENCIES = st.lists(st.floats(min_value=2e-6, max_value=200), min_size=1, max_size=200)


def histogram_of(latencies: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for seconds in latencies:
        histogram.add(seconds)
    return histogram


@given(LATENCIES, st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_right_to_about_2_per_cent(latencies: list[float], percent: int) -> None:
    exact = sorted(latencies)[-(-len(latencies) * percent // 100) - 1]
    assert histogram_of(latencies).percentile(percent) == pytest.approx(exact, rel=0.025)


@given(LATENCIES, LATENCIES)
def test_merging_is_counting_both(first: list[float], second: list[float]) -> None:
    merged, whole = histogram_of(first), histogram_of(first + second)
    merged.merge(histogram_of(second))
    assert (merged.count, merged.most) == (whole.count, whole.most)
    assert [merged.percentile(p) for p in (1, 50, 99)] == [whole.percentile(p) for p in (1, 50, 99)]


def test_any_latency_is_counted_in_the_same_few_buckets() -> None:
    histogram = histogram_of([0.0, 1e-12, 1e-6, 1e6])
    assert histogram.count == 4
    assert histogram.most == 1e6
    assert len(histogram._buckets) == BUCKETS


def test_no_latency_has_the_percentile_0() -> None:
    assert LatencyHistogram().percentile(50) == 0.0
