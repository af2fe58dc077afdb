"""Accounts of players, in SQLite or PostgreSQL."""

import secrets
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Self

from gatelink.auth.errors import InvalidCredential, LoginRefused
from gatelink.auth.names import clean_name, name_key
from gatelink.auth.tokens import Identity
from gatelink.errors import ConfigError, GatelinkError, importing

with importing(__name__, "login"):
    from sqlalchemy import ColumnElement, Table, and_, insert, select, text, update
    from sqlalchemy import delete as delete_from
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gatelink.auth import migrations
    from gatelink.auth.database import AccountsUnavailable, Database
    from gatelink.auth.passwords import Busy, PasswordHashing
    from gatelink.auth.schema import MAX_ISSUER, MAX_SUBJECT, MAX_UID, accounts, devices, externals, passwords

__all__ = ["AccountDisabled", "AccountExists", "Accounts", "AccountsUnavailable", "InvalidCredential", "NoAccount"]


class AccountExists(GatelinkError):
    """The user name belongs to another account, or the account has a password login already."""


class AccountDisabled(LoginRefused):
    """The credentials are right, and the account is disabled. The text, for the log, has the uid."""


class NoAccount(GatelinkError):
    """There is no account with this uid, or it has no password login."""


class Accounts:
    """The accounts in the database at `url`, of this process and of others.

    An account has a uid and any of: one password login, guests' devices, external identities. Uids count up from
    `first_uid` (1 .. 2^63 - 1), with gaps, and are never reused; a database that has given a uid keeps its own count.
    `upgrade` brings the schema to the newest version at the start. By default SQLite's is upgraded, and PostgreSQL's is
    only checked (`gatelink accounts migrate` upgrades it).

    `pool_size`, `max_calls` and `timeout` are `Database`'s. Every method raises AccountsUnavailable when the database
    doesn't answer in time. Methods that hash a password raise Busy when too many wait.

    An `Identity` has the claims {"user": name}, {"guest": True} or {"issuer": ..., "subject": ...}, depending on the
    login method. Use it as `async with Accounts(...) as accounts`, or call start() and close().
    """

    def __init__(
        self,
        url: str = "sqlite+aiosqlite:///gatelink.db",
        *,
        first_uid: int = 1_000_000,
        passwords: PasswordHashing | None = None,
        upgrade: bool | None = None,
        pool_size: int = 5,
        max_calls: int = 256,
        timeout: float = 5.0,
    ) -> None:
        if not 1 <= first_uid <= MAX_UID:
            raise ConfigError(f"first_uid is {first_uid}; it must be 1 to {MAX_UID}, which is what SQL's integers hold")
        self._first_uid = first_uid
        self._database = Database(url, pool_size=pool_size, max_calls=max_calls, timeout=timeout)
        self._upgrade = self._database.is_sqlite if upgrade is None else upgrade
        self.passwords = passwords or PasswordHashing()

    @property
    def calls(self) -> int:
        """Calls of the database under way, waiting ones included."""
        return self._database.calls

    # -- start and close --

    async def start(self) -> None:
        """Make the database ready. Raises ConfigError for a schema to migrate, AccountsUnavailable."""
        try:
            if self._upgrade:
                await migrations.upgrade(self._database)
            else:
                await migrations.check(self._database)
            await self._set_first_uid()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connections and stop the threads that hash."""
        self.passwords.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def check(self) -> None:
        """Read the tables that a login reads. Raises AccountsUnavailable if it can't."""
        await self._database.first(select(passwords.c.uid).join(accounts).where(passwords.c.name_key == ""))

    async def identity(self) -> str:
        """A text that differs between any two databases. Raises AccountsUnavailable.

        A PostgreSQL server and its physical replicas are one database. "" if the server does not say which it is.
        """
        async with self._database.writing() as connection:
            if not self._database.is_sqlite:
                return str((await connection.execute(text(_POSTGRES_IDENTITY))).scalar_one() or "")
            number = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
            if not number:  # nothing else uses it
                number = secrets.randbelow(2**31 - 1) + 1
                await connection.execute(text(f"PRAGMA user_version = {number}"))
            return f"sqlite {number}"

    # -- passwords --

    async def create(self, user: str, password: str) -> Identity:
        """A new account with a password login.

        Raises InvalidCredential for a forbidden user name or password, AccountExists for a name that is
        taken, Busy. Any caller can learn that a name is taken: limit how often one may ask.
        """
        name, key = clean_name(user), name_key(user)
        encoded = await self.passwords.hash(password)
        try:
            async with self._database.writing() as connection:
                uid = await _new_uid(connection)
                await _insert_password(connection, uid, name, key, encoded)
        except IntegrityError:
            raise AccountExists(f"the user name {name!r} is taken") from None
        return Identity(uid, {"user": name})

    async def add_password(self, uid: int, user: str, password: str) -> Identity:
        """Give a guest's or an external account a password login too.

        Raises as `create`; AccountExists also if the account has a password login; NoAccount.
        """
        name, key = clean_name(user), name_key(user)
        encoded = await self.passwords.hash(password)
        try:
            async with self._database.writing() as connection:
                await _must_exist(connection, uid)
                await _insert_password(connection, uid, name, key, encoded)
        except IntegrityError:
            raise AccountExists(f"the user name {name!r} is taken, or account {uid} has one") from None
        return Identity(uid, {"user": name})

    async def check_password(self, user: str, password: str) -> Identity | None:
        """The identity of this user name and password. None if they are wrong; nothing says which of the two is.

        A missing account costs the same hash as an existing one. Raises AccountDisabled, only if the password is
        right, and Busy.
        """
        try:
            key = name_key(user)
        except InvalidCredential:
            return None  # no account can have this name: that is no secret
        columns = (passwords.c.uid, passwords.c.name, passwords.c.hash, accounts.c.disabled_at)
        row = await self._database.first(select(*columns).join(accounts).where(passwords.c.name_key == key))
        if not await self.passwords.verify(row.hash if row else None, password) or row is None:
            return None
        if row.disabled_at is not None:
            raise AccountDisabled(f"account {row.uid} is disabled")
        if self.passwords.is_outdated(row.hash):
            await self._rehash(key, row.hash, password)
        return Identity(row.uid, {"user": row.name})

    async def set_password(self, uid: int, password: str) -> None:
        """A new password for a password login. Raises NoAccount if there is no such login, InvalidCredential, Busy."""
        encoded = await self.passwords.hash(password)
        values = {"hash": encoded, "changed_at": _now()}
        async with self._database.writing() as connection:
            done = await connection.execute(update(passwords).where(passwords.c.uid == uid).values(**values))
            if not done.rowcount:
                raise NoAccount(f"account {uid} has no password login")

    async def _rehash(self, key: str, old: str, password: str) -> None:
        """Replace an outdated hash, unless the password was changed meanwhile or the service is busy."""
        try:
            encoded = await self.passwords.hash(password)
            same = and_(passwords.c.name_key == key, passwords.c.hash == old)
            async with self._database.writing() as connection:
                await connection.execute(update(passwords).where(same).values(hash=encoded))
        except (Busy, AccountsUnavailable, InvalidCredential):
            pass  # the next login tries again; an old password may be too short for a new hash

    # -- guests and external identities --

    async def get_or_create_guest(self, device_id: str) -> Identity:
        """The account of this device, made at its first login; only its id's hash is kept. Raises AccountDisabled."""
        digest = sha256(b"gatelink device\0" + device_id.encode(errors="surrogatepass")).digest()
        return Identity(await self._get_or_create(devices, {"device_hash": digest}), {"guest": True})

    async def get_or_create_external(self, issuer: str, subject: str) -> Identity:
        """The account of `subject` at `issuer`, made at the first login. Raises AccountDisabled, InvalidCredential."""
        for what, value, most in (("issuer", issuer, MAX_ISSUER), ("subject", subject, MAX_SUBJECT)):
            if not 1 <= len(value) <= most or not value.isprintable():
                raise InvalidCredential(f"the {what} has {len(value)} characters; it may have 1 to {most}, printable")
        uid = await self._get_or_create(externals, {"issuer": issuer, "subject": subject})
        return Identity(uid, {"issuer": issuer, "subject": subject})

    async def _get_or_create(self, table: Table, key: Mapping[str, Any]) -> int:
        """The uid of the account that has `key` in `table`, made if no account has it."""
        is_it: ColumnElement[bool] = and_(*(table.c[name] == value for name, value in key.items()))
        for _ in range(3):  # another process makes it, and deletes it again, each time: something is wrong
            row = await self._database.first(select(table.c.uid, accounts.c.disabled_at).join(accounts).where(is_it))
            if row is not None:
                if row.disabled_at is not None:
                    raise AccountDisabled(f"account {row.uid} is disabled")
                return int(row.uid)
            try:
                async with self._database.writing() as connection:
                    uid = await _new_uid(connection)
                    await connection.execute(insert(table).values(uid=uid, created_at=_now(), **key))
                    return uid
            except IntegrityError:
                continue  # another process was faster
        raise AccountsUnavailable(f"an account in {self._database.name} is made and deleted all the time; try again")

    # -- any account --

    async def uid_of(self, user: str) -> int | None:
        """The uid of the account with this user name; None if no account has it."""
        try:
            key = name_key(user)
        except InvalidCredential:
            return None
        row = await self._database.first(select(passwords.c.uid).where(passwords.c.name_key == key))
        return int(row.uid) if row else None

    async def disable(self, uid: int) -> None:
        """Refuse logins to the account. Its tokens and sessions stay. Raises NoAccount."""
        await self._set_disabled(uid, _now())

    async def enable(self, uid: int) -> None:
        """End a `disable`. Raises NoAccount."""
        await self._set_disabled(uid, None)

    async def delete(self, uid: int) -> None:
        """Delete the account and all its logins; its uid is never reused. Raises NoAccount."""
        async with self._database.writing() as connection:
            await _must_exist(connection, uid)
            await connection.execute(delete_from(accounts).where(accounts.c.uid == uid))

    async def _set_disabled(self, uid: int, when: int | None) -> None:
        async with self._database.writing() as connection:
            await _must_exist(connection, uid)
            await connection.execute(update(accounts).where(accounts.c.uid == uid).values(disabled_at=when))

    async def _set_first_uid(self) -> None:
        """Let uids begin at `first_uid`, unless the database has given one already."""
        async with self._database.writing() as connection:
            if self._database.is_sqlite:
                await connection.execute(text(_SQLITE_SEQUENCE), {"last": self._first_uid - 1})
            elif (await connection.execute(text(_POSTGRES_UNUSED))).scalar():
                # No insert may come between the check and the change, or its uid would be given twice.
                await connection.execute(text("LOCK TABLE gatelink_accounts IN SHARE ROW EXCLUSIVE MODE"))
                await connection.execute(text(_POSTGRES_SEQUENCE), {"first": self._first_uid})


_SQLITE_SEQUENCE = """INSERT INTO sqlite_sequence (name, seq) SELECT 'gatelink_accounts', :last
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'gatelink_accounts')"""
_POSTGRES_IDENTITY = """SELECT CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE') THEN
    (SELECT 'postgresql ' || system_identifier || ' ' || d.oid || ' ' || 'gatelink_accounts'::regclass::oid
    FROM pg_control_system(), pg_database d WHERE d.datname = current_database()) END"""
_POSTGRES_UNUSED = "SELECT NOT is_called FROM gatelink_accounts_uid_seq"
_POSTGRES_SEQUENCE = """SELECT setval('gatelink_accounts_uid_seq', :first, false)
    FROM gatelink_accounts_uid_seq WHERE NOT is_called"""


def _now() -> int:
    return int(time.time())


async def _new_uid(connection: AsyncConnection) -> int:
    done = await connection.execute(insert(accounts).values(created_at=_now()).returning(accounts.c.uid))
    return int(done.scalar_one())


async def _insert_password(connection: AsyncConnection, uid: int, name: str, key: str, encoded: str) -> None:
    row = {"name_key": key, "name": name, "uid": uid, "hash": encoded, "changed_at": _now()}
    await connection.execute(insert(passwords).values(**row))


async def _must_exist(connection: AsyncConnection, uid: int) -> None:
    """Raise NoAccount unless the account exists; then it stays until the transaction ends."""
    row = select(accounts.c.uid).where(accounts.c.uid == uid).with_for_update()
    if not 1 <= uid <= MAX_UID or (await connection.execute(row)).first() is None:
        raise NoAccount(f"there is no account {uid}")
