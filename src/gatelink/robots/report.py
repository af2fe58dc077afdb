"""A load test as one self-contained page of HTML: verdict, line plots in inline SVG, figures, errors."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from math import ceil, floor, log10
from string import Template

from gatelink.robots import display
from gatelink.robots.tally import KEPT_SECONDS, Latency, Tally

WIDTH, HEIGHT = 360, 190  # user units: about the pixels of a phone, so that the text is readable there
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 18, 24  # margins

Point = tuple[float, float | None]
"""(x, y). y None: nothing was measured, so the line has a gap."""


def report(tally: Tally, *, title: str, what: str) -> str:
    """The page. what: one line on the run, with scenario, address, count, seconds and time."""
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


def plot(label: str, series: Mapping[str, Sequence[Point]], unit: str) -> str:
    """An `<svg>` of `series` by name over the same x, in seconds; y from 0, in `unit`. label: its description."""
    points = [point for line in series.values() for point in line]
    x_ticks = ticks(max([x for x, _ in points], default=1.0), 6)
    y_ticks = ticks(max([y for _, y in points if y is not None], default=1.0), 4)
    x_most, y_most = max([x for x, _ in points], default=1.0), y_ticks[-1]

    def x_at(x: float) -> float:
        return round(LEFT + x / x_most * (WIDTH - LEFT - RIGHT), 1)

    def y_at(y: float) -> float:
        return round(HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y_at(y)}" x2="{WIDTH - RIGHT}" y2="{y_at(y)}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y_at(y)}" dy="0.32em" text-anchor="end">{y:,g}</text>')
    for x in x_ticks:
        if x <= x_most:
            parts.append(f'<text x="{x_at(x)}" y="{HEIGHT - 8}" text-anchor="middle">{x:g} s</text>')
    parts.append(f'<text x="{LEFT}" y="10">{escape(unit)}</text>')
    for index, line in enumerate(series.values()):
        for run in runs(line):
            path = " ".join(f"{x_at(x)},{y_at(y)}" for x, y in run)
            parts.append(f'<polyline class="line line-{index}" points="{path}"/>')
    parts.append("</svg>")
    return "".join(parts)


def runs(line: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The parts of a line between its gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if y is not None:
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def ticks(most: float, about: int) -> list[float]:
    """Round numbers from 0 to at least `most`, about that many steps of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [float(f"{i * step:.6g}") for i in range(ceil(most / step - 0.001) + 1)]
