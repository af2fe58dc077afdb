"""The tables of accounts. A change needs a migration in migrations/versions; a test compares the two.

A uid is a u64 on the wire, and SQL's widest integer is signed: uids are 1 .. 2^63 - 1. They are never reused.
"""

from gatelink.errors import importing

with importing(__name__, "login"):
    from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, MetaData, String, Table

MAX_UID = 2**63 - 1
VERSION_TABLE = "gatelink_schema"  # alembic's; the prefix, because a game may keep its own tables beside ours

MAX_NAME = 64  # characters of a user name
MAX_ISSUER = 512  # characters of an issuer's URL
MAX_SUBJECT = 255  # OpenID Connect Core 1.0, section 2: sub has at most 255 ASCII characters

metadata = MetaData()

_Uid = BigInteger().with_variant(Integer, "sqlite")  # there only INTEGER is the row's own id; it has 64 bits

accounts = Table(
    "gatelink_accounts",
    metadata,
    Column("uid", _Uid, primary_key=True, autoincrement=True),
    Column("created_at", BigInteger, nullable=False),  # unix seconds, as all times here
    Column("disabled_at", BigInteger),  # null: may log in
    sqlite_autoincrement=True,  # without it the uid of a deleted newest account is given again
)


def _owner(*, unique: bool | None = None) -> Column[int]:
    """The column of the account that a row belongs to. unique: an account has one row at most."""
    cascade = ForeignKey(accounts.c.uid, ondelete="CASCADE")
    return Column("uid", _Uid, cascade, nullable=False, unique=unique, index=not unique)


passwords = Table(
    "gatelink_passwords",
    metadata,
    Column("name_key", String(MAX_NAME), primary_key=True),  # for look-ups: names.name_key(name)
    Column("name", String(MAX_NAME), nullable=False),  # as shown, with its capitals
    _owner(unique=True),
    Column("hash", String(256), nullable=False),  # argon2's encoded form
    Column("changed_at", BigInteger, nullable=False),
)

devices = Table(
    "gatelink_devices",
    metadata,
    Column("device_hash", LargeBinary(32), primary_key=True),
    _owner(),
    Column("created_at", BigInteger, nullable=False),
)

externals = Table(
    "gatelink_externals",
    metadata,
    Column("issuer", String(MAX_ISSUER), primary_key=True),
    Column("subject", String(MAX_SUBJECT), primary_key=True),
    _owner(),
    Column("created_at", BigInteger, nullable=False),
)
