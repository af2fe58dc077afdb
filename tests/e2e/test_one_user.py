"""A user is one user, whatever its slots: which slots there are, and what all sessions of a user share."""

import asyncio
from typing import Any

import pytest

from gatelink import CloseCode, ConfigError, ConnectError, Limits, Server, ServerKey, Session, connect
from gatelink.wire.control import Close, Hello
from gatelink.wire.handshake import Initiator
from tests.e2e.cluster.support import CATALOG as CLUSTER_CATALOG
from tests.e2e.cluster.support import Say, cluster, log_in
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import (
    CATALOG,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    needs_ipv6,
    serving,
    token_of,
    until,
    verify_request,
)

KEY = ServerKey.generate()


# -- slots --


@pytest.mark.parametrize("key", [None, KEY.public], ids=["plain", "sealed"])
@pytest.mark.parametrize("slots", [1, 4, 256])
async def test_slots_below_max_slots_log_in_and_the_others_are_told_which_there_are(
    slots: int, key: bytes | None
) -> None:
    async with serving(keys=[KEY], limits=Limits(max_slots=slots)) as server:
        for slot in {0, slots - 1}:
            async with closing(ExtendedClient.logged_in(server, 7, key, slot=slot)):
                session = server.sessions.get(7, slot)
                assert session is not None and session.slot == slot
        for slot in {slots, 255} - {*range(slots), 256}:
            client = await ExtendedClient.open(server)
            hello = Hello(slot=slot)
            if key is None:
                client.say(hello)
                await client.control()
            else:
                await client.shake_hands(Initiator(key, hello))
            client.send(verify_request(7))
            reason = f"slot {slot}; this server has slots 0 to {slots - 1} (limits.max_slots)"
            assert await client.end() == [Close(CloseCode.PROTOCOL_ERROR, reason)]
            await client.close()
        assert server.stats.refused["slot-refused"] == (0 if slots == 256 else 2)


async def test_a_login_with_a_refused_slot_touches_no_session_and_counts_as_a_failure_of_its_address() -> None:
    async with serving(limits=Limits(exempt=(), free_failures=5)) as server:
        async with closing(RawClient.verified(server, 7)) as client:
            for _ in range(6):
                assert server.stats.bans == 0
                with pytest.raises(ConnectError):
                    await connect(str(server.endpoint), uid=7, token=token_of(7).decode(), slot=9)
            await client.echo(1)
            assert server.stats.bans == 1 and len(server.sessions) == 1


async def test_our_own_client_is_told_the_slots_of_a_server_and_of_a_gateway() -> None:
    async with serving() as server, cluster() as town:
        gateway = await town.gateway(1)
        for endpoint in (server.endpoint, gateway.endpoints[0]):
            with pytest.raises(ConnectError, match="slot 4; this server has slots 0 to 3") as told:
                await connect(str(endpoint), uid=7, token=token_of(7).decode(), slot=4)
            assert told.value.code is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("slots", [0, -1, 257])
def test_more_slots_than_the_wire_has_and_less_than_one_are_no_setting(slots: int) -> None:
    with pytest.raises(ConfigError, match="max_slots"):
        Limits(max_slots=slots)


# -- one allowance for all sessions of a user --

OPEN = {"exempt": (), "connect_rate": 10_000.0, "connect_burst": 10_000, "free_failures": 10_000}


def notes(first: int, count: int) -> bytes:
    return b"".join(frame_of(Note(n)) for n in range(first, first + count))


async def log_in_as(server: Server, how: str, turn: int) -> RawClient:
    """A login of uid 7 by a base client, or by one that speaks the extension, in one slot or in all of them."""
    if how == "base":
        return await RawClient.verified(server, 7)
    key = KEY.public if "sealed" in how else None
    return await ExtendedClient.logged_in(server, 7, key, slot=turn % 4 if "slots" in how else 0)


WAYS = ["base", "plain, slots", "sealed", "sealed, slots"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("ending", ["left", "reset", "stays"])
async def test_no_login_brings_a_new_burst(how: str, ending: str) -> None:
    limits = Limits(**OPEN, message_rate=1, message_burst=100, rate_timeout=3_000)  # type: ignore[arg-type]
    async with serving(keys=[KEY], limits=limits) as server:
        began = asyncio.get_running_loop().time()
        clients = []
        for turn in range(12):
            client = await log_in_as(server, how, turn)
            client.send(notes(0, 90))
            await asyncio.sleep(0)
            if ending == "left":
                await client.close()
            elif ending == "reset":
                client.reset()
            else:
                clients.append(client)
        other = await RawClient.verified(server, 8)
        other.send(notes(0, 90))
        await other.echo(1)
        seconds = asyncio.get_running_loop().time() - began
        assert len(server.notes) <= 90 + 100 + limits.turn_frames + seconds
        others = [n for uid, n in server.notes if uid == 8]
        assert others == list(range(90)), "another user has its own"
        for client in (*clients, other):
            await client.close()


@needs_ipv6
async def test_an_exempt_network_has_no_rates_though_its_user_has_them_elsewhere() -> None:
    limits = Limits(message_rate=1, message_burst=10, rate_timeout=3_000, exempt=("::1/128",))
    async with serving("tcp://127.0.0.1:0", "tcp://[::1]:0", limits=limits) as server:
        slow = await ExtendedClient.logged_in(server.endpoints[0], 7, slot=1)
        slow.send(notes(0, 50))
        await until(lambda: server.stats.rate_paused)
        fast = await RawClient.verified(server.endpoints[1], 7)
        fast.send(notes(100, 500))
        await fast.echo(1)
        assert [n for _, n in server.notes if n >= 100] == list(range(100, 600))
        for client in (slow, fast):
            await client.close()


@pytest.mark.parametrize("how", WAYS)
async def test_no_login_brings_a_new_rate_of_a_message_type(how: str) -> None:
    server = EchoServer(keys=[KEY], limits=Limits(**OPEN))  # type: ignore[arg-type]
    del server.handlers.routes[CATALOG.find(Note).id]
    server.on(Note, rate=0.01)(lambda session, message: server.notes.append((session.uid, message.n)))
    async with server:
        for turn in range(8):
            client = await log_in_as(server, how, turn)
            client.send(notes(0, 20))
            if how == "base":
                await client.echo(1)
            await client.close()
        await until(lambda: not server.sessions or all(session.ticket for session in server.sessions))
        assert server.notes == [(7, 0)]
        await server.stop(0)


@pytest.mark.parametrize("each", [1, 240])
@pytest.mark.parametrize("how", WAYS)
async def test_a_user_that_logs_in_sends_and_leaves_piles_up_no_handlers(how: str, each: int) -> None:
    limits = Limits(**OPEN, message_burst=100_000)  # type: ignore[arg-type]
    server = EchoServer(keys=[KEY], limits=limits)
    gate = asyncio.Event()
    running = most = 0

    @server.instead(Note)
    async def slow(session: Session, message: Note) -> None:
        nonlocal running, most
        if session.uid == 8:
            server.notes.append((8, message.n))
            return
        running += 1
        most = max(most, running)
        try:
            await gate.wait()
        finally:
            running -= 1

    async with server:
        user: Any = None
        for turn in range(40):
            client = await log_in_as(server, how, turn)
            session = next(iter(server.sessions), None)
            user = session.user if session is not None else user
            client.send(notes(0, each))
            await asyncio.sleep(0)
            await client.close()
        assert most <= limits.max_slots
        assert user.frames <= limits.max_inbox + limits.turn_frames + limits.window_frames + 2 * limits.turn_frames
        other = await RawClient.verified(server, 8)
        other.send(notes(1, 1))
        await until(lambda: server.notes == [(8, 1)], "another user does not wait")
        gate.set()
        await until(lambda: not running and not user.frames and not user.waiting)
        await other.close()
        await server.stop(0)


async def test_behind_gateways_a_user_has_one_rate_of_a_type_and_one_count_of_groups_at_a_service() -> None:
    async with cluster() as town:
        gateways = [await town.gateway(id) for id in (1, 2)]
        lobby = await town.lobby(20)
        del lobby.handlers.routes[CLUSTER_CATALOG.find(Say).id]
        lobby.on(Say, rate=0.01)(lambda session, message: lobby.heard.append((session.uid, message.n)))
        sessions = [await log_in(gateways[slot % 2], 7, slot=slot) for slot in range(4)]
        await until(lambda: len(lobby.players) == 4)
        assert len({player.user for player in lobby.players}) == 1
        for session in sessions:
            for n in range(5):
                session.send(Say(n))
        await until(lambda: sum(lobby.stats.rate_dropped.values()) == 19)
        assert len(lobby.numbers(7)) == 1
        players = list(lobby.players)
        for n in range(600):
            players[n % 4].join(f"g{n}")
        assert players[0].user.groups == 600
        for session in sessions:
            session.close()
            await session.wait_closed()
        await until(lambda: not len(lobby.players) and not len(lobby.context.groups))
        assert players[0].user.groups == 0
        await until(lambda: all(not len(gateway.context.users) for gateway in gateways))


@pytest.mark.parametrize("how", ["base", "extension"])
async def test_what_comes_with_the_login_itself_is_charged_too(how: str) -> None:
    """Messages right behind each login request, which are read before the user is verified."""
    limits = Limits(**OPEN, message_rate=1, message_burst=10, rate_timeout=3_000)  # type: ignore[arg-type]
    async with serving(limits=limits) as server:
        began = asyncio.get_running_loop().time()
        for turn in range(30):
            if how == "base":
                client = await RawClient.open(server)
            else:
                client = await ExtendedClient.extended(server, features=0, slot=turn % 4)
            client.send(verify_request(7) + notes(turn, 2))
            await client.frame()
            if turn < 29:
                await client.close()
        seconds = asyncio.get_running_loop().time() - began
        assert len(server.notes) <= 10 + 2 + seconds
        assert next(iter(server.sessions)).is_paused
        await until(lambda: server.notes[-2:] == [(7, 29), (7, 30)], "they wait, and none is lost")
        await client.close()
