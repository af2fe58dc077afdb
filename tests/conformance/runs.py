"""How the tests run the kit."""

import sys
from collections.abc import Sequence

from gatelink.conformance import run as runs
from gatelink.conformance.report import Report
from gatelink.conformance.server import Transport
from tests.support import MS

DRIVER = (sys.executable, "-m", "examples.conformance.driver")
FAULTY = (sys.executable, "-m", "tests.conformance.faulty")


async def conform(
    command: Sequence[str],
    names: Sequence[str] = (),
    *,
    short: bool = False,
    transport: Transport = "tcp",
    sealed: bool = False,
    patience: float = 5_000 * MS,
) -> Report:
    chosen = runs.select(names, short, transport)
    return await runs.run(command, chosen, transport=transport, sealed=sealed, patience=patience)


def assert_all_passed(report: Report) -> None:
    wrong = [f"{verdict.step} {verdict.outcome}: {verdict.why}" for verdict in report.verdicts if verdict.why]
    assert not wrong, "\n".join(wrong)
    assert report.count("passed") == len(report.verdicts) > 0
