"""A server that does not read costs its own players their speed and nobody else's, and the others bounded memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from msgspec.structs import replace

from gatelink import (
    LINK_LIMITS,
    CloseCode,
    ClusterKey,
    ConfigError,
    Full,
    Handlers,
    Limits,
    ServerKey,
    Session,
    SessionClosed,
)
from gatelink.cluster.cluster import NotLinked
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.links import Link
from gatelink.cluster.membership import Membership
from gatelink.cluster.players import MAX_UNFINISHED
from gatelink.cluster.routes import Rules
from gatelink.errors import MessageTooLarge
from gatelink.net.client import CLIENT_LIMITS
from gatelink.session.outbox import OutboxFull
from gatelink.session.stream import Pause
from gatelink.wire.envelope import Arrival, SessionOpened
from tests.e2e.cluster.support import CATALOG, Ask, Move, Post, Recorder, Say, cluster, log_in, player
from tests.e2e.support import until

SMALL = replace(
    LINK_LIMITS,
    max_outbox_frames=400,
    max_outbox_bytes=1 << 20,
    window_frames=400,
    window_bytes=1 << 20,
    write_high_water=65_536,
    max_frame=262_144,
    max_outbox_age=20.0,
    heartbeat_timeout=20.0,
)
"""A quarter of the outbox is congestion, three quarters of it full."""

TEXT = "x" * 4_000
ROOMY = Limits(max_outbox_frames=100_000, max_outbox_bytes=64 << 20, max_held_bytes=1 << 30)
"""Of players, whose own bounds are not in question here."""


@contextmanager
def not_reading(link: Link) -> Iterator[None]:
    """The server on this side of a link reads nothing from it: its kernel's buffers fill, then the other's outbox."""
    link.session.pause(Pause.STOPPING)
    try:
        yield
    finally:
        link.session.resume(Pause.STOPPING)


def link_of(server: Gateway | Recorder, id: int) -> Link:
    link = server.cluster.links.get(id)
    assert link is not None
    return link


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the service dials"])
async def test_a_service_that_does_not_read_pauses_its_players_alone_and_loses_nothing(gateway_id: int) -> None:
    async with cluster() as town:
        gateway = await town.gateway(gateway_id, link_limits=SMALL)
        lobby, room = await town.lobby(20, link_limits=SMALL), await town.room(30)
        there = link_of(gateway, 20)
        async with (
            player(gateway, 7, limits=ROOMY) as one,
            player(gateway, 8, limits=ROOMY) as two,
            player(gateway, 9) as other,
        ):
            await until(lambda: len(lobby.players) == 3)
            sessions = [gateway.sessions.get(uid) for uid in (7, 8)]
            most = 0
            with not_reading(link_of(lobby, gateway_id)):
                for n in range(1_500):
                    one.session.send(Say(n, TEXT))
                    two.session.send(Say(n, TEXT))
                await until(lambda: all(session is not None and session._paused & Pause.LINK for session in sessions))
                for n in range(200):
                    other.move(n)
                    if n % 20 == 0:
                        await until(lambda: len(room.numbers(9)) == n + 1)  # noqa: B023 - awaited here
                    most = max(most, there.session.outbox.held_bytes)
                await until(lambda: len(room.numbers(9)) == 200)
                assert most < 3 << 20, "what is queued, and what is not acknowledged"
                assert len(lobby.numbers(7)) < 1_500
            await until(lambda: len(lobby.numbers(7)) == len(lobby.numbers(8)) == 1_500)
            assert lobby.numbers(7) == lobby.numbers(8) == list(range(1_500))
            await until(lambda: not any(session._paused for session in gateway.sessions))
            assert not gateway.router.stats.lost and not gateway.router.crowded


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the service dials"])
async def test_what_a_link_holds_and_sends_is_in_its_servers_metrics_whichever_side_dialled(
    monkeypatch: pytest.MonkeyPatch, gateway_id: int
) -> None:
    monkeypatch.setattr("gatelink.net.memory_guard.INTERVAL", 0.05)
    async with cluster() as town:
        gateway = await town.gateway(gateway_id)
        lobby = await town.lobby(20)

        @gateway.on_post(Post)
        def answer(link: Session, message: Post) -> None:
            link.send(Post(message.n + 1))

        lobby.cluster.post(gateway_id, Post(1))
        await until(lambda: lobby.posts == [(gateway_id, 2)])
        assert gateway.stats.sent["Post"].messages == 1
        posted = 0
        there = link_of(gateway, 20)
        with not_reading(link_of(lobby, gateway_id)):
            while there.session.outbox.held_bytes < 4 << 20:
                gateway.cluster.post(20, Say(posted, "x" * 10_000))
                posted += 1
            await until(lambda: gateway.stats.held_bytes >= 4 << 20)
        await until(lambda: not gateway.stats.held_bytes)
        there.session.close()
        await until(lambda: gateway.cluster.links.get(20) not in (None, there))
        sides = [side for server in (gateway, lobby) if (side := server._inner) is not None]
        await until(lambda: sum(len(side.memory_guard._dialled) for side in sides) == 1, "the lost one is forgotten")


async def test_servers_whose_links_hold_too_much_end_those_that_they_dialled_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatelink.net.memory_guard.INTERVAL", 0.05)
    async with cluster() as town:
        gateway = await town.gateway(1, link_limits=replace(SMALL, max_held_bytes=1 << 20))
        lobby = await town.lobby(20, link_limits=SMALL)
        there = link_of(gateway, 20)
        with not_reading(link_of(lobby, 1)):
            with pytest.raises((OutboxFull, NotLinked)):
                while True:
                    gateway.cluster.post(20, Say(0, TEXT * 10))
                    await asyncio.sleep(0)
            await until(lambda: there.session.close_code is not None)
            assert there.session.close_code is CloseCode.SLOW_CONSUMER
        await town.settled()


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the service dials"])
async def test_a_gateway_that_does_not_read_ends_players_that_must_miss_nothing_and_drops_the_rest(
    gateway_id: int,
) -> None:
    async with cluster() as town:
        gateway = await town.gateway(gateway_id, link_limits=SMALL, limits=ROOMY)
        lobby = await town.lobby(20, link_limits=SMALL)
        async with player(gateway, 7) as one, player(gateway, 8) as two:
            await until(lambda: len(lobby.players) == 2)
            strict, lenient = lobby.player(7), lobby.player(8)
            dropped = lobby.stats.dropped
            with not_reading(link_of(gateway, 20)):
                kept = 0
                async with asyncio.timeout(20):
                    while lobby.stats.dropped == dropped:
                        lenient.send(Say(kept, TEXT), full=Full.DROP_NEWEST)
                        kept += 1
                        await asyncio.sleep(0)
                lenient.send(Say(-1, TEXT), full=Full.DROP_OLDEST)
                assert lobby.stats.dropped == dropped + 2
                assert lobby.players.broadcast(Say(-2, TEXT), full=Full.DROP_NEWEST) == 0
                with pytest.raises(SessionClosed) as raised:
                    strict.send(Say(-3, TEXT))
                assert raised.value.code is strict.close_code is CloseCode.SLOW_CONSUMER
                assert lobby.players.get(7) is None and lobby.players.get(8) is lenient
                assert link_of(lobby, gateway_id).session.outbox.held_bytes < 3 << 20
            await one.session.wait_closed()
            await until(lambda: len(two.heard) == kept - 1)
            await two.ask(kept)
            assert two.heard == [*range(kept - 1), kept], "what was not dropped, in order"


async def test_more_than_a_link_has_room_for_in_one_turn_ends_players_that_must_miss_nothing_and_not_the_link() -> None:
    """Seventy players, each sent a kilobyte, and room for 64 of them, three quarters of which are not for events."""
    limits = replace(SMALL, max_outbox_bytes=65_536, max_frame=65_536)
    narrow = Limits(max_frame=4_096, turn_bytes=8_192)
    async with cluster() as town:
        gateway = await town.gateway(1, link_limits=limits, limits=narrow)
        lobby = await town.lobby(20, link_limits=limits)
        link = link_of(lobby, 1)
        for sid in range(1, 71):
            lobby.players.opened(link, SessionOpened(sid, sid, 0, sid, "", Arrival.NEW, 0, ""))
        sent = 0
        for one in lobby.players:
            with suppress(SessionClosed):
                one.send(Say(0, "x" * 1_000))
                sent += 1
            assert link.session.outbox.bytes <= limits.max_outbox_bytes * 3 // 4 + 70 * 60, "and the kicks"
        assert 40 < sent < 50 and len(lobby.players) == sent
        await until(lambda: gateway.router.stats.misdirected == 70, "each was told of, none of them is there")
        assert link_of(lobby, 1) is link and len(lobby.players) == sent


async def test_a_service_may_send_what_a_player_may_not_and_what_no_link_takes_hurts_only_its_sender() -> None:
    async with cluster() as town:
        gateway, lobby, room = await town.gateway(1), await town.lobby(20), await town.room(30)
        links = [link_of(gateway, 20), link_of(lobby, 1), link_of(lobby, 30)]
        async with player(gateway, 7, limits=CLIENT_LIMITS) as client:
            await until(lambda: len(lobby.players) == 1)
            large = Say(1, "x" * (gateway.limits.max_frame + 1))
            lobby.player(7).send(large)
            lobby.broadcast(large)
            await until(lambda: client.heard == [1, 1])
            too_large = Say(2, "x" * lobby.limits.max_outbox_bytes)
            for attempt in (
                lobby.player(7).send,
                lobby.broadcast,
                partial(lobby.broadcast_to, "nobody is here"),
                lobby.players.broadcast,
            ):
                with pytest.raises(MessageTooLarge, match=f"at most {lobby.limits.max_outbox_bytes}"):
                    attempt(too_large)
            for uid in (7, 8):
                with pytest.raises(MessageTooLarge):
                    await lobby.sessions.push(uid, too_large)
            too_large = Say(2, "x" * LINK_LIMITS.max_frame)
            for attempt in (partial(lobby.cluster.post, "room"), partial(lobby.cluster.broadcast, "room")):
                with pytest.raises(MessageTooLarge, match=str(LINK_LIMITS.max_frame + 4)):
                    attempt(too_large)
            lobby.cluster.post("room", Post(3))
            await client.ask(4)
            await until(lambda: room.posts == [(20, 3)])
            assert links == [link_of(gateway, 20), link_of(lobby, 1), link_of(lobby, 30)]
            assert not gateway.router.stats.malformed


async def test_a_player_whose_frames_its_service_cannot_take_is_closed_and_nobody_else() -> None:
    """A service with narrower limits than its gateway's: what came with the frame that is too large is lost, too."""
    async with cluster() as town:
        gateway, lobby = await town.gateway(1), await town.lobby(20, limits=Limits(max_frame=2_000))
        link = link_of(gateway, 20)
        async with player(gateway, 7) as one, player(gateway, 8) as other:
            await one.ask(1)
            one.say(2)
            one.session.send(Say(3, "x" * 2_000))
            one.say(4)
            await one.session.wait_closed()
            await until(lambda: lobby.of(7)[-1:] == ["closed"])
            assert lobby.players.malformed == 1 and not lobby.numbers(7)
            session = gateway.sessions.get(8)
            await other.ask(5)
            assert link_of(gateway, 20) is link and gateway.sessions.get(8) is session
            assert gateway.stats.closed[CloseCode.PROTOCOL_ERROR] == 1


def test_a_gateway_refuses_limits_with_which_a_player_could_end_a_link() -> None:
    member = Membership(engine=MemoryEngine(), keys=(ClusterKey.generate(),), id=1)
    most = LINK_LIMITS.max_frame - Limits().turn_bytes - 14
    Gateway("tcp://127.0.0.1:0", member=member, limits=Limits(max_frame=most, byte_burst=most))
    with pytest.raises(ConfigError, match=str(LINK_LIMITS.max_frame - 14)):
        Gateway("tcp://127.0.0.1:0", member=member, limits=Limits(max_frame=most + 1, byte_burst=most + 1))


async def test_nothing_is_left_of_sessions_that_came_and_went() -> None:
    async with cluster() as town:
        gateway, lobby, room = await town.gateway(1), await town.lobby(20), await town.room(30, greet=False)

        @lobby.instead(Ask)
        def ask(session: Session, message: Ask) -> None:
            session.join(f"group {message.n % 7}")
            session.send(message)

        async def visit(uid: int) -> None:
            handlers = Handlers(gateway.catalog)
            answered = asyncio.Event()
            handlers.on(Ask)(lambda session, message: answered.set())
            session = await log_in(gateway, uid, handlers=handlers)
            session.send(Ask(uid))
            await answered.wait()
            session.close() if uid % 3 else session.abort()
            await session.wait_closed()

        for first in range(1, 301, 30):
            async with asyncio.timeout(20):
                await asyncio.gather(*(visit(uid % 100 + 1) for uid in range(first, first + 30)))
        router, manager = gateway.router, gateway.sessions
        await until(lambda: not router.players and not len(manager) and not lobby.players._by_key)
        await until(lambda: not lobby.players._ending and not room.players._ending)
        assert not any(router.bound.values()) and not router.waiting and not router.crowded
        assert set(router.fresh) <= {20, 30}, "by server, until its next keepalive"
        assert not manager._fetched and not manager._logins and not manager._newest and not manager._claiming
        for service in (lobby, room):
            assert not service.players._by_key and not any(service.players.by_link.values())
            assert not len(service.context.groups) and not service.context.groups._groups_of
        assert not len(gateway.context.groups) and not gateway.context.groups._groups_of
        assert not lobby.players.strays and not router.stats.malformed


@pytest.mark.parametrize("slots", [1, 3])
async def test_a_client_that_comes_and_goes_does_not_pile_up_handlers(slots: int) -> None:
    """It logs in, sends, and leaves while its handler is under way; then again, on one slot or on several."""
    running = most = 0
    end = asyncio.Event()
    async with cluster() as town:
        gateway, lobby = await town.gateway(1), await town.lobby(20, limits=Limits(close_timeout=0.1))

        @lobby.instead(Say)
        async def say(session: Session, message: Say) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await end.wait()
            running -= 1

        refused = 0
        for n in range(4 * MAX_UNFINISHED):
            session = await log_in(gateway, 7, slot=n % slots)
            session.send(Say(n))
            session.send(Say(n))
            await until(lambda: lobby.stats.verified + lobby.players.refused > n)  # noqa: B023 - awaited here
            if lobby.players.refused == refused:
                session.close()
                await session.wait_closed()
            else:
                refused += 1
                await session.wait_closed()
                assert session.close_code is CloseCode.SERVER_FULL
        assert refused >= 2 * MAX_UNFINISHED, "a place is free when the handlers have ended, not when the player left"
        assert most <= MAX_UNFINISHED + slots
        assert len(lobby.players) == 0
        async with player(gateway, 8) as other:
            await other.ask(1)  # others have places of their own
        end.set()
        await until(lambda: not lobby.players._unfinished)
        async with player(gateway, 7) as client:
            await client.ask(2)


async def test_a_gateway_drops_what_its_own_limit_does_not_allow_and_closes_nobody() -> None:
    """A service with a larger limits.max_outbox_bytes than its gateway's."""
    async with cluster() as town:
        gateway = await town.gateway(1, limits=Limits(max_outbox_bytes=20_000))
        lobby = await town.lobby(20)
        async with player(gateway, 7) as client:
            await client.ask(1)
            other = lobby.player(7)
            other.join("red")
            large = Say(2, "x" * 20_000)
            other.send(Say(3))
            other.send(large)
            other.send(large, key=1)
            lobby.broadcast(large)
            lobby.broadcast_to("red", large)
            other.send(Say(4))
            await until(lambda: 4 in client.heard)
            assert client.heard == [1, 3, 4] and gateway.router.stats.malformed == 4
            assert client.session.close_code is None


async def test_the_largest_message_to_a_player_fits_into_every_envelope() -> None:
    limits = Limits(max_frame=40_000, turn_bytes=20_000, max_outbox_bytes=10_000_000)
    narrow = replace(LINK_LIMITS, max_frame=62_000)
    async with cluster() as town:
        gateway = await town.gateway(1, limits=limits, link_limits=narrow)
        lobby = await town.lobby(20, limits=limits, link_limits=narrow)
        most = lobby.context.max_message
        assert most < narrow.max_frame
        async with player(gateway, 7, limits=CLIENT_LIMITS) as client:
            await client.ask(1)
            name = "é" * 252
            lobby.player(7).join(name)
            text = "x" * (most - len(CATALOG.encode(Say(2, "x" * 50_000))[1]) - 6 + 50_000)
            for attempt in (
                lobby.player(7).send,
                lobby.broadcast,
                partial(lobby.broadcast_to, name),
                lobby.players.broadcast,
            ):
                attempt(Say(2, text))
                with pytest.raises(MessageTooLarge):
                    attempt(Say(3, text + "x"))
            await until(lambda: client.heard == [1, 2, 2, 2, 2])


# -- limits.max_held_bytes weighs what a gateway and a service hold --

SERVER_KEY = ServerKey.generate()
HELD = Limits(max_held_bytes=1 << 20, max_inbox_bytes=1 << 20, exempt=())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held is weighed twenty times a second."""
    monkeypatch.setattr("gatelink.net.memory_guard.INTERVAL", 0.05)


async def test_messages_that_wait_for_a_missing_service_are_weighed_and_the_largest_user_gives_way(often: None) -> None:
    rules = {13: Rules(hold_seconds=60.0)}
    async with cluster() as town:
        gateway = await town.gateway(1, limits=HELD, rules=rules)
        small = await log_in(gateway, 8, slot=0)
        small.send(Move(1, "x" * 10_000))
        await until(lambda: 10_000 < gateway.stats.held_bytes < 11_000, "the metric shows it")
        large = [await log_in(gateway, uid, slot=slot) for uid in (6, 7) for slot in range(4)]
        for session in large:
            for _ in range(3):
                session.send(Move(2, "x" * 90_000))
        await until(lambda: any(session.close_code for session in large))
        await until(lambda: gateway.stats.held_bytes <= 1 << 20)
        assert small.close_code is None and gateway.sessions.get(8) is not None
        room = await town.room(30)
        await until(lambda: room.numbers(8) == [1])
        for session in (*large, small):
            session.close()
            await session.wait_closed()
        await until(lambda: not gateway.stats.held_bytes)


@pytest.mark.parametrize("pending", [False, True], ids=["inboxes", "pending players"])
async def test_a_services_inboxes_are_weighed_and_the_largest_user_gives_way(often: None, pending: bool) -> None:
    gate = asyncio.Event()
    async with cluster() as town:
        gateway = await town.gateway(1, keys=[SERVER_KEY])
        lobby = await town.lobby(20, limits=replace(HELD, max_held_bytes=400_000, close_timeout=60.0))

        async def log_in_again(slot: int) -> Session:
            """With resume: it is read for one window while the older one's handler runs."""
            return await log_in(gateway, 7, slot=slot, server_key=SERVER_KEY.public, resume=True)

        @lobby.instead(Say)
        async def slow(session: Session, message: Say) -> None:
            await gate.wait()
            lobby.heard.append((session.uid, message.n))

        small = await log_in(gateway, 8)
        for n in range(2):
            small.send(Say(n, "x" * 10_000))
        await until(lambda: 10_000 < lobby.stats.held_bytes < 11_000, "the metric shows it")
        large = [await log_in_again(slot) for slot in range(4)]
        if pending:  # newer logins wait for the handlers of the older ones
            for session in large:
                session.send(Say(5))
            await until(lambda: lobby.players.get(7, 3) is not None and sum(p.is_busy for p in lobby.players) == 5)
            large = [await log_in_again(slot) for slot in range(4)]
        for session in large:
            for _ in range(2 if pending else 6):
                session.send(Say(2, "x" * 90_000))
        await until(lambda: lobby.stats.closed[CloseCode.SLOW_CONSUMER])
        await until(lambda: lobby.stats.held_bytes <= 400_000)
        gate.set()
        await until(lambda: lobby.numbers(8) == [0, 1])
        assert small.close_code is None
        for session in (*large, small):
            session.close()
            await session.wait_closed()
        await until(lambda: not lobby.stats.held_bytes)


async def test_what_a_link_holds_of_players_counts_and_the_player_that_fills_it_gives_way(often: None) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, limits=replace(HELD, byte_burst=16 << 20))
        lobby = await town.lobby(20)
        small, large = await log_in(gateway, 8), await log_in(gateway, 7)
        await until(lambda: len(lobby.players) == 2)
        session = gateway.sessions.get(7)
        assert session is not None
        with not_reading(link_of(lobby, 1)):
            small.send(Say(1))
            with suppress(SessionClosed):
                for n in range(100):
                    large.send(Say(n, "x" * 90_000))
                    await large.drain()
            await until(lambda: session.close_code is CloseCode.SLOW_CONSUMER)
            assert gateway.stats.held_bytes > 1 << 20, "the metric shows it"
        await until(lambda: lobby.numbers(8) == [1])
        assert small.close_code is None and gateway.stats.closed[CloseCode.SLOW_CONSUMER] == 1
        for each in (large, small):
            each.close()
            await each.wait_closed()
