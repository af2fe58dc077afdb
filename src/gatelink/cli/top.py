"""`gatelink top`: show the servers of a cluster."""

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.common import Config, Dev, engine_of, run_to_end
from gatelink.errors import needing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gatelink.cluster.engine import Engine

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
    """Show the servers of a cluster until Ctrl-C: state, load, age, addresses and the latest changes.

    Servers report every 5 s. For a cluster that `gatelink up` runs, use its configuration in another terminal of the
    same user.

    Exit status: 0 it was told to stop, 1 the engine is away at the start, 78 it can't run as configured.
    """
    from gatelink.ops.logs import configure
    from gatelink.settings import load

    settings = load(config, dev=dev)
    configure(settings.logs.format, "error")
    if engine is not None:
        with needing("cluster", "--engine"):
            from gatelink.cluster.engines.nats import NatsEngine
        found: Engine = NatsEngine([engine], name="top", timeout=settings.engine.timeout, bucket=settings.cluster.name)
    else:
        found = engine_of(settings, "top")
    run_to_end(_show(found, settings.cluster.name, once))


async def _show(engine: "Engine", cluster: str, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from gatelink.cluster.registry import Registry
    from gatelink.ops.top import Changes, view

    changes = Changes()
    terminal = Console()

    def screen(width: int, height: int | None = None) -> "RenderableType":
        is_away = "" if engine.is_available else " (the engine is away; this is the last known state)"
        servers = list(registry.servers.values())
        return view(servers, changes, title=f"cluster {cluster}{is_away}", now=time.time(), width=width, height=height)

    async with engine:
        registry = Registry(engine, on_change=changes)
        await registry.start()
        changes.lately.clear()  # the servers of the first read have not just joined
        try:
            if once or not terminal.is_terminal:
                whole = terminal if terminal.is_terminal else Console(width=WIDTH)
                whole.print(screen(whole.width))
                return
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            with Live(console=terminal, auto_refresh=False, screen=True) as live:
                while not stop.is_set():
                    live.update(screen(*terminal.size), refresh=True)
                    try:
                        async with asyncio.timeout(EVERY):
                            await stop.wait()
                    except TimeoutError:
                        pass
        finally:
            await registry.close()
