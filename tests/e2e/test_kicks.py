"""A kick ends the user's tokens, wherever it comes from: a kicked client does not come back with its token."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gatelink import CloseCode, ConnectError, MemoryTokens, Session, VerifyError, connect
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.tokens import Identity, StaticTokens
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net import user_kicks
from gatelink.wire.control import Close, Ticket
from tests.e2e.cluster.support import cluster, log_in
from tests.e2e.extension import BOTH, ExtendedClient
from tests.e2e.support import CATALOG, EchoServer, Note, leave, serving, until, verify_request


async def enter(server: EchoServer, token: str, uid: int = 7) -> Session:
    return await connect(str(server.endpoint), uid=uid, token=token, catalog=CATALOG)


async def test_a_kicked_user_does_not_come_back_with_any_token_it_holds() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server:
        held, spare, theirs = tokens.issue(7), tokens.issue(7), tokens.issue(8)
        session = await enter(server, held)
        server.session(7).kick("enough")
        await session.wait_closed()
        for token in (held, spare):
            with pytest.raises(ConnectError) as refused:
                await enter(server, token)
            assert refused.value.code is CloseCode.VERIFY_FAILED
        for uid, token in ((8, theirs), (7, tokens.issue(7))):  # others, and a new login
            session = await enter(server, token, uid)
            await leave(session)


async def test_any_other_end_leaves_the_token() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server:
        token = tokens.issue(7)
        for code in (CloseCode.NORMAL, CloseCode.RATE_LIMITED, CloseCode.GOING_AWAY):
            session = await enter(server, token)
            server.session(7).close(code)
            await session.wait_closed()
        session = await enter(server, token)
        await leave(session)


@pytest.mark.parametrize("features", [0, BOTH])
async def test_a_client_that_says_it_was_kicked_was_not(features: int) -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens, resume_plain=True) as server:
        token = tokens.issue(7)
        client = await ExtendedClient.extended(server, features=features)
        client.send(verify_request(7, token.encode()))
        await client.frame()
        client.say(Close(CloseCode.KICKED, "enough"))
        await client.rest()
        await client.close()
        session = await enter(server, token)
        await leave(session)


async def test_a_kick_by_a_service_ends_the_tokens_that_the_gateways_check() -> None:
    async with MemoryEngine() as engine, cluster(engine) as town:
        gateway, lobby = await town.gateway(1, tokens=EngineTokens(engine)), await town.lobby(20)
        token = await EngineTokens(engine).issue(7)
        session = await log_in(gateway, 7, token=token)
        await until(lambda: len(lobby.players) == 1)
        lobby.player(7).kick("enough")
        await session.wait_closed()
        with pytest.raises(ConnectError):
            await log_in(gateway, 7, token=token)


class Slow(StaticTokens):
    """Ends tokens when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.fails = False
        self.tried = 0
        self.revoked: list[int] = []

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        return Identity(uid)

    async def revoke_user(self, uid: int) -> None:
        await self.go_on.wait()
        self.tried += 1
        if self.fails:
            raise EngineUnavailable("gone")
        self.revoked.append(uid)


async def test_a_user_that_comes_back_before_its_tokens_are_ended_is_kicked_again() -> None:
    tokens = Slow()
    async with serving(tokens=tokens) as server:
        first = await enter(server, "x")
        server.session(7).kick("enough")
        await first.wait_closed()
        second = await enter(server, "x")
        tokens.go_on.set()
        await second.wait_closed()
        await until(lambda: not len(server._client_frontend().kicks))
        assert tokens.revoked == [7] and server.ended == [(7, CloseCode.KICKED)] * 2
        third = await enter(server, "x")  # no further kick follows, which could refuse or end a later login
        await leave(third)
        assert server.ended[2:] == [(7, CloseCode.NORMAL)]


class SlowClaims:
    """A store that needs time to say which login is the newest, from the second login on."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, None]:
        self.asked += 1
        if self.asked == 2:
            await self.go_on.wait()
        return self.asked, None

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None: ...


async def test_a_login_that_is_under_way_does_not_get_in_with_a_token_that_a_kick_has_ended() -> None:
    tokens = MemoryTokens()
    claims = SlowClaims()
    async with serving(tokens=tokens) as server:
        server.sessions.arbiter = claims
        token = tokens.issue(7)
        first = await enter(server, token)
        second = asyncio.create_task(enter(server, token))
        await until(lambda: claims.asked == 2)
        server.session(7).kick("enough")
        await first.wait_closed()
        with pytest.raises(VerifyError):
            await tokens.verify(token.encode(), 7, 0, "")
        claims.go_on.set()
        with pytest.raises(ConnectError):
            await second
        assert server.stats.refused["tokens-ended"] == 1 and not len(server.sessions)
        third = await enter(server, tokens.issue(7))
        await leave(third)


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has not been written to in the last second."""
    monkeypatch.setattr(user_kicks, "quiet", RateLimitedLogger(Logger("test")))


@pytest.mark.usefixtures("fresh_log")
async def test_a_kick_ends_the_session_though_the_tokens_can_not_be_ended(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = Slow()
    tokens.fails = True
    tokens.go_on.set()
    async with serving(tokens=tokens) as server:
        session = await enter(server, "x")
        server.session(7).kick("enough")
        await session.wait_closed()
        await until(lambda: "tokens are not revoked" in capsys.readouterr().out)
        assert server.ended == [(7, CloseCode.KICKED)]


@pytest.mark.usefixtures("fresh_log")
async def test_kicks_of_many_at_once_take_a_few_tasks_and_a_few_lines_of_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 600.0)
    tokens = Slow()
    tokens.fails = True
    many = 200
    async with serving(tokens=tokens) as server:
        sessions = [await enter(server, "x", uid) for uid in range(1, many + 1)]
        before = len(asyncio.all_tasks())
        with capture_logs() as lines:
            for uid in range(1, many + 1):
                server.session(uid).kick("enough")
            assert len(asyncio.all_tasks()) <= before + user_kicks.WORKERS
            for session in sessions:
                await session.wait_closed()
            tokens.go_on.set()
            await until(lambda: tokens.tried == many, "each was tried")
        failed = [line for line in lines if "tokens are not revoked" in line["event"]]
        assert 1 <= len(failed) < many / 10
        assert sum(1 + line.get("left_out", 0) for line in failed) <= many


@pytest.mark.usefixtures("fresh_log")
async def test_kicks_over_the_most_that_wait_are_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "MAX_WAITING", 3)
    monkeypatch.setattr(user_kicks, "WORKERS", 1)
    tokens = Slow()
    async with serving(tokens=tokens) as server:
        sessions = [await enter(server, "x", uid) for uid in range(1, 6)]
        with capture_logs() as lines:
            for uid in range(1, 6):
                server.session(uid).kick("enough")
        assert any(line.get("error") == "too many kicks wait" for line in lines)
        tokens.go_on.set()
        await until(lambda: tokens.revoked == [1, 2, 3])
        for session in sessions:
            await session.wait_closed()


async def enter_slot(server: EchoServer, token: str, slot: int, uid: int = 7) -> Session:
    return await connect(str(server.endpoint), uid=uid, token=token, catalog=CATALOG, slot=slot)


async def test_the_sessions_of_a_user_are_listed_and_kicked_together_and_nobody_elses() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server:
        token, theirs = tokens.issue(7), tokens.issue(8)
        sessions = [await enter_slot(server, token, slot) for slot in (0, 1, 3)]
        other = await enter_slot(server, theirs, 1, uid=8)
        assert [(each.uid, each.slot) for each in server.sessions.of(7)] == [(7, 0), (7, 1), (7, 3)]
        assert server.sessions.kick(7, reason="enough") == 3
        for session in sessions:
            await session.wait_closed()
            assert session.close_code is CloseCode.KICKED and session.close_reason == "enough"
        assert server.sessions.of(7) == [] and other.close_code is None
        with pytest.raises(ConnectError):
            await enter_slot(server, token, 1)
        await leave(await enter_slot(server, tokens.issue(7), 1))  # a login after the kick
        assert server.sessions.kick(7) == server.sessions.kick(99) == 0
        await leave(other)


async def test_a_kick_of_one_slot_leaves_the_others_and_the_tokens() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server:
        token = tokens.issue(7)
        first, second = await enter_slot(server, token, 0), await enter_slot(server, token, 1)
        assert server.sessions.kick(7, 1, "enough") == 1
        await second.wait_closed()
        third = await enter_slot(server, token, 1)
        assert first.close_code is None
        await leave(first)
        await leave(third)


@pytest.mark.parametrize("how", ["the session", "the user", "revoked"])
async def test_a_detached_session_its_ticket_and_a_backlog_end_with_the_user(how: str) -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens, resume_plain=True) as server:
        held = [tokens.issue(7).encode() for _ in range(3)]
        detached, base = await ExtendedClient.extended(server, slot=1), await ExtendedClient.open(server)
        detached.send(verify_request(7, held[0]))
        await detached.frame()
        ticket = await detached.control()
        base.send(verify_request(7, held[1]))
        await base.frame()
        server.session(7).send(Note(1))
        detached.reset()
        base.reset()
        await until(lambda: server.sessions._detached and server.sessions._backlogs)
        last = await connect(str(server.endpoint), uid=7, token=held[2].decode(), catalog=CATALOG, slot=2)
        if how == "the session":
            server.sessions.of(7)[-1].kick("enough")
        elif how == "the user":
            server.sessions.kick(7)
        else:
            await tokens.revoke_user(7)
        await last.wait_closed()
        assert last.close_code is CloseCode.KICKED
        assert not server.sessions.of(7) and not server.sessions._detached and not server.sessions._backlogs
        back = await ExtendedClient.extended(server, slot=1)
        assert isinstance(ticket, Ticket)
        back.resume(ticket)
        assert await back.end() == [Close(4012, "")]
        for each in (detached, base, back):
            await each.close()


async def test_a_revoked_token_ends_the_sessions_that_it_opened_and_no_other() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server:
        one, two = tokens.issue(7), tokens.issue(7)
        sessions = [await enter_slot(server, token, slot) for slot, token in enumerate((one, one, two))]
        tokens.revoke("never issued")
        tokens.revoke(one)
        for session in sessions[:2]:
            await session.wait_closed()
            assert session.close_code is CloseCode.KICKED
        assert sessions[2].close_code is None
        await leave(sessions[2])
    assert not tokens.when_revoked, "a server that has stopped is not told"


async def test_sessions_may_outlive_their_tokens() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens, end_with_tokens=False) as server:
        token = tokens.issue(7)
        first, second = await enter_slot(server, token, 0), await enter_slot(server, token, 1)
        tokens.revoke(token)
        await tokens.revoke_user(7)
        server.session(7).kick("enough")
        await first.wait_closed()
        assert second.close_code is None and len(server.sessions.of(7)) == 1
        assert server.sessions.kick(7) == 1, "a kick of the user still ends them"
        await second.wait_closed()


class SlowCheck(MemoryTokens):
    """Has read the token when it is told to go on: as a database whose answer is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.asked = 0

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        identity = await super().verify(token, uid, source, address)
        self.asked += 1
        await self.go_on.wait()
        return identity


@pytest.mark.parametrize("how", ["kick", "revoke"])
async def test_a_login_whose_token_was_read_before_the_kick_does_not_get_in(how: str) -> None:
    tokens = SlowCheck()
    async with serving(tokens=tokens) as server:
        login = asyncio.create_task(enter(server, tokens.issue(7)))
        other = asyncio.create_task(enter(server, tokens.issue(8), 8))
        await until(lambda: tokens.asked == 2)
        if how == "kick":
            server.sessions.kick(7)
        else:
            await tokens.revoke_user(7)
        tokens.go_on.set()
        with pytest.raises(ConnectError):
            await login
        assert not server.sessions.of(7)
        await leave(await other)
        await leave(await enter(server, tokens.issue(7)))


async def test_a_kick_that_fails_is_kept_and_until_it_is_carried_out_the_user_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.05)
    tokens = Slow()
    tokens.fails = True
    tokens.go_on.set()
    async with serving(tokens=tokens) as server:
        first = await enter(server, "x")
        server.session(7).kick("enough")
        await first.wait_closed()
        await until(lambda: tokens.tried >= 2)
        with pytest.raises(ConnectError):
            await enter(server, "x")
        await leave(await enter(server, "x", 8))
        tokens.fails = False
        await until(lambda: tokens.revoked == [7])
        await leave(await enter(server, "x"))
        assert server.stats.refused["tokens-ended"] == 1


async def test_a_kick_that_can_not_be_carried_out_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.05)
    monkeypatch.setattr(user_kicks, "KEEP_SECONDS", 1.0)
    tokens = Slow()
    tokens.fails = True
    tokens.go_on.set()
    async with serving(tokens=tokens) as server:
        server.sessions.kick(7)
        await until(lambda: tokens.tried >= 2)
        await until(lambda: not server._client_frontend().kicks)
        await leave(await enter(server, "x"))
