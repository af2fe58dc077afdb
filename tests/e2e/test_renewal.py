"""A login that lasts: renewal with a fresh token, the end of one that is not renewed, and what services hear of it."""

import asyncio
import time
from hashlib import sha256
from typing import Any

import pytest

from gatelink import (
    CloseCode,
    CloseExpired,
    Gateway,
    Handlers,
    LocalError,
    Membership,
    RequestCode,
    RequestFailed,
    Server,
    Service,
    Session,
    connect,
)
from gatelink.net import dialer
from gatelink.session import renewal
from gatelink.testing import MemoryEngine
from gatelink.wire.keys import ClusterKey
from tests.e2e.asks import Shown
from tests.e2e.support import CATALOG, TCP, until
from tests.e2e.tokens import KINDS, opened
from tests.support import MS


async def client(server: Server, token: Any, handlers: Handlers | None = None, **options: Any) -> Session:
    return await connect(
        str(server.endpoints[0]),
        uid=7,
        token=token,
        catalog=CATALOG,
        handlers=handlers or Handlers(CATALOG),
        **options,
    )


async def refusal(waiting: Any) -> RequestCode:
    with pytest.raises(RequestFailed) as raised:
        await waiting
    return raised.value.code


async def test_claims_and_end_follow_a_renewal_and_the_handlers_hear_of_it() -> None:
    heard: list[Any] = []
    async with Server(TCP, tokens=Shown(), catalog=CATALOG) as server:
        server.on_renewed(lambda session: heard.append((session.claims["name"], session.expires_in > 900)))
        session = await client(server, "7:one:100")
        await session.renew("7:two:1000")
        assert heard == [("two", True)]
        assert session.expires_at is not None and session.expires_at - time.time() > 900
        assert await refusal(session.renew("7:three:1000")) is RequestCode.REFUSED, "twice within 5 s"
        session.abort()


async def test_a_token_of_another_user_or_a_bad_one_changes_nothing() -> None:
    async with Server(TCP, tokens=Shown(), catalog=CATALOG) as server:
        for token in ("8:eve:1000", "7:bad:1000", "7:endless:nan"):
            session = await client(server, "7:one:100")
            assert await refusal(session.renew(token)) is RequestCode.REFUSED
            there = server.sessions.get(7)
            assert there is not None and there.claims == {"name": "one"} and there.expires_in <= 100
            session.abort()
            await until(lambda: server.sessions.get(7) is None)
        assert server.stats.renewals == {"refused": 3}


async def test_only_a_client_renews_and_only_where_both_sides_can() -> None:
    async with Server(TCP, tokens=Shown(), catalog=CATALOG) as server:
        plain = await client(server, "7:one:100", base_protocol=True)
        assert await refusal(plain.renew("7:two:100")) is RequestCode.UNSUPPORTED
        there = server.sessions.get(7)
        assert there is not None
        with pytest.raises(LocalError, match="the client calls"):
            await there.renew("7:two:100")
        plain.abort()


async def test_a_session_whose_token_expires_is_warned_and_closed() -> None:
    warned: list[Session] = []
    handlers = Handlers(CATALOG)
    handlers.on_expiring(warned.append)
    async with Server(TCP, tokens=Shown(), catalog=CATALOG, expiry=CloseExpired(warn=0.3)) as server:
        session = await client(server, "7:one:0.8", handlers)
        await session.wait_closed()
        assert warned == [session] and session.close_code is CloseCode.TOKEN_EXPIRED
        plain = await client(server, "7:one:0.2", base_protocol=True)
        await asyncio.sleep(0.6)  # past the end of its token, at which nothing happens
        assert plain.close_code is None, "a base client can't renew, so closing it is another choice"
        plain.abort()
    rule = CloseExpired(warn=0.1, base_clients=True)
    async with Server(TCP, tokens=Shown(), catalog=CATALOG, expiry=rule) as server:
        plain = await client(server, "7:one:0.2", base_protocol=True)
        await plain.wait_closed()
        await until(lambda: server.stats.closed[CloseCode.TOKEN_EXPIRED] == 1)


async def test_a_client_with_a_function_for_its_token_renews_by_itself() -> None:
    tokens = Shown()
    given = iter(["7:one:1.5", "7:two:1000"])
    async with Server(TCP, tokens=tokens, catalog=CATALOG, expiry=CloseExpired(warn=1.3)) as server:
        session = await client(server, lambda: next(given))
        await until(lambda: server.stats.renewals["accepted"] == 1)
        await asyncio.sleep(1.5)  # past the end of the first token, at which nothing happens
        assert session.close_code is None
        session.abort()


async def test_services_hear_of_renewals_and_of_broken_connections() -> None:
    keys = (ClusterKey.generate(),)
    heard: list[Any] = []
    async with MemoryEngine() as engine:
        service = Service("lobby", type=11, catalog=CATALOG, member=Membership(engine=engine, keys=keys, id=11_001))
        service.on_verified(lambda player: heard.append(("verified", player.claims["name"], player.is_connected)))
        service.on_renewed(lambda player: heard.append(("renewed", player.claims["name"])))
        service.on_suspended(lambda player: heard.append(("suspended", player.is_connected)))
        service.on_resumed(lambda player: heard.append(("resumed", player.is_connected)))
        member = Membership(engine=engine, keys=keys, id=1)
        gateway = Gateway(TCP, tokens=Shown(), catalog=CATALOG, member=member, resume_plain=True)
        async with service, gateway:
            session = await client(gateway, "7:one:100", resume=True)
            await until(lambda: heard == [("verified", "one", True)])
            await session.renew("7:two:1000")
            await until(lambda: heard[1:] == [("renewed", "two")])
            player = service.players.get(7)
            assert player is not None and player.expires_at is not None and player.expires_at - time.time() > 900
            there = gateway.sessions.get(7)
            assert there is not None
            there._drop_connection(CloseCode.GOING_AWAY, "cut")
            await until(lambda: len(heard) == 4)
            assert heard[2:] == [("suspended", False), ("resumed", True)]
            session.abort()


async def test_a_session_belongs_to_the_token_that_renewed_it() -> None:
    """A revocation of that token ends it, and one of the token before does not."""
    async with Server(TCP, tokens=Shown(), catalog=CATALOG) as server:
        session = await client(server, "7:one:100")
        await session.renew("7:two:1000")
        assert not server.sessions.end_opened_with(7, sha256(b"7:one:100").digest(), CloseCode.KICKED, "")
        (ended,) = server.sessions.end_opened_with(7, sha256(b"7:two:1000").digest(), CloseCode.KICKED, "")
        assert ended.uid == 7
        await session.wait_closed()
        assert session.close_code is CloseCode.KICKED


async def test_a_renewal_that_took_too_long_is_still_the_one_that_is_answered() -> None:
    """The next one waits until it is answered: else its answer would be taken for that of the next."""
    tokens = Shown()
    async with Server(TCP, tokens=tokens, catalog=CATALOG) as server:
        session = await client(server, "7:one:100")
        tokens.gate.clear()
        assert await refusal(session.renew("7:two:1000", timeout=0.1)) is RequestCode.TIMEOUT
        assert await refusal(session.renew("7:three:1000")) is RequestCode.TOO_MANY
        tokens.gate.set()
        await until(lambda: session.expires_at is not None and session.expires_at - time.time() > 900)
        with pytest.raises(LocalError, match="65535"):
            await session.renew("x" * 70_000)
        session.abort()


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_of_each_kind_renew_a_login_and_their_revocation_ends_it(kind: str) -> None:
    async with opened(MemoryEngine(), kind) as tokens, Server(TCP, tokens=tokens, catalog=CATALOG) as server:
        session = await client(server, await tokens.issue(7, {"name": "one"}))
        first = server.sessions.get(7)
        assert first is not None
        second = await tokens.issue(7, {"name": "two"})
        await session.renew(second)
        assert first.claims["name"] == "two" and first.expires_at is not None
        await tokens.revoke(second)
        await session.wait_closed()
        assert session.close_code is CloseCode.KICKED


async def test_a_client_whose_fresh_token_fails_tries_again_until_it_is_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialer, "RENEW_AGAIN", 20 * MS)
    given = iter(["7:one:30", "", "7:bad:30", "7:two:1000"])

    def token() -> str:
        found = next(given)
        if not found:
            raise ConnectionError("the login service is away")
        return found

    rule = CloseExpired(warn=30.0)  # it warns at once
    async with Server(TCP, tokens=Shown(), catalog=CATALOG, expiry=rule) as server:
        monkeypatch.setattr(renewal, "LEAST_INTERVAL", 0.0)
        session = await client(server, token)
        await until(lambda: server.stats.renewals["accepted"] == 1)
        there = server.sessions.get(7)
        assert there is not None and there.claims == {"name": "two"} and session.close_code is None
        assert server.stats.renewals["refused"] == 1
        session.abort()
