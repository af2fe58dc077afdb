"""The choice of a player's gateway."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from gatelink.cluster.links import GATEWAY
from gatelink.cluster.registry import STALE, Registry, ServerInfo, State
from gatelink.errors import ConfigError, GatelinkError


class NoGateway(GatelinkError):
    """No gateway is up and takes players."""


class GatewayInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway, as players see it.

    addresses: where clients connect, as `tcp://play.example.com:7000`. public_key: for sealed connections, 64 hex
    digits, "" without. open: it is up and not draining. load: how busy it is, in any unit that all gateways share.
    """

    id: int
    name: str
    addresses: tuple[str, ...]
    public_key: str = ""
    open: bool = True
    load: float = 0.0

    @property
    def by_transport(self) -> dict[str, str]:
        """The first address of each transport: `tcp`, `tls`, ..."""
        found: dict[str, str] = {}
        for address in self.addresses:
            found.setdefault(address.partition("://")[0], address)
        return found


class Gateways(Protocol):
    """The gateways of now."""

    def choose(self, uid: int, transport: str = "") -> GatewayInfo:
        """The gateway for `uid`: the least loaded one that takes players, over `transport` if it is given.

        Raises NoGateway.
        """

    def all(self) -> Sequence[GatewayInfo]:
        """All known gateways by id, closed ones too."""


class StaticGateways:
    """A fixed list of gateways."""

    def __init__(self, gateways: Iterable[GatewayInfo]) -> None:
        self._gateways = sorted(gateways, key=lambda gateway: gateway.id)
        ids = [gateway.id for gateway in self._gateways]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"two gateways have the id {max(ids, key=ids.count)}; give each its own")

    def choose(self, uid: int, transport: str = "") -> GatewayInfo:
        return least_loaded(self._gateways, uid, transport)

    def all(self) -> Sequence[GatewayInfo]:
        return self._gateways


class RegistryGateways:
    """The gateways that the cluster's registry lists. clock: the engine's.

    Open are those that are up, had a keepalive lately, and have links to all types of server that their routes need.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._registry = registry
        self._sent: dict[tuple[int, float], int] = {}  # players sent to a gateway since its last keepalive

    def choose(self, uid: int, transport: str = "") -> GatewayInfo:
        """The least loaded gateway that is open. Raises NoGateway."""
        try:
            chosen = least_loaded(self.all(), uid, transport)
        except NoGateway as error:
            lacks = {type for info in self._registry.of_type(GATEWAY) for type in info.lacks or ()}
            if not lacks:
                raise
            types = ", ".join(map(str, sorted(lacks)))
            raise NoGateway(f"{error}; gateways have no link to a server of type {types}") from None
        info = self._registry.servers[chosen.id]
        key = (info.id, info.updated_at)
        self._sent = {other: count for other, count in self._sent.items() if self._is_current(other)}
        self._sent[key] = self._sent.get(key, 0) + 1
        return chosen

    def all(self) -> Sequence[GatewayInfo]:
        """Every gateway that is registered, by id."""
        found = [info for info in self._registry.servers.values() if info.type == GATEWAY]
        return [self._seen(info) for info in sorted(found, key=lambda info: info.id)]

    def _is_current(self, key: tuple[int, float]) -> bool:
        info = self._registry.servers.get(key[0])
        return info is not None and info.updated_at == key[1]

    def _seen(self, info: ServerInfo) -> GatewayInfo:
        return GatewayInfo(
            id=info.id,
            name=info.name,
            addresses=info.outer,
            public_key=info.public_key,
            open=info.state is State.UP and not info.lacks and self._clock() - info.updated_at < STALE,
            load=float(info.load.sessions + self._sent.get((info.id, info.updated_at), 0)),
        )


def least_loaded(gateways: Iterable[GatewayInfo], uid: int, transport: str = "") -> GatewayInfo:
    """The open gateway with the least load; of equals, one that depends on the uid. Raises NoGateway."""
    candidates = [each for each in gateways if each.open and (not transport or transport in each.by_transport)]
    if not candidates:
        raise NoGateway(f"no gateway is up and takes players{f' over {transport}' if transport else ''}")
    least = min(gateway.load for gateway in candidates)
    idle = [gateway for gateway in candidates if gateway.load == least]
    return idle[uid % len(idle)]
