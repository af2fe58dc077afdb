"""The sections of what the processes of a group share: engine, tokens, accounts, group, logs."""

from pathlib import Path
from typing import Annotated, Literal, NewType
from urllib.parse import parse_qs, urlsplit

import msgspec

from gatelink.errors import ConfigError
from gatelink.ops.logs import Format, Level
from gatelink.settings.secret import Secret

Count = Annotated[int, msgspec.Meta(ge=1)]
Processes = Annotated[int, msgspec.Meta(ge=1, le=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
ServerId = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Hex32 = Annotated[
    str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$", description="32 bytes as 64 hex digits", examples=["29fd0138..."])
]
Name = Annotated[  # a word in the engine's keys
    str,
    msgspec.Meta(
        pattern="^[a-z][a-z0-9_-]{0,31}$", description="up to 32 of a-z 0-9 _ -, a letter first", examples=["lobby"]
    ),
]
Address = Annotated[str, msgspec.Meta(examples=["127.0.0.1:9100"])]
"""`host:port` of an admin endpoint."""

DATABASES = ("sqlite", "sqlite+aiosqlite", "postgres", "postgresql", "postgresql+asyncpg")
"""The schemes of the URLs of accounts."""

DatabaseUrl = NewType("DatabaseUrl", str)
"""SQLAlchemy's, and `sqlite:///` with a path that, when relative, begins at the configuration's folder."""


def path_in_url(path: Path) -> str:
    """`path` for the URL of a SQLite database, where `%` begins an escape and `?` the options."""
    return str(path).replace("%", "%25").replace("?", "%3F")


UrlOrPath = NewType("UrlOrPath", str)
"""A URL, or a file; a relative path begins at the configuration's folder."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[engine]`: where the servers of a group keep what they share."""

    url: str = "embedded"  # embedded: a nats-server of our own; memory: this process alone; nats://host:4222,nats://...
    data: Path = Path("data/engine")  # embedded: its nats-server's folder
    user: str | None = None  # nats://
    password: Secret | None = None  # of `user`
    credentials: Path | None = None  # a .creds file of NATS, instead of user and password
    timeout: Seconds = 2.0  # s that one call may take
    replicas: Literal[1, 3, 5] = 1  # nats://: servers of a cluster that keep each entry

    def __post_init__(self) -> None:
        if self.url not in ("embedded", "memory") and not (self.servers and all(map(_is_nats, self.servers))):
            raise ConfigError(
                'url names no known engine; write "embedded", "memory", or servers, as "nats://10.0.0.1:4222,nats://10.0.0.2:4222"'
            )
        if any("@" in server for server in self.servers):
            raise ConfigError('url holds a user or a password; write them as user = "..." and password = "env:NAME"')
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password go together; give both or neither")
        if self.replicas > 1 and not self.servers:
            raise ConfigError(f"replicas is {self.replicas}, but {self.url} is one server; give the URLs of a cluster")
        if self.user is not None and self.credentials is not None:
            raise ConfigError("credentials stand instead of user and password; give one of the two")
        for name in ("user", "credentials"):
            if getattr(self, name) is not None and not self.servers:
                raise ConfigError(
                    f"{name} is for servers of NATS, but url is {self.url}; give their URLs, or leave it out"
                )
        if self.credentials is not None and not self.credentials.is_file():
            raise ConfigError(f"credentials: {self.credentials} is not a file; write the path of what `nsc` made")

    @property
    def servers(self) -> tuple[str, ...]:
        """The NATS servers that `url` names; none for the other engines."""
        return tuple(part.strip() for part in self.url.split(",")) if "://" in self.url else ()


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[tokens]`: what a login hands out and every gateway checks."""

    kind: Literal["engine", "signed"] = "engine"  # engine: looked up there; signed: checked without it, and short-lived
    lifetime: Annotated[float, msgspec.Meta(gt=0, le=315_360_000)] = (
        43_200.0  # engine: s from issue to the end, however often used
    )
    first_use: Seconds = 30.0  # engine: s from issue to the first use
    single_use: bool = False  # engine: the first use is also the last
    signed_lifetime: Annotated[float, msgspec.Meta(gt=0, le=60)] = 60.0  # signed: s from issue to the end
    audience: str = "gatelink"  # signed: whom a token is for
    signing_keys: tuple[Secret, ...] = (
        Secret("env:GATELINK_SIGNING_KEY"),
    )  # signed: Ed25519 seeds, 64 hex digits each
    public_keys: tuple[Hex32, ...] = ()  # signed: of those, for processes that check and must not be able to issue

    def __post_init__(self) -> None:
        if self.first_use > self.lifetime:
            raise ConfigError(f"first_use is {self.first_use:g} s, longer than the lifetime, {self.lifetime:g} s")
        if self.kind == "signed" and not self.signing_keys and not self.public_keys:
            raise ConfigError('signing_keys is empty; write it as signing_keys = ["file:keys/signing.key"]')


class Argon2Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`[accounts.argon2]`: what hashing one password costs (argon2id, RFC 9106), and how many are hashed at a time."""

    time_cost: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 2  # passes
    memory_kib: Annotated[int, msgspec.Meta(ge=8, le=4_194_304)] = 19_456
    parallelism: Processes = 1  # lanes
    workers: Processes | None = None  # threads that hash, each with memory_kib; None: one a core, at most 4
    max_waiting: Count = 128  # for a thread; more are refused

    def __post_init__(self) -> None:
        if self.memory_kib < 8 * self.parallelism:
            raise ConfigError(f"memory_kib is {self.memory_kib}; Argon2 needs 8 for each of {self.parallelism} lanes")


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[accounts]`: where users are kept."""

    url: DatabaseUrl = DatabaseUrl("sqlite:///data/accounts.db")  # or postgresql://user@host:5432/database
    password: Secret | None = None  # of the database's user
    first_uid: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] = 1_000_000  # of the first account
    migrate: bool | None = None  # bring the tables up to date at the start; None: SQLite's, but not PostgreSQL's
    argon2: Argon2Settings = Argon2Settings()

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_known = parts.scheme in DATABASES and parts.port != 0
        except ValueError:
            is_known = False
        if not is_known:
            raise ConfigError(
                'url names no known database; write it as "sqlite:///data/accounts.db" or "postgresql://user@host:5432/database"'
            )
        if parts.scheme.startswith("sqlite") and parts.path in ("", "/", "/:memory:"):
            raise ConfigError('url names no file; write it as "sqlite:///data/accounts.db"')
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ConfigError('url holds a password; write it as password = "env:NAME" or "file:PATH"')
        if self.password is not None and not parts.username:
            raise ConfigError("password needs a user in the url, as postgresql://user@host:5432/database")


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[cluster]`: which servers belong together. Whoever has the key is one of them."""

    name: Name = "gatelink"  # two groups on one engine need two names
    key: Secret = Secret("env:GATELINK_CLUSTER_KEY")  # what `gatelink keys new --cluster` makes
    older_keys: tuple[Secret, ...] = ()  # that are still accepted, while servers change to a new one


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[logs]`: one line an event, on standard error."""

    format: Format = "console"  # json: one object a line
    level: Level = "info"  # the least that is written


def _is_nats(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
