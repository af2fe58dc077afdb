"""How a client of a cluster renews its login, and how it ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    CloseExpired,
    Limits,
    RequestCode,
    RequestFailed,
    connect_cluster,
)
from gatelink.login.client import LoginClient
from gatelink.login.messages import LoginReply
from gatelink.session.states import SessionState
from gatelink.wire.control import Expiring
from tests.e2e.login.town import CATALOG, DEVICE, Double, Doubled, Seen, tokens_of, town
from tests.e2e.support import until
from tests.support import MS

pytestmark = pytest.mark.usefixtures("gone_soon")


# -- ends that are final --


async def test_a_kick_a_newer_login_and_a_revoked_token_are_final(tmp_path: Path) -> None:
    async with town(tmp_path, gates=1) as t:
        for code in (CloseCode.KICKED, CloseCode.REPLACED, CloseCode.RATE_LIMITED):
            seen = Seen()
            client = await t.client(seen)
            there = t.gates[0].sessions.get(client.session.uid)
            assert there is not None
            newer = None
            if code is CloseCode.REPLACED:
                newer = await t.client()
            else:
                there.close(code)
            await client.wait_closed()
            assert client.close_code is code
            await until(lambda seen=seen, code=code: seen.events == ["verified", f"closed {code:d}"])  # type: ignore[misc]
            if newer is not None:
                assert newer.close_code is None
                await newer.close()
        client = await t.client()
        await tokens_of(t.engine).revoke_user(client.session.uid)
        await client.wait_closed()
        assert client.close_code is CloseCode.KICKED


# -- a login that lasts --


async def test_a_login_is_renewed_when_the_server_warns_and_the_session_goes_on(tmp_path: Path) -> None:
    seen = Seen()
    rule = CloseExpired(warn=1.9)
    async with town(tmp_path, gates=1, lifetime=2.0, expiry=rule) as t:
        async with await t.client(seen) as client:
            await until(lambda: t.gates[0].stats.renewals["accepted"] == 1)
            there = t.gates[0].sessions.get(client.session.uid)
            assert there is not None and seen.events == ["verified"]


async def test_a_login_is_renewed_ahead_of_its_end(tmp_path: Path) -> None:
    async with town(tmp_path, gates=1, lifetime=1.0) as t:
        async with await t.client():
            await until(lambda: t.gates[0].stats.renewals["accepted"] == 1)


async def test_a_renewal_and_a_new_login_do_not_end_each_other_s_tokens(tmp_path: Path) -> None:
    """Each login ends the token of the one before, and a token that was ended stays refused."""

    class Slow(LoginClient):
        running = most = logins = 0

        async def guest(self, device_id: str, *, slot: int = 0) -> LoginReply:
            self.running += 1
            self.logins += 1
            self.most = max(self.most, self.running)
            reply = await super().guest(device_id, slot=slot)
            await asyncio.sleep(30 * MS)
            self.running -= 1
            return reply

    seen = Seen()
    async with town(tmp_path, gates=1) as t, Slow(t.login.url) as login:
        how: dict[str, Any] = {"guest": DEVICE, "catalog": CATALOG, "handlers": seen.handlers}
        client = await connect_cluster(login, reconnect=Backoff(first=MS, most=MS, attempts=1_000), **how)
        for n in range(1, 4):
            there = t.gates[0].sessions.get(client.session.uid)
            assert there is not None
            there.send_control(Expiring(60))
            await until(lambda: login.running)
            there.close(CloseCode.GOING_AWAY)
            t.gates[0].proxy.cut_all()
            await until(lambda: client.session.state is SessionState.DETACHED or client.session.close_code is not None)
            if client.session.close_code is None:
                client.session.close(CloseCode.GOING_AWAY)
            await until(lambda n=n: seen.events.count("restarted") == n)  # type: ignore[misc]
            assert await client.request(Double(n)) == Doubled(2 * n)
            client._stale.set()
        assert login.most == 1 and client.close_code is None
        await client.close()


async def test_a_session_whose_token_expired_is_followed_by_a_new_one(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path, gates=1) as t:
        async with await t.client(seen) as client:
            there = t.gates[0].sessions.get(client.session.uid)
            assert there is not None
            there.close(CloseCode.TOKEN_EXPIRED)
            await until(lambda: seen.events == ["verified", "suspended", "restarted"])
            assert await client.request(Double(1)) == Doubled(2)


# -- cancelled and closed half-way --


async def test_a_client_is_cancelled_while_it_logs_in(tmp_path: Path) -> None:
    async with town(tmp_path, gates=1) as t:
        t.gates[0].proxy.pause()
        opening = asyncio.create_task(t.client())
        await until(lambda: t.gates[0].proxy.connections == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        t.gates[0].proxy.resume()


@pytest.mark.parametrize("while_it", ["resumes", "logs in", "has just begun"])
async def test_a_client_is_closed_while_it_comes_back(tmp_path: Path, while_it: str) -> None:
    seen = Seen()
    async with town(tmp_path, gates=1) as t:
        client = await t.client(seen, limits=Limits(close_timeout=100 * MS))
        events = ["verified"]
        if while_it == "resumes":
            t.gates[0].proxy.pause()
            t.gates[0].proxy.cut_all()
            await until(lambda: "suspended" in seen.events)
            events.append("suspended")
        elif while_it == "logs in":
            await t.login.stop()
            await t.kill(t.gates[0])
            await until(lambda: client.session.close_code is not None)
            events.append("suspended")
        waiting = asyncio.create_task(client.request(Double(0), timeout=60))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(RequestFailed) as failed:
            await waiting
        assert failed.value.code is RequestCode.CLOSED
        await until(lambda: seen.events == [*events, "closed 4000"])
        if while_it == "resumes":
            t.gates[0].proxy.resume()
        if while_it == "logs in":
            await t.start_login()
