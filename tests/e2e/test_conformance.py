"""The conformance kit passes Python's `connect`, and fails SDKs with a planted fault. `make conform` runs all of it."""

import re
from pathlib import Path

import pytest

from gatelink.conformance.messages import catalog
from gatelink.conformance.server import Transport
from gatelink.conformance.step import STEPS
from gatelink.schema.export import schema_of
from gatelink.schema.typescript import typescript
from tests.conformance.faulty import FAULTS
from tests.conformance.runs import DRIVER, FAULTY, assert_all_passed, conform
from tests.support import MS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"


@pytest.mark.parametrize("transport, sealed", [("tcp", True), ("ws", False)])
async def test_pythons_connect_keeps_the_promises_of_a_short_run(transport: Transport, sealed: bool) -> None:
    assert_all_passed(await conform(DRIVER, short=True, transport=transport, sealed=sealed))


@pytest.mark.parametrize("name", ["sent-twice", "attempt-not-raised", "u64-through-double", "goaway-ignored"])
async def test_an_sdk_with_a_planted_fault_fails(name: str) -> None:
    """Those whose steps need not wait for long; `make conform` has them all."""
    report = await conform([*FAULTY, name], FAULTS[name].steps, patience=1_500 * MS)
    assert [verdict.outcome for verdict in report.verdicts] == ["failed"] * len(FAULTS[name].steps)


def test_the_page_has_every_planted_fault_with_the_step_that_finds_it() -> None:
    rows = dict(re.findall(r"^\| (.+) \| `([a-z0-9-]+)` \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {fault.what: fault.steps[0] for fault in FAULTS.values()}


def test_the_messages_of_the_typescript_driver_are_current() -> None:
    file = ROOT / "clients" / "typescript" / "tests" / "conformance" / "messages.ts"
    assert typescript(schema_of(catalog)).replace('from "gatelink"', 'from "../../src/index.ts"') == file.read_text()


def test_the_page_names_every_group_of_steps() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert {step.group for step in STEPS.values()} <= named
