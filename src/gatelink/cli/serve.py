"""`gatelink serve`: runs the server that a module defines."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from gatelink.cli.loading import load
from gatelink.ops.logs import Format, Level, configure


def serve(
    server: Annotated[str, typer.Argument(metavar="MODULE:SERVER", help="A Server object, as mygame.main:server.")],
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="tcp://host:port or unix:///path, instead of the server's own; repeatable."),
    ] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve /metrics and /healthz there, over plain HTTP.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file below this directory changes; for development.")
    ] = False,
    log_format: Annotated[Format, typer.Option(help="Format of the log, which goes to standard error.")] = "console",
    log_level: Annotated[Level, typer.Option(help="Log this level and those above it.")] = "info",
) -> None:
    """Run a server until SIGTERM or SIGINT.

    The log's line "started" says where it listens. On the first signal it lets handlers end and delivers what is
    queued; on a second one it stops at once. Exit status: 0 it was told to stop, 2 it can't run as configured.
    """
    if reload:
        _run_reloading()
        return
    from gatelink.server import Server

    configure(log_format, log_level)
    found = load(server, Server)
    if listen:
        found.listen = tuple(listen)
    if admin is not None:
        found.admin = admin
    found.run()


def _run_reloading() -> None:
    """Runs this same command without --reload in a child, and again when a file changes."""
    from watchfiles import PythonFilter, run_process

    command = [sys.executable, "-m", "gatelink", *(word for word in sys.argv[1:] if word != "--reload")]
    run_process(
        Path.cwd(),
        target=shlex.join(command),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=lambda changes: print(f"gatelink: {len(changes)} files changed, restarting", file=sys.stderr),
    )
