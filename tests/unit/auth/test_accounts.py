"""Accounts keep their promises on SQLite and on PostgreSQL, also when two do the same thing at the same moment."""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from gatelink import ConfigError
from gatelink.auth.accounts import AccountDisabled, AccountExists, Accounts, InvalidCredential, NoAccount
from gatelink.auth.passwords import PasswordHashing
from gatelink.auth.schema import accounts as accounts_table
from gatelink.auth.schema import devices, externals, metadata
from gatelink.auth.schema import passwords as passwords_table
from gatelink.auth.tokens import Identity

PASSWORD, OTHER = "correct horse battery", "incorrect horse battery"
DEVICE = "0123456789abcdef0123456789abcdef"
ISSUER = "https://issuer.example"


def opened(url: str, **settings: Any) -> Accounts:
    hashing = settings.pop("passwords", None) or PasswordHashing(memory_kib=8, passes=1)
    return Accounts(url, passwords=hashing, **({"upgrade": True} | settings))


async def count(accounts: Accounts, table: Any = accounts_table) -> int:
    row = await accounts._database.first(select(func.count()).select_from(table))
    assert row is not None
    return int(row[0])


async def outcomes(calls: list[Awaitable[Identity]]) -> tuple[list[Identity], list[BaseException]]:
    """(what was given, what was raised), of calls that run at the same time."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    given = [item for item in found if isinstance(item, Identity)]
    return given, [item for item in found if isinstance(item, BaseException)]


# -- passwords --


async def test_a_created_user_logs_in_with_the_password_and_with_no_other(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("Bob", PASSWORD)
        assert bob == Identity(1_000_000, {"user": "Bob"})
        assert await accounts.check_password("bOB", PASSWORD) == bob
        assert await accounts.check_password("Bob", OTHER) is None
        assert await accounts.check_password("Alice", PASSWORD) is None
        assert await accounts.check_password("no name!", PASSWORD) is None
        assert await accounts.check_password("Bob", "x" * 10_000) is None


async def test_a_missing_account_costs_as_many_hashes_as_one_that_is_there(database_url: str) -> None:
    """So the time of an answer does not tell which names exist."""
    hashing = PasswordHashing(memory_kib=8, passes=1)
    async with opened(database_url, passwords=hashing) as accounts:
        banned = await accounts.create("banned", PASSWORD)
        await accounts.create("bob", PASSWORD)
        await accounts.disable(banned.uid)
        runs = {}
        for user in ("bob", "banned", "alice"):
            before = hashing.runs
            assert await accounts.check_password(user, OTHER) is None
            runs[user] = hashing.runs - before
        assert runs == {"bob": 1, "banned": 1, "alice": 1}


async def test_a_name_that_is_taken_in_any_spelling_is_refused_and_leaves_nothing_behind(database_url: str) -> None:
    async with opened(database_url) as accounts:
        await accounts.create("Straße", PASSWORD)
        with pytest.raises(AccountExists, match="STRASSE"):
            await accounts.create("STRASSE", OTHER)
        assert await accounts.check_password("strasse", PASSWORD)
        assert await count(accounts) == 1


async def test_of_many_registrations_of_one_name_at_once_exactly_one_wins(database_url: str) -> None:
    """In two processes' places: each `Accounts` has its own connections."""
    async with opened(database_url) as one, opened(database_url) as other:
        given, raised = await outcomes([which.create("bob", PASSWORD) for which in (one, other) for _ in range(8)])
        assert len(given) == 1 and len(raised) == 15
        assert {type(error) for error in raised} == {AccountExists}
        assert await one.check_password("bob", PASSWORD) == given[0]
        assert await count(one) == 1


@pytest.mark.parametrize(("user", "password"), [("x", PASSWORD), ("bob smith", PASSWORD), ("bob", "short")])
async def test_a_name_or_password_that_none_may_have_is_refused(user: str, password: str, database_url: str) -> None:
    async with opened(database_url) as accounts:
        with pytest.raises(InvalidCredential):
            await accounts.create(user, password)
        assert await count(accounts) == 0


async def test_a_password_that_was_set_replaces_the_old_one(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("bob", PASSWORD)
        await accounts.set_password(bob.uid, OTHER)
        assert await accounts.check_password("bob", PASSWORD) is None
        assert await accounts.check_password("bob", OTHER) == bob
        guest = await accounts.get_or_create_guest(DEVICE)
        for uid in (guest.uid, 77):
            with pytest.raises(NoAccount, match=str(uid)):
                await accounts.set_password(uid, OTHER)


async def test_a_login_renews_a_hash_of_other_parameters_and_keeps_the_password(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("bob", PASSWORD)
    stronger = PasswordHashing(memory_kib=16, passes=1)

    async def stored() -> str:
        row = await accounts._database.first(select(passwords_table.c.hash))
        assert row is not None
        return str(row.hash)

    async with opened(database_url, passwords=stronger) as accounts:
        weak = await stored()
        assert await accounts.check_password("bob", OTHER) is None
        assert await stored() == weak, "only the right password renews it"
        assert await accounts.check_password("bob", PASSWORD) == bob
        strong = await stored()
        assert stronger.is_outdated(weak) and not stronger.is_outdated(strong)
        assert await accounts.check_password("bob", PASSWORD) == bob
        assert await stored() == strong, "once"


async def test_a_renewed_hash_never_undoes_a_password_set_meanwhile(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("bob", PASSWORD)

    class SetMeanwhile(PasswordHashing):
        async def verify(self, encoded: str | None, password: str) -> bool:
            matches = await super().verify(encoded, password)
            if password == PASSWORD and matches:
                await accounts.set_password(bob.uid, OTHER)
            return matches

    async with opened(database_url, passwords=SetMeanwhile(memory_kib=16, passes=1)) as accounts:
        assert await accounts.check_password("bob", PASSWORD) == bob
        assert await accounts.check_password("bob", PASSWORD) is None
        assert await accounts.check_password("bob", OTHER) == bob


# -- guests and external identities --


Make = Callable[[Accounts], Awaitable[Identity]]


def guest(accounts: Accounts) -> Awaitable[Identity]:
    return accounts.get_or_create_guest(DEVICE)


def external(accounts: Accounts) -> Awaitable[Identity]:
    return accounts.get_or_create_external(ISSUER, "player-1")


both = pytest.mark.parametrize(
    ("make", "claims"), [(guest, {"guest": True}), (external, {"issuer": ISSUER, "subject": "player-1"})]
)


@both
async def test_the_first_login_makes_the_account_and_later_ones_find_it(
    make: Make, claims: dict[str, Any], database_url: str
) -> None:
    async with opened(database_url) as accounts:
        first = await make(accounts)
        assert first.claims == claims
        assert await make(accounts) == first
    async with opened(database_url) as accounts:
        assert await make(accounts) == first


@both
async def test_many_first_logins_at_once_have_one_uid(make: Make, claims: dict[str, Any], database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        given, raised = await outcomes([make(which) for which in (one, other) for _ in range(8)])
        assert not raised and len({identity.uid for identity in given}) == 1
        assert await count(one) == 1


async def test_other_devices_issuers_and_subjects_are_other_accounts(database_url: str) -> None:
    async with opened(database_url) as accounts:
        found = [
            await accounts.get_or_create_guest(DEVICE),
            await accounts.get_or_create_guest(DEVICE.upper()),
            await accounts.get_or_create_external(ISSUER, "player-1"),
            await accounts.get_or_create_external(ISSUER, "Player-1"),
            await accounts.get_or_create_external(ISSUER + "/", "player-1"),
        ]
        assert [identity.uid for identity in found] == list(range(1_000_000, 1_000_005))


async def test_a_device_id_is_in_no_table(database_url: str) -> None:
    async with opened(database_url) as accounts:
        await accounts.get_or_create_guest(DEVICE)
        row = await accounts._database.first(select(devices))
        assert row is not None and DEVICE not in repr(tuple(row)) and DEVICE.encode() not in row.device_hash


@pytest.mark.parametrize("subject", ["", "x" * 256, "nul\0", "\ud800"])
async def test_a_subject_that_no_issuer_gives_is_refused(subject: str, database_url: str) -> None:
    async with opened(database_url) as accounts:
        with pytest.raises(InvalidCredential):
            await accounts.get_or_create_external(ISSUER, subject)


async def test_a_guest_that_takes_a_password_keeps_the_uid_and_both_ways_in(database_url: str) -> None:
    async with opened(database_url) as accounts:
        first = await accounts.get_or_create_guest(DEVICE)
        await accounts.create("taken", PASSWORD)
        with pytest.raises(AccountExists):
            await accounts.add_password(first.uid, "TAKEN", PASSWORD)
        added = await accounts.add_password(first.uid, "Bob", PASSWORD)
        assert added == Identity(first.uid, {"user": "Bob"})
        assert await accounts.check_password("bob", PASSWORD) == added
        assert await accounts.get_or_create_guest(DEVICE) == first
        with pytest.raises(AccountExists):
            await accounts.add_password(first.uid, "Bobby", PASSWORD)
        with pytest.raises(NoAccount, match="77"):
            await accounts.add_password(77, "Robert", PASSWORD)


# -- any account --


async def test_a_disabled_account_logs_nobody_in_until_it_is_enabled(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("bob", PASSWORD)
        ways: list[Callable[[], Awaitable[Identity | None]]] = [
            lambda: accounts.check_password("bob", PASSWORD),
            lambda: guest(accounts),
            lambda: external(accounts),
        ]
        before = [await way() for way in ways]
        for identity in before:
            assert identity is not None
            await accounts.disable(identity.uid)
        for way in ways:
            with pytest.raises(AccountDisabled):
                await way()
        assert await accounts.check_password("bob", OTHER) is None, "only the owner learns that it is disabled"
        for identity in before:
            assert identity is not None
            await accounts.enable(identity.uid)
        assert [await way() for way in ways] == before and before[0] == bob


async def test_a_deleted_account_is_gone_with_every_way_in_and_its_uid_is_never_given_again(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("bob", PASSWORD)
        first, out = await guest(accounts), await external(accounts)
        for identity in (bob, first, out):
            await accounts.delete(identity.uid)
            with pytest.raises(NoAccount):
                await accounts.delete(identity.uid)
        assert [await count(accounts, table) for table in metadata.tables.values()] == [0, 0, 0, 0]
        assert await accounts.check_password("bob", PASSWORD) is None
        assert await accounts.uid_of("bob") is None
        assert (await accounts.create("bob", PASSWORD)).uid == out.uid + 1
    assert {devices.name, externals.name} < set(metadata.tables)


async def test_an_account_that_is_not_there_cannot_be_changed(database_url: str) -> None:
    async with opened(database_url) as accounts:
        for uid in (0, -1, 5, 2**63 - 1, 2**63, 2**64 - 1):
            for change in (accounts.disable, accounts.enable, accounts.delete):
                with pytest.raises(NoAccount, match=str(uid)):
                    await change(uid)


async def test_a_users_uid_is_found_by_any_spelling_of_the_name(database_url: str) -> None:
    async with opened(database_url) as accounts:
        bob = await accounts.create("Bob", PASSWORD)
        assert await accounts.uid_of("BOB") == bob.uid
        assert await accounts.uid_of("alice") is None
        assert await accounts.uid_of("no name!") is None


# -- uids --


@pytest.mark.parametrize("first", [1, 7_000_000_000, 2**63 - 2])
async def test_uids_begin_where_they_are_told_to(first: int, database_url: str) -> None:
    for _ in range(2):  # a restart before the first account changes nothing
        async with opened(database_url, first_uid=first):
            pass
    async with opened(database_url, first_uid=first) as accounts:
        assert (await accounts.create("bob", PASSWORD)).uid == first
        assert (await guest(accounts)).uid == first + 1
        assert (await accounts.check_password("bob", PASSWORD)) == Identity(first, {"user": "bob"})


async def test_a_database_that_has_given_uids_goes_on_from_there(database_url: str) -> None:
    async with opened(database_url, first_uid=100) as accounts:
        uid = (await accounts.create("bob", PASSWORD)).uid
        await accounts.delete(uid)
    async with opened(database_url, first_uid=50) as accounts:
        assert (await accounts.create("bob", PASSWORD)).uid == 101
    async with opened(database_url, first_uid=5_000) as accounts:
        assert (await guest(accounts)).uid == 102


async def test_several_processes_that_start_at_once_on_an_empty_database_all_start(database_url: str) -> None:
    several = [opened(database_url, first_uid=10) for _ in range(5)]
    await asyncio.gather(*(accounts.start() for accounts in several))
    given, raised = await outcomes(
        [accounts.create(f"user{number}", PASSWORD) for number, accounts in enumerate(several)]
    )
    assert not raised and {identity.uid for identity in given} == set(range(10, 15))
    await asyncio.gather(*(accounts.close() for accounts in several))


@pytest.mark.parametrize("first", [0, -1, 2**63])
def test_a_first_uid_that_sql_cannot_hold_is_refused(first: int) -> None:
    with pytest.raises(ConfigError, match="first_uid"):
        Accounts(first_uid=first)


# -- SQLite's file --


async def test_a_new_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/new.db") as accounts:
        await guest(accounts)
        files = sorted(os.listdir(tmp_path))
        assert files == ["new.db", "new.db-shm", "new.db-wal"]
        assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files} == {0o600}


async def test_sqlite_runs_with_a_write_ahead_log_foreign_keys_and_full_durability(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/new.db") as accounts, accounts._database.engine.connect() as connection:
        found = {}
        for pragma in ("journal_mode", "foreign_keys", "synchronous"):
            found[pragma] = (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar()
        assert found == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}
