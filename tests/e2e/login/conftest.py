"""What every test of the login service begins with."""

import pytest

from gatelink.logger import RateLimitedLogger
from gatelink.login import api, app, logins
from tests.support import MS


@pytest.fixture(autouse=True)
def fresh_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event was written a moment ago, by another test: each writes its first line."""
    for module in (api, app, logins):
        monkeypatch.setattr(module, "quiet", RateLimitedLogger(module.quiet._log))


@pytest.fixture
def gone_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway counts as gone sooner than for users: most tests of `connect_cluster` wait for that."""
    monkeypatch.setattr("gatelink.net.dialer.GONE_SECONDS", (200 * MS, 300 * MS))
