"""When the database is away, slow or full of calls, every call ends in time with an error that says so."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatelink import ConfigError
from gatelink.auth.accounts import Accounts, AccountsUnavailable
from gatelink.auth.database import Database, parse_url
from gatelink.auth.errors import Unavailable
from gatelink.auth.passwords import PasswordHashing
from tests.postgres import Postgres
from tests.support import MS, TEST_TIMEOUT

DEVICE = "0123456789abcdef0123456789abcdef"


def opened(url: str, **settings: Any) -> Accounts:
    hashing = PasswordHashing(memory_kib=8, passes=1)
    return Accounts(url, passwords=hashing, **({"upgrade": True, "timeout": 1_000 * MS} | settings))


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Another process holds what every write needs."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        other_server = Database(url, timeout=TEST_TIMEOUT)
        async with other_server.writing() as connection:
            await connection.execute(text("LOCK TABLE gatelink_accounts IN ACCESS EXCLUSIVE MODE"))
            yield
        await other_server.close()


async def test_a_database_that_answers_too_late_is_unavailable_and_then_works_again(database_url: str) -> None:
    async with opened(database_url) as accounts:
        async with locked(database_url):
            with pytest.raises(AccountsUnavailable):
                await accounts.get_or_create_guest(DEVICE)
        assert await accounts.get_or_create_guest(DEVICE)
        assert accounts._database.calls == 0


async def test_in_sqlite_another_process_that_writes_keeps_nobody_from_logging_in(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.db"
    async with opened(url) as accounts:
        first = await accounts.get_or_create_guest(DEVICE)
        async with locked(url):
            assert await accounts.get_or_create_guest(DEVICE) == first


async def test_over_the_bound_of_calls_the_next_is_refused_at_once(database_url: str) -> None:
    async with opened(database_url, max_calls=4, pool_size=2, timeout=5_000 * MS) as accounts:
        async with locked(database_url):
            waiting = [asyncio.create_task(accounts.get_or_create_guest(DEVICE + str(n))) for n in range(4)]
            await asyncio.sleep(0)  # the tasks begin
            assert accounts._database.calls == 4
            with pytest.raises(AccountsUnavailable, match="4 calls wait"):
                await accounts.get_or_create_guest(DEVICE)
        assert len({identity.uid for identity in await asyncio.gather(*waiting)}) == 4
        assert await accounts.get_or_create_guest(DEVICE)


async def test_a_server_that_was_away_costs_only_the_calls_of_that_time(postgres: Postgres, postgres_url: str) -> None:
    async with opened(postgres_url, timeout=5_000 * MS) as accounts:
        first = await accounts.get_or_create_guest(DEVICE)
        postgres.stop()
        try:
            for call in (accounts.get_or_create_guest(DEVICE), accounts.check_password("bob", "wrong password")):
                with pytest.raises(AccountsUnavailable):
                    await call
        finally:
            postgres.start()
        found = await asyncio.gather(*(accounts.get_or_create_guest(DEVICE) for _ in range(10)))
        assert set(identity.uid for identity in found) == {first.uid}


async def test_no_more_connections_are_open_than_the_pool_may_have(postgres_url: str) -> None:
    async with opened(postgres_url, pool_size=3, timeout=5_000 * MS) as accounts:
        await asyncio.gather(*(accounts.get_or_create_guest(DEVICE + str(number)) for number in range(30)))
        row = await accounts._database.first(
            text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        )
        assert row is not None and 1 <= row[0] <= 3


async def test_a_server_that_says_nothing_is_unavailable_at_the_start(tmp_path: Path) -> None:
    accepted = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        accepted.set()

    silent = await asyncio.start_unix_server(accept, tmp_path / ".s.PGSQL.5432")
    with pytest.raises(AccountsUnavailable, match="no answer"):
        await opened(f"postgresql://gatelink@/accounts?host={tmp_path}").start()
    assert accepted.is_set()
    for writer in writers:
        writer.close()
    silent.close()
    await silent.wait_closed()


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@127.0.0.1:9/game", "postgres://me:s3cret@127.0.0.1:9/game"])
async def test_an_error_names_the_database_and_never_its_password(url: str) -> None:
    with pytest.raises(AccountsUnavailable, match="127.0.0.1:9/game") as error:
        await opened(url).start()
    assert isinstance(error.value, Unavailable)
    assert "s3cret" not in str(error.value) and error.value.__cause__ is None and error.value.__suppress_context__


async def test_an_error_holds_nothing_of_what_was_written(database_url: str) -> None:
    """Hashes and device ids would get into logs."""
    async with opened(database_url) as accounts:
        async with accounts._database.writing() as connection:
            await connection.execute(text("DROP TABLE gatelink_passwords"))
        with pytest.raises(AccountsUnavailable, match="gatelink_passwords") as error:
            await accounts.create("bob", "correct horse battery")
        assert "bob" not in str(error.value) and "argon2" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////var/lib/a.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@h:5/d?sslmode=require", "postgresql+asyncpg"),
    ],
)
def test_a_url_is_read_with_or_without_its_driver(url: str, driver: str) -> None:
    parsed = parse_url(url)
    assert parsed.drivername == driver
    assert dict(parsed.query) == ({"ssl": "require"} if "sslmode" in url else {})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me:s3cret@h/d", "not in mysql"),
        ("postgresql+psycopg2://me:s3cret@h/d", "postgresql.psycopg2"),
        ("sqlite://", "a file"),
        ("sqlite:///:memory:", "a file"),
        ("s3cret", "can't be read"),
        ("postgresql://me:s3cret@h:port/d", "can't be read"),
        ("postgresql://me@h/d?password=s3cret", "would be shown"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        Accounts(url)
    assert "s3cret" not in str(error.value)


async def test_a_folder_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; it must be a file .* in a folder that is there"):
        await opened(f"sqlite:///{tmp_path}/missing/a.db").start()


@pytest.mark.parametrize("name", ["pool_size", "max_calls", "timeout"])
def test_a_bound_of_none_is_refused_by_name(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        Database("sqlite:///a.db", **settings)
