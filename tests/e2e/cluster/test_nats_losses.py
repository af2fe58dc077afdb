"""Gateways and services on a NATS cluster of three: its leader dies, one node is cut off. Sessions do not notice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gatelink import CloseCode, ConnectError, Gateway
from gatelink.cluster.engines.nats import NatsEngine
from tests.e2e import test_isolated_node as isolated
from tests.e2e.cluster.support import Client, Recorder, Town, player
from tests.e2e.engines import fresh_bucket
from tests.e2e.support import until
from tests.e2e.test_nats_cluster import STARTING, leader, started
from tests.e2e.test_nats_cluster import cluster as three_nodes
from tests.support import MS

TIMEOUT = 5_000 * MS
USERS = range(1, 13)


@asynccontextmanager
async def town_on(
    engines: Sequence[NatsEngine],
) -> AsyncIterator[tuple[Gateway, Gateway, list[Recorder], dict[int, Client]]]:
    """Gateways 1 and 2 and lobbies 20 and 21, each on one of the engines, and a user on gateway 1 for each of USERS."""
    async with AsyncExitStack() as stack:
        town = Town(engines[3], stack)
        one, two = [await town.gateway(id, member={"engine": engines[id - 1]}) for id in (1, 2)]
        lobbies = [
            await town.start(Recorder("lobby", 12, member=town.member(id, engine=engines[id - 18]))) for id in (20, 21)
        ]
        players = {uid: await stack.enter_async_context(player(one, uid)) for uid in USERS}
        yield one, two, lobbies, players


async def are_untouched(players: dict[int, Client], n: int) -> None:
    for client in players.values():
        await client.ask(n)
        assert client.session.close_code is None


async def log_in_elsewhere(gateway: Gateway, before: Gateway, players: dict[int, Client], n: int) -> None:
    """Each user logs in there, as often as it takes; then it has that session alone."""
    async with AsyncExitStack() as stack:
        for uid, older in players.items():
            newer = await logged_in(stack, gateway, uid)
            await until(lambda: older.session.close_code is CloseCode.REPLACED)  # noqa: B023
            assert before.sessions.get(uid) is None
            await newer.ask(n)


async def logged_in(stack: AsyncExitStack, gateway: Gateway, uid: int) -> Client:
    async with asyncio.timeout(STARTING):
        while True:
            try:
                return await stack.enter_async_context(player(gateway, uid))
            except ConnectError:  # while the engine is away
                await asyncio.sleep(0.1)


async def test_sessions_outlive_the_leader_of_nats_and_then_each_user_has_one(tmp_path: Path) -> None:
    bucket = fresh_bucket()
    async with three_nodes(tmp_path) as nodes, AsyncExitStack() as stack:
        urls = [node.url for node in nodes.values()]
        engines = [NatsEngine(urls, bucket=bucket, timeout=TIMEOUT, replicas=3) for _ in range(4)]
        for engine in engines:
            await started(engine)
            stack.push_async_callback(engine.close)
        async with town_on(engines) as (one, two, lobbies, players):
            await are_untouched(players, 1)
            lost = await leader(engines[0], bucket)
            await nodes[lost].kill()
            await are_untouched(players, 2)
            await until(lambda: not one.trouble and not two.trouble)
            await are_untouched(players, 3)
            await log_in_elsewhere(two, one, players, 4)


@pytest.mark.parametrize("cut_off", ["the older login's gateway", "the newer login's gateway"])
async def test_a_node_of_nats_that_is_cut_off_ends_no_session_and_leaves_no_user_two(
    tmp_path: Path, cut_off: str
) -> None:
    bucket = fresh_bucket()
    async with isolated.cluster(tmp_path) as nats, AsyncExitStack() as stack:
        first = NatsEngine(nats.urls, bucket=bucket, timeout=TIMEOUT, replicas=3)
        await started(first)
        await first.close()
        at = [isolated.CUT, 0] if cut_off == "the older login's gateway" else [0, isolated.CUT]
        engines = []
        for node in (*at, 0, isolated.CUT):
            engines.append(await isolated.at(nats, node, bucket))
            stack.push_async_callback(engines[-1].close)
        async with town_on(engines) as (one, two, lobbies, players):
            await are_untouched(players, 1)
            nats.cut()
            await are_untouched(players, 2)
            await log_in_elsewhere(two, one, players, 3)
            nats.heal()
            await until(lambda: not one.trouble and not two.trouble)
            assert not any(one.sessions.of(uid) for uid in USERS)
