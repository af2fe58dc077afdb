"""What becomes of players whose service or gateway dies, and what their next server is told."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gatelink import CloseCode, LocalError
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.session.outbox import SendWindow
from gatelink.session.stream import Pause
from gatelink.wire.envelope import MOVED, NEW, SERVER_DIED
from tests.e2e.cluster.support import LOBBY, ROOM, cluster, player, waiting
from tests.e2e.support import RawClient, until


@pytest.mark.parametrize("is_there", [True, False], ids=["another is there", "another comes"])
async def test_what_a_dead_service_did_not_acknowledge_is_counted_and_what_it_was_not_sent_goes_to_another(
    is_there: bool,
) -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await town.room(30)
        async with player(gateway, 7) as a, player(gateway, 8) as b:
            a.move(1)
            await until(lambda: one.numbers(7) == [1])
            if is_there:
                two = await town.room(31)
            link, back = gateway.cluster.links.get(30), one.cluster.links.get(1)
            assert link is not None and link.session._stream is not None and back is not None
            window = link.session.outbox
            assert isinstance(window, SendWindow)
            await until(lambda: not window.held_bytes, "all is acknowledged")
            back.session.pause(Pause.STOPPING)  # what comes now is sent, and never read
            a.move(2, 3)
            b.move(4)
            await until(lambda: waiting(link) == 3 and not window.count)
            link.session._stream.writable = False  # and this is not sent
            a.move(5, 6)
            b.move(7)
            await until(lambda: waiting(link) == 6)
            await town.kill(one)
            if not is_there:
                await until(lambda: len(gateway.router.waiting.get(ROOM, ())) == 2)
                assert all(session._paused & Pause.LINK for session in gateway.sessions)
                two = await town.room(31)
            await until(lambda: two.numbers(7) == [5, 6] and two.numbers(8) == [7])
            assert (two.player(7).arrival, two.player(7).lost_messages) == (SERVER_DIED, 2)
            assert (two.player(8).arrival, two.player(8).lost_messages) == (SERVER_DIED, 1)
            a.move(8)
            await until(lambda: two.numbers(7) == [5, 6, 8])
            assert gateway.router.stats.lost == {ROOM: 3} and gateway.router.stats.rebinds == 2
            assert link not in gateway.router.bound and not window.count


async def test_nothing_is_handled_twice_and_handled_plus_lost_is_what_was_sent() -> None:
    """Services die one after the other in the middle of traffic."""
    async with cluster() as town:
        gateway = await town.gateway(1)
        rooms = [await town.room(30 + n) for n in range(5)]
        async with player(gateway, 7) as client:
            sent = 0
            for room in rooms[:-1]:
                for _ in range(40):
                    client.move(*range(sent, sent + 5))
                    sent += 5
                    await asyncio.sleep(0.001)
                await town.kill(room)
                await until(lambda: gateway.cluster.links.get(room.cluster.me.id) is None)  # noqa: B023 - awaited here
            client.move(sent)
            await until(lambda: any(sent in room.numbers(7) for room in rooms))
            handled = [n for room in rooms for n in room.numbers(7)]
            assert len(handled) == len(set(handled)), "handled twice"
            lost = gateway.router.stats.lost[ROOM]
            # Messages handled and not yet acknowledged count as lost, too: never fewer than those that are missing.
            assert sent + 1 - len(handled) <= lost <= sent
            assert all(room.numbers(7) == sorted(room.numbers(7)) for room in rooms)


async def test_a_rule_can_close_the_sessions_of_a_dead_service() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={ROOM: Rules(on_death=OnDeath.CLOSE)})
        room, lobby = await town.room(30), await town.lobby(20)
        client = await RawClient.verified(gateway, 7)
        await until(lambda: len(room.players) == 1)
        session = gateway.sessions.get(7)
        await town.kill(room)
        await client.rest()
        assert session is not None and session.close_code is CloseCode.GOING_AWAY
        await client.close()
        await until(lambda: lobby.of(7) == ["verified", "closed"])


@pytest.mark.parametrize("back", [True, False])
async def test_a_rule_can_hold_players_for_the_same_server(back: bool) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={ROOM: Rules(on_death=OnDeath.HOLD, hold_seconds=30 if back else 1.0)})
        one, two = await town.room(30), await town.room(31)
        async with player(gateway, 7) as client:
            await until(lambda: len(one.players) == 1)
            await town.kill(one)
            await until(lambda: gateway.router.waiting)
            client.move(1)
            if back:
                again = await town.room(30)
                await until(lambda: again.numbers(7) == [1])
                assert again.player(7).arrival == SERVER_DIED and not len(two.players)
            else:
                await until(lambda: two.numbers(7) == [1])
                assert two.player(7).arrival == SERVER_DIED


async def test_a_player_whose_idle_service_died_is_read_on() -> None:
    """Only what it sends for that type has to wait."""
    async with cluster() as town:
        gateway, lobby, room = await town.gateway(1), await town.lobby(20), await town.room(30)
        async with player(gateway, 7) as client:
            await until(lambda: len(room.players) == 1)
            await town.kill(room)
            await until(lambda: gateway.router.waiting)
            await client.ask(1)
            assert len(gateway.router.waiting[ROOM]) == 1 and len(lobby.players) == 1


async def test_the_services_of_a_dead_gateway_hear_the_end_of_each_of_its_players() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(40)
        lobby = await town.lobby(20)
        clients = [await RawClient.verified(one, uid) for uid in range(50)]
        async with player(two, 1_000) as other:
            await until(lambda: len(lobby.players) == 51)
            await town.kill(one)
            await until(lambda: len(lobby.players) == 1)
            for uid in range(50):
                await until(lambda: lobby.of(uid) == ["verified", "closed"])  # noqa: B023 - awaited here
            await other.ask(1)
        for client in clients:
            await client.close()


async def test_a_bind_moves_a_player_without_loss() -> None:
    async with cluster() as town:
        gateway, one, two = await town.gateway(1), await town.room(30), await town.room(31)
        async with player(gateway, 7) as client:
            await until(lambda: len(one.players) == 1)
            rooms = {30: one, 31: two}
            for n in range(200):
                client.move(n)
                if n % 20 == 19:
                    await until(lambda: n in one.numbers(7) + two.numbers(7))  # noqa: B023 - awaited here
                    here = 30 if one.players.get(7) else 31
                    rooms[here].player(7).bind(ROOM, 61 - here)
                    client.move(1_000 + n)
            await until(lambda: len(one.numbers(7)) + len(two.numbers(7)) == 210)
            assert two.of(7)[:1] == ["verified"] and not gateway.router.stats.lost
            now = one.players.get(7) or two.players.get(7)
            assert now is not None and now.arrival == MOVED


async def test_a_bind_is_over_when_its_server_dies() -> None:
    async with cluster() as town:
        gateway, one, two = await town.gateway(1), await town.room(30), await town.room(31)
        async with player(gateway, 7) as client:
            await until(lambda: one.players.get(7) is not None)
            one.player(7).bind(ROOM, 31)
            await until(lambda: two.players.get(7) is not None)
            await town.kill(two)
            client.move(1)
            await until(lambda: one.numbers(7) == [1])
            assert gateway.router.stats.held == 0


async def test_a_bind_to_a_server_that_is_not_there_holds_and_then_any_other_will_do() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={ROOM: Rules(hold_seconds=1.0)})
        lobby, room = await town.lobby(20), await town.room(30, greet=False)
        async with player(gateway, 7) as client:
            await until(lambda: len(lobby.players) == 1)
            with capture_logs() as logs:
                assert lobby.player(7).bind(ROOM, 99) is False
            assert [(line["server"], line["uid"]) for line in logs] == [(99, 7)]
            await until(lambda: gateway.router.waiting)
            client.move(1, 2)
            assert not len(room.players)
            await until(lambda: room.numbers(7) == [1, 2])
            assert gateway.router.stats.missed_binds == 1, "another server got it, and that is told"
            assert lobby.player(7).bind(ROOM, 20) is False, "which is a lobby"
            lobby.player(7).bind(ROOM, 99)
            await until(lambda: gateway.router.waiting)
            client.move(3)
            await until(lambda: gateway.router.stats.held == 2 and any(_held(gateway)))
            assert lobby.player(7).bind(ROOM, 30)  # and what is held goes there at once
            await until(lambda: room.numbers(7)[-1:] == [3])
            assert not gateway.router.stats.lost and room.player(7).arrival in (NEW, MOVED)
            assert gateway.router.stats.missed_binds == 1 and lobby.player(7).bind(ROOM, 0)
            for type, server in ((0, 30), (256, 30), (ROOM, -1), (ROOM, 1 << 64)):
                with pytest.raises(LocalError, match="types are 1 to 255"):
                    lobby.player(7).bind(type, server)


def _held(gateway: Gateway) -> list[list[bytes]]:
    return [route.held for player in gateway.router for route in player.routes.values() if route.is_waiting]


async def test_a_service_that_drains_gives_its_players_away_and_nothing_is_lost() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        one = await town.room(30)
        clients = []
        async with player(gateway, 7) as a, player(gateway, 8) as b:
            clients = [a, b]
            await until(lambda: len(one.players) == 2)
            two = await town.room(31)
            stopping = None
            for n in range(1_000):
                for client in clients:
                    client.move(n)
                if n == 500:
                    stopping = asyncio.create_task(one.stop())
                if n % 20 == 0:
                    await asyncio.sleep(0.001)
            assert stopping is not None
            await stopping
            for uid in (7, 8):
                await until(lambda: len(one.numbers(uid) + two.numbers(uid)) == 1_000)  # noqa: B023 - awaited here
                assert one.numbers(uid) + two.numbers(uid) == list(range(1_000))
                assert one.of(uid)[-1] == "closed"
                assert two.player(uid).arrival == MOVED and two.player(uid).lost_messages == 0
            await until(lambda: gateway.cluster.links.get(30) is None)
            assert not gateway.router.stats.lost and not one.players.strays
            assert gateway.router.stats.rebinds == 2


async def test_a_gateway_that_stops_tells_its_services_the_end_of_its_players() -> None:
    async with cluster() as town:
        one = await town.gateway(1)
        lobby = await town.lobby(20)
        client = await RawClient.verified(one, 7)
        await until(lambda: len(lobby.players) == 1)
        await one.stop(1)
        town.servers.remove(one)
        await until(lambda: lobby.of(7) == ["verified", "closed"])
        await until(lambda: 1 not in lobby.cluster.registry.servers and not len(lobby.cluster.links))
        assert await one.cluster.find(7) is None
        await client.close()


async def test_a_service_stops_at_once_when_its_last_player_leaves_by_its_gateway_s_death() -> None:
    async with cluster() as town:
        one = await town.gateway(1)
        lobby = await town.lobby(20)
        client = await RawClient.verified(one, 7)
        await until(lambda: len(lobby.players) == 1)
        await town.kill(one)
        await lobby.stop(600)
        await client.close()
        assert LOBBY
