"""Draining a gateway: the cluster sends nobody there, and its players go to another while it still serves them."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gatelink import Backoff, ConnectError, Session, SessionClosed
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.registry import State
from gatelink.net.frontend import LEAST_GRACE
from gatelink.tasks import cancel_and_wait
from tests.e2e.cluster.support import Ask, Post, Say, cluster, gateway_and_lobby, log_in, player
from tests.e2e.engines import fresh_bucket, path_to, within
from tests.e2e.support import leave, until


async def test_players_of_a_gateway_that_drains_are_sent_to_another_one() -> None:
    async with cluster() as town:
        one = await town.gateway(1, drain_seconds=5.0)
        two = await town.gateway(2)
        lobby = await town.lobby(20)
        await until(lambda: len(one.cluster.registry.servers) == 3 and len(two.cluster.registry.servers) == 3)
        session = await log_in(one, 7, slot=0, reconnect=Backoff(first=0.01))
        base = await log_in(one, 8, base_protocol=True)
        stopping = asyncio.create_task(one.stop())
        await until(lambda: two.cluster.registry.servers[1].state is State.DRAINING)
        await until(lambda: two.sessions.get(7) is not None)
        assert one.sessions.get(8) is not None, "a client that can't be asked to leave stays until the end"
        with pytest.raises(ConnectError):
            await log_in(one, 9)
        await leave(base)
        await stopping
        assert session.close_code is None
        await until(lambda: lobby.players.get(7) is not None and lobby.player(7).gateway == 2)
        await leave(session)


async def test_the_last_gateway_drains_without_an_address_and_ends_within_its_time() -> None:
    async with cluster() as town:
        only = await town.gateway(1, drain_seconds=0.5)
        session = await log_in(only, 7)
        async with asyncio.timeout(30):
            await only.stop()
            await session.wait_closed()
        assert not only.is_running


async def test_a_handler_that_is_still_at_it_when_its_player_is_given_away_answers_all_the_same() -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await town.lobby(20)
        through = asyncio.Event()
        seen: list[Session] = []

        @one.instead(Ask)
        async def ask(session: Session, message: Ask) -> None:
            seen.append(session)
            await through.wait()
            session.send(message)

        async with player(gateway, 7) as client, player(gateway, 8) as kicked:
            client.session.send(Ask(1))
            kicked.session.send(Ask(2))
            await until(lambda: len(seen) == 2)
            one.player(8).kick()
            two = await town.lobby(21)
            stopping = asyncio.create_task(one.stop())
            await until(lambda: two.players.get(7) is not None and one.players.get(7) is None)
            through.set()
            await until(lambda: client.heard == [1])
            await client.ask(3)
            await stopping
            assert kicked.heard == []
            with pytest.raises(SessionClosed):  # it has no handler here any more
                seen[0].send(Ask(4))


async def test_what_a_handler_says_of_a_player_that_was_given_away_meanwhile_holds_at_the_gateway() -> None:
    """It joins it to a group, then another handler ends it; the service that has it now hears the end."""
    async with cluster() as town:
        gateway, one = await town.gateway(1), await town.lobby(20)
        joins, ends = asyncio.Event(), asyncio.Event()

        @one.instead(Ask)
        async def ask(session: Session, message: Ask) -> None:
            await joins.wait()
            session.join("red")
            await ends.wait()
            session.kick("enough")

        async with player(gateway, 7) as client:
            client.session.send(Ask(1))
            await until(lambda: gateway.router.stats.forwarded == 1)
            two = await town.lobby(21)
            stopping = asyncio.create_task(one.stop())
            await until(lambda: two.players.get(7) is not None and one.players.get(7) is None)
            joins.set()
            await until(lambda: len(gateway.context.groups) == 1)
            assert not len(one.context.groups), "there it is nobody's any more"
            two.broadcast_to("red", Say(2))
            await until(lambda: client.heard == [2])
            ends.set()
            await client.session.wait_closed()
            await until(lambda: two.of(7) == ["verified", "closed"])
            await stopping


async def test_a_server_that_stops_is_gone_from_the_registry_though_a_link_of_its_takes_nothing_more() -> None:
    async with cluster() as town:
        room, lobby = await town.room(30), await town.lobby(20)
        link = lobby.cluster.links.get(30)
        assert link is not None and link.session._stream is not None
        await until(lambda: not link.session.outbox.held_bytes, "all is acknowledged")
        link.session._stream.writable = False
        lobby.cluster.post(30, Post(1))
        with capture_logs() as logs:
            await lobby.stop(0)
        (lost,) = [entry for entry in logs if entry["event"] == "link closed" and entry["server"] == 30]
        assert lost["frames"] == 1, "the post"
        await until(lambda: 20 not in room.cluster.registry.servers)
        assert not lobby.is_running and not len(lobby.cluster.links)


async def test_a_gateway_leaves_the_cluster_though_one_of_its_tasks_takes_its_time_to_end() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        through = asyncio.Event()

        async def renew() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await through.wait()

        await cancel_and_wait(gateway.arbiter._renewing)
        gateway.arbiter._renewing = asyncio.create_task(renew())
        async with player(gateway, 7):
            pass
        await until(lambda: gateway.arbiter.directory._workers)
        await gateway.stop(0)
        assert not gateway.arbiter.directory._workers and gateway.cluster.registry._keeping is None
        through.set()
        await until(lambda: 1 not in lobby.cluster.registry.servers)


@pytest.mark.parametrize("grace", [LEAST_GRACE, 0], ids=["cut off where it waits", "cut off before it begins"])
async def test_what_stops_while_the_engine_is_silent_leaves_nothing_running(
    grace: float, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it wait for the engine; no task keeps its entry alive, by which it would be sent more players."""
    monkeypatch.setattr("gatelink.server.LEAST_GRACE", grace)
    async with path_to(nats_server) as path:
        engine = NatsEngine(within(nats_server.url, path), bucket=fresh_bucket(), timeout=600.0)
        async with gateway_and_lobby(engine) as (_, gateway, lobby):
            async with player(gateway, 7):
                await until(lambda: len(lobby.players) == 1)
            path.pause()
            with capture_logs() as logs:
                await gateway.stop(0)
                await lobby.stop(0)
            path.resume()
    assert [line["event"] for line in logs].count("on_stop failed") == 2, "it is cut off"
