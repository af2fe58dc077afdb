"""Odd messages that the original server took, and those that no server takes (docs/protocol.md, "Base messages")."""

import struct
from typing import Any

import pytest

from gatelink import CloseCode, ConfigError, Gateway, Server, WireOptions
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.testing import BaseClient
from gatelink.wire.frames import encode_frame
from tests.e2e.base_clients import CATALOG, LOBBY, SAY, WORLDS, Say, World, say, world
from tests.e2e.cluster.support import CATALOG as TOWN_CATALOG
from tests.e2e.cluster.support import Recorder, cluster
from tests.e2e.support import TCP, RawClient, closing, token_of, until, verify_request
from tests.support import MS

UNKNOWN = (5, 23, 25, 58, 99, 200, 10_999, 59_000)


async def goes_on(there: World, client: BaseClient) -> bool:
    """Whether the session lives: one message there and back."""
    before = len(there.heard)
    client.send(SAY, say(before))
    await until(lambda: len(there.heard) > before or 0 in [heard.id for heard in client.events])
    return len(there.heard) > before


@pytest.mark.parametrize("name", WORLDS)
async def test_a_request_with_fields_of_a_newer_client_is_understood(name: str) -> None:
    async with world(name) as there, closing(RawClient.open(there.front)) as client:
        request = verify_request(7)
        client.send(encode_frame(1, request[6:] + b"\x05\x00extra"))
        assert (await client.frame())[0] == 2


@pytest.mark.parametrize("name", WORLDS)
async def test_trailing_bytes_of_a_message_are_skipped(name: str) -> None:
    async with world(name) as there, await there.client(7) as client:
        client.send(SAY, say(1, b"x") + b"a newer field")
        await client.message(SAY)
        assert there.heard == [(7, 1)] and await goes_on(there, client)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("form", [{}, {"scramble": True, "compress": True}], ids=["plain", "both"])
async def test_a_heartbeat_with_a_body_is_a_heartbeat(name: str, form: dict[str, Any]) -> None:
    async with world(name) as there, await there.client(7, **form) as client:
        client.send(4, b"12345678")
        assert await goes_on(there, client) and there.front.stats.closed == {}


@pytest.mark.parametrize("name", WORLDS)
async def test_ids_that_nobody_knows_are_dropped_and_counted(name: str) -> None:
    async with world(name) as there, await there.client(7) as client:
        for id in UNKNOWN:
            client.send(id, b"whatever")
        assert await goes_on(there, client)
        assert there.front.stats.unhandled == len(UNKNOWN) and there.front.stats.closed == {}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("id", [0, 1, 2, 3, 24, 100, 109, 199, 60_000, 65_535])
async def test_ids_that_no_client_may_send_end_the_session(name: str, id: int) -> None:
    async with world(name) as there, await there.client(7) as client:
        client.send(id, verify_request(7)[6:] if id == 1 else b"")
        await client.closed()
        assert there.front.stats.closed == {CloseCode.PROTOCOL_ERROR: 1}


@pytest.mark.parametrize("name", WORLDS)
async def test_scrambling_covers_the_frameworks_own_messages(name: str) -> None:
    """The original's setting scrambles every frame, also those without a body."""
    async with world(name, wire=WireOptions(scramble=True), services={"wire": WireOptions(scramble=True)}) as there:
        older, newer = await there.client(7, scramble=True), await there.client(7, scramble=True)
        assert await goes_on(there, newer)
        await older.closed()
        assert older.flags_received == [(2, 2), (24, 2)]
        assert set(newer.flags_received) == {(2, 2), (SAY, 2)} and newer.answer is not None and newer.answer.uid == 7
        session = there.front.sessions.get(7)
        assert session is not None
        session._beat(session._stream, 0.0, 0.0)  # type: ignore[arg-type]
        await newer.until(lambda: (4, 2) in newer.flags_received)
        async with BaseClient(8, b"wrong", scramble=True) as refused:
            await refused.open(there.endpoint)
            await refused.closed()
            assert refused.flags_received == [(3, 2)]
        await older.close()
        await newer.close()


@pytest.mark.parametrize("name", WORLDS)
async def test_the_source_of_the_answer_is_a_setting(name: str) -> None:
    async with world(name, source=1) as there, await there.client(7) as client:
        assert client.answer is not None and client.answer.source == 1
    async with world(name) as there, await there.client(7) as client:
        assert client.answer is not None and client.answer.source == 0
    with pytest.raises(ConfigError, match="source is 256"):
        Server(TCP, source=256)


async def test_a_gateway_can_drop_at_once_what_no_server_is_there_for() -> None:
    """The rest of the player's messages do not wait; a server that comes later is told how many were lost."""
    rules = {13: Rules(on_death=OnDeath.DROP), 14: Rules(on_death=OnDeath.DROP)}
    async with world("gateway", rules=rules) as there, await there.client(7) as client:
        for n in range(5):
            client.send(13_001, struct.pack("<i", n))
            client.send(14_001)
            client.send(SAY, say(n))
        await until(lambda: there.numbers(7) == list(range(5)))
        assert isinstance(there.front, Gateway)
        relay = there.front.router
        assert relay.stats.lost == {13: 5, 14: 5} and not relay.stats.held and not relay.waiting
        assert there.front.stats.unhandled == 0


async def test_where_the_rule_is_to_drop_a_death_lets_nobody_wait() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules={LOBBY: Rules(on_death=OnDeath.DROP)})
        lobby = await town.lobby(20)
        async with BaseClient(7, token_of(7)) as client:
            await client.open(str(gateway.endpoints[0]))
            await client.verified()
            await until(lambda: len(lobby.players) == 1)
            await town.kill(lobby)
            await until(lambda: gateway.cluster.links.get(20) is None)
            kind, body = TOWN_CATALOG.encode(TOWN_CATALOG.by_name["Say"].type(1))
            client.send(kind.id, body)
            await until(lambda: gateway.router.stats.lost[LOBBY] >= 1)
            assert not gateway.router.waiting
            again: Recorder = await town.lobby(21)
            client.send(kind.id, TOWN_CATALOG.encode(TOWN_CATALOG.by_name["Say"].type(2))[1])
            await until(lambda: again.numbers(7) == [2])


async def test_a_known_type_without_a_server_is_held_and_an_unknown_one_is_not() -> None:
    """Known: by a rule, a route, a message of the catalog, or because there was such a server."""
    async with world("gateway", rules={13: Rules(hold_seconds=30)}) as there, await there.client(7) as client:
        assert isinstance(there.front, Gateway)
        client.send(59_000)
        client.send(SAY, say(1))
        await until(lambda: there.heard == [(7, 1)])
        assert there.front.stats.unhandled == 1 and not there.front.router.stats.lost
        client.send(13_001)
        router = there.front.router
        await until(lambda: router.waiting.get(13))


def test_the_catalog_of_these_tests_is_in_the_old_layout() -> None:
    assert CATALOG.encode(Say(1, b"x"))[1] == say(1, b"x") and MS > 0
