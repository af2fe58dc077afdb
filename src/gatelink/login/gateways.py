"""The choice of a player's gateway."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

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


def least_loaded(gateways: Iterable[GatewayInfo], uid: int, transport: str = "") -> GatewayInfo:
    """The open gateway with the least load; of equals, one that depends on the uid. Raises NoGateway."""
    candidates = [each for each in gateways if each.open and (not transport or transport in each.by_transport)]
    if not candidates:
        raise NoGateway(f"no gateway is up and takes players{f' over {transport}' if transport else ''}")
    least = min(gateway.load for gateway in candidates)
    idle = [gateway for gateway in candidates if gateway.load == least]
    return idle[uid % len(idle)]
