"""The sections of a configuration file; docs/configuration.md describes every key."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NewType
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec.structs import replace

from gatelink.auth.key_source import url_of
from gatelink.cluster.engine import MAX_SKEW
from gatelink.cluster.routes import Routes
from gatelink.config import Limits, WireOptions, networks
from gatelink.errors import ConfigError
from gatelink.login.limits import LoginLimits, host_and_port
from gatelink.net.endpoints import (
    TLS_SCHEMES,
    WEB_SCHEMES,
    Endpoint,
    check_connectable,
    is_loopback,
    parse_admin,
    parse_endpoint,
)
from gatelink.net.origins import check_origins
from gatelink.ops.logs import Format, Level
from gatelink.ops.page import page_address, page_origins
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
"""SQLAlchemy's, and `sqlite:///` with a path that, if relative, starts at the configuration's folder."""


UrlOrPath = NewType("UrlOrPath", str)
"""A URL, or a file; a relative path starts at the configuration's folder."""


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Name the field in the ConfigError of a check."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from None


def _is_url(url: str, *schemes: str) -> bool:
    """Whether `url` has one of `schemes`, a host, and a valid port, if any."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def shifted(endpoint: str, index: int) -> str:
    """The endpoint of the process with that index, from 0: its port is higher by `index`, unless it is 0.

    Raises ConfigError for a port over 65535.
    """
    parsed = parse_endpoint(endpoint)
    if not parsed.port:
        return endpoint
    if parsed.port + index > 65_535:
        raise ConfigError(f"{endpoint}: process {index + 1} would listen on port {parsed.port + index}, over 65535")
    return str(Endpoint(parsed.scheme, parsed.host, parsed.port + index))


def _check_inner(inner: str, advertise: str | None) -> None:
    with _named("inner"):
        parse_endpoint(inner)
    with _named("advertise"):
        parse_endpoint(advertise or inner)
        if advertise:
            check_connectable(advertise, "give one that other servers reach, as tcp://10.0.0.4:7500")


def _check_admin(text: str | None, count: int) -> None:
    with _named("admin"):
        if text is not None:
            shifted(str(parse_admin(text)), count - 1)


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[engine]`: where the servers of a cluster keep what they share."""

    url: str = "embedded"  # embedded: starts a nats-server; memory: this process alone; nats://host:4222,nats://...
    data: Path = Path("data/engine")  # embedded: its nats-server's folder
    user: str | None = None  # nats://
    password: Secret | None = None  # of `user`
    credentials: Path | None = None  # a .creds file of NATS, instead of user and password
    timeout: Seconds = 2.0  # s that one call may take
    replicas: Literal[1, 3, 5] = 1  # nats://: servers of a NATS cluster that store each entry
    max_skew: Seconds = MAX_SKEW  # s that this machine's clock may be off the engine's at the start

    def __post_init__(self) -> None:
        if self.url not in ("embedded", "memory") and not (
            self.servers and all(_is_url(server, "nats", "tls") for server in self.servers)
        ):
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
            raise ConfigError("both credentials and user are given; give either credentials, or user and password")
        for name, value in (("user", self.user), ("credentials", self.credentials)):
            if value is not None and not self.servers:
                raise ConfigError(
                    f"{name} is for servers of NATS, but url is {self.url}; give their URLs, or leave it out"
                )
        if self.credentials is not None and not self.credentials.is_file():
            raise ConfigError(f"credentials: {self.credentials} is not a file; write the path of what `nsc` made")

    @property
    def is_shared(self) -> bool:
        """Whether other machines can use it: a server of NATS is not on loopback."""
        return any(not is_loopback(urlsplit(server).hostname or "") for server in self.servers)

    @property
    def servers(self) -> tuple[str, ...]:
        """The NATS servers that `url` names; none for the other engines."""
        return tuple(part.strip() for part in self.url.split(",")) if "://" in self.url else ()


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[tokens]`: a login issues them, and every gateway checks them."""

    kind: Literal["engine", "signed"] = "engine"  # engine: looked up there; signed: checked without it, short-lived
    lifetime: Annotated[float, msgspec.Meta(gt=0, le=315_360_000)] = (
        43_200.0  # engine: s from issue to the end, however often used
    )
    first_use: Seconds = 30.0  # engine: s from issue to the first use
    single_use: bool = False  # engine: the first use is also the last
    signed_lifetime: Annotated[float, msgspec.Meta(gt=0, le=60)] = 60.0  # signed: s from issue to the end
    audience: str = "gatelink"  # signed: the audience of a token
    signing_keys: tuple[Secret, ...] = (
        Secret("env:GATELINK_SIGNING_KEY"),
    )  # signed: Ed25519 seeds, 64 hex digits each
    public_keys: tuple[Hex32, ...] = ()  # signed: of those keys, for processes that only check
    end_sessions: bool = True  # a user's sessions end when the user's tokens are revoked
    at_expiry: Literal["ignore", "close"] = "ignore"  # close: a session ends with 4015 when its token does
    expiry_warning: Seconds = 60.0  # s before that in which its client is warned, and can renew the login
    close_base_clients: bool = False  # also end base clients, which can't renew their login

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
    """`[accounts]`: the database of users."""

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


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[login.oidc]`: the issuer of ID tokens (OpenID Connect Core 1.0, section 3.1.3.7)."""

    issuer: str  # its `iss`
    audience: str  # our client id there, its `aud`
    authorized_parties: tuple[str, ...] = ()  # other client ids of ours, as an app's: its `azp`
    jwks: UrlOrPath  # its keys (RFC 7517): an https URL, an http URL on loopback, or a file

    def __post_init__(self) -> None:
        if not _is_url(self.issuer, "http", "https"):
            raise ConfigError('issuer is not a URL; write it as "https://accounts.example.com"')
        if not self.audience:
            raise ConfigError('audience is empty; write our client id there, as audience = "my-game"')
        with _named("jwks"):
            url_of(self.jwks)


class StaticServer(msgspec.Struct, frozen=True, kw_only=True):
    """`[[login.servers]]`: a gateway that a login may name without finding it in the cluster."""

    name: str  # for people
    id: ServerId  # its server id, unique
    addresses: tuple[str, ...]  # an endpoint for each transport, as "tcp://play.example.com:7000"
    public_key: Hex32 | None = None  # of its sealed connections

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ConfigError('addresses is empty; write it as addresses = ["tcp://play.example.com:7000"]')
        for address in self.addresses:
            with _named("addresses"):
                check_connectable(address, "give one that clients reach, as tcp://play.example.com:7000")


class LoginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[login]`: the HTTP service that checks users and issues tokens."""

    listen: str = "http://127.0.0.1:8080"
    methods: tuple[Literal["password", "guest", "oidc"], ...] = ("password", "guest")
    oidc: OidcSettings | None = None
    servers: tuple[StaticServer, ...] = ()
    key: Secret = Secret("env:GATELINK_LOGIN_KEY")  # what `gatelink keys login` makes of the cluster key
    proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For is trusted
    origins: tuple[str, ...] = ()  # origins of pages on other hosts whose scripts may log in, "*" for all
    one_token: bool = True  # a newer login ends the tokens of the same user and slot
    legacy_status: Literal["always-200", "original"] = "always-200"  # how clients of the original engine are refused
    client_versions: tuple[str, ...] = ()  # their accepted ClientVer; () for any
    limits: LoginLimits = LoginLimits()

    def __post_init__(self) -> None:
        with _named("listen"):
            host_and_port(self.listen)
        if not self.methods:
            raise ConfigError('methods is empty; write it as methods = ["password"]')
        if "oidc" in self.methods and self.oidc is None:
            raise ConfigError("methods has oidc, but there is no [login.oidc]; give its issuer, audience and jwks")
        with _named("proxies"):
            networks(*self.proxies)
        with _named("origins"):
            check_origins(self.origins)
        ids = [server.id for server in self.servers]
        for index, id in enumerate(ids):
            if ids.index(id) < index:
                raise ConfigError(f"servers.{index}.id: servers[{ids.index(id)}] has {id} too; give each its own")


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[cluster]`: which servers belong together. Every server with the key is one of them."""

    name: Name = "gatelink"  # two clusters on one engine need two names
    key: Secret = Secret("env:GATELINK_CLUSTER_KEY")  # what `gatelink keys new --cluster` makes
    older_keys: tuple[Secret, ...] = ()  # older keys, still accepted while servers change to a new one


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One of `gateway.listen`: an endpoint as text, or a table with its certificate and proxies."""

    endpoint: str  # tcp://, tls://, ws://, wss:// or unix://
    certificate: Path | None = None  # tls://, wss://: a PEM file, the chain
    key: Path | None = None  # tls://, wss://: a PEM file, the private key; None: it is in the certificate's
    proxies: tuple[str, ...] = ()  # networks of balancers that send a PROXY protocol header, or ws:// that forward
    tls: Literal["", "terminated"] = ""  # ws://: "terminated" if these proxies end TLS
    origins: tuple[str, ...] = ()  # ws://, wss://: origins of pages that may connect, "*" for all

    def __post_init__(self) -> None:
        endpoint = parse_endpoint(self.endpoint)
        scheme = endpoint.scheme
        if scheme in WEB_SCHEMES and endpoint.path:
            raise ConfigError(f"endpoint {self.endpoint}: a listener answers on every path; write it without one")
        if scheme in TLS_SCHEMES and self.certificate is None:
            raise ConfigError(f'endpoint {self.endpoint} needs a certificate; write certificate = "tls/chain.pem"')
        if scheme not in TLS_SCHEMES and self.certificate is not None:
            raise ConfigError(f"certificate is for a tls:// or wss:// endpoint, not for {self.endpoint}")
        networks(*self.proxies)
        with _named("origins"):
            check_origins(self.origins)
        if self.origins and scheme not in WEB_SCHEMES:
            raise ConfigError(f"origins is for a ws:// or wss:// endpoint, not for {self.endpoint}")
        if self.tls and (scheme != "ws" or not self.proxies):
            raise ConfigError('tls = "terminated" is for a ws:// endpoint with proxies, the networks of the TLS proxy')

    @property
    def is_web(self) -> bool:
        """Whether pages can connect to it."""
        return parse_endpoint(self.endpoint).scheme in WEB_SCHEMES


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[gateway]`: the gateways, to which players connect."""

    listen: tuple[ListenSettings, ...] = (ListenSettings(endpoint="tcp://127.0.0.1:7000"),)
    outer: tuple[str, ...] = ()  # its addresses for clients, if not `listen`
    inner: str = "tcp://127.0.0.1:0"  # where the cluster's servers connect
    advertise: str | None = None  # its address for them, if not `inner`
    count: Processes = 1  # processes; the n-th adds n - 1 to its ids and to ports that are not 0
    first_id: ServerId = 1  # server id of the first
    admin: Address | None = None  # host:port of /metrics, /healthz and /livez
    keys: tuple[Secret, ...] = ()  # what `gatelink keys new` makes, for sealed connections; the newest first
    sealed_only: bool = False  # refuse plain logins
    source: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0  # in ClientVertifySucceedRet
    drain_seconds: Seconds = 30.0  # s for players to move to another gateway before it stops
    close_unknown: bool = False  # close sessions (4007) whose messages are for a type that no service ever had
    routes: dict[str, str] = {}  # "11000-11999" = "lobby": messages to services; others go to type id // 1000

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError('listen is empty; write it as listen = ["tcp://0.0.0.0:7000"]')
        _check_inner(self.inner, self.advertise)
        _check_admin(self.admin, self.count)
        for address in self.outer:
            with _named("outer"):
                check_connectable(address, "give one that clients reach, as tcp://play.example.com:7000")
        if "unix" in {parse_endpoint(each.endpoint).scheme for each in self.listen} and self.count > 1:
            raise ConfigError(
                f"listen has a unix:// endpoint; {self.count} processes can't share it, give a tcp:// one"
            )
        taken = Counter(shifted(each.endpoint, index) for each in self.listen for index in range(self.count))
        for endpoint, times in taken.items():
            if times > 1 and not endpoint.endswith(":0"):
                raise ConfigError(f"listen: {times} would be on {endpoint}; each of {self.count} takes the next port")
        if self.sealed_only and not self.keys:
            raise ConfigError('sealed_only needs keys; write keys = ["file:keys/gateway.key"]')


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[services.NAME]`: servers that handle the messages that gateways forward."""

    type: Annotated[int, msgspec.Meta(ge=2, le=255)]  # message id // 1000, unless a route says otherwise; 1: gateways
    run: str  # MODULE:OBJECT
    count: Processes = 1  # processes
    first_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # server id of the first; 0: type * 1000 + 1
    inner: str = "tcp://127.0.0.1:0"  # where the cluster's servers connect
    advertise: str | None = None  # its address for them, if not `inner`
    admin: Address | None = None  # host:port of /metrics, /healthz and /livez
    pick: Literal["least-loaded", "rendezvous"] = "least-loaded"  # which process a session gets
    on_death: Literal["rebind", "close", "hold", "drop"] = "rebind"  # for sessions whose process dies
    hold_seconds: Seconds = 5.0  # s that a player waits while no server is there
    give_up_seconds: Seconds = 10.0  # s of silence after which its players go to another process

    def __post_init__(self) -> None:
        module, _, name = self.run.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise ConfigError(f'run is {self.run!r}, not MODULE:OBJECT; write it as run = "mygame.lobby:service"')
        _check_inner(self.inner, self.advertise)
        _check_admin(self.admin, self.count)

    @property
    def ids(self) -> range:
        """The server ids of its processes."""
        first = self.first_id or self.type * 1000 + 1
        return range(first, first + self.count)


class PageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[page]`: the game's page, which `gatelink up --dev` serves on this machine."""

    folder: Path  # its files; index.html is the page
    listen: str = "http://127.0.0.1:8000"

    def __post_init__(self) -> None:
        with _named("listen"):
            page_address(self.listen)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[logs]`: one line an event, on standard error."""

    format: Format = "console"  # json: one object a line
    level: Level = "info"  # the lowest level that is written


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration; `gatelink.settings.load` reads one.

    `login`, `gateway`, `services` and `page` run only with a section; the other sections have defaults.
    """

    engine: EngineSettings = EngineSettings()
    tokens: TokenSettings = TokenSettings()
    accounts: AccountSettings = AccountSettings()
    login: LoginSettings | None = None
    cluster: ClusterSettings = ClusterSettings()
    gateway: GatewaySettings | None = None
    services: dict[Name, ServiceSettings] = {}
    page: PageSettings | None = None
    limits: Limits = Limits()
    wire: WireOptions = WireOptions()
    logs: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        if "gateway" in self.services:
            raise ConfigError("services.gateway: gateways have that name; give the service another")
        types: dict[int, str] = {}  # before the ids, which follow from them
        for name, service in self.services.items():
            if service.type in types:
                other = f"services.{types[service.type]}"
                raise ConfigError(f"services.{name}.type: {other} has type {service.type} too; give each its own")
            types[service.type] = name
        owners: dict[int, str] = {}
        gateways = self.gateway
        claimed = [("gateway", range(gateways.first_id, gateways.first_id + gateways.count))] if gateways else []
        claimed += [(f"services.{name}", service.ids) for name, service in self.services.items()]
        for owner, ids in claimed:
            for id in ids:
                if id in owners:
                    raise ConfigError(f"{owner}.first_id: {owners[id]} has the server id {id} too; give each its own")
                owners[id] = owner
        _ = self.routes
        if self.login is not None and self.engine.is_shared and self.accounts.url.startswith("sqlite"):
            raise ConfigError(
                "accounts.url: is a file of SQLite, but machines share the engine of engine.url, and each would have a "
                'file of its own; write it as "postgresql://user@host:5432/database"'
            )

    def for_development(self) -> "Settings":
        """These settings, where the login and the gateways' WebSockets also take pages of the page's origins."""
        if self.page is None:
            return self
        origins = page_origins(self.page.listen)
        login, gateway = self.login, self.gateway
        if login is not None:
            login = replace(login, origins=(*login.origins, *origins))
        if gateway is not None:
            listen = [
                replace(each, origins=(*each.origins, *origins)) if each.is_web else each for each in gateway.listen
            ]
            gateway = replace(gateway, listen=tuple(listen))
        return replace(self, login=login, gateway=gateway)

    @property
    def routes(self) -> dict[str, int]:
        """`gateway.routes` with server types, for `Routes`. Raises ConfigError for an invalid route."""
        found = {}
        for text, name in (self.gateway.routes if self.gateway else {}).items():
            if name not in self.services:
                there = ", ".join(self.services) or "none"
                raise ConfigError(f"gateway.routes.{text}: there is no service {name!r}; [services] has {there}")
            found[text] = self.services[name].type
        with _named("gateway.routes"):
            Routes(found)
        return found
