"""A service: a server of one type behind the gateways, with the handlers of its messages.

lobby = Service("lobby", type=12)

@lobby.on(Enter)
def enter(session, message):
    session.join(message.room)

`gatelink service MODULE:lobby --config cluster.toml` runs it.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from gatelink.cluster.cluster_server import ClusterServer
from gatelink.cluster.kicks import ask_a_gateway, relay
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.membership import Membership
from gatelink.cluster.players import Players
from gatelink.cluster.registry import ServerInfo
from gatelink.errors import CloseCode, ConfigError
from gatelink.handlers import RESUMED, SUSPENDED, VERIFIED
from gatelink.logger import Logger
from gatelink.session.outbox import Full
from gatelink.version import __version__
from gatelink.wire.frames import HEADER_SIZE

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = Logger("gatelink.cluster")

ENVELOPE_HEAD = 1_100
"""Bytes that an envelope to a gateway is longer than its message, at most: a group's name has 255 characters."""


class Service(ClusterServer):
    """A server that gets its players from gateways and listens only for servers.

    name, type: the same for all services of one kind. Gateways send it the messages whose id // 1000 is `type` (2 to
    255), unless their routes say otherwise.
    member: its membership in the cluster; may be set later, but before `start`.

    The rest is as for `Server`: the same decorators, ticks and options. A session is a `Player`. A service with a
    handler of `on_verified` gets each player at login, others with the player's first message for them.
    """

    def __init__(self, name: str, *, type: int, member: Membership | None = None, **options: Any) -> None:
        super().__init__(member=member, **options)
        if not GATEWAY < type <= 255:
            raise ConfigError(f"service {name!r} has type {type}; a service has 2 to 255, {GATEWAY} is the gateways'")
        self.name = name
        self.type = type
        self._players: Players | None = None

    @property
    def players(self) -> Players:
        """The players of this service. Raises ConfigError before the first `start`."""
        if self._players is None:
            raise ConfigError("this service has not been started; use `players` and `sessions` after `start`")
        return self._players

    @property
    def sessions(self) -> Players:  # type: ignore[override]
        """As `players`, for code that was written for a `Server`."""
        return self.players

    async def stop(self, grace: float | None = None) -> None:
        """Give its players to other services of its type, handle what they had sent, and leave.

        grace: seconds for that, limits.close_timeout if None.
        """
        if self.is_running and self._players is not None:
            clock = self.context.wheel.clock
            deadline = clock() + (self.limits.close_timeout if grace is None else grace)
            await self._drain(deadline - clock())
            try:
                async with asyncio.timeout(deadline - clock()):
                    await self._players.wait_empty()
            except TimeoutError:
                pass  # the gateways give the rest away when the links close
            self._players.close(CloseCode.GOING_AWAY, "the service stops")
            grace = max(0.0, deadline - clock())
        await super().stop(grace)

    def broadcast(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on a `Server`, to every player of every gateway, whether this service has the player or not.

        It crosses the link to each gateway once; `players.broadcast` reaches the players of this service.
        """
        self.players.broadcast_gateways(self.cluster.links.of_type(GATEWAY), message, key=key, full=full)

    def broadcast_to(self, group: str, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on a `Server`, to the players that joined `group` through any service of this type."""
        links = self.cluster.links.of_type(GATEWAY)
        self.players.broadcast_gateways(links, message, self.players.full_name(group), key=key, full=full)

    def _cluster_metrics(self) -> "Iterable[Metric]":
        from gatelink.cluster.metrics import of_service  # keeps prometheus out of processes without an admin port

        return of_service(self.players, self.cluster, self.cluster_handlers)

    def _type_of_links(self) -> int:
        return self.type

    async def _prepare(self) -> None:
        in_a_link = self.link_limits.max_frame + HEADER_SIZE - ENVELOPE_HEAD
        self.context.max_message = min(self.context.max_message, in_a_link)
        cluster, posts = self.cluster, self.cluster_handlers.posts
        self._players = cluster.links.receiver = Players(self.context, self.handlers, posts, self.type, cluster)
        kicks = self._client_frontend().kicks
        kicks.announce = partial(ask_a_gateway, cluster.engine)
        kicks.relay = partial(relay, cluster.engine, cluster.links)
        await super()._prepare()

    def _stood_still(self, seconds: float) -> None:
        """The gateways may have given the players to other services: this one acts for none of them any more."""
        log.error("this process stood still: its links and players are given up", seconds=round(seconds, 1))
        self.cluster.links.drop(f"this server stood still for {seconds:.0f} s")
        self.players.note_losses()
        self.players.drop(CloseCode.GOING_AWAY, f"the service stood still for {seconds:.0f} s")

    def _replaced(self) -> None:
        self.players.drop(CloseCode.REPLACED, "another process has the id of this service")
        super()._replaced()

    async def _join(self) -> None:
        me = ServerInfo(
            id=self.id,
            type=self.type,
            name=self.name,
            inner=self.advertise or str(self.endpoints[0]),
            wants_login_events=VERIFIED in self.handlers.routes,
            wants_presence=not {SUSPENDED, RESUMED}.isdisjoint(self.handlers.routes),
            version=__version__,
            admin=self.admin_address,
            started_at=self.cluster.engine.now(),
        )
        await self.cluster.join(me, self.cluster_handlers)
