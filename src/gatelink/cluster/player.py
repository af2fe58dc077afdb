"""A player's session at a service: its connection is at a gateway.

Handlers see no difference: `send`, `kick`, `uid`, `data` are as on a server that holds the connection itself. Below,
frames come out of ClientFrames and leave in PushFrames, over the gateway's link.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol, TypeVar, overload

import msgspec

from gatelink._native import compiled
from gatelink.cluster.links import Link
from gatelink.errors import (
    BodyError,
    CloseCode,
    LocalError,
    PeerError,
    ProtocolError,
    RequestCode,
    SessionClosed,
    checked_code,
)
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.inbox import Inbox, LastHandler
from gatelink.session.interfaces import Dispatcher, Forwarder
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, OutboxFull
from gatelink.session.renewal import ends_at
from gatelink.session.requests import Requests, ask
from gatelink.session.session import NO_CLAIMS
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.stream import Pause
from gatelink.wire.control import MAX_REASON, Features, Lost
from gatelink.wire.envelope import (
    HAS_CONNECTION,
    RETURNED,
    Arrival,
    Bind,
    Hold,
    Join,
    Kick,
    Leave,
    SessionOpened,
    SessionOpenedFully,
    push_frames,
)
from gatelink.wire.frames import REQUEST, Frame, encode_frame
from gatelink.wire.messages import Request

_A = TypeVar("_A")

quiet = RateLimitedLogger(Logger("gatelink.service"))

POLICIES = tuple(Full)
"""Policies by their number in a PushFrame."""

POLICY_NUMBERS = {policy: number for number, policy in enumerate(POLICIES)}

_OPEN = SessionState.OPEN


class PlayerOwner(Protocol):
    """All players of the service, as one of them sees them. type: the service's."""

    type: int

    def knows(self, type: int, server: int) -> bool:
        """Whether a server of that id and type is up."""

    def full_name(self, group: str) -> str:
        """The gateways' name of a group of the service. Raises LocalError."""

    def closed(self, player: "Player") -> None:
        """The player is closed; its handlers may still run."""


@compiled
class PlayerPath:
    """The path of a player's messages through a service. Its only subclass is `Player`.

    requests: None if the player does not speak them. taken: the number of frames that came from the gateway. reported:
    the number of these that were reported to the gateway as handled.
    """

    __slots__ = (
        "_paused",
        "_pending",
        "context",
        "forwarder",
        "handlers",
        "inbox",
        "last_heard",
        "link",
        "reported",
        "requests",
        "sid",
        "state",
        "taken",
    )

    def __init__(self, context: LoopContext, handlers: "Dispatcher[Player]", link: Link, sid: int) -> None:
        self.context = context
        self.handlers = handlers
        self.link = link
        self.sid = sid
        self.state = _OPEN
        self.last_heard = context.wheel.read_clock()
        self.inbox: Inbox | None = None
        self.forwarder: Forwarder | None = None
        self.requests: Requests | None = None
        self.taken = 0
        self.reported = 0
        self._paused = Pause(0)
        self._pending: list[Frame] | None = None  # frames that came before `opened`

    # -- the rest of the player, where its path ends --

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None:
        raise NotImplementedError

    def _hold_or_read(self) -> None:
        raise NotImplementedError

    def broken(self, error: PeerError) -> None:
        raise NotImplementedError

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


class Player(PlayerPath):
    """A player's session as a service has it; its connection is at the gateway (session.interfaces.Peer).

    sid: the number by which the gateway and this service name the session. gateway: the id of that gateway.
    binding: counts the bindings of the player to servers of this type; 0 if the gateway does not say.
    is_connected: whether the player has a connection now. It follows only in a service with a handler of `on_suspended`
    or `on_resumed`.
    arrival: how the player came to this server. lost_messages: how many of the player's messages were lost with the
    server before. The rest is as for a `Session`.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_data_of",
        "_is_closed_elsewhere",
        "_is_held",
        "_owner",
        "address",
        "arrival",
        "binding",
        "claims",
        "close_code",
        "close_reason",
        "data",
        "epoch",
        "expires_at",
        "is_connected",
        "last_handler",
        "lost_messages",
        "returned",
        "slot",
        "source",
        "uid",
        "user",
        "verified_at",
    )

    def __init__(
        self,
        context: LoopContext,
        owner: "PlayerOwner",
        handlers: "Dispatcher[Player]",
        link: Link,
        opened: SessionOpened,
    ) -> None:
        super().__init__(context, handlers, link, opened.sid)
        self.arrival = Arrival(opened.type & ~RETURNED)
        self.returned = bool(opened.type & RETURNED)
        self.lost_messages = opened.lost
        self.binding = 0
        self.is_connected = True
        self.expires_at: float | None = None
        if isinstance(opened, SessionOpenedFully):
            self.binding = opened.binding
            self.is_connected = bool(opened.flags & HAS_CONNECTION)
            self.expires_at = ends_at(opened.expires_in)
            if opened.features & Features.REQUESTS:
                self.requests = Requests(owner.type, opened.binding)
        self.uid = opened.uid
        self.slot = opened.slot
        self.epoch = opened.epoch
        self.source = 0
        self.address = opened.address
        self.claims = _claims(opened.claims)
        self.verified_at = time.time()
        self.data: Any = None
        self._data_of: dict[object, Any] | None = None
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self._owner = owner
        self._is_held = False  # the gateway has the order not to read from the player
        self._is_closed_elsewhere = False  # the session may live on at its gateway
        self.last_handler = LastHandler()
        self._closed: asyncio.Future[None] | None = None
        self.user = context.users.join(self.uid, self)

    def __repr__(self) -> str:
        end = f" {self.close_code.label}" if self.close_code else ""
        return f"<Player uid={self.uid} slot={self.slot} at gateway {self.gateway} {self.state.name}{end}>"

    @property
    def gateway(self) -> int:
        """The server id of the gateway that holds the player's connection."""
        return self.link.id

    @property
    def unhandled(self) -> int:
        """How many of the `taken` frames have not been handled, at most."""
        inbox = self.inbox
        count = len(self._pending) if self._pending is not None else 0
        if inbox is not None:
            items = inbox.items
            count += len(items) + (inbox.task is not None or inbox.is_held_back)
            if items:  # the event `verified` is the first, `closed` the last
                count -= (items[0][0] < 0) + (len(items) > 1 and items[-1][0] < 0)
        return count

    @property
    def fence(self) -> tuple[int, int]:
        """(epoch, binding), which only grows: with each login of (uid, slot), and each service that gets the player.

        Write it beside what you store for the player, and refuse a write with an older one.
        """
        return self.epoch, self.binding

    @property
    def data_of(self) -> dict[object, Any]:
        """One entry for each object with handlers, which keeps there what it knows of this peer: `data_of[self]`."""
        if self._data_of is None:
            self._data_of = {}
        return self._data_of

    @property
    def held(self) -> asyncio.Event | None:
        """Not None while its gateway may have given this service up. No waiting message is handled until it is set."""
        return self.link.held

    @property
    def accepted(self) -> bool:
        """True: its gateway accepted the connection."""
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes received and not yet handled. Messages to the player wait on the link."""
        pending = sum(len(frame[2]) for frame in self._pending or ())
        return pending + (self.inbox.bytes if self.inbox is not None else 0)

    @property
    def carried_bytes(self) -> int:
        """0: its connection is at the gateway."""
        return 0

    @property
    def is_busy(self) -> bool:
        """Whether received messages wait for its handlers, or a handler is under way."""
        return self.inbox is not None or bool(self._pending)

    # -- to the player --

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

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """`send_frame` of several, in order."""
        for frame in frames:
            self.send_frame(frame)

    @property
    def _is_answering(self) -> bool:
        """Whether a handler still answers messages from before the session was closed elsewhere."""
        return self._is_closed_elsewhere and not self.last_handler.has_ended

    @overload
    async def request(self, message: Request[_A], *, timeout: float = 10.0) -> _A: ...  # noqa: ASYNC109

    @overload
    async def request(self, message: object, *, timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    async def request(self, message: object, *, timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """As on any session: send a request to the player, and return the answer. Raises RequestFailed."""
        return await ask(self, message, timeout)

    async def drain(self) -> None:
        """Wait until everything queued for the player's gateway is handed to the link's socket."""
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
        is_there = server == 0 or self._owner.knows(type, server)
        if not is_there:
            quiet.error("a player was bound to a server that is not up", uid=self.uid, type=type, server=server)
        return is_there

    def inject(self, message: Any) -> None:
        """As on any session: handle `message` as if the player had sent it."""
        self.handlers.inject(self, message)

    def join(self, group: str) -> None:
        """As on any session; the gateway sends the player what is broadcast to the group."""
        name = self._owner.full_name(group)
        if self.state is _OPEN:
            self.context.groups.join(self, group)
        elif not self._is_answering:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)
        self._send_event(Join(self.sid, name))

    def leave(self, group: str) -> None:
        """End a `join`."""
        self.context.groups.leave(self, group)
        self._send_event(Leave(self.sid, self._owner.full_name(group)))

    def pause(self, why: Pause) -> None:
        """Have the gateway stop reading from this player: its handlers lag."""
        self._paused |= why
        if why & Pause.USER and self.requests is not None:
            self.requests.give_up(RequestCode.TOO_MANY)  # no more room: the answers would not be read
        self._hold_or_read()

    def resume(self, why: Pause) -> None:
        """Take back a reason of `pause`."""
        self._paused &= ~why
        self._hold_or_read()

    def _hold_or_read(self) -> None:
        """Tell the gateway whether to read from the player.

        It reads on with a full inbox while a handler waits for an answer: until the user's messages fill one more
        window, which is a pause for USER (session.user).
        """
        is_awaited = self._paused == Pause.INBOX and self.requests is not None and self.requests.waiting > 0
        is_held = bool(self._paused) and not is_awaited
        if is_held is not self._is_held and self.state is _OPEN:
            self._is_held = is_held
            self.link.send_event(Hold(self.sid, int(is_held)))

    def expect_answers(self) -> None:
        """Have the gateway read on although handlers lag: one of them waits for an answer (requests.ask)."""
        if self._paused & Pause.USER and self.requests is not None:
            self.requests.give_up(RequestCode.TOO_MANY)
        elif self._paused:
            self._hold_or_read()

    def _take_requests(self, frames: list[Frame]) -> tuple[list[Frame], PeerError | None]:
        """Take the answers out of `frames`, and note the requests. The error is of the first frame that is wrong."""
        if self.requests is None:
            error = ProtocolError("a request or an answer of a player that does not speak requests")
            return list(takewhile(lambda frame: frame[1] < REQUEST, frames)), error
        messages, wrong = self.requests.take_all(self, frames)
        if wrong is None and self._paused:
            self._hold_or_read()  # perhaps no handler waits for an answer any more
        return messages, wrong

    def _send_event(self, event: msgspec.Struct) -> None:
        if self.state is _OPEN or self._is_answering:
            self.link.send_event(event)

    # -- from the gateway --

    def receive(self, frames: list[Frame]) -> None:
        """Hand frames of the player to its handlers. A wrong request or answer ends the session after those before."""
        wrong = None
        for frame in frames:
            if frame[1] >= REQUEST:
                frames, wrong = self._take_requests(frames)
                break
        if self._pending is not None:
            self._pending += frames
        elif self.state is _OPEN and frames:
            self.last_heard = self.context.wheel.clock()
            self.handlers.dispatch(self, frames)
        if wrong is not None:
            self.broken(wrong)

    def open(self) -> None:
        """Call the handlers of `on_verified`, and those of `on_lost` if the server before lost messages."""
        self.handlers.opened(self)
        if self.lost_messages:
            self.handlers.lost(self, Lost(self._owner.type, self.lost_messages, 0))

    def open_after(self, older: "Player") -> None:
        """Open it when the handlers of the user's older session have ended, or after limits.close_timeout."""
        self._pending = []
        self.pause(Pause.OPENING)
        self.context.wheel.call(self.context.limits.close_timeout, self._open_pending)
        older.last_handler.then(self._open_pending)

    def _open_pending(self) -> None:
        """Open it, and handle the frames that waited. Does nothing the second time."""
        frames, self._pending = self._pending, None
        if frames is None:
            return
        self.resume(Pause.OPENING)
        self.open()
        if self.state is _OPEN:
            if frames:
                self.handlers.dispatch(self, frames)
        else:  # closed meanwhile; `dispatch` takes only the first frame of a closed session
            for frame in frames:
                self.handlers.dispatch(self, [frame])
        if self.close_code is not None:
            self.handlers.closed(self, handle_rest=True)

    def renewed(self, claims: str, expires_in: int) -> None:
        """Take the result of a renewal: the player has renewed its login at the gateway. Raises BodyError."""
        self.claims = _claims(claims)
        self.expires_at = ends_at(expires_in)
        if self._pending is None:  # else `on_verified` comes first, and sees it
            self.handlers.renewed(self)

    def connected(self, on: bool) -> None:
        """Note that the player's connection broke, or is back."""
        if on is self.is_connected or self.state is not _OPEN:
            return
        self.is_connected = on
        if self._pending is not None:
            return  # `on_verified` comes first, and sees it
        if on:
            self.handlers.resumed(self)
        else:
            self.handlers.suspended(self)

    def closed_elsewhere(self, code: CloseCode, reason: str = "") -> None:
        """The gateway closed the session or gave it to another server. Its waiting frames are still handled.

        After a kick they are dropped.
        """
        if self.state is _OPEN:
            self._is_closed_elsewhere = True
            if self._is_held:  # else the pause would hold when the player comes back here
                self.link.send_event(Hold(self.sid, 0))
            is_kicked = code is CloseCode.KICKED
            if is_kicked and self._pending is not None:
                self._pending = []
            self._end(code, reason, handle_rest=not is_kicked)

    def drop(self, code: CloseCode, reason: str) -> None:
        """End the session here at once. Waiting messages are dropped, in both directions."""
        self._is_closed_elsewhere = False
        self.taken -= min(self.unhandled, self.taken - self.reported)  # dropped frames are not reported as handled
        if self._pending is not None:
            self._pending = []
        if self.state is _OPEN:
            self._end(code, reason, handle_rest=False)
        elif self.inbox is not None:
            self.inbox.drop_messages()

    # -- close --

    def broken(self, error: PeerError) -> None:
        """The player sent an invalid message: close its session."""
        self._close_at_gateway(error.code, str(error), "")  # the reason is for our log only

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the session at its gateway, which first delivers what was sent before.

        Raises LocalError if `code` is no CloseCode.
        """
        self._close_at_gateway(checked_code(code), reason, reason)

    def kick(self, reason: str = "") -> None:
        """Close the session with 4009 kicked; its gateway ends the user's other sessions and tokens."""
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
        self.user.leave(self)
        if self.requests is not None:
            self.requests.close()
        self._owner.closed(self)
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


def _claims(text: str) -> Mapping[str, Any]:
    """The claims of a SessionOpened. Raises BodyError."""
    if not text:
        return NO_CLAIMS
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BodyError(f"claims are not a JSON object: {error}") from None
