"""One verified peer: receiving from it, sending to it, and the end of its session.

The states of a session are in `states.SESSION`. Below a session is its stream, above it the table of handlers.
`receive` and `send` are the hot path: the frames of one read go to the handlers in one call, and the messages sent in
one turn of the loop leave in one write.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from types import MappingProxyType
from typing import Any

from gatelink.errors import CloseCode, LocalError, PeerError, SessionClosed
from gatelink.session.control_frames import close_frame
from gatelink.session.extension import DETACHING, Extension, PeerClosed
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import Dispatcher, Forwarder, Owner
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.rates import Meter, TokenBucket
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.stream import LAGGING, Pause, Stream
from gatelink.session.timers import Item
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.control import Features, Ticket
from gatelink.wire.frames import Frame, encode_frame, messages_from

HEARTBEAT_FRAME = encode_frame(HEARTBEAT, b"")
NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})

LEAST_BEAT = 0.25
"""The least time, in seconds, between two checks of a session's heartbeat; the heartbeat interval, if that is shorter.
Ten thousand sessions that are checked at each tick cost 40 % of a core."""

LINGER_AFTER_FAREWELL = 10
"""Factor by which a base client's stream stays open longer after UserDuplicateLoginNotify, so that the user sees it."""

_OPEN = SessionState.OPEN


class Session(Item):
    """One verified peer.

    uid, slot: the user, and which of the user's devices. epoch: grows with every login of (uid, slot).
    source: 0 for a client, else the type of server that the peer says it is.
    address: the peer's host, as the listener saw it.
    returned: True if the client was told that it is back, not new (type 1 of ClientVertifySucceedRet). The client then
    still has its state, and gets the messages that its older session had queued.
    claims: what the token says of the user. data: yours, for whatever you want to keep with a session.
    expires_at: when the token ends, in unix seconds. None: it never ends, or the time is not known here, as in a client
    or a service. The session goes on after that time, unless you end it.
    verified_at: unix seconds. last_heard: seconds of the wheel's clock (timers.py).
    close_code, close_reason: why the session ended; None and "" while it has not.

    Its parts: `outbox` holds the queued messages, and outlives connections. The others may be None: `extension` is set
    if the peer sent HELLO, `meter` if the session has rates, `inbox` while messages wait for handlers, and `forwarder`
    if frames may go to other servers.
    """

    __slots__ = (
        "_closed",
        "_detach_reason",
        "_farewell",
        "_flush_scheduled",
        "_drained",
        "_linger",
        "_lingers",
        "_on_handled",
        "_owner",
        "_paused",
        "_stream",
        "_written",
        "address",
        "claims",
        "close_code",
        "close_reason",
        "context",
        "data",
        "epoch",
        "expires_at",
        "extension",
        "forwarder",
        "handlers",
        "inbox",
        "last_heard",
        "meter",
        "on_written",
        "outbox",
        "proof",
        "returned",
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
        """proof: a keyed hash of the token (`SessionManager.proofs_of`), to compare logins by; empty if there is none.

        linger: seconds that the stream stays open after the session's last message.
        """
        self._tick = 0
        self.context = context
        self._owner = owner
        self._stream = stream
        self.handlers = handlers
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
        self.state = _OPEN
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self.last_heard = context.wheel.read_clock()  # not `wheel.now`, which stands still while no timer is set
        self.extension = extension
        window = extension.window if extension is not None else None
        self.outbox = window or Outbox(context.limits.max_outbox_frames, context.limits.max_outbox_bytes)
        self.meter: Meter | None = None
        self.inbox: Inbox | None = None
        self.type_rates: dict[int, TokenBucket] | None = None
        self.forwarder: Forwarder | None = None
        self._detach_reason = (CloseCode.NORMAL, "")
        self._paused = Pause(0)
        self._flush_scheduled = False
        self.on_written: Callable[[], None] | None = None
        """Called after each write of messages, while it is set."""
        self._farewell = b""  # written after the last message
        self._written = b""  # the last write, if the stream did not take all of it at once
        self._linger = linger
        self._lingers = False  # everything is written; the stream is closed at the next deadline
        self._drained: asyncio.Future[None] | None = None
        self._on_handled: tuple[Callable[[], None], ...] | None = ()  # None: the last handler has ended
        self._closed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        end = f" {self.close_code.label}" if self.close_code else ""
        return f"<Session uid={self.uid} slot={self.slot} {self.address} {self.state.name}{end}>"

    @property
    def accepted(self) -> bool:
        """Whether this side accepted the connection; else it dialled."""
        return self._owner.accepting

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that resumes the session; None while it can't be resumed."""
        return self.extension.ticket if self.extension is not None else None

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, smoothed; None if it is not measured."""
        return self.extension.rtt if self.extension is not None else None

    @property
    def carried_bytes(self) -> int:
        """Bytes that its connection keeps in memory: received and not yet decoded, or written and not yet sent."""
        return self._stream.held_bytes if self._stream is not None else 0

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps in memory itself: queued, sent and not acknowledged, or received and not handled."""
        return self.outbox.held_bytes + (self.inbox.bytes if self.inbox is not None else 0)

    # -- to the peer --

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues `message`; never blocks. It leaves with everything else of this turn of the loop, in one write.

        key: if it is not 0, the message replaces one that is queued under the same key.
        full: what happens when the queue is full.
        Raises SessionClosed; MessageTooLarge; InvalidMessage if the receiver's decoder would refuse the message;
        CatalogError if its class is not registered; LocalError if the message is one of the framework's own, or if
        another thread calls this (which is noticed only while nothing else is queued).
        """
        cls = type(message)
        encoder = self.context.encoders.get(cls) or self.context.encoder(cls)
        frame = encoder.frame(message)
        if self.state is not _OPEN:  # the rest is `send_frame` inlined: the call took 5 % of an echo
            self._check_sendable()
        try:
            self.outbox.push(frame, full, key)
        except OutboxFull as error:
            self._make_room(error, frame, key)
        if not self._flush_scheduled:
            self._schedule_flush()
        traffic = encoder.traffic
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_raw(self, id: int, body: bytes, flags: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues a message given by its id and encoded body. It keeps its place among the messages of `send`.

        Raises SessionClosed; MessageTooLarge; LocalError for an id of the framework's own.
        """
        self.context.check_sendable(id)
        frame = encode_frame(id, body, flags)
        self.context.check_size(id, frame)
        self.send_frame(frame, key, full)
        traffic = self.context.traffic_of(id)
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues a whole frame, as `encode_frame` makes it. `send_raw` and broadcasts call this.

        Raises SessionClosed and MessageTooLarge.
        """
        if self.state is not _OPEN:
            self._check_sendable()
        try:
            self.outbox.push(frame, full, key)
        except OutboxFull as error:
            self._make_room(error, frame, key)
        if not self._flush_scheduled:
            self._schedule_flush()

    def send_frames(self, frames: list[bytes]) -> None:
        """Queues several frames in order, as `send_frame` does."""
        if self.state is not _OPEN:
            self._check_sendable()
        count = self.outbox.count
        try:
            self.outbox.extend(frames)
        except OutboxFull:
            queued = self.outbox.count - count  # `extend` queued those that fitted
            for frame in frames[queued:]:
                self.send_frame(frame)
        if not self._flush_scheduled:
            self._schedule_flush()

    def _check_sendable(self) -> None:
        if self.state is not SessionState.DETACHED:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)

    def _make_room(self, error: OutboxFull, frame: bytes, key: int) -> None:
        """Queues `frame` although the queue was full, by writing queued messages at once. Raises SessionClosed.

        A peer that reads is not to blame if one turn of the loop fills its queue. If the stream takes nothing, the
        session ends.
        """
        stream = self._stream
        while stream is not None and stream.writable and (data := self._take()):
            stream.write(data)
            with suppress(OutboxFull):
                self.outbox.push(frame, Full.CLOSE, key)
                return
            if self.on_written is not None:
                self.on_written()
        self.close(error.code, str(error))
        self.abort()
        raise SessionClosed(error.code, str(error)) from None

    def _schedule_flush(self) -> None:
        """Asks for one flush at the end of this turn of the loop. Nothing else asks for one."""
        self.context.schedule_flush(self)
        self._flush_scheduled = True

    def flush(self) -> None:
        """Writes queued messages as far as the stream takes them."""
        self._flush_scheduled = False
        stream = self._stream
        if stream is None or not stream.writable:
            return
        extension = self.extension
        if extension is None:  # `_take` inlined, because every message passes here
            data = self.outbox.take(self.context.limits.write_high_water)
        else:
            data = self._take()
        if data:
            stream.write(data)
            self._written = b"" if stream.writable else data
            if self.on_written is not None:
                self.on_written()
        if self.outbox.count:
            if data and stream.writable:
                self._schedule_flush()
            return
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if self.state is SessionState.CLOSING:
            if self._farewell:
                stream.write(self._farewell)
                self._farewell = b""
            self._finish(stream)

    def _take(self) -> bytes:
        """Takes out the bytes of the next write: about as many as the stream buffers before it stops being writable."""
        data = self.outbox.take(self.context.limits.write_high_water)
        extension = self.extension
        if extension is not None and extension.controls_due:
            return extension.take_controls() + data
        return data

    async def drain(self) -> None:
        """Waits until all queued messages have been handed to the socket. Raises SessionClosed if it ends first."""
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
        """Asks the peer to connect again within so many seconds, at the endpoint `address` (empty: where it is now).

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
        """Queues the messages that an older session of the user had queued, even if they exceed the limits."""
        self.outbox.adopt(frames)
        if frames and not self._flush_scheduled:
            self._schedule_flush()

    def take_unsent(self) -> list[bytes]:
        """Takes out, in order, all messages that the kernel has not taken. A partly written message counts as sent.

        The stream can't be used after this: it may still hold some of these messages.
        """
        frames: list[bytes] = []
        if self._stream is not None and self._stream_holds_messages:
            frames = messages_from(self._written, len(self._written) - self._stream.unsent)
        self._written = b""
        return frames + self.outbox.drain()

    @property
    def _stream_holds_messages(self) -> bool:
        """Whether the kernel has yet to take some of the messages that were written."""
        return bool(self._written) and self._stream is not None and self._stream.unsent > 0

    def replace(self, code: CloseCode, reason: str, *, farewell: bytes = b"") -> list[bytes]:
        """Ends the session as `close` does, but returns the messages that the kernel has not taken.

        They are for the user's next session. If the stream holds some of them, the connection is aborted: it may have
        sent half a message, and nothing can follow that.
        """
        is_cut = self._stream_holds_messages
        frames = self.take_unsent()
        self.close(code, reason, farewell=farewell)
        if is_cut:
            self.abort()
        return frames

    # -- groups and servers --

    def join(self, group: str) -> None:
        """Adds this session to `group`: it gets the group's broadcasts until it leaves or ends.

        Raises SessionClosed; LocalError for a name that is too long, or one group too many.
        """
        if self.state is not _OPEN:
            self._check_sendable()
        self.context.groups.join(self, group)

    def leave(self, group: str) -> None:
        """Removes this session from `group`."""
        self.context.groups.leave(self, group)

    def bind(self, type: int, server: int) -> bool:
        """Sends the session's messages for a type of server to that server. True if that server is known to be up.

        This does nothing here, because this server handles all messages itself. In a service, `Player.bind` asks the
        gateway.
        """
        return True

    def inject(self, message: Any) -> None:
        """Gives `message` to this session's handlers as if the peer had sent it.

        The handlers get it after the messages already received, and after this call returns. Rates do not apply to it.
        It is dropped if the session ends first. Raises SessionClosed if the session has ended; LocalError if twice
        limits.max_inbox messages wait for the handlers; and what encoding the message raises.
        """
        self.handlers.inject(self, message)

    # -- from the stream (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        """Has the handlers take `frames`, then flushes what they sent back in one write."""
        if self.state is not _OPEN:
            return
        self.last_heard = now = self.context.wheel.clock()  # not `wheel.now`: after a stall that is too old
        self._flush_scheduled = True  # so that `send` asks for no flush: this call ends with one
        extension = self.extension
        if extension is None:
            self.handlers.dispatch(self, frames)
        else:
            messages = extension.receive(frames, now)
            if messages:
                self.handlers.dispatch(self, messages)
            if extension.needs_care:
                self._care_for(extension)
            if extension.lags and extension.is_over_window:
                self._pause_stream(extension.lags)
        self._flush_scheduled = False
        if self.outbox.count or self.state is not _OPEN or (extension is not None and extension.controls_due):
            self.flush()

    def _care_for(self, extension: Extension) -> None:
        """Does what the control records of a read ask for."""
        extension.needs_care = False
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
        """Does nothing: part of a frame is no sign of life, so a peer that stops there meets the heartbeat timeout."""

    def broken(self, error: PeerError) -> None:
        """The peer sent something that ends its session."""
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
        """The connection is over; the session with it, unless its owner keeps it."""
        if self._stream is None:
            return  # it was dropped, or lost before
        if self.state is SessionState.CLOSING:
            self._release()
        elif error is None:
            # Without the extension this is how a client leaves. A server sends CLOSE, unless it was killed, or the
            # client does not speak the extension and can't be told why.
            self._detach(CloseCode.NORMAL if self.accepted else CloseCode.UNEXPLAINED, "end of stream")
        else:
            self._detach(CloseCode.GOING_AWAY, f"connection lost: {type(error).__name__}")

    def release(self, call: Callable[[], None]) -> None:
        """Calls `call` when nothing that the lost connection brought is being handled any more."""
        if self.close_code is None:
            call()  # the session lives on without this connection
        else:
            self.after_handlers(call)

    def pause(self, why: Pause) -> None:
        """Stops reading from the peer, on this connection and the next, until `resume` with the same reason."""
        extension = self.extension
        if extension is None or not extension.withhold_acks(why):
            self._pause_stream(why)

    def _pause_stream(self, why: Pause) -> None:
        self._paused |= why
        if self._stream is not None:
            self._stream.pause(why)

    def resume(self, why: Pause) -> None:
        """Ends a `pause` for this reason. Reading goes on when no reason is left."""
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
        """Starts the heartbeat and tells the handlers. Call it once the answer to the login has been written.

        If the session detached or ended while it was paused for OPENING, the handlers get that event now.
        """
        before = self.state
        if before is _OPEN:
            self._check_again_in(self.context.beat_after(self.uid))
        self.handlers.opened(self)
        if before is _OPEN or self.state is not before:  # if `opened` changed the state, the handlers were told
            return
        if before is SessionState.DETACHED:
            self.handlers.suspended(self)
        else:
            self.handlers.closed(self, handle_rest=True)

    def attach(self, stream: Stream) -> None:
        """Gives the session a new connection, and sends on it what was queued meanwhile."""
        was_suspended = self.state is SessionState.DETACHED  # else the old connection's end was not noticed
        self.state = step(SESSION, self.state, SessionEvent.ATTACH)
        self._stream = stream
        self._written = b""
        if self.extension is not None:
            self.extension.attached()
        self.last_heard = self.context.wheel.read_clock()
        self.outbox.stalled(self.last_heard, False)
        self._check_again_in(self.context.beat_after(self.uid))
        if self._paused:
            stream.pause(self._paused)
        self._schedule_flush()
        if was_suspended and not self._paused & Pause.OPENING:
            self.handlers.resumed(self)

    def resume_on(self, stream: Stream, received: int, greeting: bytes) -> None:
        """Goes on with `stream`: writes `greeting`, then sends again the messages that the peer lacks.

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
            self.close(*self._detach_reason)
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
        """Drops a connection that is silent or takes none of its queued messages; else sends a heartbeat if due."""
        limits = self.context.limits
        silent = now - self.last_heard
        # While reading is paused, acknowledgements are not read either, so a full window is not the peer's fault. The
        # exception: lagging handlers may wait for such an acknowledgement. If they lag for max_outbox_age, the
        # connection is dropped, and the peer reports its count when it reconnects.
        waits = not stream.writable or (self.outbox.count > 0 and not self._paused & ~LAGGING)
        stalled = self.outbox.stalled(now, waits)
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
        """Sends a heartbeat to a peer that has been silent for `silent` seconds; returns the seconds to the next."""
        interval = self.context.beat_after(self.uid)
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
        """Sets when the heartbeat is checked again."""
        extension = self.extension
        if extension is None:
            self.context.wheel.set(self, seconds)
        else:
            extension.beat_at = self.context.wheel.read_clock() + seconds
            self._wake(extension)

    def _wake(self, extension: Extension) -> None:
        """Sets the deadline to the next thing that is due."""
        self.context.wheel.set(self, extension.next_wake(self.context.wheel.now))

    # -- the end --

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        """Ends the session: its handlers get no more messages; queued ones are delivered within limits.close_timeout.

        farewell: a frame that is sent last. Does nothing if the session has ended.
        """
        if self.extension is not None:
            farewell += close_frame(code, reason)
        self._close(code, reason, farewell)

    def _close(self, code: CloseCode, reason: str, farewell: bytes) -> None:
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

    def _finish(self, stream: Stream) -> None:
        """Closes the stream; of a base client a little later, as it may see the end before the last message."""
        if not self._linger:
            stream.close()
        elif stream.writable and not self._lingers:  # else `writable` comes back to this
            self._lingers = True
            self.context.wheel.set(self, self._linger)

    def kick(self, reason: str = "") -> None:
        """Ends the session with 4009 kicked. Also ends the user's tokens, if the server's `Tokens` can do that."""
        self.close(CloseCode.KICKED, reason)

    def abort(self) -> None:
        """Ends the connection at once and drops queued messages; the code is 4000 unless `close` was called before."""
        self.close()
        if self._stream is not None:
            self._stream.abort()

    async def wait_closed(self) -> None:
        """Waits until the session has ended and its connection is gone."""
        if self.state is SessionState.CLOSED:
            return
        if self._closed is None:
            self._closed = self.context.loop.create_future()
        await asyncio.shield(self._closed)

    def after_handlers(self, call: Callable[[], None]) -> None:
        """Calls `call` when the last handler of this session has ended after the session; at once if it has."""
        if self._on_handled is None:
            call()
        else:
            self._on_handled += (call,)

    def handlers_done(self) -> None:
        """The table of handlers has handled every message and the closed event."""
        calls, self._on_handled = self._on_handled, None
        for call in calls or ():
            call()

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
        if stream is not None:
            stream.abort()  # not `drop`: the listener counts the connection until its handlers have ended
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(end.code, end.reason, handle_rest=True)
        self._release()

    def _drop_connection(self, code: CloseCode, reason: str) -> None:
        """Ends a connection that is of no use any more, and the session if it can't have another."""
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
        self.close_code = code
        self.close_reason = reason
        self.context.stats.closed[code] += 1
        if self.closed_by_peer:
            self.context.stats.closed_by_peer[code] += 1
        self.context.groups.leave_all(self)
        self._owner.closed(self)
        if not self._paused & Pause.OPENING:
            self.handlers.closed(self, handle_rest)

    def _release(self) -> None:
        """The connection is gone for good: the session is CLOSED, and lets go of what it holds."""
        if self.state is not SessionState.CLOSED:
            self.state = step(SESSION, self.state, SessionEvent.END)
        self._stream = None
        self.context.wheel.cancel(self)
        if self.meter is not None:
            self.meter.close()
            self.meter = None
        self.context.stats.dropped += self.outbox.dropped
        for waiter in (self._drained, self._closed):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._drained = self._closed = None
        self._owner.released(self)
