"""`gatelink up`: run a whole cluster on this machine."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink import tasks
from gatelink.cli.common import ENGINE_URL, Dev, url_file
from gatelink.ops import logs, process

if TYPE_CHECKING:
    from gatelink.cluster.engines.embedded import NatsServer
    from gatelink.ops.supervisor import Program
    from gatelink.settings import Settings

FRONT, BACK = 1, 0
"""Stages of stopping: FRONT, the gateways and the login, stops first, while the services in BACK still answer."""

SPARE = 5.0
"""Seconds added to the time that the settings give a process to end: for cancelled handlers, and a busy machine."""

ENGINE_END = 15.0
"""Seconds that the engine, and processes that had to be killed, may take to end once all other processes have."""

LONGEST_WAIT = 10.0
"""The longest time, in seconds, between two attempts to start a nats-server."""

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow")


def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's configuration.", show_default=False)],
    dev: Dev = False,
) -> None:
    """Run a whole cluster on this machine: engine, login, gateways and services.

    All logs are one stream, each line with the name of its process. A process that ends is started again, each time
    after a longer wait. Ctrl-C drains the gateways and the login first, then the services, and stops the engine last. A
    second Ctrl-C does not wait for players. Exit status: 0 after a signal to stop, 78 if a process can't run as
    configured.
    """
    from gatelink.ops.logs import configure
    from gatelink.settings import load, problems_with_ports, problems_with_secrets

    process.prepare()
    settings = load(file, dev=dev)
    configure(settings.logs.format, settings.logs.level)
    problems = problems_with_ports(settings, file, on_one_machine=True)
    problems += problems_with_secrets(settings, file)  # with --dev this also creates the missing secrets
    if problems:
        logs.say("\n".join(problems))
        sys.exit(os.EX_CONFIG)
    sys.exit(process.run(run(settings, file, dev)))


async def run(settings: "Settings", file: Path, dev: bool) -> int:
    """Run until a signal, or until a process can't run as configured. Returns the exit status."""
    from gatelink.errors import ConfigError
    from gatelink.ops.supervisor import Supervisor

    found = programs(settings, file, dev)
    if not found:
        raise ConfigError(f"{file} has no [login], [gateway] or [services.NAME], so there is nothing to run")
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    async with AsyncExitStack() as stack:
        if settings.engine.url == "embedded":
            environment[ENGINE_URL] = await _engine(settings, stack)
        supervisor = Supervisor(found, environment, writer([each.name for each in found]), grace(settings))

        def on_hangup() -> None:
            logs.reopen()
            supervisor.forward(signal.SIGHUP)

        calls = {signal.SIGINT: supervisor.stop, signal.SIGTERM: supervisor.stop, signal.SIGHUP: on_hangup}
        with process.signals(calls, at_once=lambda: process.stop_within(2 * grace(settings), ENGINE_END)):
            misconfigured = await supervisor.run()
    if misconfigured is None:
        return 0
    cause = supervisor.cause.removeprefix("gatelink: ") or "it said nothing"
    logs.say(f"gatelink: {misconfigured} can't run as it is configured: {cause}")
    return os.EX_CONFIG


def grace(settings: "Settings") -> float:
    """Seconds that the slowest process may take to end: a gateway that drains, then closes."""
    drain = settings.gateway.drain_seconds if settings.gateway is not None else 0.0
    return drain + settings.limits.close_timeout + SPARE


async def _engine(settings: "Settings", stack: AsyncExitStack) -> str:
    """Run a nats-server as a child until the stack closes, and start it again when it dies. Returns its URL.

    The URL, which has the password, is also written to a file, for other commands of this user such as `gatelink top`.
    """
    from gatelink.cluster.engines.embedded import NatsServer

    server = NatsServer(settings.engine.data)
    await server.start()
    stack.push_async_callback(server.stop)
    file = url_file(settings)
    _write_private(file, server.url)
    stack.callback(file.unlink, missing_ok=True)
    watching = tasks.live(partial(_keep, server), "keeping the engine")
    stack.callback(watching.cancel)
    return server.url


def _write_private(path: Path, url: str) -> None:
    """Write a file that only this user may read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(url)


async def _keep(server: "NatsServer") -> None:
    """Start a nats-server again whenever it has died."""
    from gatelink.errors import GatelinkError
    from gatelink.logger import Logger

    log = Logger("gatelink.up")
    wait = 0.2
    while True:
        await _end_of(server)
        log.error("nats-server ended, and is started again")
        try:
            await server.start()
            wait = 0.2
        except (GatelinkError, OSError) as error:
            log.error("nats-server did not start", error=str(error), seconds=wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def _end_of(server: "NatsServer") -> None:
    """Wait until the nats-server has ended."""
    if not server.is_running:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(server.pid)  # readable once the process has ended
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    assert not server.is_running


def programs(settings: "Settings", file: Path, dev: bool) -> "list[Program]":
    """The processes of a cluster, without its engine."""
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
    """Return a function that writes the name of a process and a line to standard error; in colour on a terminal."""
    width = max(map(len, names), default=0)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    styles = dict(zip(names, COLOURS * (len(names) // len(COLOURS) + 1), strict=False))

    def write(name: str, line: str) -> None:
        label = f"{name:<{width}} |"
        if is_terminal:
            label = typer.style(label, fg=styles.get(name))
        logs.write(f"{label} {line}")

    return write
