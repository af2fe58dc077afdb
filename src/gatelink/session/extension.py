"""The part of a session whose peer speaks the extension: measured heartbeats, acknowledgements, GOAWAY and resume.

A resume needs two counts of messages: `received` counts those that this side has taken in, and the send window has the
peer's count (docs/protocol.md, "What counts", "Retention", "Resume"). An `Extension` handles bytes, counts and times.
It has no connection: its session asks it what to write, when to wake, and how a read ended.
"""

import random
import secrets
from enum import IntEnum
from math import ceil, inf
from time import perf_counter, time

from gatelink._native import compiled
from gatelink.config import ACK_BYTES, ACK_FRAMES, ACK_SECONDS, Limits
from gatelink.errors import CloseCode, PeerError, ProtocolError
from gatelink.session.outbox import SendWindow
from gatelink.session.requests import Requests
from gatelink.session.stream import LAGGING, Pause
from gatelink.stats import Histogram
from gatelink.wire import control
from gatelink.wire.base import BASE_IDS
from gatelink.wire.control import Features, close_code, control_frame, decode_control, printable
from gatelink.wire.frames import REQUEST, Frame

_LAST_BASE_ID = max(BASE_IDS)  # not every frame with an id up to here is a message that counts

DETACHING = frozenset({CloseCode.HEARTBEAT_TIMEOUT, CloseCode.SLOW_CONSUMER, CloseCode.GOING_AWAY})
"""Codes of a CLOSE that detach a session with a ticket; every other code ends it (docs/protocol.md, "Resume")."""

PONGS_PER_SECOND = 4

PROBE_SECONDS = 1.0
"""The least time, in seconds, between two PINGs to a peer that may have lost what it was sent."""

MEASURE_INTERVALS = 3
"""A peer that is never silent gets a PING after so many heartbeat intervals, so that `rtt` stays current."""


Notice = control.Renew | control.Renewed | control.Expiring | control.Lost
"""A record that its session processes; the extension processes all others."""


@compiled
class Intake:
    """Counts the messages of a session's peer, and says when an acknowledgement is due.

    counts: whether messages are counted at all. acknowledges: whether the peer gets the count.
    received, received_bytes: taken in since the session's start. fresh_frames, fresh_bytes: of these, those that are
    not acknowledged. ack_due: an ACK is due within ACK_SECONDS. controls_due: control records are to be sent with the
    next write. action_due: the session has to act on the last read. lags: the reasons to send no acknowledgements.
    """

    __slots__ = (
        "ack_due",
        "acknowledges",
        "action_due",
        "controls_due",
        "counts",
        "fresh_bytes",
        "fresh_frames",
        "lags",
        "received",
        "received_bytes",
    )

    def __init__(self, counts: bool, acknowledges: bool) -> None:
        self.counts = counts
        self.acknowledges = acknowledges
        self.received = 0
        self.received_bytes = 0
        self.fresh_frames = 0
        self.fresh_bytes = 0
        self.ack_due = False
        self.controls_due = False
        self.action_due = False
        self.lags = Pause(0)

    def count(self, frames: int, size: int) -> None:
        """Count messages, including those that the codec or a handler will refuse. size: bytes of their bodies."""
        if not self.counts:
            return
        self.received += frames
        self.received_bytes += size
        if not self.acknowledges:
            return
        self.fresh_frames += frames
        self.fresh_bytes += size
        if self.fresh_frames >= ACK_FRAMES or self.fresh_bytes >= ACK_BYTES:
            self.controls_due = True
        elif self.fresh_frames and not self.ack_due:
            self.ack_due = self.action_due = True


class Strength(IntEnum):
    """How well a connection is protected. A session resumes only on a connection at least as strong as its first."""

    PLAIN = 0
    TLS = 1
    SEALED = 2


class PeerClosed:
    """The peer's CLOSE. The messages before it are still handled."""

    __slots__ = ("code", "reason")

    def __init__(self, number: int, reason: str) -> None:
        self.code = close_code(number)
        self.reason = printable(reason)


class Extension(Intake):
    """The extension's part of one session.

    features: those that both sides of the connection have. strength: that of the session's first connection.
    accepting: whether this side accepted the connection. window: the session's outbox, if both sides agreed on resume.
    rtts: the histogram of measured round trips.

    ticket: the ticket that resumes the session; None while it can't be resumed. attempt: the number of the last resume.
    rtt: seconds that a round trip takes, smoothed as in TCP (RFC 6298); None before the first PONG.
    going_away: the server's last GOAWAY, and the time at which this side leaves because of it.
    action_due: the last read ended the session (then `end` says how), moved its deadline, or brought `notices`, the
    records that the session itself takes. has_tags: the last read had requests or answers.
    requests: those of the session; None if the session has no requests.
    """

    __slots__ = (
        "_accepting",
        "_answered",
        "_go_away",
        "_records",
        "_limits",
        "_lost",
        "_measure_at",
        "_ping",
        "_pinged_at",
        "_pings",
        "_room",
        "_rtts",
        "attempt",
        "beat_at",
        "end",
        "features",
        "going_away",
        "has_tags",
        "notices",
        "peer_code",
        "requests",
        "rtt",
        "strength",
        "ticket",
        "window",
    )

    def __init__(
        self,
        features: int,
        limits: Limits,
        *,
        accepting: bool,
        strength: Strength = Strength.PLAIN,
        rtts: Histogram | None = None,
    ) -> None:
        acknowledges = features & Features.RESUME > 0
        super().__init__(acknowledges or features & Features.REQUESTS > 0, acknowledges)
        self.features = features
        self.strength = strength
        self.window: SendWindow | None = None
        if acknowledges:
            self.window = SendWindow(
                limits.max_outbox_frames, limits.max_outbox_bytes, limits.window_frames, limits.window_bytes
            )
        self.ticket: control.Ticket | None = None
        self.attempt = 0
        self.rtt: float | None = None
        self.going_away: tuple[control.GoAway, float] | None = None
        self.beat_at = 0.0  # when the session checks its heartbeat again
        self.end: PeerClosed | PeerError | None = None
        self.peer_code: CloseCode | None = None  # the code of the CLOSE that ended the last connection
        self.has_tags = False
        self.notices: tuple[Notice, ...] = ()
        self._lost: dict[int, control.Lost] = {}  # the last LOST, by server type
        self.requests: Requests | None = None
        self._accepting = accepting
        self._limits = limits
        self._rtts = rtts
        self._room = (0, 0)  # the counts of frames and bytes up to which the peer is read while handlers lag
        self._go_away = b""  # a GOAWAY that leaves with the next write
        self._records = b""  # other records that do
        self._measure_at = 0.0
        self._ping = 0  # `sent_at` of the PING that has no PONG yet; 0: none
        self._pinged_at = 0.0
        self._pings: tuple[int, ...] = ()  # `sent_at` of the PINGs to be answered with the next write
        self._answered = (0.0, 0)  # the start of the current second, and the PINGs answered in it

    # -- what the peer sent --

    def receive(self, frames: list[Frame], now: float) -> list[Frame]:
        """Count the messages of a read and process its control records.

        Returns the messages; after a record that ends the session, only those before it.
        """
        size = 0
        for id, flags, body in frames:
            if id <= _LAST_BASE_ID or flags >= REQUEST:
                return self._receive_mixed(frames, now)
            size += len(body)
        self.count(len(frames), size)
        return frames

    def _receive_mixed(self, frames: list[Frame], now: float) -> list[Frame]:
        messages: list[Frame] = []
        for frame in frames:
            if frame[0]:
                messages.append(frame)
                self.has_tags |= frame[1] >= REQUEST
                continue
            try:
                self.end = self._process(frame[2], now)
            except PeerError as error:
                self.end = error
            if self.end is not None:
                self.action_due = True
                break
        if self.counts:
            sizes = [len(body) for id, _, body in messages if id not in BASE_IDS]
            self.count(len(sizes), sum(sizes))
        return messages

    @property
    def is_over_window(self) -> bool:
        """Whether the peer has sent more than one window, of this side's size, since the handlers began to lag."""
        return self.received > self._room[0] or self.received_bytes > self._room[1]

    def _process(self, payload: bytes, now: float) -> PeerClosed | None:
        """Processes one control record; returns it if it is a CLOSE. Raises ProtocolError."""
        match decode_control(payload):
            case None:
                pass
            case control.Ack(received):
                self._acknowledge(received)
            case control.Ping() as ping:
                self._acknowledge(ping.received)
                self._answer(ping, now)
            case control.Pong(sent_at, received):
                self._acknowledge(received)
                self._measured(sent_at)
            case control.Close(code, reason):
                return PeerClosed(code, reason)
            case control.Ticket() as ticket if not self._accepting and self.window is not None:
                self.ticket = ticket
            case control.GoAway(within) as away if not self._accepting:
                self.going_away = away, now + random.uniform(0, within / 1_000)
                self.action_due = True
            case control.Renew() as record if self._accepting and self._renews:
                self._notice(record)
            case control.Renewed() | control.Expiring() as record if not self._accepting and self._renews:
                self._notice(record)
            case control.Lost() as record if not self._accepting and self.features & Features.LOSSES:
                self._note_loss(record)
            case record:
                raise ProtocolError(f"{type(record).__name__} from a peer that may not send it now")
        return None

    @property
    def _renews(self) -> bool:
        return self.features & Features.RENEWAL > 0

    def _notice(self, record: Notice) -> None:
        self.notices += (record,)
        self.action_due = True

    def _note_loss(self, record: control.Lost) -> None:
        before = self._lost.get(record.type, control.Lost(record.type, 0, 0))
        to_server, to_client = record.to_server - before.to_server, record.to_client - before.to_client
        if to_server < 0 or to_client < 0:
            raise ProtocolError("a LOST with smaller numbers than the one before")
        self._lost[record.type] = record
        if to_server or to_client:
            self._notice(control.Lost(record.type, to_server, to_client))

    def _acknowledge(self, received: int) -> None:
        """Drop the sent messages that the peer says it has. Raises ProtocolError for an impossible count."""
        if self.window is not None:
            self.window.acknowledge(received)

    def _answer(self, ping: control.Ping, now: float) -> None:
        since, answered = self._answered
        if now - since >= 1:
            since, answered = now, 0
        if answered < PONGS_PER_SECOND and len(self._pings) < PONGS_PER_SECOND:
            self.controls_due = True
            self._pings += (ping.sent_at,)
            answered += 1
        self._answered = since, answered

    def _measured(self, sent_at: int) -> None:
        if sent_at and sent_at == self._ping:
            rtt = perf_counter() - self._pinged_at
            self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / 8
            if self._rtts is not None:
                self._rtts.observe(rtt)
            self._ping = 0

    # -- what goes to the peer --

    def take_controls(self) -> bytes:
        """Take out the control records that are due, to go at the front of the next write."""
        self.controls_due = False
        controls = b""
        if self._pings:
            controls = b"".join(map(self._pong, self._pings))
            self._pings = ()
        elif self.fresh_frames and not self._withholds:
            controls = self.take_ack()
        controls += self._records + self._go_away
        self._records = self._go_away = b""
        return controls

    def take_ack(self) -> bytes:
        """An ACK of all messages taken in; b"" if all are acknowledged."""
        return control_frame(control.Ack(self._take_count())) if self.fresh_frames else b""

    def _pong(self, sent_at: int) -> bytes:
        server_time = int(time() * 1000) if self._accepting else 0
        return control_frame(control.Pong(sent_at, self._take_count(), server_time))

    def _take_count(self) -> int:
        """The count for a record that is sent now: `received`; while the handlers lag, the count that was sent last."""
        if self._withholds:
            return self.received - self.fresh_frames
        self.fresh_frames = self.fresh_bytes = 0
        return self.received

    def go_away(self, within: float, address: str) -> None:
        """Send a GOAWAY with the next write: connect again within so many seconds, at `address` (empty: here)."""
        self._go_away = control_frame(control.GoAway(round(min(within * 1_000, control.MAX_U32)), address))
        self.controls_due = True

    def send(self, record: control.Control) -> None:
        """Send a record with the next write. It is dropped if the connection breaks before."""
        self._records += control_frame(record)
        self.controls_due = True

    def beat(self, now: float, silent: float, interval: float) -> tuple[bytes, float]:
        """Return a PING if one is due, else b"", and the seconds until the next call.

        A PING is due when the peer has been silent for one interval, and every MEASURE_INTERVALS intervals to measure
        the round trip. It is due sooner if a message was not acknowledged in time. silent: seconds since the last read.
        """
        patience = ACK_SECONDS + 4 * (self.rtt or 0.0)
        doubtful = self.window is not None and self.window.kept > 0 and silent > patience
        ping = b""
        if doubtful or silent >= interval or now >= self._measure_at:
            self._measure_at = now + MEASURE_INTERVALS * interval
            if not self._ping:  # else repeat the outstanding PING, so that its PONG measures from the first one
                self._pinged_at = perf_counter()  # not `now`: the loop's clock stands still within a turn
                self._ping = max(1, int(self._pinged_at * 1_000_000))
            ping = control_frame(control.Ping(self._ping, self._take_count()))
            silent = 0.0
        probe = max(PROBE_SECONDS, patience) if doubtful else inf
        return ping, min(interval - silent, probe)

    # -- deadlines --

    def next_wake(self, now: float) -> float:
        """Seconds until the next thing that is due: a heartbeat check, an ACK, or leaving after a GOAWAY."""
        leave_at = self.going_away[1] if self.going_away is not None else inf
        due = max(0.0, min(self.beat_at, leave_at) - now)
        return min(ACK_SECONDS, due) if self.ack_due else due

    def acknowledge_late(self) -> None:
        """The deadline of an ACK has come: send it with the next write, unless one was sent before."""
        if self.ack_due:
            self.ack_due = False
            if self.fresh_frames:
                self.controls_due = True

    # -- handlers that lag --

    def withhold_acks(self, why: Pause) -> bool:
        """Stop acknowledging the peer because its handlers lag. False if reading must be paused instead.

        A peer that keeps to its window then stops by itself, and its acknowledgements are still read: a handler may be
        waiting for them in `drain`.
        """
        if not why & LAGGING or (self.window is None and not self._awaits_answers):
            return False
        if not self.lags:
            self._give_room()
        self.lags |= why
        return True

    def expect_answers(self, paused: Pause) -> Pause:
        """A request was sent: acknowledge and read one more window even if handlers lag. Only the first request does.

        paused: the reasons for which reading is paused. Returns those that no longer hold.
        """
        lags = self.lags | (paused & LAGGING)
        if not lags or (self.requests is not None and self.requests.waiting > 1):
            return Pause(0)
        self.lags = lags
        self._give_room()
        self.controls_due |= self.fresh_frames > 0
        return paused & LAGGING

    def _give_room(self) -> None:
        limits = self._limits
        self._room = self.received + limits.window_frames, self.received_bytes + limits.window_bytes

    @property
    def _awaits_answers(self) -> bool:
        return self.requests is not None and self.requests.waiting > 0

    @property
    def _withholds(self) -> bool:
        return bool(self.lags) and not self._awaits_answers

    def give_acks(self, why: Pause) -> None:
        """Undo `withhold_acks` for this reason. When no reason is left, an ACK is due."""
        if self.lags:
            self.lags &= ~why
            self.controls_due |= not self.lags

    def closing(self, between_servers: bool) -> bytes:
        """The session ends on this side: return the bytes to send before its CLOSE.

        Between servers, messages that are not acknowledged count as lost, so a last ACK goes first.
        """
        if self.window is not None:
            self.window.lift()
        self.give_acks(self.lags)
        return self.take_ack() if between_servers else b""

    def disown(self) -> None:
        """Take the unacknowledged messages out of the count, as they will not be handled. A PONG reports the count."""
        self.received -= self.fresh_frames
        self.fresh_frames = self.fresh_bytes = 0

    # -- resume --

    def issue_ticket(self, address: str = "") -> control.Ticket:
        """Make a ticket that resumes the session at `address` (empty: the address that the client dialled)."""
        window = ceil(min(self._limits.resume_window, control.MAX_U32))
        self.ticket = control.Ticket(secrets.token_bytes(16), secrets.token_bytes(32), window, address)
        return self.ticket

    def can_resume_from(self, received: int) -> bool:
        """Whether a peer that has taken in `received` messages can resume: the messages it lacks are still kept."""
        return self.window is not None and self.window.acknowledged <= received <= self.window.sent

    def resume(self, received: int) -> bytes:
        """Resume with a peer that has taken in `received` messages: return the bytes of those that it lacks."""
        self.fresh_frames = self.fresh_bytes = 0
        if self.window is None:
            return b""
        self.window.acknowledge(received)
        return self.window.unacknowledged()

    def attached(self) -> None:
        """The session has a new connection: forget what was due on the old one, and how that ended."""
        self.peer_code = None
        self._ping = 0
        self._pings = ()
        self._records = self._go_away = b""
        self.controls_due = False
        self.going_away = None
        self.ack_due = False
