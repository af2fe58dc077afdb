"""A load test on a terminal: a live table, a table of the whole run, and a line for logs."""

from rich.table import Table

from gatelink.errors import counted
from gatelink.robots.tally import Latency, Second, Tally, milliseconds


def live(tally: Tally, count: int, seconds: float) -> Table:
    """A running test of `count` robots for `seconds`: its last second, and the run so far."""
    title = f"{counted(count, 'robot')}, {tally.elapsed:.0f} of {seconds:g} s"
    grid = Table(title=title, title_justify="left", min_width=56)
    grid.add_column("")
    grid.add_column("last second", justify="right")
    grid.add_column("so far", justify="right")
    last = _last_second(tally)
    for name, so_far in _whole_run(tally).items():
        grid.add_row(name, last.get(name, ""), so_far, style="bold red" if name == "errors" and tally.errors else "")
    return grid


def summary(tally: Tally, count: int) -> Table:
    """A finished test of `count` robots."""
    grid = Table(title=f"{counted(count, 'robot')}, {tally.elapsed:.1f} s", title_justify="left", min_width=40)
    grid.add_column("")
    grid.add_column("whole run", justify="right")
    for name, figure in _whole_run(tally).items():
        grid.add_row(name, figure, style="" if name != "errors" else "bold red" if tally.errors else "bold green")
    return grid


def line(tally: Tally) -> str:
    """The last second in one line."""
    last = tally.seconds[-1]
    figures = ", ".join(f"{name} {figure}" for name, figure in _last_second(tally).items())
    return f"{last.at:.0f} s: {figures}"


def errors(tally: Tally) -> str:
    """The errors, one line for each text; "" without errors."""
    lines = [
        f"{error.count:,} x {error.text} (first: robot {error.robot}, after {error.at:.1f} s)"
        for error in tally.error_texts.values()
    ]
    others = tally.errors - sum(error.count for error in tally.error_texts.values())
    return "\n".join([*lines, *([f"{others:,} x other errors"] if others else [])])


def _last_second(tally: Tally) -> dict[str, str]:
    last = tally.seconds[-1] if tally.seconds else Second(0, 0, 0, 0, 0, {})
    return {
        "sessions": f"{last.sessions:,}",
        "sent": _rate(last.sent),
        "received": _rate(last.received),
        **_percentiles(last.latencies, "p50", "p99"),
        "errors": f"{last.errors:,}",
    }


def _whole_run(tally: Tally) -> dict[str, str]:
    elapsed = max(tally.elapsed, 0.001)
    return {
        "sessions": f"up to {tally.most_sessions:,} at a time, {tally.all_sessions:,} in all",
        "sent": _rate(tally.sent / elapsed),
        "received": _rate(tally.received / elapsed),
        **_percentiles({name: Latency.of(each) for name, each in tally.latencies.items()}, "p50", "p99"),
        **{name: f"{number:,}" for name, number in sorted(tally.counts.items())},
        "errors": f"{tally.errors:,}",
    }


def _percentiles(latencies: dict[str, Latency], *figures: str) -> dict[str, str]:
    """These figures of each latency."""
    return {
        f"{name} {figure}": milliseconds(latency.figure(figure))
        for name, latency in latencies.items()
        for figure in figures
    }


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s"
