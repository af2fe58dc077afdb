"""The links of a cluster: they break and nothing is lost; they are lost when a process is, and only then."""

import asyncio

import pytest

from gatelink import CloseCode
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.links import GATEWAY, Link
from gatelink.cluster.registry import State
from gatelink.cluster.routes import Rules
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire.control import Features
from gatelink.wire.envelope import LinkReady
from gatelink.wire.frames import encode_frame
from gatelink.wire.keys import ClusterKey
from tests.e2e.cluster.support import LOBBY, Ask, Recorder, between, cluster, gateway_and_lobby, player
from tests.e2e.support import until
from tests.fakes import extension_of


async def test_of_two_servers_the_one_with_the_lower_id_dials() -> None:
    async with cluster() as town:
        gateway, low, high = await town.gateway(10), await town.lobby(5), await town.room(30)
        assert [session.uid for session in gateway.links] == [5], "the server that dialled the gateway"
        assert sorted(session.uid for session in high.links) == [5, 10]
        assert not len(low.links) and len(low.cluster.links) == 2


async def test_gateways_are_linked_and_give_each_other_no_players() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20)
        assert [link.id for link in one.cluster.links] == [2, 20]
        assert [session.uid for session in two.links] == [1], "the lower id dials"
        async with player(one, 7) as client:
            await client.ask(1)
            assert lobby.player(7).bind(GATEWAY, 2), "which is up"
            await until(lambda: GATEWAY in one.router.waiting)
            await client.ask(2)
        for gateway in (one, two):
            assert gateway.router.stats.malformed == 0 and not len(gateway.router.players)


async def test_a_gateway_that_knows_no_such_links_is_left_in_peace() -> None:
    """Such a gateway accepts the link, dials none, and would count what it does not know as malformed."""
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        for here, there in ((one, 2), (two, 1)):
            link = here.cluster.links.get(there)
            assert link is not None and link.takes_reports
            extension_of(link.session).features &= ~Features.LINK_REPORTS
        link = two.cluster.links.get(1)
        assert link is not None
        link.send_event(LinkReady())  # as its links do
        one.arbiter._send_newer_login(2, 7, 0, 1)
        async with player(two, 7) as older, player(one, 7) as newer:
            await until(lambda: older.session.close_code is CloseCode.REPLACED)
            assert newer.session.close_code is None
        assert one.router.stats.malformed == two.router.stats.malformed == 0


async def test_nothing_is_lost_doubled_or_reordered_over_many_breaks_of_a_link() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = Recorder("lobby", LOBBY, member=town.member(20))
        async with between(lobby) as proxy:
            await town.start(lobby)
            async with player(gateway, 7) as client, player(gateway, 8) as other:
                sent = 0
                for _ in range(15):
                    connections = proxy.connections
                    for _ in range(50):
                        client.say(sent)
                        other.session.send(Ask(sent))
                        sent += 1
                    await asyncio.sleep(0.002)
                    proxy.cut_all()
                    await until(lambda: proxy.connections > connections, "it is dialled again")  # noqa: B023 - awaited here
                await until(lambda: len(lobby.numbers(7)) == sent and len(other.heard) == sent)
                assert lobby.numbers(7) == other.heard == list(range(sent))
                assert (
                    not gateway.router.stats.lost and not lobby.players.strays and not gateway.router.stats.misdirected
                )
            assert proxy.connections > 15
            await town.kill(lobby)


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the lobby dials"])
async def test_a_server_that_stands_still_and_is_given_up_by_either_side_gets_everything_once(gateway_id: int) -> None:
    async with cluster() as town:
        gateway, lobby = await town.gateway(gateway_id), await town.lobby(20)
        async with player(gateway, 7) as client:
            await client.ask(1)
            ways = [gateway.cluster.links.get(20), lobby.cluster.links.get(gateway_id)]
            here, there = ways
            assert here is not None and there is not None
            there.session.pause(Pause.STOPPING)
            sent = 0
            for session in (here.session, there.session):
                assert session.extension is not None
                for _ in range(3):
                    client.say(sent)
                    sent += 1
                    await until(lambda: session.state is SessionState.OPEN)  # noqa: B023 - awaited here
                    tried = extension_of(session).attempt
                    session._drop_connection(CloseCode.HEARTBEAT_TIMEOUT, "silent")
                    await until(lambda: extension_of(session).attempt > tried)  # noqa: B023 - awaited here
            there.session.resume(Pause.STOPPING)
            await client.ask(2)
            assert lobby.numbers(7) == list(range(sent)) and not gateway.router.stats.lost
            assert ways == [gateway.cluster.links.get(20), lobby.cluster.links.get(gateway_id)]


async def test_a_player_that_comes_while_the_only_link_is_broken_waits_no_longer_than_that() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={LOBBY: Rules(hold_seconds=600)})
        lobby = Recorder("lobby", LOBBY, member=town.member(20), greet=False)
        async with between(lobby) as proxy:
            await town.start(lobby)
            link = gateway.cluster.links.get(20)
            assert link is not None
            proxy.refuse(600.0)
            proxy.cut_all()
            await until(lambda: link.session.state is SessionState.DETACHED)
            async with player(gateway, 7) as client:
                client.say(1)
                await until(lambda: gateway.router.waiting)
                proxy.refuse(0)  # from now on it refuses nobody
                await until(lambda: lobby.numbers(7) == [1], "it waits no longer than that")
            await town.kill(lobby)


async def test_a_service_that_greets_hears_of_logins_while_its_link_was_broken() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = Recorder("lobby", LOBBY, member=town.member(20))
        async with between(lobby) as proxy:
            await town.start(lobby)
            link = gateway.cluster.links.get(20)
            assert link is not None
            proxy.pause()
            proxy.cut_all()
            await until(lambda: link.session.state is SessionState.DETACHED)
            async with player(gateway, 7):
                proxy.resume()
                await until(lambda: lobby.of(7) == ["verified"])
                assert gateway.cluster.links.get(20) is link
            await town.kill(lobby)


async def test_a_dead_process_is_noticed_by_either_side_before_its_entry_expires() -> None:
    async with cluster() as town:
        gateway, low = await town.gateway(10), await town.lobby(5)
        await town.room(30)
        for server in (town.servers[2], low):
            id = server.cluster.me.id
            await town.kill(server)
            await until(lambda: gateway.cluster.links.get(id) is None)  # noqa: B023 - awaited here
            assert id in gateway.cluster.registry.servers, "its entry has not expired"


async def test_an_entry_that_vanishes_does_nothing_to_a_link_that_works() -> None:
    async with gateway_and_lobby() as (town, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        link = gateway.cluster.links.get(20)
        lobby.cluster.registry._is_replaced = True  # it does not write it again
        await town.engine.delete("servers.20")
        await until(lambda: 20 not in gateway.cluster.registry.servers)
        await client.ask(2)
        assert gateway.cluster.links.get(20) is link and lobby.of(7) == ["verified"]
        lobby.cluster.registry._is_replaced = False
        await lobby.cluster.registry.set_state(State.UP)
        await until(lambda: 20 in gateway.cluster.registry.servers)
        await client.ask(3)
        assert gateway.cluster.links.get(20) is link


async def test_while_the_engine_is_away_everything_that_is_forwarded_goes_on() -> None:
    async with gateway_and_lobby() as (town, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        engine = town.engine
        assert isinstance(engine, MemoryEngine)
        users, engine._users = engine._users, 0
        for n in range(2, 100):
            client.say(n)
        await client.ask(100)
        engine._users = users
        assert lobby.numbers(7) == list(range(2, 100))


async def test_the_newer_server_of_an_id_replaces_the_older_which_stops() -> None:
    async with cluster() as town:
        gateway, older = await town.gateway(1), await town.lobby(20)
        async with player(gateway, 7) as client:
            await client.ask(1)
            newer = Recorder("lobby", LOBBY, member=town.member(20))
            await newer.start()
            await until(lambda: not older._running, "the older stops")
            town.servers[1] = newer
            await town.settled()
            client.say(2)
            await until(lambda: newer.numbers(7) == [2])
            assert gateway.cluster.registry.servers[20].instance == newer.cluster.me.instance
            link = gateway.cluster.links.get(20)
            assert link is not None and link.info.instance == newer.cluster.me.instance
            assert not gateway.router.stats.lost
            await newer.stop(0)


async def test_a_server_without_the_clusters_key_is_in_no_registry_and_never_linked() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        stranger = Recorder("lobby", LOBBY, member=town.member(20, keys=(ClusterKey.generate(),)))
        await stranger.start()
        await until(lambda: town.engine.stats.not_authentic["registry"] >= 2)
        assert list(gateway.cluster.registry.servers) == [1] and list(stranger.cluster.registry.servers) == [20]
        assert not len(gateway.cluster.links) and not len(stranger.cluster.links)
        await stranger.stop(0)


async def test_clusters_on_two_engines_do_not_see_each_other() -> None:
    async with cluster() as one, cluster() as two:
        gateway, _, lobby = await one.gateway(1), await two.gateway(2), await two.lobby(20)
        assert list(gateway.cluster.registry.servers) == [1] and not len(gateway.cluster.links)
        assert list(lobby.cluster.registry.servers) == [2, 20]


async def test_a_server_that_stops_is_lost_at_once_and_linked_again_when_it_is_back() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        await lobby.stop()
        await lobby.start()
        client.say(2)
        await until(lambda: lobby.numbers(7) == [2])
        assert not gateway.router.stats.lost


async def test_envelopes_that_are_none_are_dropped_and_counted_and_the_link_stays() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        here, there = gateway.cluster.links.get(20), lobby.cluster.links.get(1)
        assert isinstance(here, Link) and isinstance(there, Link)
        for id in range(100, 112):
            here.push(encode_frame(id, b"\xff\xff\xff"))
            there.push(encode_frame(id, b"\xff\xff\xff"))
        for id in (5, 24 + 1, 13_002, 60_000):  # posts that do not decode, or that nobody knows
            here.push(encode_frame(id, b"\xff"))
            there.push(encode_frame(id, b"\xff"))
        await client.ask(2)
        assert gateway.cluster.links.get(20) is here and here.session.state is SessionState.OPEN
        assert lobby.players.malformed >= 9 and gateway.router.stats.malformed >= 9
        assert (
            lobby.cluster_handlers.post_fallback.malformed_posts == 1
            and lobby.cluster_handlers.post_fallback.unhandled_posts >= 3
        )
        assert here.session.close_code is None and CloseCode.NORMAL
