"""Engines for tests: fixtures that give a real nats-server, and fresh engines of each kind.

`tests/e2e/conftest.py` has them for all tests here; elsewhere import the fixtures that a test module uses.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from gatelink.cluster.engine import Engine
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.testing import ChaosProxy

TIMEOUT = 10.0  # s that a call may take where a test does not ask how long; other tests need the processor too

NewEngine = Callable[[], Engine]
"""Makes an engine, not started. All that one of these makes are of the same cluster and see each other's keys."""


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A nats-server for all tests: make no trouble for it."""
    server = NatsServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


def fresh_bucket() -> str:
    return f"test-{secrets.token_hex(6)}"


def within(url: str, proxy: ChaosProxy) -> str:
    """`url` with the proxy's port: the same server, and a path to it that can be broken."""
    return f"{url.rpartition(':')[0]}:{proxy.address[1]}"


@asynccontextmanager
async def path_to(server: NatsServer) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(("127.0.0.1", int(server.url.rpartition(":")[2]))) as proxy:
        yield proxy


@pytest.fixture
def new_nats_engine(nats_server: NatsServer) -> Callable[[], NatsEngine]:
    """Engines on one fresh bucket of `nats_server`."""
    bucket = fresh_bucket()
    return lambda: NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT)


@pytest.fixture(params=["memory", "nats"])
def new_engine(request: pytest.FixtureRequest) -> NewEngine:
    """Engines of one fresh group: one in memory that all share, or several on NATS."""
    if request.param == "memory":
        engine = MemoryEngine()
        return lambda: engine
    made: Callable[[], NatsEngine] = request.getfixturevalue("new_nats_engine")
    return made
