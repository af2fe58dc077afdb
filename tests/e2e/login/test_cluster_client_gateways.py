"""A client of a cluster whose gateways break, leave and come back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from examples.cluster_client import client as cluster_client
from examples.hello import server as hello
from gatelink import (
    Backoff,
    CloseCode,
    Limits,
    Player,
    RequestCode,
    RequestFailed,
    Service,
    SessionClosed,
    connect_cluster,
)
from gatelink.auth.accounts import Accounts
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, RegistryGateways
from gatelink.session.states import SessionState
from gatelink.wire.control import Lost
from tests.e2e.cluster.support import cluster
from tests.e2e.login.support import fast_passwords, new_service
from tests.e2e.login.town import CATALOG, DEVICE, KEY, SOON, Double, Doubled, Note, Seen, tokens_of, town
from tests.e2e.support import until
from tests.support import MS

pytestmark = pytest.mark.usefixtures("gone_soon")


async def test_a_broken_connection_is_resumed_without_a_loss(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            session = client.session
            client.send(Note(0))
            await until(lambda: seen.notes == [0])
            t.gates[0].proxy.cut_all()
            for n in range(1, 50):
                client.send(Note(n))
            assert await client.request(Double(4)) == Doubled(8)
            await until(lambda: seen.notes == list(range(50)))
            assert client.session is session and t.gates[0].notes == list(range(50))
            assert seen.events == ["verified", "suspended", "resumed"]


async def test_a_killed_gateway_is_followed_by_another_one_and_what_waited_arrives_there(
    tmp_path: Path,
) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            assert await client.request(Double(1)) == Doubled(2)
            lost = asyncio.create_task(client.request(Double(0), timeout=60))
            await until(lambda: t.gates[0].asked == 2)
            await t.kill(t.gates[0])
            await until(lambda: "suspended" in seen.events)
            for n in range(20):
                client.send(Note(n))
            with pytest.raises(RequestFailed) as failed:
                await lost
            assert failed.value.code is RequestCode.CLOSED
            late = asyncio.create_task(client.request(Double(5), timeout=60))
            await until(lambda: client.session.close_code is None and "restarted" in seen.events)
            client.send(Note(20))
            assert await late == Doubled(10)
            await until(lambda: seen.notes == list(range(21)))
            assert t.gates[1].notes == list(range(21))
            assert seen.events == ["verified", "suspended", "restarted"]
            assert seen.sessions[-1] is client.session is not seen.sessions[0]
        await until(lambda: seen.events[-1] == "closed 4000")


async def test_what_was_on_its_way_to_a_dead_gateway_is_told_as_lost_and_only_that(tmp_path: Path) -> None:
    seen = Seen()
    told: list[tuple[list[str], Lost]] = []
    seen.handlers.on_lost(lambda session, lost: told.append((list(seen.events), lost)))
    async with town(tmp_path) as t, await t.client(seen) as client:
        assert await client.request(Double(1)) == Doubled(2)
        await until(lambda: client.session.unacknowledged == 0)
        t.gates[0].proxy.drop()
        for n in range(5):
            client.send(Note(n))
        await until(lambda: client.session.unacknowledged == 5)
        await t.kill(t.gates[0])
        await until(lambda: "suspended" in seen.events)
        client.send(Note(5))
        await until(lambda: t.gates[1].notes == [5])
        assert told == [(["verified", "suspended", "restarted"], Lost(0, 5, 0))]


async def test_a_request_that_waits_for_the_session_is_not_sent_to_the_next_gateway(tmp_path: Path) -> None:
    """Its requester was told that it failed, so it must not happen."""
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            await t.kill(t.gates[0])
            await until(lambda: "suspended" in seen.events)
            assert client.session.state is SessionState.DETACHED
            with pytest.raises(RequestFailed) as failed:
                await client.request(Double(3), timeout=60)
            assert failed.value.code is RequestCode.CLOSED
            await until(lambda: "restarted" in seen.events)
            assert await client.request(Double(4)) == Doubled(8)
            assert t.gates[1].asked == 1 and t.gates[1].stats.stray_answers == 0


async def test_what_waits_while_there_is_no_session_is_bounded(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        client = await t.client(seen, limits=Limits(max_outbox_frames=10))
        t.listed.infos.clear()
        await t.kill(t.gates[0])
        await until(lambda: client.session.close_code is not None)
        with pytest.raises(SessionClosed, match="4006"):
            for n in range(11):
                client.send(Note(n))
        await client.wait_closed()
        assert client.close_code is CloseCode.SLOW_CONSUMER
        await until(lambda: seen.events == ["verified", "suspended", "closed 4006"])


async def test_all_gateways_and_the_login_go_and_come_back(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            listen = t.login.url
            await t.login.stop()
            for gate in t.gates:
                await t.kill(gate)
            await until(lambda: client.session.close_code is not None)
            client.send(Note(1))
            await t.gate()
            assert "restarted" not in seen.events
            await t.start_login(listen)
            await until(lambda: seen.notes == [1])
            assert seen.events == ["verified", "suspended", "restarted"] and t.gates[2].notes == [1]


async def test_too_many_attempts_in_vain_end_the_client(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        client = await t.client(seen, reconnect=Backoff(first=MS, most=MS, attempts=3))
        await t.login.stop()
        await t.kill(t.gates[0])
        await client.wait_closed()
        assert client.close_code is CloseCode.GOING_AWAY and "3 attempts" in client.close_reason
        await until(lambda: seen.events == ["verified", "suspended", "closed 4011"])
        await t.start_login()


async def test_a_server_that_stops_or_sends_its_clients_away_is_left_for_another_one(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path, gates=3) as t:
        async with await t.client(seen) as client:
            first = t.gates[0].sessions.get(client.session.uid)
            assert first is not None
            other = t.listed.infos[1].addresses[0]
            t.listed.infos = t.listed.infos[1:]
            first.go_away(0, other)
            await until(lambda: seen.events[1:] == ["suspended", "restarted"])
            assert len(t.gates[1].sessions) == 1
            t.listed.infos = t.listed.infos[1:]
            await t.gates[1].stop(0)
            await t.kill(t.gates[1], is_listed=True)
            await until(lambda: seen.events[3:] == ["suspended", "restarted"])
            assert await client.request(Double(1)) == Doubled(2) and len(t.gates[2].sessions) == 1


async def test_a_gateway_that_vanished_from_the_list_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host is dead: nothing refuses the dial, it only takes its time."""
    monkeypatch.setattr("gatelink.cluster_client.CHECK", 20 * MS)
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            t.gates[0].proxy.pause()
            t.gates[0].proxy.cut_all()
            await until(lambda: "suspended" in seen.events)
            t.listed.infos = t.listed.infos[1:]
            await until(lambda: seen.events == ["verified", "suspended", "restarted"])
            assert await client.request(Double(1)) == Doubled(2)


async def test_a_session_is_kept_while_no_gateway_at_all_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the registry is the one that is ill, and there is nowhere else to go."""
    monkeypatch.setattr("gatelink.cluster_client.CHECK", 10 * MS)
    seen = Seen()
    asked = 0
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            every = t.listed.all

            def all_of_them() -> list[GatewayInfo]:
                nonlocal asked
                asked += 1
                return every()

            monkeypatch.setattr(t.listed, "all", all_of_them)
            listed, t.listed.infos = t.listed.infos, []
            t.gates[0].proxy.pause()
            t.gates[0].proxy.cut_all()
            await until(lambda: asked > 3)
            assert client.session.state is SessionState.DETACHED
            t.gates[0].proxy.resume()
            await until(lambda: seen.events == ["verified", "suspended", "resumed"])
            t.listed.infos = listed


async def test_a_session_on_a_plain_connection_is_followed_by_a_new_one(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path, gates=1, keys=[]) as t:
        async with await t.client(seen) as client:
            assert client.session.ticket is None
            t.gates[0].proxy.cut_all()
            await until(lambda: seen.events == ["verified", "suspended", "restarted"])
            assert await client.request(Double(1)) == Doubled(2)


async def test_the_example_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with town(tmp_path, catalog=hello.server.catalog) as t:
        for gate in t.gates:
            gate.on(hello.Hello)(hello.hello)
        running = asyncio.create_task(cluster_client.main(t.login.url, DEVICE))
        printed = ""

        def says(words: str) -> bool:
            nonlocal printed
            printed += capsys.readouterr().out
            return words in printed

        await until(lambda: len(t.gates[0].sessions) == 1)
        uid = next(iter(t.gates[0].sessions)).uid
        await until(lambda: says(f"hello, {uid}!"))
        await t.kill(t.gates[0])
        await until(lambda: says(f"hello again, {uid}!"))
        assert "a new session" in printed
        t.gates[1].sessions.kick(uid)
        await running


async def test_players_of_a_cluster_find_its_next_gateway_when_theirs_drains_or_is_killed(tmp_path: Path) -> None:
    """Gateways, links and a service that answers, with the registry's own list of gateways."""
    seen = Seen()
    async with cluster() as real, Accounts(f"sqlite:///{tmp_path}/a.db", passwords=fast_passwords()) as accounts:
        engine = real.engine
        assert isinstance(engine, MemoryEngine)
        how: dict[str, Any] = {"tokens": tokens_of(engine), "catalog": CATALOG, "keys": [KEY], "drain_seconds": 0.5}
        lobby = await real.start(Service("lobby", type=12, catalog=CATALOG, member=real.member(20)))

        @lobby.on(Double)
        def double(player: Player, message: Double) -> Doubled:
            return Doubled(2 * message.n)

        @lobby.on(Note)
        def note(player: Player, message: Note) -> None:
            player.send(message)

        gateways = [await real.gateway(id, **how) for id in (1, 2, 3)]
        registry = lobby.cluster.registry
        listed = RegistryGateways(registry, engine.now)
        await until(lambda: sum(gateway.open for gateway in listed.all()) == 3)
        async with new_service(engine, accounts, gateways=listed, tokens=tokens_of(engine)) as login:
            wanted: dict[str, Any] = {"guest": DEVICE, "catalog": CATALOG, "reconnect": SOON, "handlers": seen.handlers}
            async with await connect_cluster(login.url, **wanted) as client:
                uid = client.session.uid
                assert await client.request(Double(1)) == Doubled(2)
                first = next(gateway for gateway in gateways if gateway.sessions.get(uid) is not None)
                await first.stop()
                await until(lambda: seen.events == ["verified", "suspended", "restarted"])
                assert await client.request(Double(2)) == Doubled(4)
                second = next(gateway for gateway in gateways if gateway.sessions.get(uid) is not None)
                assert second is not first
                await real.kill(second)
                await until(lambda: seen.events[3:] == ["suspended", "restarted"])
                client.send(Note(9))
                await until(lambda: seen.notes == [9])
                await lobby.cluster.kick(uid)
                await client.wait_closed()
                assert client.close_code is CloseCode.KICKED
