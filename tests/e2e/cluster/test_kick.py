"""A kick reaches all sessions of a user, at all gateways, whatever the engine does; and no other session."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from gatelink import CloseCode, ConnectError, Gateway, LocalError, ServerKey, Session, StaticTokens, tasks
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.cli.sessions import session_line
from gatelink.cluster import kicks
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import RequestCode, RequestFailed
from gatelink.net import user_kicks
from gatelink.net.user_kicks import MARGIN
from gatelink.wire.control import Features
from tests.e2e.cluster.support import Ask, Recorder, Say, Town, cluster, gateway_and_lobby, log_in, player
from tests.e2e.engines import NewEngine
from tests.e2e.extension import ExtendedClient, closed
from tests.e2e.support import HEARTBEAT_FRAME, RawClient, leave, until
from tests.e2e.tokens import KEY as SIGNING_KEY
from tests.fakes import extension_of
from tests.faulty_engine import FaultyEngine, Store
from tests.support import MS

SERVER_KEY = ServerKey.generate()


async def enter(gateway: Gateway, uid: int, slot: int = 0, **options: Any) -> Session:
    """A client that speaks the extension, and so hears why it ends."""
    return await log_in(gateway, uid, slot=slot, **options)


class Away(MemoryEngine):
    """Can be away: then calls fail, and nothing is written."""

    is_away = False

    @property
    def is_available(self) -> bool:
        return not self.is_away and super().is_available

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        if self.is_away:
            raise EngineUnavailable(f"{name}: it is away")
        with super()._call(name):
            yield

    def come_back(self) -> None:
        self.is_away = False
        for call in list(self.when_back):
            call()


@asynccontextmanager
async def town_of_two(engine: Any = None, **options: Any) -> AsyncIterator[tuple[Town, Gateway, Gateway, Recorder]]:
    """Gateways 1 and 2, and lobby 20."""
    async with cluster(engine) as town:
        one, two = await town.gateway(1, **options), await town.gateway(2, **options)
        yield town, one, two, await town.lobby(20)


def kicks_of(gateway: Gateway) -> kicks.GatewayKicks:
    assert gateway._kicks is not None
    return gateway._kicks


@asynccontextmanager
async def hearing_nothing(gateway: Gateway) -> AsyncIterator[None]:
    """A gateway that is up, and neither hears of kicks nor answers."""
    await kicks_of(gateway).close()
    kept, gateway.router.kicks = gateway.router.kicks, None
    async with AsyncExitStack() as stack:
        for what in ("kick", "sessions"):
            hung = await gateway.cluster.engine.serve(f"gateway.{gateway.id}.{what}", never)
            stack.push_async_callback(hung.close)
        yield
    gateway.router.kicks = kept
    await kicks_of(gateway).start()


async def never(data: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def session_of(gateway: Gateway, uid: int, slot: int = 0) -> Session:
    session = gateway.sessions.get(uid, slot)
    assert session is not None
    return session


async def ended(*sessions: Session) -> None:
    for session in sessions:
        await session.wait_closed()
        assert session.close_code is CloseCode.KICKED and session.close_reason == "enough"


def places(found: Any) -> list[tuple[int, int]]:
    return [(each.gateway, each.slot) for each in found]


@pytest.mark.parametrize("asking", [0, 1, 2], ids=["a gateway with a session", "another gateway", "a service"])
async def test_a_kick_ends_all_slots_at_all_gateways_and_no_other_user(new_engine: NewEngine, asking: int) -> None:
    async with town_of_two(new_engine()) as (town, one, two, lobby):
        servers = (one, two, lobby)
        theirs = [await enter(one, 7), await enter(one, 7, slot=2), await enter(two, 7, slot=3)]
        other = await enter(two, 8, slot=2)
        await until(lambda: len(lobby.players) == 4)
        before = await lobby.cluster.sessions(7)
        assert places(before) == [(1, 0), (1, 2), (2, 3)]
        kicked = await servers[asking].cluster.kick(7, reason="enough")
        assert sorted(places(kicked.ended)) == places(before) and not kicked.unanswered and not kicked.is_kept
        await ended(*theirs)
        assert await lobby.cluster.sessions(7) == [] and places(await one.cluster.sessions(8)) == [(2, 2)]
        await until(lambda: len(lobby.players) == 1)
        assert other.close_code is None
        for gateway in (one, two):  # a login after the kick is allowed, at once
            async with player(gateway, 7, slot=3) as client:
                await client.ask(1)
        await leave(other)


async def test_a_kick_of_one_slot_leaves_the_others_and_the_tokens(new_engine: NewEngine) -> None:
    engine = new_engine()
    async with town_of_two(engine, tokens=EngineTokens(engine)) as (town, one, two, lobby):
        token = await EngineTokens(engine).issue(7)
        first, second = await enter(one, 7, token=token), await enter(two, 7, slot=2, token=token)
        kicked = await lobby.cluster.kick(7, slot=2, reason="enough")
        assert places(kicked.ended) == [(2, 2)]
        await ended(second)
        third = await enter(one, 7, slot=2, token=token)
        assert first.close_code is None
        await leave(first)
        await leave(third)


async def test_a_kick_of_a_user_without_a_session_is_no_error_and_ends_the_tokens(new_engine: NewEngine) -> None:
    engine = new_engine()
    async with town_of_two(engine, tokens=EngineTokens(engine)) as (town, one, two, lobby):
        token = await EngineTokens(engine).issue(7)
        assert await lobby.cluster.kick(7) == kicks.Kicked(())
        with pytest.raises(ConnectError):
            await enter(one, 7, token=token)
        for uid, slot in ((-1, None), (1 << 64, None), (7, -1), (7, 256)):
            with pytest.raises(LocalError):
                await lobby.cluster.kick(uid, slot)


async def test_a_detached_session_its_ticket_and_what_waits_for_a_base_client_end() -> None:
    async with town_of_two(keys=[SERVER_KEY]) as (town, one, two, lobby):
        client = await ExtendedClient.logged_in(one, 7, SERVER_KEY.public)
        base = await RawClient.verified(two, 7)
        client.reset()
        base.reset()
        ticketed = await ExtendedClient.logged_in(two, 7, SERVER_KEY.public, slot=3)
        ticket = ticketed.ticket
        ticketed.reset()
        await until(lambda: two.sessions._detached and two.sessions._backlogs)
        found = await lobby.cluster.sessions(7)
        assert (2, 3, False) in [(each.gateway, each.slot, each.is_connected) for each in found]
        kicked = await lobby.cluster.kick(7, reason="enough")
        assert (2, 3) in places(kicked.ended)
        back = await ExtendedClient.extended(two, SERVER_KEY.public)
        back.resume(ticket)
        assert await back.end() == [closed(4012)]
        assert not two.sessions._backlogs and not two.sessions._detached and not two.sessions._tickets
        for each in (client, base, ticketed, back):
            await each.close()


async def test_messages_that_wait_at_a_service_are_not_handled_after_the_kick() -> None:
    go_on = asyncio.Event()
    async with town_of_two() as (town, one, two, lobby):

        @lobby.instead(Say)
        async def say(session: Session, message: Say) -> None:
            lobby.heard.append((session.uid, message.n))
            await go_on.wait()

        session = await enter(one, 7)
        for n in range(20):
            session.send(Say(n))
        await until(lambda: lobby.players.of(7) and (inbox := lobby.player(7).inbox) and len(inbox.items) == 19)
        await lobby.cluster.kick(7, reason="enough")
        await until(lambda: not lobby.players.of(7))
        go_on.set()
        await until(lambda: lobby.of(7)[-1:] == ["closed"])
        assert lobby.numbers(7) == [0]
        await ended(session)


@pytest.mark.parametrize("where", ["gateway", "service"])
async def test_a_handler_may_kick_its_own_player(where: str) -> None:
    found: list[kicks.Kicked] = []
    async with town_of_two() as (town, one, two, lobby):
        server = one if where == "gateway" else lobby
        if where == "service":
            del lobby.handlers.routes[one.catalog.find(Ask).id]

        @server.on(Ask)
        async def ask(session: Session, message: Ask) -> None:
            found.append(await server.cluster.kick(session.uid, reason="enough"))

        first, second = await enter(one, 7), await enter(two, 7, slot=1)
        first.send(Ask(1))
        await ended(first, second)
        await until(lambda: found)
        assert sorted(places(found[0].ended)) == [(1, 0), (2, 1)]


async def test_a_kick_of_a_session_reaches_the_users_other_sessions() -> None:
    async with town_of_two() as (town, one, two, lobby):
        for kick in (
            lambda: session_of(one, 7).kick("enough"),
            lambda: lobby.player(7).kick("enough"),
            lambda: one.sessions.kick(7, reason="enough"),
        ):
            theirs = [await enter(one, 7), await enter(one, 7, slot=2), await enter(two, 7, slot=3)]
            await until(lambda: len(lobby.players.of(7)) == 3)
            kick()
            await ended(*theirs)
            await until(lambda: not len(one.sessions) and not len(two.sessions) and not len(lobby.players))


@pytest.mark.parametrize("kind", ["engine", "signed"])
async def test_revoking_a_users_tokens_ends_all_sessions(new_engine: NewEngine, kind: str) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(new_engine())
        made: EngineTokens | SignedTokens = EngineTokens(engine)
        if kind == "signed":
            made = await stack.enter_async_context(SignedTokens(engine, keys=[SIGNING_KEY]))
        _, one, two, _ = await stack.enter_async_context(town_of_two(new_engine(), tokens=made))
        tokens = [await made.issue(7), await made.issue(7), await made.issue(8)]
        first, second = await enter(one, 7, token=tokens[0]), await enter(two, 7, slot=1, token=tokens[1])
        other = await enter(one, 8, token=tokens[2])
        await made.revoke(tokens[0])
        await first.wait_closed()
        assert [each.close_code for each in (first, second, other)] == [CloseCode.KICKED, None, None]
        await made.revoke_user(7)
        await second.wait_closed()
        assert [each.close_code for each in (second, other)] == [CloseCode.KICKED, None]
        await leave(other)


async def test_a_gateway_may_opt_out_of_ending_sessions_with_their_tokens() -> None:
    engine = MemoryEngine()
    async with town_of_two(engine, tokens=EngineTokens(engine), end_with_tokens=False) as (town, one, two, lobby):
        tokens = EngineTokens(engine)
        token = await tokens.issue(7)
        first, second = await enter(one, 7, token=token), await enter(two, 7, slot=1, token=token)
        await tokens.revoke(token)
        await tokens.revoke_user(7)
        session_of(one, 7).kick("enough")
        await ended(first)
        assert places(await lobby.cluster.sessions(7)) == [(2, 1)]
        assert places((await lobby.cluster.kick(7, reason="enough")).ended) == [(2, 1)], (
            "a kick of the user does end it"
        )
        await ended(second)


async def test_a_kick_while_the_engine_is_away_is_kept_and_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.1)
    engine = Away()
    async with town_of_two(engine, tokens=EngineTokens(engine)) as (town, one, two, lobby):
        token = await EngineTokens(engine).issue(7)
        first, second = await enter(one, 7, token=token), await enter(two, 7, slot=1, token=token)
        engine.is_away = True
        kicked = await one.cluster.kick(7, reason="enough")
        assert kicked.is_kept and places(kicked.ended) == [(1, 0)]
        await ended(first)
        assert one._client_frontend().logins.is_kicked(7, 0) and not one._client_frontend().logins.is_kicked(8, 0)
        engine.come_back()
        await ended(second)
        await until(lambda: not len(one._client_frontend().kicks))
        for gateway in (one, two):
            with pytest.raises(ConnectError):
                await enter(gateway, 7, token=token)
        async with player(one, 7, token=await EngineTokens(engine).issue(7)) as client:
            await client.ask(1)


async def test_until_a_kept_kick_is_carried_out_the_gateway_refuses_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 600.0)

    class Stuck(StaticTokens):
        async def revoke_user(self, uid: int) -> None:
            raise OSError("the database is away")

    async with town_of_two(tokens=Stuck()) as (town, one, two, lobby):
        first = await enter(one, 7)
        kicked = await one.cluster.kick(7, reason="enough")
        assert kicked.is_kept
        await ended(first)
        with pytest.raises(ConnectError) as refused:
            await enter(one, 7, slot=1)
        assert refused.value.code is CloseCode.GOING_AWAY and one.stats.refused["tokens-ended"] == 1
        other = await enter(one, 8)
        await leave(other)


@asynccontextmanager
async def engines_of_their_own() -> AsyncIterator[tuple[list[FaultyEngine], Gateway, Gateway, Recorder]]:
    """Gateways 1 and 2 and lobby 20, each with an engine of its own on one store; tokens of the same engines."""
    store = Store()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(store.engine()) for _ in range(3)]
        town = await stack.enter_async_context(cluster(engines[2]))
        gateways = []
        for id, engine in enumerate(engines[:2], 1):
            tokens = EngineTokens(town.member(id, engine=engine).authentic_engine)
            gateways.append(await town.gateway(id, member={"engine": engine}, tokens=tokens))
        yield engines, gateways[0], gateways[1], await town.lobby(20)


async def token_for(gateway: Gateway, uid: int) -> str:
    return await EngineTokens(gateway.cluster.engine).issue(uid)


@pytest.mark.parametrize("slot", [None, 1], ids=["all slots", "one slot"])
@pytest.mark.parametrize("asking", [0, 1, 2], ids=["a gateway with a session", "another gateway", "a service"])
async def test_while_the_engine_is_away_a_kick_reaches_all_gateways_over_links(asking: int, slot: int | None) -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        token = await token_for(one, 7)
        theirs = {
            (gateway.id, slot): await enter(gateway, 7, slot=slot, token=token)
            for gateway, slot in ((one, 0), (one, 1), (two, 2))
        }
        other = await enter(two, 8, slot=1, token=await token_for(one, 8))
        for engine in engines:
            await engine.go_away()
        kicked = await (one, two, lobby)[asking].cluster.kick(7, slot, reason="enough")
        assert kicked.is_kept
        hit = [session for place, session in theirs.items() if slot in (None, place[1])]
        await ended(*hit)
        for engine in engines:
            await engine.come_back()
        await until(lambda: not any(len(server._client_frontend().kicks) for server in (one, two, lobby)))
        assert [session.close_code for session in theirs.values() if session not in hit] == [None] * (3 - len(hit))
        assert other.close_code is None
        if slot is None:
            with pytest.raises(ConnectError):
                await enter(two, 7, token=token)
        for session in (*theirs.values(), other):
            if session.close_code is None:
                await leave(session)


async def test_a_gateway_that_has_the_engine_carries_the_kick_out_for_one_that_has_not() -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        token = await token_for(one, 7)
        session = await enter(two, 7, token=token)
        await engines[0].go_away()
        assert (await one.cluster.kick(7, reason="enough")).is_kept
        await ended(session)
        with pytest.raises(ConnectError):  # at once, before the kick is carried out
            await enter(two, 7, token=token)
        await until(lambda: not len(two._client_frontend().kicks))
        with pytest.raises(ConnectError):  # and afterwards: the token has ended
            await enter(two, 7, token=token)
        await engines[0].come_back()
        await until(lambda: not len(one._client_frontend().kicks))


async def test_a_kick_reaches_a_gateway_that_has_lost_the_engine() -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        session = await enter(two, 7, token=await token_for(one, 7))
        await engines[1].go_away()
        await tasks.cancel_and_wait(kicks_of(two)._watching)
        await lobby.cluster.kick(7, reason="enough")
        await ended(session)


@pytest.mark.parametrize("asking", [0, 1], ids=["a gateway", "a service"])
async def test_an_engine_that_does_not_answer_holds_up_no_kick(asking: int) -> None:
    """It seems to be there, and takes no record: its machine is frozen, or the network to it swallows all."""
    async with engines_of_their_own() as (engines, one, two, lobby):
        session = await enter(two, 7, token=await token_for(one, 7))
        go_on = asyncio.Event()
        for engine in engines:
            engine.holds = lambda call, key: go_on if key.startswith("kicks.") else None
        kick = asyncio.create_task((one, lobby)[asking].cluster.kick(7, reason="enough"))
        await ended(session)
        assert not kick.done()
        go_on.set()
        assert not (await kick).is_kept


async def test_a_kick_that_was_carried_out_ends_no_later_login_at_a_gateway_that_kept_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.1)
    async with engines_of_their_own() as (engines, one, two, lobby):
        session = await enter(two, 7, token=await token_for(one, 7))
        for engine in engines:
            await engine.go_away()
        await one.cluster.kick(7, reason="enough")
        await ended(session)
        await engines[0].come_back()
        await until(lambda: not len(one._client_frontend().kicks), "gateway 1 has carried it out")
        later = await enter(one, 7, token=await token_for(one, 7))
        for engine in engines[1:]:
            await engine.come_back()
        await until(lambda: not len(two._client_frontend().kicks))
        again = await enter(two, 7, slot=1, token=await token_for(two, 7))
        assert later.close_code is None and again.close_code is None
        await leave(later)
        await leave(again)


@pytest.mark.parametrize("slot", [None, 0], ids=["all slots", "one slot"])
async def test_a_relayed_kick_whose_record_never_comes_ends_older_logins_alone(
    monkeypatch: pytest.MonkeyPatch, slot: int | None
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 2_500 * MS)  # from the kick; a login after MARGIN comes before
    async with engines_of_their_own() as (engines, one, two, lobby):
        token = await token_for(one, 7)
        older = await enter(two, 7, token=token)
        kicked_at = two.cluster.engine.now() - 0.8 * MARGIN
        kicks_of(two).relayed(7, slot, int(kicked_at * 1_000_000), "enough")
        await ended(older)
        await until(lambda: two.cluster.engine.now() > kicked_at + MARGIN)
        new_token = await token_for(one, 7)
        newer = await enter(one, 7, token=new_token)
        assert len(two._client_frontend().kicks), "gateway 2 still waits for the record"
        await until(lambda: not len(two._client_frontend().kicks), "gateway 2 has carried the kick out")
        other = await enter(two, 7, slot=1, token=new_token)
        assert newer.close_code is None and other.close_code is None
        if slot is None:
            with pytest.raises(ConnectError):
                await enter(two, 7, slot=2, token=token)
        await leave(newer)
        await leave(other)


async def test_a_relayed_kick_that_was_under_way_for_long_ends_older_logins_alone_and_is_not_kept() -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        newer = await enter(two, 7, token=await token_for(one, 7))
        older_kick = int((two.cluster.engine.now() - 10 * MARGIN) * 1_000_000)
        kicks_of(two).relayed(7, None, older_kick, "enough")
        assert len(two._client_frontend().kicks) == 0 and newer.close_code is None
        await leave(newer)


async def test_kicks_close_no_link_that_is_full_of_messages() -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        session = await enter(two, 7, token=await token_for(one, 7))
        other = await enter(two, 8, token=await token_for(one, 8))
        link = one.cluster.links.get(2)
        assert link is not None
        outbox = link.session.outbox
        assert not outbox.count
        outbox.adopt([HEARTBEAT_FRAME] * outbox.max_frames)
        kicking = asyncio.create_task(one.cluster.kick(7, reason="enough"))
        await asyncio.sleep(0)
        assert len(outbox.drain()) == outbox.max_frames
        await kicking
        await ended(session)
        assert one.cluster.links.get(2) is link and other.close_code is None
        await leave(other)


async def test_a_gateway_that_does_not_know_kicks_over_links_is_sent_none() -> None:
    async with engines_of_their_own() as (engines, one, two, lobby):
        link = one.cluster.links.get(2)
        assert link is not None
        extension_of(link.session).features &= ~Features.LINK_REPORTS
        session = await enter(two, 7, token=await token_for(one, 7))
        for engine in engines:
            await engine.go_away()
        await one.cluster.kick(7, reason="enough")
        await link.drain()
        assert session.close_code is None and not two.router.stats.malformed
        for engine in engines:
            await engine.come_back()
        await ended(session)


async def test_a_gateway_that_does_not_answer_is_named_and_carries_the_kick_out_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town_of_two() as (town, one, two, lobby):
        old = await enter(two, 7, slot=1)
        async with hearing_nothing(two):
            kicked = await lobby.cluster.kick(7, reason="enough")
            assert kicked.unanswered == (2,) and not kicked.is_kept
            (found,) = await lobby.cluster.sessions(7)
            assert (found.gateway, found.slot, found.since) == (2, 1, 0.0), "what the directory says of it"
            assert session_line(found) == "gateway 2, slot 1; the gateway does not answer"
            newer = await enter(two, 7, slot=2)
            long_after = session_of(two, 7, 2).verified_at + 2 * user_kicks.MARGIN
            session_of(two, 7, 2).verified_at = long_after
            monkeypatch.setattr(kicks, "is_fresh", lambda at, now: False)
        await ended(old)
        assert newer.close_code is None
        await leave(newer)


async def test_a_kick_of_a_player_whose_gateway_is_gone_waits_for_nobody_for_long() -> None:
    async with town_of_two() as (town, one, two, lobby):
        session = await enter(two, 7)
        await town.kill(two)
        kicked = await lobby.cluster.kick(7, reason="enough")
        assert kicked.unanswered in ((), (2,)) and not kicked.is_kept
        await session.wait_closed()


async def test_a_login_that_races_with_a_kick_does_not_survive_it_and_one_after_it_does(new_engine: NewEngine) -> None:
    """A session that was verified before the kick was asked for is ended, however the two cross."""
    async with town_of_two(new_engine()) as (town, one, two, lobby):
        for n in range(30):
            logins = [asyncio.create_task(enter(gateway, 7, slot=slot)) for slot, gateway in enumerate((one, two))]
            for _ in range(n):
                await asyncio.sleep(0)
            inside = [session for gateway in (one, two) for session in gateway.sessions.of(7)]
            await lobby.cluster.kick(7, reason="enough")
            assert all(session.close_code is CloseCode.KICKED for session in inside)
            after = await enter(one, 7, slot=3)
            for result in await asyncio.gather(*logins, return_exceptions=True):
                if isinstance(result, Session):
                    await leave(result)
            assert after.close_code is None
            await leave(after)
            await until(lambda: not len(one.sessions) and not len(two.sessions))


async def test_thousands_of_kicks_at_once_take_few_tasks_and_all_arrive() -> None:
    async with town_of_two() as (town, one, two, lobby):
        theirs = [await enter(gateway, uid) for uid in range(1, 51) for gateway in (one,)]
        before = len(asyncio.all_tasks())
        for uid in range(1, 3_001):
            one.sessions.kick(uid, reason="enough")
        assert len(asyncio.all_tasks()) <= before + 4 * user_kicks.WORKERS, "not one for each"
        await ended(*theirs)
        await until(lambda: not len(one._client_frontend().kicks))


async def test_over_the_most_that_are_kept_a_kick_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "MAX_WAITING", 3)
    monkeypatch.setattr(user_kicks, "KEEP_SECONDS", 2_000 * MS)
    monkeypatch.setattr(user_kicks, "RETRY", 0.1)
    engine = Away()
    async with town_of_two(engine) as (town, one, two, lobby):
        engine.is_away = True
        for uid in (1, 2, 3):
            assert (await one.cluster.kick(uid)).is_kept
        with pytest.raises(LocalError):
            await one.cluster.kick(4)
        await until(lambda: not len(one._client_frontend().kicks), "each is given up after its time")
        engine.come_back()


async def test_a_gateway_with_no_room_for_a_kick_says_so_to_a_process_that_asks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "MAX_WAITING", 0)
    async with town_of_two() as (town, one, two, lobby):
        session = await enter(one, 7)
        users = kicks.ClusterUsers(lobby.cluster.engine, lobby.cluster.registry)
        with pytest.raises(RequestFailed, match="too many kicks wait") as caught:
            await users.kick(7, reason="enough")
        assert caught.value.code is RequestCode.REFUSED
        await ended(session)


async def test_records_that_can_not_be_read_are_passed_over() -> None:
    async with town_of_two() as (town, one, two, lobby):
        session = await enter(one, 7)
        for key, value in (("kicks.7.all", b"junk"), ("kicks.x.all", b"\x92\x01\xa0"), ("kicks.7.x", b"\x92\x01\xa0")):
            await town.engine.put(key, value, 60)
        other = await enter(two, 8)
        await lobby.cluster.kick(8)
        await other.wait_closed()
        assert session.close_code is None
        await lobby.cluster.kick(7, reason="enough")
        await ended(session)


async def test_a_service_closes_a_player_only_with_a_code_that_gateways_know() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await client.ask(1)
        known = lobby.player(7)
        with pytest.raises(LocalError, match="4500 is no close code; give one of CloseCode"):
            known.close(4500)  # type: ignore[arg-type]
        await client.ask(2)
        known.close(int(CloseCode.KICKED), "enough")  # type: ignore[arg-type]  # its number will do
        await client.session.wait_closed()
        assert client.session.close_code is known.close_code is CloseCode.KICKED
