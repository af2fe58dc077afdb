"""A login service's metrics for Prometheus; docs/login.md says what each means."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gatelink.login.service import LoginService


class LoginMetrics(Collector):
    """What `service` has counted. loop_lag: seconds that the loop runs late; the admin port writes it."""

    def __init__(self, service: "LoginService") -> None:
        self.loop_lag = 0.0
        self._service = service
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        service = self._service
        yield GaugeMetricFamily("gatelink_login_connections", "HTTP connections that are open.", service.door.count)
        yield GaugeMetricFamily("gatelink_login_requests_active", "Requests under way.", service.front.active)
        yield GaugeMetricFamily("gatelink_loop_lag_seconds", "How late the loop ran, at worst in 15 s.", self.loop_lag)
        yield GaugeMetricFamily(
            "gatelink_login_engine_available", "1 while the engine is connected.", service.engine.is_available
        )
        if (accounts := service.logins.accounts) is not None:
            yield GaugeMetricFamily("gatelink_login_database_calls", "Calls of the database under way.", accounts.calls)
            passwords = accounts.passwords
            yield GaugeMetricFamily(
                "gatelink_login_passwords_waiting", "Passwords queued or being hashed.", passwords.waiting
            )
            yield CounterMetricFamily(
                "gatelink_login_passwords_refused", "Passwords refused as too many waited.", passwords.refused
            )
        outcomes = CounterMetricFamily(
            "gatelink_login_attempts", "Logins and registrations, by how they ended.", labels=("method", "outcome")
        )
        for (method, outcome), count in service.logins.outcomes.items():
            outcomes.add_metric((method, outcome), count)
        yield outcomes
        yield _counter("gatelink_login_delays", "Tries that were told to wait.", "limit", service.logins.delays)
        responses = {str(status): count for status, count in service.front.responses.items()}
        yield _counter("gatelink_login_responses", "HTTP responses.", "status", responses)
        yield _counter("gatelink_login_refusals", "HTTP connections not admitted.", "reason", service.door.refused)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family
