"""The sections of the login service."""

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gatelink.auth.key_source import url_of
from gatelink.config import networks
from gatelink.errors import ConfigError
from gatelink.login.address import host_and_port
from gatelink.login.limits import LoginLimits
from gatelink.net.endpoints import parse_endpoint
from gatelink.settings.shared import Hex32, ServerId, UrlOrPath

Method = Literal["password", "guest", "oidc"]


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[login.oidc]`: whose ID tokens prove a user (OpenID Connect Core 1.0, section 3.1.3.7)."""

    issuer: str  # its `iss`
    audience: str  # our client id there, its `aud`
    authorized_parties: tuple[str, ...] = ()  # other client ids of ours, as an app's: its `azp`
    jwks: UrlOrPath  # its keys (RFC 7517): an https URL, an http URL on loopback, or a file

    def __post_init__(self) -> None:
        if not is_web(self.issuer):
            raise ConfigError('issuer is not a URL; write it as "https://accounts.example.com"')
        if not self.audience:
            raise ConfigError('audience is empty; write our client id there, as audience = "my-game"')
        try:
            url_of(self.jwks)
        except ConfigError as error:
            raise ConfigError(f"jwks: {error}") from None


class StaticServer(msgspec.Struct, frozen=True, kw_only=True):
    """`[[login.servers]]`: a gateway that a login may name without finding it in a group."""

    name: str  # for people
    id: ServerId  # its server id, unique
    addresses: tuple[str, ...]  # an endpoint for each transport, as "tcp://play.example.com:7000"
    public_key: Hex32 | None = None  # of its sealed connections

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ConfigError('addresses is empty; write it as addresses = ["tcp://play.example.com:7000"]')
        for address in self.addresses:
            if not address.startswith(("ws://", "wss://")):
                try:
                    parse_endpoint(address)
                except ConfigError as error:
                    raise ConfigError(f"addresses: {error}") from None


class LoginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[login]`: the HTTP service that knows users and hands out tokens."""

    listen: str = "http://127.0.0.1:8080"
    methods: tuple[Method, ...] = ("password", "guest")
    oidc: OidcSettings | None = None
    servers: tuple[StaticServer, ...] = ()
    proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For is believed
    one_token: bool = True  # a newer login ends the tokens of the same user and slot
    legacy_status: Literal["always-200", "original"] = "always-200"  # how clients of the original are refused
    client_versions: tuple[str, ...] = ()  # the ClientVer that they may have; () for any
    limits: LoginLimits = LoginLimits()

    def __post_init__(self) -> None:
        try:
            host_and_port(self.listen)
        except ConfigError as error:
            raise ConfigError(f"listen: {error}") from None
        if not self.methods:
            raise ConfigError('methods is empty; write it as methods = ["password"]')
        if "oidc" in self.methods and self.oidc is None:
            raise ConfigError("methods has oidc, but there is no [login.oidc]; give its issuer, audience and jwks")
        try:
            networks(*self.proxies)
        except ConfigError as error:
            raise ConfigError(f"proxies: {error}") from None
        ids = [server.id for server in self.servers]
        for index, id in enumerate(ids):
            if ids.index(id) < index:
                raise ConfigError(f"servers.{index}.id: servers[{ids.index(id)}] has {id} too; give each its own")


def is_web(url: str) -> bool:
    """Whether `url` is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != -1
    except ValueError:
        return False
