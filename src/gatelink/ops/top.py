"""A cluster as a screen: its servers, logins and engine, with short histories and the latest changes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatelink.cluster.links import GATEWAY
from gatelink.cluster.login_services import LoginServiceInfo
from gatelink.cluster.registry import KEEPALIVE, Load, ServerInfo, State
from gatelink.errors import counted, plural
from gatelink.ops.terminal import GREEN, ORANGE, RED

MOST_CHANGES = 16
LATE = 2 * KEEPALIVE
"""Seconds after which a server's last report is shown as late."""

SLOW_LAG = 0.1
"""Seconds of lag that are shown in red: handlers block the loop."""

KEPT = 120
"""Reports of each server, one every 5 s, that its history has."""

HISTORY = "lately"
COLUMNS = (
    "name", "id", "state", "sessions", "msgs/s", HISTORY, "lag", "cpu", "memory", "seen", "age", "version", "addresses",
)  # fmt: skip
_FIGURES = {"id", "sessions", "msgs/s", "lag", "cpu", "memory", "seen", "age"}
_FROM_WIDTH = {"age": 96, HISTORY: 104, "version": 112, "addresses": 150}
"""The width of the terminal from which a column is shown."""

_INNER_FROM, _BOTH_FROM = 190, 215
"""The width from which the addresses for other servers are shown, and from which the histories fit beside them."""

BARS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 12  # of a server's history, in characters
_FRAME = 5  # lines: the title, the head and the borders
_TALL = 16  # lines from which there is room for curves, logins, engine and keys

_GREEN, _ORANGE, _RED = (f"color({colour})" for colour in (GREEN, ORANGE, RED))

SORTS: dict[str, tuple[str, Callable[[ServerInfo], tuple[float, ...]]]] = {
    "n": ("name", lambda info: (info.type, info.id)),
    "s": ("sessions", lambda info: (-info.load.sessions, info.type, info.id)),
    "m": ("msgs/s", lambda info: (-info.load.messages, info.type, info.id)),
    "l": ("lag", lambda info: (-info.load.lag, info.type, info.id)),
    "c": ("cpu", lambda info: (-info.load.cpu, info.type, info.id)),
    "e": ("memory", lambda info: (-info.load.memory, info.type, info.id)),
}
"""The orders of the servers, by the key that chooses them."""


class Changes:
    """The latest changes of the servers, as (time, words). It is called as the Registry's `on_change`.

    clock: unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.lately: deque[tuple[float, str]] = deque(maxlen=MOST_CHANGES)

    def __call__(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if what := _what(before, now):
            self.lately.append((self._clock(), what))


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


class History:
    """What the servers reported lately, for curves. players and messages: of the whole cluster, at each look."""

    def __init__(self) -> None:
        self.players: deque[float] = deque(maxlen=KEPT)
        self.messages: deque[float] = deque(maxlen=KEPT)
        self._of_server: dict[int, tuple[float, deque[float]]] = {}  # (last report, messages a second)

    def look(self, servers: Sequence[ServerInfo]) -> None:
        """Take the state of now; call it at equal times."""
        self.players.append(players(servers))
        self.messages.append(sum(info.load.messages for info in servers))
        before, self._of_server = self._of_server, {}
        for info in servers:
            reported, rates = before.get(info.id, (0.0, deque(maxlen=KEPT)))
            if info.updated_at != reported:
                rates.append(info.load.messages)
            self._of_server[info.id] = (info.updated_at, rates)

    def of(self, id: int) -> Iterable[float]:
        """The messages a second of a server, at each of its reports."""
        return self._of_server[id][1] if id in self._of_server else ()


class EngineState(NamedTuple):
    """The engine as this process sees it. round_trip: seconds of a read; None: there was no answer."""

    is_available: bool
    round_trip: float | None


def players(servers: Iterable[ServerInfo]) -> int:
    """The players in all: each has one session at a gateway, and others at its services."""
    return sum(info.load.sessions for info in servers if info.type == GATEWAY)


def view(
    servers: list[ServerInfo],
    changes: Changes,
    *,
    title: str,
    now: float,
    width: int,
    height: int | None = None,
    logins: Sequence[LoginServiceInfo] = (),
    engine: EngineState | None = None,
    history: History | None = None,
    sort: str = "n",
    has_keys: bool = False,
) -> RenderableType:
    """A screen of `width` columns and `height` lines (None: as many as needed).

    now: unix seconds, the engine's. sort: a key of SORTS. has_keys: whether the person can press keys.
    """
    is_tall = height is None or height >= _TALL
    others = (
        [*map(_login_row, logins, [now] * len(logins)), *([_engine_row(engine)] if engine else [])] if is_tall else []
    )
    curves = _curves(history, servers, width) if is_tall and height is not None and history is not None else []
    keys = [_keys(sort)] if is_tall and has_keys else []
    lines = [Text(f"{_span(now - when):>4} ago  {_plain(what)}") for when, what in reversed(changes.lately)]
    room = len(servers)
    if height is not None:
        left = height - _FRAME - len(others) - len(curves) - len(keys)
        lines = lines[: max(1, min(height // 4, left - len(servers)) if left > len(servers) else height // 6)]
        room = max(1, left - len(lines))
    shown = [column for column in COLUMNS if width >= _FROM_WIDTH.get(column, 0)]
    if _INNER_FROM <= width < _BOTH_FROM:
        shown.remove(HISTORY)
    table = _table(shown, height is not None)
    inside = sorted(servers, key=SORTS[sort][1])
    if len(inside) > room:
        inside = inside[: room - 1]
    for info in inside:
        row = _server_row(info, now, width >= _INNER_FROM, history.of(info.id) if history is not None else ())
        table.add_row(*(row[column] for column in shown))
    if missing := len(servers) - len(inside):
        table.add_row(Text(f"{missing} more"))
    for row in others:
        table.add_row(*(row.get(column, Text()) for column in shown))
    heading = Text(f"{title}: {_totals(servers)}", style="bold", no_wrap=height is not None, overflow="ellipsis")
    return Group(heading, *curves, table, *lines, *keys)


def _table(shown: Sequence[str], is_screen: bool) -> Table:
    table = Table()
    for column in shown:
        table.add_column(column, no_wrap=is_screen, overflow="ellipsis")
        if column in _FIGURES:
            table.columns[-1].justify = "right"
    return table


def _server_row(info: ServerInfo, now: float, has_inner: bool, history: Iterable[float]) -> dict[str, Text]:
    inner = [f"inner {info.inner}"] if has_inner or not info.outer else []
    addresses = [*info.outer, *inner, *([f"admin {info.admin}"] if info.admin else [])]
    return {
        "name": Text(_plain(info.name)),
        "id": Text(str(info.id)),
        "state": Text(info.state.value, style=_ORANGE if info.state is State.DRAINING else _GREEN),
        "sessions": Text(f"{info.load.sessions:,}"),
        "msgs/s": Text(f"{info.load.messages:,.0f}"),
        "version": Text(_plain(info.version)),
        HISTORY: curve(history, _BAR_WIDTH),
        "addresses": Text(_plain(", ".join(addresses))),
        **_load(info.load),
        **_times(info.started_at, info.updated_at, now),
    }


def _login_row(info: LoginServiceInfo, now: float) -> dict[str, Text]:
    """A login service; its messages are logins."""
    where = f"{info.url}, {info.trouble}" if info.trouble else info.url
    return {
        "name": Text("login"),
        "state": Text("up", style=_GREEN) if not info.trouble else Text("fails", style=_RED),
        "msgs/s": Text(f"{info.logins:,.0f}"),
        "version": Text(_plain(info.version)),
        "addresses": Text(_plain(where)),
        **_load(Load(lag=info.lag, cpu=info.cpu, memory=info.memory)),
        **_times(info.started_at, info.updated_at, now),
    }


def _engine_row(engine: EngineState) -> dict[str, Text]:
    """The engine; its lag is the time of a round trip."""
    state = Text("up", style=_GREEN) if engine.is_available else Text("away", style=_RED)
    trip = Text("" if engine.round_trip is None else f"{engine.round_trip * 1000:.0f} ms")
    return {"name": Text("engine"), "state": state, "lag": trip}


def _load(load: Load) -> dict[str, Text]:
    return {
        "lag": Text(f"{load.lag * 1000:.0f} ms", style=_RED if load.lag > SLOW_LAG else ""),
        "cpu": Text(f"{load.cpu * 100:.0f} %", style=_RED if load.cpu > 0.9 else ""),
        "memory": Text(f"{load.memory / 1e6:,.0f} MB" if load.memory else ""),
    }


def _times(started_at: float, updated_at: float, now: float) -> dict[str, Text]:
    seen = now - (updated_at or started_at)
    return {"seen": Text(_span(seen), style=_RED if seen > LATE else ""), "age": Text(_span(now - started_at))}


def _curves(history: History, servers: Sequence[ServerInfo], width: int) -> list[Text]:
    """One line with the players and the messages of the last minutes."""
    wide = max(8, (width - 34) // 2)
    line = Text("players ", no_wrap=True, overflow="crop")
    line.append(curve(history.players, wide)).append(f" {players(servers):,}", style="bold")
    line.append("   messages/s ").append(curve(history.messages, wide))
    return [line]


def curve(values: Iterable[float], width: int) -> Text:
    """The newest `width` values as bars, from 0 to the largest."""
    newest = list(values)[-width:]
    top = max([*newest, 1e-9])
    return Text("".join(BARS[min(len(BARS) - 1, int(value / top * (len(BARS) - 0.01)))] for value in newest))


def _keys(sort: str) -> Text:
    line = Text("sort by", style="dim", no_wrap=True, overflow="crop")
    for key, (name, _) in SORTS.items():
        line.append("  ").append(key, style="not dim bold").append(f" {name}", style="not dim" if key == sort else "")
    return line.append("     ").append("q", style="not dim bold").append(" quit")


def _totals(servers: list[ServerInfo]) -> str:
    """The totals in words."""
    up = sum(info.state is State.UP for info in servers)
    messages = sum(info.load.messages for info in servers)
    lag = max((info.load.lag for info in servers), default=0.0)
    many = players(servers)
    counts = f"{counted(len(servers), 'server')}, {up} up, {many:,} {plural('player', many)}"
    return f"{counts}, {messages:,.0f} messages/s, lag {lag * 1000:.0f} ms"


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
