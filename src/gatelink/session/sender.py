"""The way out of a session: what is sent is queued, and leaves with all else of its turn of the loop in one write."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gatelink.errors import CloseCode, SessionClosed
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.states import SessionState
from gatelink.session.stream import Stream
from gatelink.session.timers import Item
from gatelink.wire.frames import encode_frame, messages_from

_OPEN = SessionState.OPEN


class Sender(Item):
    """The half of a `Session` that sends: `outbox` has what is queued, and the carrier takes it as the peer reads."""

    __slots__ = (
        "_stream",
        "_drained",
        "_farewell",
        "_handed",
        "_context",
        "_flush_scheduled",
        "close_code",
        "close_reason",
        "on_written",
        "outbox",
        "state",
    )

    def __init__(self, hub: LoopContext, carrier: Stream | None, outbox: Outbox | None) -> None:
        self._tick = 0
        self._context = hub
        self._stream = carrier
        self._flush_scheduled = False  # its flush is due
        self._farewell = b""
        self._handed = b""  # what was written last, if the carrier did not take all of it at once
        self._drained: asyncio.Future[None] | None = None
        self.outbox = outbox or Outbox(hub.limits.max_outbox_frames, hub.limits.max_outbox_bytes)
        self.state = _OPEN
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self.on_written: Callable[[], None] | None = None
        """Called after each write of what is queued, while it is set; a crowded link waits so for its low water."""

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues `message`; never blocks. It leaves with everything else of this turn of the loop, in one write.

        key: not 0 replaces a message queued under the same key. full: what happens when the queue is full.
        Raises SessionClosed; MessageTooLarge; InvalidMessage if its receiver's decoder would refuse it; CatalogError if
        its class is not registered; LocalError if it is the framework's own, or if another thread calls this: that is
        noticed only while nothing else is queued.
        """
        cls = type(message)
        encoder = self._context.encoders.get(cls) or self._context.encoder(cls)
        frame = encoder.frame(message)
        if self.state is not _OPEN:  # from here on as `send_frame`, in line: the call was a twentieth of an echo
            self._check_sendable()
        try:
            self.outbox.push(frame, full, key)
        except OutboxFull as error:
            self._overflow(error, frame, key)
        if not self._flush_scheduled:
            self._context.schedule_flush(self)
            self._flush_scheduled = True
        traffic = encoder.traffic
        traffic.messages += 1
        traffic.bytes += len(frame)

    def send_raw(self, id: int, body: bytes, flags: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queues a message by its id and encoded body, in one order with the typed ones.

        Raises SessionClosed; MessageTooLarge; LocalError for an id of the framework's.
        """
        self._context.check_sendable(id)
        frame = encode_frame(id, body, flags)
        self._context.check_size(id, frame)
        self.send_frame(frame, key, full)
        traffic = self._context.traffic_of(id)
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
            self._overflow(error, frame, key)
        if not self._flush_scheduled:
            self._context.schedule_flush(self)
            self._flush_scheduled = True

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
            self._context.schedule_flush(self)
            self._flush_scheduled = True

    def _check_sendable(self) -> None:
        if self.state is not SessionState.DETACHED:
            raise SessionClosed(self.close_code or CloseCode.NORMAL, self.close_reason)

    def _overflow(self, error: OutboxFull, frame: bytes, key: int) -> None:
        """The queue is full before the turn of the loop is over. A peer that reads is not to blame for that.

        What its socket takes now makes room for `frame`; if it takes nothing, the session ends. Raises SessionClosed.
        """
        while self._stream is not None and self._stream.writable and (data := self._outgoing()):
            self._stream.write(data)
            with suppress(OutboxFull):
                self.outbox.push(frame, Full.CLOSE, key)
                return
        self._cut_off(error.code, str(error))
        raise SessionClosed(error.code, str(error)) from None

    def flush(self) -> None:
        """Writes what is queued, as far as the carrier takes it."""
        self._flush_scheduled = False
        carrier = self._stream
        if carrier is None or not carrier.writable:
            return
        outbox = self.outbox
        data = self._outgoing()
        if data:
            carrier.write(data)
            self._handed = b"" if carrier.writable else data
            if self.on_written is not None:
                self.on_written()
        if outbox.count:
            if data and carrier.writable:
                self._flush_scheduled = True
                self._context.schedule_flush(self)
            return
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if self.state is SessionState.CLOSING:
            if self._farewell:
                carrier.write(self._farewell)
                self._farewell = b""
            self._finish(carrier)

    def _finish(self, carrier: Stream) -> None:
        """The session is closing, and all that it had to say is written."""
        carrier.close()

    def adopt(self, frames: list[bytes]) -> None:
        """Queues what an older session of the same user had queued: it may be more than the limits let in."""
        self.outbox.adopt(frames)
        if frames and not self._flush_scheduled:
            self._flush_scheduled = True
            self._context.schedule_flush(self)

    def take_unsent(self) -> list[bytes]:
        """Takes out all messages that the kernel has not taken, in order; one that is partly written counts as sent.

        The carrier may hold some of them still: it is of no use any more.
        """
        frames: list[bytes] = []
        if self._holds_unsent and self._stream is not None:
            frames = messages_from(self._handed, len(self._handed) - self._stream.unsent)
        self._handed = b""
        return frames + self.outbox.drain()

    @property
    def _holds_unsent(self) -> bool:
        """Whether messages that were written are still on this side of the kernel."""
        return bool(self._handed) and self._stream is not None and self._stream.unsent > 0

    def _outgoing(self) -> bytes:
        """What the next write takes: about as much as the carrier holds before it says stop."""
        return self.outbox.take(self._context.limits.write_high_water)

    async def drain(self) -> None:
        """Waits until everything queued has been handed to the socket. Raises SessionClosed if it ends first."""
        if self.state in (_OPEN, SessionState.DETACHED):
            carrier = self._stream
            if not self.outbox.count and carrier is not None and carrier.writable:
                return
            if self._drained is None:
                self._drained = self._context.loop.create_future()
            await asyncio.shield(self._drained)
        if self.close_code is not None:
            raise SessionClosed(self.close_code, self.close_reason)

    def _cut_off(self, code: CloseCode, reason: str) -> None:
        """Ends the session at once: who does not read would not read what is queued either."""
        raise NotImplementedError
