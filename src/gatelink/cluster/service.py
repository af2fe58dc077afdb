"""A service: a server of one type behind the gateways, with the handlers of its messages.

lobby = Service("lobby", type=12)

@lobby.on(Enter)
def enter(session, message):
    session.join(message.room)

`gatelink service MODULE:lobby --config cluster.toml` runs it.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from gatelink import tasks
from gatelink.cluster.cluster import Cluster, LoadMeter, Membership, Talk
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.links import GATEWAY, Link
from gatelink.cluster.players import ENVELOPE_HEAD, Players
from gatelink.cluster.registry import ServerInfo, State
from gatelink.errors import BodyError, CloseCode, ConfigError
from gatelink.handlers import VERIFIED
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.server import Listen, Server
from gatelink.session.control_frames import close_code
from gatelink.session.outbox import Full
from gatelink.version import __version__
from gatelink.wire import envelope
from gatelink.wire.frames import HEADER_SIZE, Frame

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = structlog.get_logger("gatelink.service")
quiet = RateLimitedLogger(log)


class Service(Server):
    """A server whose players come through gateways; it listens for nobody else.

    name, type: the same for all services of one kind. Gateways send it the messages whose id // 1000 is `type` (2 to
    255), unless their routes say otherwise.
    member: its membership in the group; may be set later, but before `start`.

    The rest is as for `Server`: the same decorators, ticks and options. A session is a `Player`. A service with a
    handler of `on_verified` hears of each player at login, others at the player's first message for them.
    """

    _links_end = CloseCode.NORMAL
    is_replaced = False
    """Whether it stopped because a newer server has its id."""

    def __init__(self, name: str, *, type: int, member: Membership | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not GATEWAY < type <= 255:
            raise ConfigError(f"service {name!r} has type {type}; a service has 2 to 255, {GATEWAY} is the gateways'")
        self.name = name
        self.type = type
        self.member = member
        self.talk = talk = Talk(self.catalog)
        self.on_post = talk.posts.on
        self.on_call = talk.on_call
        self.on_event = talk.on_event
        self.cluster: Cluster
        self._players: Players | None = None
        self.malformed = 0
        """Envelopes that were dropped."""
        self.strays = 0
        """Frames of players who were not, or not any more, this service's."""
        self.on_start(self._prepare)

    @property
    def players(self) -> Players:
        """The players of this service. Raises ConfigError before the first `start`."""
        if self._players is None:
            raise ConfigError("this service has not been started, so it has no players; use `players` after `start`")
        return self._players

    @property
    def sessions(self) -> Players:  # type: ignore[override]
        """As `players`, so that code which was written for a `Server` finds them."""
        return self.players

    async def start(self) -> None:
        """Joins the group. Raises ConfigError without a membership; EngineUnavailable."""
        member = self.member
        if member is None:
            raise ConfigError(f"service {self.name} has no membership: run it with `gatelink service`, or give member=")
        if self._running:
            raise ConfigError("this service is running already")
        self.id = member.id
        self.cluster_keys = tuple(member.keys)
        load = LoadMeter(lambda: len(self.players), self._count, self.lag)
        self.cluster = group = Cluster(member, self, self.catalog, self._inner_frontend, self._replaced, load)
        self.listen = (Listen(endpoint=member.inner, inner=True, handlers=group.links),)
        self.peers = group.registry.type_of
        await super().start()

    async def stop(self, grace: float | None = None) -> None:
        """Gives its players to other services of its type, handles what they had sent, and leaves.

        grace: seconds for that, limits.close_timeout if None.
        """
        if self.is_running and self._players is not None:
            grace = self.limits.close_timeout if grace is None else grace
            deadline = self.context.wheel.clock() + grace
            try:
                async with asyncio.timeout(grace):
                    await self.cluster.registry.set_state(State.DRAINING)
                    while len(self._players):
                        self._players.emptied.clear()
                        await self._players.emptied.wait()
            except (EngineUnavailable, TimeoutError):
                pass  # those that are left find out when the links end
            for player in self._players:
                player.left(CloseCode.GOING_AWAY, "the service stops")
            grace = max(0.0, deadline - self.context.wheel.clock())
        await super().stop(grace)

    def broadcast(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on a `Server`, to every player of every gateway, whether this service knows the player or not.

        It crosses the link to each gateway once; `players.broadcast` reaches those that this service knows.
        """
        self.players.broadcast_gateways(self.cluster.links.of_type(GATEWAY), message, key=key, full=full)

    def broadcast_to(self, group: str, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on a `Server`, to the players who joined `group` through any service of this type."""
        links = self.cluster.links.of_type(GATEWAY)
        self.players.broadcast_gateways(links, message, self.players.full_name(group), key=key, full=full)

    @property
    def trouble(self) -> str:
        """As `Server.trouble`: without the engine nobody can log in."""
        return self.cluster.trouble

    def _cluster_metrics(self) -> "Iterable[Metric]":
        from gatelink.ops.cluster_metrics import of_service  # here: a process without an admin port needs it not

        return of_service(self)

    def _type_of_links(self) -> int:
        return self.type

    async def _prepare(self) -> None:
        """Before anything listens."""
        in_a_link = self.link_limits.max_frame + HEADER_SIZE - ENVELOPE_HEAD
        self.context.max_message = min(self.context.max_message, in_a_link)
        self._players = Players(self.context, self.handlers, self.type, self.cluster)
        await self.cluster.registry.start()

    async def _join(self) -> None:
        assert self.member is not None
        me = ServerInfo(
            id=self.id,
            type=self.type,
            name=self.name,
            inner=self.member.advertise or str(self.endpoints[0]),
            wants_login_events=VERIFIED in self.handlers.routes,
            version=__version__,
            admin=self.admin_address,
        )
        await self.cluster.join(me, self.talk)

    async def _leave(self) -> None:
        await self.cluster.close()

    def _replaced(self) -> None:
        self.is_replaced = True
        tasks.keep(self.stop(), "stop")
        log.error("this service stops: another one has its id", id=self.id)

    def _count(self) -> int:
        return sum(route.count for route in self.handlers.routes.values())

    # -- from the links (links.Role) --

    def link_up(self, link: Link) -> None: ...

    def link_resumed(self, link: Link) -> None: ...

    def link_lost(self, link: Link) -> None:
        self.players.lost(link)

    def envelopes(self, link: Link, frames: list[Frame]) -> None:
        """Hands each player what it sent; what they are sent meanwhile leaves with this read's answers."""
        of = self.players.of
        max_frame = self.limits.max_frame
        for id, flags, body in frames:
            try:
                if id == envelope.CLIENT_FRAME:
                    sid, sent = envelope.open_client_frames(body, max_frame)
                    player = of(link, sid)
                    if player is not None:
                        player.receive(sent)
                    else:
                        self.strays += len(sent)
                elif 100 <= id <= 199:
                    self._event(link, envelope.open_event(id, body))
                else:
                    self.talk.posts.dispatch(link.session, [(id, flags, body)])
            except BodyError as error:
                self.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))
                player = of(link, int.from_bytes(body[:8], "little")) if id == envelope.CLIENT_FRAME else None
                if player is not None:
                    player.broken(error)  # something of its is missing now
        link.pack()

    def _event(self, link: Link, event: msgspec.Struct) -> None:
        players = self.players
        match event:
            case envelope.SessionOpened():
                players.opened(link, event)
            case envelope.SessionClosed(sid=sid, code=code):
                player = players.of(link, sid)
                if player is not None:
                    player.left(close_code(code))
            case envelope.Run(instance=instance):
                self.cluster.links.is_run(link, instance)
            case envelope.LinkReady():
                pass
            case _:
                raise BodyError(f"a {event.__class__.__name__} to a service")
