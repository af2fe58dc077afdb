"""How alembic runs a migration: on the connection it is given, in that connection's transaction. Alembic loads it."""

from alembic import context

from gatelink.auth.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
