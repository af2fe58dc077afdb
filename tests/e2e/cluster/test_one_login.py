"""One login of a player among all gateways: the newest, whatever comes late from the others."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from gatelink import CloseCode, Limits, ServerKey, VerifyError
from gatelink.cluster.directory import Directory, find_place
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.login_arbiter import MAX_BACKLOG
from gatelink.config import WireOptions
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.wire.base import DUPLICATE_LOGIN, VERIFY_SUCCEEDED
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import CATALOG, Ask, Recorder, Say, cluster, log_in, player, waiting
from tests.e2e.engines import NewEngine
from tests.e2e.extension import ExtendedClient, closed
from tests.e2e.support import RawClient, leave, until, verify_request


async def test_a_login_on_another_gateway_closes_the_older_before_its_own_success(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20)
        older = await RawClient.verified(one, 7)
        await until(lambda: len(lobby.players) == 1)
        session = one.sessions.get(7)
        assert session is not None
        newer = await RawClient.verified(two, 7)
        assert session.close_code is CloseCode.REPLACED, "closed before the newer was told of its success"
        assert (await older.rest())[-1][0] == DUPLICATE_LOGIN
        await until(lambda: getattr(lobby.players.get(7), "gateway", 0) == 2)
        await until(lambda: lobby.of(7) == ["verified", "closed", "verified"])
        body = CATALOG.encode(Ask(5))[1]
        newer.send(encode_frame(12_002, body))
        assert (await newer.frame())[2] == body
        assert await one.cluster.find(7) == await two.cluster.find(7)
        await older.close()
        await newer.close()


async def test_what_waited_at_another_gateway_comes_along_up_to_its_limit() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        for uid, size, comes in ((7, 100, True), (8, MAX_BACKLOG, False)):
            client = await RawClient.verified(one, uid)
            session = one.sessions.get(uid)
            assert session is not None and session._stream is not None
            session._stream.writable = False
            for n in range(3):
                session.send(Say(n, "x" * (size // 3)))
            client.reset()
            await until(lambda: one.sessions.get(uid) is None)  # noqa: B023 - awaited here
            dropped = one.stats.backlogs_dropped
            again = await RawClient.open(two)
            again.send(verify_request(uid))
            id, _, body = await again.frame()
            assert id == VERIFY_SUCCEEDED and body[-1] == 1, "it was here before"
            if comes:
                kind = CATALOG.of_type(Say)
                assert [kind.decode((await again.frame())[2]).n for _ in range(3)] == [0, 1, 2]
            else:
                assert one.stats.backlogs_dropped == dropped + 3
            assert not one.sessions._backlogs and not two.sessions._fetched
            await again.close()


async def test_a_ticket_is_worth_nothing_after_a_newer_login_elsewhere() -> None:
    key = ServerKey.generate()
    async with cluster() as town:
        one, two = await town.gateway(1, keys=[key]), await town.gateway(2, keys=[key])
        client = await ExtendedClient.logged_in(one, 7, key.public)
        ticket = client.ticket
        client.reset()
        await until(lambda: one.sessions._detached)
        newer = await RawClient.verified(two, 7)
        back = await ExtendedClient.extended(one, key.public)
        back.resume(ticket)
        assert await back.end() == [closed(4012)]
        assert two.sessions.get(7) is not None
        await newer.close()
        await back.close()


async def test_a_login_after_its_gateway_died_waits_for_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.cluster.login_arbiter.REPLACE_SECONDS", 600.0)
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20)
        older = await RawClient.verified(one, 7)
        await until(lambda: len(lobby.players) == 1)
        await town.kill(one)
        newer = await RawClient.verified(two, 7)
        await until(lambda: getattr(lobby.players.get(7), "gateway", 0) == 2)
        await older.close()
        await newer.close()


async def test_a_login_waits_its_time_for_a_gateway_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.cluster.login_arbiter.REPLACE_SECONDS", 0.5)
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        client = await RawClient.verified(one, 7)
        assert one.arbiter._serving is not None
        await one.arbiter._serving.close()
        hung = await town.engine.serve("gateway.1.replace", lambda data: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
        started = asyncio.get_running_loop().time()
        newer = await RawClient.verified(two, 7)
        assert asyncio.get_running_loop().time() - started > 0.45
        await hung.close()
        await client.close()
        await newer.close()


async def test_late_news_of_the_older_login_does_not_touch_the_newer() -> None:
    """Its link holds frames and its end back until the newer is there."""
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20)
        async with player(one, 7) as older:
            await until(lambda: len(lobby.players) == 1)
            link = one.cluster.links.get(20)
            assert link is not None and link.session._stream is not None
            link.session._stream.writable = False
            older.say(1, 2, 3)
            await until(lambda: waiting(link) == 3)
            async with player(two, 7) as newer:
                await until(lambda: getattr(lobby.players.get(7), "gateway", 0) == 2)
                await newer.ask(10)
                await until(lambda: one.sessions.get(7) is None)
                link.session._stream.writable = True
                link.session.flush()
                await until(lambda: lobby.players.strays == 3)
                await newer.ask(11)
                assert lobby.numbers(7) == [] and lobby.player(7).gateway == 2


@pytest.mark.parametrize("kicked", [False, True])
async def test_a_login_that_is_over_before_the_older_s_handlers_are_is_heard_with_all_that_it_sent(
    kicked: bool,
) -> None:
    """Unless the service itself ended it."""
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20, greet=False)
        through = asyncio.Event()

        @lobby.instead(Ask)
        async def ask(session: Session, message: Ask) -> None:
            await through.wait()

        async with player(one, 7) as first:
            first.session.send(Ask(1))
            await until(lambda: len(lobby.context.tasks) == 1)
            async with player(two, 7) as second:
                second.say(1, 2, 3)
                await until(lambda: getattr(lobby.players.get(7), "gateway", 0) == 2)
                if kicked:
                    lobby.player(7).kick()
                async with player(one, 7) as third:
                    third.say(4)
                    await until(lambda: getattr(lobby.players.get(7), "gateway", 0) == 1)
                    through.set()
                    await until(lambda: lobby.numbers(7)[-1:] == [4])
                    heard = [] if kicked else [1, 2, 3]
                    assert lobby.of(7) == ["closed", *heard, "closed", 4]


class House:
    """The sessions of one gateway, without its connections."""

    def __init__(self, engine: MemoryEngine, houses: dict[int, "House"], id: int, draw: random.Random) -> None:
        loop = asyncio.get_running_loop()
        self.context = LoopContext(loop, CATALOG, Limits(), WireOptions())
        self.manager = SessionManager(self.context)
        self.manager.arbiter = self
        self.directory = Directory(engine, id)
        self.id = id
        self.houses = houses
        self.draw = draw
        houses[id] = self

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        await self.lag()
        epoch, before = await self.directory.take_epoch(uid, slot)
        await self.lag()
        if before is not None and before.gateway != self.id:
            self.houses[before.gateway].manager.supersede(uid, slot, epoch, 0)
        await self.lag()
        return epoch, None

    async def lag(self) -> None:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        self.directory.ended(uid, slot, epoch, keep)

    async def log_in(self, uid: int) -> Session | None:
        await self.lag()
        epoch = await self.manager.claim(uid)
        try:
            await self.lag()
            handlers = SimpleNamespace(closed=lambda session, heard: None)
            session = Session(self.context, self.manager, handlers, None, uid=uid, epoch=epoch)
            try:
                self.manager.install(session)
            except VerifyError:
                return None
            return session
        finally:
            self.manager.release(uid, 0, epoch)


@pytest.mark.parametrize("thousand", range(3))
async def test_of_logins_at_once_on_any_gateways_exactly_one_is_left_the_newest(thousand: int) -> None:
    """Thousands of races of two to four logins on three gateways, whose steps interleave at random."""
    for seed in range(1_000 * thousand, 1_000 * (thousand + 1)):
        draw = random.Random(seed)
        async with MemoryEngine() as engine:
            houses: dict[int, House] = {}
            for id in (1, 2, 3):
                House(engine, houses, id, draw)
            logins = [houses[draw.randrange(1, 4)].log_in(7) for _ in range(draw.randrange(2, 5))]
            made = [session for session in await asyncio.gather(*logins) if session is not None]
            here = [session for house in houses.values() for session in house.manager]
            place = await find_place(engine, 7)
            assert place is not None
            assert [session.epoch for session in here] == [place.epoch], f"seed {seed}"
            assert houses[place.gateway].manager.get(7) in made
            for house in houses.values():
                manager = house.manager
                assert not manager._newest and not manager._logins and not manager._claiming and not manager._fetched
                house.context.wheel.close()
                await house.directory.close()


async def test_of_logins_at_once_through_real_gateways_one_is_left_and_the_service_knows_which() -> None:
    async with cluster() as town:
        gateways = [await town.gateway(1), await town.gateway(2)]
        lobby = await town.lobby(20)

        async def attempt(uid: int, gateway: int) -> RawClient:
            client = await RawClient.open(gateways[gateway])
            client.send(verify_request(uid))
            return client

        for uid in range(100, 250):
            clients = await asyncio.gather(*(attempt(uid, n % 2) for n in range(2 + uid % 2)))
            await until(lambda: _settled(gateways, lobby, uid), f"uid {uid}")  # noqa: B023 - awaited here
            for client in clients:
                await client.close()
        await until(lambda: not len(lobby.players))
        for gateway in gateways:
            assert not gateway.sessions._newest and not gateway.sessions._fetched and not gateway.router.players


def _settled(gateways: list[Gateway], lobby: Recorder, uid: int) -> bool:
    here = [session for gateway in gateways if (session := gateway.sessions.get(uid)) is not None]
    known = lobby.players.get(uid)
    under_way = any(gateway.logins for gateway in gateways)
    return len(here) == 1 and not under_way and known is not None and known.epoch == here[0].epoch


async def test_a_session_that_a_newer_login_did_not_reach_ends_when_its_entry_is_renewed() -> None:
    async with cluster() as town:
        one = await town.gateway(1)
        session = await log_in(one, 7)
        here = one.sessions.get(7)
        assert here is not None
        other = Directory(town.member(2).authentic_engine, 2)
        await other.take_epoch(7, 0)
        assert not (await one.arbiter.directory.renew(7, 0, here.epoch))[0]
        await leave(session)
