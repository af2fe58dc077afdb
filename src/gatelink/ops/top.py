"""The servers of a group as a table, and what has changed among them lately."""

import time
from collections import deque

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatelink.group.registry import KEEPALIVE, ServerInfo, State

MOST_CHANGES = 8
LATE = 2 * KEEPALIVE
"""Seconds after which a server's last word is shown as late."""

COLUMNS = ("name", "id", "state", "version", "sessions", "messages/s", "lag", "age", "told", "addresses")
_FIGURES = {"id", "sessions", "messages/s", "lag", "age", "told"}


class Changes:
    """What came, changed and went, the last few: (when, what). Registry's `on_change`."""

    def __init__(self) -> None:
        self.lately: deque[tuple[float, str]] = deque(maxlen=MOST_CHANGES)

    def __call__(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if what := _what(before, now):
            self.lately.append((time.time(), what))


def _what(before: ServerInfo | None, now: ServerInfo | None) -> str:
    """In words; empty for a keepalive."""
    if now is None:
        return f"{before.name} {before.id} left" if before is not None else ""
    name = f"{now.name} {now.id}"
    if before is None:
        return f"{name} joined"
    if before.instance != now.instance:
        return f"{name} started again"
    return f"{name} is {now.state.value}" if before.state is not now.state else ""


def view(servers: list[ServerInfo], changes: Changes, *, title: str, now: float) -> RenderableType:
    """A whole screen. now: unix seconds; ages are as good as the machines' clocks agree."""
    table = Table(title=Text(title), title_justify="left", show_footer=True)
    for column, footer in zip(COLUMNS, _totals(servers), strict=True):
        table.add_column(column, footer=footer, justify="right" if column in _FIGURES else "left", overflow="fold")
    kind = None
    for info in sorted(servers, key=lambda info: (info.type, info.id)):
        if kind not in (None, info.type):
            table.add_section()
        kind = info.type
        table.add_row(*_row(info, now))
    lines = [Text(f"{_span(now - when):>4} ago  {_plain(what)}") for when, what in changes.lately]
    return Group(table, *([Text("lately"), *reversed(lines)] if lines else []))


def _row(info: ServerInfo, now: float) -> list[Text]:
    told = now - (info.told_at or info.started_at)
    addresses = [*info.outer, f"inner {info.inner}", *([f"admin {info.admin}"] if info.admin else [])]
    return [
        Text(_plain(info.name)),
        Text(str(info.id)),
        Text(info.state.value, style="yellow" if info.state is State.DRAINING else "green"),
        Text(_plain(info.version)),
        Text(f"{info.load.sessions:,}"),
        Text(f"{info.load.messages:,.0f}"),
        Text(f"{info.load.lag * 1000:.0f} ms"),
        Text(_span(now - info.started_at)),
        Text(_span(told), style="red" if told > LATE else ""),
        Text(_plain(", ".join(addresses))),
    ]


def _totals(servers: list[ServerInfo]) -> list[str]:
    """Under each column. Sessions are not added up: a gateway's player is a service's, too."""
    up = sum(info.state is State.UP for info in servers)
    cells = {
        "name": f"{len(servers)} servers",
        "state": f"{up} up",
        "messages/s": f"{sum(info.load.messages for info in servers):,.0f}",
        "lag": f"{max((info.load.lag for info in servers), default=0.0) * 1000:.0f} ms",
    }
    return [cells.get(column, "") for column in COLUMNS]


def _span(seconds: float) -> str:
    """`93784` -> `26h`: whole seconds, minutes, hours or days."""
    seconds = max(0.0, seconds)
    for unit, size, most in (("s", 1, 120), ("m", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def _plain(text: str) -> str:
    """What a server says of itself, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
