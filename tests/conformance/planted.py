"""Every planted fault fails the step that is there to find it (`make conform`)."""

import pytest

from tests.conformance.faulty import FAULTS
from tests.conformance.runs import FAULTY, conform
from tests.support import MS


@pytest.mark.parametrize("name", FAULTS)
async def test_a_planted_fault_fails_its_step(name: str) -> None:
    steps = FAULTS[name].steps
    report = await conform([*FAULTY, name], steps, patience=2_000 * MS)
    assert [verdict.step for verdict in report.verdicts if verdict.outcome == "failed"] == list(steps)
