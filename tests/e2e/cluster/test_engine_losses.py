"""After a loss of the engine the newest login wins at once, whatever was lost and in what order gateways are back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gatelink import CloseCode, Session
from gatelink.cluster import login_arbiter
from gatelink.cluster.gateway import Gateway
from gatelink.session.states import SessionState
from gatelink.wire.base import DUPLICATE_LOGIN, VERIFY_SUCCEEDED
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import CATALOG, Recorder, Say, Town, cluster, log_in, player
from tests.e2e.support import RawClient, leave, until, verify_request
from tests.faulty_engine import Fault, FaultyEngine, Store


class World:
    """Two gateways and a lobby, each with an engine of its own on one store."""

    def __init__(self, store: Store, town: Town, gateways: list[Gateway], engines: list[FaultyEngine]) -> None:
        self.store = store
        self.town = town
        self.one, self.two = gateways
        self.engines = engines

    async def all_away(self) -> None:
        for engine in self.store.engines:
            await engine.go_away()

    async def all_back(self) -> None:
        for engine in self.store.engines:
            if engine.is_away:
                await engine.come_back()

    def unlink(self) -> None:
        """The two gateways have no link, as with one from before these links."""
        for gateway, other in ((self.one, 2), (self.two, 1)):
            links = gateway.cluster.links
            if (task := links._dialling.pop(other, None)) is not None:
                task.cancel()
            link = links.get(other)
            assert link is not None
            link.session.abort()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    store = Store()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(store.engine()) for _ in range(3)]
        town = await stack.enter_async_context(cluster(engines[2]))
        gateways = [await town.gateway(id + 1, member={"engine": engines[id]}) for id in range(2)]
        yield World(store, town, gateways, engines)


Loss = Callable[[Store, tuple[dict[str, object], int]], None]

LOSSES: dict[str, Loss] = {
    "nothing is lost": lambda store, copy: None,
    "all is lost": lambda store, copy: store.empty(),
    "an older copy is back": lambda store, copy: store.become(*copy),
}
losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@losses
@pytest.mark.parametrize("linked", [True, False], ids=["gateways are linked", "gateways are not linked"])
@pytest.mark.parametrize("first", ["one", "two"])
async def test_a_login_elsewhere_after_a_loss_ends_the_older_session(loss: Loss, linked: bool, first: str) -> None:
    """Whichever gateway is back first; over the link even before the older session's gateway is back."""
    async with world() as here:
        lobby = await here.town.lobby(20)
        copy = here.store.copy()
        async with player(here.one, 7) as older:
            await older.ask(1)
            if not linked:
                here.unlink()
                await until(lambda: here.two.cluster.links.get(1) is None)
            await here.all_away()
            loss(here.store, copy)
            if first == "one":
                await here.engines[0].come_back()
            await here.engines[1].come_back()
            async with player(here.two, 7) as newer:
                if linked or first == "one":
                    await until(lambda: older.session.close_code is CloseCode.REPLACED)
                await here.all_back()
                await until(lambda: older.session.close_code is CloseCode.REPLACED)
                await newer.ask(2)
                assert newer.session.close_code is None
                assert lobby.player(7).gateway == 2
                place = await here.one.cluster.find(7)
                assert place is not None and place.gateway == 2


@losses
async def test_running_sessions_are_untouched_by_a_loss_and_are_in_the_directory_again(loss: Loss) -> None:
    async with world() as here:
        await here.town.lobby(20)
        copy = here.store.copy()
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(player(gateway, uid))
                for gateway, uids in ((here.one, range(1, 20)), (here.two, range(20, 40)))
                for uid in uids
            ]
            await here.all_away()
            loss(here.store, copy)
            await here.all_back()
            await until(lambda: not here.one.trouble and not here.two.trouble)
            for n, client in enumerate(clients, 1):
                await client.ask(n)
                place = await here.two.cluster.find(n)
                assert place is not None and place.gateway == (1 if n < 20 else 2)


async def test_until_its_entries_are_back_a_gateway_accepts_no_login_and_says_so() -> None:
    async with world() as here:
        async with player(here.one, 7), player(here.one, 8):
            go_on = asyncio.Event()
            await here.all_away()
            here.store.empty()
            here.engines[0].holds = lambda call, key: go_on if key == "players.8.0" else None
            await here.all_back()
            client = await RawClient.open(here.one)
            client.send(verify_request(9))
            await until(lambda: here.one.arbiter.renewals._under_way)
            await until(lambda: "players.7.0" in here.store.memory._rows)
            assert "not checked" in here.one.trouble and not here.two.trouble
            async with player(here.two, 10):  # by then user 9 would be in, too
                assert here.one.sessions.get(9) is None
            go_on.set()
            assert (await client.frame())[0] == VERIFY_SUCCEEDED
            assert "players.8.0" in here.store.memory._rows and not here.one.trouble
            await client.close()


async def test_it_waits_for_its_entries_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_arbiter, "SETTLE_SECONDS", 0.05)
    async with world() as here, player(here.one, 8):
        never = asyncio.Event()
        await here.engines[0].go_away()
        here.engines[0].holds = lambda call, key: never if key == "players.8.0" else None
        await here.engines[0].come_back()
        async with player(here.one, 7):
            assert not here.one.trouble
        here.engines[0].holds = lambda call, key: None
        never.set()


async def test_logins_wait_for_an_engine_that_is_away_and_are_refused_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(login_arbiter, "LOGIN_WAIT", 0.05)
    async with world() as here:
        await here.engines[0].go_away()
        client = await RawClient.open(here.one)
        client.send(verify_request(7))
        assert await client.rest() == []
        assert "engine" in here.one.trouble
        monkeypatch.setattr(login_arbiter, "LOGIN_WAIT", 60.0)
        again = await RawClient.open(here.one)
        again.send(verify_request(7))
        await until(lambda: here.one.arbiter._must_settle.is_set() or not here.one.arbiter._is_settled.is_set())
        await here.engines[0].come_back()
        assert (await again.frame())[0] == VERIFY_SUCCEEDED
        await client.close()
        await again.close()


async def test_a_gateway_that_is_not_subscribed_yet_is_asked_again_and_what_waits_there_comes_along() -> None:
    async with world() as here:
        client = await RawClient.verified(here.one, 7)
        session = here.one.sessions.get(7)
        assert session is not None and session._stream is not None
        session._stream.writable = False
        session.send(Say(5))
        client.reset()
        await until(lambda: here.one.sessions.get(7) is None)
        await here.engines[0].go_away()
        await here.engines[0].come_back(serving=False)
        asked = here.store.memory.stats.failures
        again = await RawClient.open(here.two)
        again.send(verify_request(7))
        await until(lambda: asked["request", "NoResponder"] > 1, "it is asked again")
        await here.engines[0].serve_again()
        id, _, body = await again.frame()
        assert id == VERIFY_SUCCEEDED and body[-1] == 1
        assert CATALOG.of_type(Say).decode((await again.frame())[2]).n == 5
        await again.close()


async def test_a_gateway_that_does_not_answer_is_told_over_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_arbiter, "REPLACE_SECONDS", 0.3)
    async with world() as here:
        lobby = await here.town.lobby(20)
        older = await RawClient.verified(here.one, 7)
        await until(lambda: len(lobby.players) == 1)
        await here.engines[0].go_away()
        async with player(here.two, 7) as newer:
            assert (await older.rest())[-1][0] == DUPLICATE_LOGIN
            await newer.ask(1)
        await here.all_back()
        await older.close()


async def test_a_gateway_without_a_link_is_told_when_it_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_arbiter, "REPLACE_SECONDS", 0.3)
    async with world() as here, player(here.one, 7) as older:
        here.unlink()
        await until(lambda: here.two.cluster.links.get(1) is None)
        await here.engines[0].go_away()
        async with player(here.two, 7) as newer:
            assert here.two.arbiter._unsent == {1: {(7, 0): newer_epoch(here.two)}}
            assert older.session.close_code is None
            here.one.cluster.links.open()
            await until(lambda: older.session.close_code is CloseCode.REPLACED)
            assert newer.session.close_code is None and not here.two.arbiter._unsent
        await here.all_back()


def newer_epoch(gateway: Gateway) -> int:
    session = gateway.sessions.get(7)
    assert session is not None
    return session.epoch


async def test_what_an_older_login_is_told_does_not_end_a_newer_one() -> None:
    async with world() as here, player(here.one, 7) as client:
        epoch = newer_epoch(here.one)
        here.two.arbiter._send_newer_login(1, 7, 0, epoch)
        here.two.arbiter._send_newer_login(1, 7, 1, epoch + 1)
        here.two.arbiter._send_newer_login(1, 8, 0, epoch + 1)
        async with player(here.one, 9) as other:
            here.two.arbiter._send_newer_login(1, 9, 0, epoch + 1_000_000)
            await until(lambda: other.session.close_code is CloseCode.REPLACED)
        assert client.session.close_code is None


@pytest.mark.parametrize("late", ["the older", "the newer"])
async def test_a_service_tells_the_older_session_s_gateway_that_it_has_heard_of_a_newer_login(late: str) -> None:
    """Also when no gateway reached the other, and whichever the service hears of first."""
    async with world() as here:
        lobby = await here.town.lobby(20, greet=False)
        for gateway in (here.one, here.two):
            gateway.arbiter._send_newer_login = lambda *told: None  # type: ignore[method-assign]
        here.engines[1].fault = lambda call, key: Fault.REFUSED if call == "request" else Fault.NONE
        older = await RawClient.verified(here.one, 7)
        async with player(here.two, 7) as newer:
            if late == "the newer":
                older.send(frame_of(Say(1)))
                await until(lambda: lobby.numbers(7) == [1])
            await newer.ask(2)
            if late == "the older":
                older.send(frame_of(Say(1)))
            assert (await older.rest())[-1][0] == DUPLICATE_LOGIN
            assert here.one.sessions.get(7) is None
            await newer.ask(3)
            assert lobby.player(7).gateway == 2
        await older.close()


def frame_of(message: Say) -> bytes:
    kind, body = CATALOG.encode(message)
    return encode_frame(kind.id, body)


@losses
async def test_however_the_logins_of_many_users_fall_around_a_loss_each_has_one_session(loss: Loss) -> None:
    async with world() as here:
        lobbies: list[Recorder] = [await here.town.lobby(20), await here.town.lobby(21)]
        copy = here.store.copy()
        users = range(1, 41)
        older = [await log_in(here.one if uid % 2 else here.two, uid) for uid in users]
        await here.all_away()
        loss(here.store, copy)

        async def again(uid: int) -> Session:
            await asyncio.sleep(uid % 5 / 100)
            return await log_in(here.two if uid % 2 else here.one, uid)

        logins = [asyncio.create_task(again(uid)) for uid in users]
        for engine in reversed(here.store.engines):
            await engine.come_back()
            await asyncio.sleep(0.05)
        newer = await asyncio.gather(*logins)
        await until(lambda: all(session.close_code is CloseCode.REPLACED for session in older))
        for uid in users:
            assert (here.one.sessions.get(uid) is None) == bool(uid % 2)
            assert (here.two.sessions.get(uid) is None) != bool(uid % 2)
            await until(lambda: sum(lobby.players.get(uid) is not None for lobby in lobbies) == 1)  # noqa: B023
        for session in newer:
            assert session.state is SessionState.OPEN
            await leave(session)
