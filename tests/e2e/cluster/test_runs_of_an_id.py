"""Which run of a server a link is to: one that stops says so; one that is new is known when its entry comes late."""

import pytest
from msgspec.structs import replace

from examples.demo import reserved_ports
from gatelink import CloseCode
from gatelink.cluster.registry import ServerInfo, State
from gatelink.session.states import SessionState
from gatelink.wire.envelope import Run
from tests.e2e.cluster.support import LOBBY, Recorder, cluster, gateway_and_lobby, player
from tests.e2e.support import until


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
