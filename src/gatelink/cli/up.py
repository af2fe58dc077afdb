"""`gatelink up`: run a whole cluster on this machine."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink import tasks
from gatelink.cli import banner
from gatelink.cli.engine import ENGINE_URL, dev_secret_file, take_dev_secret, url_file
from gatelink.cli.options import ONE_PROCESS, Dev, LogLevel, Quiet
from gatelink.cli.running import prepared
from gatelink.errors import ConfigError, GatelinkError
from gatelink.logger import Logger
from gatelink.ops import logs, process, readiness, terminal
from gatelink.ops.logs import Level
from gatelink.ops.page import Page
from gatelink.settings.secret import DEV_SECRET

if TYPE_CHECKING:
    from gatelink.cluster.engines.embedded import NatsServer
    from gatelink.ops.supervisor import Program, Supervisor
    from gatelink.settings import Settings

FRONT, BACK = 1, 0
"""Stages of stopping: FRONT, the gateways and the login, stops first, while the services in BACK still answer."""

SPARE = 5.0
"""Seconds added to the time that the settings give a process to end: for cancelled handlers, and a busy machine."""

ENGINE_END = 15.0
"""Seconds that the engine, and processes that had to be killed, may take to end once all other processes have."""

SETTLING = 0.1
"""Seconds in which the lines are read that a process wrote before it said that it is ready."""

LONGEST_WAIT = 10.0
"""The longest time, in seconds, between two attempts to start a nats-server."""

log = Logger("gatelink.up")


def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's configuration.", show_default=False)],
    dev: Dev = False,
    log_level: LogLevel = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole cluster on this machine: engine, login, gateways and services; with --dev also the page of `[page]`.

    All logs are one stream, each line with the name of its process. When all processes are ready, it says where to
    play, log in and connect. A process that ends is started again, each time after a longer wait. Ctrl-C drains the
    gateways and the login first, then the services, and stops the engine last. A second Ctrl-C does not wait for
    players. Exit status: 0 after a signal to stop, 78 if a process can't run as configured.
    """
    from gatelink.settings import problems_with_ports, problems_with_secrets

    level: Level | None = "warning" if quiet else log_level
    settings = prepared(file, dev, level)
    if dev and settings.engine.url == "embedded":
        # With other secrets, what the engine has kept of the run before would not be authentic.
        if take_dev_secret(settings):
            log.warning("--dev: secrets are made up, as in the run before", file=str(dev_secret_file(settings)))
    problems = problems_with_ports(settings, file, on_one_machine=True)
    problems += problems_with_secrets(settings, file)  # with --dev this also creates the missing secrets
    if problems:
        logs.say("\n".join(problems))
        sys.exit(os.EX_CONFIG)
    sys.exit(process.run(run(settings, file, dev, level)))


async def run(settings: "Settings", file: Path, dev: bool, level: Level | None) -> int:
    """Run until a signal, or until a process can't run as configured. Returns the exit status.

    level: of all logs, instead of the configuration's.
    """
    from gatelink.ops.supervisor import Supervisor

    environment = {name: value for name, value in os.environ.items() if name not in ONE_PROCESS}
    environment["PYTHONUNBUFFERED"] = "1"
    if terminal.is_terminal():
        environment[terminal.UNDER_UP] = "1"
    options = ["--config", str(file), *(["--dev"] if dev else []), *(["--log-level", level] if level else [])]
    async with AsyncExitStack() as stack:
        page = None
        if dev and settings.page is not None:
            page = await stack.enter_async_context(Page(settings.page.folder, settings.page.listen))
        start = Start(f"gatelink top --config {shlex.quote(str(file))}{' --dev' if dev else ''}", page)
        environment[readiness.SOCKET] = stack.enter_context(readiness.receiving(start.on_ready))
        if settings.engine.url == "embedded":
            environment[ENGINE_URL] = await _engine(settings, stack)
            if dev and DEV_SECRET in os.environ:
                _write(dev_secret_file(settings), os.environ[DEV_SECRET])
        found = programs(settings, environment, options)
        if not found:
            raise ConfigError(f"{file} has no [login], [gateway] or [services.NAME], so there is nothing to run")
        labels = Labels([each.name for each in found])
        logs.configure(settings.logs.format, level or settings.logs.level, labels.of("up"))
        supervisor = Supervisor(found, environment, labels.write, grace(settings))
        start.wait_for([each.name for each in found], supervisor)

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
    path = url_file(settings)
    _write(path, server.url)
    stack.callback(path.unlink, missing_ok=True)
    watching = tasks.live(partial(_keep, server), "keeping the engine")
    stack.callback(watching.cancel)
    return server.url


def _write(path: Path, text: str) -> None:
    """Write a file that only this user may read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)


async def _keep(server: "NatsServer") -> None:
    """Start a nats-server again whenever it has died."""
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


def programs(settings: "Settings", environment: dict[str, str], options: list[str]) -> "list[Program]":
    """The processes of a cluster, without its engine.

    environment: of those that have the cluster key. options: of each command.
    """
    from gatelink.ops.supervisor import Program
    from gatelink.settings import environment_of_login

    found: list[Program] = []

    def add(name: str, stage: int, *words: str, own: dict[str, str] | None = None) -> None:
        command = (sys.executable, "-m", "gatelink", *words, *options)
        found.append(Program(name, command, stage, tuple(own.items()) if own is not None else None))

    for section, each in settings.services.items():
        for index in range(1, each.count + 1):
            add(f"{section}-{index}", BACK, "service", each.run, "--index", str(index))
    if settings.gateway is not None:
        for index in range(1, settings.gateway.count + 1):
            add(f"gateway-{index}", FRONT, "gateway", "--index", str(index))
    if settings.login is not None:
        add("login", FRONT, "login", own=environment_of_login(settings, environment))
    return found


class Start:
    """The start of a cluster: when all its processes have said that they are ready, it says so once.

    watch: the command that shows the cluster. page: gets the login's URL, once that is known.
    """

    def __init__(self, watch: str, page: Page | None) -> None:
        self._watch = watch
        self._page = page
        self._facts: dict[str, Mapping[str, str] | None] = {}
        self._supervisor: Supervisor

    def wait_for(self, names: Sequence[str], supervisor: "Supervisor") -> None:
        """names: of the supervisor's programs, none of which has been started yet."""
        self._facts = dict.fromkeys(names)
        self._supervisor = supervisor

    def on_ready(self, pid: int, facts: Mapping[str, str]) -> None:
        """Take what the process has told."""
        for name in [each for each, told in self._facts.items() if told is None]:
            if self._supervisor.pid(name) == pid:
                self._facts[name] = facts
                if None not in self._facts.values():
                    asyncio.get_running_loop().call_later(SETTLING, self._say)

    def _say(self) -> None:
        told = [facts for facts in self._facts.values() if facts is not None]
        login = next((facts["login"] for facts in told if "login" in facts), "")
        connect = [address for facts in told for address in facts.get("connect", "").split()]
        admin = [facts["admin"] for facts in told if facts.get("admin")]
        page = ""
        if self._page is not None:
            self._page.tell(login)
            page = self._page.url
        if terminal.is_terminal():
            banner.show(page=page, login=login, connect=connect, admin=admin, watch=self._watch)
        else:
            log.info("ready", **({"page": page} if page else {}), login=login, connect=connect, admin=admin)
        readiness.tell()


class Labels:
    """The names of processes before their lines, on standard error; in colour on a terminal."""

    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, names), default=0)
        self._colours = {name: terminal.name_colour(index) for index, name in enumerate(names)}

    def of(self, name: str) -> str:
        """What is written before a line of `name`."""
        label = f"{name:<{self._width}} |"
        return (terminal.coloured(label, self._colours.get(name, "1")) if terminal.is_terminal() else label) + " "

    def write(self, name: str, line: str) -> None:
        """Write a line of a process."""
        logs.write(self.of(name) + line)
