"""The arena's processes, which `gatelink up` runs, and those to kill."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from examples.demo import DemoError, reserved_ports
from gatelink.login.client import LoginClient, LoginFailed

ARENA = Path(__file__).resolve().parent
ROOT = ARENA.parents[1]
# s that the cluster may take until its login service answers and its servers are linked
STARTING = 60.0
ENDING = 30.0  # s that it may take to end
TELL_EVERY = 3.0  # s between two lines of progress
SERVERS = 6  # two gateways and four services
LINKS = SERVERS * (SERVERS - 1)  # ends of links: each server has one to each other

CONFIGURATION = """\
[engine]
data = "engine"

[accounts]
url = "sqlite:///accounts.db"
# Robots need no strong hashes; players do: leave this section out.
argon2 = {{ time_cost = 1, memory_kib = 1024, parallelism = 1 }}

[login]
listen = "http://127.0.0.1:{login}"
methods = ["password", "guest"]

[gateway]
count = 2
drain_seconds = 1
listen = ["tcp://127.0.0.1:{gateway}", "ws://127.0.0.1:{web}"]

[page]
folder = {folder}
listen = "http://127.0.0.1:{page}"

[services.lobby]
type = 41
run = "examples.arena.services:lobby"
count = 2

[services.room]
type = 42
run = "examples.arena.services:room"
count = 2

[limits]
heartbeat_interval = 2.0
heartbeat_timeout = 20.0
"""


class Addresses(NamedTuple):
    """URLs of a cluster."""

    login: str
    page: str


class Process(NamedTuple):
    """A process of the cluster."""

    pid: int
    cpu: float  # s of CPU time so far
    memory: int  # resident bytes


def running(up: int) -> dict[str, Process]:
    """The children of process `up`, by names as `room-1`, `login` and `nats-server`."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = folder.joinpath("stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) != up:
                continue
            name = _name(
                folder.joinpath("cmdline")
                .read_bytes()
                .decode(errors="replace")
                .split("\0")
            )
        except OSError:
            continue
        if name:
            cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            found[name] = Process(
                int(folder.name), cpu, int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
            )
    return found


def victim(kind: str, up: int) -> int:
    """The process id of one child of `gatelink up`."""
    name = kind if kind == "nats-server" else f"{kind}-1"
    process = running(up).get(name)
    if process is None:
        raise DemoError(f"no {name} runs below process {up}")
    return process.pid


def _name(words: list[str]) -> str:
    """The name of the process with this command line; "" if the cluster has none such."""
    if words[0].endswith("nats-server"):
        return "nats-server"
    if words[1:3] != ["-m", "gatelink"] or words[3] not in (
        "gateway",
        "service",
        "login",
    ):
        return ""
    kind = words[4].rpartition(":")[2] if words[3] == "service" else words[3]
    return f"{kind}-{words[words.index('--index') + 1]}" if "--index" in words else kind


@asynccontextmanager
async def cluster(
    folder: Path, say: Callable[[str], None], on_start: Callable[[int], None]
) -> AsyncIterator[Addresses]:
    """Run `gatelink up` during the block.

    say: shows a line of progress. on_start: gets the process id of `gatelink up`.
    """
    configuration = folder / "cluster.toml"
    with ExitStack() as held:
        login, page, gateway, web = (
            held.enter_context(reserved_ports(count)) for count in (1, 1, 2, 2)
        )
        log = held.enter_context(open(folder / "log", "w+"))  # noqa: ASYNC230
        ports = {"login": login, "page": page, "gateway": gateway, "web": web}
        configuration.write_text(
            CONFIGURATION.format(**ports, folder=json.dumps(str(ARENA / "web")))
        )
        up = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "gatelink",
                "up",
                str(configuration),
                "--dev",
                "--log-level",
                "debug",
            ),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            on_start(up.pid)
            await answering(login, up, folder / "log", say)
            yield Addresses(
                login=f"http://127.0.0.1:{login}", page=f"http://127.0.0.1:{page}/"
            )
        except BaseException:
            print((folder / "log").read_text()[-6_000:], file=sys.stderr)
            raise
        finally:
            await end(up)


async def answering(
    port: int, up: asyncio.subprocess.Process, log: Path, say: Callable[[str], None]
) -> None:
    """Wait until the login knows both gateways, and each gateway knows the services."""
    deadline = time.monotonic() + STARTING
    tell = time.monotonic() + TELL_EVERY
    async with LoginClient(f"http://127.0.0.1:{port}") as client:
        while time.monotonic() < deadline:
            if up.returncode is not None:
                raise DemoError(
                    f"`gatelink up` ended at once, with exit status {up.returncode}"
                )
            try:
                gateways = len(await client.servers())
            except LoginFailed:
                gateways = 0
            ends = links_in(log)
            if gateways == 2 and ends >= LINKS:
                return
            if time.monotonic() > tell:
                tell += TELL_EVERY
                say(
                    f"{gateways} of 2 gateways and "
                    f"{ends} of {LINKS} ends of links are there"
                )
            await asyncio.sleep(0.1)
    raise DemoError(f"the cluster was not ready within {STARTING:g} s")


async def end(up: asyncio.subprocess.Process) -> None:
    if up.returncode is None:
        up.terminate()
        try:
            async with asyncio.timeout(ENDING):
                await up.wait()
        except TimeoutError:
            up.kill()
            await up.wait()
            raise DemoError(f"`gatelink up` did not end within {ENDING:g} s") from None
    if up.returncode != 0:
        raise DemoError(f"`gatelink up` ended with exit status {up.returncode}")


def links_in(log: Path) -> int:
    """How many ends of links the log reports: `not linked` is an attempt that failed."""
    return len(re.findall("(?<!not )linked", log.read_text()))
