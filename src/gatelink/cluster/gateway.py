"""A gateway: a `Server` that sends on what it does not handle itself, and holds the players for the services.

gateway = Gateway("tcp://0.0.0.0:7000", tokens=EngineTokens(engine), member=Membership(engine=..., keys=..., id=1))
gateway.run()
"""

import asyncio
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from gatelink import tasks
from gatelink.cluster.cluster import Cluster, LoadMeter, Membership, Talk, gather_all, stopped
from gatelink.cluster.directory import Directory
from gatelink.cluster.engine import EngineError, EngineUnavailable, Subscription
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.player_router import PlayerRouter
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.renewals import Renewals
from gatelink.cluster.routes import Routes
from gatelink.cluster.rules import Rules
from gatelink.errors import CloseCode, ConfigError
from gatelink.server import Listen, Server
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME, Duplicate
from gatelink.session.session import Session
from gatelink.version import __version__
from gatelink.wire.envelope import CLIENT_HEAD

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = structlog.get_logger("gatelink.gateway")

REPLACE_SECONDS = 1.0
"""How long a login waits for the gateway that held the player before; it may be dead."""

MAX_BACKLOG = 65_536
"""Bytes of a base session's backlog that one gateway gives another."""


class Replace(msgspec.Struct, frozen=True, array_like=True):
    """Asked of the gateway that held a player: end what is older than `epoch`, and give back what waits for it."""

    uid: int
    slot: int
    epoch: int
    proofs: tuple[bytes, ...] = ()  # of the token that was shown; none from an older version


_PROOF = b"gatelink token proof"
"""What makes the key of token proofs from the group's key."""

_encode = msgspec.msgpack.Encoder().encode
_decode_replace = msgspec.msgpack.Decoder(Replace).decode
_decode_backlog = msgspec.msgpack.Decoder(list[bytes] | None).decode


class _Arrivals:
    """Gives each new session its route, and has its directory entry renewed (handlers.Observer)."""

    def __init__(self, router: PlayerRouter, renewals: Renewals) -> None:
        self._router = router
        self._renewals = renewals

    def opened(self, session: Session) -> None:
        self._router.opened(session)
        if session.close_code is None:
            self._renewals.add(session.uid, session.slot, session.epoch)

    def closed(self, session: Session) -> None:
        self._router.closed(session)


class Gateway(Server):
    """A `Server` in front of a group.

    A message that has a handler here is handled here; any other goes, as it came, to the server that it belongs to.

    member: its membership in the group. routes: which type of server a message belongs to.
    rules: by server type, how a server is picked for a player, and what happens when that server dies.
    outer: how clients reach it, if not under the addresses it listens on. name: in the registry and in logs.
    drain_seconds: how long players have to go to another gateway when this one stops.
    The rest is as for `Server`.
    """

    _links_end = CloseCode.NORMAL
    is_replaced = False
    """Whether it stopped because a newer server has its id."""

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
            raise ConfigError("duplicate=REFUSE_NEW: in a group the newer login wins; leave it out for a Gateway")
        super().__init__(*listen, id=member.id, cluster_key=member.keys, **options)
        in_one_read = self.limits.max_frame + self.limits.turn_bytes
        if in_one_read > (most := self.link_limits.max_frame - CLIENT_HEAD):
            raise ConfigError(
                f"limits.max_frame and turn_bytes make {in_one_read}, which one envelope to a service must hold; a "
                f"link takes {most} (link_limits.max_frame {self.link_limits.max_frame}, less the envelope's head)"
            )
        self.clients = listen
        self.member = member
        self.routes = routes or Routes()
        self.rules = dict(rules or {})
        self.outer = tuple(outer)
        self.name = name
        self.drain_seconds = drain_seconds
        self.talk = talk = Talk(self.catalog)
        self.on_post = talk.posts.on
        self.on_call = talk.on_call
        self.on_event = talk.on_event
        self.cluster: Cluster
        self.router: PlayerRouter
        self.directory: Directory
        self.renewals: Renewals
        self._renewing: asyncio.Task[None] | None = None
        self._serving: Subscription | None = None
        self.on_start(self._prepare)

    async def start(self) -> None:
        """As `Server.start`; then it joins the group. Raises EngineUnavailable, too."""
        if self._running:
            raise ConfigError("this gateway is running already")
        member = self.member
        self.directory = Directory(member.engine, member.id)
        self.renewals = Renewals(self.directory.renew, self._renewal_found_newer, self.directory.ttl)
        self.router = router = PlayerRouter(
            self, self.routes.table, self.rules, self._known_types(), self.handlers.routes
        )
        load = LoadMeter(lambda: len(self.sessions), lambda: router.stats.forwarded, self.lag)
        self.cluster = group = Cluster(member, router, self.catalog, self._inner_frontend, self._replaced, load)
        self.router.links = group.links
        group.on_change(self.router.registry_changed)
        self.handlers.observer = _Arrivals(router, self.renewals)
        self.listen = (*self.clients, Listen(endpoint=member.inner, inner=True, handlers=group.links))
        self.peers = group.registry.type_of
        await super().start()

    async def stop(self, grace: float | None = None) -> None:
        """As `Server.stop`; the group hears first that nobody is to be sent here any more.

        Without a grace, players have `drain_seconds` to go elsewhere; who speaks the extension is told where.
        """
        if self.is_running:
            try:
                async with asyncio.timeout(self.limits.close_timeout if grace is None else grace):
                    await self.cluster.registry.set_state(State.DRAINING)
            except (EngineUnavailable, TimeoutError):
                pass  # who comes now is refused
            if grace is None and self.drain_seconds:
                await self.drain(self.drain_seconds, self._elsewhere())
        await super().stop(grace)

    @property
    def stop_seconds(self) -> float:
        return self.drain_seconds + super().stop_seconds

    def _known_types(self) -> set[int]:
        """The server types that this gateway was told of: by its rules, its routes, or messages of its catalog."""
        return {*self.rules, *self.routes.types, *(self.routes.table[id] for id in self.catalog.by_id)}

    def _elsewhere(self) -> str:
        """Where players should go: a gateway that is up, over the same transport; empty if there is none."""
        scheme = self.cluster.me.outer[0].partition("://")[0] if self.cluster.me.outer else ""
        others = [info for info in self.cluster.registry.of_type(GATEWAY) if info.id != self.member.id]
        for info in sorted(others, key=lambda info: info.load.sessions):
            for address in info.outer:
                if address.partition("://")[0] == scheme:
                    return address
        return ""

    @property
    def trouble(self) -> str:
        """As `Server.trouble`: without the engine nobody can log in."""
        return self.cluster.trouble

    def _cluster_metrics(self) -> "Iterable[Metric]":
        from gatelink.ops.cluster_metrics import of_gateway  # here: a process without an admin port needs it not

        return of_gateway(self)

    def _type_of_links(self) -> int:
        return GATEWAY

    async def _prepare(self) -> None:
        """Before anything listens."""
        self.sessions.arbiter = self
        self.sessions.proof_keys = tuple(hmac.digest(key.psk, _PROOF, "sha256") for key in self.member.keys)
        await self.cluster.registry.start()

    async def _join(self) -> None:
        member = self.member
        self._serving = await member.engine.serve(f"gateway.{member.id}.replace", self._replace)
        me = ServerInfo(
            id=member.id,
            type=GATEWAY,
            name=self.name,
            inner=member.advertise or str(self.endpoints[-1]),
            outer=self.outer or tuple(map(str, self.endpoints[:-1])),
            public_key=self.public_key.hex() if self.public_key is not None else "",
            version=__version__,
            admin=self.admin_address,
        )
        await self.cluster.join(me, self.talk)
        member.engine.when_back.add(self.renewals.all_are_due)
        self._renewing = tasks.live(self.renewals.run, "directory renewal")

    async def _leave(self) -> None:
        self.member.engine.when_back.discard(self.renewals.all_are_due)
        served = [self._serving.close()] if self._serving is not None else []
        await gather_all(stopped(self._renewing), self.cluster.close(), self.directory.close(), *served)

    def _replaced(self) -> None:
        self.is_replaced = True
        tasks.keep(self.stop(), "stop")
        log.error("this gateway stops: another one has its id", id=self.member.id)

    # -- one login for all gateways (session.interfaces.LoginArbiter) --

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        """Makes a login the newest in the group: its epoch, and what waited for the user at another gateway.

        Raises EngineUnavailable.
        """
        epoch, before = await self.directory.claim(uid, slot)
        backlog = None
        if before is not None and before.gateway != self.member.id:
            request = _encode(Replace(uid, slot, epoch, proofs))
            try:
                answer = await self.member.engine.request(f"gateway.{before.gateway}.replace", request, REPLACE_SECONDS)
                backlog = _decode_backlog(answer)
            except EngineError as error:  # that gateway is gone; nothing late from it can reach a newer epoch
                log.info("the older login was not reached", uid=uid, gateway=before.gateway, error=str(error))
        return epoch, backlog

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        self.renewals.discard(uid, slot, epoch)
        self.directory.ended(uid, slot, epoch, keep)

    async def _replace(self, data: bytes) -> bytes:
        request = _decode_replace(data)
        frames = self.sessions.supersede(request.uid, request.slot, request.epoch, MAX_BACKLOG, request.proofs)
        return _encode(frames)

    def _renewal_found_newer(self, uid: int, slot: int, epoch: int) -> None:
        """The directory has a newer login of a session here, whose gateway did not reach us."""
        session = self.sessions.get(uid, slot)
        if session is not None and session.epoch == epoch:
            session.close(CloseCode.REPLACED, "a newer login", farewell=self.context.in_form(DUPLICATE_LOGIN_FRAME))
