"""What clients and robots of the original engine ask of the login service, and how they are refused."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatelink import Identity
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Custom, LoginRefused
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.cluster.engine import Engine
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import VerifyError
from gatelink.login.from_settings import open_login
from gatelink.login.gateways import GatewayInfo, Gateways, StaticGateways
from gatelink.login.limits import LoginLimits, Rule
from gatelink.net.endpoints import Endpoint
from gatelink.settings import load
from gatelink.wire.base import DUPLICATE_LOGIN, VERIFY_FAILED, VERIFY_SUCCEEDED
from tests.e2e.cluster.support import cluster
from tests.e2e.engines import NewEngine
from tests.e2e.login.support import ANNA, GATEWAY, asking, limits, new_accounts, new_service, serving_login
from tests.e2e.login.test_login_settings import BASE
from tests.e2e.support import RawClient, serving, until, verify_request
from tests.e2e.tokens import KEY
from tests.support import MS

LEGACY = {"User": "anna", "Password": "correct horse"}


# -- POST /login --


async def test_a_login_says_that_heartbeats_are_needed(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        assert (await http.post("/login", json=LEGACY)).json()["HB"] is True


async def test_all_that_a_client_sends_reaches_the_login_method(tmp_path: Path) -> None:
    """A third party's channel: the client sends no name, and what proves it in `Data`."""
    seen: list[Mapping[str, Any]] = []

    async def channel(credentials: Mapping[str, Any], address: str) -> Identity:
        seen.append(credentials)
        if credentials["channel"] != "Forum":
            raise LoginRefused("no such channel")
        return Identity(77)

    proof = base64.b64encode(b'{"openid": "7"}').decode()
    body = {"User": "", "Password": "", "Token": "t", "Channel": "Forum", "ClientVer": "1.2", "Data": proof}
    async with serving_login(tmp_path, methods={"password": Custom(channel)}) as service, asking(service) as http:
        reply = (await http.post("/login", json=body)).json()
        assert (reply["UID"], reply["Result"]) == (77, 0) and reply["Token"]
        null = {**body, "Data": None, "Channel": None}  # as Go writes an empty []byte
        assert (await http.post("/login", json=null)).json()["Result"] == 1
    sent = {"user": "", "password": "", "token": "t", "channel": "Forum", "client_ver": "1.2", "data": proof}
    assert seen == [sent, {**sent, "channel": "", "data": ""}]


async def test_unverified_without_a_name_do_not_make_others_without_one_wait(tmp_path: Path) -> None:
    async def channel(credentials: Mapping[str, Any], address: str) -> Identity:
        if credentials["data"] != "true":
            raise LoginRefused("no")
        return Identity(77)

    rule = Rule(free=1, recovery=1e6)
    settings: dict[str, Any] = {
        "methods": {"password": Custom(channel)},
        "limits": limits(pair=rule, account=rule, exempt=()),
        "proxies": ("127.0.0.1/32",),
    }
    async with serving_login(tmp_path, **settings) as service:
        async with asking(service, "192.0.2.66") as stranger, asking(service, "198.51.100.7") as owner:
            for _ in range(5):
                reply = await stranger.post("/login", json={"User": "", "Password": "", "Data": "guess"})
                assert reply.json()["Result"] == 1
            reply = await owner.post("/login", json={"User": "", "Password": "", "Data": "true"})
            assert reply.json()["Result"] == 0


async def test_a_channel_is_no_way_around_the_limit_of_wrong_passwords(tmp_path: Path) -> None:
    settings = {"limits": limits(pair=Rule(free=2, recovery=1e6))}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        results = []
        for n in range(4):
            body = {"User": "anna", "Password": "guess", "Channel": f"channel {n}"}
            results.append((await http.post("/login", json=body)).json()["Result"])
        assert results == [1, 1, 2, 2]


@pytest.mark.parametrize("status", ["always-200", "original"])
async def test_a_version_that_is_not_served_is_refused_before_the_password(status: str, tmp_path: Path) -> None:
    text = f'{BASE}[login]\nlisten = "http://127.0.0.1:0"\nclient_versions = ["1.1", "1.2"]\nlegacy_status = "{status}"'
    (tmp_path / "cluster.toml").write_text(
        text + '\n[[login.servers]]\nname = "g"\nid = 1\naddresses = ["tcp://play.example.com:7000"]\n'
    )
    async with MemoryEngine() as engine, open_login(load(tmp_path / "cluster.toml"), engine) as service:
        async with asking(service) as http:
            assert (await http.post("/create", json=LEGACY)).json()["Result"] == 0
            for version in ("1.1", "1.2"):
                assert (await http.post("/login", json={**LEGACY, "ClientVer": version})).json()["Result"] == 0
            for body in ({**LEGACY, "ClientVer": "1.0"}, LEGACY, {**LEGACY, "ClientVer": None}):
                refused = await http.post("/login", json=body)
                if status == "original":
                    assert (refused.status_code, list(refused.json())) == (403, ["Error"])
                else:
                    assert (refused.status_code, refused.json()["Result"]) == (200, 4)
            assert service.logins.outcomes["password", "succeeded"] == 2


# -- POST /create --


async def test_a_robot_registers_and_may_do_so_again(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        response = await http.post("/create", json=LEGACY)
        made = response.json()
        assert response.headers["content-type"] == "application/json"
        assert made == {"UID": made["UID"], "Result": 0, "ResultMsg": ""} and made["UID"]
        again = (await http.post("/create", json=LEGACY)).json()
        assert (again["UID"], again["Result"]) == (made["UID"], 0) and again["ResultMsg"]
        assert (await http.post("/login", json=LEGACY)).json()["UID"] == made["UID"]


async def test_create_tells_the_uid_of_an_account_only_to_its_owner(tmp_path: Path) -> None:
    settings = {"limits": limits(pair=Rule(free=2, recovery=1e6))}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        await http.post("/create", json=LEGACY)
        found = [(await http.post("/create", json={**LEGACY, "Password": "guess one"})).json() for _ in range(4)]
        assert [(reply["UID"], reply["Result"]) for reply in found] == [(0, 1), (0, 1), (0, 2), (0, 2)]


async def test_without_accounts_of_ones_own_there_is_no_create(tmp_path: Path) -> None:
    async with serving_login(tmp_path, accounts=None) as service, asking(service) as http:
        assert (await http.post("/create", json=LEGACY)).status_code == 404


# -- how they are refused --

NOBODY: Gateways = StaticGateways([])


@pytest.mark.parametrize(
    ("path", "body", "gateways", "status", "result"),
    [
        ("/login", LEGACY, [GATEWAY], 200, 0),
        ("/login", {**LEGACY, "Password": "wrong"}, [GATEWAY], 403, 1),
        ("/login", {**LEGACY, "User": "nobody"}, [GATEWAY], 403, 1),
        ("/login", {"User": "anna"}, [GATEWAY], 400, 1),
        ("/login", {**LEGACY, "User": 7}, [GATEWAY], 400, 1),
        ("/login", b"{", [GATEWAY], 400, 1),
        ("/login", LEGACY, [], 406, 3),
        ("/create", {**LEGACY, "User": "bert"}, [], 200, 0),
        ("/create", {**LEGACY, "Password": "another guess"}, [], 403, 1),
        ("/create", {"User": "cleo", "Password": ""}, [], 400, 1),
        ("/create", b"\xff", [], 400, 1),
    ],
)
@pytest.mark.parametrize("original", [False, True])
async def test_a_refusal_is_the_originals_if_so_configured(
    path: str, body: Any, gateways: list[GatewayInfo], status: int, result: int, original: bool, tmp_path: Path
) -> None:
    settings = {"gateways": StaticGateways(gateways), "legacy_status": "original" if original else "always-200"}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        await http.post("/create", json=LEGACY)
        response = await (http.post(path, content=body) if isinstance(body, bytes) else http.post(path, json=body))
        reply = response.json()
        if result == 0:
            assert (response.status_code, reply["Result"]) == (200, 0)
        elif original:
            assert response.status_code == status and list(reply) == ["Error"] and reply["Error"]
        else:
            assert (response.status_code, reply["Result"]) == (200, result) and reply["ResultMsg"]
        assert response.headers["content-type"] == "application/json"


async def test_too_many_tries_are_the_originals_busy_and_a_fault_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"legacy_status": "original", "limits": limits(pair=Rule(free=1, recovery=1e6))}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        for status in (403, 406):
            refused = await http.post("/login", json=LEGACY)
            assert refused.status_code == status
        assert int(refused.headers["retry-after"]) >= 1

        async def fails(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(service.logins, "_check_password", fails)
        fault = await http.post("/login", json=LEGACY)
        assert fault.status_code == 500 and "fault of ours" not in fault.text


# -- a device that was kicked stays out --


class Device:
    """A client of the original engine: it logs in over HTTP once, and connects again whenever it is closed."""

    def __init__(self, reply: Mapping[str, Any], place: Endpoint) -> None:
        assert reply["Result"] == 0, reply
        self.uid: int = reply["UID"]
        self._token: bytes = reply["Token"].encode()
        self._place = place
        self.seen: list[int] = []
        """The first id of each connection, and of the others that of a newer login."""

    async def connect(self) -> RawClient | None:
        """A connection whose token was accepted; None if it was refused."""
        client = await RawClient.open(self._place)
        client.send(verify_request(self.uid, self._token))
        id = (await client.frame())[0]
        self.seen.append(id)
        if id == VERIFY_SUCCEEDED:
            return client
        assert id == VERIFY_FAILED
        await client.rest()
        await client.close()
        return None

    async def plays(self, tries: int) -> None:
        """Connects until it was refused `tries` times, 0.1 s after each end."""
        while tries:
            if (client := await self.connect()) is None:
                tries -= 1
            else:
                self.seen += [id for id, _, _ in await client.rest() if id == DUPLICATE_LOGIN]
                await client.close()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def a_place(where: str, engine: Engine, kind: str, stack: AsyncExitStack) -> AsyncIterator[Any]:
    """A server, or a gateway with a service behind it, whose tokens are on `engine`; and what issues them."""
    if where == "group":
        town = await stack.enter_async_context(cluster(engine))
    else:
        await stack.enter_async_context(engine)
    tokens: Any = EngineTokens(engine)
    if kind == "signed":
        tokens = await stack.enter_async_context(SignedTokens(engine, keys=[KEY]))
    if where == "server":
        async with serving(tokens=tokens) as server:
            yield tokens, server
    else:
        gateway = await town.gateway(1, tokens=tokens)
        await town.lobby(20)
        yield tokens, gateway


@pytest.mark.parametrize("kind", ["engine", "signed"])
@pytest.mark.parametrize("where", ["server", "group"])
async def test_of_two_devices_that_come_back_at_once_only_the_newer_plays_on(
    where: str, kind: str, new_engine: NewEngine, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        engine = new_engine()
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        tokens, server = await stack.enter_async_context(a_place(where, engine, kind, stack))
        place: Endpoint = server.endpoints[0]
        here = StaticGateways([GatewayInfo(id=1, name="here", addresses=(str(place),))])
        service = await stack.enter_async_context(new_service(engine, accounts, tokens=tokens, gateways=here))
        http = await stack.enter_async_context(asking(service))
        await http.post("/create", json=LEGACY)

        older = Device((await http.post("/login", json=LEGACY)).json(), place)
        playing = asyncio.create_task(older.plays(tries=3))
        await until(lambda: server.sessions.get(older.uid))
        newer = Device((await http.post("/login", json=LEGACY)).json(), place)
        client = await newer.connect()
        assert client is not None
        await playing
        assert older.seen == [VERIFY_SUCCEEDED, DUPLICATE_LOGIN, *[VERIFY_FAILED] * 3]
        session = server.sessions.get(newer.uid)
        assert session is not None and session.close_code is None
        await client.close()


AT_ONCE = LoginLimits(pair=Rule(free=8, recovery=60))
"""Each of eight tries is counted before the first one has succeeded."""


@pytest.mark.parametrize("kind", ["engine", "signed"])
async def test_of_logins_at_once_at_two_services_one_token_stays_good(
    kind: str, new_engine: NewEngine, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        engines = [new_engine(), new_engine()]
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        https, tokens = [], []
        for engine in engines if engines[0] is not engines[1] else engines[:1]:
            await stack.enter_async_context(engine)
            found: Any = EngineTokens(engine)
            if kind == "signed":
                found = await stack.enter_async_context(SignedTokens(engine, keys=[KEY]))
            service = await stack.enter_async_context(new_service(engine, accounts, tokens=found, limits=AT_ONCE))
            https.append(await stack.enter_async_context(asking(service)))
            tokens.append(found)
        uid = (await https[0].post("/create", json=LEGACY)).json()["UID"]
        at_once = [https[n % len(https)].post("/login", json=LEGACY) for n in range(8)]
        replies = [(await each).json() for each in asyncio.as_completed(at_once)]
        assert [reply["Result"] for reply in replies] == [0] * 8

        async def good() -> int:
            """How often one of them is good now."""
            await asyncio.sleep(10 * MS)  # the other process hears of an end a moment later
            checks = [each.verify(reply["Token"].encode(), uid, 0, "") for reply in replies for each in tokens]
            results = await asyncio.gather(*checks, return_exceptions=True)
            assert all(isinstance(result, Identity | VerifyError) for result in results), results
            return sum(isinstance(result, Identity) for result in results)

        while await good() != len(tokens):
            pass


async def test_a_login_for_another_slot_ends_no_token(tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        tokens = EngineTokens(engine)
        async with new_service(engine, accounts, tokens=tokens) as service, asking(service) as http:
            uid = (await http.post("/v1/register", json=ANNA)).json()["uid"]
            phone, desk = [(await http.post("/v1/login", json={**ANNA, "slot": slot})).json() for slot in (0, 1)]
            again = (await http.post("/v1/login", json={**ANNA, "slot": 1})).json()
            for reply, good in ((phone, True), (desk, False), (again, True)):
                if good:
                    await tokens.verify(reply["token"].encode(), uid, 0, "")
                else:
                    with pytest.raises(VerifyError, match="unknown token"):
                        await tokens.verify(reply["token"].encode(), uid, 0, "")
            wrong: httpx.Response = await http.post("/v1/login", json={**ANNA, "slot": 256})
            assert wrong.status_code == 422
