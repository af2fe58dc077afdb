"""What the admin ports of a gateway and a service say of their cluster."""

import asyncio
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gatelink import Server
from gatelink.cluster.links import Link
from gatelink.cluster.routes import Rules
from gatelink.session.states import SessionState
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import LOBBY, ROOM, Recorder, Say, between, cluster, player
from tests.e2e.engines import NewEngine
from tests.e2e.support import until

DOCS = Path(__file__).parents[3] / "docs"
ADMIN = "127.0.0.1:0"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def page(server: Server) -> str:
    """`/metrics` of its admin port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    assert head.startswith("HTTP/1.1 200"), head
    return body


async def scrape(server: Server) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(await page(server))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"gatelink_{name}", frozenset(labels.items())]


async def names(server: Server) -> set[str]:
    families = text_string_to_metric_families(await page(server))
    return {family.name + "_total" * (family.type == "counter") for family in families}


async def test_every_metric_of_a_cluster_is_in_its_docs_and_nothing_else_is(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway, lobby = await town.gateway(1, admin=ADMIN), await town.lobby(20, admin=ADMIN)
        shown = {"gateway": await names(gateway), "service": await names(lobby)}
        of_every_server = set(re.findall(r"^\| `(gatelink_\w+)", (DOCS / "operations.md").read_text(), re.MULTILINE))
        rows = re.findall(
            r"^\| `(gatelink_\w+)` \| \w+ \|[^|]*\| (\w+) \|", (DOCS / "cluster.md").read_text(), re.MULTILINE
        )
        assert rows
        for kind, found in shown.items():
            documented = {name for name, where in rows if where in (kind, "both")}
            assert {name for name in found if name.startswith("gatelink_")} - of_every_server == documented


async def test_a_gateway_and_a_service_show_what_went_through_them(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway, lobby = await town.gateway(1, admin=ADMIN), await town.lobby(20, admin=ADMIN)
        async with player(gateway, 7) as client, player(gateway, 8):
            client.say(1, 2, 3)
            await client.ask(4)
            await until(lambda: len(lobby.players) == 2)
            at_gateway, at_lobby = await scrape(gateway), await scrape(lobby)
            assert value(at_gateway, "logins_total") == value(at_lobby, "logins_total") == 2, "links are none"
            assert value(at_gateway, "forwarded_frames_total") == 4
            assert value(at_gateway, "pushed_frames_total") == 1
            assert value(at_gateway, "forwarded_players") == value(at_gateway, "bound_players", type=str(LOBBY)) == 2
            assert value(at_gateway, "links", type=str(LOBBY), state="open") == 1
            assert value(at_lobby, "links", type="1", state="open") == 1
            assert value(at_lobby, "sessions") == 2
            assert value(at_lobby, "messages_total", direction="in", message="Say") == 3
            for samples in (at_gateway, at_lobby):
                assert value(samples, "engine_available") == 1
                assert value(samples, "engine_calls_total", call="put") >= 1
                assert value(samples, "engine_seconds_total", call="put") > 0
            assert value(at_gateway, "engine_calls_total", call="create") >= 2, "two logins"
        await until(lambda: not len(lobby.players) and not gateway.router.players)
        samples = await scrape(gateway)
        assert value(samples, "forwarded_players") == value(samples, "bound_players", type=str(LOBBY)) == 0


async def test_a_gateway_shows_waiting_players_losses_and_misdirected_frames() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, admin=ADMIN, rules={ROOM: Rules(hold_seconds=2.0)})
        lobby = await town.lobby(20, admin=ADMIN)
        async with player(gateway, 7) as client:
            client.move(1, 2)
            await until(lambda: gateway.router.waiting.get(ROOM))
            assert value(await scrape(gateway), "waiting_players", type=str(ROOM)) == 1
            await until(lambda: gateway.router.stats.lost[ROOM] == 2)
            here, there = gateway.cluster.links.get(20), lobby.cluster.links.get(1)
            assert isinstance(here, Link) and isinstance(there, Link)
            for link in (here, there):
                for id in (100, 103, 13_002, 60_000):  # a frame, an event, a post that does not decode, an unknown one
                    link.push(encode_frame(id, b"\xff\xff\xff"))
            lobby.players.broadcast(Say(1))
            stray = lobby.player(7)
            stray.sid = 1
            stray.send(Say(2))
            await until(
                lambda: gateway.router.stats.misdirected and lobby.cluster_handlers.post_fallback.unhandled_posts
            )
            at_gateway, at_lobby = await scrape(gateway), await scrape(lobby)
            assert value(at_gateway, "lost_frames_total", type=str(ROOM)) == 2
            assert value(at_gateway, "holds_total") == 1
            assert value(at_gateway, "misdirected_envelopes_total") == 1
            for samples in (at_gateway, at_lobby):
                assert value(samples, "malformed_envelopes_total") == 2
            assert value(at_lobby, "malformed_posts_total") == 1
            assert value(at_lobby, "unhandled_posts_total") == 1


async def test_a_broken_link_and_a_server_that_is_gone_show() -> None:
    async with cluster() as town:
        gateway = await town.gateway(1, admin=ADMIN)
        lobby = Recorder("lobby", LOBBY, member=town.member(20))
        async with between(lobby) as proxy:
            await town.start(lobby)
            async with player(gateway, 7) as client:
                await client.ask(1)
                proxy.refuse(600.0)
                proxy.cut_all()
                await until(lambda: any(link.session.state is SessionState.DETACHED for link in gateway.cluster.links))
                assert value(await scrape(gateway), "links", type=str(LOBBY), state="broken") == 1
                proxy.refuse(0)  # from now on it refuses nobody
                await client.ask(2)
                await lobby.stop()
                await until(lambda: not len(gateway.cluster.links))
                samples = await scrape(gateway)
                assert value(samples, "rebinds_total") == value(samples, "waiting_players", type=str(LOBBY)) == 1
                assert not [name for name, _ in samples if name == "gatelink_links"]
