"""How the commands of a cluster begin and end."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gatelink.cluster.engine import EngineUnavailable
from gatelink.ops import logs
from gatelink.ops.logs import Level
from gatelink.settings import Settings, load

if TYPE_CHECKING:
    from gatelink.cluster.gateway import Gateway
    from gatelink.cluster.service import Service


def prepared(config: Path, dev: bool, level: Level | None = None) -> Settings:
    """Prepare this process for its signals and its log, as `config` says, and return the configuration.

    level: of the log, instead of the configuration's.
    """
    from gatelink.ops import process

    process.prepare()
    settings = load(config, dev=dev)
    logs.configure(settings.logs.format, level or settings.logs.level)
    return settings


def run_to_end(process: Coroutine[Any, Any, None]) -> None:
    """Run a process of the cluster to its end. An engine that is away at the start gives a line and exit status 1."""
    from gatelink.ops.process import run

    try:
        run(process)
    except EngineUnavailable as error:
        logs.say(f"gatelink: the engine (engine.url) can't be used: {error}")
        raise typer.Exit(1) from None


def end_if_replaced(server: "Gateway | Service") -> None:
    """End the process with its own exit status, after a server that was replaced has stopped."""
    if server.is_replaced:
        logs.say(f"gatelink: another server has the id {server.id}; give each its own")
        from gatelink.ops.supervisor import REPLACED

        raise typer.Exit(REPLACED)
