"""What holds for all unit tests."""

from collections.abc import Iterator

import pytest

ENDLESS = 600.0  # s


@pytest.fixture(autouse=True, scope="module")
def endless_turns() -> Iterator[None]:
    """Messages that arrive together are handled together, however busy the machine is. Tests of turns set their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gatelink.handlers.TURN_SECONDS", ENDLESS)
        yield
