"""One verified peer: how it is heard and reached, and its end.

A session lives through `states.SESSION`. Below it is its stream, above it the table of handlers. `receive` and `send`
are the hot path: what arrives goes to the handlers in one call a read, and what is sent leaves in one write a turn.
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
"""Seconds, at least, between two looks at a session's heartbeat, whatever its peer does; the interval if that is less.
Ten thousand sessions that are looked at each tick cost 40 % of a core."""

LINGER_AFTER_FAREWELL = 10
"""How many times longer a base client's stream stays open after UserDuplicateLoginNotify: its user must see that."""

_OPEN = SessionState.OPEN


class Session(Item):
    """One verified peer.

    uid, slot: the user, and which of the user's devices. epoch: grows with every login of (uid, slot).
    source: the type of the peer, as it says: 0 for a client, else a server's. address: the peer's host, as the listener
    saw it.
    returned: whether the client was told that it is back (type 1 of ClientVertifySucceedRet), not new. What the older
    session had queued follows then, and the client still has its state.
    claims: what the token said of the user. data: yours, for whatever you want to keep with a session.
    expires_at: when the token ends, in unix seconds. None: never, or not known, as at a client and at a service. The
    session goes on after that, unless you end it.
    verified_at: unix seconds. last_heard: seconds of the wheel's clock (timers.py).
    close_code, close_reason: why it ended; None and "" before.

    Its parts: `outbox` has what is queued and outlives connections; `extension` is there if the peer said HELLO;
    `meter` if the session has rates; `inbox` while messages wait for handlers; `forwarder` if frames go elsewhere.
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
        """proof: a keyed hash of the token (`SessionManager.proofs_of`), empty if there is none to compare.

        linger: seconds from its last message to the end of its stream.
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
        self.last_heard = context.wheel.read_clock()  # `now` is old where nothing was set for long
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
        self._farewell = b""  # goes out behind the last message
        self._written = b""  # what was written last, if the stream did not take all of it at once
        self._linger = linger
        self._lingers = False  # all is written, and the stream ends at the next deadline
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
        """What resumes the session; None while it can't be resumed."""
        return self.extension.ticket if self.extension is not None else None

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, smoothed; None where it is not measured."""
        return self.extension.rtt if self.extension is not None else None

    @property
    def carried_bytes(self) -> int:
        """What its connection keeps in memory: not yet decoded, written and not yet out."""
        return self._stream.held_bytes if self._stream is not None else 0

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory: queued, sent and not acknowledged, received and not handled."""
        return self.outbox.held_bytes + (self.inbox.bytes if self.inbox is not None else 0)

    # -- to the peer --

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues `message`; never blocks. It leaves with everything else of this turn of the loop, in one write.

        key: not 0 replaces a message queued under the same key. full: what happens when the queue is full.
        Raises SessionClosed; MessageTooLarge; InvalidMessage if its receiver's decoder would refuse it; CatalogError if
        its class is not registered; LocalError if it is the framework's own, or if another thread calls this: that is
        noticed only while nothing else is queued.
        """
        cls = type(message)
        encoder = self.context.encoders.get(cls) or self.context.encoder(cls)
        frame = encoder.frame(message)
        if self.state is not _OPEN:  # from here on as `send_frame`, in line: the call was a twentieth of an echo
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
        """Queues a message by its id and encoded body, in one order with the typed ones.

        Raises SessionClosed; MessageTooLarge; LocalError for an id of the framework's.
        """
        self.context.check_sendable(id)
        frame = encode_frame(id, body, flags)
        self.context.check_size(id, frame)
        self.send_frame(frame, key, full)
        traffic = self.context.traffic_of(id)
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues a whole frame, as `encode_frame` makes it; what `send_raw` and broadcasts end in.

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
        """`send_frame` of several, in order."""
        if self.state is not _OPEN:
            self._check_sendable()
        count = self.outbox.count
        try:
            self.outbox.extend(frames)
        except OutboxFull:
            for frame in frames[self.outbox.count - count :]:  # those before it fitted
                self.send_frame(frame)
        if not self._flush_scheduled:
            self._schedule_flush()

    def _check_sendable(self) -> None:
        if self.state is not SessionState.DETACHED:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)

    def _make_room(self, error: OutboxFull, frame: bytes, key: int) -> None:
        """The queue is full before the turn of the loop is over. A peer that reads is not to blame for that.

        What its socket takes now makes room for `frame`; if it takes nothing, the session ends. Raises SessionClosed.
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
        """The one place that asks for a flush: at the end of this turn of the loop, once."""
        self.context.schedule_flush(self)
        self._flush_scheduled = True

    def flush(self) -> None:
        """Writes what is queued, as far as the stream takes it."""
        self._flush_scheduled = False
        stream = self._stream
        if stream is None or not stream.writable:
            return
        extension = self.extension
        if extension is None:  # as in `_take`, in line: it is on the way of every message
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
        """What the next write takes: about as much as the stream holds before it says stop."""
        data = self.outbox.take(self.context.limits.write_high_water)
        extension = self.extension
        if extension is not None and extension.controls_due:
            return extension.take_controls() + data
        return data

    async def drain(self) -> None:
        """Waits until everything queued has been handed to the socket. Raises SessionClosed if it ends first."""
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
        """Asks the peer to connect again within so many seconds, at the endpoint `address` (empty: where it is).

        False, and nothing is sent, if the peer has no connection or does not speak the extension.
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

    # -- what the user's next session gets --

    def adopt(self, frames: list[bytes]) -> None:
        """Queues what an older session of the same user had queued: it may be more than the limits let in."""
        self.outbox.adopt(frames)
        if frames and not self._flush_scheduled:
            self._schedule_flush()

    def take_unsent(self) -> list[bytes]:
        """Takes out all messages that the kernel has not taken, in order; one that is partly written counts as sent.

        The stream may hold some of them still: it is of no use any more.
        """
        frames: list[bytes] = []
        if self._stream is not None and self._stream_holds_messages:
            frames = messages_from(self._written, len(self._written) - self._stream.unsent)
        self._written = b""
        return frames + self.outbox.drain()

    @property
    def _stream_holds_messages(self) -> bool:
        """Whether messages that were written are still on this side of the kernel."""
        return bool(self._written) and self._stream is not None and self._stream.unsent > 0

    def replace(self, code: CloseCode, reason: str, *, farewell: bytes = b"") -> list[bytes]:
        """Ends the session as `close`, but gives what the kernel has not taken, for the user's next session.

        Where the stream holds some of that, the connection is aborted: nothing can follow half a message.
        """
        is_cut = self._stream_holds_messages
        frames = self.take_unsent()
        self.close(code, reason, farewell=farewell)
        if is_cut:
            self.abort()
        return frames

    # -- groups and servers --

    def join(self, group: str) -> None:
        """Has this session hear what is broadcast to `group`, until it leaves or ends.

        Raises SessionClosed; LocalError for a name that is too long, or one group too many.
        """
        if self.state is not _OPEN:
            self._check_sendable()
        self.context.groups.join(self, group)

    def leave(self, group: str) -> None:
        """Ends a `join`."""
        self.context.groups.leave(self, group)

    def bind(self, type: int, server: int) -> bool:
        """Has the session's messages for a type of server go to that one; whether that is there, as far as is known.

        Nothing to do where this server handles all of them.
        """
        return True

    def inject(self, message: Any) -> None:
        """Puts `message` in front of this session's own handlers, as if the peer had sent it.

        They get it after what has been received, not before this returns. No rate holds for it. It is dropped if the
        session ends first. Raises SessionClosed for a session that has ended; LocalError if twice limits.max_inbox
        messages wait for the handlers; what encoding raises.
        """
        self.handlers.inject(self, message)

    # -- from the stream (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        """Has the handlers take `frames`, then flushes what they sent back in one write."""
        if self.state is not _OPEN:
            return
        self.last_heard = now = self.context.wheel.clock()  # not `wheel.now`: after a stall that is of before it
        self._flush_scheduled = True  # `send` need not ask for a flush while the end of this call does it
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
        """What a read with the extension's records leaves to do."""
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
        """Part of a frame is no sign of life: half a frame then silence ends with the heartbeat timeout."""

    def broken(self, error: PeerError) -> None:
        """The peer sent what ends its session."""
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
            # A client may leave so: the base protocol has no other way. A server that leaves says CLOSE, or was killed,
            # or can't say why to a base client, as in a kick.
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
        """Takes a reason of `pause` back."""
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
        """Starts the heartbeat and tells the handlers. The stream's first answer has been written.

        If it detached or ended while it was paused for OPENING, the handlers get that event now.
        """
        was = self.state
        if was is _OPEN:
            self._look_again_in(self.context.beat_after(self.uid))
        self.handlers.opened(self)
        if was is _OPEN or self.state is not was:  # the latter: `opened` ended it, which the handlers know
            return
        if was is SessionState.DETACHED:
            self.handlers.suspended(self)
        else:
            self.handlers.closed(self, handle_rest=True)

    def attach(self, stream: Stream) -> None:
        """Gives the session a new connection; what was queued meanwhile leaves on it."""
        was_suspended = self.state is SessionState.DETACHED  # else nobody had noticed the break
        self.state = step(SESSION, self.state, SessionEvent.ATTACH)
        self._stream = stream
        self._written = b""
        if self.extension is not None:
            self.extension.attached()
        self.last_heard = self.context.wheel.read_clock()
        self.outbox.stalled(self.last_heard, False)
        self._look_again_in(self.context.beat_after(self.uid))
        if self._paused:
            stream.pause(self._paused)
        self._schedule_flush()
        if was_suspended and not self._paused & Pause.OPENING:
            self.handlers.resumed(self)

    def resume_on(self, stream: Stream, received: int, greeting: bytes) -> None:
        """Goes on with `stream`: says `greeting`, then sends again what the peer, which has `received`, lacks.

        The old connection, if it still seems to live, is dropped: what of it is not decoded will be sent again.
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
        """Ends a connection that is silent, or that takes nothing of what waits for it; else shows that we live."""
        limits = self.context.limits
        silent = now - self.last_heard
        # While nothing is read, no acknowledgement is heard either, and a full window is not the peer's fault. But
        # handlers may be waiting for that acknowledgement: if they lag this long, the peer connects again and tells.
        waits = not stream.writable or (self.outbox.count > 0 and not self._paused & ~LAGGING)
        stalled = self.outbox.stalled(now, waits)
        patience = inf if self._paused else limits.heartbeat_timeout - silent  # a peer that is not read is silent
        if patience <= 0:
            self._drop_connection(CloseCode.HEARTBEAT_TIMEOUT, f"silent for {silent:.0f} s")
        elif stalled >= limits.max_outbox_age:
            self._drop_connection(CloseCode.SLOW_CONSUMER, f"took nothing of what waits for it for {stalled:.0f} s")
        else:
            next_beat = max(self._beat(stream, now, silent), min(LEAST_BEAT, limits.heartbeat_interval))
            self._look_again_in(min(next_beat, patience, limits.max_outbox_age - stalled))

    def _beat(self, stream: Stream, now: float, silent: float) -> float:
        """Shows that this side lives to a peer that has been `silent` for seconds; those until the next time."""
        interval = self.context.beat_after(self.uid)
        extension = self.extension
        if extension is not None and extension.features & Features.PING:
            if not stream.writable:
                # A PING would stand behind all that the peer has not read. Its silence may be longer than the interval
                # by far, so nothing is computed from it: the session is looked at again after one interval.
                return interval
            ping, next_beat = extension.beat(now, silent, interval)
            if ping:
                stream.write(ping)
            return next_beat
        if stream.writable and not self.outbox.count:  # else there is traffic enough, or nobody reads
            stream.write(self.context.in_form(HEARTBEAT_FRAME))
        return interval

    def _look_again_in(self, seconds: float) -> None:
        """When to look at the heartbeat again."""
        extension = self.extension
        if extension is None:
            self.context.wheel.set(self, seconds)
        else:
            extension.beat_at = self.context.wheel.read_clock() + seconds
            self._wake(extension)

    def _wake(self, extension: Extension) -> None:
        """Sets the deadline to the first of what is to come."""
        self.context.wheel.set(self, extension.next_wake(self.context.wheel.now))

    # -- the end --

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        """Ends the session: no handler hears it any more; what is queued is delivered within limits.close_timeout.

        farewell: a frame that goes out last. Does nothing on a session that has ended.
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
        """Ends the stream; of a base client a little later, as its code may hear the end before the last message."""
        if not self._linger:
            stream.close()
        elif stream.writable and not self._lingers:  # else `writable` comes back to this
            self._lingers = True
            self.context.wheel.set(self, self._linger)

    def kick(self, reason: str = "") -> None:
        """Ends the session with 4009 kicked, and the user's tokens, if the server's `Tokens` can end them."""
        self.close(CloseCode.KICKED, reason)

    def abort(self) -> None:
        """Drops what is queued and the connection, at once; the code is 4000 unless the session was closed before."""
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
        """Calls `call` when the last handler of this ended session has ended; at once if it has."""
        if self._on_handled is None:
            call()
        else:
            self._on_handled += (call,)

    def handlers_done(self) -> None:
        """The table has handled all that came in, and the closed event."""
        calls, self._on_handled = self._on_handled, None
        for call in calls or ():
            call()

    @property
    def closed_by_peer(self) -> bool:
        """Whether `close_code` is what the peer's CLOSE said: its word, and nothing that happened here."""
        extension = self.extension
        return self.close_code is not None and extension is not None and self.close_code is extension.peer_code

    def _closed_by_peer(self, end: PeerClosed, extension: Extension) -> None:
        """CLOSE is the peer's last word: nobody there listens any more."""
        extension.peer_code = end.code
        if end.code in DETACHING:
            self._drop_connection(end.code, end.reason)
            return
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()  # not dropped: its place is free only when the handlers have ended
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(end.code, end.reason, handle_rest=True)
        self._release()

    def _drop_connection(self, code: CloseCode, reason: str) -> None:
        """Ends the connection, which is of no use any more, and the session if it can't be given another."""
        stream = self._stream
        self._detach(code, reason)
        if stream is None:
            return
        if self.close_code is None:
            stream.drop()  # the session lives on, and must not hear this stream's end
        else:
            stream.abort()  # not dropped: its place is free only when the handlers have ended

    def _detach(self, code: CloseCode, reason: str) -> None:
        """The connection is gone and nobody closed the session: it waits for another one, or ends."""
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
        """Nothing can be delivered any more."""
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
