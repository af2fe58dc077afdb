"""The runs of the faults as lines, as a table, and as JSON."""

from collections.abc import Iterable
from itertools import groupby

import msgspec

from tests.adversity.cluster.analysis import Cost
from tests.adversity.cluster.faults import FAULTS

COLUMNS = (
    "fault",
    "refused, s (unreported)",
    "silent, s: median",
    "longest",
    "lost (told)",
    "answers lost",
    "lost with ended sessions",
    "twice or out of order",
    "older login heard beside, s",
    "healed, s",
)


LATE = 0.5
"""Seconds by which the robots may be late before the seconds of a run mean little."""


class Run(msgspec.Struct):
    """One run of a fault. late: seconds by which the robots themselves were late, at most. notes: what parts did."""

    fault: str
    seed: int
    run: int
    robots: int
    seconds: float
    late: float
    cost: Cost
    notes: list[str]

    @property
    def name(self) -> str:
        return f"{self.fault} (seed {self.seed}, run {self.run})"

    def missed(self) -> list[str]:
        """The aims that were not reached."""
        aims, cost = FAULTS[self.fault].aims, self.cost
        return [
            f"{what} {seconds:.1f} s, and should be {aim:g} s at most"
            for what, seconds, aim in (
                ("new players were refused for", max(cost.refused.values(), default=0.0), aims.refused),
                ("a robot was silent for", cost.longest_silence, aims.silence),
                ("it was healed after", cost.healed, aims.healed),
            )
            if aim is not None and seconds is not None and seconds > aim
        ]


def line(run: Run) -> str:
    """One run, for a terminal."""
    cost = run.cost
    refused = ", ".join(
        f"{name} {seconds:.1f} s ({cost.unreported[name]:.1f} s unreported)"
        for name, seconds in sorted(cost.refused.items())
        if seconds
    )
    healed = "not healed" if cost.healed is None else f"healed after {cost.healed:.1f} s"
    text = (
        f"refused {refused or 'nobody'}; silent {cost.silence:.1f} s (median), {cost.longest_silence:.1f} s (longest); "
        f"{cost.up.sent:,} sent, lost {cost.up.lost} (told {cost.told}), answers lost {cost.down.lost}, with ended "
        f"sessions {cost.up.with_session}; twice {cost.up.doubled + cost.down.doubled}, out of order "
        f"{cost.up.reordered + cost.down.reordered}, two sessions heard {cost.heard_twice}, "
        f"older login heard at another service {cost.overlapped} (up to {cost.overlap:.1f} s), "
        f"misfenced {cost.misfenced}; {healed}"
    )
    notes = [*run.notes, *(f"{count} sessions ended with {end}" for end, count in sorted(cost.ends.items()))]
    if run.late > LATE:
        notes.append(f"the robots themselves were {run.late:.1f} s late: their machine is too busy for these seconds")
    marks = [f"  BROKEN {each}" for each in cost.broken()] + [f"  missed {each}" for each in run.missed()]
    return "\n".join([text, *(f"  {note}" for note in notes), *marks])


def table(runs: Iterable[Run]) -> str:
    """A row for each fault, in Markdown: the worst of its runs in each column."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, group in groupby(sorted(runs, key=lambda run: list(FAULTS).index(run.fault)), lambda run: run.fault):
        costs = [run.cost for run in group]
        healed = [cost.healed for cost in costs]
        rows.append(
            (
                name,
                f"{worst(cost.refused for cost in costs):.1f} ({worst(cost.unreported for cost in costs):.1f})",
                f"{max(cost.silence for cost in costs):.1f}",
                f"{max(cost.longest_silence for cost in costs):.1f}",
                f"{max(cost.up.lost for cost in costs):,} ({max(cost.told for cost in costs):,})",
                f"{max(cost.down.lost for cost in costs):,}",
                f"{max(cost.up.with_session for cost in costs):,}",
                f"{max(cost.wrong for cost in costs):,}",
                f"{max(cost.overlap for cost in costs):.1f}",
                "not" if None in healed else f"{max(each or 0.0 for each in healed):.1f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def worst(figures: Iterable[dict[str, float]]) -> float:
    return max((value for each in figures for value in each.values()), default=0.0)
