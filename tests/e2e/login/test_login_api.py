"""The login service over real HTTP: what each admission gives, and how each error looks."""

import html
import re
import secrets
import shlex
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.errors import LoginRefused
from gatelink.auth.methods import Oidc, Password
from gatelink.auth.tokens import Identity
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import ConfigError, VerifyError
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.messages import LoginReply
from gatelink.login.service import LoginService
from tests import issuer
from tests.e2e.login.support import (
    ANNA,
    GATEWAY,
    LIFETIME,
    asking,
    fast_passwords,
    new_accounts,
    new_service,
    problem_in,
    serving_login,
)


async def test_a_user_that_registers_is_logged_in_and_can_log_in_again(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, LoginClient(service.url) as client:
        first = await client.register("anna", "correct horse")
        again = await client.login("ANNA", "correct horse")
        assert first.uid == again.uid and first.token != again.token
        for reply in (first, again):
            assert reply.addresses == {"tcp": "tcp://play.example.com:7000", "tls": "tls://play.example.com:7443"}
            assert reply.public_key == GATEWAY.public_key
            assert 0 < reply.expires_at - service.logins._clock() <= LIFETIME


async def test_a_device_is_the_same_guest_each_time(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, LoginClient(service.url) as client:
        device = secrets.token_hex(16)
        first, again, other = [await client.guest(one) for one in (device, device, secrets.token_hex(16))]
        assert first.uid == again.uid != other.uid


async def test_an_id_token_logs_in_whom_its_issuer_says(tmp_path: Path) -> None:
    key = issuer.new_key("ES256")
    (tmp_path / "jwks.json").write_bytes(issuer.jwks(key))
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        methods = {"oidc": Oidc(accounts, issuer.NAME, issuer.AUDIENCE, str(tmp_path / "jwks.json"))}
        async with new_service(engine, accounts, methods=methods) as service, LoginClient(service.url) as client:
            first = await client.oidc(issuer.sign(key, "ES256"))
            assert (await client.oidc(issuer.sign(key, "ES256"))).uid == first.uid
            with pytest.raises(LoginFailed) as failed:
                await client.oidc(issuer.sign(issuer.new_key("ES256"), "ES256"))
            assert (failed.value.status, failed.value.code) == (403, "wrong-credentials")
            with pytest.raises(LoginFailed) as missing:
                await client.guest(secrets.token_hex(16))
            assert missing.value.status == 404, "a method that is not on has no admission"


async def test_a_token_verifies_until_logout(tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        tokens = EngineTokens(engine)
        async with (
            new_service(engine, accounts, tokens=tokens) as service,
            LoginClient(service.url) as client,
        ):
            reply = await client.register("anna", "correct horse")
            identity = await tokens.verify(reply.token.encode(), reply.uid, 0, "")
            assert identity.claims == {"user": "anna"}
            await client.logout(reply.token)
            with pytest.raises(VerifyError):
                await tokens.verify(reply.token.encode(), reply.uid, 0, "")
            await client.logout(reply.token)
            await client.logout("no token at all")


@pytest.mark.parametrize("one_token", [True, False])
async def test_a_newer_login_ends_older_tokens_if_so_configured(one_token: bool, tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        tokens = EngineTokens(engine)
        async with (
            new_service(engine, accounts, tokens=tokens, one_token=one_token) as service,
            LoginClient(service.url) as client,
        ):
            other = await client.register("bert", "correct horse")
            old = await client.register("anna", "correct horse")
            new = await client.login("anna", "correct horse")
            for reply in (other, new):
                await tokens.verify(reply.token.encode(), reply.uid, 0, "")
            if one_token:
                with pytest.raises(VerifyError):
                    await tokens.verify(old.token.encode(), old.uid, 0, "")
            else:
                await tokens.verify(old.token.encode(), old.uid, 0, "")


# -- gateways --


async def test_players_go_to_the_least_loaded_gateway_that_takes_them(tmp_path: Path) -> None:
    def gateway(id: int, load: float, open: bool = True) -> GatewayInfo:
        return GatewayInfo(id=id, name=f"g{id}", addresses=(f"tcp://g{id}:7000",), load=load, open=open)

    gateways = StaticGateways([gateway(1, 0.0, open=False), gateway(2, 5.0), gateway(3, 2.0), gateway(4, 2.0)])
    async with serving_login(tmp_path, gateways=gateways) as service, LoginClient(service.url) as client:
        replies = [await client.guest(secrets.token_hex(16)) for _ in range(4)]
        assert {reply.addresses["tcp"] for reply in replies} == {"tcp://g3:7000", "tcp://g4:7000"}
        assert [(server.id, server.open) for server in await client.servers()] == [
            (1, False),
            (2, True),
            (3, True),
            (4, True),
        ]


async def test_without_a_gateway_nobody_gets_a_token(tmp_path: Path) -> None:
    async with serving_login(tmp_path, gateways=StaticGateways([])) as service, asking(service) as http:
        problem_in(await http.post("/v1/register", json=ANNA), 503, "no-gateway")
        assert (await http.get("/v1/servers")).json() == []
        reply = (await http.post("/login", json={"User": "anna", "Password": "correct horse"})).json()
        assert reply["Result"] == 3 and reply["Token"] == ""


# -- the original engine's admission --


async def test_clients_of_the_original_engine_log_in(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        uid = (await http.post("/v1/register", json=ANNA)).json()["uid"]
        response = await http.post("/login", json={"User": "anna", "Password": "correct horse"})
        reply = response.json()
        assert response.status_code == 200 and response.headers["content-type"] == "application/json"
        assert len(reply.pop("Token")) == 43
        assert reply == {"UID": uid, "LobbyAddr": "play.example.com:7000", "Result": 0, "ResultMsg": "", "HB": True}


async def test_they_are_sent_only_to_gateways_that_speak_plain_tcp(tmp_path: Path) -> None:
    legacy = {"User": "anna", "Password": "correct horse"}
    tls = [GatewayInfo(id=n, name=f"tls-{n}", addresses=(f"tls://t{n}.example.com:7443",)) for n in range(1, 5)]
    busy = GatewayInfo(id=9, name="tcp", addresses=("tls://t9:1", "tcp://t9:7000"), load=5.0)
    for gateways, result, address in ((tls, 3, ""), ([*tls, busy], 0, "t9:7000")):
        async with serving_login(tmp_path, gateways=StaticGateways(gateways)) as service, asking(service) as http:
            await http.post("/v1/register", json=ANNA)
            reply = (await http.post("/login", json=legacy)).json()
            assert (reply["Result"], reply["LobbyAddr"]) == (result, address)
            assert bool(reply["Token"]) == (result == 0)
            assert "tls" in (await http.post("/v1/login", json=ANNA)).json()["addresses"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"User": "anna", "Password": "wrong"}',
        b'{"User": "nobody", "Password": "wrong"}',
        b'{"User": "anna"}',
        b'{"User": 7, "Password": []}',
        b"",
        b"{",
        b"\xff",
    ],
)
async def test_they_are_refused_in_their_own_words(body: bytes, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        response = await http.post("/login", content=body)
        reply = response.json()
        assert response.status_code == 200
        assert reply["Result"] == 1 and reply["ResultMsg"]
        assert (reply["UID"], reply["Token"], reply["LobbyAddr"]) == (0, "", "")


# -- errors --

BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"{", 400, "malformed-body"),
    (b"\xff\xfe", 400, "malformed-body"),
    (b'{"user": "\xff\xfe", "password": "x"}', 400, "malformed-body"),
    (b'{"user": "\\ud800"}', 400, "malformed-body"),
    (b"[" * 5_000, 400, "malformed-body"),
    (b"", 422, "invalid-body"),
    (b"null", 422, "invalid-body"),
    (b"[]", 422, "invalid-body"),
    (b'"text"', 422, "invalid-body"),
    (b'{"user": "anna"}', 422, "invalid-body"),
    (b'{"user": "anna", "password": 7}', 422, "invalid-body"),
    (b'{"user": "anna", "password": "x", "slot": "1"}', 422, "invalid-body"),
    (b'{"user": "anna", "password": "x", "slot": 1.5}', 422, "invalid-body"),
    (b'{"user": 7', 400, "malformed-body"),
    (b'{"user": "", "password": "x"}', 422, "invalid-body"),
    (msgspec.json.encode({"user": "anna", "password": "x" * 2_000}), 422, "invalid-body"),
]


@pytest.mark.parametrize("path", ["/v1/login", "/v1/register"])
@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES)
async def test_a_bad_body_is_a_problem(path: str, body: bytes, status: int, code: str, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        found = problem_in(await http.post(path, content=body), status, code)
        assert len(found.detail) < 200


@pytest.mark.parametrize(
    ("kind", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        (None, True),
        ("application/x-www-form-urlencoded", False),
        ("text/plain", False),
        ("multipart/form-data; boundary=x", False),
        ("application/problem+json", False),
        ("", False),
    ],
)
async def test_a_body_must_not_say_that_it_is_something_else_than_json(
    kind: str | None, is_json: bool, tmp_path: Path
) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        headers = {} if kind is None else {"content-type": kind}
        response = await http.post("/v1/register", content=msgspec.json.encode(ANNA), headers=headers)
        if is_json:
            assert response.status_code == 201
        else:
            problem_in(response, 415, "no-json")
            assert service.logins.outcomes == {}
            old = {"User": "anna", "Password": "correct horse"}  # clients that can't be changed
            again = await http.post("/create", content=msgspec.json.encode(old), headers=headers)
            assert again.json()["Result"] == 0


async def test_what_is_not_there_is_a_problem(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        for path in ("/v1", "/v1/login/x", "/v2/login", "/schema", "/v1/%2e%2e/etc", "/v1/oidc"):
            problem_in(await http.get(path), 404, "no-such-path")
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            response = await http.request(method, "/v1/login")
            problem_in(response, 405, "no-such-method")
            assert "POST" in response.headers["allow"]


async def test_the_root_leads_to_the_page(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        answer = await http.get("/")
        assert (answer.status_code, answer.headers["location"], answer.content) == (307, "/docs", b"")
        page = await http.get("/", follow_redirects=True)
        assert page.headers["content-type"] == "text/html; charset=utf-8" and "/v1/login" in page.text
        for headers in (answer.headers, page.headers):
            assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        missing = await http.get("/nothing")
        assert missing.headers["x-content-type-options"] == "nosniff"


async def test_every_command_of_the_page_gets_an_answer_of_the_page(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        page = html.unescape((await http.get("/docs")).text)
        found = re.findall(r"<pre>(curl .*?)</pre>", page, re.DOTALL)
        commands = [shlex.split(command.replace("\\\n", "")) for command in found]
        paths = [command[1].removeprefix("$LOGIN") for command in commands]
        assert paths[0].startswith("/v1/") and set(paths[-2:]) == {"/login", "/create"} and len(paths) > 5
        commands.sort(key=lambda command: "register" not in command[1])  # the account is there for the others
        for command in commands:
            body = command[command.index("-d") + 1] if "-d" in command else None
            method, path = "POST" if body else "GET", command[1].removeprefix("$LOGIN")
            headers = {"content-type": "application/json"}
            answer = await http.request(method, path, content=body, headers=headers)
            assert answer.status_code in (200, 201, 204), (path, answer.text)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/healthz", "/v1/servers"])
async def test_what_can_be_read_can_be_asked_for_without_its_body(path: str, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        whole, head = await http.get(path), await http.head(path)
        assert head.status_code == 200 and not head.content
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}


async def test_a_name_that_is_taken_and_a_password_that_is_too_short_are_problems(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        problem_in(await http.post("/v1/register", json=ANNA | {"user": "Anna"}), 409, "name-taken")
        short = await http.post("/v1/register", json={"user": "bert", "password": "short"})
        assert "8" in problem_in(short, 422, "invalid-credential").detail
        space = await http.post("/v1/register", json={"user": "a b", "password": "correct horse"})
        problem_in(space, 422, "invalid-credential")
        problem_in(await http.post("/v1/guest", json={"device_id": "short"}), 403, "wrong-credentials")


class Faulty:
    """A login method that fails as it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def login(self, credentials: Any, address: str) -> Identity:
        raise self.error


async def test_a_fault_of_ours_is_a_problem_without_words_about_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"password": Faulty(RuntimeError("disk on fire at /var/db"))}
    async with serving_login(tmp_path, methods=broken) as service, asking(service) as http:
        response = await http.post("/v1/login", json=ANNA)
        problem_in(response, 500, "internal-error")
        assert "fire" not in response.text
        legacy = (await http.post("/login", json={"User": "anna", "Password": "x"})).json()
        assert legacy["Result"] == 3 and "fire" not in legacy["ResultMsg"]
    assert "disk on fire" in capsys.readouterr().out, "the log has it"


async def test_the_reason_of_a_refusal_is_for_the_log_alone(tmp_path: Path) -> None:
    methods = {"password": Faulty(LoginRefused("account 7 is disabled"))}
    async with serving_login(tmp_path, methods=methods) as service, asking(service) as http:
        response = await http.post("/v1/login", json=ANNA)
        problem_in(response, 403, "wrong-credentials")
        assert "disabled" not in response.text


async def test_replies_are_not_to_be_stored(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        for response in (
            await http.post("/v1/register", json=ANNA),
            await http.post("/v1/login", json=ANNA),
            await http.post("/v1/login", json=ANNA | {"password": "wrong"}),
            await http.post("/login", json={"User": "anna", "Password": "wrong"}),
        ):
            assert response.headers["cache-control"] == "no-store"


# -- what a login tells of accounts --


async def test_a_wrong_password_and_an_unknown_user_look_and_cost_the_same(tmp_path: Path) -> None:
    hashing = fast_passwords()

    def seen(response: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
        return response.status_code, response.content, {**response.headers, "date": ""}

    async with MemoryEngine() as engine, new_accounts(tmp_path, passwords=hashing) as accounts:
        async with new_service(engine, accounts) as service, asking(service) as http:
            await http.post("/v1/register", json=ANNA)
            found = []
            for user in ("anna", "nobody"):
                runs, calls = hashing.runs, dict(engine.stats.calls)
                answers = [
                    await http.post("/v1/login", json={"user": user, "password": "wrong"}),
                    await http.post("/login", json={"User": user, "Password": "wrong"}),
                ]
                work = {name: count - calls.get(name, 0) for name, count in engine.stats.calls.items()}
                found.append(([seen(answer) for answer in answers], hashing.runs - runs, work))
            assert found[0] == found[1]
            assert found[0][1] == 2


# -- its life --


async def test_it_starts_once_and_leaves_nothing_open(tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        service = new_service(engine, accounts, admin="127.0.0.1:0")
        await service.start()
        url = service.url
        with pytest.raises(ConfigError, match="running already"):
            await service.start()
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{url}/healthz")).text == "ok\n"
            metrics = (await http.get(f"http://127.0.0.1:{service.admin_port}/metrics")).text
            assert "gatelink_login_connections 1.0" in metrics
            await service.stop()
            await service.stop()
            with pytest.raises(httpx.TransportError):
                await http.get(f"{url}/healthz")
        assert service.admission.count == 0
        await service.start()
        await service.stop()


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "https://127.0.0.1:8080", "http://:80", "http://h/x", "http://["])
def test_where_it_cannot_listen_is_said_before_it_starts(listen: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        LoginService(
            listen,
            engine=MemoryEngine(),
            tokens=EngineTokens(MemoryEngine()),
            lifetime=1.0,
            methods={},
            gateways=StaticGateways([]),
        )


async def test_a_host_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        service = LoginService(
            f"http://{'a' * 64}.example:0",
            engine=engine,
            tokens=EngineTokens(engine),
            lifetime=1.0,
            methods={"password": Password(accounts)},
            gateways=StaticGateways([]),
        )
        with pytest.raises(ConfigError, match=r"cannot listen on http://a+\.example:0"):
            await service.start()
        assert not service.is_running


async def test_a_port_that_is_taken_is_a_configuration_error(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        other = LoginService(
            service.url,
            engine=engine,
            tokens=EngineTokens(engine),
            lifetime=1.0,
            methods={"password": Password(accounts)},
            gateways=StaticGateways([]),
        )
        with pytest.raises(ConfigError, match=f"cannot listen on {service.url}: Address already in use"):
            await other.start()


async def test_the_metrics_count_how_logins_ended(tmp_path: Path) -> None:
    async with serving_login(tmp_path, admin="127.0.0.1:0") as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        for password in ("wrong", "correct horse"):
            await http.post("/v1/login", json=ANNA | {"password": password})
        text = (await http.get(f"http://127.0.0.1:{service.admin_port}/metrics")).text
        for outcome in ("refused", "succeeded"):
            assert f'gatelink_login_attempts_total{{method="password",outcome="{outcome}"}} 1.0' in text
        assert 'gatelink_login_responses_total{status="403"} 1.0' in text
        shown = {name for name in re.findall(r"^# TYPE (gatelink_\w+) ", text, re.MULTILINE)}
        page = (Path(__file__).parents[3] / "docs" / "login.md").read_text()
        assert shown == set(re.findall(r"^\| `(gatelink_\w+)` \|", page, re.MULTILINE)), "docs/login.md"


def test_a_reply_holds_every_uid() -> None:
    encoded = msgspec.json.encode(LoginReply(2**64 - 1, "t", 1.0, {}, ""))
    assert msgspec.json.decode(encoded, type=LoginReply).uid == 2**64 - 1
