"""The players of a service: each stands for a session that a gateway holds.

Handlers see no difference: `send`, `kick`, `uid`, `data` are as on a server that holds the connection itself. Below,
frames come out of ClientFrames and leave in PushFrames, over the gateway's link.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gatelink.cluster.cluster import Cluster
from gatelink.cluster.links import Link
from gatelink.cluster.registry import State
from gatelink.errors import BodyError, CloseCode, LocalError, PeerError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.logger import Logger
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.control_frames import close_code
from gatelink.session.groups import MAX_NAME, check_name
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import Dispatcher, Forwarder, Peer
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.rates import TokenBucket
from gatelink.session.session import NO_CLAIMS
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.stream import Pause
from gatelink.wire import envelope
from gatelink.wire.control import MAX_REASON
from gatelink.wire.envelope import (
    CLIENT_FRAME,
    PUSH_HEAD,
    RETURNED,
    SID_SIZE,
    Arrival,
    Bind,
    Hold,
    Join,
    Kick,
    Leave,
    LinkReady,
    Run,
    SessionOpened,
    broadcast_frames,
    open_client_frames,
    open_event,
    push_frames,
)
from gatelink.wire.frames import Frame, encode_frame

quiet = RateLimitedLogger(Logger("gatelink.service"))

POLICIES = (Full.CLOSE, Full.DROP_OLDEST, Full.DROP_NEWEST)
"""Policies by their number in a PushFrame."""

ENVELOPE_HEAD = 1_100
"""Bytes that an envelope to a gateway is longer than its message, at most: a group's name has 255 characters."""

POLICY_NUMBERS = {policy: number for number, policy in enumerate(POLICIES)}

_OPEN = SessionState.OPEN


class Player:
    """A player's session as a service has it; its connection is at the gateway (session.interfaces.Peer).

    sid: the number by which the gateway and this service name the session. gateway: the id of that gateway.
    arrival: how the player came to this server. lost_messages: how many of the player's messages were lost with the
    server before. The rest is as for a `Session`.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_is_closed_elsewhere",
        "_on_handled",
        "_paused",
        "_pending",
        "_players",
        "address",
        "arrival",
        "claims",
        "close_code",
        "close_reason",
        "context",
        "data",
        "epoch",
        "forwarder",
        "handlers",
        "inbox",
        "last_heard",
        "link",
        "lost_messages",
        "returned",
        "sid",
        "slot",
        "source",
        "state",
        "type_rates",
        "uid",
        "verified_at",
    )

    def __init__(
        self,
        context: LoopContext,
        players: "Players",
        handlers: "Dispatcher[Player]",
        link: Link,
        opened: SessionOpened,
    ) -> None:
        self.context = context
        self.handlers = handlers
        self.link = link
        self.sid = opened.sid
        self.arrival = Arrival(opened.type & ~RETURNED)
        self.returned = bool(opened.type & RETURNED)
        self.lost_messages = opened.lost
        self.uid = opened.uid
        self.slot = opened.slot
        self.epoch = opened.epoch
        self.source = 0
        self.address = opened.address
        self.claims = _claims(opened.claims)
        self.verified_at = opened.epoch / 1_000_000
        self.data: Any = None
        self.state = _OPEN
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self.last_heard = context.wheel.read_clock()
        self.inbox: Inbox | None = None
        self.type_rates: dict[int, TokenBucket] | None = None
        self.forwarder: Forwarder | None = None
        self._players = players
        self._paused = Pause(0)
        self._is_closed_elsewhere = False  # the session may live on at its gateway
        self._pending: list[Frame] | None = None  # frames that came before `opened`
        self._on_handled: tuple[Callable[[], None], ...] | None = ()  # None: the last handler has ended
        self._closed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        end = f" {self.close_code.label}" if self.close_code else ""
        return f"<Player uid={self.uid} slot={self.slot} at gateway {self.gateway} {self.state.name}{end}>"

    @property
    def expires_at(self) -> float | None:
        """None: gateways do not pass it on."""
        return None

    @property
    def gateway(self) -> int:
        """The server id of the gateway that holds the player's connection."""
        return self.link.id

    @property
    def accepted(self) -> bool:
        """True: its gateway accepted the connection."""
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes received and not yet handled. What is sent to the player waits on the link."""
        return self.inbox.bytes if self.inbox is not None else 0

    # -- to the player --

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on any session. Raises SessionClosed, also when the link to the gateway is full and `full` is CLOSE."""
        cls = type(message)
        encoder = self.context.encoders.get(cls) or self.context.encoder(cls)
        frame = encoder.frame(message)
        self.send_frame(frame, key, full)
        traffic = encoder.traffic
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_raw(self, id: int, body: bytes, flags: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """As on any session. Raises as `send`, and LocalError for an id of the framework's."""
        self.context.check_sendable(id)
        frame = encode_frame(id, body, flags)
        self.context.check_size(id, frame)
        self.send_frame(frame, key, full)
        traffic = self.context.traffic_of(id)
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queue a whole frame for the player, on the link to its gateway."""
        if self.state is not _OPEN and not self._is_answering:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)
        try:
            if key or full is not Full.CLOSE:
                self.link.push(push_frames((self.sid,), [frame], POLICY_NUMBERS[full], key))
            else:
                self.link.push_to(self.sid, frame)
        except OutboxFull as error:
            if full is not Full.CLOSE:
                self.context.stats.dropped += 1
                return
            self.close(error.code, "the link to the gateway is full")
            raise SessionClosed(error.code, str(error)) from None

    def send_frames(self, frames: list[bytes]) -> None:
        """`send_frame` of several, in order."""
        for frame in frames:
            self.send_frame(frame)

    @property
    def _is_answering(self) -> bool:
        """Whether a handler still answers messages from before the session was closed elsewhere."""
        return self._is_closed_elsewhere and self._on_handled is not None

    async def drain(self) -> None:
        """Wait until everything queued for the player's gateway is handed to its socket."""
        if self.state is _OPEN:
            await self.link.drain()
        if self.close_code is not None:
            raise SessionClosed(self.close_code, self.close_reason)

    # -- at the gateway --

    def bind(self, type: int, server: int) -> bool:
        """Send the player's messages for a `type` of server to one server from now on; 0 lets the gateway choose.

        Returns False and logs it if this server knows no such server that is up. The gateway is asked in any case: it
        holds the player's messages for the type's `hold_seconds`, in case the server comes. Then it chooses another
        one, logs that and counts it (`gatelink_missed_binds_total`).

        Raises LocalError for a type that is not 1 to 255, or a server that is not 0 to 2**64 - 1.
        """
        if not 1 <= type <= 255 or not 0 <= server < 1 << 64:
            raise LocalError(f"bind to server {server} of type {type}; types are 1 to 255, ids 0 to 2**64 - 1")
        self._send_event(Bind(self.sid, type, server))
        is_there = server == 0 or self._players.knows(type, server)
        if not is_there:
            quiet.error("a player was bound to a server that is not up", uid=self.uid, type=type, server=server)
        return is_there

    def inject(self, message: Any) -> None:
        """As on any session: handle `message` as if the player had sent it."""
        self.handlers.inject(self, message)

    def join(self, group: str) -> None:
        """As on any session; the gateway sends the player what is broadcast to the group."""
        name = self._players.full_name(group)
        if self.state is _OPEN:
            self.context.groups.join(self, group)
        elif not self._is_answering:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)
        self._send_event(Join(self.sid, name))

    def leave(self, group: str) -> None:
        """Ends a `join`."""
        self.context.groups.leave(self, group)
        self._send_event(Leave(self.sid, self._players.full_name(group)))

    def pause(self, why: Pause) -> None:
        """Have the gateway stop reading from this player: its handlers lag."""
        if not self._paused and self.state is _OPEN:
            self.link.send_event(Hold(self.sid, 1))
        self._paused |= why

    def resume(self, why: Pause) -> None:
        """Take a reason of `pause` back."""
        if self._paused and not self._paused & ~why and self.state is _OPEN:
            self.link.send_event(Hold(self.sid, 0))
        self._paused &= ~why

    def _send_event(self, event: msgspec.Struct) -> None:
        if self.state is _OPEN or self._is_answering:
            self.link.send_event(event)

    # -- from the gateway --

    def receive(self, frames: list[Frame]) -> None:
        """Hand frames of the player to its handlers."""
        if self._pending is not None:
            self._pending += frames
        elif self.state is _OPEN:
            self.last_heard = self.context.wheel.clock()
            self.handlers.dispatch(self, frames)

    def open(self) -> None:
        """Call the handlers of `on_verified`."""
        self.handlers.opened(self)

    def open_after(self, older: "Player") -> None:
        """Open it once the user's session before is closed for the handlers, or after limits.close_timeout."""
        self._pending = []
        self.pause(Pause.OPENING)
        self.context.wheel.call(self.context.limits.close_timeout, self._begin)
        older.after_handlers(self._begin)

    def _begin(self) -> None:
        frames, self._pending = self._pending, None
        if frames is None:
            return
        self.resume(Pause.OPENING)
        self.handlers.opened(self)
        if self.state is _OPEN:
            if frames:
                self.handlers.dispatch(self, frames)
        else:  # it was closed meanwhile, and `dispatch` takes only the first frame of a closed session
            for frame in frames:
                self.handlers.dispatch(self, [frame])
        if self.close_code is not None:
            self.handlers.closed(self, handle_rest=True)

    def closed_elsewhere(self, code: CloseCode, reason: str = "") -> None:
        """The gateway closed the session or gave it to another server; frames from before are still handled."""
        if self.state is _OPEN:
            self._is_closed_elsewhere = True
            if self._paused:  # else the pause would hold when the player comes back here
                self.link.send_event(Hold(self.sid, 0))
            self._end(code, reason, handle_rest=True)

    # -- close --

    def broken(self, error: PeerError) -> None:
        """The player sent an invalid message: close its session."""
        self._close_at_gateway(error.code, str(error), "")  # the reason is for our log only

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the session at its gateway, which first delivers what was sent before."""
        self._close_at_gateway(code, reason, reason)

    def kick(self, reason: str = "") -> None:
        """Close the session with 4009 kicked; its gateway revokes the user's tokens."""
        self.close(CloseCode.KICKED, reason)

    def abort(self) -> None:
        """As `close`: what was sent is at the gateway already."""
        self.close()

    def _close_at_gateway(self, code: CloseCode, reason: str, sent: str) -> None:
        self._send_event(Kick(self.sid, code, sent[:MAX_REASON]))
        if self.state is _OPEN:
            if self._pending is not None:
                self._pending = []
            self._end(code, reason, handle_rest=False)

    def _end(self, code: CloseCode, reason: str, handle_rest: bool) -> None:
        self.state = step(SESSION, self.state, SessionEvent.END)
        self.close_code = code
        self.close_reason = reason
        self.context.stats.closed[code] += 1
        self.context.groups.leave_all(self)
        self._players.closed(self)
        if not self._paused & Pause.OPENING:
            self.handlers.closed(self, handle_rest)
        if self._closed is not None:
            self._closed.set_result(None)
            self._closed = None

    async def wait_closed(self) -> None:
        """Wait until the session is closed here; it may live on at its gateway."""
        if self.state is not _OPEN:
            return
        if self._closed is None:
            self._closed = self.context.loop.create_future()
        await asyncio.shield(self._closed)

    def after_handlers(self, call: Callable[[], None]) -> None:
        """Call `call` when the last handler of this closed session has ended; at once if it has."""
        if self._on_handled is None:
            call()
        else:
            self._on_handled += (call,)

    def handlers_done(self) -> None:
        """All received frames and the event `closed` have been handled."""
        calls, self._on_handled = self._on_handled, None
        for call in calls or ():
            call()


class Players:
    """The players of one service, by `(uid, slot)` or by the gateway's link and sid; uses the links (links.LinkUser).

    type: the service's type, which is part of its groups' names at the gateways. posts: handles messages of servers.
    """

    def __init__(
        self, context: LoopContext, handlers: "Dispatcher[Player]", posts: Handlers, type: int, cluster: Cluster
    ) -> None:
        self.malformed = 0
        """Envelopes that were dropped."""
        self.strays = 0
        """Frames of players that this service does not have, or not any more."""
        self._context = context
        self._handlers = handlers
        self._posts = posts
        self._type = type
        self._cluster = cluster
        self._by_key: dict[tuple[int, int], Player] = {}
        self._by_sid: dict[Link, dict[int, Player]] = {}
        self._ending: dict[tuple[int, int], Player] = {}  # closed, with handlers that have not ended
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
        """None: what players are sent waits on the links to their gateways."""
        return ()

    def get(self, uid: int, slot: int = 0) -> Player | None:
        """The player of a user's device, if this service has it."""
        return self._by_key.get((uid, slot))

    def of(self, link: Link, sid: int) -> Player | None:
        """The player with a gateway's `sid`."""
        return self._by_sid.get(link, _NO_PLAYERS).get(sid)

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
        name = f"{self._type}/{group}"
        if len(name) > MAX_NAME:
            raise LocalError(f"a group's name of {len(group)} characters; with its type it has at most {MAX_NAME}")
        return name

    # -- from links (links.LinkUser) --

    def link_opened(self, link: Link) -> None: ...

    def link_attached(self, link: Link) -> None: ...

    def link_closed(self, link: Link) -> None:
        """A gateway died, and the sessions that it held with it."""
        for player in list(self._by_sid.get(link, _NO_PLAYERS).values()):
            player.closed_elsewhere(CloseCode.GOING_AWAY, "its gateway is dead")
        self._by_sid.pop(link, None)

    def envelopes(self, link: Link, frames: list[Frame]) -> None:
        """Hand each player's frames to its handlers; what they send meanwhile leaves with the answers to this read."""
        max_frame = self._context.limits.max_frame
        for id, flags, body in frames:
            try:
                if id == CLIENT_FRAME:
                    sid, received = open_client_frames(body, max_frame)
                    player = self.of(link, sid)
                    if player is not None:
                        player.receive(received)
                    else:
                        self.strays += len(received)
                elif 100 <= id <= 199:
                    self._event(link, open_event(id, body))
                else:
                    self._posts.dispatch(link.session, [(id, flags, body)])
            except BodyError as error:
                self.malformed += 1
                quiet.error("envelope dropped", server=link.id, id=id, error=str(error))
                player = self.of(link, int.from_bytes(body[:8], "little")) if id == CLIENT_FRAME else None
                if player is not None:
                    player.broken(error)  # some of its messages are missing now
        link.pack()

    def _event(self, link: Link, event: msgspec.Struct) -> None:
        match event:
            case SessionOpened():
                self.opened(link, event)
            case envelope.SessionClosed(sid=sid, code=code):
                player = self.of(link, sid)
                if player is not None:
                    player.closed_elsewhere(close_code(code))
            case Run(instance=instance):
                self._cluster.links.set_instance(link, instance)
            case LinkReady():
                pass
            case _:
                raise BodyError(f"a {event.__class__.__name__} to a service")

    def opened(self, link: Link, event: SessionOpened) -> None:
        """A gateway gives this service a player; an older session of the same user and slot is closed.

        Raises BodyError for claims that are no JSON object, and for a sid that another player has.
        """
        older = self._by_key.get((event.uid, event.slot))
        known = self.of(link, event.sid)
        if known is not None and known is not older:
            raise BodyError(f"a second player with sid {event.sid}")
        if older is not None:
            if older.epoch > event.epoch:
                return  # an older login, delivered late: its frames are strays
            if older.link is link and older.sid == event.sid:
                return  # repeated
        player = Player(self._context, self, self._handlers, link, event)
        if older is not None:
            older.closed_elsewhere(CloseCode.REPLACED, "a newer login of the same user")
        self._by_key[player.uid, player.slot] = player
        self._by_sid.setdefault(link, {})[player.sid] = player
        self._context.stats.verified += 1
        ending = self._ending.get((player.uid, player.slot))
        if ending is None:
            player.open()
        else:
            player.open_after(ending)

    def close(self, code: CloseCode, reason: str) -> None:
        """Give every player up; their sessions live on at the gateways."""
        for player in self:
            player.closed_elsewhere(code, reason)

    def closed(self, player: Player) -> None:
        """A player is closed here; its handlers may still run."""
        key = (player.uid, player.slot)
        if player in self:
            del self._by_key[key]
        self._ending[key] = player
        player.after_handlers(lambda: self._forget(key, player))
        by_sid = self._by_sid.get(player.link)
        if by_sid is not None:
            by_sid.pop(player.sid, None)
        if not self._by_key:
            self._emptied.set()

    def _forget(self, key: tuple[int, int], player: Player) -> None:
        if self._ending.get(key) is player:
            del self._ending[key]


_NO_PLAYERS: Mapping[int, Player] = MappingProxyType({})
_PUSH_AT_ONCE = 8_192  # sids of 8 bytes: 64 KiB of envelope


def _claims(text: str) -> Mapping[str, Any]:
    """The claims of a SessionOpened. Raises BodyError."""
    if not text:
        return NO_CLAIMS
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BodyError(f"claims are not a JSON object: {error}") from None
