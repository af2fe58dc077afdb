"""A run on a terminal: the table that is live while it lasts and complete at its end, and a line for logs."""

from rich.table import Table

from gatelink.robots.tally import Latency, Tally


def milliseconds(seconds: float) -> str:
    """`0.0012345` -> `1.23 ms`: three digits that count."""
    value = seconds * 1000
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def table(tally: Tally, count: int, seconds: float) -> Table:
    """What `count` robots have done so far, of the `seconds` they have: the last second, and the whole run."""
    last = tally.seconds[-1] if tally.seconds else None
    elapsed = max(tally.elapsed, 0.001)
    grid = Table(title=f"{count} robots, {elapsed:.0f} of {seconds:g} s", title_justify="left", min_width=56)
    grid.add_column("")
    grid.add_column("last second", justify="right")
    grid.add_column("whole run", justify="right")
    most = max((second.sessions for second in tally.seconds), default=0)
    grid.add_row("sessions", str(tally.sessions), f"up to {most}")
    grid.add_row("sent", _rate(last.sent if last else 0), _rate(tally.sent / elapsed))
    grid.add_row("received", _rate(last.received if last else 0), _rate(tally.received / elapsed))
    for name, histogram in tally.latencies.items():
        now = last.latencies.get(name) if last else None
        whole = Latency.of(histogram)
        for what in ("p50", "p99"):
            grid.add_row(
                f"{name} {what}", milliseconds(getattr(now, what)) if now else "", milliseconds(getattr(whole, what))
            )
    for name, number in sorted(tally.counts.items()):
        grid.add_row(name, "", f"{number:,}")
    style = "bold red" if tally.errors else "green"
    grid.add_row("errors", str(last.errors if last else 0), f"{tally.errors:,}", style=style)
    return grid


def line(tally: Tally) -> str:
    """The last second in one line."""
    last = tally.seconds[-1]
    latencies = "".join(
        f", {name} p50 {milliseconds(latency.p50)} p99 {milliseconds(latency.p99)}"
        for name, latency in last.latencies.items()
    )
    return (
        f"{last.at:4.0f} s: {last.sessions} sessions, sent {_rate(last.sent)}, received {_rate(last.received)}"
        f"{latencies}, errors {tally.errors}"
    )


def errors(tally: Tally) -> str:
    """The errors, a line for each text; "" if there are none."""
    lines = [
        f"{error.count:,} x {error.text} (first: robot {error.robot}, after {error.at:.1f} s)"
        for error in tally.error_texts.values()
    ]
    others = tally.errors - sum(error.count for error in tally.error_texts.values())
    return "\n".join([*lines, *([f"{others:,} x other errors"] if others else [])])


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s"
