"""What every test of the login service begins with."""

import pytest

from gatelink.login import api, app, logins
from gatelink.rate_limited_logger import RateLimitedLogger


@pytest.fixture(autouse=True)
def fresh_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event was written a moment ago, by another test: each writes its first line."""
    for module in (api, app, logins):
        monkeypatch.setattr(module, "quiet", RateLimitedLogger(module.quiet._log))
