"""What the demo shows while it runs: a live picture on a terminal, elsewhere lines."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.arena.processes import Process, running
from gatelink.errors import counted

LOOK_EVERY = 0.25  # s between two pictures
KEPT = 400  # pictures whose figures are remembered, for the curves
BARS = "▁▂▃▄▅▆▇█"
GREEN, RED, SOFT = "bold color(28)", "bold color(161)", "dim"


@dataclass
class Kill:
    """A process that the demo killed.

    hurt: robots that lost their room. took: s until the last was back in one.
    """

    kind: str
    at: float  # s after the robots began
    hurt: int = 0
    took: float | None = None  # None: not all are back yet

    def __str__(self) -> str:
        if self.took is None:
            return f"killed a {self.kind}"
        return (
            f"killed a {self.kind}: {counted(self.hurt, 'robot')} lost their room, "
            f"the last was back after {self.took:.1f} s"
        )


@dataclass
class Figures:
    """What the robots have done so far."""

    robots: int = 0
    inside: int = 0  # robots that are in a room
    is_over: bool = False  # they leave by themselves
    sent: int = 0  # steps and words
    told: int = 0  # of them, come back to their own player
    heard: int = 0  # of others
    lost: int = 0  # with a killed process
    errors: int = 0


@dataclass
class Row:
    """One process of the cluster, over its restarts."""

    pid: int = 0
    restarts: int = 0
    cpu: float = 0.0  # seconds at the last look
    load: float = 0.0  # of one core, from the look before
    memory: int = 0
    gone_at: float | None = None


@dataclass
class Show:
    """The state of the demo, and its lines.

    figures: called for the newest ones. console: where it is shown.
    """

    console: Console = field(default_factory=lambda: Console(highlight=False))
    figures: Callable[[], Figures] = Figures
    kills: list[Kill] = field(default_factory=list)
    doing: str = ""
    page: str = ""  # where people play
    up: int | None = None  # the process id of `gatelink up`
    rows: dict[str, Row] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _inside: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _heard: int = 0

    def say(self, text: str, style: str = "") -> None:
        """Show what goes on: in the picture, or as a line."""
        self.doing = text
        if not self.console.is_terminal:
            self.line(f"arena: {text}", style)

    def line(self, text: str, style: str = "") -> None:
        """Write a line that stays."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)
        self.console.file.flush()

    def invite(self, page: str) -> None:
        """Show where people play along."""
        self.page = page
        if not self.console.is_terminal:
            self.line(f"arena: play along at {page}")

    def killed(self, kill: Kill) -> None:
        """Note a kill; `back` follows."""
        self.kills.append(kill)

    def back(self, kill: Kill) -> None:
        """All robots that a kill hurt are in a room again."""
        if not self.console.is_terminal:
            self.line(str(kill))

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Show the picture during the block, if on a terminal; its last state stays."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            self.picture(),
            console=self.console,
            auto_refresh=False,
            vertical_overflow="crop",
        ) as screen:
            refreshing = asyncio.create_task(self._refresh(screen))
            try:
                yield
            finally:
                refreshing.cancel()
                await asyncio.wait([refreshing])
                self.doing = ""
                screen.update(self.picture(), refresh=True)

    async def _refresh(self, screen: Live) -> None:
        while True:
            self.look()
            screen.update(self.picture(), refresh=True)
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Take the figures of the processes and robots."""
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        figures = self.figures()
        self._inside.append(figures.inside)
        self._rates.append((figures.told + figures.heard - self._heard) / since)
        self._heard = figures.told + figures.heard
        found = running(self.up) if self.up is not None else {}
        for name, process in found.items():
            self._take(self.rows.setdefault(name, Row(process.pid)), process, since)
        for name, row in self.rows.items():
            if name not in found and row.gone_at is None:
                row.gone_at = now

    def _take(self, row: Row, process: Process, since: float) -> None:
        if process.pid != row.pid:
            row.pid, row.restarts, row.cpu = process.pid, row.restarts + 1, process.cpu
        row.load = max(0.0, process.cpu - row.cpu) / since if row.cpu else 0.0
        row.cpu, row.memory, row.gone_at = process.cpu, process.memory, None

    # -- the picture --

    def picture(self) -> RenderableType:
        """The processes, the robots and the kills, as wide as the terminal."""
        parts: list[RenderableType] = [self._heading()]
        if self.page:
            parts.append(Text(f"play along at {self.page}"))
        parts.append(Text())
        if self.rows:
            parts += [self._processes(), Text()]
        if self.figures().robots:
            parts += [self._robots(), Text()]
        if self.kills:
            parts += [self._kills(), Text()]
        return Group(*parts)

    def _heading(self) -> Text:
        heading = Text("arena", style="bold", no_wrap=True, overflow="ellipsis")
        heading.append(f"   {time.monotonic() - self._began:3.0f} s   ", style=SOFT)
        return heading.append(self.doing, style="")

    def _processes(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style=SOFT)
        for column in ("process", "pid", "core", "memory", "state"):
            table.add_column(
                column,
                justify="right" if column in ("pid", "core", "memory") else "left",
                no_wrap=True,
            )
        for name, row in sorted(self.rows.items()):
            if row.gone_at is not None:
                state = Text(
                    f"killed {time.monotonic() - row.gone_at:.1f} s ago", style=RED
                )
                table.add_row(Text(name, style=RED), "", "", "", state)
                continue
            state = Text("up", style=GREEN)
            if row.restarts:
                state.append(
                    f", started again {row.restarts} x"
                    if row.restarts > 1
                    else ", started again",
                    style="",
                )
            memory = f"{row.memory / 1e6:,.0f} MB"
            table.add_row(name, str(row.pid), f"{100 * row.load:.0f} %", memory, state)
        return table

    def _robots(self) -> Table:
        figures = self.figures()
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
        for column in range(3):
            table.add_column(justify="right" if column == 1 else "left", no_wrap=True)
        width = max(8, self.console.width - 40)
        rate = sum(list(self._rates)[-4:]) / max(1, len(list(self._rates)[-4:]))
        style = (
            SOFT
            if figures.is_over
            else GREEN
            if figures.inside == figures.robots
            else RED
        )
        inside = Text(f"{figures.inside:,} of {figures.robots:,}", style=style)
        table.add_row(
            "robots in a room", inside, curve(self._inside, width, figures.robots)
        )
        table.add_row("messages per second", f"{rate:,.0f}", curve(self._rates, width))
        table.add_row(
            "steps and words",
            f"{figures.sent:,}",
            Text(f"{figures.told:,} told to their own player", SOFT),
        )
        lost = Text(f"{figures.lost:,}", style=RED if figures.lost else GREEN)
        table.add_row(
            "lost with a process", lost, Text("what only the killed process had", SOFT)
        )
        errors = Text(f"{figures.errors:,}", style=RED if figures.errors else GREEN)
        table.add_row(
            "errors", errors, Text("lost otherwise, twice, or out of order", SOFT)
        )
        return table

    def _kills(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for column in range(4):
            table.add_column(justify="right" if column == 0 else "left", no_wrap=True)
        for kill in self.kills:
            at = Text(f"{kill.at:.1f} s", style=SOFT)
            table.add_row(at, Text(f"killed a {kill.kind}", style=RED), *_outcome(kill))
        return table


def _outcome(kill: Kill) -> tuple[Text, Text]:
    """What a kill did, and when that was over."""
    if kill.took is None:
        return Text(), Text("not all are back", style=SOFT)
    if kill.hurt:
        return Text(f"{counted(kill.hurt, 'robot')} lost their room"), Text(
            f"all back in {kill.took:.1f} s", style=GREEN
        )
    again = f"logins back in {kill.took:.1f} s" if kill.took else ""
    return Text("no robot lost its room"), Text(again, style=GREEN)


def curve(values: "deque[float]", width: int, most: float = 0.0) -> Text:
    """The newest `width` values as bars.

    most: the value of a whole bar; by default the largest.
    """
    newest = list(values)[-width:]
    top = max([most, *newest, 1e-9])
    return Text(
        "".join(
            BARS[min(len(BARS) - 1, int(value / top * (len(BARS) - 0.01)))]
            for value in newest
        )
    )
