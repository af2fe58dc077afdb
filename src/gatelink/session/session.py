"""One verified peer: receiving from it, sending to it, and the end of its session.

The states of a session are in `states.SESSION`. Below a session is its stream, above it the table of handlers.
`receive` and `send` are the hot path. The frames of one read go to the handlers in one call. The messages sent in one
turn of the loop leave in one write.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from math import inf
from types import MappingProxyType
from typing import Any, TypeVar, overload

from gatelink.errors import (
    CloseCode,
    LocalError,
    PeerError,
    RequestCode,
    RequestFailed,
    SessionClosed,
    checked_code,
)
from gatelink.session.extension import DETACHING, Extension, PeerClosed
from gatelink.session.inbox import LastHandler
from gatelink.session.interfaces import Dispatcher, Owner
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox
from gatelink.session.rates import Meter
from gatelink.session.renewal import CloseExpired, Expiry, Renewal
from gatelink.session.requests import Requests, ask
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.straight_path import StraightPath
from gatelink.session.stream import LAGGING, Pause, Stream
from gatelink.session.user import User
from gatelink.wire import control
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.control import Features, Ticket, close_frame
from gatelink.wire.frames import ALL_FLAGS, BASE_FLAGS, REQUEST, Frame, encode_frame, messages_from
from gatelink.wire.messages import Request

_A = TypeVar("_A")

HEARTBEAT_FRAME = encode_frame(HEARTBEAT, b"")
NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})

LEAST_BEAT = 0.25
"""The least time, in seconds, between two checks of a session's heartbeat; the heartbeat interval, if that is shorter.
Ten thousand sessions that are checked at each tick cost 40 % of a core."""

HUNG_UP = "hung up"
"""The reason of a session whose client ended its stream, and said nothing before."""

LINGER_AFTER_FAREWELL = 10
"""Factor by which a base client's stream stays open longer after UserDuplicateLoginNotify, so that the user sees it."""

_OPEN = SessionState.OPEN
_NOT_DETACHED = (CloseCode.NORMAL, "")


class Session(StraightPath):
    """One verified peer.

    uid, slot: the user, and which of the user's devices. epoch: grows with every login of (uid, slot).
    source: 0 for a client, else the type of server that the peer says it is.
    address: the peer's host, as the listener saw it.
    returned: True if the answer to the login said that the client is back, not new (type 1 of ClientVertifySucceedRet).
    The client then still has its state, and gets the messages that its older session had queued.
    claims: what the token says of the user. data: yours, for the state that you keep with a session.
    expires_at: when the token ends, in unix seconds. None: it never ends, or the time is not known here, as in a client
    or a service. The session goes on after that time, unless you or `Server(expiry=)` end it.
    verified_at: unix seconds. last_heard: the time of the last read, attach or end of a pause, whichever is the
    latest, in seconds of the wheel's clock (timers.py). Heartbeats measure the peer's silence from there.
    close_code, close_reason: why the session ended; None and "" while it has not.

    user: what all sessions of the user share, as its rates.

    Its parts: `outbox` holds the queued messages, and outlives connections. The others may be None: `extension` is set
    if the peer sent HELLO, `meter` if the session has rates, `inbox` while messages wait for handlers, and `forwarder`
    if frames may go to other servers.
    """

    __slots__ = (
        "_closed",
        "_data_of",
        "_detach_reason",
        "_farewell",
        "_expiry",
        "_linger",
        "_last_handler",
        "_lingers",
        "_owner",
        "_paused",
        "address",
        "claims",
        "data",
        "epoch",
        "expires_at",
        "meter",
        "proof",
        "renewal",
        "returned",
        "slot",
        "source",
        "uid",
        "user",
        "verified_at",
    )

    held = None
    """Its messages are handled as they come (interfaces.MessageSource)."""

    def __init__(
        self,
        context: LoopContext,
        owner: "Owner[Session]",
        handlers: "Dispatcher[Session]",
        stream: Stream | None,
        *,
        uid: int,
        slot: int = 0,
        epoch: int = 0,
        source: int = 0,
        address: str = "",
        claims: Mapping[str, Any] = NO_CLAIMS,
        verified_at: float = 0.0,
        expires_at: float | None = None,
        extension: Extension | None = None,
        proof: bytes = b"",
        linger: float = 0.0,
    ) -> None:
        """proof: a keyed hash of the token (`SessionManager.proofs_of`), to compare logins by; empty without a token.

        linger: seconds that the stream stays open after the session's last message.
        """
        limits = context.limits
        window = extension.window if extension is not None else None
        outbox = window or Outbox(limits.max_outbox_frames, limits.max_outbox_bytes)
        super().__init__(context, handlers, stream, extension, outbox)
        self._owner = owner
        self.uid = uid
        self.slot = slot
        self.epoch = epoch
        self.source = source
        self.address = address
        self.claims = claims
        self.verified_at = verified_at
        self.expires_at = expires_at
        self.proof = proof
        self.returned = False
        self.data: Any = None
        self._data_of: dict[object, Any] | None = None
        self.meter: Meter | None = None
        self.user = User(uid, context.limits)  # until a manager installs it
        self.user.join(self)
        if extension is not None and extension.features & Features.REQUESTS and not context.between_servers:
            extension.requests = Requests()
        renews = extension is not None and extension.features & Features.RENEWAL
        self.renewal = Renewal(owner) if renews and not context.between_servers else None
        self._expiry: Expiry | None = None
        self._detach_reason = _NOT_DETACHED
        self._paused = Pause(0)
        self._farewell = b""  # written after the last message
        self._linger = linger
        self._lingers = False  # everything is written; the stream is closed at the next deadline
        self._last_handler: LastHandler | None = None
        self._closed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        end = f" {self.close_code.label}" if self.close_code else ""
        return f"<Session uid={self.uid} slot={self.slot} {self.address} {self.state.name}{end}>"

    @property
    def accepted(self) -> bool:
        """Whether this side accepted the connection; else it dialled."""
        return self._owner.accepting

    @property
    def fence(self) -> tuple[int, int]:
        """(epoch, 0), which grows with every login of (uid, slot). In a service the second number counts bindings."""
        return self.epoch, 0

    @property
    def data_of(self) -> dict[object, Any]:
        """One entry for each object with handlers, which keeps there what it knows of this peer: `data_of[self]`."""
        if self._data_of is None:
            self._data_of = {}
        return self._data_of

    @property
    def allowed_flags(self) -> Set[int]:
        """The flags bytes of frames that the peer may send."""
        return ALL_FLAGS if self.requests is not None else BASE_FLAGS

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that resumes the session; None while it can't be resumed."""
        return self.extension.ticket if self.extension is not None else None

    @property
    def requests(self) -> Requests | None:
        """Its requests in both directions; None if the peer does not speak them, or is a server."""
        return self.extension.requests if self.extension is not None else None

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, smoothed; None if it is not measured."""
        return self.extension.rtt if self.extension is not None else None

    @property
    def last_handler(self) -> LastHandler:
        """The end of its last handler."""
        if self._last_handler is None:
            self._last_handler = LastHandler()
        return self._last_handler

    @property
    def is_paused(self) -> bool:
        """Whether its peer is not read now, for any reason."""
        return bool(self._paused)

    @property
    def carried_bytes(self) -> int:
        """Bytes that its connection keeps in memory: received and not yet decoded, or written and not yet sent."""
        return self._stream.held_bytes if self._stream is not None else 0

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps in memory itself: queued, sent and not acknowledged, or received and not handled."""
        held = self.outbox.held_bytes
        if self.inbox is not None:
            held += self.inbox.bytes
        return held if self.forwarder is None else held + self.forwarder.held_bytes

    # -- to the peer --

    def send_raw(self, id: int, body: bytes, flags: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queue a message given by its id and encoded body. It keeps its place among the messages of `send`.

        Raises SessionClosed; MessageTooLarge; LocalError for an id of the framework's own.
        """
        self.context.check_sendable(id)
        frame = encode_frame(id, body, flags)
        self.context.check_size(id, frame)
        self.send_frame(frame, key, full)
        traffic = self.context.traffic_of(id)
        traffic.messages += 1
        traffic.bytes += len(frame)

    @overload
    async def request(self, message: Request[_A], *, timeout: float = 10.0) -> _A: ...  # noqa: ASYNC109

    @overload
    async def request(self, message: object, *, timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    async def request(self, message: object, *, timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """Send a request, and return the answer: what the other side's handler of it returned.

        message: of a class that says what answers it, as `class Join(Struct, Request[Joined])`. It keeps its place
        among the messages of `send`. timeout: seconds, exact to 0.2. At most 64 requests of a session may wait.

        Raises RequestFailed if there is no answer (its `code` says why), and what `send` raises for the message.
        """
        return await ask(self, message, timeout)

    def expect_answers(self) -> None:
        """Read on for one more window although handlers lag: one of them waits for an answer (requests.ask)."""
        extension = self.extension
        if extension is None:
            return
        if self._paused & Pause.USER:  # no more room: the answer would not be read
            self._give_up_requests()
            return
        over = extension.expect_answers(self._paused)
        self._paused &= ~over
        if over and self._stream is not None:
            self._stream.resume(over)

    async def drain(self) -> None:
        """Wait until all queued messages have been handed to the socket. Raises SessionClosed if it ends first."""
        if self.state in (_OPEN, SessionState.DETACHED):
            stream = self._stream
            if not self.outbox.count and stream is not None and stream.writable:
                return
            if self._drained is None:
                self._drained = self.context.loop.create_future()
            await asyncio.shield(self._drained)
        if self.close_code is not None:
            raise SessionClosed(self.close_code, self.close_reason)

    def go_away(self, within: float, address: str = "") -> bool:
        """Ask the peer to connect again within so many seconds, at the endpoint `address` (empty: where it is now).

        Returns False, and sends nothing, if the peer has no connection or does not speak the extension.
        Raises LocalError on the connecting side.
        """
        extension = self.extension
        if extension is None:
            return False
        if not self._owner.accepting:
            raise LocalError("a client asks no server to go away; `close` ends the session")
        if self.state is not _OPEN:
            return False
        extension.go_away(within, address)
        if not self._flush_scheduled:
            self._schedule_flush()
        return True

    # -- messages for the user's next session --

    def adopt(self, frames: list[bytes]) -> None:
        """Queue the messages that an older session of the user had queued, even if they exceed the limits."""
        self.outbox.adopt(frames)
        if frames and not self._flush_scheduled:
            self._schedule_flush()

    @property
    def unacknowledged(self) -> int:
        """Messages that were sent and that the peer has not acknowledged; 0 without resume."""
        window = self.extension.window if self.extension is not None else None
        return window.kept if window is not None else 0

    def take_unsent(self) -> list[bytes]:
        """Take out, in order, all messages that the kernel has not taken. A partly written message counts as sent.

        The stream can't be used after this: it may still hold some of these messages.
        """
        frames: list[bytes] = []
        if self._stream is not None and self._stream_holds_messages:
            frames = messages_from(self._written, len(self._written) - self._stream.unsent)
        self._written = b""
        return _without_tags(frames + self.outbox.drain())  # in another session a tag would mean something else

    @property
    def _stream_holds_messages(self) -> bool:
        """Whether the kernel has yet to take some of the messages that were written."""
        return bool(self._written) and self._stream is not None and self._stream.unsent > 0

    def replace(self, code: CloseCode, reason: str, *, farewell: bytes = b"") -> list[bytes]:
        """End the session as `close` does, but return the messages that the kernel has not taken.

        They are for the user's next session. If the stream holds some of them, the connection is aborted: it may have
        sent half a message, and nothing can follow that.
        """
        is_cut = self._stream_holds_messages
        frames = self.take_unsent()
        self.close(code, reason, farewell=farewell)
        if is_cut:
            self.abort()
        return frames

    # -- how long its login holds --

    async def renew(self, token: str, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - goes with the request
        """Show the server a fresh token of the same user, so that the session outlives the first one.

        A client calls it. `expires_at` follows, and so do `claims` at the server. If the connection breaks before the
        answer, the token is shown again when the session resumes.

        Raises RequestFailed; its `code` is REFUSED (the token, or a renewal within 5 s of the last one), TOO_MANY (one
        is under way), UNSUPPORTED, TIMEOUT or CLOSED. Raises LocalError on the accepting side.
        """
        if self._owner.accepting:
            raise LocalError("a server renews no login; the client calls `renew`")
        if self.close_code is not None:
            raise RequestFailed(RequestCode.CLOSED, reason="the session has ended")
        if self.renewal is None:
            raise RequestFailed(RequestCode.UNSUPPORTED, reason="the server does not renew logins")
        await self.renewal.ask(self, token, timeout)

    def close_when_expired(self, rule: CloseExpired) -> None:
        """Begin to watch the token's expiry by `rule`: the session is warned before it, and closed at it."""
        if self.renewal is not None or rule.base_clients:
            self._expiry = Expiry(self, rule)
            self._expiry.begin()

    def renewed(self, claims: Mapping[str, Any], expires_at: float | None, proof: bytes) -> None:
        """The token of a RENEW is good: the session has its claims and its end from now on.

        proof: of that token, in place of the older one's.
        """
        if self.close_code is not None:
            return
        self.claims = claims or NO_CLAIMS
        self.expires_at = expires_at
        self.proof = proof
        if self._expiry is not None:
            self._expiry.begin()
        self.answer_renewal(True)
        self.handlers.renewed(self)

    def answer_renewal(self, accepted: bool) -> None:
        """Answer a RENEW whose token was checked, unless the connection broke since."""
        if self.renewal is not None:
            self.renewal.checked(self, accepted)

    @property
    def expires_in(self) -> int:
        """Whole seconds until the token expires, at least 1; 0 if it never does."""
        if self.expires_at is None:
            return 0
        return max(1, min(control.MAX_U32, int(self.expires_at - time.time())))

    def send_control(self, record: control.Control) -> None:
        """Send a control record with the next write; drop it while there is no connection."""
        if self.extension is not None and self.state is _OPEN:
            self.extension.send(record)
            if not self._flush_scheduled:
                self._schedule_flush()

    # -- groups and servers --

    def join(self, group: str) -> None:
        """Add this session to `group`: it gets the group's broadcasts until it leaves or ends.

        Raises SessionClosed; LocalError for a name that is too long, or one group too many.
        """
        if self.state is not _OPEN:
            self._check_sendable()
        self.context.groups.join(self, group)

    def leave(self, group: str) -> None:
        """Remove this session from `group`."""
        self.context.groups.leave(self, group)

    def bind(self, type: int, server: int) -> bool:
        """Send the session's messages for a type of server to one server. True if that server is known to be up.

        This does nothing here, because this server handles all messages itself. In a service, `Player.bind` asks the
        gateway.
        """
        return True

    def inject(self, message: Any) -> None:
        """Give `message` to this session's handlers as if the peer had sent it.

        The handlers get it after the messages already received, and after this call returns. Rates do not apply to it.
        It is dropped if the session ends first. Raises SessionClosed if the session has ended; LocalError if twice
        limits.max_inbox messages wait for the handlers; and what encoding the message raises.
        """
        self.handlers.inject(self, message)

    # -- from the stream (FrameReceiver) --

    def take_requests(self, extension: Extension, frames: list[Frame]) -> list[Frame]:
        extension.has_tags = False
        if extension.requests is None:
            return []  # the decoder of such a peer lets none through
        forward = self.forwarder.forward_answer if self.forwarder is not None else None
        messages, error = extension.requests.take_all(self, frames, forward)
        if error is not None:
            extension.end = error
            extension.action_due = True
        return messages

    def after_read(self, extension: Extension) -> None:
        if extension.action_due:
            self._act_on(extension)
        if extension.lags and extension.is_over_window:
            self._give_up_requests()
            self._pause_stream(extension.lags)

    def _restart_requests(self, extension: Extension, requests: Requests) -> None:
        """The next connection is a new session at the server, which answers no request of this one."""
        requests.close()
        extension.requests = Requests()  # not the same one: a handler of the old session may answer late
        if self.inbox is not None:
            self.inbox.forget_tags()
        if any(frame[3] >= REQUEST for frame in self.outbox.frames()):
            self.outbox.adopt(_without_tags(self.outbox.drain()))

    def _give_up_requests(self) -> None:
        """Fail the requests of this side that wait for answers: there is no more room to read the answers."""
        if self.requests is not None:
            self.requests.give_up(RequestCode.TOO_MANY)

    def _act_on(self, extension: Extension) -> None:
        """Act on the control records of a read: renew the login, end the session, or set its new deadline."""
        extension.action_due = False
        if extension.notices:
            notices, extension.notices = extension.notices, ()
            for record in notices:
                if isinstance(record, control.Lost):
                    self.handlers.lost(self, record)
                elif self.renewal is not None and self.state is _OPEN:
                    self.renewal.received(self, record)
        end, extension.end = extension.end, None
        if self.state is not _OPEN:
            return
        if isinstance(end, PeerClosed):
            self._closed_by_peer(end, extension)
        elif end is not None:
            self.broken(end)
        else:
            self._wake(extension)

    def waiting(self, buffered: int) -> None:
        """Do nothing: part of a frame is no sign of life, so a peer that stops there meets the heartbeat timeout."""

    def broken(self, error: PeerError) -> None:
        """The peer sent something that ends its session, or only its connection (`DETACHING`)."""
        extension = self.extension
        if extension is None:
            self.close(error.code, str(error))
        elif error.code in DETACHING and extension.ticket is not None and self.state is _OPEN:
            self._drop_connection(error.code, str(error))
        else:
            self._close(error.code, str(error), close_frame(error.code))  # the details are for our log

    def writable(self) -> None:
        """The stream takes bytes again."""
        self._written = b""
        self.flush()

    def lost(self, error: Exception | None) -> None:
        """The connection has ended. The session ends too, unless its owner keeps it."""
        if self._stream is None:
            return  # the connection was dropped, or lost before
        if self.state is SessionState.CLOSING:
            self._release()
        elif error is None:
            # Without the extension this is how a client leaves. A server sends CLOSE, unless it was killed, or the
            # client does not speak the extension and can't be told why.
            if self.accepted:
                self._detach(CloseCode.NORMAL, HUNG_UP)
            else:
                self._detach(CloseCode.UNEXPLAINED, "end of stream")
        else:
            self._detach(CloseCode.GOING_AWAY, f"connection lost: {type(error).__name__}")

    def when_handled(self, call: Callable[[], None]) -> None:
        """Call `call` when no message of the lost connection is being handled any more."""
        if self.close_code is None:
            call()  # the session lives on without this connection
        else:
            self.last_handler.then(call)

    def pause(self, why: Pause) -> None:
        """Stop reading from the peer, on this connection and the next, until `resume` with the same reason.

        If the handlers lag and the peer has a window, only acknowledgements stop (`extension.lags`): the peer stops by
        itself when its window is full. A peer that goes on is not read then. The other reasons are in `_paused`.
        """
        extension = self.extension
        if why & Pause.USER:
            self._give_up_requests()
        if extension is None or not extension.withhold_acks(why):
            self._pause_stream(why)

    def _pause_stream(self, why: Pause) -> None:
        self._paused |= why
        if self._stream is not None:
            self._stream.pause(why)

    def resume(self, why: Pause) -> None:
        """End a `pause` for this reason. Reading goes on when no reason is left."""
        extension = self.extension
        if extension is not None and extension.lags:
            extension.give_acks(why)
            if extension.controls_due and not self._flush_scheduled:
                self._schedule_flush()
        if self._paused:
            self.last_heard = self.context.wheel.read_clock()
        self._paused &= ~why
        if self._stream is not None:
            self._stream.resume(why)

    # -- life --

    def open(self) -> None:
        """Start the heartbeat and tell the handlers. Call it once the answer to the login has been written.

        If the session detached or ended while it was paused for OPENING, the handlers get that event now.
        """
        before = self.state
        if before is _OPEN:
            self._check_again_in(self.context.beat_interval(self.uid))
        self.handlers.opened(self)
        if before is _OPEN or self.state is not before:  # a change in `opened` was an event already
            return
        if before is SessionState.DETACHED:
            self.handlers.suspended(self)
        else:
            self.handlers.closed(self, handle_rest=True)

    def attach(self, stream: Stream) -> None:
        """Give the session a new connection, and send on it what was queued meanwhile."""
        was_suspended = self.state is SessionState.DETACHED  # else the old connection's end was not noticed
        self.state = step(SESSION, self.state, SessionEvent.ATTACH)
        self._stream = stream
        self._written = b""
        if self.extension is not None:
            self.extension.attached()
        self.last_heard = self.context.wheel.read_clock()
        self.outbox.stalled(self.last_heard, False)
        self._check_again_in(self.context.beat_interval(self.uid))
        if self._paused:
            stream.pause(self._paused)
        self._schedule_flush()
        if self.renewal is not None:
            self.renewal.attached(self)
        if was_suspended and not self._paused & Pause.OPENING:
            self.handlers.resumed(self)

    def resume_on(self, stream: Stream, received: int, greeting: bytes) -> None:
        """Go on with `stream`: write `greeting`, then send again the messages that the peer lacks.

        received: the number of messages that the peer has. The old connection is dropped if its end was not noticed
        yet: the peer sends again what was not decoded from it.
        """
        if self._stream is not None:
            self._stream.drop()
        if self.extension is not None:
            greeting += self.extension.resume(received)
        stream.write(greeting)
        self.attach(stream)

    def on_deadline(self, now: float) -> None:
        if self.state is SessionState.DETACHED:
            if self.accepted or self.context.between_servers:
                self.close(*self._detach_reason)
            else:
                code, _ = self._detach_reason
                text = f"not connected again within its window; the connection ended with {code.label}"
                self.close(CloseCode.RESUME_REFUSED, text)
            return
        extension = self.extension
        if extension is not None and self.state is _OPEN:
            extension.acknowledge_late()
            if extension.controls_due:
                self.flush()
            if extension.going_away is not None and now >= extension.going_away[1]:
                self._drop_connection(CloseCode.GOING_AWAY, "the server goes away")
                return
            if now < extension.beat_at:
                self._wake(extension)
                return
        stream = self._stream
        if stream is None:
            return
        if self.state is SessionState.CLOSING:
            if self._lingers:
                self._lingers = False
                self._linger = 0.0
                stream.close()
                self.context.wheel.set(self, self.context.limits.close_timeout)
            else:
                stream.abort()
            return
        self._check_heartbeat(stream, now)

    def _check_heartbeat(self, stream: Stream, now: float) -> None:
        """Drop a connection that is silent or takes none of its queued messages; else send a heartbeat if due."""
        limits = self.context.limits
        silent = now - self.last_heard
        # While reading is paused, acknowledgements are not read either, so a full window is not the peer's fault. The
        # exception: lagging handlers may wait for such an acknowledgement. If they lag for max_outbox_age, the
        # connection is dropped, and the peer reports its count when it reconnects.
        waits = not stream.writable or (self.outbox.count > 0 and not self._paused & ~LAGGING)
        stalled = self.outbox.stalled(now, waits)  # seconds that the peer has taken nothing, though it could
        # While reading is paused, silence means nothing.
        patience = inf if self._paused else limits.heartbeat_timeout - silent
        if patience <= 0:
            self._drop_connection(CloseCode.HEARTBEAT_TIMEOUT, f"silent for {silent:.0f} s")
        elif stalled >= limits.max_outbox_age:
            self._drop_connection(CloseCode.SLOW_CONSUMER, f"took none of its queued messages for {stalled:.0f} s")
        else:
            next_beat = max(self._beat(stream, now, silent), min(LEAST_BEAT, limits.heartbeat_interval))
            self._check_again_in(min(next_beat, patience, limits.max_outbox_age - stalled))

    def _beat(self, stream: Stream, now: float, silent: float) -> float:
        """Send a heartbeat to a peer that has been silent for `silent` seconds; return the seconds to the next."""
        interval = self.context.beat_interval(self.uid)
        extension = self.extension
        if extension is not None and extension.features & Features.PING:
            if not stream.writable:
                # A PING would queue behind everything that the peer has not read. Do not subtract `silent`, which may
                # be far longer than the interval: check again after one interval.
                return interval
            ping, next_beat = extension.beat(now, silent, interval)
            if ping:
                stream.write(ping)
            return next_beat
        if stream.writable and not self.outbox.count:  # else messages are on their way, or the peer does not read
            stream.write(self.context.in_form(HEARTBEAT_FRAME))
        return interval

    def _check_again_in(self, seconds: float) -> None:
        """Set when the heartbeat is checked again."""
        extension = self.extension
        if extension is None:
            self.context.wheel.set(self, seconds)
        else:
            extension.beat_at = self.context.wheel.read_clock() + seconds
            self._wake(extension)

    def _wake(self, extension: Extension) -> None:
        """Set the deadline to the next thing that is due."""
        self.context.wheel.set(self, extension.next_wake(self.context.wheel.now))

    # -- the end --

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        """End the session: its handlers get no more messages; queued ones are delivered within limits.close_timeout.

        farewell: a frame that is sent last. Does nothing if the session has ended. Raises LocalError if `code` is no
        CloseCode.
        """
        code = checked_code(code)
        if self.extension is not None:
            farewell += close_frame(code, reason)
        self._close(code, reason, farewell)

    def _close(self, code: CloseCode, reason: str, farewell: bytes) -> None:
        """`close`, where `farewell` has the CLOSE for the peer already."""
        if self.extension is not None:
            farewell = self.extension.closing(self.context.between_servers) + farewell
        if self.state is _OPEN:
            self.state = step(SESSION, self.state, SessionEvent.CLOSE)
            self._farewell = farewell
            if farewell:
                self._linger *= LINGER_AFTER_FAREWELL
            self.context.wheel.set(self, self.context.limits.close_timeout)
            self._end(code, reason, handle_rest=False)
            if not self._flush_scheduled:
                self._schedule_flush()
        elif self.state is SessionState.DETACHED:
            self.state = step(SESSION, self.state, SessionEvent.CLOSE)
            self._end(code, reason, handle_rest=False)
            self._release()

    def all_written(self, stream: Stream) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if self.state is SessionState.CLOSING:
            if self._farewell:
                stream.write(self._farewell)
                self._farewell = b""
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """Close the stream; of a base client a little later, as it may see the end before the last message."""
        if not self._linger:
            stream.close()
        elif stream.writable and not self._lingers:  # not writable: `writable` calls this again
            self._lingers = True
            self.context.wheel.set(self, self._linger)

    def kick(self, reason: str = "") -> None:
        """End the session with 4009 kicked, and with it the user's other sessions.

        Also ends the user's tokens, if the server's `Tokens` can do that. With `Server(end_with_tokens=False)` the
        other sessions stay. `SessionManager.kick` can end the session of one slot only.
        """
        self.close(CloseCode.KICKED, reason)

    def abort(self) -> None:
        """End the connection at once and drop queued messages. The code is 4000 unless `close` was called before."""
        self.close()
        if self._stream is not None:
            self._stream.abort()

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its connection is gone."""
        if self.state is SessionState.CLOSED:
            return
        if self._closed is None:
            self._closed = self.context.loop.create_future()
        await asyncio.shield(self._closed)

    @property
    def closed_by_peer(self) -> bool:
        """Whether `close_code` is from the peer's CLOSE, and not from something that happened on this side."""
        extension = self.extension
        return self.close_code is not None and extension is not None and self.close_code is extension.peer_code

    def _closed_by_peer(self, end: PeerClosed, extension: Extension) -> None:
        """The peer sent CLOSE: it reads nothing more."""
        extension.peer_code = end.code
        if end.code in DETACHING:
            self._drop_connection(end.code, end.reason)
            return
        stream, self._stream = self._stream, None
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(end.code, end.reason, handle_rest=True)
        if stream is not None:
            stream.abort()  # not `drop`: the listener counts the connection until its handlers have ended
        self._release()

    def drop_connection(self, code: CloseCode, reason: str) -> None:
        """Drop the connection unread. The session waits for another one, or ends if it can't have one."""
        if self.state is _OPEN:
            self._drop_connection(code, reason)

    def _drop_connection(self, code: CloseCode, reason: str) -> None:
        """End a connection that is of no use any more, and the session if it can't have another."""
        stream = self._stream
        self._detach(code, reason)
        if stream is None:
            return
        if self.close_code is None:
            stream.drop()  # the session goes on, and must get no `lost` from this stream
        else:
            stream.abort()  # not `drop`: the listener counts the connection until its handlers have ended

    def _detach(self, code: CloseCode, reason: str) -> None:
        """The connection ended before the session was closed: the session waits for another one, or ends."""
        is_kept = self._owner.detached(self, code)
        self._stream = None
        if self.renewal is not None:
            self.renewal.detached()
        extension = self.extension
        if is_kept and extension is not None and extension.requests is not None and extension.ticket is None:
            self._restart_requests(extension, extension.requests)
        if is_kept:
            self.state = step(SESSION, self.state, SessionEvent.BREAK)
            self._detach_reason = (code, reason)
            self.context.wheel.set(self, float(self.ticket.window) if self.ticket is not None else inf)
            if not self._paused & Pause.OPENING:
                self.handlers.suspended(self)
            return
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(code, reason, handle_rest=True)
        self._release()

    def _end(self, code: CloseCode, reason: str, handle_rest: bool) -> None:
        """The session has ended: note why, and tell all that it belongs to. Its last messages may still be unsent."""
        self.close_code = code
        self.close_reason = reason
        self.context.stats.closed[code] += 1
        if self.closed_by_peer:
            self.context.stats.closed_by_peer[code] += 1
        self.context.groups.leave_all(self)
        self.user.leave(self)
        if self.requests is not None:
            self.requests.close()
        if self.renewal is not None:
            self.renewal.close()
        if self._expiry is not None:
            self._expiry.cancel()
        self._owner.closed(self)
        if not self._paused & Pause.OPENING:
            self.handlers.closed(self, handle_rest)

    def _release(self) -> None:
        """The connection is gone and no other can follow: the session is CLOSED, and lets go of what it holds."""
        if self.state is not SessionState.CLOSED:
            self.state = step(SESSION, self.state, SessionEvent.END)
        self._stream = None
        self.context.wheel.cancel(self)
        self.meter = None
        self.context.stats.dropped += self.outbox.dropped
        for waiter in (self._drained, self._closed):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._drained = self._closed = None
        self._owner.released(self)


def _without_tags(frames: list[bytes]) -> list[bytes]:
    """Whole message frames without the requests and answers among them."""
    return [frame for frame in frames if frame[3] < REQUEST]
