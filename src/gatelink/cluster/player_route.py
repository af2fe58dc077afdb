"""A gateway's routes: to which servers each player's frames go, and how the servers' messages reach the players.

Frames are not decoded. A player's first frame for a type of server binds the player to one server of that type. That
server gets SessionOpened, then the player's frames, packed into envelopes and queued on the server's link.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from hashlib import blake2b
from itertools import groupby
from typing import Any

import msgspec

from gatelink.cluster.links import Link, Links
from gatelink.cluster.players import POLICIES
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.routes import OnDeath, Pick, Rules
from gatelink.errors import BodyError, CloseCode, LocalError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.logger import Logger
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.control_frames import close_code
from gatelink.session.groups import Member
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState, step
from gatelink.session.stream import Pause
from gatelink.session.timers import Item
from gatelink.wire import envelope
from gatelink.wire.envelope import MOVED, NEW, RETURNED, SERVER_DIED, Encoded, client_frames
from gatelink.wire.frames import Frame

log = Logger("gatelink.gateway")
quiet = RateLimitedLogger(log)

MAX_CLAIMS = 0xFFFF
"""Bytes of a player's claims as JSON."""

_DEFAULT_RULES = Rules()


class RouteState(Enum):
    """The state of one player's route to the servers of one type."""

    UNBOUND = auto()
    """The player has no server of the type. Its next frame binds it to one."""
    BOUND = auto()
    """The player's frames go to one server."""
    WAITING = auto()
    """No server of the type is there. The player gets the next one that comes, or none after `hold_seconds`."""
    PINNED = auto()
    """The player waits for one particular server: `bind` named it, or it died under the rule `hold`."""


class RouteEvent(Enum):
    BIND = auto()
    """A server gets the player."""
    UNBIND = auto()
    """The server loses the player: it died or drains, the player left, or `bind` names another server."""
    WAIT = auto()
    """No server of the type is there."""
    PIN = auto()
    """The particular server that the player must get is not there."""
    UNPIN = auto()
    """The player no longer waits for a particular server: any server of the type will do."""
    STOP = auto()
    """The wait is over: no server came in time, or the player left."""


_S, _E = RouteState, RouteEvent

ROUTE = {
    (_S.UNBOUND, _E.BIND): _S.BOUND,
    (_S.UNBOUND, _E.WAIT): _S.WAITING,
    (_S.UNBOUND, _E.PIN): _S.PINNED,
    (_S.BOUND, _E.UNBIND): _S.UNBOUND,
    (_S.WAITING, _E.BIND): _S.BOUND,
    (_S.WAITING, _E.PIN): _S.PINNED,
    (_S.WAITING, _E.STOP): _S.UNBOUND,
    (_S.PINNED, _E.BIND): _S.BOUND,
    (_S.PINNED, _E.PIN): _S.PINNED,
    (_S.PINNED, _E.UNPIN): _S.WAITING,
    (_S.PINNED, _E.STOP): _S.UNBOUND,
}


class TypeRoute:
    """One player's route to the servers of one type.

    state: a state of the table ROUTE. link: to the player's server, while BOUND.
    pinned: the id of the server to wait for, while PINNED. 0: any server.
    held: envelopes that wait for a server, while WAITING or PINNED. Reading from the player is paused while there are
    any.
    arrival: why the player will come to its next server, for its SessionOpened.
    lost: frames that no server got since the last SessionOpened.
    is_crowded: the link's queue is too long. is_lagging: the server's handlers lag behind this player's messages.
    """

    __slots__ = (
        "_player",
        "_router",
        "_timer",
        "arrival",
        "held",
        "is_crowded",
        "is_lagging",
        "link",
        "lost",
        "pinned",
        "state",
        "type",
    )

    def __init__(self, player: "PlayerRoute", router: "PlayerRouter", type: int) -> None:
        self._player = player
        self._router = router
        self._timer: Item | None = None
        self.type = type
        self.state = RouteState.UNBOUND
        self.link: Link | None = None
        self.pinned = 0
        self.held: list[Encoded] = []
        self.arrival: int = NEW
        self.lost = 0
        self.is_crowded = False
        self.is_lagging = False

    @property
    def player(self) -> "PlayerRoute":
        """The player whose route this is."""
        return self._player

    @property
    def is_waiting(self) -> bool:
        """Whether the player waits for a server of the type."""
        return self.state is RouteState.WAITING or self.state is RouteState.PINNED

    def _step(self, event: RouteEvent) -> None:
        self.state = step(ROUTE, self.state, event)

    # -- frames --

    def forward(self, envelope: Encoded) -> None:
        """Queue an envelope of the player's frames: on the link of its server, or here until there is a server."""
        if self.link is None and not self.is_waiting:
            self.bind(SERVER_DIED if self.lost else NEW)
        if self.link is not None:
            self.send(self.link, envelope)
        elif self._router.rules_of(self.type).on_death is OnDeath.DROP:
            self._router.lose(self.type, [envelope])
        else:
            self.wait(SERVER_DIED if self.lost else NEW, [envelope])

    def send(self, link: Link, envelope: Encoded) -> None:
        """Queue an envelope on the link. If the link's queue is then too long, pause reading from the player."""
        try:
            if link.push(envelope) and not self.is_crowded:
                self.is_crowded = True
                self._player.session.pause(Pause.LINK)
                self._router.crowd(link, self)
        except (OutboxFull, SessionClosed):
            self._router.lose(self.type, [envelope])

    # -- to a server and away from it --

    def bind(self, arrival: int) -> bool:
        """Bind the player to a server of the type and send the held envelopes; False if there is no server."""
        link = self._router.pick(self)
        if link is None:
            return False
        held = self._end_wait() if self.is_waiting else []
        self._step(RouteEvent.BIND)
        self.link = link
        self.pinned = 0
        self._router.bound.setdefault(link, set()).add(self)
        self._router.fresh[link.id] += 1
        link.send_event(self._opening(arrival))
        for each in held:
            self.send(link, each)
        self._player.read_on()
        return True

    def _opening(self, arrival: int) -> envelope.SessionOpened:
        session = self._player.session
        lost, self.lost = min(self.lost, 0xFFFFFFFF), 0
        if session.returned:
            arrival |= RETURNED
        return envelope.SessionOpened(
            self._player.sid, session.uid, session.slot, session.epoch, session.address, arrival, lost,
            self._player.claims,
        )  # fmt: skip

    def unbind(self, link: Link, code: CloseCode) -> None:
        """Take the player from its server, which gets SessionClosed.

        The player stays in its groups: they belong to all servers of the type.
        """
        self._router.bound[link].discard(self)
        link.send_event(envelope.SessionClosed(self._player.sid, code))
        self.forget_link(link)

    def forget_link(self, link: Link) -> None:
        """Take the player from a server that may be dead, and so is sent nothing."""
        self._step(RouteEvent.UNBIND)
        self.link = None
        if self.is_crowded:
            self.is_crowded = False
            self._router.crowded[link].discard(self)
        self.is_lagging = False
        self._player.read_on()

    def bind_to(self, server: int) -> None:
        """Obey a Bind: move the player to that server, or let it wait for it. Server 0 lets the gateway choose."""
        before = self.link
        if before is not None:
            if before.id == server:
                return
            self.unbind(before, CloseCode.NORMAL)
        if self.is_waiting:
            if server:
                self._step(RouteEvent.PIN)
            elif self.state is RouteState.PINNED:
                self._step(RouteEvent.UNPIN)
            self.pinned = server
            self.bind(self.arrival)
        elif server:
            self.pinned = server
            self.bind_or_wait(MOVED if before is not None else NEW)

    def rebind(self, link: Link, code: CloseCode) -> None:
        """Move the player to another server of the type, or let it wait for one."""
        self.unbind(link, code)
        self._router.stats.rebinds += 1
        self.bind_or_wait(MOVED)

    def server_died(self, link: Link, unsent: list[Encoded]) -> None:
        """The player's server died: apply the rules of the type. unsent: the player's envelopes that were not sent."""
        self.forget_link(link)
        rule = self._router.rules_of(self.type).on_death
        if rule is OnDeath.CLOSE:
            self._router.lose(self.type, unsent)
            self._player.session.close(CloseCode.GOING_AWAY, "the server behind it is gone")
            return
        self._router.stats.rebinds += 1
        if rule is OnDeath.HOLD:
            self.pinned = link.id
        self.bind_or_wait(SERVER_DIED, unsent)

    # -- while there is no server --

    def bind_or_wait(self, arrival: int, envelopes: Sequence[Encoded] = ()) -> None:
        """Bind the player and send `envelopes`. Without a server hold them, or lose them if the rule is to drop."""
        if self.bind(arrival):
            for each in envelopes:
                self.forward(each)
        elif self._router.rules_of(self.type).on_death is OnDeath.DROP:
            self.pinned = 0
            self._router.lose(self.type, envelopes)
        else:
            self.wait(arrival, envelopes)

    def wait(self, arrival: int, envelopes: Sequence[Encoded]) -> None:
        """Hold `envelopes` until a server comes, at most until the type's `hold_seconds` after the wait began."""
        if not self.is_waiting:
            self._step(RouteEvent.PIN if self.pinned else RouteEvent.WAIT)
            self.arrival = arrival
            seconds = self._router.rules_of(self.type).hold_seconds
            self._timer = self._router.context.wheel.call(seconds, self._no_server_came)
            self._router.waiting.setdefault(self.type, set()).add(self)
            self._router.stats.held += 1
        if envelopes:
            self.held += envelopes
            self._player.session.pause(Pause.LINK)

    def _end_wait(self) -> list[Encoded]:
        """Stop the timer; return the held envelopes, which the caller must send or count as lost."""
        if self._timer is not None:
            self._router.context.wheel.cancel(self._timer)
            self._timer = None
        waiting = self._router.waiting[self.type]
        waiting.discard(self)
        if not waiting:
            del self._router.waiting[self.type]
        held, self.held = self.held, []
        return held

    def _no_server_came(self) -> None:
        """`hold_seconds` are over: any server of the type will do. Without one the held envelopes are lost."""
        uid = self._player.session.uid
        if self.state is RouteState.PINNED:
            self._router.stats.missed_binds += 1
            quiet.error(
                "the server that a player waits for did not come: another gets it",
                uid=uid,
                type=self.type,
                server=self.pinned,
            )
            self._step(RouteEvent.UNPIN)
            self.pinned = 0
        if not self.bind(self.arrival):
            if self.held:
                quiet.error("no server came for a player's messages: they are lost", type=self.type, uid=uid)
            self._stop_waiting()
            self._player.read_on()

    def _stop_waiting(self) -> None:
        held = self._end_wait()
        self._step(RouteEvent.STOP)
        self.pinned = 0
        self._router.lose(self.type, held)

    def close(self, code: CloseCode) -> None:
        """The player left: send its server SessionClosed; the held envelopes are lost."""
        if self.link is not None:
            self.unbind(self.link, code)
        elif self.is_waiting:
            self._stop_waiting()


class PlayerRoute:
    """One player at a gateway, and its routes by server type (session.interfaces.Forwarder).

    sid: the session's number between the gateway and its services. claims: JSON, for SessionOpened.
    """

    __slots__ = ("_router", "claims", "routes", "session", "sid")

    def __init__(self, session: Session, router: "PlayerRouter", claims: str) -> None:
        self._router = router
        self.session = session
        self.claims = claims
        self.sid = session.epoch
        self.routes: dict[int, TypeRoute] = {}

    def forward(self, frames: list[Frame]) -> bool:
        """Send frames to their servers. Consecutive frames for one type of server share an envelope.

        Returns False, and sends nothing, if one of the frames has a handler here or no type of server.
        """
        router = self._router
        table = router.table
        handled_here = router.handled_here
        type = table[frames[0][0]]
        is_mixed = False
        for id, _, _ in frames:
            to = table[id]
            if not to or id in handled_here:
                return False
            if to != type:
                is_mixed = True
        if not is_mixed:
            self._send(type, frames)
        else:
            for type, run in groupby(frames, key=lambda frame: table[frame[0]]):
                self._send(type, list(run))
        router.stats.forwarded += len(frames)
        return True

    def _send(self, type: int, frames: list[Frame]) -> None:
        route = self.routes.get(type)
        if route is not None and route.link is not None:
            route.send(route.link, client_frames(self.sid, frames))
        elif type in self._router.known:
            self.to(type).forward(client_frames(self.sid, frames))
        else:  # no server of the type was ever registered, so do not wait for one
            self._router.context.stats.unhandled += len(frames)
            quiet.info("messages are dropped: no server of their type was registered", type=type, uid=self.session.uid)

    def to(self, type: int) -> TypeRoute:
        """The route to the servers of a type."""
        route = self.routes.get(type)
        if route is None:
            route = self.routes[type] = TypeRoute(self, self._router, type)
        return route

    def greet(self, type: int) -> None:
        """Bind the player to a server of a type that wants login events, unless it has one or waits for one."""
        route = self.to(type)
        if route.state is RouteState.UNBOUND:
            route.bind(SERVER_DIED if route.lost else NEW)

    def read_on(self) -> None:
        """Resume reading from the player, for each reason that no route has any more."""
        routes = self.routes.values()
        if self.session.close_code is not None:
            return  # a closed session reads no more
        if not any(route.held or route.is_crowded for route in routes):
            self.session.resume(Pause.LINK)
        if not any(route.is_lagging for route in routes):
            self.session.resume(Pause.HANDLERS)

    def lags(self, link: Link, on: bool) -> None:
        """Pause or resume reading, as the server's handlers lag or not. Ignored if the player has left that server."""
        route = self.routes.get(link.type)
        if route is None or route.link is not link:
            return
        route.is_lagging = on
        if on:
            self.session.pause(Pause.HANDLERS)
        else:
            self.read_on()

    def close(self, code: CloseCode) -> None:
        """The player left: see `TypeRoute.close`."""
        for route in self.routes.values():
            route.close(code)


class ForwardStats:
    """What one gateway has counted since its start."""

    def __init__(self) -> None:
        self.forwarded = 0  # frames from players to servers
        self.pushed = 0  # frames from servers to players
        self.lost: Counter[int] = Counter()  # frames that no server got, by server type
        self.misdirected = 0  # deliveries and events for sessions that are not here any more
        self.malformed = 0  # envelopes that were dropped
        self.rebinds = 0  # players whose server died or drains
        self.missed_binds = 0  # players that waited for a particular server in vain
        self.held = 0  # times that a player waited because there was no server


class PlayerRouter:
    """All routes of one gateway, and the user of its links (links.LinkUser).

    context: that of the client sessions. posts: handles messages between servers.
    max_frame: bytes of the largest frame that a server may send to a player.
    table: the server type of each message id, 0 for none. rules: by server type.
    known: the server types to wait for. Types in the registry are added; messages for any other type are dropped.
    handled_here: ids of the messages that have a handler in the gateway.

    players: by sid. bound: routes by link. waiting: routes by server type. crowded: routes by the link whose queue is
    too long. fresh: by server id, the number of players bound since the server's last keepalive.
    """

    def __init__(
        self,
        context: LoopContext,
        links: Links,
        posts: Handlers,
        max_frame: int,
        table: bytes,
        rules: Mapping[int, Rules],
        known: Iterable[int] = (),
        handled_here: Container[int] = (),
    ) -> None:
        self.context = context
        self.stats = ForwardStats()
        self.table = table
        self.known = set(known)
        self.handled_here = handled_here
        self.players: dict[int, PlayerRoute] = {}
        self.bound: dict[Link, set[TypeRoute]] = {}
        self.waiting: dict[int, set[TypeRoute]] = {}
        self.crowded: dict[Link, set[TypeRoute]] = {}
        self.fresh: Counter[int] = Counter()
        self._links = links
        self._posts = posts
        self._max_frame = max_frame
        self._rules = rules

    def __iter__(self) -> Iterator[PlayerRoute]:
        """The players of this moment."""
        return iter(list(self.players.values()))

    # -- for routes --

    def rules_of(self, type: int) -> Rules:
        """The rules of a type of server."""
        return self._rules.get(type, _DEFAULT_RULES)

    def pick(self, route: TypeRoute) -> Link | None:
        """The link to the server that a player is to get; None if there is none now."""
        if route.pinned:
            found = self._links.get(route.pinned)
            return found if found is not None and found.type == route.type else None
        up = [
            link
            for link in self._links.of_type(route.type)
            if link.info.state is State.UP and link.session.state is SessionState.OPEN
        ]
        return pick(up, self.rules_of(route.type).pick, route.player.session.uid, self.fresh.__getitem__)

    def crowd(self, link: Link, route: TypeRoute) -> None:
        """Remember to resume reading from the player when the link has room."""
        crowd = self.crowded.get(link)
        if crowd is None:
            crowd = self.crowded[link] = set()
            link.when_relieved(lambda: self._relieved(link))
        crowd.add(route)

    def _relieved(self, link: Link) -> None:
        for route in self.crowded.pop(link):
            route.is_crowded = False
            route.player.read_on()

    def lose(self, type: int, envelopes: Iterable[Encoded]) -> None:
        """Count the frames in `envelopes` as lost; the player's next server of the type is told how many."""
        for sid, frames in map(envelope.sid_and_count, envelopes):
            if frames:
                self.stats.lost[type] += frames
                player = self.players.get(sid)
                if player is not None:  # else the player left
                    player.to(type).lost += frames

    # -- players (handlers.Observer calls these) --

    def opened(self, session: Session) -> None:
        """Give a new session its routes, and bind it at once to servers that want login events."""
        try:
            claims = claims_text(session.claims)
        except (TypeError, LocalError) as error:
            quiet.error("a player is closed: no service can be told its claims", uid=session.uid, error=str(error))
            session.close(CloseCode.INTERNAL_ERROR)
            return
        session.forwarder = player = PlayerRoute(session, self, claims)
        self.players[player.sid] = player
        for type in {link.type for link in self._links if link.info.wants_login_events}:
            player.greet(type)

    def closed(self, session: Session) -> None:
        """Remove the routes of a session, after its last frame was handled."""
        session.forwarder = None
        player = self.players.pop(session.epoch, None)
        if player is not None:
            player.close(session.close_code or CloseCode.NORMAL)

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Move the players of a server that begins to drain. Every change brings its new load, so restart `fresh`."""
        for info in (before, now):
            if info is not None:
                self.fresh.pop(info.id, None)
                self.known.add(info.type)
        if now is None or now.state is not State.DRAINING or (before is not None and before.state is not State.UP):
            return
        link = self._links.get(now.id)
        if link is not None:
            routes = list(self.bound.get(link, ()))
            log.info("rebinding the players of a server that drains", server=now.id, players=len(routes))
            for route in routes:
                route.rebind(link, CloseCode.GOING_AWAY)

    # -- from links (links.LinkUser) --

    def link_opened(self, link: Link) -> None:
        self.bound.setdefault(link, set())
        self.link_attached(link)
        link.send_event(envelope.LinkReady())

    def link_attached(self, link: Link) -> None:
        """Bind the players that wait for a server of the type, and if it wants login events, all that have none."""
        for route in list(self.waiting.get(link.type, ())):
            route.bind(route.arrival)
        if link.info.wants_login_events:
            for player in self:
                player.greet(link.type)

    def link_closed(self, link: Link) -> None:
        """A server died. Envelopes that were only queued go to each player's next server.

        Envelopes that it was sent and did not acknowledge count as lost: it may have handled them.
        """
        unsent: dict[int, list[Encoded]] = {}  # by sid
        for frame in link.session.outbox.drain():
            unsent.setdefault(envelope.sid_and_count(frame)[0], []).append(frame)
        self.lose(link.type, link.session.outbox.frames())
        for route in self.bound.pop(link, set()):
            route.server_died(link, unsent.pop(route.player.sid, []))
        for envelopes in unsent.values():  # of players that had left, or had another server by then
            self.lose(link.type, envelopes)

    def envelopes(self, link: Link, frames: list[Frame]) -> None:
        for id, flags, body in frames:
            try:
                if id == envelope.PUSH_FRAME:
                    self._push(body)
                elif id == envelope.BROADCAST_FRAME:
                    self._broadcast(body)
                elif 100 <= id <= 199:
                    self._event(link, envelope.open_event(id, body))
                else:
                    self._posts.dispatch(link.session, [(id, flags, body)])
            except BodyError as error:
                self.stats.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))

    def _push(self, body: bytes) -> None:
        sids, policy, key, frames = envelope.open_push_frames(body, self._max_frame)
        if len(body) > self.context.max_message:
            frames = self._that_fit(frames)
        for sid in sids:
            player = self.players.get(sid)
            if player is None:
                self.stats.misdirected += 1
            else:
                self._deliver(player.session, frames, policy, key)

    def _broadcast(self, body: bytes) -> None:
        group, policy, key, frames = envelope.open_broadcast_frames(body, self._max_frame)
        if len(body) > self.context.max_message:
            frames = self._that_fit(frames)
        if group:
            for member in self.context.groups.members(group):
                self._deliver(member, frames, policy, key)
        else:
            for player in self:
                self._deliver(player.session, frames, policy, key)

    def _that_fit(self, frames: list[Encoded]) -> list[Encoded]:
        """`frames` without those over this gateway's limit. A service with a larger max_outbox_bytes may send them."""
        most = self.context.max_message
        fit = [frame for frame in frames if len(frame) <= most]
        if len(fit) < len(frames):
            self.stats.malformed += len(frames) - len(fit)
            quiet.error("a service's message is too large", bytes=max(map(len, frames)), most=most)
        return fit

    def _deliver(self, member: Member, frames: list[Encoded], policy: int, key: int) -> None:
        try:
            if policy or key:
                for frame in frames:
                    member.send_frame(frame, key, POLICIES[policy])
            else:
                member.send_frames(frames)
            self.stats.pushed += len(frames)
        except SessionClosed:
            self.stats.misdirected += 1

    def _event(self, link: Link, event: msgspec.Struct) -> None:
        match event:
            case envelope.Run(instance=instance):
                self._links.set_instance(link, instance)
            case envelope.Bind() | envelope.Kick() | envelope.Join() | envelope.Leave() | envelope.Hold():
                player = self.players.get(event.sid)
                if player is None or player.session.close_code is not None:
                    self.stats.misdirected += 1
                else:
                    self._player_event(link, player, event)
            case _:
                raise BodyError(f"a {type(event).__name__} is not for a gateway")

    def _player_event(
        self,
        link: Link,
        player: PlayerRoute,
        event: envelope.Bind | envelope.Kick | envelope.Join | envelope.Leave | envelope.Hold,
    ) -> None:
        match event:
            case envelope.Bind(type=server_type, server=server):
                player.to(server_type).bind_to(server)
            case envelope.Kick(code=code, reason=reason):
                player.session.close(close_code(code), reason)
            case envelope.Join(group=group):
                try:
                    self.context.groups.join(player.session, group)
                except LocalError as error:
                    raise BodyError(str(error)) from None
            case envelope.Leave(group=group):
                self.context.groups.leave(player.session, group)
            case envelope.Hold(on=on):
                player.lags(link, bool(on))


def claims_text(claims: Mapping[str, Any]) -> str:
    """A player's claims as JSON. Raises TypeError for what JSON cannot hold, LocalError if the text is too long."""
    if not claims:
        return ""
    text = msgspec.json.encode(dict(claims))
    if len(text) > MAX_CLAIMS:
        raise LocalError(f"claims of {len(text)} bytes; a service can be told {MAX_CLAIMS}")
    return text.decode()


def pick(links: Sequence[Link], how: Pick, uid: int, fresh: Callable[[int], int]) -> Link | None:
    """Choose one of `links` for a player; None if there are none.

    fresh: gives, for a server's id, the players that this gateway bound to it since its last keepalive. The load in
    the keepalive does not count these yet.
    """
    if not links:
        return None
    if how is Pick.RENDEZVOUS:
        return max(links, key=lambda link: _rank(uid, link.id))
    return min(links, key=lambda link: (link.info.load.sessions + fresh(link.id), link.id))


def _rank(uid: int, server: int) -> bytes:
    return blake2b(uid.to_bytes(8, "little") + server.to_bytes(8, "little"), digest_size=8).digest()
