"""A server has started once it is a member of its cluster; one that is stopped before leaves nothing there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from gatelink import StaticTokens
from gatelink.cluster.engine import Revision
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import PREFIX
from tests.e2e.cluster.support import CATALOG, KEY, LOBBY, Recorder
from tests.e2e.support import TCP


class SlowEngine(MemoryEngine):
    """Takes a server's entry when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        self.asked.set()
        await self.go_on.wait()
        return await super().put(key, value, ttl)


def server(kind: str, engine: SlowEngine) -> Gateway | Recorder:
    member = Membership(engine=engine, keys=(KEY,), id=1)
    if kind == "gateway":
        return Gateway(TCP, member=member, tokens=StaticTokens(), catalog=CATALOG)
    return Recorder("lobby", LOBBY, member=member)


@asynccontextmanager
async def joining(kind: str) -> AsyncIterator[tuple[Gateway | Recorder, SlowEngine, asyncio.Task[None]]]:
    """A server that listens, and whose entry is on its way: with its engine, and its start."""
    async with SlowEngine() as engine:
        it = server(kind, engine)
        starting = asyncio.create_task(it.start())
        await engine.asked.wait()
        yield it, engine, starting


@pytest.mark.parametrize("kind", ["gateway", "service"])
async def test_a_server_says_that_it_has_started_once_the_cluster_knows_it(kind: str) -> None:
    with capture_logs() as said:
        async with joining(kind) as (it, engine, starting):
            assert it.endpoints and "started" not in [line["event"] for line in said]
            engine.go_on.set()
            await starting
            assert [line["event"] for line in said].count("started") == 1
            await it.stop(0)


@pytest.mark.parametrize("kind", ["gateway", "service"])
async def test_a_server_that_is_stopped_while_it_joins_leaves_nothing_in_the_cluster(kind: str) -> None:
    before = asyncio.all_tasks()
    async with joining(kind) as (it, engine, starting):
        await it.stop(0)
        engine.go_on.set()
        await starting
        assert not it.is_running and not it.endpoints
        async with engine.watch(PREFIX) as watch:
            assert not watch.entries
        assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("kind", ["gateway", "service"])
async def test_a_server_that_is_cancelled_while_it_joins_leaves_nothing_in_the_cluster(kind: str) -> None:
    before = asyncio.all_tasks()
    async with joining(kind) as (it, _, starting):
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled() and not it.is_running and not it.endpoints
        assert asyncio.all_tasks() <= before
