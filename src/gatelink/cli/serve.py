"""`gatelink serve`: run the server that a module defines."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Annotated

import typer

from gatelink.cli import banner
from gatelink.cli.loading import load
from gatelink.cli.options import Quiet
from gatelink.errors import counted
from gatelink.logger import Logger
from gatelink.ops import logs, process, readiness, terminal
from gatelink.ops.logs import Format, Level, configure
from gatelink.ops.page import Page
from gatelink.ops.supervisor import tied_to_parent


def serve(
    server: Annotated[str, typer.Argument(metavar="MODULE:SERVER", help="A Server object, as mygame.main:server.")],
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="tcp://host:port, ws://host:port or unix:///path, instead of the server's own; repeatable.",
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve /metrics, /healthz and /livez there, as plain HTTP."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Serve a page for browsers, too, on this machine alone; for development."),
    ] = None,
    page_at: Annotated[str, typer.Option(metavar="URL", help="Where the page is.")] = "http://127.0.0.1:8000",
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file below this directory changes; for development.")
    ] = False,
    log_format: Annotated[Format, typer.Option(help="Format of the log, which goes to standard error.")] = "console",
    log_level: Annotated[Level, typer.Option(help="Log this level and those above it.")] = "info",
    quiet: Quiet = False,
) -> None:
    """Run a server until SIGTERM or SIGINT.

    On a terminal it says where to play and connect; elsewhere the log's line "started" has its addresses. On the first
    signal it lets handlers end and delivers queued messages. On a second one it stops at once. Exit status: 0 it
    stopped at a signal, 78 it can't run as configured.
    """
    process.prepare()
    configure(log_format, "warning" if quiet else log_level)
    if reload:
        command = [sys.executable, "-m", "gatelink", *(word for word in sys.argv[1:] if word != "--reload")]
        process.run(_reloading(command))
        return
    from gatelink.server import Server

    found = load(server, Server)
    if listen:
        found.listen = tuple(listen)
    if admin is not None:
        found.admin = admin

    def on_ready() -> None:
        banner.show(
            page=served.url if served is not None else "",
            connect=[str(endpoint) for endpoint in found.endpoints],
            admin=[found.admin_address] if found.admin_address else [],
        )
        if served is not None and not terminal.is_terminal():
            Logger("gatelink.serve").info("ready", page=served.url)
        readiness.tell()

    served = Page(page, page_at) if page is not None else None

    async def run() -> None:
        async with served or contextlib.nullcontext():
            await found.serve(on_ready)

    if served is not None:
        served.tell(login="")
    process.run(run())


async def _reloading(command: list[str]) -> None:
    """Run `command`, and again when a .py file below this directory changes, until a signal.

    The server gets one SIGTERM, and has its grace. Ctrl-C reaches this process alone: a server that got it too would
    take the SIGTERM for a second signal, and not run `on_stop` to its end. If this process is killed, the server gets
    SIGTERM, too.
    """
    from watchfiles import PythonFilter, awatch

    stopping = asyncio.Event()
    child = await _start(command)
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        stopping.set()
        _signal(child, signal.SIGTERM if asked < 3 else signal.SIGKILL)

    calls = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: lambda: _signal(child, signal.SIGHUP)}
    with process.signals(calls, at_once=lambda: None):
        async for changes in awatch(Path.cwd(), watch_filter=PythonFilter(), stop_event=stopping):
            logs.write(f"gatelink: {counted(len(changes), 'file')} changed, restarting")
            _signal(child, signal.SIGTERM)
            await child.wait()
            if stopping.is_set():
                break
            child = await _start(command)
        await child.wait()


async def _start(command: list[str]) -> Process:
    return await asyncio.create_subprocess_exec(*tied_to_parent(command, signal.SIGTERM), start_new_session=True)


def _signal(child: Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
