"""Promises: players of a silent server go to another one soon, and what the silent one still has is handled by nobody.

A server is silent when it is stopped, or cut off. Real processes are stopped here, and real sockets cut.
"""

import asyncio
import signal
from typing import Any

import pytest

from gatelink import CloseCode, connect
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.session.states import SessionState
from tests.e2e.cluster.support import (
    CATALOG,
    KEY,
    LOBBY,
    QUICK_LINKS,
    Client,
    Recorder,
    Say,
    between,
    cluster,
    player,
)
from tests.e2e.engines import fresh_bucket
from tests.e2e.support import leave, token_of, until
from tests.processes import Process, python
from tests.support import MS

SOON = {LOBBY: Rules(give_up_seconds=1_500 * MS)}


async def say_until(client: Client, first: int, is_over: Any) -> int:
    """Says a number every 20 ms from `first` on; returns the next one."""
    n = first
    while not is_over():  # noqa: ASYNC110
        client.say(n)
        n += 1
        await asyncio.sleep(20 * MS)
    return n


async def lines(process: Process, until_line: str) -> list[str]:
    """What a process prints, up to a line that begins so."""
    assert process.stdout is not None
    found: list[str] = []
    while not found or not found[-1].startswith(until_line):
        line = (await process.stdout.readline()).decode().strip()
        assert line, "it ended"
        if line.startswith(("heard", "closed", "started")):
            found.append(line)
    return found


async def test_a_process_that_was_stopped_handles_nothing_old_when_it_is_continued(nats_server: NatsServer) -> None:
    bucket = fresh_bucket()
    async with (
        cluster(NatsEngine(nats_server.url, bucket=bucket)) as town,
        python("-m", "tests.e2e.cluster.frozen", "lobby", nats_server.url, bucket, KEY.to_hex()) as frozen,
    ):
        await lines(frozen, "started")
        gateway = await town.gateway(1, rules=SOON, link_limits=QUICK_LINKS)
        await until(lambda: gateway.cluster.links.is_open(20))
        async with player(gateway, 7) as client:
            client.say(0)
            await lines(frozen, "heard 0")
            second = await town.lobby(21, link_limits=QUICK_LINKS)
            frozen.send_signal(signal.SIGSTOP)
            then = await say_until(client, 1, lambda: second.numbers(7))
            lost = second.player(7).lost_messages
            frozen.send_signal(signal.SIGCONT)
            assert await lines(frozen, "closed 4011") == ["closed 4011"]
            await until(lambda: gateway.cluster.links.is_open(20))
            client.say(then)
            await until(lambda: then in second.numbers(7))
        heard = second.numbers(7)
        assert heard == list(range(heard[0], then + 1)), "in order and once"
        assert heard[0] - 1 <= lost <= heard[0], "each lost one is counted, and perhaps the one that was handled"


async def test_a_gateway_that_was_stopped_for_less_than_the_window_loses_nothing(nats_server: NatsServer) -> None:
    """Its entry may have expired meanwhile."""
    bucket = fresh_bucket()
    async with (
        cluster(NatsEngine(nats_server.url, bucket=bucket)) as town,
        python("-m", "tests.e2e.cluster.frozen", "gateway", nats_server.url, bucket, KEY.to_hex()) as frozen,
    ):
        (started,) = await lines(frozen, "started")
        lobby = await town.lobby(20, link_limits=QUICK_LINKS)
        await town.lobby(21, link_limits=QUICK_LINKS)
        await until(lambda: all(server.cluster.links.is_open(1) for server in town.servers))
        client = Client()
        how: dict[str, Any] = {"catalog": CATALOG, "token": token_of(7).decode(), "handlers": client.handlers}
        client.session = await connect(started.split()[1], uid=7, **how)
        await client.ask(1_000)
        player, link = lobby.player(7), lobby.cluster.links.get(1)
        assert link is not None
        frozen.send_signal(signal.SIGSTOP)
        client.say(1, 2, 3)
        player.send(Say(1_001))
        await until(lambda: link.session.state is SessionState.DETACHED)
        lobby.cluster.links.registry_changed(link.info, None)
        player.send(Say(1_002))
        frozen.send_signal(signal.SIGCONT)
        await until(lambda: lobby.numbers(7) == [1, 2, 3])
        await until(lambda: client.heard == [1_000, 1_001, 1_002])
        await client.ask(1_003)
        assert "closed" not in lobby.of(7)
        await leave(client.session)


@pytest.mark.parametrize("rule", [OnDeath.REBIND, OnDeath.DROP])
async def test_a_service_that_is_cut_off_is_given_up_and_handles_nothing_that_waits(rule: OnDeath) -> None:
    async with cluster() as town:
        rules = {LOBBY: Rules(on_death=rule, give_up_seconds=1_500 * MS)}
        gateway = await town.gateway(1, rules=rules, link_limits=QUICK_LINKS)
        first = Recorder("lobby", LOBBY, member=town.member(20), link_limits=QUICK_LINKS)
        go_on = asyncio.Event()

        @first.instead(Say)
        async def heard(session: Any, message: Say) -> None:
            first.heard.append((session.uid, message.n))
            await go_on.wait()

        async with between(first) as proxy:
            await town.start(first)
            async with player(gateway, 7) as client:
                client.say(1, 2, 3)
                await until(lambda: first.numbers(7))
                second = await town.lobby(21, link_limits=QUICK_LINKS)
                proxy.drop()
                then = await say_until(client, 4, lambda: second.numbers(7))
                go_on.set()  # the one under way ends, and the next must not begin
                proxy.restore()
                proxy.cut_all()
                await town.settled()
                client.say(then)
                await until(lambda: then in second.numbers(7))
                await until(lambda: "closed" in first.of(7))
                assert first.numbers(7) == [1]
                newest = second.numbers(7)
                assert newest == sorted(set(newest))


async def test_a_service_that_is_cut_off_is_waited_for_where_there_is_no_other_and_nothing_is_lost() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, rules=SOON, link_limits=QUICK_LINKS)
        lobby = Recorder("lobby", LOBBY, member=town.member(20), link_limits=QUICK_LINKS)
        async with between(lobby) as proxy:
            await town.start(lobby)
            link = gateway.cluster.links.get(20)
            assert link is not None
            async with player(gateway, 7) as client:
                await client.ask(0)
                proxy.drop()
                then = await say_until(client, 1, lambda: link.session.state is SessionState.DETACHED)
                then = await say_until(client, then, lambda: link.silent > 3_000 * MS)
                proxy.restore()
                proxy.cut_all()
                client.say(then)
                await until(lambda: then in lobby.numbers(7))
                assert lobby.numbers(7) == list(range(1, then + 1))
                assert "closed" not in lobby.of(7)


async def test_with_hold_a_silent_server_is_waited_for() -> None:
    async with cluster() as town:
        rules = {LOBBY: Rules(on_death=OnDeath.HOLD, give_up_seconds=1_500 * MS)}
        gateway = await town.gateway(1, rules=rules, link_limits=QUICK_LINKS)
        first = Recorder("lobby", LOBBY, member=town.member(20), link_limits=QUICK_LINKS)
        async with between(first) as proxy:
            await town.start(first)
            link = gateway.cluster.links.get(20)
            assert link is not None
            async with player(gateway, 7) as client:
                await client.ask(0)
                second = await town.lobby(21, link_limits=QUICK_LINKS)
                proxy.drop()
                client.say(1)
                await until(lambda: link.session.state is SessionState.DETACHED and link.silent > 2_500 * MS)
                proxy.restore()
                proxy.cut_all()
                client.say(2)
                await until(lambda: first.numbers(7) == [1, 2])
                assert second.numbers(7) == []


async def test_a_silent_server_under_close_ends_the_sessions_with_4011() -> None:
    async with cluster() as town:
        rules = {LOBBY: Rules(on_death=OnDeath.CLOSE, give_up_seconds=1_500 * MS)}
        gateway = await town.gateway(1, rules=rules, link_limits=QUICK_LINKS)
        first = Recorder("lobby", LOBBY, member=town.member(20), link_limits=QUICK_LINKS)
        async with between(first) as proxy:
            await town.start(first)
            async with player(gateway, 7, slot=0) as client:
                await client.ask(0)
                await town.lobby(21, link_limits=QUICK_LINKS)
                proxy.drop()
                await client.session.wait_closed()
                assert client.session.close_code is CloseCode.GOING_AWAY
