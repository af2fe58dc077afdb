"""A kick ends the user's tokens, wherever it comes from: who was kicked does not come back with what it holds."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from gatelink import CloseCode, ConnectError, MemoryTokens, Session, VerifyError, connect
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.tokens import Identity, StaticTokens
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.net import token_revoker
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.wire.control import Close
from tests.e2e.cluster.support import cluster, log_in
from tests.e2e.extension import BOTH, ExtendedClient
from tests.e2e.support import CATALOG, EchoServer, leave, serving, until, verify_request


async def enter(server: EchoServer, token: str, uid: int = 7) -> Session:
    return await connect(str(server.endpoint), uid=uid, token=token, catalog=CATALOG)


async def test_who_was_kicked_does_not_come_back_with_any_token_it_holds() -> None:
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


async def test_who_comes_back_before_its_tokens_are_ended_is_kicked_again() -> None:
    tokens = Slow()
    async with serving(tokens=tokens) as server:
        first = await enter(server, "x")
        server.session(7).kick("enough")
        await first.wait_closed()
        second = await enter(server, "x")
        tokens.go_on.set()
        await second.wait_closed()
        await until(lambda: tokens.revoked == [7, 7])
        assert server.ended == [(7, CloseCode.KICKED)] * 2


class SlowClaims:
    """Who is the newest takes time to say, from the second login on."""

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


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has not been written to in the last second."""
    monkeypatch.setattr(token_revoker, "quiet", RateLimitedLogger(structlog.get_logger()))


@pytest.mark.usefixtures("fresh_log")
async def test_kicks_of_many_at_once_take_a_few_tasks_and_a_few_lines_of_log() -> None:
    tokens = Slow()
    tokens.fails = True
    many = 200
    async with serving(tokens=tokens) as server:
        sessions = [await enter(server, "x", uid) for uid in range(1, many + 1)]
        before = len(asyncio.all_tasks())
        with capture_logs() as lines:
            for uid in range(1, many + 1):
                server.session(uid).kick("enough")
            assert len(asyncio.all_tasks()) <= before + token_revoker.WORKERS
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
    monkeypatch.setattr(token_revoker, "MAX_WAITING", 3)
    monkeypatch.setattr(token_revoker, "WORKERS", 1)
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
