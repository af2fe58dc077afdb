"""The straight path of a session: the frames of a read to the handlers, and messages to the stream.

Nearly every message passes here. The rest of a session is in session.py.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from gatelink._native import compiled
from gatelink.errors import CloseCode, SessionClosed
from gatelink.session.extension import Extension
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import Dispatcher, Forwarder
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.states import SessionState
from gatelink.session.stream import Stream
from gatelink.session.timers import Item
from gatelink.wire.frames import Frame

_OPEN = SessionState.OPEN


class FrameSender(Protocol):
    """Sends whole frames to its peer: a session, or a player."""

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def send_frames(self, frames: Sequence[bytes]) -> None: ...


@compiled
def send_to_all(sessions: Iterable[FrameSender], frames: Sequence[bytes], key: int = 0, full: Full = Full.CLOSE) -> int:
    """Queue whole frames for each of `sessions`, and return how many took them. Ended sessions are skipped.

    Raises MessageTooLarge.
    """
    sent = 0
    is_one = len(frames) == 1
    for session in sessions:
        try:
            if is_one:
                session.send_frame(frames[0], key, full)
            elif key or full is not Full.CLOSE:
                for frame in frames:
                    session.send_frame(frame, key, full)
            else:
                session.send_frames(frames)
        except SessionClosed:
            continue
        sent += 1
    return sent


@compiled
class StraightPath(Item):
    """Queues and writes messages, and passes frames on. Its only subclass is `Session`.

    last_heard: the start of the peer's silence (`Session`). on_written: called after each flush that wrote
    messages, while it is set.
    """

    __slots__ = (
        "_drained",
        "_flush_scheduled",
        "_stream",
        "_written",
        "close_code",
        "close_reason",
        "context",
        "extension",
        "forwarder",
        "handlers",
        "inbox",
        "last_heard",
        "on_written",
        "outbox",
        "state",
    )

    def __init__(
        self,
        context: LoopContext,
        handlers: "Dispatcher[Any]",
        stream: Stream | None,
        extension: Extension | None,
        outbox: Outbox,
    ) -> None:
        self._tick = 0
        self.context = context
        self.handlers = handlers
        self.extension = extension
        self.outbox = outbox
        self.state = _OPEN
        self.last_heard = context.wheel.read_clock()  # not `wheel.now`, which stands still while no timer is set
        self.inbox: Inbox | None = None
        self.forwarder: Forwarder | None = None
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self.on_written: Callable[[], None] | None = None
        self._stream = stream
        self._flush_scheduled = False
        self._written = b""  # the last write, if the stream did not take all of it at once
        self._drained: asyncio.Future[None] | None = None

    # -- the rest of the session, where the straight path ends --

    def take_requests(self, extension: Extension, frames: list[Frame]) -> list[Frame]:
        """Take the answers out of the frames of a read, and note the requests. Returns the messages and requests."""
        raise NotImplementedError

    def after_read(self, extension: Extension) -> None:
        """Act on what the last read brought beside messages, and on a peer that sends more than its window."""
        raise NotImplementedError

    def all_written(self, stream: Stream) -> None:
        """The queue is empty, and something waits for that: `drain`, or the end of the session."""
        raise NotImplementedError

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "", *, farewell: bytes = b"") -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    # -- to the peer --

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queue `message`; never block. It leaves with everything else of this turn of the loop, in one write.

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

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queue a whole frame, as `encode_frame` makes it. `send_raw` and broadcasts call this.

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

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Queue several frames in order, as `send_frame` does."""
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
        """Queue `frame` although the queue was full, by writing queued messages at once. Raises SessionClosed.

        One turn of the loop can fill the queue of a peer that reads. If the stream takes nothing more, the session
        ends.
        """
        stream = self._stream
        while stream is not None and stream.writable and (data := self._take()):
            stream.write(data)
            self._written = b"" if stream.writable else data
            with suppress(OutboxFull):
                self.outbox.push(frame, Full.CLOSE, key)
                return
        self.close(error.code, str(error))
        self.abort()
        raise SessionClosed(error.code, str(error)) from None

    def _schedule_flush(self) -> None:
        """Ask for one flush at the end of this turn of the loop. Nothing else asks for one."""
        self.context.schedule_flush(self)
        self._flush_scheduled = True

    def flush(self) -> None:
        """Write queued messages as far as the stream takes them."""
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
        if self._drained is not None or self.state is not _OPEN:
            self.all_written(stream)

    def _take(self) -> bytes:
        """Take out the bytes of the next write: about as many as the stream buffers before it stops being writable."""
        data = self.outbox.take(self.context.limits.write_high_water)
        extension = self.extension
        if extension is not None and extension.controls_due:
            return extension.take_controls() + data
        return data

    # -- from the stream --

    def receive(self, frames: list[Frame]) -> None:
        """Give `frames` to the handlers, then flush what they sent back in one write."""
        if self.state is not _OPEN:
            return
        self.last_heard = now = self.context.wheel.clock()  # not `wheel.now`: after a stall that is too old
        extension = self.extension
        try:
            self._flush_scheduled = True  # so that `send` asks for no flush: this call ends with one
            if extension is None:
                self.handlers.dispatch(self, frames)
            else:
                messages = extension.receive(frames, now)
                if extension.has_tags:
                    messages = self.take_requests(extension, messages)
                if messages and self.state is _OPEN:  # else the codec of an answer has ended the session
                    self.handlers.dispatch(self, messages)
                if extension.action_due or extension.lags:
                    self.after_read(extension)
        except BaseException:  # as KeyboardInterrupt: what was sent before it leaves in the next turn
            self._schedule_flush()
            raise
        self._flush_scheduled = False
        if self.outbox.count or self.state is not _OPEN or (extension is not None and extension.controls_due):
            self.flush()
