"""A gateway: a `Server` that holds the players' sessions and forwards what it does not handle itself to services.

gateway = Gateway("tcp://0.0.0.0:7000", tokens=EngineTokens(engine), member=Membership(engine=..., keys=..., id=1))
gateway.run()
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gatelink import tasks
from gatelink.cluster.cluster import Membership
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.login_arbiter import ClusterLoginArbiter
from gatelink.cluster.member import ClusterServer
from gatelink.cluster.player_route import PlayerRouter
from gatelink.cluster.registry import ServerInfo
from gatelink.cluster.routes import Routes, Rules
from gatelink.errors import ConfigError
from gatelink.server import Listen
from gatelink.session.manager import Duplicate
from gatelink.session.session import Session
from gatelink.version import __version__
from gatelink.wire.envelope import CLIENT_HEAD

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_PROOF = b"gatelink token proof"
"""Derives the key of token proofs from the cluster key."""


class _SessionObserver:
    """Tells the router of each session, and the login arbiter, which renews its directory entry (handlers.Observer)."""

    def __init__(self, router: PlayerRouter, arbiter: ClusterLoginArbiter) -> None:
        self._router = router
        self._arbiter = arbiter

    def opened(self, session: Session) -> None:
        self._router.opened(session)
        if session.close_code is None:  # else the router closed it
            self._arbiter.opened(session)

    def closed(self, session: Session) -> None:
        self._router.closed(session)


class Gateway(ClusterServer):
    """A `Server` in front of a cluster.

    It handles the messages that have a handler here. It forwards every other message, unchanged, to a server of the
    type that `routes` gives.

    member: the gateway's membership in the cluster. routes: the server type of each message.
    rules: by server type, how a server is picked for a player, and what happens when that server dies.
    outer: the addresses that clients dial, if they differ from those it listens on.
    name: the gateway's name in the registry and in logs.
    drain_seconds: the time that players have to go to another gateway when this one stops.
    The other options are those of `Server`.
    """

    def __init__(
        self,
        *listen: str | Listen,
        member: Membership,
        routes: Routes | None = None,
        rules: Mapping[int, Rules] | None = None,
        outer: Sequence[str] = (),
        name: str = "gateway",
        drain_seconds: float = 0.0,
        **options: Any,
    ) -> None:
        if options.get("duplicate", Duplicate.NEWER_WINS) is not Duplicate.NEWER_WINS:
            raise ConfigError("duplicate=REFUSE_NEW: in a cluster the newer login wins; leave it out for a Gateway")
        super().__init__(*listen, member=member, id=member.id, cluster_key=member.keys, **options)
        in_one_read = self.limits.max_frame + self.limits.turn_bytes
        most = self.link_limits.max_frame - CLIENT_HEAD
        if in_one_read > most:
            raise ConfigError(
                f"one envelope to a service must hold {in_one_read} bytes (limits.max_frame + limits.turn_bytes), but "
                f"a link takes {most} (link_limits.max_frame {self.link_limits.max_frame}, less the envelope's head); "
                "lower the first or raise the second"
            )
        self.routes = routes or Routes()
        self.rules = dict(rules or {})
        self.outer = tuple(outer)
        self.name = name
        self.drain_seconds = drain_seconds
        self.router: PlayerRouter
        self.arbiter: ClusterLoginArbiter

    async def stop(self, grace: float | None = None) -> None:
        """Tell the other servers that this gateway drains, then stop as `Server.stop` does.

        Without `grace`, players first have `drain_seconds` to go to another gateway. Clients that speak the extension
        are told the address of that gateway.
        """
        if self.is_running:
            await self._drain(self.limits.close_timeout if grace is None else grace)
            if grace is None and self.drain_seconds:
                await self.drain(self.drain_seconds, self._other_gateway())
        await super().stop(grace)

    @property
    def stop_seconds(self) -> float:
        return self.drain_seconds + super().stop_seconds

    def _known_types(self) -> set[int]:
        """The server types in the rules, in the routes, and in the routes of the catalog's messages."""
        types_of_messages = {self.routes.table[id] for id in self.catalog.by_id}
        return types_of_messages.union(self.rules, self.routes.types)

    def _other_gateway(self) -> str:
        """The address, for the same transport, of the other gateway with the fewest sessions; "" if there is none."""
        me = self.cluster.me
        scheme = me.outer[0].partition("://")[0] if me.outer else ""
        others = [info for info in self.cluster.registry.of_type(GATEWAY) if info.id != me.id]
        for info in sorted(others, key=lambda info: info.load.sessions):
            for address in info.outer:
                if address.partition("://")[0] == scheme:
                    return address
        return ""

    def _cluster_metrics(self) -> "Iterable[Metric]":
        from gatelink.cluster.metrics import of_gateway  # keeps prometheus out of processes without an admin port

        return of_gateway(self.router, self.arbiter, self.cluster, self.cluster_handlers)

    def _type_of_links(self) -> int:
        return GATEWAY

    def _count_messages(self) -> int:
        return self.router.stats.forwarded

    async def _prepare(self) -> None:
        cluster = self.cluster
        self.router = PlayerRouter(
            self.context,
            cluster.links,
            self.cluster_handlers.posts,
            self.link_limits.max_frame,  # a server is trusted with larger frames than a player
            self.routes.table,
            self.rules,
            self._known_types(),
            self.handlers.routes,
        )
        cluster.links.user = self.router
        cluster.on_change(self.router.registry_changed)
        self.arbiter = ClusterLoginArbiter(cluster.engine, self.id, self.context, self.sessions)
        self.sessions.arbiter = self.arbiter
        self.sessions.proof_keys = tuple(hmac.digest(key.psk, _PROOF, "sha256") for key in self.cluster_keys)
        self.handlers.observer = _SessionObserver(self.router, self.arbiter)
        await super()._prepare()

    async def _join(self) -> None:
        await self.arbiter.start()
        *for_clients, for_servers = self.endpoints  # the last endpoint is the one for other servers
        me = ServerInfo(
            id=self.id,
            type=GATEWAY,
            name=self.name,
            inner=self.advertise or str(for_servers),
            outer=self.outer or tuple(map(str, for_clients)),
            public_key=self.public_key.hex() if self.public_key is not None else "",
            version=__version__,
            admin=self.admin_address,
        )
        await self.cluster.join(me, self.cluster_handlers)

    async def _leave(self) -> None:
        await tasks.gather_all(self.cluster.close(), self.arbiter.close())
