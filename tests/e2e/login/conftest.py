"""What every test of the login service begins with."""

import pytest

from gatelink.login import api, front, logins
from gatelink.quiet import QuietLog


@pytest.fixture(autouse=True)
def fresh_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event was written a moment ago, by another test: each writes its first line."""
    for module in (api, front, logins):
        monkeypatch.setattr(module, "quiet", QuietLog(module.quiet._log))
