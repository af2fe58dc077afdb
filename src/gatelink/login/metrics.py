"""A login service's metrics for Prometheus; docs/login.md says what each means."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric

from gatelink.ops.families import Exposition, counter, counters, gauge

if TYPE_CHECKING:
    from gatelink.login.service import LoginService


class LoginMetrics(Exposition):
    """What `service` has counted, and what it holds now."""

    def __init__(self, service: "LoginService") -> None:
        super().__init__(service.lag)
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        yield gauge("login_connections", "HTTP connections that are open.", service.admission.count)
        yield gauge("login_requests_active", "Requests under way.", service.front.active)
        yield from self.of_process()
        yield gauge("login_engine_available", "1 while the engine is connected.", service.engine.is_available)
        if (accounts := service.logins.accounts) is not None:
            yield gauge("login_database_calls", "Calls of the database under way.", accounts.calls)
            passwords = accounts.passwords
            yield gauge("login_passwords_waiting", "Passwords queued or being hashed.", passwords.waiting)
            yield counter("login_passwords_refused", "Passwords refused as too many waited.", passwords.refused)
        outcomes = CounterMetricFamily(
            "gatelink_login_attempts", "Logins and registrations, by how they ended.", labels=("method", "outcome")
        )
        for (method, outcome), count in service.logins.outcomes.items():
            outcomes.add_metric((method, outcome), count)
        yield outcomes
        yield counters("login_delays", "Tries that were told to wait.", "limit", service.logins.delays)
        responses = {str(status): count for status, count in service.front.responses.items()}
        yield counters("login_responses", "HTTP responses.", "status", responses)
        yield counters("login_refusals", "HTTP connections not admitted.", "reason", service.admission.refused)
