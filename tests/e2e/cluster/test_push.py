"""A message to a user by uid, from a service that need not know the user; and the same call on one server."""

import pytest

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from tests.e2e.cluster.support import Say, cluster, gateway_and_lobby, player
from tests.e2e.engines import NewEngine
from tests.e2e.support import Echo, EchoServer, RawClient, until


async def test_a_service_reaches_a_user_at_whatever_gateway_whether_it_knows_the_user_or_not(
    new_engine: NewEngine,
) -> None:
    async with cluster(new_engine()) as town:
        one, two = await town.gateway(1), await town.gateway(40)
        lobby = await town.lobby(20, greet=False)
        push = lobby.sessions.push
        async with player(one, 7) as first, player(two, 8) as other:
            assert await push(7, Say(1)) and await push(8, Say(2))
            await until(lambda: first.heard == [1] and other.heard == [2])
            assert not len(lobby.players)
            assert not await push(9, Say(3)) and not await push(7, Say(3), slot=1)
            async with player(two, 7) as again:
                assert await push(7, Say(4))
                await until(lambda: again.heard == [4])
            assert first.heard == [1], "a newer login has taken its place"
            await other.ask(5)
            assert lobby.players.get(8) is not None and await push(8, Say(6))
            await until(lambda: other.heard[-1:] == [6])
            assert (await lobby.cluster.find(8)) == (await two.cluster.find(8))
            lobby.player(8).kick()
            await other.session.wait_closed()
            assert not one.router.stats.misdirected and not two.router.stats.misdirected


async def test_a_user_whose_connection_broke_is_not_there_though_it_is_waited_for(new_engine: NewEngine) -> None:
    async with gateway_and_lobby(new_engine()) as (_, gateway, lobby):
        async with player(gateway, 7) as client:
            await until(lambda: len(lobby.players) == 1)
            client.session.abort()
        await until(lambda: lobby.players.get(7) is None)
        await gateway.arbiter.directory._ends.join()
        assert gateway.sessions._backlogs
        assert await lobby.cluster.find(7) is None
        assert not await lobby.sessions.push(7, Say(2)) and not gateway.router.stats.misdirected


async def test_without_an_engine_only_players_of_the_service_are_reached() -> None:
    async with cluster() as town:
        gateway, lobby = await town.gateway(1), await town.lobby(20, greet=False)
        async with player(gateway, 7) as known, player(gateway, 8):
            await known.ask(1)
            engine = town.engine
            assert isinstance(engine, MemoryEngine)
            users, engine._users = engine._users, 0
            assert await lobby.sessions.push(7, Say(2))
            with pytest.raises(EngineUnavailable):
                await lobby.sessions.push(8, Say(2))
            engine._users = users
            await until(lambda: known.heard == [1, 2])


async def test_on_one_server_it_is_the_same_call() -> None:
    async with EchoServer() as server:
        client = await RawClient.verified(server, 7)
        assert await server.sessions.push(7, Echo(1)) and not await server.sessions.push(8, Echo(1))
        assert await client.message() == Echo(1)
        await client.close()
        await until(lambda: server.sessions.get(7) is None)
        assert not await server.sessions.push(7, Echo(2))
