"""/healthz tells the truth: 503 when no player can come in, and why; /livez says only that the loop runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatelink import StaticTokens
from gatelink.auth import migrations
from gatelink.auth.accounts import Accounts
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import Registry
from gatelink.cluster.routes import Routes, Rules
from gatelink.cluster.service import Service
from gatelink.login import database_check
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.service import LoginService
from gatelink.ops.admin import Admin
from tests.e2e.cluster.support import CATALOG, KEY, LOBBY
from tests.e2e.login.support import ANNA, GATEWAY, asking, fast_passwords, new_service, problem_in
from tests.e2e.support import TCP
from tests.e2e.test_admin import request
from tests.postgres import running_postgres

NOBODY = StaticGateways([GatewayInfo(id=1, name="play", addresses=("tcp://192.0.2.1:7000",), open=False)])


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_check, "EVERY", 0.05)


def admin_of(server: Any) -> Admin:
    assert isinstance(server._admin, Admin)
    return server._admin


async def page(server: Any, path: str = "/healthz") -> tuple[int, str]:
    status, _, body = await request(admin_of(server), f"GET {path}")
    return status, body


async def until_page(server: Any, status: int, words: str) -> None:
    """Wait until /healthz, and /readyz, another name for it, say so. What they say may change between the two."""
    async with asyncio.timeout(60):
        while True:
            found = await page(server)
            assert await page(server, "/livez") == (200, "alive\n"), "the loop runs, whatever is away"
            if found[0] == status and words in found[1] and await page(server, "/readyz") == found:
                return


@asynccontextmanager
async def login_on(accounts: Accounts, **settings: Any) -> AsyncIterator[LoginService]:
    async with MemoryEngine() as engine, accounts:
        async with new_service(engine, accounts, admin="127.0.0.1:0", **settings) as service:
            yield service


async def test_a_login_says_that_its_database_is_stopped_or_locked_and_that_it_is_back() -> None:
    with running_postgres() as postgres:
        url = postgres.create_database("health")
        await migrations.migrate(url)
        accounts = Accounts(url, passwords=fast_passwords(), timeout=2.0)
        other = Accounts(url, passwords=fast_passwords())
        async with login_on(accounts) as service, asking(service) as http:
            assert (await http.post("/v1/register", json=ANNA)).status_code == 201
            await until_page(service, 200, "ok")
            async with other, other._database.writing() as connection:
                await connection.execute(text("LOCK TABLE gatelink_accounts"))
                await until_page(service, 503, "the accounts' database fails")
                shown = problem_in(await http.get("/healthz"), 503, "unhealthy")
                assert shown.detail == "the accounts' database fails", "clients need not know where it is"
            await until_page(service, 200, "ok")
            postgres.stop()
            await until_page(service, 503, "the accounts' database fails")
            assert (await http.post("/v1/login", json=ANNA)).status_code == 503
            postgres.start()
            await until_page(service, 200, "ok")
            assert (await http.post("/v1/login", json=ANNA)).status_code == 200


async def test_a_login_says_that_its_database_does_not_answer_before_a_call_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_check, "SLOW", 0.5)

    class Frozen(Accounts):
        goes_on = asyncio.Event()

        async def check(self) -> None:
            await self.goes_on.wait()

    accounts = Frozen(f"sqlite:///{tmp_path}/accounts.db", passwords=fast_passwords())
    async with login_on(accounts) as service:
        await until_page(service, 503, "the accounts' database fails: no answer in 0.5 s")
        accounts.goes_on.set()
        await until_page(service, 200, "ok")


async def test_a_login_says_that_no_gateway_takes_players_and_that_the_engine_is_away(tmp_path: Path) -> None:
    accounts = Accounts(f"sqlite:///{tmp_path}/accounts.db", passwords=fast_passwords())
    gateways = StaticGateways([GATEWAY])
    async with login_on(accounts, gateways=gateways) as service, asking(service) as http:
        await until_page(service, 200, "ok")
        service.logins.gateways = NOBODY
        await until_page(service, 503, "no gateway is up and takes players")
        problem_in(await http.post("/v1/register", json=ANNA), 503, "no-gateway")
        service.logins.gateways = gateways
        await until_page(service, 200, "ok")
        await service.engine.close()
        await until_page(service, 503, "the engine cannot be used: ")
        assert problem_in(await http.get("/healthz"), 503, "unhealthy").detail == "the engine cannot be used"


def gateway_of(engine: MemoryEngine, **settings: Any) -> Gateway:
    member = Membership(engine=engine, keys=(KEY,), id=1)
    return Gateway(TCP, member=member, tokens=StaticTokens(), catalog=CATALOG, admin="127.0.0.1:0", **settings)


@pytest.mark.parametrize("needs", [{"rules": {LOBBY: Rules()}}, {"routes": Routes({"500-600": LOBBY})}])
async def test_a_gateway_is_ready_while_it_has_a_link_to_each_type_that_its_routes_need(needs: dict[str, Any]) -> None:
    async with MemoryEngine() as engine, AsyncExitStack() as stack:
        gateway = gateway_of(engine, **needs)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await until_page(gateway, 503, f"no link to a server that is up, of type {LOBBY}")
        lobby = Service("lobby", type=LOBBY, catalog=CATALOG, admin="127.0.0.1:0")
        lobby.member = Membership(engine=engine, keys=(KEY,), id=20)
        await lobby.start()
        await until_page(gateway, 200, "ok")
        await until_page(lobby, 200, "ok")
        await lobby.stop()
        await until_page(gateway, 503, f"of type {LOBBY}")


async def test_a_gateway_without_routes_is_ready_alone_and_not_while_it_drains() -> None:
    async with MemoryEngine() as engine:
        gateway = gateway_of(engine, drain_seconds=30.0)
        await gateway.start()
        await until_page(gateway, 200, "ok")
        await gateway._drain(5.0)
        await until_page(gateway, 503, "draining")
        await gateway.stop(0)


async def test_a_server_whose_entry_is_not_kept_is_not_ready() -> None:
    async with MemoryEngine() as engine:
        gateway = gateway_of(engine)
        await gateway.start()
        await until_page(gateway, 200, "ok")
        registry: Registry = gateway.cluster.registry
        registry._kept_at -= registry._expiry + 1
        await until_page(gateway, 503, "not registered in the cluster")
        await registry._write()
        await until_page(gateway, 200, "ok")
        await gateway.stop(0)
