"""Promises: a process that stood still handles nothing old; with `fence` a store refuses what an older one writes."""

import asyncio
import sqlite3
from typing import Any

import pytest

from gatelink import CloseCode, Player, Server, StaticTokens
from gatelink.cluster.gateway import Gateway
from gatelink.session.standstill import machine_time
from tests.e2e.cluster.support import CATALOG, Ask, Client, Recorder, Say, cluster, gateway_and_lobby, log_in, player
from tests.e2e.support import TCP, leave, until
from tests.processes import ROOT

LONG = 60.0  # s; longer than any link's timeout


def stand_still(server: Gateway | Recorder) -> None:
    """From now on the machine's clock is LONG ahead. The first that reads or handles something notices it."""
    standstill = server.context.standstill
    assert standstill is not None
    standstill.stop()
    standstill._clock = lambda: machine_time() + LONG


async def handling_the_first_of_three(lobby: Recorder, client: Client) -> asyncio.Event:
    """The client says 1, 2 and 3, and the handler of 1 waits for this event."""
    go_on, begun = asyncio.Event(), asyncio.Event()

    @lobby.instead(Say)
    async def say(session: Player, message: Say) -> None:
        lobby.heard.append((session.uid, message.n))
        begun.set()
        await go_on.wait()

    client.say(1, 2, 3)
    await begun.wait()
    return go_on


async def test_what_waits_in_a_socket_is_not_handled_after_a_standstill() -> None:
    async with gateway_and_lobby() as (town, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        before = lobby.player(7)
        (link,) = [link for link in lobby.cluster.links if link.id == gateway.id]
        stand_still(lobby)
        client.say(2, 3)
        await until(lambda: "closed" in lobby.of(7))
        assert lobby.numbers(7) == []
        assert lobby.cluster.standstills == 1
        assert before.close_code is CloseCode.GOING_AWAY and link.session.close_code is not None
        await town.settled()
        await client.ask(4)
        after = lobby.player(7)
        assert lobby.numbers(7) == []
        assert after.fence > before.fence and after.lost_messages in (
            2,
            3,
        )  # the answered one may count: it was not reported yet


async def test_what_waits_in_an_inbox_is_not_handled_after_a_standstill() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        go_on = await handling_the_first_of_three(lobby, client)
        old = lobby.player(7)
        await until(lambda: old.inbox is not None and len(old.inbox.items) == 2)
        stand_still(lobby)
        go_on.set()
        await until(lambda: lobby.of(7).count("closed") == 1)
        assert lobby.numbers(7) == [1]


async def test_a_tick_stops_at_the_message_in_which_the_process_stood_still() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = await town.lobby(20, tick_hz=20)

        @lobby.instead(Say)
        def say(session: Any, message: Say) -> None:
            lobby.heard.append((session.uid, message.n))
            if message.n == 1:
                stand_still(lobby)
                sum(range(100_000))  # some time goes by, so that the call counts as slow

        async with player(gateway, 7) as client:
            client.say(1, 2, 3)
            await until(lambda: "closed" in lobby.of(7))
            assert lobby.numbers(7) == [1]


async def test_a_process_whose_id_another_one_took_handles_nothing_more() -> None:
    async with gateway_and_lobby() as (town, gateway, lobby), player(gateway, 7) as client:
        go_on = await handling_the_first_of_three(lobby, client)
        town.servers.remove(lobby)
        second = await town.lobby(20)
        await until(lambda: lobby.is_replaced)
        go_on.set()
        await until(lambda: not lobby.is_running)
        assert lobby.numbers(7) == [1]
        await client.ask(4)
        assert second.numbers(7) == []
        assert second.player(7).lost_messages in (2, 3), "the first may count: it was under way"


async def test_a_gateway_that_stood_still_forwards_nothing_of_an_older_login() -> None:
    """The directory has the newer login, of which the gateway has not heard."""
    async with gateway_and_lobby() as (town, gateway, lobby):
        room = await town.room(30)
        async with player(gateway, 7) as client, player(gateway, 8) as other:
            await client.ask(1)
            await other.ask(1)
            place = await gateway.cluster.find(7)
            assert place is not None
            await gateway.arbiter.directory.take_epoch(7, 0)  # as another gateway does
            stand_still(gateway)
            client.say(2)
            client.move(3)
            other.say(2)
            other.move(3)
            await client.session.wait_closed()
            assert client.session.close_code is CloseCode.REPLACED
            await other.ask(4)
            await until(lambda: room.numbers(8) == [3])
            assert lobby.numbers(7) == room.numbers(7) == []
            assert lobby.numbers(8) == [2]


async def test_a_gateway_that_stood_still_goes_on_though_the_engine_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.cluster.login_arbiter.SETTLE_SECONDS", 0.1)
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)

        async def away(above: int = 0) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(gateway.arbiter.directory.epochs, "begin_again", away)
        stand_still(gateway)
        client.say(1, 2, 3)
        await client.ask(4)
        assert lobby.numbers(7) == [1, 2, 3]


def store() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE gold (uid BIGINT, slot INT, amount BIGINT, epoch BIGINT, binding BIGINT)")
    db.execute("INSERT INTO gold VALUES (7, 0, 0, 0, 0)")
    return db


UPDATE = (ROOT / "docs/cluster.md").read_text().partition('UPDATE = """')[2].partition('"""')[0]  # as documented


async def test_a_store_refuses_what_a_service_writes_after_its_successor() -> None:
    """The rule of docs/cluster.md, on the same handler code in services and in a plain server."""
    with store() as db:

        def write(session: Any, amount: int) -> bool:
            epoch, binding = session.fence
            values = {"amount": amount, "epoch": epoch, "binding": binding, "uid": session.uid, "slot": session.slot}
            return db.execute(UPDATE, values).rowcount == 1

        async with cluster() as town:
            gateway = await town.gateway(1)
            lobby, second = await town.lobby(20), None
            async with player(gateway, 7) as client:
                await client.ask(1)
                old = lobby.player(7)
                assert write(old, 1) and write(old, 2)
                second = await town.lobby(21)
                old.bind(12, 21)
                await client.ask(2)
                await until(lambda: second.players.get(7) is not None)
                assert write(second.player(7), 3)
                assert not write(old, 4), "an older binding"
            other = await town.gateway(2)
            async with player(other, 7) as client:
                await client.ask(1)
                (newest,) = [found for each in (lobby, second) if (found := each.players.get(7)) is not None]
                assert write(newest, 5)
                assert not write(old, 6), "an older login"
        assert db.execute("SELECT amount FROM gold").fetchone() == (5,)
    db.close()


async def test_a_session_of_a_plain_server_has_a_fence_too() -> None:
    fences = []
    async with Server(TCP, tokens=StaticTokens(), catalog=CATALOG) as server:
        server.on(Ask)(lambda session, message: session.send(message))
        server.on_verified(lambda session: fences.append(session.fence))
        for _ in range(2):
            await leave(await log_in(server, 7))
    assert fences[0] < fences[1] and fences[0][1] == 0
