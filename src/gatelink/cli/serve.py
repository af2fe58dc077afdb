"""`gatelink serve`: runs the server that a module defines."""

from pathlib import Path
from typing import Annotated

import typer

from gatelink.cli.loading import load
from gatelink.ops.logs import Format, Level, configure

STOPPING = 10  # s that a reload gives the old process, above limits.close_timeout


def serve(
    server: Annotated[str, typer.Argument(metavar="MODULE:SERVER", help="Where the Server object is.")],
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="tcp://host:port or unix:///path, instead of the server's own; repeatable."),
    ] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve /metrics and /healthz there, over plain HTTP.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a file here changes; for development.")
    ] = False,
    log_format: Annotated[Format, typer.Option(help="How logs, on standard error, are written.")] = "console",
    log_level: Annotated[Level, typer.Option(help="The least that is logged.")] = "info",
) -> None:
    """Run a server until SIGTERM or SIGINT; a second one stops it without grace."""
    arguments = (server, listen, admin, log_format, log_level)
    if not reload:
        run(*arguments)
        return
    from watchfiles import run_process

    run_process(Path.cwd(), target=run, args=arguments, sigint_timeout=STOPPING)


def run(reference: str, listen: list[str] | None, admin: str | None, log_format: Format, log_level: Level) -> None:
    """Load and run the server. Raises ConfigError, and whatever its module raises."""
    from gatelink.server import Server

    configure(log_format, log_level)
    server = load(reference, Server)
    if listen:
        server.listen = tuple(listen)
    if admin is not None:
        server.admin = admin
    server.run()
