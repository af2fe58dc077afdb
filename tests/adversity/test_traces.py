"""A few of the traces of `make traces`."""

import pytest

from tests.adversity.traces import run_trace


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_one_session_a_user_is_heard_whatever_happens_to_nats(seed: int) -> None:
    wrong, seen = await run_trace(seed)
    assert not wrong
    assert seen["messages heard"]
