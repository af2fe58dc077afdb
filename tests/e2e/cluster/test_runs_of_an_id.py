"""Which run of a server a link is to: one that stops says so; one that is new is known when its entry comes late."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from examples.demo import reserved_ports
from gatelink import CloseCode, StaticTokens
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.links import Link
from gatelink.cluster.registry import ServerInfo, State
from gatelink.session.states import SessionState
from gatelink.wire.envelope import Run
from tests.e2e.cluster.support import CATALOG, LOBBY, Recorder, cluster, gateway_and_lobby, player
from tests.e2e.support import TCP, until
from tests.faulty_engine import Store


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the lobby dials"])
@pytest.mark.parametrize("stopping", ["gateway", "lobby"])
async def test_a_member_that_stops_ends_its_links_for_good(gateway_id: int, stopping: str) -> None:
    """So that nobody probes whether it is there still."""
    async with cluster() as town:
        gateway, lobby = await town.gateway(gateway_id), await town.lobby(20)
        links = {"lobby": gateway.cluster.links, "gateway": lobby.cluster.links}[stopping]
        (link,) = links
        async with player(gateway, 7) as client:
            await client.ask(1)
            await (gateway if stopping == "gateway" else lobby).stop(0.5)
            await until(lambda: not len(links))
            assert link.session.close_code is CloseCode.NORMAL
            assert not links._probing


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the lobby dials"])
@pytest.mark.parametrize("ahead", [0, 3_600, -3_600], ids=["clocks agree", "its clock is ahead", "its clock is behind"])
async def test_a_server_whose_link_is_there_before_its_new_entry_is_known_by_that(gateway_id: int, ahead: int) -> None:
    """At a fixed address the next run can be dialled by what the last one's entry says."""
    with reserved_ports() as port:
        async with cluster() as town:
            gateway = await town.gateway(gateway_id)
            inner = f"tcp://127.0.0.1:{port}"
            first = await town.start(Recorder("lobby", LOBBY, member=town.member(20, inner=inner)))
            registry, links = gateway.cluster.registry, gateway.cluster.links
            see, late = registry._set, list[ServerInfo]()
            registry._set = late.append  # type: ignore[method-assign, assignment]  # the engine is slow to tell
            await town.kill(first)
            await until(lambda: not len(links))
            second = await town.start(Recorder("lobby", LOBBY, member=town.member(20, inner=inner)))
            link = links.get(20)
            assert link is not None and link.info.instance == first.cluster.me.instance
            await until(lambda: late and link.instance == second.cluster.me.instance)
            registry._set = see  # type: ignore[method-assign]
            for info in late:
                see(replace(info, started_at=info.started_at + ahead))
            assert links.get(20) is link and link.info.instance == second.cluster.me.instance
            async with player(gateway, 7) as client:
                await client.ask(1)
                assert link.session._stream is not None
                link.session._stream.abort()
                await until(lambda: link.session.state is SessionState.DETACHED)
                client.say(2)
                await client.ask(3)
                assert links.get(20) is link and second.of(7) == ["verified", 2], "it resumed"
                await second.cluster.registry.set_state(State.DRAINING)
                await until(lambda: link.info.state is State.DRAINING)


async def test_an_entry_of_another_run_is_not_taken_for_the_one_that_a_link_is_to() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        (link,) = gateway.cluster.links
        newer = ServerInfo(id=20, type=LOBBY, name="lobby", inner="tcp://127.0.0.1:9", started_at=0)
        gateway.cluster.registry._set(newer)
        assert link.info.instance == lobby.cluster.me.instance and link.session.state is SessionState.OPEN
        assert not link.is_to(newer)


async def test_a_link_that_was_made_by_an_old_entry_takes_the_new_one_that_is_there_when_its_run_is_heard_of() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        (link,) = gateway.cluster.links
        now = link.info
        link.info = replace(now, instance="the run before")
        link.instance = "the run before"
        (there,) = lobby.cluster.links
        there.send_event(Run(lobby.cluster.me.instance))
        await until(lambda: link.info is now)


class CountingLobby(Recorder):
    """Counts the links that it was given."""

    def __init__(self, **options: Any) -> None:
        super().__init__("lobby", LOBBY, **options)
        self.linked: list[int] = []

    async def _prepare(self) -> None:
        await super()._prepare()
        opened = self.players.link_opened

        def link_opened(link: Link) -> None:
            self.linked.append(link.id)
            opened(link)

        self.players.link_opened = link_opened  # type: ignore[method-assign]


@pytest.mark.parametrize("gateway_id", [1, 40], ids=["the gateway dials", "the lobby dials"])
async def test_a_gateway_whose_id_another_process_takes_gives_way_at_once_and_is_not_linked_again(
    gateway_id: int,
) -> None:
    async with cluster() as town:
        lobby = CountingLobby(member=town.member(20))
        await town.start(lobby)
        first = await town.gateway(gateway_id, drain_seconds=600.0)
        async with player(first, 7) as older:
            await older.ask(1)
            link = first.cluster.links.get(20)
            assert link is not None
            second = Gateway(TCP, member=town.member(gateway_id), tokens=StaticTokens(), catalog=CATALOG)
            async with second:
                await until(lambda: first.is_replaced and not first.is_running, "it stops, and does not drain")
                assert link.session.close_code in (CloseCode.NORMAL, CloseCode.REPLACED)
                async with player(second, 8) as newer:
                    await newer.ask(2)
                    for n in range(50):
                        await newer.ask(100 + n)
                    assert lobby.linked == [gateway_id] * 2, "a link for each process, and no more"
                    assert lobby.of(8) == ["verified"], "nobody took its players"
                assert not second.router.stats.lost and not second.is_replaced
        town.servers.remove(first)


@pytest.mark.parametrize("code", [CloseCode.REPLACED, CloseCode.RESUME_REFUSED])
async def test_after_its_link_was_taken_a_process_dials_again_only_if_the_registry_names_it(code: CloseCode) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = CountingLobby(member=town.member(20))
        await town.start(lobby)
        link = gateway.cluster.links.get(20)
        assert link is not None
        link.session.close(code)
        await until(lambda: lobby.linked == [1, 1], "the registry names it")
        later = gateway.cluster.me.started_at + 9
        newer = ServerInfo(id=1, type=1, name="gateway", inner="tcp://127.0.0.1:9", started_at=later)
        await lobby.cluster.engine.put("servers.1", msgspec.msgpack.encode(newer), 600.0)
        await until(lambda: gateway.is_replaced and not gateway.is_running)
        assert lobby.linked == [1, 1]
        town.servers.remove(gateway)


async def test_without_the_engine_a_taken_link_is_dialled_again_when_the_registry_can_be_asked() -> None:
    store = Store()
    async with store.engine() as engine, cluster(store.engine()) as town:
        gateway = await town.gateway(1, member={"engine": engine})
        lobby = CountingLobby(member=town.member(20))
        await town.start(lobby)
        await engine.go_away()
        link = gateway.cluster.links.get(20)
        assert link is not None
        link.session.close(CloseCode.REPLACED)
        await until(lambda: gateway.cluster.links.get(20) is None)
        assert lobby.linked == [1]
        await engine.come_back()
        await until(lambda: lobby.linked == [1, 1])
