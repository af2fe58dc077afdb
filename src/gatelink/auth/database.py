"""The database of accounts, SQLite or PostgreSQL. Calls have a deadline and a bounded queue."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gatelink.auth.errors import Unavailable
from gatelink.errors import ConfigError, importing, needing

with importing(__name__, "login"):
    from sqlalchemy import URL, Executable, Row, event, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class AccountsUnavailable(Unavailable):
    """The database does not answer in time, or too many calls wait for it."""


def parse_url(url: str) -> URL:
    """`url` for an async driver: `sqlite:///file`, `sqlite:////absolute/file`, `postgresql://user@host/database`.

    In the file's path `%25` is a percent sign and `%3F` a question mark, as in every URL. The drivers' names may be in
    it, and libpq's `sslmode`. Raises ConfigError, without the url's password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the accounts' url can't be read; write sqlite:///file or postgresql://user@host/db"
        ) from None
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigError(f"accounts are kept in SQLite or PostgreSQL, not in {parsed.drivername}")
    if driver.startswith("sqlite") and (parsed.database or ":memory:") == ":memory:":
        raise ConfigError("accounts need a file, not SQLite's memory; write sqlite:///file")
    if "password" in parsed.query:
        raise ConfigError(
            "a password in the query of the accounts' url would be shown; write it behind the user's name"
        )
    query = {{"sslmode": "ssl"}.get(name, name): value for name, value in parsed.query.items()}
    return parsed.set(drivername=driver, query=query if driver.startswith("postgresql") else parsed.query)


class Database:
    """At most `pool_size` connections, and at most `max_calls` calls at a time, waiting ones included.

    A call takes at most `timeout` seconds, and 2 more on a PostgreSQL connection that hangs, which its driver tries to
    close. Errors are AccountsUnavailable, except IntegrityError, which the caller handles. `calls` counts those of now.
    """

    def __init__(self, url: str, *, pool_size: int = 5, max_calls: int = 256, timeout: float = 5.0) -> None:
        for name, value in (("pool_size", pool_size), ("max_calls", max_calls), ("timeout", timeout)):
            if not value > 0:
                raise ConfigError(f"{name} of the accounts is {value}; it must be above 0")
        self._url = parse_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = (  # SQLAlchemy can't render a path that is not UTF-8
            f"sqlite:///{self._url.database}" if self.is_sqlite else self._url.render_as_string(hide_password=True)
        )
        self._timeout = timeout
        self._max_calls = max_calls
        self.calls = 0
        self.engine = self._make_engine(pool_size)
        if self.is_sqlite:
            # A write transaction that begins as a reader can fail at its first write, however long it waits.
            self._reads = self.engine
            self._writes = self.engine.execution_options(begin="BEGIN IMMEDIATE")
            # SQLite has one writer at a time, and the others poll; writers of this process wait in turn instead.
            self._turn: AbstractAsyncContextManager[Any] = asyncio.Lock()
        else:
            self._reads = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._writes = self.engine
            self._turn = nullcontext()

    def _make_engine(self, pool_size: int) -> AsyncEngine:
        with needing("login,postgres", f"accounts in {self.name}"):
            if not self.is_sqlite:
                return create_async_engine(
                    self._url,
                    pool_size=pool_size,
                    max_overflow=0,
                    pool_timeout=self._timeout,
                    pool_pre_ping=True,  # a restart of the server must fail no login
                    hide_parameters=True,
                    connect_args={"timeout": self._timeout},
                )
            engine = create_async_engine(
                self._url, pool_size=pool_size, max_overflow=0, pool_timeout=self._timeout, hide_parameters=True
            )
        # Shorter than the deadline: a thread that waits for another process's write can't be interrupted.
        busy_timeout = int(self._timeout * 800)

        @event.listens_for(engine.sync_engine, "connect")
        def _(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # the driver begins no transactions; the next event does
            cursor = connection.cursor()
            for pragma in (f"busy_timeout = {busy_timeout}", "journal_mode = WAL", "foreign_keys = ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _(connection: Any) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

        return engine

    def make_file(self) -> None:
        """SQLite: make the file if it is missing, readable only for its owner. Raises ConfigError."""
        if self.is_sqlite:
            path = Path(self._url.database or "")
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise ConfigError(
                    f"accounts in {path.absolute()}: {error.strerror}; it must be a file that this user may write, "
                    "in a folder that is there"
                ) from None

    async def first(self, statement: Executable) -> Row[Any] | None:
        """The first row of a statement that only reads."""
        async with self._bounded(), self._reads.connect() as connection:
            return (await connection.execute(statement)).first()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back when the body raises."""
        async with self._bounded(), self._turn, self._writes.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self.engine.dispose()

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        if self.calls >= self._max_calls:
            raise AccountsUnavailable(f"{self.calls} calls wait for the accounts in {self.name} already; try again")
        self.calls += 1
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except IntegrityError:
            raise
        except TimeoutError:
            raise AccountsUnavailable(f"no answer from the accounts in {self.name} in {self._timeout:g} s") from None
        except (SQLAlchemyError, OSError) as error:
            # Without the cause: the texts of the chain can hold the statement's parameters.
            raise AccountsUnavailable(f"the accounts in {self.name} fail: {_words(error)}") from None
        finally:
            self.calls -= 1


def _words(error: Exception) -> str:
    """The first line of the driver's error."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
