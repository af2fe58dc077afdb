"""A gateway: a `Server` that holds the players' sessions and forwards what it does not handle itself to services.

member = Membership(engine=engine, keys=[load_cluster_key("cluster.key")], id=1)
gateway = Gateway("tcp://10.0.0.4:7000", tokens=EngineTokens(member.authentic_engine), member=member)
gateway.run()
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gatelink import tasks
from gatelink.cluster.cluster_server import ClusterServer
from gatelink.cluster.engine import Subscription
from gatelink.cluster.group_counts import serve_counts
from gatelink.cluster.kicks import GatewayKicks
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.login_arbiter import ClusterLoginArbiter
from gatelink.cluster.membership import Membership
from gatelink.cluster.player_route import PlayerRouter
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.routes import OnDeath, Routes, Rules
from gatelink.errors import ConfigError
from gatelink.logger import Logger
from gatelink.net.endpoints import check_connectable
from gatelink.server import Listen
from gatelink.session.manager import Duplicate
from gatelink.session.session import Session
from gatelink.version import __version__
from gatelink.wire.envelope import CLIENT_HEAD

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = Logger("gatelink.gateway")

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

    def suspended(self, session: Session) -> None:
        self._router.suspended(session)

    def resumed(self, session: Session) -> None:
        self._router.resumed(session)

    def renewed(self, session: Session) -> None:
        self._router.renewed(session)

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
    close_unknown: whether a message for a type of server that is not configured and was never registered closes the
    session with 4007. It is dropped and counted in any case.
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
        close_unknown: bool = False,
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
        self.close_unknown = close_unknown
        self.router: PlayerRouter
        self.arbiter: ClusterLoginArbiter
        self._kicks: GatewayKicks | None = None
        self._counts: Subscription | None = None

    async def stop(self, grace: float | None = None) -> None:
        """Tell the other servers that this gateway drains, then stop as `Server.stop` does.

        Without `grace`, players first have `drain_seconds` to go to another gateway. Clients that speak the extension
        get the address of that gateway.
        """
        if self.is_running:
            await self._drain(self.limits.close_timeout if grace is None else grace)
            if grace is None and self.drain_seconds:
                await self.drain(self.drain_seconds, self._other_gateway())
        await super().stop(grace)

    async def _stop_replaced(self) -> None:
        await tasks.gather_all(self.arbiter.stop_serving(), super()._stop_replaced())

    @property
    def trouble(self) -> str:
        """As `ClusterServer.trouble`; also if logins wait for a check of the directory, or a type has no link."""
        if trouble := super().trouble or self.arbiter.trouble:
            return trouble
        lacks = ", ".join(map(str, self._lacks()))
        return f"no link to a server that is up, of type {lacks}" if lacks else ""

    @property
    def stop_seconds(self) -> float:
        return self.drain_seconds + super().stop_seconds

    def _known_types(self) -> set[int]:
        """The server types in the rules, in the routes, and in the routes of the catalog's messages."""
        types_of_messages = {self.routes.table[id] for id in self.catalog.by_id}
        return types_of_messages.union(self.rules, self.routes.types)

    def _lacks(self) -> tuple[int, ...]:
        """The types that routes need and no linked server has. `OnDeath.DROP` says that players do without a type."""
        links = self.cluster.links
        linked = {link.type for link in links if link.info.state is State.UP and links.is_open(link.id)}
        can_do_without = {type for type, rules in self.rules.items() if rules.on_death is OnDeath.DROP}
        return tuple(sorted(self.routes.types.union(self.rules) - can_do_without - linked))

    def _links_changed(self) -> None:
        self.cluster.registry.set_lacks(self._lacks())

    def _other_gateway(self) -> str:
        """Another gateway's address for the same transport, "" without one; the first choice lacks no server."""
        me = self.cluster.me
        scheme = me.outer[0].partition("://")[0] if me.outer else ""
        others = [info for info in self.cluster.registry.of_type(GATEWAY) if info.id != me.id]
        for info in sorted(others, key=lambda info: (bool(info.lacks), info.load.sessions)):
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

    def _check_addresses(self, member: Membership) -> None:
        super()._check_addresses(member)
        fix = "give outer, where clients reach it (--outer or GATELINK_OUTER of `gatelink`)"
        listens = [each.endpoint if isinstance(each, Listen) else each for each in self.clients]
        for address in self.outer or listens:
            check_connectable(address, fix)

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
            self.close_unknown,
        )
        cluster.links.receiver = self.router
        self._started(self._clients).memory_guard.queued = self.router.queued
        cluster.on_change(self.router.registry_changed)
        self.arbiter = ClusterLoginArbiter(cluster.engine, self.id, self.context, self.sessions, cluster.links)
        self.router.gateways = self.arbiter
        cluster.on_change(self.arbiter.registry_changed)
        cluster.on_change(lambda before, now: self._links_changed())
        cluster.links.on_change = self._links_changed
        self.sessions.arbiter = self.arbiter
        self.sessions.proof_keys = tuple(hmac.digest(key.psk, _PROOF, "sha256") for key in self.cluster_keys)
        self.handlers.observer = _SessionObserver(self.router, self.arbiter)
        self._kicks = GatewayKicks(cluster.engine, self.id, self._client_frontend().kicks, self.sessions, cluster.links)
        self.router.kicks = self._kicks
        await super()._prepare()
        await self._kicks.start()
        self._counts = await serve_counts(cluster.engine, self.id, self.context.groups)

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
            lacks=self._lacks(),
            admin=self.admin_address,
            started_at=self.cluster.engine.now(),
        )
        await self.cluster.join(me, self.cluster_handlers)

    def _stood_still(self, seconds: float) -> None:
        """Hold the players' messages until the directory is checked: users may have logged in elsewhere meanwhile."""
        log.error("this gateway stood still: it looks for newer logins of its players", seconds=round(seconds, 1))
        self.cluster.links.excuse_silence()
        self.router.hold_all()
        self.arbiter.check_all(self.router.go_on)

    async def _leave(self) -> None:
        closes = [super()._leave(), self.arbiter.close()]
        if self._kicks is not None:
            closes.append(self._kicks.close())
        if self._counts is not None:
            closes.append(self._counts.close())
        await tasks.gather_all(*closes)
