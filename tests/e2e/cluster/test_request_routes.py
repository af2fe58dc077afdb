"""Requests through gateways: which server gets them, what happens when it is lost, and servers that speak none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatelink import (
    Gateway,
    Handlers,
    Limits,
    Membership,
    Peer,
    RequestCode,
    Service,
    Session,
    StaticTokens,
)
from gatelink.net.login import Login
from gatelink.session.requests import failed_frame, tag_of
from gatelink.testing import MemoryEngine
from gatelink.wire.control import Features
from gatelink.wire.envelope import broadcast_frames, push_frames
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_frame
from gatelink.wire.keys import ClusterKey
from tests.e2e.asks import CATALOG, Add, Double, Note, Place, Sum, answering, asking, behind_a_gateway, code_of
from tests.e2e.cluster.support import kill
from tests.e2e.support import TCP, until

KEYS = (ClusterKey.generate(),)


class Old:
    """Links of which one end speaks no requests, while `is_on`."""

    is_on = True


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Old:
    """New links agree on no more than an end without requests has, whichever side is the older one."""
    switch = Old()
    offered = Login._offered.fget  # type: ignore[attr-defined]

    def offer(login: Login) -> int:
        features: int = offered(login)
        if login._context.between_servers and switch.is_on:
            features &= ~(Features.REQUESTS | Features.RENEWAL | Features.LINK_REPORTS)
        return features

    monkeypatch.setattr(Login, "_offered", property(offer))
    return switch


@asynccontextmanager
async def sums(engine: MemoryEngine, id: int, **options: Any) -> AsyncIterator[Service]:
    service = Service("sums", type=42, catalog=CATALOG, member=Membership(engine=engine, keys=KEYS, id=id), **options)
    service.on(Add)(lambda peer, message: Sum(message.a + message.b))
    async with service:
        yield service


@asynccontextmanager
async def gateway(engine: MemoryEngine) -> AsyncIterator[Place]:
    member = Membership(engine=engine, keys=KEYS, id=1)
    async with Gateway(TCP, tokens=StaticTokens(), catalog=CATALOG, member=member) as it:
        place = Place(it, it.endpoints[0].port, it)
        yield place
        await place.close()


async def test_over_a_link_of_version_0_1_requests_fail_at_once_and_messages_pass(old: Old) -> None:
    async with behind_a_gateway() as place:
        codes: list[RequestCode] = []

        @place.at.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            return Sum(1)

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            codes.append(await code_of(peer.request(Double(1))))

        assert place.gateway is not None
        client = await place.raw()
        client.send(
            encode_frame(42_002, CATALOG.encode(Note(1))[1]),
            asking(Double(1), 7),
            encode_frame(42_002, CATALOG.encode(Note(2))[1]),
            answering(Sum(1), 0x012A),
        )
        id, flags, body = await client.frame()
        assert (id, flags, tag_of(body)) == (42_003, FAILED, 7)
        assert int.from_bytes(body[4:6], "little") == RequestCode.NO_HANDLER
        await until(lambda: place.notes == [1, 2])
        await until(lambda: codes == [RequestCode.UNSUPPORTED] * 2)
        await until(lambda: place.gateway.context.stats.stray_answers == 1)  # type: ignore[union-attr]
        (service,) = [place.at]
        assert isinstance(service, Service)
        player = service.players.get(7)
        assert player is not None and player.binding == 0 and player.expires_at is None
        there = place.gateway.sessions.get(7)
        assert there is not None and there.requests is not None and not there.requests.serving


async def test_a_cluster_is_upgraded_server_by_server_in_either_order(old: Old) -> None:
    async with MemoryEngine() as engine, gateway(engine) as place:
        async with sums(engine, 42_001):
            client = await place.client(uid=7)
            assert await code_of(client.request(Add(1, 2))) is RequestCode.NO_HANDLER
            old.is_on = False
            async with sums(engine, 42_002):
                await until(lambda: place.gateway is not None and len(place.gateway.cluster.links) == 2)
                newer = await place.client(uid=8)
                assert place.gateway is not None
                routes = [player.to(42) for player in place.gateway.router]
                assert [route.player.session.uid for route in routes] == [7, 8]
                for route in routes:
                    route.bind_to(42_002)
                assert (await client.request(Add(1, 2))).n == (await newer.request(Add(1, 2))).n == 3
                routes[1].bind_to(42_001)
                assert await code_of(newer.request(Add(1, 2))) is RequestCode.NO_HANDLER
                client.abort()
                newer.abort()


async def test_requests_to_a_server_that_dies_fail_and_the_next_ones_reach_another() -> None:
    async with MemoryEngine() as engine, gateway(engine) as place, sums(engine, 42_001) as first:
        started = asyncio.Event()

        @first.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            started.set()
            await asyncio.Event().wait()
            return Sum(0)

        client = await place.client(uid=7)
        asked = [asyncio.create_task(client.request(Double(n), timeout=60)) for n in range(10)]
        await started.wait()
        async with sums(engine, 42_002):
            await until(lambda: place.gateway is not None and len(place.gateway.cluster.links) == 2)
            await kill(first)
            assert {await code_of(each) for each in asked} == {RequestCode.SERVER_LOST}
            assert (await client.request(Add(1, 2))).n == 3
            assert place.gateway is not None
            there = place.gateway.sessions.get(7)
            assert there is not None and there.requests is not None and not there.requests.serving
            client.abort()


async def test_a_server_that_drains_answers_nothing_any_more_and_the_next_one_does() -> None:
    async with MemoryEngine() as engine, gateway(engine) as place, sums(engine, 42_001) as first:
        go = asyncio.Event()
        started = asyncio.Event()

        @first.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            started.set()
            await go.wait()
            return Sum(1)

        client = await place.client(uid=7)
        asked = asyncio.create_task(client.request(Double(1)))
        await started.wait()
        async with sums(engine, 42_002):
            await until(lambda: place.gateway is not None and len(place.gateway.cluster.links) == 2)
            stopping = asyncio.create_task(first.stop(5))
            assert await code_of(asked) is RequestCode.SERVER_LOST
            assert (await client.request(Add(2, 2))).n == 4
            go.set()
            await stopping
            assert (await client.request(Add(3, 2))).n == 5
            client.abort()


async def test_an_answer_of_an_older_binding_is_dropped_even_if_its_tag_is_used_again() -> None:
    """A client may use a tag again after its FAILED; the answer of the server before is not that of the next one."""
    async with MemoryEngine() as engine, gateway(engine) as place:
        async with sums(engine, 42_001) as first, sums(engine, 42_002) as second:
            await until(lambda: place.gateway is not None and len(place.gateway.cluster.links) == 2)
            for service in (first, second):
                service.on(Double)(lambda peer, message: asyncio.Event().wait())
            client = await place.raw()
            assert place.gateway is not None
            there = place.gateway.sessions.get(7)
            assert there is not None
            router = place.gateway.router
            route = router.players[there.epoch].to(42)
            route.bind_to(42_001)
            client.send(asking(Double(1), 5))
            await until(lambda: first.players.get(7) is not None and bool(first.players.get(7).requests.serving))  # type: ignore[union-attr]
            route.bind_to(42_002)
            assert (await client.frame())[1] == FAILED
            client.send(asking(Double(1), 5))
            await until(lambda: second.players.get(7) is not None and bool(second.players.get(7).requests.serving))  # type: ignore[union-attr]
            links = place.gateway.cluster.links
            old, now = links.get(42_001), links.get(42_002)
            assert old is not None and now is not None
            body = push_frames((there.epoch,), [answering(Sum(1), 5)])[6:]
            before = router.context.stats.stray_answers
            router.receive_envelopes(old, [(101, 0, body)])
            assert router.context.stats.stray_answers == before + 1
            router.receive_envelopes(now, [(101, 0, push_frames((there.epoch,), [answering(Sum(2), 5)])[6:])])
            assert (await client.frame())[1:] == (ANSWER, answering(Sum(2), 5)[6:])
            router.receive_envelopes(now, [(101, 0, push_frames((there.epoch,), [answering(Sum(3), 5)])[6:])])
            assert router.context.stats.stray_answers == before + 2


async def test_what_a_service_may_not_push_is_dropped_and_counted_and_the_link_stays() -> None:
    async with behind_a_gateway() as place:
        place.at.on(Add)(lambda peer, message: Sum(message.a + message.b))
        client = await place.client()
        assert (await client.request(Add(1, 2))).n == 3
        plain = await place.client(uid=8, base_protocol=True, slot=0)
        plain.send(Note(1))
        await until(lambda: place.notes == [1])
        assert place.gateway is not None
        router, link = place.gateway.router, place.gateway.cluster.links.get(42_001)
        assert link is not None
        sids = [there.epoch for there in place.gateway.sessions]
        (new,) = [there.epoch for there in place.gateway.sessions if there.uid == 7]
        (base,) = [there.epoch for there in place.gateway.sessions if there.uid == 8]
        request = asking(Double(1), 0x0001_012A)
        wrong = [
            push_frames(sids, [request]),  # to several players
            push_frames((new,), [request], 1),  # with a policy
            push_frames((new,), [request], 0, 9),  # with a key
            push_frames((base,), [request]),  # to one that does not speak requests
            push_frames((new,), [asking(Double(1), 0x0001_012B)]),  # in the name of another type
            push_frames((new,), [asking(Double(1), 5)]),  # in the name of the gateway
            push_frames((new,), [encode_frame(42_003, bytes(3), REQUEST)]),
            push_frames((new,), [encode_frame(42_003, bytes(11), FAILED)]),
            push_frames((new,), [encode_frame(24, bytes(4), REQUEST)]),
            broadcast_frames("", [request]),
            broadcast_frames("", [answering(Sum(1), 5)]),
            broadcast_frames("42/x", [failed_frame(42_003, 5, RequestCode.FAILED)]),
        ]
        for each in wrong:
            before = router.stats.malformed
            router.receive_envelopes(link, [(int.from_bytes(each[4:6], "little"), 0, each[6:])])
            assert router.stats.malformed == before + 1, each
        for tag in (5, 0x0001_0000):
            before = router.context.stats.stray_answers
            router.receive_envelopes(link, [(101, 0, push_frames((new,), [answering(Sum(1), tag)])[6:])])
            assert router.context.stats.stray_answers == before + 1
        assert (await client.request(Add(2, 2))).n == 4
        plain.send(Note(2))
        await until(lambda: place.notes == [1, 2])
        assert plain.close_code is None and client.close_code is None
        plain.abort()


async def test_an_answer_or_request_that_is_too_large_for_the_gateway_fails_and_frees_its_place() -> None:
    small = Limits(max_outbox_bytes=20_000)
    async with behind_a_gateway(front={"limits": small}) as place:
        codes: list[RequestCode] = []

        @place.at.on(Add)
        def add(peer: Peer, message: Add) -> Any:
            return Sum(message.a + message.b)

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            codes.append(await code_of(peer.request(Double(1))))

        client = await place.raw()
        client.send(asking(Add(1, 2), 1))
        await client.frame()
        assert place.gateway is not None
        router, link = place.gateway.router, place.gateway.cluster.links.get(42_001)
        there = place.gateway.sessions.get(7)
        assert link is not None and there is not None and there.requests is not None
        there.requests.serving[9] = 42_001, 42
        large = encode_frame(42_000, (9).to_bytes(4, "little") + bytes(30_000), ANSWER)
        router.receive_envelopes(link, [(101, 0, push_frames((there.epoch,), [large])[6:])])
        assert not there.requests.serving
        id, flags, body = await client.frame()
        assert (id, flags, tag_of(body)) == (42_001, FAILED, 9)
        service = place.at
        assert isinstance(service, Service)
        player = service.players.get(7)
        assert player is not None and player.requests is not None
        asked = asyncio.create_task(player.request(Double(1)))
        await client.frame()
        (tag,) = player.requests.asked
        large = encode_frame(42_003, tag.to_bytes(4, "little") + bytes(30_000), REQUEST)
        router.receive_envelopes(link, [(101, 0, push_frames((there.epoch,), [large])[6:])])
        assert await code_of(asked) is RequestCode.FAILED and not player.requests.asked


async def test_a_player_that_is_closed_at_its_service_can_not_be_asked_any_more() -> None:
    async with behind_a_gateway() as place:
        codes: list[RequestCode] = []
        go = asyncio.Event()

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            await go.wait()
            codes.append(await code_of(peer.request(Double(1))))

        handlers = Handlers(CATALOG)

        @handlers.on(Double)
        def double(session: Session, message: Double) -> Sum:
            return Sum(message.n)

        client = await place.client(handlers)
        client.send(Note(1))
        await until(lambda: place.notes == [1])
        service = place.at
        assert isinstance(service, Service)
        player = service.players.get(7)
        assert player is not None
        client.close()
        await until(lambda: player.close_code is not None)
        go.set()
        await until(lambda: codes == [RequestCode.CLOSED])
