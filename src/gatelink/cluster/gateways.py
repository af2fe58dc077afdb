"""The gateways of the registry, for the login service."""

from collections.abc import Sequence

from gatelink.cluster.links import GATEWAY
from gatelink.cluster.registry import Registry, ServerInfo, State
from gatelink.login.gateways import GatewayInfo, least_loaded


class RegistryGateways:
    """The registered gateways (login.gateways.Gateways)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sent: dict[tuple[int, float], int] = {}  # players sent to a gateway since its last keepalive

    def choose(self, uid: int, transport: str = "") -> GatewayInfo:
        """The least loaded gateway that is up. Raises NoGateway."""
        chosen = least_loaded(self.all(), uid, transport)
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
            open=info.state is State.UP,
            load=float(info.load.sessions + self._sent.get((info.id, info.updated_at), 0)),
        )
