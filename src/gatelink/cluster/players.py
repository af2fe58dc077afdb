"""All players of a service: the table of players, what their gateways send, and messages to many of them."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gatelink._native import compiled
from gatelink.cluster.cluster import Cluster
from gatelink.cluster.handled_reports import HandledReports
from gatelink.cluster.links import Link
from gatelink.cluster.lost_pushes import LostPushes
from gatelink.cluster.player import POLICY_NUMBERS, Player
from gatelink.cluster.registry import State
from gatelink.errors import BodyError, CloseCode, LocalError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.groups import MAX_NAME, check_name
from gatelink.session.interfaces import Dispatcher, Peer
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SLOTS
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.standstill import longest_silence
from gatelink.session.states import SessionState
from gatelink.session.timers import Call
from gatelink.wire import envelope
from gatelink.wire.base import ENVELOPE_IDS
from gatelink.wire.control import Lost, close_code
from gatelink.wire.envelope import (
    CLIENT_FRAME,
    PUSH_HEAD,
    SID_SIZE,
    Kick,
    LinkReady,
    Run,
    SessionOpened,
    broadcast_frames,
    handled_counts,
    open_client_frames,
    open_event,
    push_frames,
)
from gatelink.wire.frames import Frame

quiet = RateLimitedLogger(Logger("gatelink.service"))

MAX_UNFINISHED = 16
"""Closed sessions of one user whose handlers have not ended. At this number, a further session of the user is closed.

Otherwise a client that logs in, sends and leaves again and again could have more handlers running than one that stays.
"""

_OPEN = SessionState.OPEN

_NO_PLAYERS: Mapping[int, Player] = MappingProxyType({})
_PUSH_AT_ONCE = 8_192  # sids of 8 bytes: 64 KiB of envelope


@compiled
class PlayerTable:
    """The table by which the frames of a ClientFrame find their player.

    by_link: the players by link and sid. unreported: as in `HandledReports`.
    max_frame: bytes of a player's largest frame.
    """

    def __init__(self, unreported: dict[Link, list[Player]], max_frame: int) -> None:
        self.by_link: dict[Link, dict[int, Player]] = {}
        self.unreported = unreported
        self.max_frame = max_frame


class Players(PlayerTable):
    """The players of one service, by `(uid, slot)` or by the gateway's link and sid.

    They are the receiver of the service's links (links.LinkReceiver).

    type: the service's type, which is part of its groups' names at the gateways. posts: handles messages of servers.
    """

    def __init__(
        self, context: LoopContext, handlers: "Dispatcher[Player]", posts: Handlers, type: int, cluster: Cluster
    ) -> None:
        self._reports = HandledReports(context.wheel)
        super().__init__(self._reports.unreported, context.limits.max_frame)
        self.malformed = 0
        """Envelopes that were dropped."""
        self.strays = 0
        """Frames of players that this service does not have, or no longer has."""
        self.refused = 0
        """Players that were closed because too many handlers of their user had not ended."""
        self._context = context
        self._handlers = handlers
        self._posts = posts
        self.type = type
        self._cluster = cluster
        self._by_key: dict[tuple[int, int], Player] = {}
        self._ending: dict[tuple[int, int], Player] = {}  # closed, with handlers that have not ended
        self._unfinished: dict[int, set[Player]] = {}  # the same by uid, and those that `_ending` has no more
        self._lost = LostPushes()
        self._silence_check = Call(self._check_silence)
        self._emptied = asyncio.Event()  # set when the last player leaves

    # -- players --

    def __len__(self) -> int:
        return len(self._by_key)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Player]:
        """The players of this moment; players may come and leave while you iterate."""
        return iter(list(self._by_key.values()))

    def __contains__(self, session: object) -> bool:
        return isinstance(session, Player) and self._by_key.get((session.uid, session.slot)) is session

    def outboxes(self) -> tuple[Outbox, ...]:
        """None: messages to players wait on the links to their gateways."""
        return ()

    def get(self, uid: int, slot: int = 0) -> Player | None:
        """The player of a user's device, if this service has it."""
        return self._by_key.get((uid, slot))

    def of(self, uid: int) -> list[Player]:
        """The players of a user at this service, by slot."""
        return [player for slot in SLOTS if (player := self._by_key.get((uid, slot))) is not None]

    def by_sid(self, link: Link, sid: int) -> Player | None:
        """The player with a gateway's `sid`."""
        return self.by_link.get(link, _NO_PLAYERS).get(sid)

    async def wait_empty(self) -> None:
        """Wait until the last player has left."""
        while self._by_key:
            self._emptied.clear()
            await self._emptied.wait()

    # -- one message, to one by its uid or to many --

    async def push(self, uid: int, message: Any, slot: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> bool:
        """Send `message` to a user's device at any gateway, of this service or not; False if it has no session.

        Raises EngineUnavailable for a user that is no player here, and what encoding raises.
        """
        player = self._by_key.get((uid, slot))
        if player is not None:
            try:
                player.send(message, key=key, full=full)
            except SessionClosed:
                return False
            return True
        encoder = self._context.encoder(type(message))
        frame = encoder.frame(message)
        place = await self._cluster.find(uid, slot)
        link = self._cluster.links.get(place.gateway) if place is not None else None
        if (
            place is None
            or link is None
            or not self._push(link, push_frames((place.epoch,), [frame], POLICY_NUMBERS[full], key))
        ):
            return False
        encoder.traffic.messages += 1
        encoder.traffic.bytes += len(frame)
        return True

    def broadcast(
        self, message: Any, to: Iterable[Peer] | None = None, *, key: int = 0, full: Full = Full.CLOSE
    ) -> int:
        """Send `message`, encoded once, to the players of `to` (None: all of this service); return their number.

        It crosses each link once, with the list of its players. Raises what encoding raises.
        """
        encoder = self._context.encoder(type(message))
        frame = encoder.frame(message)
        by_link: dict[Link, list[int]] = {}
        for player in self._by_key.values() if to is None else to:
            if isinstance(player, Player) and player.state is _OPEN:
                by_link.setdefault(player.link, []).append(player.sid)
        sent = 0
        for link, sids in by_link.items():
            at_once = max(1, min(_PUSH_AT_ONCE, (link.max_envelope - PUSH_HEAD - len(frame)) // SID_SIZE))
            for at in range(0, len(sids), at_once):
                part = sids[at : at + at_once]
                if self._push(link, push_frames(part, [frame], POLICY_NUMBERS[full], key)):
                    sent += len(part)
        encoder.traffic.messages += sent
        encoder.traffic.bytes += sent * len(frame)
        return sent

    def broadcast_gateways(
        self, links: Iterable[Link], message: Any, name: str = "", *, key: int = 0, full: Full = Full.CLOSE
    ) -> None:
        """Send `message` once over each link to a gateway, for every player there.

        name: the gateways' name of a group, to reach only its members. Raises what encoding raises.
        """
        encoder = self._context.encoder(type(message))
        frame = encoder.frame(message)
        broadcast = broadcast_frames(name, [frame], POLICY_NUMBERS[full], key)
        for link in links:
            if self._push(link, broadcast):
                encoder.traffic.messages += 1
                encoder.traffic.bytes += len(frame)

    def _push(self, link: Link, whole: bytes) -> bool:
        try:
            link.push(whole)
        except (OutboxFull, SessionClosed):
            self._context.stats.dropped += 1
            return False
        return True

    def knows(self, type: int, server: int) -> bool:
        """Whether a server of that id and type is up, as the registry says."""
        info = self._cluster.registry.servers.get(server)
        return info is not None and info.type == type and info.state is State.UP

    def full_name(self, group: str) -> str:
        """The gateways' name of a group of this service. Raises LocalError if it is empty or too long."""
        check_name(group)
        name = f"{self.type}/{group}"
        if len(name) > MAX_NAME:
            raise LocalError(f"a group's name of {len(group)} characters; with its type it has at most {MAX_NAME}")
        return name

    # -- from links (links.LinkReceiver) --

    def link_opened(self, link: Link) -> None:
        """Tell a gateway the losses of the link before, and begin to report its players' handled frames."""
        self._lost.report(link)
        self._reports.begin(link)

    def _check_silence(self) -> None:
        """Handle no player's messages while its gateway may have given this service up.

        The path may be cut in both directions. Then the gateway gives up after `heartbeat_timeout`. This service drops
        the connection earlier, unread. So further messages need a resume, and a gateway that has given up refuses it.
        """
        for link in list(self.by_link):
            if link.held is None and link.silent > longest_silence(link.limits):
                link.held = asyncio.Event()
                link.session.drop_connection(CloseCode.HEARTBEAT_TIMEOUT, f"silent for {link.silent:.0f} s")
            self._check_silence_soon(link)

    def _check_silence_soon(self, link: Link) -> None:
        """Check again well before a gateway can give up. Without players no check is needed."""
        self._context.wheel.set(self._silence_check, link.limits.heartbeat_interval / 4)

    def _handle_again(self, link: Link) -> None:
        held, link.held = link.held, None
        if held is not None:
            held.set()

    def link_detached(self, link: Link) -> None: ...

    def link_attached(self, link: Link) -> None:
        self._handle_again(link)

    def _note_losses(self, link: Link) -> None:
        """Tell the players' handlers how many frames are still in the link: they are lost."""
        for sid, count in self._lost.note(link).items():
            player = self.by_sid(link, sid)
            if player is not None:
                self._handlers.lost(player, Lost(self.type, 0, count))

    def note_losses(self) -> None:
        """All links have been dropped: tell the players' handlers what was lost, before they are dropped."""
        for link in list(self.by_link):
            self._note_losses(link)

    def link_closed(self, link: Link) -> None:
        """A gateway died, and the sessions that it held with it; or it gave this service up."""
        self._note_losses(link)
        self._lost.closed(link)
        for player in list(self.by_link.get(link, _NO_PLAYERS).values()):
            if link.was_given_up:
                player.drop(CloseCode.GOING_AWAY, "its gateway is gone")
            else:
                player.closed_elsewhere(CloseCode.GOING_AWAY, "its gateway is dead")
        self._handle_again(link)
        self.by_link.pop(link, None)
        self._reports.end(link)

    def receive_envelopes(self, link: Link, frames: list[Frame]) -> None:
        """Hand each player's frames to its handlers."""
        max_frame = self.max_frame
        unreported = self.unreported.get(link)
        for id, flags, body in frames:
            try:
                if id == CLIENT_FRAME:
                    sid, received = open_client_frames(body, max_frame)
                    player = self.by_sid(link, sid)
                    if player is not None:
                        if unreported is not None and player.taken == player.reported:
                            unreported.append(player)
                        player.taken += len(received)
                        player.receive(received)
                    else:
                        self.strays += len(received)
                        if unreported is not None:  # reported as handled: the player is gone
                            link.send_whole(handled_counts([(sid, len(received))]))
                elif id in ENVELOPE_IDS:
                    self._event(link, open_event(id, body, link.speaks_requests))
                else:
                    self._posts.dispatch(link.session, [(id, flags, body)])
            except BodyError as error:
                self.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))
                player = self.by_sid(link, int.from_bytes(body[:8], "little")) if id == CLIENT_FRAME else None
                if player is not None:
                    player.broken(error)  # some of its messages are missing now

    def _event(self, link: Link, event: msgspec.Struct) -> None:
        match event:
            case SessionOpened():
                self.opened(link, event)
            case envelope.SessionClosed(sid=sid, code=code):
                player = self.by_sid(link, sid)
                if player is not None:
                    player.closed_elsewhere(close_code(code))
            case envelope.Renewed(sid=sid, claims=claims, expires_in=expires_in):
                player = self.by_sid(link, sid)
                if player is not None:
                    player.renewed(claims, expires_in)
            case envelope.Connected(on=on, sids=sids):
                for sid in sids:
                    player = self.by_sid(link, sid)
                    if player is not None:
                        player.connected(bool(on))
            case Run(instance=instance):
                self._cluster.links.set_instance(link, instance)
            case LinkReady():
                pass
            case _:
                raise BodyError(f"a {event.__class__.__name__} to a service")

    def opened(self, link: Link, event: SessionOpened) -> None:
        """A gateway gives this service a player; an older session of the same user and slot is closed.

        The gateway of the older session is told to close it too: the newer login's gateway may not have reached it. If
        too many handlers of the user are running, the new player is closed at its gateway instead.

        Raises BodyError for claims that are no JSON object, and for a sid that another player has.
        """
        older = self._by_key.get((event.uid, event.slot))
        known = self.by_sid(link, event.sid)
        if known is not None and known is not older:
            raise BodyError(f"a second player with sid {event.sid}")
        if older is not None:
            if older.epoch > event.epoch:  # an older login, delivered late: its frames are strays
                link.send_event(Kick(event.sid, CloseCode.REPLACED, "a newer login of the same user"))
                return
            if older.link is link and older.sid == event.sid:
                return  # repeated
        player = Player(self._context, self, self._handlers, link, event)
        if older is not None:
            if older.link is not link:
                older.link.send_event(Kick(older.sid, CloseCode.REPLACED, "a newer login of the same user"))
            older.closed_elsewhere(CloseCode.REPLACED, "a newer login of the same user")
        if self._is_crowded(event.uid):
            self.refused += 1
            quiet.info("a player is refused: too many handlers of the user have not ended", uid=event.uid)
            reason = f"{MAX_UNFINISHED} earlier sessions still have handlers under way"
            link.send_event(Kick(event.sid, CloseCode.SERVER_FULL, reason))
            player.user.leave(player)
            return
        self._by_key[player.uid, player.slot] = player
        by_sid = self.by_link.get(link)
        if by_sid is None:
            by_sid = self.by_link[link] = {}
            self._check_silence_soon(link)
        by_sid[player.sid] = player
        self._context.stats.verified += 1
        ending = self._ending.get((player.uid, player.slot))
        if ending is None:
            player.open()
        else:
            player.open_after(ending)

    def close(self, code: CloseCode, reason: str) -> None:
        """Close every player here; their sessions live on at the gateways."""
        for player in self:
            player.closed_elsewhere(code, reason)

    def drop(self, code: CloseCode, reason: str) -> None:
        """Drop every player with the messages that wait for handlers: other servers have the players by now."""
        for player in (*self, *(player for ended in self._unfinished.values() for player in ended)):
            player.drop(code, reason)

    def closed(self, player: Player) -> None:
        """A player is closed here; its handlers may still run."""
        key = (player.uid, player.slot)
        if player in self:
            del self._by_key[key]
        self._ending[key] = player
        self._unfinished.setdefault(player.uid, set()).add(player)
        player.last_handler.then(lambda: self._forget(key, player))
        by_sid = self.by_link.get(player.link)
        if by_sid is not None:
            by_sid.pop(player.sid, None)
        if not self._by_key:
            self._emptied.set()

    def _forget(self, key: tuple[int, int], player: Player) -> None:
        if self._ending.get(key) is player:
            del self._ending[key]
        unfinished = self._unfinished[player.uid]
        unfinished.discard(player)
        if not unfinished:
            del self._unfinished[player.uid]

    def _is_crowded(self, uid: int) -> bool:
        """Whether handlers of too many closed sessions of a user are running.

        A session that is not busy only waits for its `closed` event.
        """
        unfinished = self._unfinished.get(uid, ())
        return len(unfinished) >= MAX_UNFINISHED and sum(player.is_busy for player in unfinished) >= MAX_UNFINISHED
