"""A session with a peer that said HELLO: CLOSE with its code, measured heartbeats, and resume where both agreed on it.

The two counts of a resume live here: `received`, what this side took in, and the outbox's, what the other side has
(docs/protocol.md, "What counts", "Retention", "Resume"). `Session` knows nothing of it: base peers pay nothing.
"""

import random
import secrets
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from math import ceil, inf
from time import perf_counter, time
from typing import Any

from gatelink.config import ACK_BYTES as ACK_BYTES
from gatelink.config import ACK_FRAMES as ACK_FRAMES
from gatelink.config import ACK_SECONDS as ACK_SECONDS
from gatelink.errors import CloseCode, LocalError, PeerError, ProtocolError
from gatelink.session.controls import close_code, close_frame, control_frame, printable
from gatelink.session.session import Session
from gatelink.session.states import SESSION, SessionEvent, SessionState, step
from gatelink.session.stream import LAGGING, Pause, Stream
from gatelink.session.window import SendWindow
from gatelink.wire import control
from gatelink.wire.base import BASE_IDS
from gatelink.wire.control import Features, decode_control
from gatelink.wire.frames import Frame

_OPEN = SessionState.OPEN
_LAST_BASE_ID = max(BASE_IDS)  # up to here ids are not, or not always, messages that count

DETACHING = frozenset({CloseCode.HEARTBEAT_TIMEOUT, CloseCode.SLOW_CONSUMER, CloseCode.GOING_AWAY})
"""Codes of a CLOSE that detach a ticketed session; every other one ends it (docs/protocol.md, "Resume")."""

PONGS_PER_SECOND = 4

PROBE_SECONDS = 1.0
"""How often, at the most, a peer that is doubtful is asked for a sign of life."""

MEASURE_INTERVALS = 3
"""After so many heartbeat intervals a PING goes to a peer that is heard all the time, too, so that `rtt` is true."""


class Strength(IntEnum):
    """How well a connection is protected; a ticket is used only on one at least as strong as its first."""

    PLAIN = 0
    TLS = 1
    SEALED = 2


class ExtendedSession(Session):
    """A `Session` whose peer speaks the extension.

    features: what both sides of its connection have. strength: of its first connection.
    ticket: what resumes it, None while it can't be resumed. received: messages taken in since the start.
    attempt: number of the last resume. rtt: seconds that a round trip takes, smoothed as TCP does (RFC 6298); None
    before the first PONG. away: the last GOAWAY of its server, and when, by the hub's clock, this side leaves.
    """

    __slots__ = (
        "_ack_due",
        "_answered",
        "_away",
        "_beat_at",
        "_broke",
        "_controls_due",
        "_counts",
        "_fresh_bytes",
        "_fresh_frames",
        "_lags",
        "_measure_at",
        "_peer_code",
        "_ping",
        "_pinged_at",
        "_pings",
        "_room",
        "attempt",
        "away",
        "features",
        "received",
        "rtt",
        "strength",
        "ticket",
    )

    def __init__(self, *args: Any, features: int, strength: Strength = Strength.PLAIN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limits = self._context.limits
        self._counts = bool(features & Features.RESUME)
        if self._counts:
            self.outbox = SendWindow(
                limits.max_outbox_frames, limits.max_outbox_bytes, limits.window_frames, limits.window_bytes
            )
        self.features = features
        self.strength = strength
        self.ticket: control.Ticket | None = None
        self.received = 0
        self.attempt = 0
        self.rtt: float | None = None
        self.away: tuple[control.GoAway, float] | None = None
        self._fresh_frames = 0  # taken in and not acknowledged
        self._fresh_bytes = 0
        self._lags = Pause(0)  # the handlers, so that nothing is acknowledged
        self._room = (0, 0)  # frames, and bytes of them, that are read all the same
        self._ack_due = False
        self._beat_at = 0.0
        self._away = b""  # a GOAWAY that leaves with the next write
        self._controls_due = False  # an ACK, PONGs or a GOAWAY leave with the next write
        self._measure_at = 0.0
        self._broke = (CloseCode.NORMAL, "")
        self._peer_code: CloseCode | None = None  # what the CLOSE said that ended its last connection
        self._ping = 0  # the outstanding PING's sent-at, 0: none
        self._pinged_at = 0.0
        self._pings: tuple[int, ...] = ()  # the sent-at of those to be answered with the next write
        self._answered = (0.0, 0)  # since when, and how many PINGs

    def issue_ticket(self, address: str = "") -> bytes:
        """Makes this session resumable; the frame that tells the peer how."""
        window = ceil(min(self._context.limits.resume_window, control.MAX_U32))
        self.ticket = control.Ticket(secrets.token_bytes(16), secrets.token_bytes(32), window, address)
        return control_frame(self.ticket)

    # -- from the carrier --

    def receive(self, frames: list[Frame]) -> None:
        if self.state is not _OPEN:
            return
        self.last_heard = self._context.wheel.clock()
        self._flush_scheduled = True
        size = 0
        for id, _, body in frames:
            if id <= _LAST_BASE_ID:
                self._receive_mixed(frames)
                break
            size += len(body)
        else:
            self._dispatch(frames, len(frames), size)
        self._flush_scheduled = False
        if self.outbox.count or self._controls_due or self.state is not _OPEN:
            self.flush()

    def _receive_mixed(self, frames: list[Frame]) -> None:
        """Takes in control records, and the messages before the first that ends the session: together, as one burst."""
        messages: list[Frame] = []
        end: Callable[[], None] | None = None
        for frame in frames:
            if frame[0]:
                messages.append(frame)
            elif (end := self._hear(frame[2])) is not None:
                break
        if messages:
            sizes = [len(body) for id, _, body in messages if id not in BASE_IDS]
            self._dispatch(messages, len(sizes), sum(sizes))
        if end is not None and self.state is _OPEN:
            end()

    def _dispatch(self, frames: list[Frame], count: int, size: int) -> None:
        """Counts messages, and has them handled; those the codec or a handler refuses count all the same."""
        if self._counts:
            self.received += count
            self._fresh_frames += count
            self._fresh_bytes += size
            if self._fresh_frames >= ACK_FRAMES or self._fresh_bytes >= ACK_BYTES:
                self._controls_due = True
            elif self._fresh_frames and not self._ack_due:
                self._ack_due = True
                self._wake()
        self.handlers.dispatch(self, frames)
        if self._lags:
            self._use_room(count, size)

    def _hear(self, payload: bytes) -> Callable[[], None] | None:
        """One control record; what is left to do if it ends the session."""
        try:
            match decode_control(payload):
                case None:
                    pass
                case control.Ack(received):
                    self._acknowledged(received)
                case control.Ping() as ping:
                    self._acknowledged(ping.received)
                    self._answer(ping)
                case control.Pong(sent_at, received):
                    self._acknowledged(received)
                    self._measured(sent_at)
                case control.Close(code, reason):
                    return partial(self._closed_by_peer, code, reason)
                case control.Ticket() as ticket if not self._owner.accepting and self._counts:
                    self.ticket = ticket
                case control.GoAway(within) as away if not self._owner.accepting:
                    self.away = away, self._context.wheel.read_clock() + random.uniform(0, within / 1_000)
                    self._wake()
                case record:
                    raise ProtocolError(f"{type(record).__name__} from a peer that may not send it now")
        except PeerError as error:
            return partial(self.broken, error)
        return None

    def _acknowledged(self, received: int) -> None:
        if isinstance(self.outbox, SendWindow):
            self.outbox.acknowledge(received)

    def _answer(self, ping: control.Ping) -> None:
        since, answered = self._answered
        now = self._context.wheel.now
        if now - since >= 1:
            since, answered = now, 0
        if answered < PONGS_PER_SECOND and len(self._pings) < PONGS_PER_SECOND:
            self._controls_due = True
            self._pings += (ping.sent_at,)
            answered += 1
        self._answered = since, answered

    def _measured(self, sent_at: int) -> None:
        if sent_at and sent_at == self._ping:
            rtt = perf_counter() - self._pinged_at
            self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / 8
            if not self._context.between_servers:
                self._context.stats.rtt.observe(rtt)
            self._ping = 0

    def _closed_by_peer(self, number: int, reason: str) -> None:
        """CLOSE is the peer's last word: nobody there listens any more, but what came before it is still handled."""
        code, reason = close_code(number), printable(reason)
        self._peer_code = code
        if code in DETACHING:
            self._give_up(code, reason)
            return
        carrier, self._stream = self._stream, None
        if carrier is not None:
            carrier.abort()  # not dropped: its place is free only when the handlers are through
        self.state = step(SESSION, self.state, SessionEvent.END)
        self._end(code, reason, heard=True)
        self._gone()

    def broken(self, error: PeerError) -> None:
        if error.code in DETACHING and self.ticket is not None and self.state is _OPEN:
            self._give_up(error.code, str(error))
        else:
            self._close(error.code, str(error), close_frame(error.code))  # the details are for our log

    # -- to the peer --

    def _outgoing(self) -> bytes:
        """Messages and the control records that are due, in one write."""
        data = self.outbox.take(self._context.limits.write_high_water)
        return self._due_controls() + data if self._controls_due else data

    def _due_controls(self) -> bytes:
        self._controls_due = False
        controls = b""
        if self._pings:
            controls = b"".join(map(self._pong, self._pings))
            self._pings = ()
        elif self._fresh_frames and not self._lags:
            controls = control_frame(control.Ack(self._count()))
        controls += self._away
        self._away = b""
        return controls

    def _pong(self, sent_at: int) -> bytes:
        server_time = int(time() * 1000) if self._owner.accepting else 0
        return control_frame(control.Pong(sent_at, self._count(), server_time))

    def _count(self) -> int:
        """`received`, about to be told to the peer; while the handlers lag, what it was told last."""
        if self._lags:
            return self.received - self._fresh_frames
        self._fresh_frames = self._fresh_bytes = 0
        return self.received

    def go_away(self, within: float, address: str = "") -> bool:
        if not self._owner.accepting:
            raise LocalError("a client asks no server to go away; `close` ends the session")
        if self.state is not _OPEN:
            return False
        self._away = control_frame(control.GoAway(round(min(within * 1_000, control.MAX_U32)), address))
        self._controls_due = True
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._context.schedule_flush(self)
        return True

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        self._close(code, reason, farewell + close_frame(code, reason))

    @property
    def closed_by_peer(self) -> bool:
        """Whether `close_code` is what the peer's CLOSE said: its word, and nothing that happened here."""
        return self.close_code is not None and self.close_code is self._peer_code

    def _end(self, code: CloseCode, reason: str, heard: bool) -> None:
        if code is self._peer_code:
            self._context.stats.closed_by_peer[code] += 1
        super()._end(code, reason, heard)

    def _close(self, code: CloseCode, reason: str, farewell: bytes) -> None:
        if isinstance(self.outbox, SendWindow):
            self.outbox.lift()
        if self._lags:
            self._lags = Pause(0)
            self._controls_due = True
        if self._context.between_servers and self._fresh_frames:  # what was not acknowledged counts as lost there
            farewell = control_frame(control.Ack(self._count())) + farewell
        super().close(code, reason, farewell=farewell)

    # -- handlers that lag --

    def pause(self, why: Pause) -> None:
        """As `Session.pause`; but while handlers lag, a peer with a window is first no longer acknowledged.

        One that keeps to its window stops by itself, and its own acknowledgements are still heard: a handler may be
        waiting for just these, in `drain`.
        """
        if not (self._counts and why & LAGGING):
            super().pause(why)
            return
        if not self._lags:
            self._room = self._context.limits.window_frames, self._context.limits.window_bytes
        self._lags |= why

    def _use_room(self, count: int, size: int) -> None:
        """Stops reading from a peer that does not keep to a window of this side's size."""
        frames_left, bytes_left = self._room[0] - count, self._room[1] - size
        self._room = frames_left, bytes_left
        if frames_left < 0 or bytes_left < 0:
            super().pause(self._lags)

    def resume(self, why: Pause) -> None:
        if self._lags:
            self._lags &= ~why
            if not self._lags:
                self._controls_due = True
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self._context.schedule_flush(self)
        super().resume(why)

    # -- deadlines --

    def on_deadline(self, now: float) -> None:
        if self.state is SessionState.DETACHED:
            self.close(*self._broke)
            return
        if self.state is _OPEN:
            if self._ack_due:
                self._ack_due = False
                if self._fresh_frames:
                    self._controls_due = True
                    self.flush()
            if self.away is not None and now >= self.away[1]:
                self._give_up(CloseCode.GOING_AWAY, "the server goes away")
                return
            if now < self._beat_at:
                self._wake()
                return
        super().on_deadline(now)

    def _wake_in(self, seconds: float) -> None:
        self._beat_at = self._context.wheel.read_clock() + seconds
        self._wake()

    def _wake(self) -> None:
        """Sets the deadline to the first of what is to come."""
        now = self._context.wheel.now
        leave_at = self.away[1] if self.away is not None else inf
        due = max(0.0, min(self._beat_at, leave_at) - now)
        self._context.wheel.set(self, min(ACK_SECONDS, due) if self._ack_due else due)

    def _beat(self, carrier: Stream, silent: float) -> float:
        """PING: to a peer that is silent; often while it may not have got what it was sent; at times, to measure."""
        interval = self._context.beat_after(self.uid)
        if not self.features & Features.PING:
            return super()._beat(carrier, silent)
        if not carrier.writable:
            # A PING would stand behind all that the peer has not read. Its silence may be longer than the interval by
            # far, so nothing is computed from it: the session is looked at again after one interval.
            return interval
        patience = ACK_SECONDS + 4 * (self.rtt or 0.0)
        doubtful = isinstance(self.outbox, SendWindow) and self.outbox.kept > 0 and silent > patience
        now = self._context.wheel.now
        if doubtful or silent >= interval or now >= self._measure_at:
            self._measure_at = now + MEASURE_INTERVALS * interval
            if not self._ping:  # else the first answer is to the first of them
                self._pinged_at = perf_counter()  # the loop's time stands still within a turn
                self._ping = max(1, int(self._pinged_at * 1_000_000))
            carrier.write(control_frame(control.Ping(self._ping, self._count())))
            silent = 0.0
        return min(interval - silent, max(PROBE_SECONDS, patience) if doubtful else inf)

    # -- resume --

    def _detached_for(self, code: CloseCode, reason: str) -> float:
        self._broke = (code, reason)
        return super()._detached_for(code, reason) if self.ticket is None else float(self.ticket.window)

    def can_resume_from(self, received: int) -> bool:
        """Whether a peer that took in `received` messages can go on here: what it lacks is still kept."""
        window = self.outbox
        return isinstance(window, SendWindow) and window.acknowledged <= received <= window.sent

    def resume_on(self, carrier: Stream, received: int, greeting: bytes) -> None:
        """Goes on with `carrier`: says `greeting`, then sends again what the peer, which has `received`, lacks.

        The old connection, if it still seems to live, is dropped: what of it is not decoded will be sent again.
        """
        if self._stream is not None:
            self._stream.drop()
        self._peer_code = None
        window = self.outbox
        assert isinstance(window, SendWindow)
        window.acknowledge(received)
        self._fresh_frames = self._fresh_bytes = 0
        carrier.write(greeting + window.unacknowledged())
        self.attach(carrier)

    def attach(self, carrier: Stream) -> None:
        self._ping = 0
        self._pings = ()
        self._away = b""
        self._controls_due = False
        self.away = None
        self._ack_due = False
        super().attach(carrier)
