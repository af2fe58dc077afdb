"""The arena's processes, which `gatelink up` runs, and those to kill."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from examples.demo import DemoError, reserved_ports
from gatelink.login.client import LoginClient, LoginFailed

ROOT = Path(__file__).resolve().parents[2]
STARTING = 60.0  # s that the cluster may take until its login service answers and its servers are linked
ENDING = 30.0  # s that it may take to end
TELL_EVERY = 3.0  # s between two lines of progress
LINKS = 28  # ends of the 14 links among two gateways and four services; the gateways have none between them

CONFIGURATION = """\
[engine]
data = "engine"

[accounts]
url = "sqlite:///accounts.db"
# Robots need no strong hashes; players do: leave this section out.
argon2 = {{ time_cost = 1, memory_kib = 1024, parallelism = 1 }}

[login]
listen = "http://127.0.0.1:{login}"
methods = ["password"]

[gateway]
listen = ["tcp://127.0.0.1:{gateway}"]
count = 2
drain_seconds = 1

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


def victim(kind: str, up: int) -> int:
    """The process id of one child of `gatelink up`."""
    marks = {
        "room": "examples.arena.services:room --index 1",
        "lobby": "examples.arena.services:lobby --index 1",
        "gateway": "gateway --index 1",
        "nats-server": "nats-server",
    }
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = folder.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == up and marks[kind] in words and " -c import" not in words:
                return int(folder.name)
    raise DemoError(f"no {kind} runs below process {up}")


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """Run `gatelink up` during the block. Gives the URL of its login service, and its process id."""
    configuration = folder / "cluster.toml"
    with reserved_ports() as login, reserved_ports(2) as gateway, open(folder / "log", "w+") as log:  # noqa: ASYNC230
        configuration.write_text(CONFIGURATION.format(login=login, gateway=gateway))
        up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatelink", "up", str(configuration), "--dev"),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            await answering(login, up, folder / "log")
            yield f"http://127.0.0.1:{login}", up.pid
        except BaseException:
            print((folder / "log").read_text()[-6_000:], file=sys.stderr)
            raise
        finally:
            await end(up)


async def answering(port: int, up: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the login service knows both gateways, and each gateway knows the services."""
    deadline = time.monotonic() + STARTING
    tell = time.monotonic() + TELL_EVERY
    async with LoginClient(f"http://127.0.0.1:{port}") as client:
        while time.monotonic() < deadline:
            if up.returncode is not None:
                raise DemoError(f"`gatelink up` ended at once, with exit status {up.returncode}")
            try:
                gateways = len(await client.servers())
            except LoginFailed:
                gateways = 0
            ends = _count(log, "linked")
            if gateways == 2 and ends >= LINKS:
                return
            if time.monotonic() > tell:
                tell += TELL_EVERY
                print(f"arena: {gateways} of 2 gateways and {ends} of {LINKS} ends of links are there", flush=True)
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


def _count(file: Path, word: str) -> int:
    return file.read_text().count(word)
