"""Two logins of one cluster use one database: with one each, two people could get one uid."""

import asyncio
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from examples.demo import reserved_ports
from gatelink.auth import migrations
from gatelink.auth.accounts import Accounts
from gatelink.cluster.engine import Conflict, Engine, Revision
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login import database_check
from gatelink.login.database_check import KEY, OtherDatabase
from tests.e2e.engines import NewEngine
from tests.e2e.login.support import ANNA, asking, fast_passwords, new_service
from tests.e2e.support import until
from tests.postgres import Postgres

BERT = ANNA | {"user": "bert"}


def accounts_of(url: str) -> Accounts:
    return Accounts(url, passwords=fast_passwords())


async def refused(engine: Engine, url: str) -> bool:
    """Whether a login with accounts in the database at `url` does not start."""
    async with accounts_of(url) as accounts:
        service = new_service(engine, accounts)
        try:
            await service.start()
        except OtherDatabase as error:
            assert "same accounts.url" in str(error)
            assert not service.is_running
            return True
        await service.stop()
        return False


async def test_a_second_login_with_a_database_of_its_own_does_not_start(new_engine: NewEngine, tmp_path: Path) -> None:
    first, second = f"sqlite:///{tmp_path}/first.db", f"sqlite:///{tmp_path}/second.db"
    async with new_engine() as one, new_engine() as other, accounts_of(first) as accounts:
        async with new_service(one, accounts) as service, asking(service) as http:
            assert (await http.post("/v1/register", json=ANNA)).status_code == 201
            assert await refused(other, second)
            assert not await refused(other, first), "a login with the same database starts"
        assert await refused(other, second), "the first login may start again"
        await other.delete(KEY)  # as it expires
        assert not await refused(other, second)


async def test_two_postgresql_databases_differ_and_one_is_itself(postgres: Postgres, tmp_path: Path) -> None:
    urls = [postgres.create_database(f"of_{tmp_path.name}_{n}") for n in range(2)]
    for url in urls:
        await migrations.migrate(url)
    async with MemoryEngine() as engine, accounts_of(urls[0]) as accounts, new_service(engine, accounts):
        assert await refused(engine, urls[1])
        assert await refused(engine, f"sqlite:///{tmp_path}/accounts.db")
        assert not await refused(engine, urls[0])


async def test_a_database_is_the_same_after_a_restart_and_another_after_it_was_made_again(tmp_path: Path) -> None:
    url, seen = f"sqlite:///{tmp_path}/accounts.db", []
    for is_kept in (True, False, True):
        async with accounts_of(url) as accounts:
            seen.append(await accounts.identity())
        if not is_kept:
            for end in ("", "-wal", "-shm"):
                (tmp_path / f"accounts.db{end}").unlink(missing_ok=True)
    assert seen[0] == seen[1] != seen[2]
    with closing(sqlite3.connect(tmp_path / "accounts.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_login_that_finds_another_database_later_says_so_in_its_health_and_logs_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine lost its contents, and the other login came first."""
    monkeypatch.setattr(database_check, "EVERY", 0.02)
    monkeypatch.setattr(database_check, "RENEWED", 0.0)
    async with MemoryEngine() as engine, accounts_of(f"sqlite:///{tmp_path}/accounts.db") as accounts:
        async with new_service(engine, accounts) as service, asking(service) as http:
            await until(lambda: service.trouble == "")
            assert (await http.post("/v1/register", json=ANNA)).status_code == 201
            await engine.put(KEY, b"another", 30.0)
            await until(lambda: "another database" in service.trouble)
            assert (await http.get("/healthz")).status_code == 503
            for path, body in (
                ("login", ANNA),
                ("register", BERT),
                ("guest", {"device_id": "device-0123456789abcdef"}),
            ):
                refused = await http.post(f"/v1/{path}", json=body)
                assert refused.status_code == 503 and refused.json()["code"] == "accounts-unavailable"
            await engine.delete(KEY)
            await until(lambda: service.trouble == "")
            assert (await http.post("/v1/login", json=ANNA)).status_code == 200


class NeverFirst(MemoryEngine):
    """Another login always writes the key first."""

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        if key == KEY:
            await asyncio.sleep(0)
            raise Conflict(f"{key}: is there already")
        return await super().create(key, value, ttl)


async def test_a_login_starts_although_others_always_write_the_key_first(tmp_path: Path) -> None:
    async with NeverFirst() as engine, accounts_of(f"sqlite:///{tmp_path}/accounts.db") as accounts:
        async with new_service(engine, accounts) as service, asking(service) as http:
            assert (await http.post("/v1/register", json=ANNA)).status_code == 201


async def test_the_key_is_kept_while_a_login_runs_and_expires_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_check, "EVERY", 0.02)
    monkeypatch.setattr(database_check, "RENEWED", 0.05)
    monkeypatch.setattr(database_check, "TTL", 1.0)
    async with MemoryEngine() as engine, accounts_of(f"sqlite:///{tmp_path}/accounts.db") as accounts:
        async with new_service(engine, accounts):
            written = engine.stats.calls["update"]
            await until(lambda: engine.stats.calls["update"] > written + 3)
        await until(lambda: KEY not in engine._rows)


async def test_the_second_address_is_used_when_the_first_is_dead(postgres: Postgres) -> None:
    """As docs/many-machines.md writes it for a failover."""
    name = f"failover_{secrets.token_hex(4)}"
    await migrations.migrate(postgres.create_database(name))

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{postgres.directory}/.s.PGSQL.5432")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with reserved_ports() as dead:
            hosts = f"host=127.0.0.1:{dead}&host=127.0.0.1:{port}&target_session_attrs=read-write"
            async with accounts_of(f"postgresql://gatelink@/{name}?{hosts}") as accounts:
                assert (await accounts.create("anna", "correct horse")).uid
