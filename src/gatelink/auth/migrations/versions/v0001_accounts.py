"""Accounts with passwords, guests' devices and external identities."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Uid = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "gatelink_accounts",
        sa.Column("uid", _Uid, primary_key=True, autoincrement=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "gatelink_passwords",
        sa.Column("name_key", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        _owner(unique=True),
        sa.Column("hash", sa.String(256), nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "gatelink_devices",
        sa.Column("device_hash", sa.LargeBinary(32), primary_key=True),
        _owner(),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "gatelink_externals",
        sa.Column("issuer", sa.String(512), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        _owner(),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def _owner(*, unique: bool | None = None) -> "sa.Column[int]":
    cascade = sa.ForeignKey("gatelink_accounts.uid", ondelete="CASCADE")
    return sa.Column("uid", _Uid, cascade, nullable=False, unique=unique, index=not unique)
