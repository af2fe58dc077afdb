"""A player's messages through a gateway: each to the server it belongs to, byte for byte, in order; and back."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink import ConfigError, Full, Limits, LocalError, MemoryTokens, Session, _native
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.routes import Pick, Rules
from gatelink.config import WireOptions
from gatelink.errors import CloseCode, SessionClosed
from gatelink.session.manager import Duplicate
from gatelink.session.stream import Pause
from gatelink.wire.control import Ack, control_frame
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import CATALOG, LOBBY, ROOM, Ask, Move, Say, cluster, gateway_and_lobby, log_in, player
from tests.e2e.engines import NewEngine
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import RawClient, closing, leave, until, verify_request


async def test_each_message_reaches_the_server_of_its_type_in_order(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway, lobby, room = await town.gateway(5), await town.lobby(3), await town.room(9)
        async with player(gateway, 7) as one, player(gateway, 8) as other:
            for n in range(500):
                one.say(n)
                one.move(n)
                other.move(-n)
            await until(lambda: len(room.heard) >= 1002 and len(lobby.heard) >= 502)
            await one.ask(1)
        await until(lambda: "closed" in lobby.of(7) and "closed" in room.of(8) and "closed" in room.of(7))
        assert lobby.of(7) == ["verified", *range(500), "closed"]
        assert room.of(7) == ["verified", *range(500), "closed"]
        assert room.of(8) == ["verified", *(-n for n in range(500)), "closed"]
        await until(lambda: not gateway.router.players)
        assert not any(gateway.router.bound.values()) and not gateway.router.waiting


async def test_a_frame_crosses_as_it_came_compressed_or_scrambled_and_among_raw_ones() -> None:
    """The service gets the client's frame, byte for byte; nothing at the gateway decodes it."""
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = await town.lobby(20)
        raw: list[tuple[int, int, bytes]] = []
        lobby.on_forward(lambda session, frame: raw.append((frame.id, frame.flags, frame.body)))
        client = await RawClient.verified(gateway, 7)
        frames = [(12_500 + n % 3, n % 4, bytes([n, 255 - n]) * n) for n in range(200)]
        straight = straight_frames()
        client.send(b"".join(encode_frame(id, body, flags) for id, flags, body in frames))
        await until(lambda: len(raw) >= 200)
        assert raw == frames
        assert _native.core is None or straight_frames() >= straight + 100, "the compiled core copies whole reads"
        for id, flags, body in frames:
            lobby.player(7).send_frame(encode_frame(id, body, flags))
        assert [await client.frame() for _ in frames] == frames
        await client.close()


async def test_a_resumable_player_s_acknowledgements_stay_at_the_gateway_and_its_frames_cross_as_they_came() -> None:
    async with cluster() as town:
        gateway, lobby = await town.gateway(1, resume_plain=True), await town.lobby(20)
        raw: list[tuple[int, int, bytes]] = []
        lobby.on_forward(lambda session, frame: raw.append((frame.id, frame.flags, frame.body)))
        async with closing(ExtendedClient.logged_in(gateway, 7)) as client:
            await until(lambda: len(lobby.players) == 1)
            session = gateway.sessions.get(7)
            assert session is not None and session.extension is not None
            for n in range(100):
                lobby.player(7).send(Say(n))
            await until(lambda: session.unacknowledged == 100)
            straight = straight_frames()
            frames = [(12_500 + n % 3, n % 4, bytes([n, 255 - n]) * n) for n in range(200)]
            data = []
            for n, (id, flags, body) in enumerate(frames):
                if n % 3 == 0:
                    data.append(control_frame(Ack(n // 3)))
                data.append(encode_frame(id, body, flags))
            client.send(b"".join(data), control_frame(Ack(67)))
            await until(lambda: len(raw) >= 200)
            assert raw == frames and session.unacknowledged == 33 and session.extension.received == 200
            assert _native.core is None or straight_frames() >= straight + 100, "the compiled core copies whole reads"


def straight_frames() -> int:
    return _native.core.frame_counts()[0] if _native.core is not None else 0


async def test_a_player_that_scrambles_and_compresses_is_understood_at_the_service() -> None:
    async with cluster() as town:
        wire = WireOptions(scramble=True, compress_over=10)
        gateway, lobby = await town.gateway(1, wire=wire), await town.lobby(20, wire=wire)
        async with player(gateway, 7, wire=wire) as client:
            client.session.send(Say(1, "x" * 5_000))
            await client.ask(2)
            assert lobby.numbers(7) == [1]


@pytest.mark.parametrize("id", [24, 100, 103, 199])
async def test_ids_of_the_framework_end_the_session_of_their_sender_and_no_server_hears(id: int) -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        client = await RawClient.verified(gateway, 7)
        client.send(encode_frame(id, b"\0" * 20))
        await client.rest()
        await client.close()
        await until(lambda: lobby.of(7) == ["verified", "closed"])
        assert not lobby.players.malformed and not lobby.players.strays


async def test_by_rendezvous_a_player_comes_to_the_same_server_whichever_gateway_it_is_on() -> None:
    async with cluster() as town:
        rules = {LOBBY: Rules(pick=Pick.RENDEZVOUS)}
        gateways = [await town.gateway(id, rules=rules) for id in (1, 2)]
        lobbies = [await town.lobby(id) for id in (20, 21, 22)]
        for uid in (1, 2, 3, 4, 5):
            for gateway in gateways:
                async with player(gateway, uid) as client:
                    await client.ask(1)
        heard_by = {uid: [lobby.id for lobby in lobbies if lobby.of(uid)] for uid in (1, 2, 3, 4, 5)}
        assert heard_by == {1: [20], 2: [20], 3: [22], 4: [21], 5: [22]}


async def test_players_go_to_the_server_that_has_the_fewest_counting_those_that_came_a_moment_ago() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobbies = [await town.lobby(id) for id in (20, 21, 22)]
        async with AsyncExitStack() as stack:
            for uid in range(1, 10):
                client = await stack.enter_async_context(player(gateway, uid))
                await client.ask(1)
            counts = [len(lobby.players) for lobby in lobbies]
            assert sum(counts) == 9 and max(counts) <= 4, "3 each, but for a keepalive that was on its way"


async def test_what_no_server_takes_is_held_for_the_time_that_the_rules_give_then_counted_and_in_the_log() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={LOBBY: Rules(hold_seconds=1.0)})
        async with player(gateway, 7) as client:
            client.say(1, 2, 3)
            await until(lambda: gateway.router.waiting.get(LOBBY))
            assert not gateway.router.stats.lost
            there = gateway.sessions.get(7)
            assert there is not None and Pause.LINK in there._paused, "no more is read than is held"
            with capture_logs() as logs:
                await until(lambda: gateway.router.stats.lost[LOBBY] == 3)
            assert ("no server came for a player's messages: they are lost", LOBBY, 7) in [
                (line["event"], line.get("type"), line.get("uid")) for line in logs
            ]
            lobby = await town.lobby(20, greet=False)
            client.say(4)
            await until(lambda: lobby.numbers(7) == [4])
            assert lobby.player(7).lost_messages == 3
            assert not gateway.router.waiting and not gateway.router.players[lobby.player(7).sid].to(LOBBY).held


async def test_what_is_held_reaches_a_server_that_comes_in_time_and_ends_with_the_player() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        async with player(gateway, 7) as client, player(gateway, 8) as leaver:
            client.say(1, 2, 3)
            leaver.say(9)
            await until(lambda: len(gateway.router.waiting.get(LOBBY, ())) == 2)
            there = gateway.sessions.get(8)
            assert there is not None
            there.close()
            await until(lambda: gateway.router.stats.lost[LOBBY] == 1)
            lobby = await town.lobby(20)
            client.say(4)
            await client.ask(5)
            assert lobby.of(7) == ["verified", 1, 2, 3, 4]
            assert lobby.of(8) == [] and lobby.player(7).lost_messages == 0


async def test_a_second_hold_has_its_whole_time() -> None:
    """The timer of one that ended well does not end the next."""
    async with cluster() as town:
        gateway = await town.gateway(1, rules={LOBBY: Rules(hold_seconds=2.5)})
        async with player(gateway, 7) as client:
            client.say(1)
            await until(lambda: gateway.router.stats.held == 1)
            lobby = await town.lobby(20)
            await client.ask(2)
            await asyncio.sleep(1.3)  # half of hold_seconds, and a bit
            await town.kill(lobby)
            await until(lambda: gateway.router.stats.held == 2)
            client.say(3)
            await asyncio.sleep(1.3)  # the first would be over
            again = await town.lobby(21)
            await until(lambda: again.numbers(7) == [3])


async def test_a_player_is_as_a_session() -> None:
    async with cluster() as town:
        gateway, lobby, room = await town.gateway(1), await town.lobby(20), await town.room(30)
        async with player(gateway, 7) as client, player(gateway, 8) as kicked, player(gateway, 9) as closed:
            await until(lambda: len(lobby.players) == 3)
            stand_in, leaving = lobby.player(7), lobby.player(8)
            assert (stand_in.uid, stand_in.slot, stand_in.gateway, stand_in.address) == (7, 0, 1, "127.0.0.1")
            stand_in.send(Say(1))
            stand_in.send_raw(12_001, CATALOG.encode(Say(2))[1])
            stand_in.send(Say(3), full=Full.DROP_NEWEST)
            await stand_in.drain()
            await until(lambda: client.heard == [1, 2, 3])

            leaving.send(Say(10))
            leaving.kick("enough")
            with pytest.raises(SessionClosed):
                leaving.send(Say(11))
            await kicked.session.wait_closed()
            assert kicked.heard == [10]
            await until(lambda: room.of(8)[-1:] == ["closed"])
            lobby.player(9).close()
            await closed.session.wait_closed()


async def test_broadcasts_reach_some_a_group_or_all_and_each_link_once() -> None:
    async with cluster() as town:
        gateways = [await town.gateway(1), await town.gateway(40)]
        lobby, room = await town.lobby(20), await town.room(30)
        async with player(gateways[0], 7) as a, player(gateways[0], 8) as b, player(gateways[1], 9) as c:
            await until(lambda: len(lobby.players) == 3 and len(room.players) == 3)
            lobby.broadcast(Say(1))
            await until(lambda: a.heard == b.heard == c.heard == [1])
            assert lobby.players.broadcast(Say(2), [lobby.player(7), lobby.player(9)]) == 2
            lobby.player(7).join("red")
            lobby.player(9).join("red")
            room.player(8).join("red")  # another type's
            lobby.broadcast_to("red", Say(3))
            room.broadcast_to("red", Say(4))
            await until(lambda: a.heard[-1:] == [3] and b.heard[-1:] == [4])
            lobby.player(7).leave("red")
            lobby.broadcast_to("red", Say(5))
            lobby.broadcast(Say(6))
            await until(lambda: a.heard[-1:] == b.heard[-1:] == c.heard[-1:] == [6])
            assert a.heard == [1, 2, 3, 6] and c.heard == [1, 2, 3, 5, 6] and b.heard == [1, 4, 6]
            with pytest.raises(LocalError):
                lobby.player(7).join("x" * 255)
        for gateway in gateways:
            assert gateway.router.stats.malformed == 0


async def test_a_player_that_has_left_is_in_no_group_whatever_its_handlers_do_later() -> None:
    """On a service, and on a server that holds the connection itself."""
    async with gateway_and_lobby() as (_, gateway, lobby):
        gate = asyncio.Event()
        through: list[bool] = []

        async def join_late(session: Session, message: Any) -> None:
            await gate.wait()
            try:
                session.join("red")
            except SessionClosed:
                through.append(True)

        lobby.instead(Ask)(join_late)
        gateway.on(Move)(join_late)
        async with player(gateway, 7) as client:
            client.session.send(Ask(1))
            client.move(1)
            await until(lambda: lobby.players.get(7) is not None and lobby.player(7).inbox is not None)
            await until(lambda: all(session.inbox is not None for session in gateway.sessions))
            lobby.player(7).kick("x" * 70_000)  # cut, not refused
            await client.session.wait_closed()
        gate.set()
        await until(lambda: through == [True, True])
        assert not len(lobby.context.groups) and not len(gateway.context.groups)


async def test_a_group_is_of_its_type_and_stays_when_a_player_moves() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        one, two = await town.room(30, greet=False), await town.room(31, greet=False)
        async with player(gateway, 7) as a, player(gateway, 8) as b:
            a.move(1)
            await until(lambda: len(one.players) == 1)
            b.move(1)
            await until(lambda: len(two.players) == 1)
            one.player(7).join("red")
            one.player(7).bind(ROOM, 31)
            await until(lambda: len(two.players) == 2)
            two.broadcast_to("red", Say(1))
            two.broadcast(Say(2))
            await until(lambda: a.heard[-1:] == b.heard[-1:] == [2])
            assert a.heard == [1, 2] and b.heard == [2]


async def test_a_key_replaces_what_waits_at_the_gateway() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), closing(RawClient.verified(gateway, 7)) as client:
        await until(lambda: len(lobby.players) == 1)
        session = gateway.sessions.get(7)
        assert session is not None and session._stream is not None
        session._stream.writable = False
        for n in range(50):
            lobby.player(7).send(Say(n), key=1)
        lobby.player(7).send(Say(100))
        await until(lambda: session.outbox.count == 2)
        session._stream.writable = True
        session.flush()
        kind = CATALOG.of_type(Say)
        assert [kind.decode((await client.frame())[2]).n for _ in range(2)] == [49, 100]


async def test_a_player_that_does_not_read_is_closed_at_the_gateway_and_its_services_hear() -> None:
    async with cluster() as town:
        gateway, lobby = await town.gateway(1, limits=Limits(max_outbox_frames=10)), await town.lobby(20)
        client = await RawClient.verified(gateway, 7)
        await until(lambda: len(lobby.players) == 1)
        session = gateway.sessions.get(7)
        assert session is not None and session._stream is not None
        session._stream.writable = False
        for n in range(30):
            lobby.player(7).send(Say(n), full=Full.DROP_OLDEST)
        await until(lambda: session.outbox.dropped == 20)
        assert session.outbox.count == 10
        lobby.player(7).send(Say(99))
        await until(lambda: lobby.of(7)[-1:] == ["closed"])
        assert session.close_code is CloseCode.SLOW_CONSUMER
        await client.close()


async def test_a_handler_that_lags_stops_reading_from_its_player_and_from_nobody_else() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = await town.lobby(20, limits=Limits(max_inbox=8))
        room = await town.room(30)
        gate = asyncio.Event()

        @lobby.instead(Say)
        async def slow(session: Session, message: Say) -> None:
            if session.uid == 7:
                await gate.wait()
            lobby.heard.append((session.uid, message.n))

        async with player(gateway, 7) as lagging, player(gateway, 8) as other:
            lagging.say(*range(5_000))
            await until(lambda: _paused(gateway.sessions.get(7)))
            await other.ask(1)
            other.say(1)
            await until(lambda: lobby.numbers(8) == [1] and not lobby.numbers(7))
            gate.set()
            await until(lambda: len(lobby.numbers(7)) == 5_000)
            assert lobby.numbers(7) == list(range(5_000))
            await until(lambda: not _paused(gateway.sessions.get(7)))
            assert room.of(7) == ["verified"]


async def test_a_player_that_was_away_and_back_before_its_gateway_heard_that_it_lags_is_read() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = await town.lobby(20, limits=Limits(max_inbox=8))
        started, gate = asyncio.Event(), asyncio.Event()

        @lobby.instead(Say)
        async def slow(session: Session, message: Say) -> None:
            started.set()
            await gate.wait()
            lobby.heard.append((session.uid, message.n))

        async with player(gateway, 7) as client:
            await until(lambda: len(lobby.players) == 1)
            one = lobby.player(7)
            session = gateway.sessions.get(7)
            assert session is not None and one.link.session._stream is not None
            one.link.session._stream.writable = False  # the service's words wait
            client.say(*range(20))
            await started.wait()
            assert one._paused
            elsewhere = await town.lobby(21)
            router = gateway.router
            route = router.players[session.epoch].to(LOBBY)
            route.bind_to(21)
            await until(lambda: elsewhere.of(7) == ["verified"] and lobby.players.get(7) is None)
            gate.set()
            await until(lambda: lobby.of(7)[-1:] == ["closed"])
            route.bind_to(20)
            one.link.session._stream.writable = True
            one.link.session.flush()
            await until(lambda: lobby.players.get(7) is not None)
            await client.ask(1)
            assert lobby.numbers(7) == list(range(20)) and not session._paused


async def test_a_player_whose_lagging_server_gives_it_away_is_read_again() -> None:
    """A `Hold` ends with the server that said it, however that ends."""
    async with cluster() as town:
        gateway, room = await town.gateway(1), await town.room(30)
        for how in ("bind", "kill"):
            lobby = await town.lobby(20, limits=Limits(max_inbox=8))

            @lobby.instead(Say)
            async def stuck(session: Session, message: Say) -> None:
                await asyncio.Event().wait()

            async with player(gateway, 7) as client:
                client.say(*range(1_000))
                await until(lambda: _paused(gateway.sessions.get(7)))
                if how == "bind":
                    lobby.player(7).bind(LOBBY, 0)
                else:
                    await town.kill(lobby)
                client.move(1)
                await until(lambda: 1 in room.numbers(7))
                room.heard.clear()
            if how == "bind":
                await town.kill(lobby)


def _paused(session: Any) -> Any:
    return session._paused


async def test_a_gateway_refuses_a_policy_that_a_group_can_not_keep() -> None:
    async with cluster() as town:
        with pytest.raises(ConfigError, match="REFUSE_NEW"):
            await town.gateway(1, duplicate=Duplicate.REFUSE_NEW)


async def test_a_gateway_s_own_handlers_come_first() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        gateway.on(Ask)(lambda session, message: session.send(Ask(-message.n)))
        async with player(gateway, 7) as client:
            for n in range(1, 50):
                client.say(n)
                client.session.send(Ask(n))
            await until(lambda: len(client.heard) == 49 and len(lobby.numbers(7)) == 49)
            assert client.heard == [-n for n in range(1, 50)] and lobby.numbers(7) == list(range(1, 50))


async def test_the_claims_of_a_token_reach_the_handlers_of_a_service() -> None:
    async with cluster() as town:
        tokens = MemoryTokens()
        gateway, lobby = await town.gateway(1, tokens=tokens), await town.lobby(20)
        token = tokens.issue(7, {"name": "Ann", "level": 3})
        session = await log_in(gateway, 7, token=token)
        await until(lambda: len(lobby.players) == 1)
        assert dict(lobby.player(7).claims) == {"name": "Ann", "level": 3}
        await leave(session)


@pytest.mark.parametrize("claims", [{"about": "x" * 65_536}, {"about": object()}], ids=["too long", "no JSON"])
async def test_a_player_whose_claims_no_service_can_be_told_is_closed_and_nobody_else(claims: dict[str, Any]) -> None:
    async with cluster() as town:
        tokens = MemoryTokens()
        gateway, lobby = await town.gateway(1, tokens=tokens), await town.lobby(20)
        async with player(gateway, 8, token=tokens.issue(8)) as other:
            client = await RawClient.open(gateway)
            client.send(verify_request(7, tokens.issue(7, claims).encode()))
            await client.rest()
            await client.close()
            await other.ask(1)
        assert gateway.stats.closed[CloseCode.INTERNAL_ERROR] == 1 and not lobby.of(7)
        assert not gateway.router.players


async def test_a_service_starts_once() -> None:
    async with cluster() as town:
        lobby, gateway = await town.lobby(20), await town.gateway(1)
        for server in (lobby, gateway):
            links = server.cluster.links
            with pytest.raises(ConfigError, match="running already"):
                await server.start()
            assert server.cluster.links is links


async def test_a_service_puts_messages_in_front_of_its_own_handlers_in_their_turn() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        session = await log_in(gateway, 7)
        session.send(Say(1))
        await until(lambda: lobby.numbers(7) == [1])
        heard: list[int] = []
        lobby.on(Say, also=True)(lambda session, message: heard.append(message.n))
        lobby.player(7).inject(Say(2))
        await until(lambda: heard == [2])
        session.send(Say(3))
        await until(lambda: heard == [2, 3])
        assert lobby.numbers(7) == [1, 2, 3]
        session.close()


async def test_servers_of_a_cluster_know_each_others_type_on_both_sides() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        assert {link.session.source for link in lobby.cluster.links} == {GATEWAY}
        assert {link.session.source for link in gateway.cluster.links} == {LOBBY}
