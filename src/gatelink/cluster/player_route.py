"""A gateway's forwarding: the players' frames to the servers, and the servers' messages to the players.

Frames are not decoded. A player's first frame for a type of server binds the player to one server of that type
(type_route.py). That server gets SessionOpened, then the player's frames, packed into envelopes and queued on the
server's link.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any, Protocol

import msgspec

from gatelink.cluster.links import GATEWAY, Link, Links
from gatelink.cluster.player import POLICIES
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.routes import OnDeath, Pick, Rules
from gatelink.cluster.type_route import ForwardStats, RouteState, TypeRoute
from gatelink.errors import BodyError, CloseCode, LocalError, ProtocolError, RequestCode, SessionClosed
from gatelink.handlers import Handlers
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.forwarding import ForwardPath, ForwardTable
from gatelink.session.groups import Member
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME
from gatelink.session.outbox import OutboxFull
from gatelink.session.requests import failed_frame, tag_of
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.straight_path import send_to_all
from gatelink.session.stream import Pause
from gatelink.session.timers import TICK
from gatelink.wire import envelope
from gatelink.wire.base import ENVELOPE_IDS
from gatelink.wire.control import MAX_U32, Features, Lost, close_code
from gatelink.wire.envelope import (
    ALL_SLOTS,
    NEW,
    SERVER_DIED,
    Encoded,
    client_frames,
    first_id,
    sid_and_count,
    tags_in,
    without_tags,
)
from gatelink.wire.frames import ANSWER, FAILED, HEAD_SIZE, REQUEST, TAG_SIZE, Frame

log = Logger("gatelink.gateway")
quiet = RateLimitedLogger(log)

MAX_CLAIMS = 0xFFFF
"""Bytes of a player's claims as JSON."""

PRESENCE_AT_ONCE = 1_024
"""Players in one Connected."""

REPORT_SECONDS = 0.2
"""Seconds until a player gets a record of lost messages. So one record can report many losses."""

LOOK_SECONDS = 0.5
"""Seconds between two looks for another server, while a silent one is waited for."""

_DEFAULT_RULES = Rules()

Whole = Sequence[Encoded]
"""Whole frames of players."""


class PlayerRoute(ForwardPath):
    """One player at a gateway, and its routes by server type (session.interfaces.Forwarder).

    sid: the session's number between the gateway and its services. claims: JSON, for SessionOpened.
    """

    __slots__ = ("_frames", "_router", "claims", "losses")

    routes: dict[int, TypeRoute]
    session: Session

    def __init__(self, session: Session, router: "PlayerRouter", claims: str) -> None:
        super().__init__(router, session, session.epoch)
        self.losses: dict[int, Lost] = {}  # since its start, by server type
        self._frames: list[Frame] = []  # they wait while the router holds all players
        self._router = router
        self.claims = claims

    def forward(self, frames: list[Frame]) -> bool:
        """Send frames to their servers. Consecutive frames for one type of server share an envelope.

        Returns False, and sends nothing, if one of the frames has a handler here or no type of server.
        """
        router = self._router
        if router.context.standstill is not None:
            router.context.standstill.check()
        if router.is_holding:
            self._frames += frames
            self.session.pause(Pause.CHECK)
            return True
        table = router.table
        handled_here = router.handled_here
        type = table[frames[0][0]]
        is_mixed = False
        has_requests = False
        for id, flags, _ in frames:
            to = table[id]
            if not to or id in handled_here:
                return False
            if to != type:
                is_mixed = True
            if flags >= REQUEST:
                has_requests = True
        if has_requests and self.session.requests is not None:
            for id, flags, body in frames:
                if flags >= REQUEST:
                    self.session.requests.serving[tag_of(body)] = id, table[id]
        if not is_mixed:
            self.forward_to(type, client_frames(self.sid, frames), len(frames))
        else:
            for type, run in groupby(frames, key=lambda frame: table[frame[0]]):
                part = list(run)
                self.forward_to(type, client_frames(self.sid, part), len(part))
                if self.session.close_code is CloseCode.PROTOCOL_ERROR:
                    break  # the frames of an unknown type ended it
        return True

    def forward_to(self, type: int, envelope: Encoded, count: int) -> None:
        route = self.routes.get(type)
        if route is not None and route.link is not None:
            self._router.stats.forwarded += count
            self.send(route, route.link, envelope, count)
        elif type in self._router.known:
            self._router.stats.forwarded += count
            self.to(type).forward(envelope)
        else:  # no server of the type was ever registered, so do not wait for one
            self.refuse_requests(envelope, RequestCode.NO_HANDLER)
            self._router.context.stats.unhandled += count
            quiet.info("messages are dropped: no server of their type was registered", type=type, uid=self.session.uid)
            if self._router.close_unknown:
                text = f"message {first_id(envelope)} is for servers of type {type}, and none was ever registered"
                self.session.broken(ProtocolError(text))

    def send(self, route: TypeRoute, link: Link, envelope: Encoded, count: int) -> None:
        """Queue an envelope of `count` frames on the link of a route.

        If the link's queue is then too long, pause reading from the player.
        """
        if not link.speaks_requests and self.session.requests is not None:
            self.refuse_requests(envelope, RequestCode.NO_HANDLER)
            left = without_tags(envelope)
            kept = sid_and_count(left)[1] if left is not None else 0
            answers = count - kept - len(tags_in(envelope))  # to a server that died before it got them
            self._router.context.stats.stray_answers += answers
            if left is None:
                return
            envelope, count = left, kept
        try:
            if link.push(envelope) and not route.is_crowded:
                route.is_crowded = True
                self.session.pause(Pause.LINK)
                self._router.note_crowded(link, route)
            route.unhandled += count
        except (OutboxFull, SessionClosed):
            self._router.count_lost(route.type, [envelope])

    def go_on(self) -> None:
        """Handle the frames that waited while the router held all players."""
        frames, self._frames = self._frames, []
        if self.session.close_code is not None:
            return
        if frames and not self.forward(frames):  # not all of them are for services
            self.session.handlers.dispatch(self.session, frames)
        self.session.resume(Pause.CHECK)

    def forward_answer(self, frame: Frame) -> None:
        """Send the player's answer to the service that asked, if the player is still bound to it."""
        tag = tag_of(frame[2])
        route = self.routes.get(tag & 0xFF)
        link = route.link if route is not None else None
        if route is None or link is None or not link.speaks_requests or route.binding & 0xFF != tag >> 8 & 0xFF:
            self._router.context.stats.stray_answers += 1
        else:
            self.send(route, link, client_frames(self.sid, [frame]), 1)

    def refuse_requests(self, envelope: Encoded, code: RequestCode) -> None:
        """Tell the player that no answer comes to the requests in the envelope."""
        requests = self.session.requests
        if requests is not None and requests.serving:
            for tag in tags_in(envelope):
                requests.refuse(self.session, tag, code)

    def lose_requests(self, type: int, unsent: Iterable[Encoded]) -> None:
        """Tell the player that no answer comes to its requests to a server, except those in `unsent`."""
        requests = self.session.requests
        if requests is None or not requests.serving:
            return
        kept = {tag for envelope in unsent for tag in tags_in(envelope)}
        for tag, (_, to) in list(requests.serving.items()):
            if to == type and tag not in kept:
                requests.refuse(self.session, tag, RequestCode.SERVER_LOST)

    def take_answers(self, link: Link, frames: Whole) -> list[Encoded]:
        """The frames from a server that the player may get: answers once, and requests if it speaks them."""
        requests = self.session.requests
        route = self.routes.get(link.type)
        is_bound = route is not None and route.link is link
        taken = []
        for frame in frames:
            flags = frame[3]
            if flags >= REQUEST:
                tag = tag_of(frame[HEAD_SIZE : HEAD_SIZE + TAG_SIZE])
                if requests is None or (flags < ANSWER and tag & 0xFF != link.type):
                    self._router.stats.malformed += 1
                    continue
                if flags >= ANSWER:
                    if not is_bound or requests.serving.get(tag, (0, 0))[1] != link.type:
                        self._router.context.stats.stray_answers += 1  # of an older binding, or a second one
                        continue
                    if len(frame) > self._router.context.max_message:
                        self._router.note_too_large(frame)
                        requests.refuse(self.session, tag, RequestCode.FAILED)
                        continue
                    del requests.serving[tag]
                elif len(frame) > self._router.context.max_message:
                    self._router.note_too_large(frame)
                    id = int.from_bytes(frame[4:6], "little")
                    failed = failed_frame(id, tag, RequestCode.FAILED, reason="too large for the gateway")
                    self.forward_answer((id, FAILED, failed[HEAD_SIZE:]))
                    continue
            taken.append(frame)
        return taken

    @property
    def held_bytes(self) -> int:
        """Bytes of the envelopes that wait for a server."""
        routed = sum([len(each) for route in self.routes.values() for each in route.held])
        return routed + sum([len(frame[2]) for frame in self._frames])

    def to(self, type: int) -> TypeRoute:
        """The route to the servers of a type."""
        route = self.routes.get(type)
        if route is None:
            route = self.routes[type] = TypeRoute(self, self._router, type)
        return route

    def bind_if_unbound(self, type: int) -> None:
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

    def report_losses(self) -> None:
        """Tell the player what was lost since its start, if it has a connection."""
        for lost in self.losses.values():
            self.session.send_control(lost)

    def set_lagging(self, link: Link, on: bool) -> None:
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


class Gateways(Protocol):
    """Takes news of logins at other gateways: `login_arbiter.ClusterLoginArbiter`."""

    def link_opened(self, link: Link) -> None:
        """Called when there is a new link to a gateway."""

    def newer_login(self, uid: int, slot: int, epoch: int) -> None:
        """Called when another gateway has a login of that epoch."""


class RelayedKicks(Protocol):
    """Takes kicks that other servers send over links: `kicks.GatewayKicks`."""

    def relayed(self, uid: int, slot: int | None, at: int, reason: str) -> None:
        """Called when a server has kicked a user, at that unix microsecond."""


class PlayerRouter(ForwardTable):
    """All routes of one gateway, and the receiver of its links (links.LinkReceiver).

    context: that of the client sessions. posts: handles messages between servers.
    max_frame: bytes of the largest frame that a server may send to a player.
    table: the server type of each message id, 0 for none. rules: by server type.
    known: the server types to wait for. Types in the registry are added; messages for any other type are dropped.
    close_unknown: such a message also closes the session with 4007.
    handled_here: ids of the messages that have a handler in the gateway. gateways: takes their news of logins.
    kicks: takes kicks that servers send over links.

    players: by sid. is_holding: whether all players are held. bound: routes by link. waiting: routes by server type.
    crowded: routes by the link whose queue is too long. leaving: by link and sid, the unhandled frames of players that
    have left the server. fresh: by server id, the number of players bound since the server's last keepalive.
    """

    stats: ForwardStats
    players: dict[int, PlayerRoute]

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
        close_unknown: bool = False,
    ) -> None:
        super().__init__(context, ForwardStats(), max_frame, table, handled_here)
        self.known = set(known)
        self.bound: dict[Link, set[TypeRoute]] = {}
        self.waiting: dict[int, set[TypeRoute]] = {}
        self.crowded: dict[Link, set[TypeRoute]] = {}
        self.leaving: dict[Link, dict[int, int]] = {}
        self.fresh: Counter[int] = Counter()
        self.gateways: Gateways | None = None
        self.kicks: RelayedKicks | None = None
        self._links = links
        self._presence: dict[Link, dict[int, bool]] = {}  # by link and sid: what this turn of the loop brought
        self._posts = posts
        self._rules = rules
        self.close_unknown = close_unknown
        self._unreported: set[PlayerRoute] = set()  # players that must still get a record of their losses

    def __iter__(self) -> Iterator[PlayerRoute]:
        """The players of this moment."""
        return iter(list(self.players.values()))

    # -- all players together --

    def hold_all(self) -> None:
        """Forward nothing of any player until `go_on`: a newer login of the user may be elsewhere."""
        self.is_holding = True

    def go_on(self) -> None:
        """Forward the frames that players sent meanwhile, except players whose session has ended."""
        self.is_holding = False
        for player in self:
            player.go_on()

    # -- for routes --

    def rules_of(self, type: int) -> Rules:
        """The rules of a type of server."""
        return self._rules.get(type, _DEFAULT_RULES)

    def pick(self, route: TypeRoute) -> Link | None:
        """Choose a server for a player: the link to it, or None if no server is there now."""
        if route.type == GATEWAY:
            return None  # gateways have no players of other gateways
        if route.pinned:
            found = self._links.get(route.pinned)
            return found if found is not None and found.type == route.type else None
        up = [
            link
            for link in self._links.of_type(route.type)
            if link.info.state is State.UP and link.session.state is SessionState.OPEN
        ]
        up = [link for link in up if link.is_well] or up  # the server of a silent link may be cut off
        return pick(up, self.rules_of(route.type).pick, route.player.session.uid, self.fresh.__getitem__)

    def note_crowded(self, link: Link, route: TypeRoute) -> None:
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

    def count_lost(self, type: int, envelopes: Iterable[Encoded]) -> None:
        """Count the frames in `envelopes` as lost; the player's next server of the type gets their number."""
        for each in envelopes:
            sid, frames = envelope.sid_and_count(each)
            if frames:
                self.count_lost_of(sid, type, frames)
                player = self.players.get(sid)
                if player is not None:
                    player.refuse_requests(each, RequestCode.SERVER_LOST)

    def queued(self) -> Counter[Session]:
        """Bytes that the links hold of each player that is here. Looks at all that they hold."""
        found: Counter[Session] = Counter()
        for link in self._links:
            for frame in link.session.outbox.frames():
                player = self.players.get(envelope.sid_of(frame))
                if player is not None:
                    found[player.session] += len(frame)
        return found

    def count_lost_of(self, sid: int, type: int, frames: int) -> None:
        """Count so many frames of one player as lost."""
        self.stats.lost[type] += frames
        player = self.players.get(sid)
        if player is not None:  # else the player has left the gateway
            player.to(type).lost += frames
            self._note_loss(player, type, frames, 0)

    def _note_loss(self, player: PlayerRoute, type: int, to_server: int, to_client: int) -> None:
        """Report lost messages to the player soon. One record may report several losses."""
        extension = player.session.extension
        if extension is None or not extension.features & Features.LOSSES:
            return
        lost = player.losses.get(type, Lost(type, 0, 0))
        player.losses[type] = Lost(
            type, min(MAX_U32, lost.to_server + to_server), min(MAX_U32, lost.to_client + to_client)
        )
        if not self._unreported:
            self.context.wheel.call(REPORT_SECONDS, self._report_losses)
        self._unreported.add(player)

    def _report_losses(self) -> None:
        players, self._unreported = self._unreported, set()
        for player in players:
            player.report_losses()

    # -- players (handlers.Observer calls these) --

    def opened(self, session: Session) -> None:
        """Give a new session its routes, and bind it at once to servers that want login events."""
        try:
            claims = claims_text(session.claims)
        except (TypeError, LocalError) as error:
            quiet.error("a player is closed: its claims can't be sent to a service", uid=session.uid, error=str(error))
            session.close(CloseCode.INTERNAL_ERROR)
            return
        session.forwarder = player = PlayerRoute(session, self, claims)
        self.players[player.sid] = player
        for type in {link.type for link in self._links if link.info.wants_login_events}:
            player.bind_if_unbound(type)

    def suspended(self, session: Session) -> None:
        """Report that a player's connection broke."""
        self._note_presence(session, False)

    def resumed(self, session: Session) -> None:
        """Report a player's connection, and its losses again: the last record may not have arrived."""
        self._note_presence(session, True)
        player = self.players.get(session.epoch)
        if player is not None:
            player.report_losses()

    def _note_presence(self, session: Session, on: bool) -> None:
        """Tell the services that want to know of a player's connection, once a turn of the loop."""
        player = self.players.get(session.epoch)
        if player is None:
            return
        for route in player.routes.values():
            link = route.link
            if link is not None and link.info.wants_presence and link.speaks_requests:
                if not self._presence:
                    self.context.loop.call_soon(self._send_presence)
                self._presence.setdefault(link, {})[player.sid] = on

    def _send_presence(self) -> None:
        presence, self._presence = self._presence, {}
        for link, players in presence.items():
            for on in (False, True):
                sids = [sid for sid, is_on in players.items() if is_on is on]
                for at in range(0, len(sids), PRESENCE_AT_ONCE):
                    link.send_event(envelope.Connected(int(on), tuple(sids[at : at + PRESENCE_AT_ONCE])))

    def renewed(self, session: Session) -> None:
        """Send the new claims of a renewed login to the player's services."""
        player = self.players.get(session.epoch)
        if player is None:
            return
        try:
            player.claims = claims_text(session.claims)
        except (TypeError, LocalError) as error:
            quiet.error("a player is closed: its claims can't be sent to a service", uid=session.uid, error=str(error))
            session.close(CloseCode.INTERNAL_ERROR)
            return
        for route in player.routes.values():
            if route.link is not None and route.link.speaks_requests:
                route.link.send_event(envelope.Renewed(player.sid, player.claims, session.expires_in))

    def closed(self, session: Session) -> None:
        """Remove the routes of a session, after its last frame was handled."""
        session.forwarder = None
        player = self.players.pop(session.epoch, None)
        if player is not None:
            player.close(session.close_code or CloseCode.NORMAL)

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Move the players of a server that begins to drain. A change brings the server's load, so `fresh` restarts."""
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

    # -- from links (links.LinkReceiver) --

    def link_opened(self, link: Link) -> None:
        if link.type == GATEWAY:
            if self.gateways is not None:
                self.gateways.link_opened(link)
            return
        self.bound.setdefault(link, set())
        self.link_attached(link)
        link.send_event(envelope.LinkReady())

    def link_detached(self, link: Link) -> None:
        """Wait for a detached link. If its silence lasts, its players go to another server of the type."""
        if link.type != GATEWAY and self.rules_of(link.type).on_death is not OnDeath.HOLD:
            self._give_up_later(link)

    def _give_up_later(self, link: Link) -> None:
        seconds = max(LOOK_SECONDS, self._patience(link) - link.silent + TICK)
        self.context.wheel.call(seconds, lambda: self._give_up(link))

    def _patience(self, link: Link) -> float:
        """Seconds of silence after which a server is given up. A live server has noticed its silence by then."""
        return max(self.rules_of(link.type).give_up_seconds, link.limits.heartbeat_timeout)

    def _give_up(self, link: Link) -> None:
        """Close a link that is silent for too long, if another server of the type is well. Otherwise wait longer."""
        if link.session.state is not SessionState.DETACHED:
            return
        if link.silent >= self._patience(link) and any(other.is_well for other in self._links.of_type(link.type)):
            log.error("a silent server is given up: others get its players", server=link.id, name=link.info.name)
            self._links.give_up(link, f"silent for {link.silent:.0f} s")
        else:
            self._give_up_later(link)

    def link_attached(self, link: Link) -> None:
        """Bind the players that wait for a server of the type, and if it wants login events, all that have none."""
        for route in list(self.waiting.get(link.type, ())):
            route.bind(route.arrival)
        if link.info.wants_login_events:
            for player in self:
                player.bind_if_unbound(link.type)

    def link_closed(self, link: Link) -> None:
        """A server died. Envelopes that were only queued go to each player's next server.

        Frames that were sent to it count as lost, unless it reported them as handled: it may have handled more than it
        reported. A server of an older version sends no reports. From it, the acknowledged frames count as handled.
        Losses that it may not have been told of are reported to the next server.
        """
        for sid, lost in self._unreported_losses(link):
            self.players[sid].to(link.type).lost += lost
        unsent: dict[int, list[Encoded]] = {}  # by sid
        for frame in link.session.outbox.drain():
            unsent.setdefault(envelope.sid_and_count(frame)[0], []).append(frame)
        if link.takes_reports:
            for sid, frames in self._unhandled_of(link).items():
                frames -= sum(count for _, count in map(sid_and_count, unsent.get(sid, ())))
                if frames > 0:
                    self.count_lost_of(sid, link.type, frames)
        else:
            self.count_lost(link.type, link.session.outbox.frames())
        for route in self.bound.pop(link, set()):
            route.server_died(link, unsent.pop(route.player.sid, []))
        for envelopes in unsent.values():  # of players that had left, or had another server by then
            self.count_lost(link.type, envelopes)

    def _unreported_losses(self, link: Link) -> list[tuple[int, int]]:
        """The (sid, lost) of the SessionOpened that a closed link still has, of players that the server had."""
        losses = [envelope.lost_before(frame, link.speaks_requests) for frame in link.session.outbox.frames()]
        bound = {route.player.sid for route in self.bound.get(link, ())}
        return [(sid, lost) for sid, lost in losses if lost and sid in bound and sid in self.players]

    def _unhandled_of(self, link: Link) -> dict[int, int]:
        """The unhandled frames on a closed link, by sid."""
        unhandled = self.leaving.pop(link, {})
        for route in self.bound.get(link, ()):
            if route.unhandled:
                unhandled[route.player.sid] = route.unhandled
                route.unhandled = 0
        return unhandled

    def receive_envelopes(self, link: Link, frames: list[Frame]) -> None:
        for id, flags, body in frames:
            try:
                if id == envelope.PUSH_FRAME:
                    self._push(link, body)
                elif id == envelope.HANDLED:
                    self._handled(link, body)
                elif id == envelope.LOST_PUSHES:
                    self._lost_pushes(link, body)
                elif id == envelope.BROADCAST_FRAME:
                    self._broadcast(body)
                elif id in ENVELOPE_IDS:
                    self._event(link, envelope.open_event(id, body))
                else:
                    self._posts.dispatch(link.session, [(id, flags, body)])
            except (BodyError, LocalError) as error:  # LocalError: a group's name, or one group too many
                self.stats.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))

    def _handled(self, link: Link, body: bytes) -> None:
        """A server handled more frames of its players, or of players that have left it."""
        leaving = self.leaving.get(link, {})
        for sid, count in envelope.open_handled_counts(body):
            player = self.players.get(sid)
            route = player.routes.get(link.type) if player is not None else None
            if route is not None and route.link is link:
                route.unhandled = max(0, route.unhandled - count)
            elif sid in leaving:
                leaving[sid] -= count
                if leaving[sid] <= 0:
                    del leaving[sid]

    def _lost_pushes(self, link: Link, body: bytes) -> None:
        """A server reports how many frames for players were lost with an earlier link, at most."""
        for sid, count in envelope.open_handled_counts(body):
            player = self.players.get(sid)
            if player is not None:
                self._note_loss(player, link.type, 0, count)

    def _push(self, link: Link, body: bytes) -> None:
        sids, policy, key, frames = envelope.open_push_frames(body, self.max_frame)
        has_tags = frames.has_tags
        if has_tags and (len(sids) != 1 or policy or key):
            raise BodyError("a request or an answer in a push to several players, or with a policy or key")
        fit: Whole = frames
        if len(body) > self.context.max_message and not has_tags:
            fit = self._that_fit(frames)
        if len(sids) == 1:
            player = self.players.get(sids[0])
            if player is None:
                self.stats.misdirected += 1
            else:
                if has_tags:
                    fit = self._that_fit(player.take_answers(link, frames))
                self._deliver(player.session, fit, policy, key)
        else:
            found = [player.session for player in map(self.players.get, sids) if player is not None]
            self.stats.misdirected += len(sids) - len(found)
            self._deliver_to_all(found, fit, policy, key)

    def _broadcast(self, body: bytes) -> None:
        group, policy, key, frames = envelope.open_broadcast_frames(body, self.max_frame)
        if frames.has_tags:
            raise BodyError("a request or an answer in a broadcast")
        fit: Whole = frames
        if len(body) > self.context.max_message:
            fit = self._that_fit(frames)
        if group:
            self._deliver_to_all(self.context.groups.members(group), fit, policy, key)
        else:
            self._deliver_to_all([player.session for player in self], fit, policy, key)

    def _deliver_to_all(self, members: Sequence[Member], frames: Whole, policy: int, key: int) -> None:
        sent = send_to_all(members, frames, key, POLICIES[policy])
        self.stats.pushed += sent * len(frames)
        self.stats.misdirected += len(members) - sent

    def _that_fit(self, frames: Whole) -> Whole:
        """`frames` without those over this gateway's limit: a service with a larger max_outbox_bytes may send them."""
        most = self.context.max_message
        fit: list[Encoded] = []
        for frame in frames:
            if len(frame) <= most:
                fit.append(frame)
            else:
                self.note_too_large(frame)
        return fit

    def note_too_large(self, frame: Encoded) -> None:
        """Count a frame that is not sent, because it is over this gateway's limit."""
        self.stats.malformed += 1
        quiet.error("a service's message is too large", bytes=len(frame), most=self.context.max_message)

    def _deliver(self, member: Member, frames: Whole, policy: int, key: int) -> None:
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
            case envelope.NewerLogin(uid=uid, slot=slot, epoch=epoch) if link.type == GATEWAY:
                if self.gateways is not None:
                    self.gateways.newer_login(uid, slot, epoch)
            case envelope.KickUser(uid=uid, slot=slot, at=at, reason=reason) if slot <= ALL_SLOTS:
                if self.kicks is not None:
                    self.kicks.relayed(uid, None if slot == ALL_SLOTS else slot, at, reason)
            case envelope.LinkReady() if link.type == GATEWAY:
                pass  # an older gateway, which dials no gateways, sends it
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
                replaced = code == CloseCode.REPLACED
                farewell = self.context.in_form(DUPLICATE_LOGIN_FRAME) if replaced else b""
                player.session.close(close_code(code), reason, farewell=farewell)
            case envelope.Join(group=group):
                self.context.groups.join(player.session, group)
            case envelope.Leave(group=group):
                self.context.groups.leave(player.session, group)
            case envelope.Hold(on=on):
                player.set_lagging(link, bool(on))


def claims_text(claims: Mapping[str, Any]) -> str:
    """A player's claims as JSON. Raises TypeError for what JSON cannot hold, LocalError if the text is too long."""
    if not claims:
        return ""
    text = msgspec.json.encode(dict(claims))
    if len(text) > MAX_CLAIMS:
        raise LocalError(f"claims of {len(text)} bytes; a service takes {MAX_CLAIMS}")
    return text.decode()


def pick(links: Sequence[Link], how: Pick, uid: int, fresh: Callable[[int], int]) -> Link | None:
    """Choose one of `links` for a player; None if `links` is empty.

    fresh: returns, for a server's id, the players that this gateway bound to it since its last keepalive. The load in
    the keepalive does not count these yet.
    """
    if not links:
        return None
    if how is Pick.RENDEZVOUS:
        return max(links, key=lambda link: _rank(uid, link.id))
    return min(links, key=lambda link: (link.info.load.sessions + fresh(link.id), link.id))


def _rank(uid: int, server: int) -> bytes:
    return blake2b(uid.to_bytes(8, "little") + server.to_bytes(8, "little"), digest_size=8).digest()
