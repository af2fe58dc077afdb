"""`gatelink conform`: its exit statuses, its list, and its report."""

import sys

import msgspec
import pytest
from typer.testing import CliRunner

from gatelink.cli import app
from gatelink.conformance.step import STEPS
from tests.conformance.runs import DRIVER
from tests.processes import ended, python

HANGS = 'import time; print(\'{"event": "ready", "sdk": "odd", "can": ["tcp"]}\', flush=True); time.sleep(60)'


def test_the_list_has_every_step_of_the_transport_and_its_promise() -> None:
    result = CliRunner().invoke(app, ["conform", "--list", "--transport", "ws"])
    assert result.exit_code == 0
    for step in STEPS.values():
        assert f"{step.name}{' (slow)' if step.slow else ''}: {step.promise}" in result.output


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give the driver's command behind --"),
        (["--steps", "kick,nonsense", "--", "true"], "there is no step or group 'nonsense'"),
        (["--", "no-such-command"], "no-such-command"),
        (["--", "true"], "ended with status 0"),
    ],
)
def test_what_cannot_be_run_exits_with_2_and_says_why(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["conform", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


async def test_a_run_that_held_exits_with_0_and_writes_its_report_as_json() -> None:
    run = ["-m", "gatelink", "conform", "--json", "--steps", "first-login,large", "--", *DRIVER]
    async with python(*run) as process:
        status, out, err = await ended(process)
    assert status == 0, err
    report = msgspec.json.decode(out)
    assert report["passed"] == 2 and report["failed"] == report["skipped"] == 0
    assert [verdict["step"] for verdict in report["verdicts"]] == ["first-login", "large"]
    assert report["verdicts"][0]["figures"]["up"] >= 6
    assert "over tcp: 2 passed" in err


async def test_a_run_with_a_failed_step_exits_with_1_and_shows_why() -> None:
    run = [
        "-m",
        "gatelink",
        "conform",
        "--steps",
        "large",
        "--patience",
        "0.5",
        "--",
        sys.executable,
        "-S",
        "-c",
        HANGS,
    ]
    async with python(*run) as process:
        status, out, err = await ended(process)
    assert status == 1, err
    assert "large: a connection for the login: not within 0.5 s" in out
