"""The verdicts of a run, as a table and as JSON."""

from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gatelink.errors import plural

Outcome = Literal["passed", "failed", "skipped"]

COLORS: dict[Outcome, str] = {"passed": "green", "failed": "red", "skipped": "yellow"}


class Figures(Struct):
    """The result of a step. up, down: messages that arrived at the server and at the client, each counted once."""

    sessions: int = 0
    connections: int = 0
    up: int = 0
    down: int = 0


class Verdict(Struct):
    """One step's outcome. why: what was seen and what was due; "" if it passed. seconds: how long the step took."""

    step: str
    group: str
    promise: str
    outcome: Outcome
    why: str
    seconds: float
    figures: Figures


class Report(Struct):
    """The verdicts of one run. sdk: the name that the driver gave."""

    sdk: str
    transport: str
    sealed: bool
    verdicts: list[Verdict] = []

    def count(self, outcome: Outcome) -> int:
        """How many steps have this outcome."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def held(self) -> bool:
        """Whether no step failed."""
        return not self.count("failed")

    def json(self) -> bytes:
        """The report as JSON, with the count of each outcome."""
        counts = {outcome: self.count(outcome) for outcome in COLORS}
        return msgspec.json.encode({**msgspec.to_builtins(self), **counts})


def table(report: Report) -> Group:
    """The report for a terminal: a line for each step, why some did not pass, and the sums."""
    rows = Table(box=None, pad_edge=False)
    for name in ("step", "outcome", "s"):
        rows.add_column(name, justify="right" if name == "s" else "left")
    rows.add_column("promise", overflow="fold")
    for verdict in report.verdicts:
        outcome = Text(verdict.outcome, style=COLORS[verdict.outcome])
        rows.add_row(verdict.step, outcome, f"{verdict.seconds:.2f}", verdict.promise)
    reasons = [Text(f"{verdict.step}: {verdict.why}") for verdict in report.verdicts if verdict.why]
    counts = ", ".join(f"{count} {outcome}" for outcome in COLORS if (count := report.count(outcome)))
    sealed = ", sealed" if report.sealed else ""
    sums = [sum(column) for column in zip(*map(astuple, (verdict.figures for verdict in report.verdicts)), strict=True)]
    sessions, connections, up, down = sums or [0] * 4
    made = {"session": sessions, "connection": connections, "message up": up}
    did = ", ".join([*(f"{number:,} {plural(what, number)}" for what, number in made.items()), f"{down:,} down"])
    total = f"{report.sdk} over {report.transport}{sealed}: {counts}. {did}"
    return Group(rows, Text(), *reasons, Text(total))
