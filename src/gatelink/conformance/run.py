"""A run: the steps one after another, each with a server of its own, and one driver as long as that obeys."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from gatelink.conformance import steps as steps
from gatelink.conformance.bench import Bench, Skipped
from gatelink.conformance.contract import Event, Reset, ResetAll
from gatelink.conformance.driver import Driver, DriverFailed
from gatelink.conformance.judge import Judge, Unmet
from gatelink.conformance.report import Figures, Outcome, Report, Verdict
from gatelink.conformance.server import Transport
from gatelink.conformance.step import STEPS, Step
from gatelink.errors import ConfigError

FIRST = "first-login"
"""The step without which no other can pass: if a run begins with it, and it fails, the others are not tried."""

MOST_RESTARTS = 5
"""Drivers that may be killed in a run. Then the remaining steps fail without being tried."""


def select(names: Sequence[str] = (), is_short: bool = False, transport: Transport = "tcp") -> list[Step]:
    """The steps with these names or of these groups; all by default. is_short: without the slow ones.

    Raises ConfigError for a name that no step has.
    """
    known = {*STEPS, *(step.group for step in STEPS.values())}
    for name in names:
        if name.replace("_", "-") not in known and name not in known:
            raise ConfigError(f"there is no step or group {name!r}; --list shows them")
    wanted = {name.replace("_", "-") for name in names} | set(names)
    return [
        step
        for step in STEPS.values()
        if (not names or wanted & {step.name, step.group})
        and not (is_short and step.slow)
        and step.only in (None, transport)
    ]


async def run(
    command: Sequence[str],
    chosen: Sequence[Step],
    *,
    transport: Transport = "tcp",
    sealed: bool = False,
    patience: float = 5.0,
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> Report:
    """Run the steps against the driver that `command` starts. patience: seconds for everything that is due.

    Raises DriverFailed if the driver does not start, or can't do what is asked of it.
    """
    driver = await Driver.start(command)
    report = Report(driver.ready.sdk, transport, sealed)
    restarts = 0
    try:
        needed = [transport, *(["seal"] if sealed else [])]
        if lacks := [each for each in needed if each not in driver.ready.can]:
            raise DriverFailed(f"the driver of {driver.ready.sdk} can {driver.ready.can}, and not {', '.join(lacks)}")
        for step in chosen:
            if driver.end is not None and restarts <= MOST_RESTARTS:
                await driver.stop()
                restarts += 1
                driver = await _again(command, driver)
            if report.verdicts and report.verdicts[0].step == FIRST and report.verdicts[0].outcome == "failed":
                why = f"not tried: {FIRST} failed"
                verdict = Verdict(step.name, step.group, step.promise, "failed", why, 0.0, Figures())
            else:
                verdict = await _judge(step, driver, transport, sealed, patience)
                await _reset(driver, patience)
            report.verdicts.append(verdict)
            on_verdict(verdict)
    finally:
        await driver.stop()
    return report


async def _again(command: Sequence[str], dead: Driver) -> Driver:
    """Another driver; the dead one if no driver starts any more."""
    try:
        return await Driver.start(command)
    except DriverFailed:
        return dead


async def _judge(step: Step, driver: Driver, transport: Transport, sealed: bool, patience: float) -> Verdict:
    began = perf_counter()
    judge = Judge(patience)
    outcome: Outcome = "passed"
    why = ""
    figures = Figures()
    async with Bench(driver, judge, transport, sealed) as bench:
        try:
            async with asyncio.timeout(max(step.seconds, 6 * patience)):
                await step.check(bench)
                await bench.finish()
        except Skipped as skipped:
            outcome, why = "skipped", str(skipped)
        except Unmet as unmet:
            outcome, why = "failed", str(unmet)
        except TimeoutError:
            outcome, why = "failed", f"it took more than {max(step.seconds, 6 * patience):g} s"
        if outcome == "failed" and judge.faults and judge.faults[0] not in why:
            why = f"{judge.faults[0]}; then: {why}"
        if judge.end is not None:
            driver.give_up(judge.end)
            why += driver.words()
        sessions = [player.session for player in bench.players.values() if player.session is not None]
        figures.sessions = len(sessions)
        figures.connections = bench.server.dials
        figures.up = sum(len(session.frames) for session in sessions)
        figures.down = sum(player.delivered + len(player.messages) for player in bench.players.values())
    return Verdict(step.name, step.group, step.promise, outcome, why, round(perf_counter() - began, 3), figures)


async def _reset(driver: Driver, patience: float) -> None:
    """Let the driver end all its sessions. One that does not answer in `patience` seconds is killed."""
    if driver.end is not None:
        return
    done = asyncio.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, Reset):
            done.set()

    driver.on_event = on_event
    driver.on_end = lambda why: done.set()
    driver.tell(ResetAll())
    try:
        async with asyncio.timeout(patience):
            await done.wait()
    except TimeoutError:
        driver.give_up(f"the driver did not answer `reset` within {patience:g} s")
