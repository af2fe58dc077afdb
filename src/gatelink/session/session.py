"""One verified peer: what it is, how to reach it, and its end.

A session lives through `states.SESSION`. The bytes below are its carrier's, the handlers above are the table's;
here is the hot call between them, `receive` (the other, `send`, is in sender.py), and everything about ending well.
"""

import asyncio
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any

from gatelink.errors import CloseCode, PeerError
from gatelink.session import builtin_messages
from gatelink.session.interfaces import Dispatcher, Owner
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Outbox
from gatelink.session.rates import Meter, TokenBucket
from gatelink.session.sender import Sender
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.stream import LAGGING, Pause, Stream
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.frames import Frame, encode_frame

HEARTBEAT_FRAME = encode_frame(HEARTBEAT, b"")

LEAST_BEAT = 0.25
"""Seconds, at least, between two looks at a session's heartbeat, whatever its peer does; the interval if that is less.
Ten thousand sessions that are looked at each tick cost 40 % of a core."""

LINGER_AFTER_FAREWELL = 10
"""How many times longer a base client's stream stays open after UserDuplicateLoginNotify, which its user shall see."""

_OPEN = SessionState.OPEN
NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


class Session(Sender):
    """One verified peer.

    uid, slot: the user, and which of the user's devices. epoch: grows with every login of (uid, slot).
    source: the type of the peer, as it says: 0 for a client, else a server's.
    address: the peer's host, as the listener saw it.
    returned: whether the client was told that it is back (type 1 of ClientVertifySucceedRet), not new. What the older
    session had queued follows then, and the client still has its state.
    claims: what the token said of the user.
    expires_at: when the token ends, in unix seconds. None: never, or not known, as at a client and at a service. The
    session goes on after that, unless you end it.
    data: yours, for whatever you want to keep with a session.
    verified_at: unix seconds. last_heard: seconds of the hub's clock (timers.py).
    close_code, close_reason: why it ended; None and "" before.
    """

    rtt: float | None = None
    """Seconds of a round trip, where they are measured (extended.py)."""

    __slots__ = (
        "_closed",
        "_last",
        "_linger",
        "_lingers",
        "_owner",
        "_paused",
        "address",
        "buckets",
        "claims",
        "data",
        "epoch",
        "expires_at",
        "handlers",
        "inbox",
        "last_heard",
        "meter",
        "proof",
        "returned",
        "slot",
        "source",
        "uid",
        "verified_at",
        "way",
    )

    def __init__(
        self,
        hub: LoopContext,
        owner: Owner,
        handlers: Dispatcher,
        carrier: Stream | None,
        *,
        uid: int,
        slot: int = 0,
        epoch: int = 0,
        source: int = 0,
        address: str = "",
        claims: Mapping[str, Any] = NO_CLAIMS,
        verified_at: float = 0.0,
        expires_at: float | None = None,
        outbox: Outbox | None = None,
        proof: bytes = b"",
        linger: float = 0.0,
    ) -> None:
        """proof: a keyed hash of the token (`SessionManager.proofs_of`), empty if there is none to compare.

        linger: seconds from its last message to the end of its stream.
        """
        super().__init__(hub, carrier, outbox)
        self._owner = owner
        self._paused = Pause(0)
        self._last: tuple[Callable[[], None], ...] | None = ()  # who waits for the last handler; None: it has ended
        self._closed: asyncio.Future[None] | None = None
        self._linger = linger
        self._lingers = False  # all is written, and the stream ends at the next deadline
        self.handlers = handlers
        self.uid = uid
        self.slot = slot
        self.epoch = epoch
        self.source = source
        self.address = address
        self.claims = claims
        self.verified_at = verified_at
        self.proof = proof
        self.returned = False
        self.expires_at = expires_at
        self.last_heard = hub.wheel.read_clock()  # `now` is old where nothing was set for long
        self.data: Any = None
        self.way: Any = None  # the gateway's
        self.inbox: Any = None  # the dispatcher's
        self.buckets: dict[int, TokenBucket] | None = None  # the dispatcher's, of message types that have a rate
        self.meter: Meter | None = None  # the connection's; None: no limits of rate

    def __repr__(self) -> str:
        end = f" {self.close_code.label}" if self.close_code else ""
        return f"<Session uid={self.uid} slot={self.slot} {self.address} {self.state.name}{end}>"

    # -- from the carrier (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        """Has the handlers take `frames`, then flushes what they sent back in one write."""
        if self.state is not _OPEN:
            return
        self.last_heard = self._context.wheel.clock()  # not `now`: after a stall that is of before it
        self._flush_scheduled = True  # `send` need not ask for a flush while the end of this call does it
        self.handlers.dispatch(self, frames)
        self._flush_scheduled = False
        if self.outbox.count or self.state is not _OPEN:
            self.flush()

    def receive_framework(self, id: int, flags: int, body: bytes, known: bool) -> bool:
        """As `framework.receive`, for the dispatcher."""
        return builtin_messages.receive(self, self._owner.accepting, id, flags, body, known)

    def waiting(self, buffered: int) -> None:
        """Part of a frame is no news: half a frame then silence ends with the heartbeat timeout."""

    def broken(self, error: PeerError) -> None:
        """The peer sent what ends its session."""
        self.close(error.code, str(error))

    def writable(self) -> None:
        self._handed = b""
        self.flush()

    def lost(self, error: Exception | None) -> None:
        """The connection is over; the session with it, unless its owner keeps it."""
        if self._stream is None:
            return  # it was dropped, or lost before
        if self.state is SessionState.CLOSING:
            self._gone()
        elif error is None:
            # A client may leave so: the base protocol has no other way. A server that leaves says CLOSE, or was killed,
            # or can't say why to a base client, as in a kick.
            code = CloseCode.NORMAL if self._owner.accepting else CloseCode.UNEXPLAINED
            self._break(code, "end of stream")
        else:
            self._break(CloseCode.GOING_AWAY, f"connection lost: {type(error).__name__}")

    # -- life and end --

    def open(self) -> None:
        """Starts the heartbeat and tells the handlers. The carrier's first answer has been written.

        What became of it while it was paused for OPENING is told now.
        """
        was = self.state
        if was is _OPEN:
            self._wake_in(self._context.beat_after(self.uid))
        self.handlers.opened(self)
        if was is _OPEN or self.state is not was:  # the latter: `opened` ended it, and that has been told
            return
        if was is SessionState.DETACHED:
            self.handlers.suspended(self)
        else:
            self.handlers.closed(self, heard=True)

    def attach(self, carrier: Stream) -> None:
        """Gives the session a new connection; what was queued meanwhile leaves on it."""
        was_suspended = self.state is SessionState.DETACHED  # else nobody had noticed the break
        self.state = step(SESSION, self.state, SessionEvent.ATTACH)
        self._stream = carrier
        self._handed = b""
        self.last_heard = self._context.wheel.read_clock()
        self.outbox.stalled(self.last_heard, False)
        self._wake_in(self._context.beat_after(self.uid))
        if self._paused:
            carrier.pause(self._paused)
        self._flush_scheduled = True
        self._context.schedule_flush(self)
        if was_suspended and not self._paused & Pause.OPENING:
            self.handlers.resumed(self)

    def on_deadline(self, now: float) -> None:
        carrier = self._stream
        if carrier is None:
            return
        if self.state is SessionState.CLOSING:
            if self._lingers:
                self._lingers = False
                self._linger = 0.0
                carrier.close()
                self._context.wheel.set(self, self._context.limits.close_timeout)
            else:
                carrier.abort()
            return
        limits = self._context.limits
        silent = now - self.last_heard
        # While we do not read, its acknowledgements are not heard either, and a full window is no fault of the peer's.
        # But handlers may be waiting for just these: where they lag for so long it shall come anew, and tell.
        waits = not carrier.writable or (self.outbox.count > 0 and not self._paused & ~LAGGING)
        stalled = self.outbox.stalled(now, waits)
        patience = inf if self._paused else limits.heartbeat_timeout - silent  # who is not read can't be heard
        if patience <= 0:
            self._give_up(CloseCode.HEARTBEAT_TIMEOUT, f"silent for {silent:.0f} s")
        elif stalled >= limits.max_outbox_age:
            self._give_up(CloseCode.SLOW_CONSUMER, f"took nothing of what waits for it for {stalled:.0f} s")
        else:
            next_beat = max(self._beat(carrier, silent), min(LEAST_BEAT, limits.heartbeat_interval))
            self._wake_in(min(next_beat, patience, limits.max_outbox_age - stalled))

    def _give_up(self, code: CloseCode, reason: str) -> None:
        """Ends the connection, which is of no use any more, and the session if it can't be given another."""
        carrier = self._stream
        self._break(code, reason)
        if carrier is None:
            return
        if self.close_code is None:
            carrier.drop()  # the session lives on, and shall hear nothing late of this one
        else:
            carrier.abort()  # not dropped: its place is free only when the handlers are through

    def _wake_in(self, seconds: float) -> None:
        """When to look at the heartbeat again."""
        self._context.wheel.set(self, seconds)

    def _beat(self, carrier: Stream, silent: float) -> float:
        """Shows that this side lives to a peer that has been `silent` for seconds; those until the next time."""
        if carrier.writable and not self.outbox.count:  # else there is traffic enough, or nobody who reads
            carrier.write(self._context.in_form(HEARTBEAT_FRAME))
        return self._context.beat_after(self.uid)

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        """Ends the session: no handler hears it any more; what is queued is delivered within limits.close_timeout.

        farewell: a frame that goes out last. Does nothing on a session that has ended.
        """
        if self.state is _OPEN:
            self.state = step(SESSION, self.state, SessionEvent.CLOSE)
            self._farewell = farewell
            if farewell:
                self._linger *= LINGER_AFTER_FAREWELL
            self._context.wheel.set(self, self._context.limits.close_timeout)
            self._end(code, reason, heard=False)
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self._context.schedule_flush(self)
        elif self.state is SessionState.DETACHED:
            self.state = step(SESSION, self.state, SessionEvent.CLOSE)
            self._end(code, reason, heard=False)
            self._gone()

    def inject(self, message: Any) -> None:
        """Puts `message` in front of this session's own handlers, as if the peer had sent it.

        They get it after what has been received, not before this returns. No rate holds for it. It is dropped if the
        session ends first. Raises SessionClosed for a session that has ended; LocalError if twice limits.max_inbox
        messages wait for the handlers; what encoding raises.
        """
        self.handlers.inject(self, message)

    def replace(self, code: CloseCode, reason: str, *, farewell: bytes = b"") -> list[bytes]:
        """Ends the session as `close`, but gives what the kernel has not taken, for the user's next session.

        Where the carrier holds some of that, the connection is cut: nothing can follow half a message.
        """
        is_cut = self._holds_unsent
        frames = self.take_unsent()
        self.close(code, reason, farewell=farewell)
        if is_cut:
            self.abort()
        return frames

    def _finish(self, carrier: Stream) -> None:
        """Ends the stream; of a base client a little later, as its code may hear the end before the last message."""
        if not self._linger:
            carrier.close()
        elif carrier.writable and not self._lingers:  # else `writable` comes back to this
            self._lingers = True
            self._context.wheel.set(self, self._linger)

    def go_away(self, within: float, address: str = "") -> bool:
        """Asks the peer to connect again within so many seconds, at the endpoint `address` (empty: where it is).

        False, and nothing is sent, for one that can't be told: it has no connection, or does not speak the extension.
        """
        return False

    def join(self, group: str) -> None:
        """Has this session hear what is broadcast to `group`, until it leaves or ends.

        Raises SessionClosed; LocalError for a name that is too long, or one group too many.
        """
        if self.state is not _OPEN:
            self._check_sendable()
        self._context.groups.join(self, group)

    def leave(self, group: str) -> None:
        """Ends a `join`."""
        self._context.groups.leave(self, group)

    def bind(self, type: int, server: int) -> bool:
        """Has the session's messages for a type of server go to that one; whether that is there, as far as is known.

        Nothing to do where this server handles all of them.
        """
        return True

    def kick(self, reason: str = "") -> None:
        """Ends the session with 4009 kicked, and the user's tokens, if the server's `Tokens` can end them."""
        self.close(CloseCode.KICKED, reason)

    def _cut_off(self, code: CloseCode, reason: str) -> None:
        self.close(code, reason)
        self.abort()

    def abort(self) -> None:
        """Drops what is queued and the connection, at once; the code is 4000 unless the session was closed before."""
        self.close()
        carrier = self._stream
        if carrier is not None:
            carrier.abort()

    async def wait_closed(self) -> None:
        """Waits until the session has ended and its connection is gone."""
        if self.state is SessionState.CLOSED:
            return
        if self._closed is None:
            self._closed = self._context.loop.create_future()
        await asyncio.shield(self._closed)

    def after_last(self, call: Callable[[], None]) -> None:
        """Calls `call` when the last handler of this ended session has ended; at once if it has."""
        if self._last is None:
            call()
        else:
            self._last += (call,)

    def release(self, call: Callable[[], None]) -> None:
        """As `after_last` for a session that has ended, at once for one that lives on without this connection."""
        if self.close_code is None:
            call()
        else:
            self.after_last(call)

    def all_told(self) -> None:
        """The dispatcher has handled all that came in, and told the end."""
        calls, self._last = self._last, None
        for call in calls or ():
            call()

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory: queued, sent and not acknowledged, received and not handled."""
        return self.outbox.held_bytes + (self.inbox.bytes if self.inbox is not None else 0)

    @property
    def carried_bytes(self) -> int:
        """What its connection keeps in memory: not yet decoded, written and not yet out."""
        return self._stream.held_bytes if self._stream is not None else 0

    def pause(self, why: Pause) -> None:
        """Stops reading from the peer, on this connection and the next, until `resume` with the same reason."""
        self._paused |= why
        if self._stream is not None:
            self._stream.pause(why)

    def resume(self, why: Pause) -> None:
        if self._paused:
            self.last_heard = self._context.wheel.read_clock()
        self._paused &= ~why
        if self._stream is not None:
            self._stream.resume(why)

    @property
    def hub(self) -> LoopContext:
        return self._context

    def _break(self, code: CloseCode, reason: str) -> None:
        """The connection is gone and nobody closed the session."""
        is_kept = self._owner.broke(self, code)
        self._stream = None
        if is_kept:
            self.state = step(SESSION, self.state, SessionEvent.BREAK)
            self._context.wheel.set(self, self._detached_for(code, reason))
            if not self._paused & Pause.OPENING:
                self.handlers.suspended(self)
            return
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(code, reason, heard=True)
        self._gone()

    def _detached_for(self, code: CloseCode, reason: str) -> float:
        """Seconds that it may stay detached; inf leaves that to the owner."""
        return inf

    def _end(self, code: CloseCode, reason: str, heard: bool) -> None:
        self.close_code = code
        self.close_reason = reason
        self._context.stats.closed[code] += 1
        self._context.groups.leave_all(self)
        self._owner.ended(self)
        if not self._paused & Pause.OPENING:
            self.handlers.closed(self, heard)

    def _gone(self) -> None:
        if self.state is not SessionState.CLOSED:
            self.state = step(SESSION, self.state, SessionEvent.END)
        self._stream = None
        self._context.wheel.cancel(self)
        if self.meter is not None:
            self.meter.close()
        self._context.stats.dropped += self.outbox.dropped
        for waiter in (self._drained, self._closed):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._drained = self._closed = None
        self._owner.gone(self)
