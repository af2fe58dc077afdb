"""`gatelink top`: show the servers of a cluster."""

import asyncio
import math
import signal
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.engine import engine_of, registry_engine_of
from gatelink.cli.options import Config, Dev
from gatelink.cli.running import run_to_end
from gatelink.errors import needing
from gatelink.ops.logs import configure
from gatelink.settings import load

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gatelink.cluster.engine import Engine
    from gatelink.cluster.login_services import LoginServices
    from gatelink.cluster.registry import Registry
    from gatelink.ops.top import Changes

EVERY = 1.0
"""Seconds between two looks."""

WIDTH = 200
"""Columns without a terminal: a script needs whole lines."""


def top(
    config: Config,
    dev: Dev = False,
    engine: Annotated[
        str | None,
        typer.Option(metavar="URL", help="nats://user:password@host:port, instead of the configuration's engine."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
) -> None:
    """Show a cluster until `q` or Ctrl-C: players, servers, logins and engine, their load, and the latest changes.

    Servers and logins report every 5 s. Keys sort the servers by their name, sessions, messages, lag, CPU or memory.
    A wide terminal has histories, versions and addresses, too. For a cluster that `gatelink up` runs, use its
    configuration in another terminal of the same user.

    Exit status: 0 after `q`, a signal or --once, 1 the engine is away at the start, 78 it can't run as configured.
    """
    settings = load(config, dev=dev)
    configure(settings.logs.format, "error")
    if engine is not None:
        with needing("cluster", "--engine"):
            from gatelink.cluster.engines.nats import NatsEngine
        found: Engine = NatsEngine(
            [engine], name="top", timeout=settings.engine.timeout, bucket=settings.cluster.name, max_skew=math.inf
        )
    else:
        found = engine_of(settings, "top", checks_clock=False)  # one looks from any machine
    run_to_end(_show(registry_engine_of(settings, found), settings.cluster.name, once))


async def _show(engine: "Engine", cluster: str, once: bool) -> None:
    from rich.console import Console

    from gatelink.cluster.login_services import LoginServices
    from gatelink.cluster.registry import Registry
    from gatelink.ops.top import Changes

    changes = Changes(engine.now)
    async with engine:
        registry, logins = Registry(engine, on_change=changes), LoginServices(engine)
        await registry.start()
        changes.lately.clear()  # the servers of the first read have not just joined
        try:
            await logins.start()
            screen = Screen(engine, registry, logins, changes, cluster)
            await screen.look()
            terminal = Console()
            if once or not terminal.is_terminal:
                whole = terminal if terminal.is_terminal else Console(width=WIDTH)
                whole.print(screen.picture(whole.width))
            else:
                await screen.live(terminal)
        finally:
            await logins.close()
            await registry.close()


class Screen:
    """The cluster on a terminal, once or until a key or a signal."""

    def __init__(
        self, engine: "Engine", registry: "Registry", logins: "LoginServices", changes: "Changes", cluster: str
    ) -> None:
        from gatelink.ops.top import EngineState, History

        self._engine, self._registry, self._logins, self._changes = engine, registry, logins, changes
        self._cluster = cluster
        self._history = History()
        self._state = EngineState(engine.is_available, None)
        self._sort = "n"
        self._pressed = asyncio.Event()  # or a signal came
        self._is_over = False

    async def look(self) -> None:
        """Take the state of now."""
        from gatelink.cluster.engine import EngineError
        from gatelink.ops.top import EngineState

        self._history.look(list(self._registry.servers.values()))
        began, trip = perf_counter(), None
        try:
            async with asyncio.timeout(EVERY):
                await self._engine.get("servers.0")  # no server has the id 0
            trip = perf_counter() - began
        except (EngineError, TimeoutError):
            pass  # the row says that it is away
        self._state = EngineState(self._engine.is_available, trip)

    def picture(self, width: int, height: int | None = None, has_keys: bool = False) -> "RenderableType":
        """What `look` has seen."""
        from gatelink.ops.top import view

        is_away = "" if self._engine.is_available else " (the engine is away; this is the last known state)"
        return view(
            list(self._registry.servers.values()),
            self._changes,
            title=f"cluster {self._cluster}{is_away}",
            now=self._engine.now(),
            width=width,
            height=height,
            logins=sorted(self._logins.infos.values(), key=lambda info: info.url),
            engine=self._state,
            history=self._history,
            sort=self._sort,
            has_keys=has_keys,
        )

    async def live(self, terminal: "Console") -> None:
        """Draw every second, and after each key, until `q`, a signal, or the end of the terminal."""
        from rich.live import Live

        from gatelink.ops import keyboard

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._press, "q")
        with keyboard.keys(self._press), Live(console=terminal, auto_refresh=False, screen=True) as live:
            due = perf_counter()
            while not self._is_over:
                self._pressed.clear()
                if perf_counter() >= due:
                    await self.look()
                    due = perf_counter() + EVERY
                live.update(self.picture(*terminal.size, has_keys=keyboard.is_there()), refresh=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - perf_counter())):
                        await self._pressed.wait()

    def _press(self, key: str) -> None:
        from gatelink.ops.top import SORTS

        if key in SORTS:
            self._sort = key
        self._is_over = self._is_over or key in ("q", "")
        self._pressed.set()
