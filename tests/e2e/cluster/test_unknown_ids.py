"""Ids that a server does not know, from a client: each row of the table in docs/protocol.md, "Base messages"."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatelink import CloseCode, Limits, Server, ServerKey, StaticTokens
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.routes import OnDeath, Routes, Rules
from gatelink.config import WireOptions
from gatelink.wire.body import Scrambler, compress
from gatelink.wire.frames import COMPRESSED, SCRAMBLED, encode_frame
from gatelink.wire.messages import Catalog
from tests.e2e.cluster.support import CATALOG, LOBBY, ROOM, Ask, Say, Town, cluster, kill
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, RawClient, until

KEY = ServerKey.generate()

NEVER = [0, 1, 2, 3, 24, 100, 150, 199, 60_000, 65_535]
"""Protocol errors everywhere."""

ORIGINAL = [5, 23, 25, 99, 200, 500, 10_999]
"""The original engine's: dropped, as nothing here registers or routes them."""

UNKNOWN = [11_000, 17_000, 50_000, 59_999]
"""Without a handler, and at a gateway of types that no server has."""

SILENT = 4
"""HeartBeat."""

FLAGS = [0, COMPRESSED, SCRAMBLED, COMPRESSED | SCRAMBLED]


def frame(id: int, flags: int = 0) -> bytes:
    """A frame of any id, with a body that is as its flags say."""
    body = b"x" * 100
    if flags & COMPRESSED:
        body = compress(body)
    if flags & SCRAMBLED:
        body = Scrambler(WireOptions().scramble_key).scramble(body)
    return encode_frame(id, body, flags)


ECHO = encode_frame(CATALOG.find(Ask).id, CATALOG.encode(Ask(1))[1])


async def logged_in(server: Server, how: str) -> RawClient:
    if how == "base":
        return await RawClient.verified(server, 7)
    return await ExtendedClient.logged_in(server, 7, KEY.public)


async def is_open(client: RawClient) -> bool:
    """Whether a message behind all that was sent is answered."""
    client.send(ECHO)
    while True:
        try:
            if (await client.frame())[0] == CATALOG.find(Ask).id:
                return True
        except AssertionError:  # the server closed
            return False


@asynccontextmanager
async def one_process() -> AsyncIterator[Server]:
    server = Server(TCP, tokens=StaticTokens(), catalog=CATALOG, keys=[KEY])
    server.on(Ask)(lambda session, message: session.send(message))
    async with server:
        yield server
        await server.stop(0)


@asynccontextmanager
async def behind_gateway(close_unknown: bool = False) -> AsyncIterator[tuple[Town, Gateway]]:
    async with cluster() as town:
        rules = {40: Rules(hold_seconds=60.0), 41: Rules(on_death=OnDeath.DROP), 42: Rules(hold_seconds=0.05)}
        routes = Routes({"45000": 40, "46000": 0})
        gateway = await town.gateway(1, keys=[KEY], rules=rules, routes=routes, close_unknown=close_unknown)
        await town.lobby(20)
        yield town, gateway


@pytest.mark.parametrize("how", ["base", "sealed"])
@pytest.mark.parametrize("where", ["one process", "gateway"])
async def test_ids_that_no_client_may_send_are_protocol_errors(where: str, how: str) -> None:
    async with one_process() as server, behind_gateway() as (_, gateway):
        there = server if where == "one process" else gateway
        for count, id in enumerate(NEVER, 1):
            client = await logged_in(there, how)
            client.send(ECHO, frame(id), ECHO)
            await until(lambda count=count: there.stats.closed[CloseCode.PROTOCOL_ERROR] == count)  # type: ignore[misc]
            await client.close()
        assert there.stats.unhandled == 0


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("how", ["base", "sealed"])
@pytest.mark.parametrize("where", ["one process", "gateway"])
async def test_ids_that_nothing_knows_are_dropped_and_counted_and_hold_nothing_up(
    where: str, how: str, flags: int
) -> None:
    async with one_process() as server, behind_gateway() as (_, gateway):
        there = server if where == "one process" else gateway
        client = await logged_in(there, how)
        for count, id in enumerate([*ORIGINAL, *UNKNOWN, 46_000], 1):
            client.send(frame(id, flags))
            assert await is_open(client)
            assert there.stats.unhandled == count
        client.send(b"".join(frame(id, flags) for id in [*ORIGINAL, *UNKNOWN]))
        assert await is_open(client)
        assert there.stats.unhandled == 2 * len([*ORIGINAL, *UNKNOWN]) + 1
        client.send(frame(SILENT, flags))
        assert await is_open(client)
        assert not gateway.router.waiting and not gateway.router.stats.lost
        await client.close()


@pytest.mark.parametrize("how", ["base", "sealed"])
async def test_with_close_unknown_a_message_for_an_unknown_type_ends_the_session_and_no_other_drop_does(
    how: str,
) -> None:
    async with behind_gateway(close_unknown=True) as (_, gateway):
        client = await logged_in(gateway, how)
        client.send(b"".join(map(frame, [*ORIGINAL, 46_000, SILENT])))
        assert await is_open(client)
        await client.close()
        closed = gateway.stats.closed
        for count, id in enumerate(UNKNOWN, 1):
            for mixed in (False, True):
                client = await logged_in(gateway, how)
                client.send(ECHO + frame(id) + ECHO if mixed else frame(id))
                expected = 2 * count - (not mixed)
                await until(lambda n=expected: closed[CloseCode.PROTOCOL_ERROR] == n)  # type: ignore[misc]
                await client.close()
        assert gateway.stats.unhandled == len(ORIGINAL) + 1 + 2 * len(UNKNOWN)


async def test_known_types_without_a_server_are_held_dropped_or_lost_as_their_rules_say() -> None:
    async with behind_gateway() as (_, gateway):
        dropped, given_up, held = [await RawClient.verified(gateway, uid) for uid in (1, 2, 3)]
        dropped.send(frame(41_000))
        assert await is_open(dropped) and gateway.router.stats.lost == {41: 1}
        given_up.send(frame(42_000))
        await until(lambda: gateway.router.stats.lost == {41: 1, 42: 1})
        assert await is_open(given_up)
        held.send(frame(45_000))  # of type 40 by a route
        await until(lambda: set(gateway.router.waiting) == {40})
        assert gateway.stats.unhandled == 0
        for client in (dropped, given_up, held):
            await client.close()


@pytest.mark.parametrize("how", ["left", "killed"])
async def test_a_type_that_was_in_the_registry_once_is_known(how: str) -> None:
    """Its service is gone, and no rule, route or message of the gateway's catalog names it."""
    async with cluster() as town:
        gateway = await town.gateway(1, catalog=Catalog(), limits=Limits())
        client = await RawClient.verified(gateway, 7)
        client.send(frame(13_001))
        await until(lambda: gateway.stats.unhandled == 1, "nobody knows the type yet")
        room = await town.room(30, greet=False)
        if how == "left":
            await room.stop(0)
        else:
            town.servers.remove(room)
            await kill(room)
        await until(lambda: gateway.cluster.links.get(30) is None)
        client.send(frame(13_001))
        await until(lambda: set(gateway.router.waiting) == {ROOM})
        assert gateway.stats.unhandled == 1
        again = await town.room(31, greet=False)
        await until(lambda: not gateway.router.waiting and again.stats.verified == 1)
        await client.close()


async def test_the_unknown_reach_no_handler_and_no_service() -> None:
    """Whichever of them a client sends, the lobby gets only its own messages, in order."""
    async with behind_gateway() as (town, gateway):
        client = await RawClient.verified(gateway, 7)
        lobby = next(server for server in town.servers if server.id == 20)
        for n in range(20):
            client.send(frame(UNKNOWN[n % 4]) + encode_frame(CATALOG.find(Say).id, CATALOG.encode(Say(n))[1]))
        assert await is_open(client)
        await asyncio.sleep(0)
        heard = lobby.heard  # type: ignore[union-attr]
        assert [what for _, what in heard if isinstance(what, int)] == list(range(20))
        assert gateway.stats.unhandled == 20 and gateway.router.stats.forwarded == 21
        assert LOBBY in gateway.router.known
        await client.close()
