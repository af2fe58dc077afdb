"""Promises: whatever is lost between a client and a service, both hear of it, with a number for each direction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatelink import Lost, ServerKey
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.session.states import SessionState
from gatelink.wire.control import Features
from tests.e2e.cluster.support import LOBBY, Client, Recorder, Say, Town, cluster, log_in
from tests.e2e.cluster.test_standstill import stand_still
from tests.e2e.support import leave, until
from tests.fakes import extension_of

SERVER_KEY = ServerKey.generate()


class Teller(Recorder):
    """A lobby that notes what it was told to be lost."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.lost: list[Lost] = []
        self.on_lost(lambda session, lost: self.lost.append(lost))


@asynccontextmanager
async def town_of_two(**options: Any) -> AsyncIterator[tuple[Town, Gateway, Teller]]:
    async with cluster() as town:
        gateway = await town.gateway(1, keys=[SERVER_KEY], **options)
        yield town, gateway, await town.start(Teller("lobby", LOBBY, member=town.member(20)))


@asynccontextmanager
async def listener(gateway: Gateway, uid: int = 7) -> AsyncIterator[tuple[Client, list[Lost]]]:
    """A client that resumes, and what it was told to be lost."""
    client, lost = Client(), list[Lost]()
    client.handlers.on_lost(lambda session, what: lost.append(what))
    how: dict[str, Any] = {"server_key": SERVER_KEY.public, "resume": True}
    client.session = await log_in(gateway, uid, handlers=client.handlers, **how)
    try:
        yield client, lost
    finally:
        await leave(client.session)


def total(lost: list[Lost]) -> tuple[int, int]:
    assert {each.type for each in lost} <= {LOBBY}
    return sum(each.to_server for each in lost), sum(each.to_client for each in lost)


async def test_a_service_that_stood_still_costs_both_directions_and_both_sides_hear_how_much() -> None:
    async with town_of_two() as (_, gateway, lobby), listener(gateway) as (client, lost):
        await client.ask(1)
        await until(lambda: all(route.unhandled == 0 for each in gateway.router for route in each.routes.values()))
        stand_still(lobby)
        lobby.player(7).send(Say(50))
        standstill = lobby.context.standstill
        assert standstill is not None and standstill.check(), "before what was sent has left"
        await until(lambda: total(lost)[1])
        await client.ask(2)
        assert 50 not in client.heard
        to_server, to_client = total(lost)
        assert to_server == 0 and 1 <= to_client <= 2, "the answer may count: its acknowledgement may be on its way"
        assert total(lobby.lost) == (0, to_client)


async def test_what_a_dead_service_had_not_handled_is_told_to_the_client_and_to_the_next_service() -> None:
    async with town_of_two() as (town, gateway, lobby), listener(gateway) as (client, lost):
        await client.ask(1)
        await until(lambda: all(route.unhandled == 0 for each in gateway.router for route in each.routes.values()))
        second = await town.start(Teller("lobby", LOBBY, member=town.member(21)))
        stand_still(lobby)
        client.say(2, 3, 4)
        await until(lambda: total(lost)[0])
        await client.ask(5)
        heard_by = second if second.players.get(7) is not None else lobby
        assert total(lost)[0] == total(heard_by.lost)[0] == 3


async def test_a_client_without_a_connection_hears_of_it_when_it_is_back() -> None:
    async with town_of_two() as (town, gateway, lobby), listener(gateway) as (client, lost):
        await client.ask(1)
        await until(lambda: all(route.unhandled == 0 for each in gateway.router for route in each.routes.values()))
        session = gateway.sessions.get(7)
        assert session is not None
        route = gateway.router.players[session.epoch]
        stream: Any = client.session._stream
        stream.transport.abort()
        gateway.router.count_lost_of(route.sid, LOBBY, 4)
        await until(lambda: total(lost) == (4, 0))
        stream = client.session._stream
        stream.transport.abort()
        await until(lambda: client.session.state is SessionState.DETACHED)
        await until(lambda: client.session.state is SessionState.OPEN)
        await client.ask(2)
        assert total(lost) == (4, 0), "what is told again after each break counts once"


async def test_messages_that_a_rule_drops_are_told_together() -> None:
    rules = {LOBBY: Rules(on_death=OnDeath.DROP)}
    async with town_of_two(rules=rules) as (_, gateway, lobby), listener(gateway) as (client, lost):
        await client.ask(1)
        await lobby.stop()
        await until(lambda: not len(gateway.cluster.links))
        client.say(*range(100))
        await until(lambda: total(lost) == (100, 0))
        assert len(lost) < 10


@pytest.mark.parametrize("features", [Features.PING, Features.PING | Features.RESUME])
async def test_a_client_that_did_not_agree_is_sent_no_such_record(features: Features) -> None:
    async with town_of_two() as (_, gateway, lobby), listener(gateway) as (client, lost):
        await client.ask(1)
        session = gateway.sessions.get(7)
        assert session is not None
        extension_of(session).features = int(features)
        gateway.router.count_lost_of(session.epoch, LOBBY, 4)
        await client.ask(2)
        assert lost == [] and not gateway.router.players[session.epoch].losses
