"""The servers of a cluster as a table, with the latest changes."""

import time
from collections import deque

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatelink.cluster.registry import KEEPALIVE, ServerInfo, State

MOST_CHANGES = 8
LATE = 2 * KEEPALIVE
"""Seconds after which a server's last report is shown as late."""

COLUMNS = ("name", "id", "state", "sessions", "messages/s", "lag", "report", "age", "version", "addresses")
_FIGURES = {"id", "sessions", "messages/s", "lag", "report", "age"}
_FROM_WIDTH = {"age": 88, "version": 100, "addresses": 130}
"""The width of the terminal from which a column is shown."""

_FRAME = 5  # lines: the title, the head and the borders


class Changes:
    """The latest changes of the servers, as (time, words). It is called as the Registry's `on_change`."""

    def __init__(self) -> None:
        self.lately: deque[tuple[float, str]] = deque(maxlen=MOST_CHANGES)

    def __call__(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if what := _what(before, now):
            self.lately.append((time.time(), what))


def _what(before: ServerInfo | None, now: ServerInfo | None) -> str:
    """A change in words; "" for a keepalive."""
    if now is None:
        return f"{before.name} {before.id} left" if before is not None else ""
    name = f"{now.name} {now.id}"
    if before is None:
        return f"{name} joined"
    if before.instance != now.instance:
        return f"{name} started again"
    return f"{name} is {now.state.value}" if before.state is not now.state else ""


def view(
    servers: list[ServerInfo], changes: Changes, *, title: str, now: float, width: int, height: int | None = None
) -> RenderableType:
    """A screen of `width` columns and `height` lines (None: as many as needed).

    now: unix seconds. Ages are only as exact as the machines' clocks.
    """
    lines = [Text(f"{_span(now - when):>4} ago  {_plain(what)}") for when, what in reversed(changes.lately)]
    room = len(servers)
    if height is not None:
        lines = lines[: max(1, height // 4)]
        room = max(1, height - _FRAME - len(lines))
    heading = Text(f"{title}: {_totals(servers)}", style="bold", no_wrap=height is not None, overflow="ellipsis")
    table = Table()
    shown = [column for column in COLUMNS if width >= _FROM_WIDTH.get(column, 0)]
    for column in shown:
        table.add_column(column, no_wrap=height is not None, overflow="ellipsis")
        if column in _FIGURES:
            table.columns[-1].justify = "right"
    inside = sorted(servers, key=lambda info: (info.type, info.id))
    if len(inside) > room:
        inside = inside[: room - 1]
    for info in inside:
        table.add_row(*_row(info, now)[: len(shown)])
    if missing := len(servers) - len(inside):
        table.add_row(Text(f"{missing} more"))
    return Group(heading, table, *lines)


def _row(info: ServerInfo, now: float) -> list[Text]:
    report = now - (info.updated_at or info.started_at)
    addresses = [*info.outer, f"inner {info.inner}", *([f"admin {info.admin}"] if info.admin else [])]
    return [
        Text(_plain(info.name)),
        Text(str(info.id)),
        Text(info.state.value, style="yellow" if info.state is State.DRAINING else "green"),
        Text(f"{info.load.sessions:,}"),
        Text(f"{info.load.messages:,.0f}"),
        Text(f"{info.load.lag * 1000:.0f} ms"),
        Text(_span(report), style="red" if report > LATE else ""),
        Text(_span(now - info.started_at)),
        Text(_plain(info.version)),
        Text(_plain(", ".join(addresses))),
    ]


def _totals(servers: list[ServerInfo]) -> str:
    """The totals in words, without sessions: a player has one at a gateway and one at each of its services."""
    up = sum(info.state is State.UP for info in servers)
    messages = sum(info.load.messages for info in servers)
    lag = max((info.load.lag for info in servers), default=0.0)
    return f"{len(servers)} servers, {up} up, {messages:,.0f} messages/s, lag {lag * 1000:.0f} ms"


def _span(seconds: float) -> str:
    """`93784` -> `26h`: whole seconds, minutes, hours or days."""
    seconds = max(0.0, seconds)
    for unit, size, most in (("s", 1, 120), ("m", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def _plain(text: str) -> str:
    """A server's text without characters that control a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
