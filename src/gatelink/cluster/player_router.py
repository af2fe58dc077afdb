"""A gateway's side of the links: which server each player's frames go to, and what comes back for them.

Frames are not decoded. The first of a type binds the player to a server of that type, which hears SessionOpened ahead
of it; from then on the frame is packed into an envelope and queued on that server's link.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from itertools import chain, groupby
from typing import Protocol

import msgspec
import structlog

from gatelink.cluster.cluster import Talk
from gatelink.cluster.links import Link, Links
from gatelink.cluster.player_route import ForwardStats, Held, PlayerRoute, claims_text
from gatelink.cluster.players import POLICIES
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.rules import OnDeath, Rules, pick
from gatelink.config import Limits
from gatelink.errors import BodyError, CloseCode, LocalError, SessionClosed
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.control_frames import close_code
from gatelink.session.groups import Member
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire import envelope
from gatelink.wire.envelope import MOVED, NEW, RETURNED, SERVER_DIED, Encoded, client_frames
from gatelink.wire.frames import Frame

log = structlog.get_logger("gatelink.gateway")
quiet = RateLimitedLogger(log)


class Front(Protocol):
    """What a router needs of its server."""

    context: LoopContext
    link_limits: Limits
    talk: Talk


class PlayerRouter:
    """All ways of one gateway (links.Role).

    table: the server type of each message id. rules: by server type. known: types that there may be servers of; those
    that the registry has are added. Messages for any other type are dropped. handled_here: ids that have a handler.
    """

    def __init__(
        self,
        server: "Front",
        table: bytes,
        rules: Mapping[int, Rules],
        known: Iterable[int] = (),
        handled_here: Container[int] = (),
    ) -> None:
        self.stats = ForwardStats()
        self.links: Links
        self._server = server
        self._table = table
        self._rules = rules
        self._known = set(known)
        self._handled_here = handled_here
        self._max_frame = server.link_limits.max_frame  # a server is trusted with larger ones than a player
        self._ways: dict[int, PlayerRoute] = {}  # by sid
        self._bound: dict[Link, set[PlayerRoute]] = {}
        self._fresh: Counter[int] = Counter()  # by server id: players bound since its last keepalive
        self._waiting: dict[int, set[PlayerRoute]] = {}  # by server type: those that wait for a server
        self._crowded: dict[Link, set[PlayerRoute]] = {}  # whose link has too much to carry

    # -- from players --

    def opened(self, session: Session) -> None:
        """A player is here; the servers that greet hear of it at once."""
        try:
            claims = claims_text(session.claims)
        except (TypeError, LocalError) as error:
            quiet.error("claims that no service can be told", uid=session.uid, error=str(error))
            session.close(CloseCode.INTERNAL_ERROR)
            return
        way = PlayerRoute(session, self, claims)
        session.forwarder = way
        self._ways[way.sid] = way
        for type in {link.type for link in self.links if link.info.wants_login_events}:
            self._bind(way, type, NEW)

    def closed(self, session: Session) -> None:
        """A player is gone, after the last of its frames."""
        session.forwarder = None
        way = self._ways.pop(session.epoch, None)
        if way is None:
            return
        code = session.close_code or CloseCode.NORMAL
        for link in list(way.links.values()):
            self._unbind(way, link, code)
        for type in list(way.held):
            self._lose(type, self._let_go(way, type).envelopes)
        for crowd in self._crowded.values():
            crowd.discard(way)

    def forward(self, way: PlayerRoute, frames: list[Frame]) -> bool:
        """Sends frames on their way, if all of them belong to servers: one envelope for each run of one type."""
        table = self._table
        handled_here = self._handled_here
        type = table[frames[0][0]]
        for id, _, _ in frames:
            to = table[id]
            if not to or id in handled_here:
                return False
            if to != type:
                type = 0
        if type:
            self._send(way, type, client_frames(way.sid, frames))
        else:
            for type, run in groupby(frames, key=lambda frame: table[frame[0]]):
                self._send(way, type, client_frames(way.sid, list(run)))
        self.stats.forwarded += len(frames)
        return True

    def _send(self, way: PlayerRoute, type: int, frames: Encoded) -> None:
        """For servers of one type, of which the player may have none yet, or may be waiting for one."""
        link = way.links.get(type)
        if link is None and type not in way.held:
            link = self._bind(way, type, SERVER_DIED if way.lost.get(type) else NEW)
        if link is not None:
            self._send_on(way, link, frames)
        elif type not in self._known:
            self._drop(way, type, frames)
        elif self._drops(type):
            self._lose(type, [frames])
        else:
            self._hold(way, type, NEW).envelopes.append(frames)
            way.session.pause(Pause.LINK)

    def _drop(self, way: PlayerRoute, type: int, frames: Encoded) -> None:
        """Drops what belongs to a type of server that nobody ever spoke of: it would wait in vain."""
        _, count = envelope.sid_and_count(frames)
        self._server.context.stats.unhandled += count
        quiet.info("messages for a type of server that there never was are dropped", type=type, uid=way.session.uid)

    def _drops(self, type: int) -> bool:
        return self._rules.get(type, _DEFAULT_RULES).on_death is OnDeath.DROP

    def _send_on(self, way: PlayerRoute, link: Link, envelope: Encoded) -> None:
        try:
            if link.push(envelope):
                self._wait_for_room(way, link)
        except (OutboxFull, SessionClosed):
            self._lose(link.type, [envelope])

    def _wait_for_room(self, way: PlayerRoute, link: Link) -> None:
        """Stops reading from a player whose server's link has too much to carry; never for longer than that has."""
        way.session.pause(Pause.LINK)
        crowd = self._crowded.get(link)
        if crowd is None:
            crowd = self._crowded[link] = set()
            link.when_relieved(lambda: self._relieved(link))
        crowd.add(way)

    def _relieved(self, link: Link) -> None:
        for way in self._crowded.pop(link):
            self._go_on(way)

    # -- binding --

    def _bind(self, way: PlayerRoute, type: int, why: int) -> Link | None:
        """Binds a player to a server of `type`, which hears of it; None if none is there."""
        link = self._pick(way, type)
        if link is not None:
            self._bind_to(way, link, why)
        return link

    def _bind_to(self, way: PlayerRoute, link: Link, why: int) -> None:
        way.links[link.type] = link
        way.pinned.pop(link.type, None)
        self._bound.setdefault(link, set()).add(way)
        self._fresh[link.id] += 1
        link.send_event(self._opening(way, link.type, why))

    def _opening(self, way: PlayerRoute, type: int, why: int) -> envelope.SessionOpened:
        session = way.session
        lost = min(way.lost.pop(type, 0), 0xFFFFFFFF)
        how = why | RETURNED if session.returned else why
        return envelope.SessionOpened(
            way.sid, session.uid, session.slot, session.epoch, session.address, how, lost, way.claims
        )

    def _pick(self, way: PlayerRoute, type: int) -> Link | None:
        pinned = way.pinned.get(type)
        if pinned is not None:
            found = self.links.get(pinned)
            return found if found is not None and found.type == type else None
        up = [
            link
            for link in self.links.of_type(type)
            if link.info.state is State.UP and link.session.state is SessionState.OPEN
        ]
        rules = self._rules.get(type, _DEFAULT_RULES)
        return pick(up, rules.pick, way.session.uid, self._fresh.__getitem__)

    def _unbind(self, way: PlayerRoute, link: Link, code: CloseCode) -> None:
        """A player is not a server's any more, which hears so. The groups that it is in are its type's, and stay."""
        del way.links[link.type]
        self._bound[link].discard(way)
        link.send_event(envelope.SessionClosed(way.sid, code))
        self._lags(way, link, False)

    def _lags(self, way: PlayerRoute, link: Link, on: bool) -> None:
        """Reads from a player while no server lags behind it."""
        if on:
            way.lagging |= {link}
            way.session.pause(Pause.HANDLERS)
        elif link in way.lagging:
            way.lagging -= {link}
            if not way.lagging:
                way.session.resume(Pause.HANDLERS)

    def _rebind(self, way: PlayerRoute, link: Link, why: int, code: CloseCode) -> None:
        """Gives a player to another server of the type, if there is one; the old one hears that it is gone."""
        self._unbind(way, link, code)
        self.stats.rebinds += 1
        if self._bind(way, link.type, why) is None:
            self._wait(way, link.type, why)

    # -- while there is no server --

    def _wait(self, way: PlayerRoute, type: int, why: int) -> None:
        """Waits for a server, with nothing to send to it yet; not where the type's rule is to drop."""
        if self._drops(type):
            way.pinned.pop(type, None)
        else:
            self._hold(way, type, why)

    def _hold(self, way: PlayerRoute, type: int, why: int) -> Held:
        """Waits until a server is there or the time is over. Once a frame is held, nothing more is read."""
        held = way.held.get(type)
        if held is None:
            rules = self._rules.get(type, _DEFAULT_RULES)
            timer = self._server.context.wheel.call(rules.hold_seconds, lambda: self._stop_holding(way, type))
            held = way.held[type] = Held(why, timer)
            self._waiting.setdefault(type, set()).add(way)
            self.stats.held += 1
        return held

    def _let_go(self, way: PlayerRoute, type: int) -> Held:
        """It waits no longer, whatever is to become of what was held."""
        held = way.held.pop(type)
        self._server.context.wheel.cancel(held.timer)
        waiting = self._waiting[type]
        waiting.discard(way)
        if not waiting:
            del self._waiting[type]
        return held

    def _stop_holding(self, way: PlayerRoute, type: int) -> None:
        """The time is over: what was held is lost if no server can be had now, whichever it was to be."""
        server = way.pinned.pop(type, None)
        if server is not None:
            self.stats.missed_binds += 1
            quiet.error(
                "the server that a player waits for did not come: another gets it",
                uid=way.session.uid,
                type=type,
                server=server,
            )
        if not self._release(way, type):
            held = self._let_go(way, type).envelopes
            if held:
                quiet.error("no server came for a player's messages: they are lost", type=type, uid=way.session.uid)
            self._lose(type, held)
            self._go_on(way)

    def _release(self, way: PlayerRoute, type: int) -> bool:
        """Sends on what a player has held for `type`, if there is a server now."""
        link = self._bind(way, type, way.held[type].why)
        if link is None:
            return False
        for each in self._let_go(way, type).envelopes:
            self._send_on(way, link, each)
        self._go_on(way)
        return True

    def _go_on(self, way: PlayerRoute) -> None:
        held = any(held.envelopes for held in way.held.values())
        if not held and not any(way in crowd for crowd in self._crowded.values()):
            way.session.resume(Pause.LINK)

    def _lose(self, type: int, envelopes: Iterable[Encoded]) -> None:
        """Counts the frames in them, for the players' next servers, too."""
        for sid, frames in map(envelope.sid_and_count, envelopes):
            if frames:
                self.stats.lost[type] += frames
                way = self._ways.get(sid)
                if way is not None:  # else the player has left
                    way.lost[type] = way.lost.get(type, 0) + frames

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """A server that drains gives its players away; each keepalive tells its load anew."""
        info = now or before
        assert info is not None
        self._fresh.pop(info.id, None)
        self._known.add(info.type)
        if now is None:
            return
        link = self.links.get(now.id)
        if link is not None and now.state is State.DRAINING and (before is None or before.state is State.UP):
            log.info("rebinding the players of a server that drains", server=now.id, players=len(self._of(link)))
            for way in self._of(link):
                self._rebind(way, link, MOVED, CloseCode.GOING_AWAY)

    # -- from links (links.Role) --

    def link_up(self, link: Link) -> None:
        self._bound.setdefault(link, set())
        self.link_resumed(link)
        link.send_event(envelope.LinkReady())

    def link_resumed(self, link: Link) -> None:
        """A server is reached, perhaps again: those who wait for one of its type, or came without, get it."""
        type = link.type
        for way in list(self._waiting.get(type, ())):
            self._release(way, type)
        if link.info.wants_login_events:
            for way in list(self._ways.values()):
                if type not in way.links and type not in way.held:
                    self._bind(way, type, SERVER_DIED if way.lost.get(type) else NEW)

    def link_lost(self, link: Link) -> None:
        """A server is dead: its players go to another, or end, or wait, as the rules of its type say.

        What it was sent and did not acknowledge is lost: it may have been handled. What was only queued goes along.
        """
        type = link.type
        rules = self._rules.get(type, _DEFAULT_RULES)
        ways = self._bound.pop(link, set())
        queued: dict[int, list[Encoded]] = {}  # by sid
        for frame in link.session.outbox.drain():
            queued.setdefault(envelope.sid_and_count(frame)[0], []).append(frame)
        self._lose(type, link.session.outbox.frames())
        for way in ways:
            del way.links[type]
            self._lags(way, link, False)
            if rules.on_death is OnDeath.CLOSE:
                way.session.close(CloseCode.GOING_AWAY, "the server behind it is gone")
                continue
            self.stats.rebinds += 1
            if rules.on_death is OnDeath.HOLD:
                way.pinned[type] = link.id
            envelopes = queued.pop(way.sid, [])
            successor = self._bind(way, type, SERVER_DIED)
            if successor is not None:
                for each in envelopes:
                    self._send_on(way, successor, each)
                continue
            if rules.on_death is OnDeath.DROP:
                self._lose(type, envelopes)
                continue
            self._hold(way, type, SERVER_DIED).envelopes += envelopes
            if envelopes:
                way.session.pause(Pause.LINK)
        self._lose(type, chain.from_iterable(queued.values()))  # of those who have left, or been given away, since

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
                    self._server.talk.posts.dispatch(link.session, [(id, flags, body)])
            except BodyError as error:
                self.stats.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))

    def _push(self, body: bytes) -> None:
        sids, policy, key, frames = envelope.open_push_frames(body, self._max_frame)
        if len(body) > self._server.context.max_message:
            frames = self._that_fit(frames)
        for sid in sids:
            way = self._ways.get(sid)
            if way is None:
                self.stats.misdirected += 1
            else:
                self._deliver(way.session, frames, policy, key)

    def _broadcast(self, body: bytes) -> None:
        group, policy, key, frames = envelope.open_broadcast_frames(body, self._max_frame)
        if len(body) > self._server.context.max_message:
            frames = self._that_fit(frames)
        if group:
            for member in self._server.context.groups.members(group):
                self._deliver(member, frames, policy, key)
        else:
            for way in list(self._ways.values()):
                self._deliver(way.session, frames, policy, key)

    def _that_fit(self, frames: list[Encoded]) -> list[Encoded]:
        """`frames` without those that no session takes, of a service with a larger max_outbox_bytes than ours."""
        most = self._server.context.max_message
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
        if isinstance(event, envelope.Run):
            self.links.is_run(link, event.instance)
            return
        way = self._ways.get(getattr(event, "sid", 0))
        if way is None or way.session.close_code is not None:  # or its end is not told yet
            self.stats.misdirected += 1
            return
        match event:
            case envelope.Bind(type=server_type, server=server):
                self._bind_as_told(way, server_type, server)
            case envelope.Kick(code=code, reason=reason):
                way.session.close(close_code(code), reason)
            case envelope.Join(group=group):
                try:
                    self._server.context.groups.join(way.session, group)
                except LocalError as error:
                    raise BodyError(str(error)) from None
            case envelope.Leave(group=group):
                self._server.context.groups.leave(way.session, group)
            case envelope.Hold(on=on):
                if way.links.get(link.type) is link:
                    self._lags(way, link, bool(on))
            case _:
                raise BodyError(f"a {type(event).__name__} to a gateway")

    def _bind_as_told(self, way: PlayerRoute, type: int, server: int) -> None:
        before = way.links.get(type)
        if before is not None and before.id == server:
            return
        if server:
            way.pinned[type] = server
        else:
            way.pinned.pop(type, None)
        if before is not None:
            self._unbind(way, before, CloseCode.NORMAL)
        if type in way.held:
            self._release(way, type)
        elif server and self._bind(way, type, MOVED if before is not None else NEW) is None:
            self._wait(way, type, MOVED if before is not None else NEW)

    def _of(self, link: Link) -> list[PlayerRoute]:
        return list(self._bound.get(link, ()))


_DEFAULT_RULES = Rules()
