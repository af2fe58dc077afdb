"""A load test as one self-contained page of HTML: verdict, errors, line plots in inline SVG, figures.

Beside an earlier test, each plot has the earlier one next to it, on the same scale, and each figure its change.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import ceil, floor, log10
from string import Template

from gatelink.errors import plural
from gatelink.robots.record import BUSY, Record
from gatelink.robots.tally import KEPT_SECONDS, Latency, Second, milliseconds

WIDTH, HEIGHT = 360, 190  # user units: about the pixels of a phone, so that the text is readable there
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 18, 24  # margins

Point = tuple[float, float | None]
"""(x, y). y None: nothing was measured, so the line has a gap."""

Series = dict[str, list[Point]]


class Plot:
    """One plot: a subject, its lines, and their unit. Plots of one unit have one scale."""

    def __init__(self, title: str, unit: str, lines: Callable[[Sequence[Second]], Series]) -> None:
        self.title = title
        self.unit = unit
        self.lines = lines


def report(record: Record, earlier: Record | None = None) -> str:
    """The page. earlier: another run, shown beside it."""
    page = Template(files("gatelink.robots").joinpath("report.html").read_text())
    return page.substitute(
        title=escape(record.title),
        what=escape(record.what),
        earlier=f'<p class="soft">Beside it, as “earlier”: {escape(earlier.what)}</p>' if earlier is not None else "",
        verdict="held" if record.held else "failed",
        verdict_text=escape(_verdict(record)),
        errors=_list([*record.exceeded, *record.errors], "errors"),
        marks=_list([f"{at:.1f} s: {what}" for at, what in record.marks], "marks"),
        ended=f'<p class="early">{escape(record.ended)}</p>' if record.ended else "",
        facts=_facts(record),
        layout="plots pairs" if earlier is not None else "plots",
        plots="".join(_figures(record, earlier)),
        table=_latencies(record, earlier) + _counts(record, earlier),
        kept=f"The plots show the last {KEPT_SECONDS} s." if len(record.seconds) == KEPT_SECONDS else "",
        embedded=record.embedded,
    )


def _verdict(record: Record) -> str:
    if record.held:
        return "No errors: everything held."
    said = {"error": record.all_errors, "bound not kept": len(record.exceeded)}
    parts = [f"{number:,} {plural(what, number)}." for what, number in said.items() if number]
    return " ".join(parts)


def _list(lines: Sequence[str], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _facts(record: Record) -> str:
    own = f"{record.cpu * 100:.0f} % of a core"
    busy = ", so these figures are partly the robots' own" if record.cpu > BUSY else ""
    facts = {**record.facts, "seconds": f"{record.elapsed:.1f}", "the robots' own CPU": own + busy}
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items())


# -- plots --


def _plots(record: Record) -> list[Plot]:
    def throughput(seconds: Sequence[Second]) -> Series:
        sent: list[Point] = [(second.at, second.sent) for second in seconds]
        return {"sent": sent, "received": [(second.at, second.received) for second in seconds]}

    found = [Plot("Throughput", "messages/s", throughput)]
    found += [Plot(f"Latency of {name}", "ms", _latency_lines(name)) for name in record.latencies]
    found.append(Plot("Sessions", "open", lambda seconds: {"open": [(each.at, each.sessions) for each in seconds]}))
    found.append(Plot("Errors", "per second", lambda seconds: {"new": [(each.at, each.errors) for each in seconds]}))
    return found


def _latency_lines(name: str) -> Callable[[Sequence[Second]], Series]:
    def lines(seconds: Sequence[Second]) -> Series:
        found: Series = {"p50": [], "p95": [], "p99": []}
        for second in seconds:
            latency = second.latencies.get(name)
            for figure, line in found.items():
                line.append((second.at, latency.figure(figure) * 1000 if latency is not None else None))
        return found

    return lines


def _figures(record: Record, earlier: Record | None) -> list[str]:
    records = [record, *([earlier] if earlier is not None else [])]
    plots = _plots(record)
    most_x = max([second.at for each in records for second in each.seconds], default=1.0)
    most_y: dict[str, float] = {}
    for each in records:
        for plot_ in plots:
            values = [y for line in plot_.lines(each.seconds).values() for _, y in line if y is not None]
            most_y[plot_.unit] = max([most_y.get(plot_.unit, 0.0), *values])
    found = []
    for plot_ in plots:
        for index, each in enumerate(records):
            title = f"{plot_.title}, earlier" if index else plot_.title
            scale = (most_x, most_y[plot_.unit])
            found.append(_figure(title, plot_.lines(each.seconds), plot_.unit, scale, each.marks))
    return found


def _figure(
    title: str, series: Series, unit: str, most: tuple[float, float], marks: Sequence[tuple[float, str]]
) -> str:
    keys = "".join(f'<span class="key key-{i}">&#9644; {escape(name)}</span>' for i, name in enumerate(series))
    label = f"{title} over the seconds of the run: {', '.join(series)}"
    drawn = plot(label, series, unit, most=most, marks=marks)
    return f"<figure><figcaption><h2>{escape(title)}</h2>{keys}</figcaption>{drawn}</figure>"


def plot(
    label: str,
    series: Mapping[str, Sequence[Point]],
    unit: str,
    *,
    most: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """An `<svg>` of `series` by name over the same x, in seconds; y from 0, in `unit`. label: its description.

    most: the largest x and y of the axes; by default of the points. marks: (x, text) of vertical lines.
    """
    points = [point for line in series.values() for point in line]
    x_most = most[0] if most is not None else max([x for x, _ in points], default=1.0)
    x_ticks = ticks(x_most, 6)
    y_ticks = ticks(most[1] if most is not None else max([y for _, y in points if y is not None], default=1.0), 4)
    y_most = y_ticks[-1]

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
    for x, text in marks:
        where = f'x1="{x_at(x)}" x2="{x_at(x)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="mark" {where}><title>{escape(text)}</title></line>')
    for index, line in enumerate(series.values()):
        for run in runs(line):
            path = " ".join(f"{x_at(x)},{y_at(y)}" for x, y in run)
            parts.append(f'<polyline class="line line-{index}" points="{path}"/>')
            if len(run) == 1:  # a line of one point has no length
                (x, y) = run[0]
                parts.append(f'<circle class="dot dot-{index}" cx="{x_at(x)}" cy="{y_at(y)}" r="2.2"/>')
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


# -- tables --


def _latencies(record: Record, earlier: Record | None) -> str:
    if not record.latencies:
        return ""
    rows = ["<tr><th>latency</th><th>count</th><th>p50</th><th>p95</th><th>p99</th><th>longest</th></tr>"]
    for name, latency in record.latencies.items():
        times = [latency.p50, latency.p95, latency.p99, latency.most]
        rows.append(_row(name, f"{latency.count:,}", *map(milliseconds, times)))
        before = earlier.latencies.get(name) if earlier is not None else None
        if before is not None:
            rows.append(_earlier(before, times))
    return f"<table>{''.join(rows)}</table>"


def _earlier(before: Latency, now: Sequence[float]) -> str:
    """The row of an earlier latency, with the change to the newer times."""
    times = (before.p50, before.p95, before.p99, before.most)
    cells = [f"{milliseconds(then)} {change(then, new)}" for then, new in zip(times, now, strict=True)]
    return _row("earlier", f"{before.count:,}", *cells, style="soft")


def change(before: float, now: float) -> str:
    """`0.010, 0.012` -> `(now +20 %)`."""
    if not before:
        return ""
    percent = round((now / before - 1) * 100)
    return f"(now {percent:+d} %)" if percent else "(now the same)"


def _counts(record: Record, earlier: Record | None) -> str:
    rows = ["<tr><th>count</th><th>in all</th><th>per second</th></tr>"]
    for name, number in _numbers(record).items():
        rows.append(_row(name, f"{number:,}", _rate(number, record)))
        before = _numbers(earlier).get(name) if earlier is not None else None
        if before is not None and earlier is not None:
            then, now = before / max(earlier.elapsed, 0.001), number / max(record.elapsed, 0.001)
            rows.append(_row("earlier", f"{before:,}", f"{_rate(before, earlier)} {change(then, now)}", style="soft"))
    rows.append(_row("sessions", f"{record.all_sessions:,}", f"up to {record.most_sessions:,} at a time"))
    return f"<table>{''.join(rows)}</table>"


def _numbers(record: Record) -> dict[str, int]:
    return {"sent": record.sent, "received": record.received, **dict(sorted(record.counts.items()))}


def _rate(number: int, record: Record) -> str:
    return f"{number / max(record.elapsed, 0.001):,.1f}"


def _row(name: str, *cells: str, style: str = "") -> str:
    of = f' class="{style}"' if style else ""
    return f"<tr{of}><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
