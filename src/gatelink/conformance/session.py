"""The server's side of one session: what it sent and received over all connections, and what the client did wrong."""

import secrets
from time import time
from typing import Any

from gatelink.config import WireOptions
from gatelink.conformance.connection import ScriptedConnection
from gatelink.conformance.judge import Judge
from gatelink.conformance.messages import Count, catalog
from gatelink.errors import GatelinkError, counted
from gatelink.wire.base import BASE_IDS, HEARTBEAT, ClientVerifyRequest
from gatelink.wire.body import BodyCoder
from gatelink.wire.control import (
    Ack,
    Close,
    Control,
    Features,
    Ping,
    Pong,
    Renew,
    Renewed,
    Resume,
    Ticket,
    control_frame,
    decode_control,
)
from gatelink.wire.frames import ANSWER, CONTROL, FAILED, REQUEST, TAG_SIZE, Frame, encode_frame, tagged
from gatelink.wire.resume import resumed

RESUME_WINDOW = 60
"""Seconds of a ticket, unless the step is about them."""

MAX_FRAMES = 100_000
"""Frames that the client may send in one session; no step has a tenth of them."""

MAX_BODY = 4 << 20
_CODER = BodyCoder(WireOptions())


class ScriptedSession:
    """One session as its server sees it.

    ticket: how it is resumed; None if resume was not agreed on. attempt: of the last good RESUME.
    sent: the frames of all messages for the client, in order. written: how many of them were written whole.
    acknowledged: how many of them the client has acknowledged.
    frames: the messages of the client, as they came first. received: how many of them the server says it has.
    count_due: the number that the client's next `Count` must have. counted: how many `Count` were made for the client.
    others: the decoded messages of other types. requests, answers: frames with tags.
    acks, pings, pongs, renewals, close: the client's records.

    is_gone: it can't be resumed; the user may log in again.
    acknowledges, answers_pings, answers_renewals: what the session does by itself.
    """

    def __init__(
        self, judge: Judge, connection: ScriptedConnection, request: ClientVerifyRequest, address: str, window: int
    ) -> None:
        """connection: where `request` came, after its HELLO. address, window: of the ticket."""
        self.uid = request.uid
        self.token = request.token
        self.slot = connection.hello.slot
        self.features = connection.agreed.features
        self.ticket: Ticket | None = None
        if self.features & Features.RESUME:
            self.ticket = Ticket(secrets.token_bytes(16), secrets.token_bytes(32), window, address)
        self.attempt = 0
        self.connection: ScriptedConnection | None = None
        self.sent: list[bytes] = []
        self.written = 0
        self.acknowledged = 0
        self.frames: list[bytes] = []
        self.received = 0
        self.count_due = 0
        self.others: list[Any] = []
        self.requests: list[Frame] = []
        self.answers: list[Frame] = []
        self.acks: list[int] = []
        self.pings: list[Ping] = []
        self.pongs: list[Pong] = []
        self.renewals: list[str] = []
        self.close: Close | None = None
        self.is_gone = False
        self.acknowledges = True
        self.answers_pings = True
        self.answers_renewals = True
        self._taken = 0  # frames of the client
        self._told = 0  # the count that the last ACK had
        self.counted = 0
        self._judge = judge

    # -- its connection --

    def attach(self, connection: ScriptedConnection, since: int | None = None) -> None:
        """Go on with `connection`: send what the client lacks, and take its messages. since: how many it has."""
        self.connection = connection
        if since is not None:
            self.acknowledge(since)
            if missing := self.sent[since:]:
                connection.write(b"".join(missing))
        self.written = len(self.sent)
        connection.receiver = self
        if connection.frames:
            frames = list(connection.frames)
            connection.frames.clear()
            self.receive(connection, frames)

    def resumed_frame(self, connection: ScriptedConnection, record: Resume, received: int | None = None) -> bytes:
        """The frame of RESUMED. received: a count that it gives in place of the true one."""
        assert self.ticket is not None
        count = self.received if received is None else received
        self._told = max(self._told, self.received)
        key, id = self.ticket.resume_key, self.ticket.session_id
        return control_frame(resumed(key, connection.handshake_hash, id, count, record.attempt))

    # -- to the client --

    def send(self, message: Any) -> None:
        """Send a message: now, or on the next connection if there is no connection now."""
        kind, body = catalog.encode(message)
        self.send_frame(encode_frame(kind.id, body))

    def send_counts(self, count: int, text: str = "") -> None:
        """Send the next `count` messages `Count`, as one write."""
        frames = [self.count_frame(text) for _ in range(count)]
        self.sent += frames
        self._write(b"".join(frames))

    def count_frame(self, text: str = "") -> bytes:
        """The frame of the next `Count`."""
        kind, body = catalog.encode(Count(self.counted, text))
        self.counted += 1
        return encode_frame(kind.id, body)

    def send_frame(self, frame: bytes) -> None:
        """Send a whole frame of a message."""
        self.sent.append(frame)
        self._write(frame)

    def send_part(self, frame: bytes, size: int) -> None:
        """Send the first `size` bytes of a frame. It does not count as written: a break sends it again, whole."""
        assert self.connection is not None
        self.sent.append(frame)
        self.connection.write(frame[:size])

    def send_rest(self, size: int) -> None:
        """Send the rest of the frame of which `size` bytes were sent."""
        self._write(self.sent[-1][size:])

    def ask(self, message: Any, tag: int) -> None:
        """Send a request."""
        kind, body = catalog.encode(message)
        self.send_frame(tagged(encode_frame(kind.id, body), tag, REQUEST))

    def answer(self, request: Frame, message: Any) -> None:
        """Answer a request of the client."""
        kind, body = catalog.encode(message)
        self.send_frame(tagged(encode_frame(kind.id, body), tag_of(request), ANSWER))

    def say(self, *records: Control) -> None:
        """Write control records; nothing while there is no connection."""
        if self.connection is not None and not self.connection.is_over:
            self.connection.say(*records)

    def _write(self, data: bytes) -> None:
        if self.connection is not None and not self.connection.is_over:
            self.connection.write(data)
            self.written = len(self.sent)

    # -- from the client --

    def receive(self, connection: ScriptedConnection, frames: list[Frame]) -> None:
        """Take the frames of a read."""
        self._taken += len(frames)
        if self._taken > MAX_FRAMES:
            self._judge.give_up(f"the client floods: more than {MAX_FRAMES} frames in a session")
            connection.abort()
            return
        for frame in frames:
            if self.close is not None:
                self._judge.blame("the client sent something behind its CLOSE")
                return
            if frame[1] == CONTROL:
                self._control(frame[2])
            elif frame[0] in BASE_IDS:
                if frame[0] != HEARTBEAT:
                    self._judge.blame(f"the client sent message {frame[0]} in a session")
                elif self.features & Features.PING:
                    self._judge.blame("the client sent HeartBeat, though both sides agreed on PING")
            else:
                self._message(frame)
        if self.acknowledges and self._told < self.received and connection is self.connection:
            self.say(Ack(self._count()))
        self._judge.changed()

    def _control(self, payload: bytes) -> None:
        try:
            record = decode_control(payload)
        except GatelinkError as error:
            self._judge.blame(f"the client sent: {error}")
            return
        match record:
            case None:
                pass
            case Ack(received):
                self.acks.append(received)
                self.acknowledge(received)
            case Ping() as ping:
                self.pings.append(ping)
                self.acknowledge(ping.received)
                if self.answers_pings:
                    self.say(Pong(ping.sent_at, self._count(), int(time() * 1_000)))
            case Pong() as pong:
                self.pongs.append(pong)
                self.acknowledge(pong.received)
                if pong.server_time:
                    self._judge.blame(f"the client sent a PONG with the server time {pong.server_time}, not 0")
            case Close() as close:
                self.close = close
            case Renew(token) if self.features & Features.RENEWAL:
                self.renewals.append(token)
                if self.answers_renewals:
                    self.say(Renewed(0, 3_600))
            case other:
                self._judge.blame(f"the client sent {type(other).__name__}, which has no place in a session")

    def _count(self) -> int:
        """The count for a record that is sent now. It stands still while the session does not acknowledge."""
        if self.acknowledges:
            self._told = self.received
        return self._told

    def acknowledge(self, received: int) -> None:
        """Take the client's count of received messages. A record or a RESUME had it."""
        said = f"the client acknowledged {counted(received, 'message')}"
        if received > self.written:
            self._judge.blame(f"{said}, and {self.written} were sent whole")
        elif received < self.acknowledged:
            self._judge.blame(f"{said}, after {self.acknowledged}")
        else:
            self.acknowledged = received

    def _message(self, frame: Frame) -> None:
        id, flags, body = frame
        whole = encode_frame(id, body, flags)
        if self.received < len(self.frames):  # the server said that it does not have it, so it is sent again
            if whole != self.frames[self.received]:
                self._judge.blame(f"message {self.received} was not sent again as it was sent first")
            self.received += 1
            return
        self.frames.append(whole)
        self.received += 1
        if flags in (FAILED, *range(ANSWER, ANSWER + 4)):
            self.answers.append(frame)
        elif flags >= REQUEST:
            self.requests.append(frame)
        else:
            self._plain(id, flags, body)

    def _plain(self, id: int, flags: int, body: bytes) -> None:
        try:
            message = catalog.by_id[id].decode(_CODER.open(flags, body, MAX_BODY))
        except Exception as error:
            self._judge.blame(f"the client sent message {id}, which does not decode: {error!r}")
            return
        if not isinstance(message, Count):
            self.others.append(message)
            return
        if message.number != self.count_due:
            how = "again" if message.number < self.count_due else "too early"
            self._judge.blame(f"the client sent Count {message.number} {how}: {self.count_due} was due")
        self.count_due = message.number + 1


def tag_of(frame: Frame) -> int:
    """The tag of a request, an answer or a failure."""
    return int.from_bytes(frame[2][:TAG_SIZE], "little")


def told(frame: Frame) -> Any:
    """The message in a request or an answer."""
    return catalog.by_id[frame[0]].decode(_CODER.open(frame[1] & 3, frame[2][TAG_SIZE:], MAX_BODY))
