"""The accounts' schema, version by version: `migrate(url)` brings a database to the newest."""

from pathlib import Path

from gatelink.errors import ConfigError, importing
from gatelink.version import __version__

with importing(__name__, "login"):
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection, text

    from gatelink.auth.database import Database
    from gatelink.auth.schema import VERSION_TABLE

LOCK = 0x676174656C696E6B  # "gatelink": the advisory lock under which one process upgrades and the others wait
TIMEOUT = 60.0  # s that an upgrade may take


async def migrate(url: str) -> tuple[str | None, str]:
    """Upgrade the database at `url` to the newest schema: (the version it had, None if it was empty; the one it has).

    In one transaction, so it is upgraded or as it was; of several at a time one upgrades and the others wait. Raises
    ConfigError when it can't be this database, AccountsUnavailable when it isn't done in 60 s.
    """
    database = Database(url, pool_size=1, timeout=TIMEOUT)
    try:
        return await upgrade(database)
    finally:
        await database.close()


async def upgrade(database: Database) -> tuple[str | None, str]:
    """As `migrate`, on a database that is there already."""
    database.make_file()
    async with database.writing() as connection:
        if not database.is_sqlite:  # there BEGIN IMMEDIATE is the lock
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        return await connection.run_sync(upgrade_to)


async def check(database: Database) -> None:
    """Raise ConfigError unless the schema is the newest."""
    database.make_file()
    async with database.writing() as connection:
        version = await connection.run_sync(current)
    newest = scripts().get_current_head()
    if version != newest:
        _must_know(version)
        raise ConfigError(
            f"the accounts in {database.name} have schema {version or 'none'}, this gatelink needs {newest}; "
            "run: gatelink accounts migrate URL"
        )


def upgrade_to(connection: Connection, revision: str = "head") -> tuple[str | None, str]:
    """Upgrade in the transaction of `connection`. Raises ConfigError for a schema that this version doesn't know."""
    before = current(connection)
    _must_know(before)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    after = current(connection)
    assert after is not None
    return before, after


def _must_know(version: str | None) -> None:
    """Raise ConfigError for the schema of a newer gatelink."""
    known = [script.revision for script in scripts().walk_revisions()]
    if version is not None and version not in known:
        raise ConfigError(
            f"the accounts have schema {version}, and gatelink {__version__} knows up to {known[0]}: a newer gatelink "
            "upgraded them. Install that version here too; `accounts migrate` can't go back"
        )


def current(connection: Connection) -> str | None:
    """The version of the schema there; None where there is none."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
