"""What a server needs to join a cluster."""

from collections.abc import Collection, Sequence

import msgspec

from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine import Engine
from gatelink.cluster.engine_keys import EngineKey
from gatelink.errors import ConfigError
from gatelink.wire.keys import ClusterKey


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a server needs to join a cluster.

    engine: started before the server, and closed after it. keys: of the cluster, the newest first.
    id: the server's own among all servers of the cluster.
    inner: where it listens for other servers. advertise: how they reach it, if not under that address.
    types: names of the server types that the cluster is configured to have, for `Cluster.servers`.
    """

    engine: Engine
    keys: Sequence[ClusterKey]
    id: int
    inner: str = "tcp://127.0.0.1:0"
    advertise: str = ""
    types: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigError("a server of a cluster needs the cluster key; `gatelink keys new --cluster` makes one")

    @property
    def authentic_engine(self) -> AuthenticEngine:
        """`engine`, with everything in it authenticated by `keys`; for `EngineTokens` and `SignedTokens`, too."""
        return AuthenticEngine(self.engine, [EngineKey.of(key) for key in self.keys])
