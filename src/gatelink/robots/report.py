"""A run as one page of HTML that needs nothing else: verdict, plots, figures, errors."""

from html import escape
from importlib.resources import files
from string import Template

from gatelink.robots import display
from gatelink.robots.svg import Point, plot
from gatelink.robots.tally import KEPT_SECONDS, Latency, Tally


def report(tally: Tally, *, title: str, what: str) -> str:
    """The page. `what` says in a line what was run: scenario, address, count, seconds, time."""
    page = Template(files("gatelink.robots").joinpath("report.html").read_text())
    return page.substitute(
        title=escape(title),
        what=escape(what),
        verdict="held" if tally.held else "failed",
        verdict_text="No errors: everything held." if tally.held else f"{tally.errors:,} errors.",
        plots="".join(_plots(tally)),
        table=_table(tally),
        errors=_errors(tally),
        kept=f"The plots show the last {KEPT_SECONDS} s." if len(tally.seconds) == KEPT_SECONDS else "",
    )


def _plots(tally: Tally) -> list[str]:
    seconds = tally.seconds
    found = [
        _figure(
            "Throughput",
            {
                "sent": [(second.at, second.sent) for second in seconds],
                "received": [(second.at, second.received) for second in seconds],
            },
            "messages/s",
        )
    ]
    for name in tally.latencies:
        p50: list[Point] = []
        p99: list[Point] = []
        for second in seconds:
            latency = second.latencies.get(name)
            p50.append((second.at, latency.p50 * 1000 if latency else None))
            p99.append((second.at, latency.p99 * 1000 if latency else None))
        found.append(_figure(f"Latency of {name}", {"p50": p50, "p99": p99}, "ms"))
    found.append(_figure("Sessions", {"open": [(second.at, second.sessions) for second in seconds]}, ""))
    found.append(_figure("Errors", {"new": [(second.at, second.errors) for second in seconds]}, "per second"))
    return found


def _figure(title: str, series: dict[str, list[Point]], unit: str) -> str:
    keys = "".join(f'<span class="key key-{i}">&#9644; {escape(name)}</span>' for i, name in enumerate(series))
    label = f"{title} over the seconds of the run: {', '.join(series)}"
    return f"<figure><figcaption><h2>{escape(title)}</h2>{keys}</figcaption>{plot(label, series, unit)}</figure>"


def _table(tally: Tally) -> str:
    rows = ["<tr><th></th><th>count</th><th>per second</th><th>p50</th><th>p99</th><th>longest</th></tr>"]
    for name, number in (("sent", tally.sent), ("received", tally.received), *sorted(tally.counts.items())):
        rows.append(_row(name, f"{number:,}", f"{number / max(tally.elapsed, 0.001):,.1f}", "", "", ""))
    for name, histogram in tally.latencies.items():
        latency = Latency.of(histogram)
        times = map(display.milliseconds, (latency.p50, latency.p99, latency.most))
        rows.append(_row(name, f"{latency.count:,}", f"{latency.count / max(tally.elapsed, 0.001):,.1f}", *times))
    return f"<table>{''.join(rows)}</table>"


def _row(name: str, *cells: str) -> str:
    return f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _errors(tally: Tally) -> str:
    if tally.held:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in display.errors(tally).splitlines())
    return f"<h2>Errors</h2><ul>{items}</ul>"
