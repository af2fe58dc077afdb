"""`python -m benchmarks.draw_echo [FILE]`: draw the JSON of `benchmarks.run` as docs/pictures/echo.svg.

FILE is benchmarks/results/echo.json by default. A test checks that the picture is that of this file. In a point, only
`rate` of `limit`, `server` and `pure` is drawn, so a file made of an older table may lack the rest.
"""

import json
import sys
from html import escape
from math import log10
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "echo.json"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "echo.svg"

WIDTH, LEFT, RIGHT, TOP, ROW = 580, 180, 24, 66, 44  # user units
FROM, TO = 4, 7  # powers of ten at the ends of the axis

STYLE = """\
svg { --text: #1f2328; --soft: #59636e; --grid: #d1d9e0; --server: #0969da; --pure: #9a6700; --limit: #818b98 }
@media (prefers-color-scheme: dark) {
  svg { --text: #f0f6fc; --soft: #9198a1; --grid: #3d444d; --server: #4493f8; --pure: #d29922; --limit: #9198a1 }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--text) }
.soft { fill: var(--soft); font-size: 12px } .end { text-anchor: end } .middle { text-anchor: middle }
line { stroke: var(--grid) } .way { stroke-width: 2 }
.server { fill: var(--server) } .pure { fill: var(--pure) } .limit { fill: var(--limit) }
"""


def place(rate: float) -> float:
    """The x of a rate, on the logarithmic axis."""
    return LEFT + (log10(rate) - FROM) / (TO - FROM) * (WIDTH - LEFT - RIGHT)


def drawn(results: dict[str, Any]) -> str:
    """The SVG: a row for each point, with a dot for the server and one for the limit."""
    points = results["points"]
    names = {"server": "gatelink", "limit": "limit: a C loop"}
    if any(point.get("pure") for point in points):
        names = {"server": "gatelink, compiled core", "pure": "gatelink, pure Python", "limit": names["limit"]}
    bottom = TOP + ROW * len(points)
    parts = []
    x = 24
    for kind, name in names.items():
        parts += [f'<circle class="{kind}" cx="{x}" cy="20" r="5"/>', f'<text x="{x + 11}" y="24">{name}</text>']
        x += 36 + 7 * len(name)
    for power in range(FROM, TO + 1):
        at, label = place(10**power), f"{10 ** (power % 3)} {'k' if power < 6 else 'M'}"
        parts.append(f'<line x1="{at:g}" y1="{TOP - 10}" x2="{at:g}" y2="{bottom}"/>')
        parts.append(f'<text class="soft middle" x="{at:g}" y="{TOP - 16}">{label}</text>')
    for number, point in enumerate(points):
        parts += row(point, TOP + ROW * number + ROW / 2, [kind for kind in names if point.get(kind)])
    parts.append(
        f'<text class="soft middle" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{bottom + 22}">messages a second</text>'
    )
    title = "Messages a second of an echo at five points, beside the limit of the machine"
    size = f"0 0 {WIDTH} {bottom + 34}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img" aria-labelledby="title">\n'
        f'<title id="title">{escape(title)}</title>\n<style>\n{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def row(point: dict[str, Any], y: float, kinds: list[str]) -> list[str]:
    """The name of a point, its dots, and the rate of the server."""
    conns, depth, body = point["conns"], point["depth"], point["body"]
    clients = f"{conns:,} client" + ("s" if conns > 1 else "")
    rates = {kind: point[kind]["rate"] for kind in kinds}
    xs = [place(rate) for rate in rates.values()]
    share = f"{rates['server']:,.0f}, {point['ratio']:.2f} of the limit"
    at, label = place(rates["server"]), "soft"
    if at + 7 * len(share) > WIDTH:  # it would not fit
        at, label = WIDTH - RIGHT, "soft end"
    return [
        f'<text class="end" x="{LEFT - 16}" y="{y - 3:g}">{clients}</text>',
        f'<text class="soft end" x="{LEFT - 16}" y="{y + 13:g}">{depth} on the way, {body} bytes</text>',
        f'<line class="way" x1="{min(xs):.1f}" y1="{y:g}" x2="{max(xs):.1f}" y2="{y:g}"/>',
        *[f'<circle class="{kind}" cx="{place(rate):.1f}" cy="{y:g}" r="5"/>' for kind, rate in rates.items()],
        f'<text class="{label}" x="{at:.1f}" y="{y + 20:g}">{share}</text>',
    ]


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    PICTURE.write_text(drawn(json.loads(source.read_text())))


if __name__ == "__main__":
    main()
