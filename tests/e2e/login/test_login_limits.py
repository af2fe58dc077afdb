"""The limits on tries over HTTP, shared by login processes; and what happens when what they stand on is away."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatelink.auth.accounts import AccountsUnavailable
from gatelink.auth.methods import Password
from gatelink.auth.tokens import Identity
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import ConfigError
from gatelink.login.limits import Rule
from tests.e2e.engines import NewEngine
from tests.e2e.login.support import (
    ANNA,
    PLENTY,
    asking,
    fast_passwords,
    limits,
    new_accounts,
    new_service,
    problem_in,
    serving_login,
)
from tests.support import MS

HOME, STRANGER = "198.51.100.7", "192.0.2.66"
PROXIES = ("127.0.0.0/8",)
WRONG = ANNA | {"password": "wrong"}


def retry_after(response: httpx.Response) -> int:
    problem_in(response, 429, "too-many-tries")
    return int(response.headers["retry-after"])


async def test_over_the_limit_is_429_with_the_time_to_wait_at_once(tmp_path: Path) -> None:
    rules = limits(pair=Rule(free=3, recovery=1e6, first=40, longest=80))
    async with serving_login(tmp_path, limits=rules) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        for _ in range(3):
            problem_in(await http.post("/v1/login", json=WRONG), 403, "wrong-credentials")
        assert 30 < retry_after(await http.post("/v1/login", json=WRONG)) <= 40
        assert 30 < retry_after(await http.post("/v1/login", json=ANNA)) <= 40, "a right password is not looked at"
        legacy = (await http.post("/login", json={"User": "anna", "Password": "correct horse"})).json()
        assert legacy["Result"] == 2 and legacy["Token"] == ""


async def test_a_stranger_does_not_lock_out_the_owner(tmp_path: Path) -> None:
    async with serving_login(tmp_path, proxies=PROXIES) as service, AsyncExitStack() as stack:
        home = await stack.enter_async_context(asking(service, HOME))
        stranger = await stack.enter_async_context(asking(service, STRANGER))
        assert (await home.post("/v1/register", json=ANNA)).status_code == 201
        statuses = {(await stranger.post("/v1/login", json=WRONG)).status_code for _ in range(30)}
        assert statuses == {403, 429}
        assert (await home.post("/v1/login", json=ANNA)).status_code == 200


async def test_an_owner_at_home_is_not_delayed_by_an_attack_from_many_networks(tmp_path: Path) -> None:
    rules = limits(account=Rule(free=10, recovery=1e6, first=30, longest=30))
    async with serving_login(tmp_path, proxies=PROXIES, limits=rules) as service, AsyncExitStack() as stack:
        home = await stack.enter_async_context(asking(service, HOME))
        await home.post("/v1/register", json=ANNA)
        for n in range(15):
            async with asking(service, f"10.9.8.{n}") as bot:
                status = (await bot.post("/v1/login", json=WRONG)).status_code
                assert status == (403 if n < 10 else 429)
        assert (await home.post("/v1/login", json=ANNA)).status_code == 200
        async with asking(service, "203.0.113.5") as hotel:
            assert 25 < retry_after(await hotel.post("/v1/login", json=ANNA)) <= 30, "elsewhere even the owner waits"


async def test_registrations_and_guests_of_a_network_are_limited(tmp_path: Path) -> None:
    rules = limits(registrations=Rule(free=3, recovery=180, first=180, longest=180))
    async with serving_login(tmp_path, proxies=PROXIES, limits=rules) as service, AsyncExitStack() as stack:
        mallory = await stack.enter_async_context(asking(service, STRANGER))
        device = secrets.token_hex(16)
        assert (await mallory.post("/v1/guest", json={"device_id": device})).status_code == 200
        for n in range(2):
            await mallory.post("/v1/register", json=ANNA | {"user": f"user-{n}"})
        assert retry_after(await mallory.post("/v1/register", json=ANNA)) > 100
        assert retry_after(await mallory.post("/v1/guest", json={"device_id": secrets.token_hex(16)})) > 100
        assert (await mallory.post("/v1/guest", json={"device_id": device})).status_code == 200
        anna = await stack.enter_async_context(asking(service, HOME))
        assert (await anna.post("/v1/register", json=ANNA)).status_code == 201


async def test_only_a_proxy_of_ours_says_for_whom_it_asks(tmp_path: Path) -> None:
    rules = limits(network=Rule(free=2, recovery=1e6), exempt=())
    async with serving_login(tmp_path, limits=rules) as service:
        statuses = []
        for n in range(4):
            async with asking(service, f"10.0.0.{n}") as http:
                statuses.append((await http.post("/v1/login", json=WRONG)).status_code)
        assert statuses == [403, 403, 429, 429]


async def test_login_processes_share_their_limits(new_engine: NewEngine, tmp_path: Path) -> None:
    rules = limits(pair=Rule(free=6, recovery=1e6, first=100, longest=100))
    async with AsyncExitStack() as stack:
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        clients = []
        for _ in range(2):
            engine = await stack.enter_async_context(new_engine())
            service = await stack.enter_async_context(new_service(engine, accounts, limits=rules))
            clients.append(await stack.enter_async_context(asking(service)))
        await clients[0].post("/v1/register", json=ANNA)
        tries = [clients[n % 2].post("/v1/login", json=WRONG) for n in range(20)]
        statuses = [response.status_code for response in await asyncio.gather(*tries)]
        assert sorted(statuses) == [403] * 6 + [429] * 14
        for http in clients:
            retry_after(await http.post("/v1/login", json=ANNA))


# -- what it stands on is away --


async def test_while_the_engine_is_away_nobody_logs_in_and_then_everybody_does(tmp_path: Path) -> None:
    nats = NatsServer(tmp_path / "nats")
    await nats.start()
    hashing = fast_passwords()
    try:
        async with (
            NatsEngine(nats.url, timeout=0.5) as engine,
            new_accounts(tmp_path, passwords=hashing) as accounts,
            new_service(engine, accounts) as service,
            asking(service) as http,
        ):
            token = (await http.post("/v1/register", json=ANNA)).json()["token"]
            nats.kill()
            runs = hashing.runs
            for path, body in (
                ("/v1/login", ANNA),
                ("/v1/login", WRONG),
                ("/v1/guest", {"device_id": secrets.token_hex(16)}),
                ("/v1/logout", {"token": token}),
            ):
                response = await http.post(path, json=body)
                problem_in(response, 503, "engine-unavailable")
                assert int(response.headers["retry-after"]) >= 1
            legacy = (await http.post("/login", json={"User": "anna", "Password": "correct horse"})).json()
            assert legacy["Result"] == 3 and legacy["Token"] == ""
            assert hashing.runs == runs, "and nobody's password is looked at"
            problem_in(await http.get("/healthz"), 503, "unhealthy")
            await nats.start()
            await _healthy(http)
            assert (await http.post("/v1/login", json=ANNA)).status_code == 200
    finally:
        await nats.stop()


async def _healthy(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(15):
        while (await http.get("/healthz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Lossy(MemoryEngine):
    """An engine that goes away just when a token is issued."""

    async def create(self, key: str, value: bytes, ttl: float):  # type: ignore[no-untyped-def]
        if key.startswith("tokens."):
            raise EngineUnavailable("gone")
        return await super().create(key, value, ttl)


async def test_a_token_that_cannot_be_kept_is_not_given_out(tmp_path: Path) -> None:
    async with Lossy() as engine, new_accounts(tmp_path) as accounts:
        async with new_service(engine, accounts) as service, asking(service) as http:
            response = await http.post("/v1/register", json=ANNA)
            problem_in(response, 503, "engine-unavailable")
            problem_in(await http.post("/v1/login", json=ANNA), 503, "engine-unavailable")


async def test_when_too_many_passwords_wait_the_rest_is_told_and_not_counted(tmp_path: Path) -> None:
    slow = fast_passwords(memory_kib=65_536, passes=3, max_waiting=1)
    rules = limits(pair=PLENTY, account=Rule(free=30, recovery=1e6))
    async with MemoryEngine() as engine, new_accounts(tmp_path, passwords=slow) as accounts:
        settings: dict[str, Any] = {"limits": rules, "admin": "127.0.0.1:0"}
        async with new_service(engine, accounts, **settings) as service, asking(service) as http:
            await http.post("/v1/register", json=ANNA)
            responses = await asyncio.gather(*(http.post("/v1/login", json=WRONG) for _ in range(12)))
            busy = [response for response in responses if response.status_code == 503]
            assert busy and len(busy) < 12
            for response in busy:
                problem_in(response, 503, "busy")
            metrics = (await http.get(f"http://127.0.0.1:{service.admin_port}/metrics")).text
            assert f"gatelink_login_passwords_refused_total {len(busy)}.0\n" in metrics
            assert "gatelink_login_passwords_waiting 0.0\n" in metrics
            assert (await http.post("/v1/login", json=ANNA)).status_code == 200


class Down:
    """Accounts whose database is away, since the start."""

    async def identity(self) -> str:
        return "the database that was there"

    async def check(self) -> None:
        raise AccountsUnavailable("down")

    async def create(self, user: str, password: str) -> None:
        raise AccountsUnavailable("down")

    async def check_password(self, user: str, password: str) -> None:
        raise AccountsUnavailable("the database postgresql://db/users is down")


async def test_while_the_database_is_away_nobody_is_told_that_a_password_is_wrong(tmp_path: Path) -> None:
    down = Down()
    rules = limits(pair=Rule(free=2, recovery=1e6))
    methods = {"password": Password(down)}  # type: ignore[arg-type]
    async with (
        serving_login(tmp_path, methods=methods, accounts=down, limits=rules) as service,
        asking(service) as http,
    ):
        for _ in range(5):
            response = await http.post("/v1/login", json=ANNA)
            assert "postgresql" not in problem_in(response, 503, "accounts-unavailable").detail
        problem_in(await http.post("/v1/register", json=ANNA), 503, "accounts-unavailable")


class Undecided:
    """A login method that has no answer: it takes too long, or has a fault."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def login(self, credentials: Any, address: str) -> Identity:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "seconds", "status", "code"),
    [(None, 200 * MS, 503, "timeout"), (KeyError(), 10_000 * MS, 500, "internal-error")],
)
async def test_a_try_that_was_not_decided_is_no_wrong_password(
    error: Exception | None, seconds: float, status: int, code: str, tmp_path: Path
) -> None:
    settings = {
        "methods": {"password": Undecided(error)},
        "limits": limits(pair=Rule(free=1, recovery=1e6, first=40, longest=40), timeout=seconds),
    }
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        for _ in range(3):
            problem_in(await http.post("/v1/login", json=ANNA), status, code)


@pytest.mark.parametrize("attribute", ["max_body", "timeout", "max_requests"])
def test_a_limit_of_nothing_is_refused(attribute: str) -> None:
    with pytest.raises(ConfigError, match=f"limits.{attribute} is 0"):
        limits(**{attribute: 0})
