"""Prometheus metric families with the prefix `gatelink_`, and the collector that the admin port reads."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gatelink import _native, tasks
from gatelink.ops import logs
from gatelink.ops.lag import LoopLag
from gatelink.stats import Histogram

LAG_SECONDS = 15.0
"""Seconds during which a block of the loop is shown, so that several scrapers see it."""


class Exposition(Collector):
    """The metrics that a subclass collects, and those of this process, as text. lag: of its event loop."""

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def of_process(self) -> Iterator[Metric]:
        """The metrics that every process has, for `collect`."""
        longest = self._lag.since_last(LAG_SECONDS)
        yield gauge("loop_lag_seconds", "The loop's longest block since the last scrape.", longest)
        yield counters("task_failures", "Unexpected errors of tasks that go on.", "task", tasks.failures)
        core = _native.core
        yield gauge("native", "1: the compiled core runs, 0: pure Python.", core is not None)
        straight, listed = core.frame_counts() if core is not None else (0, 0)
        ways = {"straight": straight, "listed": listed}
        yield counters("frames", "Frames that sessions received with the compiled core, by way.", "way", ways)
        share = straight / max(1, straight + listed)
        yield gauge("native_share", "The share of these frames that took the straight path, since the start.", share)
        yield counter("log_lines_dropped", "Log lines that could not be written.", logs.dropped())

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gatelink_{name}", text, value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each value of one label."""
    return _labelled(GaugeMetricFamily(f"gatelink_{name}", text, labels=(label,)), values)


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"gatelink_{name}", text, value)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter for each value of one label."""
    return _labelled(CounterMetricFamily(f"gatelink_{name}", text, labels=(label,)), values)


def histogram(name: str, text: str, values: Histogram) -> Metric:
    bounds = (*map(str, values.bounds), "+Inf")
    cumulative = list(zip(bounds, accumulate(values.counts), strict=True))
    return HistogramMetricFamily(f"gatelink_{name}", text, cumulative, values.sum)


def _labelled(family: "GaugeMetricFamily | CounterMetricFamily", values: Mapping[str, float]) -> Metric:
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
