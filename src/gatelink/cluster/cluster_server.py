"""The common base of a gateway and a service: a server that joins a cluster."""

import asyncio
from typing import Any

from gatelink import tasks
from gatelink.cluster.cluster import Cluster
from gatelink.cluster.cluster_handlers import ClusterHandlers
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import LoadMeter, State
from gatelink.errors import CloseCode, ConfigError
from gatelink.logger import Logger
from gatelink.net.endpoints import check_connectable
from gatelink.server import Listen, Server
from gatelink.session.standstill import Standstill, longest_silence

log = Logger("gatelink.cluster")


class ClusterServer(Server):
    """A server that is a member of a cluster: a `Gateway` or a `Service`.

    member: its membership. `cluster` is there from `start` on. `on_post`, `on_call` and `on_event` register handlers of
    what other servers send. listen, options: as for `Server`.
    """

    _links_end = CloseCode.NORMAL
    is_replaced = False
    """Whether it stopped because a newer server has its id."""

    def __init__(self, *listen: str | Listen, member: Membership | None, **options: Any) -> None:
        super().__init__(*listen, **options)
        self.member = member
        self.clients = listen
        self.cluster: Cluster
        self.cluster_handlers = handlers = ClusterHandlers(self.catalog)
        self._standstill: Standstill | None = None
        self.on_post = handlers.posts.on
        self.on_call = handlers.on_call
        self.on_event = handlers.on_event
        self.on_start(self._prepare)

    @property
    def advertise(self) -> str:
        """How other servers reach it; empty for the address that it listens on."""
        return self.member.advertise if self.member is not None else ""

    async def start(self) -> None:
        """As `Server.start`; then it joins the cluster. Raises EngineUnavailable, too."""
        member = self.member
        if member is None:
            raise ConfigError(
                "a gateway or service is part of a cluster: start all of it with `gatelink up`, or this one with "
                "`gatelink gateway` or `gatelink service`; in a program, give it member=Membership(...)"
            )
        if self._running:
            raise ConfigError("this server is running already")
        self._check_addresses(member)
        self.id = member.id
        self.cluster_keys = tuple(member.keys)
        load = LoadMeter(lambda: len(self.sessions), self._count_messages, self.lag)
        self.cluster = cluster = Cluster(
            member, self.catalog, self._inner_frontend, self._client_frontend, self._replaced, load
        )
        self.listen = (*self.clients, Listen(endpoint=member.inner, inner=True, handlers=cluster.links))
        self.peers = cluster.registry.type_of
        await super().start()

    @property
    def trouble(self) -> str:
        """As `Server.trouble`: the engine, and its entry in the registry."""
        return self.cluster.trouble

    async def _drain(self, seconds: float) -> None:
        """Have the other servers send no more players here."""
        try:
            async with asyncio.timeout(seconds):
                await self.cluster.registry.set_state(State.DRAINING)
        except (EngineUnavailable, TimeoutError):
            pass  # players that still come are refused

    def _check_addresses(self, member: Membership) -> None:
        """Raise ConfigError for an address to which no server could connect."""
        fix = "give advertise, where other servers reach it (--advertise or GATELINK_ADVERTISE of `gatelink`)"
        check_connectable(member.advertise or member.inner, fix)

    async def _prepare(self) -> None:
        """Before anything listens; a subclass sets the user of the links first."""
        await self.cluster.registry.start()
        longest = longest_silence(self.link_limits)
        self._standstill = Standstill(self.context.wheel, longest, self._count_standstill)
        self.context.standstill = self._inner_frontend().context.standstill = self._standstill

    def _count_standstill(self, seconds: float) -> None:
        self.cluster.standstills += 1
        self._stood_still(seconds)

    def _stood_still(self, seconds: float) -> None:
        """The process stood still for so long that other servers may have gone on without it.

        Called before anything more is handled.
        """
        raise NotImplementedError

    def _before_links_close(self) -> None:
        self.cluster.links.before_close()

    async def _leave(self) -> None:
        if self._standstill is not None:
            self._standstill.stop()
        await self.cluster.close()

    def _replaced(self) -> None:
        """Stop without a drain: another process has this one's id, so no other server reads from this one any more."""
        self.is_replaced = True
        self.cluster.links.give_way()
        tasks.keep(self._stop_replaced(), "stop")
        log.error("this server stops: another one has its id", id=self.id)

    async def _stop_replaced(self) -> None:
        await tasks.gather_all(self.cluster.stop_serving(), self.stop(self.limits.close_timeout))

    def _count_messages(self) -> int:
        """The messages since the start, for the load."""
        return sum(route.count for route in self.handlers.routes.values())
