"""Line plots as inline SVG: a few polylines, two axes, colours from the page's style sheet."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 360, 190  # user units: about the pixels of a phone, so that the text is readable there
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 18, 24  # margins

Point = tuple[float, float | None]
"""(x, y); y None: nothing was measured, and the line has a gap."""


def plot(label: str, series: Mapping[str, Sequence[Point]], unit: str) -> str:
    """An `<svg>` of `series` by name over the same x, in seconds; y from 0, in `unit`. `label` says it in words."""
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
