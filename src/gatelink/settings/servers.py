"""The sections of the servers of a group: gateways and services."""

from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec

from gatelink.config import networks
from gatelink.errors import ConfigError
from gatelink.net.endpoints import Endpoint, parse_admin, parse_endpoint
from gatelink.settings.secret import Secret
from gatelink.settings.shared import Address, Processes, Seconds, ServerId


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One of `gateway.listen`: an endpoint as text, or a table with what it needs besides."""

    shorthand: ClassVar[str] = "endpoint"

    endpoint: str  # tcp://, tls:// or unix://
    certificate: Path | None = None  # tls://: a PEM file, the chain
    key: Path | None = None  # tls://: a PEM file, the private key; None: it is in the certificate's
    proxies: tuple[str, ...] = ()  # networks of balancers that send a PROXY protocol v2 header

    def __post_init__(self) -> None:
        is_tls = parse_endpoint(self.endpoint).scheme == "tls"
        if is_tls and self.certificate is None:
            raise ConfigError(f'endpoint {self.endpoint} needs a certificate; write certificate = "tls/chain.pem"')
        if not is_tls and self.certificate is not None:
            raise ConfigError(f"certificate is for a tls:// endpoint, not for {self.endpoint}")
        networks(*self.proxies)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[gateway]`: what players connect to."""

    listen: tuple[ListenSettings, ...] = (ListenSettings(endpoint="tcp://127.0.0.1:7000"),)
    outer: tuple[str, ...] = ()  # how clients reach it, if not under `listen`
    inner: str = "tcp://127.0.0.1:0"  # where the group's servers connect
    advertise: str | None = None  # how they reach it, if not under `inner`
    count: Processes = 1  # processes; the n-th adds n - 1 to its ids and to ports that are not 0
    first_id: ServerId = 1  # server id of the first
    admin: Address | None = None  # host:port of /metrics and /healthz
    keys: tuple[Secret, ...] = ()  # what `gatelink keys new` makes, for sealed connections; the newest first
    sealed_only: bool = False  # refuse plain logins
    source: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0  # in ClientVertifySucceedRet
    drain_seconds: Seconds = 30.0  # s that players have to go elsewhere before it stops
    routes: dict[str, str] = {}  # "11000-11999" = "lobby": messages to services; others go to type id // 1000

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError('listen is empty; write it as listen = ["tcp://0.0.0.0:7000"]')
        _check_endpoint("inner", self.inner)
        _check_endpoint("advertise", self.advertise or self.inner)
        _check_admin(self.admin, self.count)
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
    """`[services.NAME]`: servers that handle what gateways forward."""

    type: Annotated[int, msgspec.Meta(ge=2, le=255)]  # message id // 1000, unless a route says otherwise; 1: gateways
    run: str  # MODULE:OBJECT
    count: Processes = 1  # processes
    first_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # server id of the first; 0: type * 1000 + 1
    inner: str = "tcp://127.0.0.1:0"  # where the group's servers connect
    advertise: str | None = None  # how they reach it, if not under `inner`
    admin: Address | None = None  # host:port of /metrics and /healthz
    pick: Literal["least-loaded", "rendezvous"] = "least-loaded"  # which of them a session gets
    on_death: Literal["rebind", "close", "hold", "drop"] = "rebind"  # what its sessions get when a process dies
    hold_seconds: Seconds = 5.0  # s that a player waits while there is no server

    def __post_init__(self) -> None:
        module, _, name = self.run.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise ConfigError(f'run is {self.run!r}, not MODULE:OBJECT; write it as run = "mygame.lobby:service"')
        _check_endpoint("inner", self.inner)
        _check_endpoint("advertise", self.advertise or self.inner)
        _check_admin(self.admin, self.count)

    @property
    def ids(self) -> range:
        """The server ids of its processes."""
        first = self.first_id or self.type * 1000 + 1
        return range(first, first + self.count)


def shifted(endpoint: str, index: int) -> str:
    """Where the process of that index, from 0, listens: on a port so much higher, unless that is 0.

    Raises ConfigError for a port there is not.
    """
    parsed = parse_endpoint(endpoint)
    if not parsed.port:
        return endpoint
    if parsed.port + index > 65_535:
        raise ConfigError(f"{endpoint}: process {index + 1} would listen on port {parsed.port + index}, over 65535")
    return str(Endpoint(parsed.scheme, parsed.host, parsed.port + index))


def _check_admin(text: str | None, count: int) -> None:
    if text is not None:
        try:
            shifted(str(parse_admin(text)), count - 1)
        except ConfigError as error:
            raise ConfigError(f"admin: {error}") from None


def _check_endpoint(field: str, text: str) -> None:
    try:
        parse_endpoint(text)
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from None
