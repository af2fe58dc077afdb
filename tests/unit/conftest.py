"""What holds for all unit tests."""

from collections.abc import Iterator

import pytest

from tests.twins import turns_of

ENDLESS = 600.0  # s


@pytest.fixture(autouse=True, scope="module")
def endless_turns() -> Iterator[None]:
    """Messages that arrive together are handled together, however busy the machine is. Tests of turns set their own."""
    with turns_of(ENDLESS):
        yield
