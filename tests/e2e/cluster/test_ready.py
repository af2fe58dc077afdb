"""A login sends players only to gateways of the cluster that can serve them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine_keys import LoginKey
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.registry import STALE, Registry, ServerInfo
from gatelink.cluster.routes import OnDeath, Routes, Rules
from gatelink.login.gateways import NoGateway, RegistryGateways
from gatelink.testing import FakeClock
from gatelink.wire.keys import ClusterKey
from tests.e2e.cluster.support import KEY, LOBBY, ROOM, Town, cluster
from tests.e2e.support import until


@asynccontextmanager
async def login(town: Town, key: ClusterKey = KEY) -> AsyncIterator[RegistryGateways]:
    """The gateways as a login service with that cluster's login key sees them."""
    engine = AuthenticEngine(town.engine, [LoginKey.of(key).engine_key])
    registry = Registry(engine)
    await registry.start()
    try:
        yield RegistryGateways(registry, engine.now)
    finally:
        await registry.close()


def chosen(gateways: RegistryGateways) -> int | None:
    """The gateway that a player is sent to; None if there is none."""
    try:
        return gateways.choose(7).id
    except NoGateway:
        return None


def lacks(gateway: Gateway) -> object:
    return gateway.cluster.me.lacks


async def test_a_gateway_gets_players_while_it_has_a_link_to_each_type_that_its_routes_need() -> None:
    rules = {LOBBY: Rules(), 14: Rules(on_death=OnDeath.DROP)}
    async with cluster() as town, login(town) as gateways:
        gateway = await town.gateway(1, rules=rules, routes=Routes({"15000-15999": ROOM}))
        await until(lambda: len(gateways.all()) == 1)
        assert lacks(gateway) == (LOBBY, ROOM)
        with pytest.raises(NoGateway, match="no link to a server of type 12, 13"):
            gateways.choose(7)
        lobby = await town.lobby(20)
        await until(lambda: lacks(gateway) == (ROOM,))
        assert chosen(gateways) is None
        await town.room(30)
        await until(lambda: chosen(gateways) == 1)
        second = await town.lobby(21)
        await town.kill(lobby)
        assert chosen(gateways) == 1, "another lobby is linked"
        await second.stop()
        await until(lambda: chosen(gateways) is None)
        assert lacks(gateway) == (LOBBY,)


async def test_a_gateway_without_routes_needs_no_service() -> None:
    async with cluster() as town, login(town) as gateways:
        await town.gateway(1)
        await until(lambda: chosen(gateways) == 1)


async def test_a_server_without_the_cluster_key_gets_no_player_whatever_it_writes() -> None:
    async with cluster() as town, login(town) as gateways:
        await town.gateway(2)
        await until(lambda: chosen(gateways) == 2)
        for engine in (town.engine, town.member(1, keys=[ClusterKey.generate()]).authentic_engine):
            stranger = Registry(engine)
            await stranger.register(ServerInfo(id=1, type=1, name="gateway", outer=("tcp://evil.example.com:1",)))
            await until(lambda: town.engine.stats.not_authentic["registry"] > 0)
            assert [each.id for each in gateways.all()] == [2] and chosen(gateways) == 2
            await stranger.close()
            town.engine.stats.not_authentic.clear()


async def test_an_entry_that_somebody_keeps_alive_gets_no_player() -> None:
    """The last entry of a gateway that is dead, written again with a long life."""
    async with cluster() as town:
        clock = FakeClock(1_000.0)
        engine = town.member(1).authentic_engine
        info = ServerInfo(id=1, type=1, name="gateway", outer=("tcp://10.0.0.1:7000",), updated_at=clock())
        await engine.put("servers.1", msgspec.msgpack.encode(info), 3_600)
        registry = Registry(engine)
        await registry.start()
        gateways = RegistryGateways(registry, clock)
        assert chosen(gateways) == 1
        clock.advance(STALE)
        assert chosen(gateways) is None and [each.open for each in gateways.all()] == [False]
        await registry.close()
