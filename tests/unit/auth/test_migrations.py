"""The migrations make what the code expects, from every version there ever was, once, and say when they can't."""

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from gatelink import ConfigError
from gatelink.auth import migrations
from gatelink.auth.accounts import Accounts, AccountsUnavailable
from gatelink.auth.database import Database
from gatelink.auth.schema import VERSION_TABLE, metadata

REVISIONS = [script.revision for script in reversed(list(migrations.scripts().walk_revisions()))]
HEAD = REVISIONS[-1]


def differences(connection: Connection) -> list[Any]:
    """What alembic would change to get from the database to schema.py."""
    options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": False}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


def constraints(connection: Connection) -> dict[str, Any]:
    """What alembic does not compare: primary keys, what goes with a deleted account, uids that are not given again."""
    looked = inspect(connection)
    found: dict[str, Any] = {
        name: (
            looked.get_pk_constraint(name)["constrained_columns"],
            [(key["constrained_columns"], key["options"].get("ondelete")) for key in looked.get_foreign_keys(name)],
        )
        for name in metadata.tables
    }
    if connection.dialect.name == "sqlite":
        uids = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'gatelink_accounts'")).scalar_one()
        found["never again"] = "AUTOINCREMENT" in uids
    return found


async def test_an_upgraded_empty_database_is_what_the_code_expects(database_url: str) -> None:
    assert await migrations.migrate(database_url) == (None, HEAD)
    database = Database(database_url)
    async with database.writing() as connection:
        assert await connection.run_sync(differences) == []
        upgraded = await connection.run_sync(constraints)
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
        assert await connection.run_sync(constraints) == upgraded
    await database.close()


async def test_a_difference_is_seen(database_url: str) -> None:
    """What the comparison above is worth."""
    await migrations.migrate(database_url)
    database = Database(database_url)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE gatelink_accounts DROP COLUMN disabled_at"))
        assert [change[0] for change in await connection.run_sync(differences)] == ["add_column"]
    await database.close()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_version_that_was_released_upgrades_and_keeps_its_accounts(
    revision: str, database_url: str
) -> None:
    database = Database(database_url)
    database.make_file()
    async with database.writing() as connection:
        assert await connection.run_sync(migrations.upgrade_to, revision) == (None, revision)
        await connection.execute(text("INSERT INTO gatelink_accounts (uid, created_at) VALUES (77, 0)"))
    assert await migrations.upgrade(database) == (revision, HEAD)
    async with database.writing() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.execute(text("SELECT uid FROM gatelink_accounts"))).scalars().all() == [77]
    await database.close()


async def test_of_several_upgrades_at_once_one_does_it(database_url: str) -> None:
    found = await asyncio.gather(*(migrations.migrate(database_url) for _ in range(5)))
    assert sorted(found, key=str) == sorted([(None, HEAD)] + [(HEAD, HEAD)] * 4, key=str)


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(database_url: str) -> None:
    database = Database(database_url)
    database.make_file()
    async with database.writing() as connection:
        await connection.execute(text("CREATE TABLE gatelink_externals (in_the_way INTEGER)"))
    with pytest.raises(AccountsUnavailable, match="gatelink_externals"):
        await migrations.upgrade(database)
    async with database.writing() as connection:
        assert await connection.run_sync(lambda c: inspect(c).get_table_names()) == ["gatelink_externals"]
    await database.close()


async def test_tables_of_others_in_the_same_database_are_left_alone(database_url: str) -> None:
    database = Database(database_url)
    database.make_file()
    async with database.writing() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('the game''s own')"))
    await migrations.upgrade(database)
    async with database.writing() as connection:
        found = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
        assert found == "the game's own"
    await database.close()


async def test_sqlite_upgrades_itself_and_postgresql_says_what_to_run(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        async with Accounts(database_url):
            pass
        return
    with pytest.raises(ConfigError, match="schema none, .* needs .* gatelink accounts migrate"):
        await Accounts(database_url).start()
    await migrations.migrate(database_url)
    async with Accounts(database_url):
        pass


@pytest.mark.parametrize("upgrade", [True, False])
async def test_the_schema_of_a_newer_version_is_refused(upgrade: bool, database_url: str) -> None:
    await migrations.migrate(database_url)
    database = Database(database_url)
    async with database.writing() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    await database.close()
    with pytest.raises(ConfigError, match="schema 9999, .* knows up to .* Install that version") as refused:
        await Accounts(database_url, upgrade=upgrade).start()
    assert "run: " not in str(refused.value), "a migration does not help"


async def test_a_process_that_runs_goes_on_when_a_newer_version_upgrades_the_schema(database_url: str) -> None:
    """Migrations only add. So logins of two versions run side by side until the older ones are updated."""
    await migrations.migrate(database_url)
    async with Accounts(database_url) as accounts:
        uid = (await accounts.create("anna", "correct horse")).uid
        database = Database(database_url)
        async with database.writing() as connection:
            await connection.execute(text("ALTER TABLE gatelink_accounts ADD COLUMN of_a_newer_version INTEGER"))
            await connection.execute(text("CREATE TABLE gatelink_of_a_newer_version (uid INTEGER)"))
            await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        await database.close()
        found = await accounts.check_password("anna", "correct horse")
        assert found is not None and found.uid == uid
        assert (await accounts.create("berta", "correct horse")).uid > uid
