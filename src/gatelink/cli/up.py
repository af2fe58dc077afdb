"""`gatelink up`: runs a whole group on this machine."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.member import ENGINE_URL, Dev

if TYPE_CHECKING:
    from gatelink.ops.supervisor import Program
    from gatelink.settings import Settings

FRONT, BACK = 1, 0
"""Stages: what players meet stops first, while the services behind it still answer."""

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow")


def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The group's configuration.", show_default=False)],
    dev: Dev = False,
) -> None:
    """Run a whole group on this machine: engine, login, gateways and services, as the configuration counts them.

    Their logs come in one stream, each line with its process's name. A process that crashes is started again, sooner
    the first time and later each time after. Ctrl-C drains all: gateways and login first, then the services, then the
    engine. Exit status: 0 it was told to stop, 2 a process can't run as configured.
    """
    from gatelink.ops.logs import configure
    from gatelink.settings import load
    from gatelink.settings.check import problems_with_secrets

    settings = load(file, dev=dev)
    configure(settings.logs.format, settings.logs.level)
    problems = problems_with_secrets(settings)  # also makes up those of --dev, before the children inherit them
    if problems:
        print("\n".join(problems), file=sys.stderr)
        sys.exit(2)
    sys.exit(asyncio.run(run(settings, file, dev)))


async def run(settings: "Settings", file: Path, dev: bool) -> int:
    """Until a signal, or a process that can't run; the exit status."""
    from gatelink.ops.supervisor import Supervisor

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if settings.engine.url == "embedded":
            environment[ENGINE_URL] = await _engine(settings, stack)
        found = programs(settings, file, dev)
        grace = 5.0 + max(settings.limits.close_timeout, settings.gateway.drain_seconds if settings.gateway else 0.0)
        unusable = await Supervisor(found, environment, writer([each.name for each in found]), grace).run(stop)
    return 2 if unusable else 0


async def _engine(settings: "Settings", stack: AsyncExitStack) -> str:
    """A nats-server that is this process's child while the stack is open, and started again if it dies; its URL."""
    from gatelink.group.engines.embedded import NatsServer

    server = NatsServer(settings.engine.data)
    await server.start()
    stack.push_async_callback(server.stop)
    watching = asyncio.create_task(_keep(server))
    stack.callback(watching.cancel)
    return server.url


async def _keep(server: "object") -> None:
    """Starts a nats-server again when it has died."""
    import structlog

    from gatelink.group.engines.embedded import NatsServer

    assert isinstance(server, NatsServer)
    log = structlog.get_logger("gatelink.up")
    while True:
        await asyncio.sleep(0.2)
        if not server.is_running:
            log.error("nats-server ended, and is started again")
            try:
                await server.start()
            except Exception as error:
                log.error("nats-server did not start", error=str(error))
                await asyncio.sleep(1.0)


def programs(settings: "Settings", file: Path, dev: bool) -> "list[Program]":
    """The processes of a group, but for its engine."""
    from gatelink.ops.supervisor import Program

    found: list[Program] = []

    def add(name: str, stage: int, *words: str) -> None:
        options = ["--config", str(file), *(["--dev"] if dev else [])]
        found.append(Program(name, (sys.executable, "-m", "gatelink", *words, *options), stage))

    for section, each in settings.services.items():
        for index in range(1, each.count + 1):
            add(f"{section}-{index}", BACK, "service", each.run, "--index", str(index))
    if settings.gateway is not None:
        for index in range(1, settings.gateway.count + 1):
            add(f"gateway-{index}", FRONT, "gateway", "--index", str(index))
    if settings.login is not None:
        add("login", FRONT, "login")
    return found


def writer(names: list[str]) -> Callable[[str, str], None]:
    """Writes lines to standard error, each with its process's name before it, in a colour of its own on a terminal."""
    width = max(map(len, names), default=0)
    styles = dict(zip(names, COLOURS * (len(names) // len(COLOURS) + 1), strict=False))

    def write(name: str, line: str) -> None:
        label = f"{name:<{width}} |"
        if sys.stderr.isatty():
            label = typer.style(label, fg=styles.get(name))
        print(label, line, file=sys.stderr, flush=True)

    return write
