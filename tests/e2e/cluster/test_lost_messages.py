"""Messages that a service had not handled when it died are counted, and the next service is told."""

import asyncio
from typing import Any

import pytest

from gatelink.cluster.player import Player
from gatelink.session.states import SessionState
from gatelink.wire.control import Features
from gatelink.wire.envelope import SERVER_DIED
from tests.e2e.cluster.support import ROOM, Move, Recorder, Town, cluster, player, waiting
from tests.e2e.support import until
from tests.fakes import extension_of


class SlowRoom(Recorder):
    """Handles a Move when it is let to."""

    def __init__(self, **options: Any) -> None:
        super().__init__("room", ROOM, **options)
        self.turns = asyncio.Semaphore(0)
        self.done: list[int] = []

        @self.instead(Move)
        async def move(session: Player, message: Move) -> None:
            await self.turns.acquire()
            self.done.append(message.n)

    def let(self, count: int) -> None:
        for _ in range(count):
            self.turns.release()


async def slow_room(town: Town, id: int) -> SlowRoom:
    room = SlowRoom(member=town.member(id))
    await town.start(room)
    return room


@pytest.mark.parametrize("handled", [0, 1, 40, 199])
async def test_every_message_is_handled_or_counted_as_lost(handled: int) -> None:
    """The dead service had acknowledged all of them."""
    async with cluster() as town:
        gateway, one = await town.gateway(1), await slow_room(town, 30)
        async with player(gateway, 7) as client:
            client.move(*range(200))
            await until(lambda: one.players.get(7) is not None and one.player(7).taken == 200)
            one.let(handled)
            route = next(iter(gateway.router)).routes[ROOM]
            await until(lambda: route.unhandled == 200 - handled, "the gateway was told")
            link = gateway.cluster.links.get(30)
            assert link is not None
            await until(lambda: waiting(link) == 0, "all are acknowledged")
            two = await slow_room(town, 31)
            await town.kill(one)
            await until(lambda: two.players.get(7) is not None)
            assert two.player(7).arrival == SERVER_DIED and two.player(7).lost_messages == 200 - handled
            assert len(one.done) == handled and gateway.router.stats.lost == {ROOM: 200 - handled}
            two.let(1)
            client.move(999)
            await until(lambda: two.done == [999])


async def test_messages_that_were_not_sent_to_the_dead_service_go_to_the_next_and_are_not_lost() -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await slow_room(town, 30)
        async with player(gateway, 7) as client:
            client.move(1, 2, 3)
            await until(lambda: one.players.get(7) is not None and one.player(7).taken == 3)
            link = gateway.cluster.links.get(30)
            assert link is not None and link.session._stream is not None
            link.session._stream.writable = False
            client.move(4, 5)
            await until(lambda: waiting(link) >= 2)
            two = await slow_room(town, 31)
            two.let(2)
            await town.kill(one)
            await until(lambda: two.done == [4, 5])
            assert two.player(7).lost_messages == 3 and gateway.router.stats.lost == {ROOM: 3}


async def test_what_a_player_left_behind_at_a_service_is_counted_when_that_dies() -> None:
    """One player was bound to another service, and one has left."""
    async with cluster() as town:
        gateway, one = await town.gateway(1), await slow_room(town, 30)
        two = await slow_room(town, 31)
        async with player(gateway, 7) as client:
            async with player(gateway, 8) as other:
                await until(lambda: len(one.players) + len(two.players) == 2)
                for session in gateway.sessions:
                    gateway.router.players[session.epoch].to(ROOM).bind_to(30)
                await until(lambda: len(one.players) == 2)
                client.move(1, 2, 3)
                other.move(1, 2)
                await until(lambda: one.player(7).taken == 3 and one.player(8).taken == 2)
                one.player(7).bind(ROOM, 31)
                await until(lambda: two.players.get(7) is not None)
            await until(lambda: len(gateway.sessions) == 1)
            link = gateway.cluster.links.get(30)
            assert link is not None and sum(gateway.router.leaving[link].values()) == 5
            one.let(1)
            await until(lambda: sum(gateway.router.leaving[link].values()) == 4)
            await town.kill(one)
            await until(lambda: gateway.router.stats.lost == {ROOM: 4})
            assert not gateway.router.leaving and two.player(7).lost_messages == 0


async def test_nothing_is_left_of_players_whose_messages_were_handled_or_dropped() -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await slow_room(town, 30)
        link = gateway.cluster.links.get(30)
        assert link is not None
        for uid, ending in enumerate(["handled", "kicked", "left"], 1):
            async with player(gateway, uid) as client:
                client.move(1, 2, 3)
                await until(lambda: one.players.get(uid) is not None and one.player(uid).taken == 3)  # noqa: B023
                if ending == "kicked":
                    one.player(uid).kick()
                    client.session.send(Move(4)) if client.session.state is SessionState.OPEN else None
                    await client.session.wait_closed()
            one.let(3)
            await until(lambda: not gateway.router.leaving.get(link))
        await until(lambda: not any(one.players._reports.unreported.values()))
        await one.stop(1)
        await until(lambda: gateway.cluster.links.get(30) is None)
        assert not gateway.router.stats.lost and not gateway.router.leaving
        town.servers.remove(one)


async def test_plain_handlers_are_done_when_the_gateway_hears_of_them_and_reports_are_few() -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await town.room(30)
        link = gateway.cluster.links.get(30)
        assert link is not None
        reports = 0
        take = gateway.router._handled

        def handled(link: object, body: bytes) -> None:
            nonlocal reports
            reports += 1
            take(link, body)  # type: ignore[arg-type]

        gateway.router._handled = handled  # type: ignore[method-assign]
        async with player(gateway, 7) as client:
            for n in range(500):
                client.move(n)
                if n % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(one.numbers(7)) == 500)
            route = next(iter(gateway.router)).routes[ROOM]
            await until(lambda: route.unhandled == 0)
            assert reports < 50, "not one for each message"


async def test_a_service_that_knows_no_reports_is_counted_by_what_it_acknowledged() -> None:
    async with cluster() as town:
        gateway, one = await town.gateway(1), await slow_room(town, 30)
        link = gateway.cluster.links.get(30)
        there = one.cluster.links.get(1)
        assert link is not None and there is not None
        one.players._reports.unreported.clear()
        for each in (link, there):
            extension_of(each.session).features &= ~Features.LINK_REPORTS
        async with player(gateway, 7) as client:
            client.move(1, 2, 3)
            await until(lambda: one.players.get(7) is not None and one.player(7).taken == 3)
            await until(lambda: waiting(link) == 0)
            two = await slow_room(town, 31)
            await town.kill(one)
            await until(lambda: two.players.get(7) is not None)
            assert not gateway.router.stats.lost and not gateway.router.leaving
            assert not gateway.router.stats.malformed
