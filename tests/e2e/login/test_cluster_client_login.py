"""`connect_cluster` logs in: each way to do it, and what goes wrong on the way to the first session."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatelink import (
    Backoff,
    CloseCode,
    ConfigError,
    ConnectError,
    GatelinkError,
    Listen,
    RequestCode,
    RequestFailed,
    Session,
    SessionClosed,
    connect_cluster,
)
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.gateways import GatewayInfo
from gatelink.login.source import wait_of
from tests.e2e.login.town import CATALOG, DEVICE, SOON, Double, Doubled, Note, Seen, tokens_of, town
from tests.e2e.support import make_certificate, until
from tests.support import MS

pytestmark = pytest.mark.usefixtures("gone_soon")


async def test_a_guest_logs_in_talks_and_leaves(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        async with await t.client(seen) as client:
            client.send(Note(1))
            assert await client.request(Double(21)) == Doubled(42)
            assert seen.notes == [1] and client.session.ticket is not None, "sealed, and to be resumed"
            assert t.gates[0].notes == [1], "the least loaded one"
        assert client.close_code is CloseCode.NORMAL
        await until(lambda: seen.events == ["verified", "closed 4000"])
        with pytest.raises(SessionClosed):
            client.send(Note(2))
        with pytest.raises(RequestFailed) as failed:
            await client.request(Double(1))
        assert failed.value.code is RequestCode.CLOSED
        await client.close()


async def test_passwords_and_tokens_of_ones_own_log_in_too(tmp_path: Path) -> None:
    async with town(tmp_path) as t:
        async with LoginClient(t.login.url) as login:
            await login.register("anna", "correct horse")
        async with await t.client(guest=None, user="anna", password="correct horse") as client:
            assert await client.request(Double(1)) == Doubled(2)
            uid = client.session.uid
        calls: list[int] = []

        async def token() -> str:
            calls.append(uid)
            return await tokens_of(t.engine).issue(uid)

        async with await t.client(guest=None, uid=uid, token=token) as client:
            assert client.session.uid == uid and calls == [uid]


async def test_a_token_that_never_comes_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.login.source.TOKEN_SECONDS", 0.1)
    seen, calls = Seen(), list[int]()
    async with town(tmp_path, gates=1) as t:
        async with await t.client() as guest:
            uid = guest.session.uid

        async def token() -> str:
            calls.append(uid)
            if len(calls) == 2:
                await asyncio.Event().wait()
            return await tokens_of(t.engine).issue(uid)

        async with await t.client(seen, guest=None, uid=uid, token=token) as client:
            there = t.gates[0].sessions.get(uid)
            assert there is not None
            there.close(CloseCode.GOING_AWAY)
            await until(lambda: "restarted" in seen.events)
            assert len(calls) > 2 and await client.request(Double(1)) == Doubled(2)


async def test_several_clients_share_one_login_client(tmp_path: Path) -> None:
    async with town(tmp_path) as t, LoginClient(t.login.url) as login:
        for number in range(2):
            how: dict[str, Any] = {"guest": f"{DEVICE}-{number}", "catalog": CATALOG}
            async with await connect_cluster(login, **how) as client:
                assert await client.request(Double(1)) == Doubled(2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"guest": None},
        {"guest": None, "user": "anna"},
        {"guest": None, "uid": 7},
        {"user": "anna", "password": "x"},
        {"slot": 256},
        {"server_key": b"short"},
        {"timeout": 0},
        {"transports": ["wss", "http"]},
        {"login": "no url"},
    ],
    ids=str,
)
async def test_arguments_that_cannot_be_are_the_callers_fault(wrong: dict[str, Any]) -> None:
    how = {"login": "http://127.0.0.1:1", "guest": DEVICE} | wrong
    with pytest.raises(ConfigError):
        await connect_cluster(how.pop("login"), **how)


async def test_a_wrong_password_is_final_at_once_and_later(tmp_path: Path) -> None:
    seen = Seen()
    async with town(tmp_path) as t:
        with pytest.raises(LoginFailed) as failed:
            await t.client(guest=None, user="anna", password="guess")
        assert failed.value.code == "wrong-credentials"
        async with LoginClient(t.login.url) as login:
            uid = (await login.register("anna", "correct horse")).uid
        client = await t.client(seen, guest=None, user="anna", password="correct horse")
        await t.accounts.disable(uid)
        await t.kill(t.gates[0])
        await client.wait_closed()
        assert client.close_code is CloseCode.VERIFY_FAILED and "403" in client.close_reason
        assert "correct horse" not in client.close_reason
        await until(lambda: seen.events == ["verified", "suspended", "closed 4001"])
        assert len(t.gates[1].sessions) == 0


async def test_a_login_service_and_gateways_that_are_away_fail_within_the_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(LoginFailed, match="no answer"):
        await connect_cluster(f"http://127.0.0.1:{port}", guest=DEVICE, timeout=100 * MS, reconnect=SOON)
    async with town(tmp_path, gates=1) as t:
        await t.kill(t.gates[0], is_listed=True)
        with pytest.raises(ConnectError, match="refused"):
            await t.client(timeout=300 * MS)


async def test_a_gateway_that_is_dead_and_still_listed_is_passed_over(tmp_path: Path) -> None:
    async with town(tmp_path) as t:
        await t.kill(t.gates[0], is_listed=True)
        async with await t.client() as client:
            assert await client.request(Double(1)) == Doubled(2)
            assert len(t.gates[1].sessions) == 1


async def test_an_address_that_is_slow_or_has_no_host_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelink.cluster_client.DIALLING", 200 * MS)
    async with town(tmp_path) as t:
        t.gates[0].proxy.pause()
        async with await t.client() as client:
            assert await client.request(Double(1)) == Doubled(2)
        t.gates[0].proxy.resume()
        t.listed.infos[0] = msgspec.structs.replace(t.listed.infos[0], addresses=("tcp://no-such-host.invalid:1",))
        async with await t.client() as client:
            assert await client.request(Double(1)) == Doubled(2)
        assert t.gates[1].asked == 2


@pytest.mark.parametrize("address", ["garbage", "tcp://127.0.0.1:99999", "tcp://a..b:1", "tcp://[::1:1"])
async def test_an_address_that_cannot_be_is_passed_over_at_the_first_login_and_later(
    tmp_path: Path, address: str
) -> None:
    seen = Seen()
    async with town(tmp_path, gates=3) as t:
        t.listed.infos[0] = msgspec.structs.replace(t.listed.infos[0], addresses=(address,))
        async with await t.client(seen) as client:
            assert await client.request(Double(1)) == Doubled(2)
            await t.kill(next(gate for gate in t.gates if gate.asked))
            await until(lambda: len(seen.sessions) == 3)
            assert await client.request(Double(1)) == Doubled(2)
            assert [gate.asked for gate in t.gates] == [0, 1, 1]
            assert seen.events == ["verified", "suspended", "restarted"]


async def test_a_newer_login_at_the_next_gateway_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt would replace that login in turn."""
    monkeypatch.setattr("gatelink.cluster_client.DIALLING", 200 * MS)
    async with town(tmp_path) as t:
        t.gates[0].proxy.pause()
        logins: list[int] = []

        def refuses(session: Session) -> None:
            logins.append(session.uid)
            session.close(CloseCode.REPLACED)

        t.gates[1].on_verified(refuses)
        client = await t.client()
        await client.wait_closed()
        assert client.close_code is CloseCode.REPLACED and len(logins) == 1
        t.gates[0].proxy.resume()


@pytest.mark.parametrize(
    "error, seconds",
    [
        (LoginFailed("no answer"), 0.0),
        (LoginFailed("busy", status=503, retry_after=7), 7.0),
        (LoginFailed("busy", status=429, retry_after=100_000), 60.0),
        (LoginFailed("a proxy's page", status=200), 0.0),
        (LoginFailed("wrong", status=403, code="wrong-credentials"), None),
        (LoginFailed("no such path", status=404), None),
        (ConnectError("refused"), 0.0),
    ],
    ids=str,
)
def test_which_failed_login_is_tried_again_and_when(error: GatelinkError, seconds: float | None) -> None:
    assert wait_of(error) == seconds


async def test_the_wait_before_a_login_is_random_and_grows_while_sessions_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled: list[int] = []
    delays = Backoff.delays

    def note(self: Backoff, already: int = 0) -> Any:
        if self is SOON:
            doubled.append(already)
        return delays(self, already)

    monkeypatch.setattr(Backoff, "delays", note)
    async with town(tmp_path, gates=1) as t:
        client = await t.client()
        t.gates[0].on_verified(lambda session: session.close(CloseCode.TOKEN_EXPIRED))
        there = t.gates[0].sessions.get(client.session.uid)
        assert there is not None
        there.close(CloseCode.TOKEN_EXPIRED)
        await until(lambda: len(doubled) > 4)
        await client.close()
        assert doubled[:5] == [0, 1, 2, 3, 4]


async def test_a_key_or_address_that_cannot_be_is_said(tmp_path: Path) -> None:
    async with town(tmp_path, gates=0) as t:
        for info, words in (
            (
                GatewayInfo(id=1, name="g", addresses=("tcp://127.0.0.1:1",), public_key="xyz"),
                "public key of 3 characters",
            ),
            (
                GatewayInfo(id=1, name="g", addresses=("ws://127.0.0.1:1",)),
                "no address over wss, tcp; the login service gave ws",
            ),
        ):
            t.listed.infos = [info]
            with pytest.raises(ConnectError, match=words):
                await t.client(reconnect=Backoff(attempts=0), transports=("wss", "tcp"))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_client_that_may_only_use_websocket_finds_the_gateway_that_has_it(scheme: str, tmp_path: Path) -> None:
    seen = Seen()
    certificate, key, trust = make_certificate(tmp_path)
    listen = Listen(endpoint=f"{scheme}://127.0.0.1:0")
    if scheme == "wss":
        listen = msgspec.structs.replace(listen, certificate=certificate, key=key)
    async with town(tmp_path, gates=1) as t:
        gate = await t.gate(1.0, keys=[], listen=listen)
        address = f"{scheme}://127.0.0.1:{gate.proxy.address[1]}"
        t.listed.infos[1] = msgspec.structs.replace(t.listed.infos[1], addresses=(address,))
        async with await t.client(seen, tls=trust, transports=("wss", "ws")) as client:
            assert await client.request(Double(1)) == Doubled(2)
            session = client.session
            gate.proxy.cut_all()
            await until(lambda: "suspended" in seen.events)
            assert await client.request(Double(2)) == Doubled(4)
            goes_on = client.session is session
        assert goes_on == (scheme == "wss"), "a session on a plain connection is followed by a new one"
        assert gate.asked == 2 and t.gates[0].asked == 0
