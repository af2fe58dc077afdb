"""The messages that a session still has to send: one queue for typed and raw messages, bounded in frames and bytes.

A frame is *queued* until `take` returns it. Until then, a policy may drop or replace it. After that it is *sent*: it is
counted in `sent` and can't be changed (protocol.md, "What counts").

A session that can be resumed has a `SendWindow`. It keeps each sent frame until the peer has acknowledged it
(protocol.md, "Retention"). While the window is full, `take` returns nothing: the queue grows until a policy applies.
So an open session still has every unacknowledged frame, and can be resumed.
"""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

from gatelink._native import compiled
from gatelink.errors import CloseCode, LocalError, MessageTooLarge, ProtocolError, counted


class Full(Enum):
    """What to do with a message when the queue is full. In an envelope, a policy's number is its place here, from 0."""

    CLOSE = "close"
    """End the session with 4006 slow-consumer: a peer that misses a message would be wrong from then on."""
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"


class OutboxFull(LocalError):
    """The queue is full, and the message's policy is CLOSE. A client's session turns it into SessionClosed."""

    code = CloseCode.SLOW_CONSUMER


class Bounded(Protocol):
    """An outbox, of which only the bounds matter."""

    @property
    def count(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def max_frames(self) -> int: ...

    @property
    def max_bytes(self) -> int: ...


def outbox_full(outbox: Bounded) -> OutboxFull:
    """The error of a push while `outbox` is full."""
    return OutboxFull(
        f"{counted(outbox.count, 'frame')}, {outbox.bytes} bytes are queued and the peer does not read "
        f"(limits.max_outbox_frames {outbox.max_frames}, max_outbox_bytes {outbox.max_bytes})"
    )


def frame_too_large(size: int, max_bytes: int) -> MessageTooLarge:
    """The error of a push for a frame that even an empty outbox refuses."""
    return MessageTooLarge(f"a frame of {size} bytes; one message has at most {max_bytes} (max_outbox_bytes)")


class Outbox:
    """The queue of one session.

    max_frames, max_bytes: the limits of the queue. A frame larger than `max_bytes` is refused even by an empty queue.
    """

    __slots__ = (
        "_base",
        "_frames",
        "_keys",
        "_plain",
        "_seen",
        "_seen_at",
        "bytes",
        "count",
        "dropped",
        "max_bytes",
        "max_frames",
        "sent",
    )

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.bytes = 0  # queued
        self.count = 0  # frames queued
        self.dropped = 0  # frames that the peer will not get, since the start: a policy dropped or replaced them
        self.sent = 0  # frames that were taken, since the start
        self._frames: list[bytes | None] = []  # None: the frame was replaced or dropped
        self._keys: dict[int, int] | None = None  # key -> number of its queued frame
        self._base = 0  # number of _frames[0]
        self._plain = -1  # number of the newest frame without a key; not kept up to date while `_keys` is None
        self._seen = -1  # `sent` at the last progress that `stalled` saw
        self._seen_at = 0.0  # and the time of that

    @property
    def held_bytes(self) -> int:
        """Bytes of all frames in memory."""
        return self.bytes

    def frames(self) -> Iterator[bytes]:
        """All frames in memory, in order: the sent and unacknowledged ones, then the queued ones."""
        return (frame for frame in self._frames if frame is not None)

    def push(self, frame: bytes, full: Full = Full.CLOSE, key: int = 0) -> None:
        """Queue `frame`. With a `key` (not 0), it replaces the queued frame of the same key.

        The new frame takes the place of the old one, so that frequent updates of one key do not delay the other keys.
        If a frame without a key is queued behind the old one, the new frame goes to the end: it must not overtake.
        Raises OutboxFull or MessageTooLarge. The queue is unchanged then, and also when `frame` itself is dropped.
        """
        size = self.bytes + len(frame)
        if self._keys is None and not key and size <= self.max_bytes and self.count < self.max_frames:
            self._frames.append(frame)
            self.count += 1
            self.bytes = size
        else:
            self._push(frame, full, key)

    def extend(self, frames: Sequence[bytes]) -> None:
        """Queue several frames, as `push` does. Raises OutboxFull; the frames that fitted stay queued."""
        size = self.bytes + sum(map(len, frames))
        count = self.count + len(frames)
        if self._keys is None and size <= self.max_bytes and count <= self.max_frames:
            self._frames += frames
            self.count = count
            self.bytes = size
        else:
            for frame in frames:
                self.push(frame)

    def adopt(self, frames: list[bytes]) -> None:
        """Queue the frames of another queue, even beyond the limits. Later pushes count them."""
        self._frames += frames
        self.count += len(frames)
        self.bytes += sum(map(len, frames))
        if self._keys is not None:
            self._plain = self._base + len(self._frames) - 1

    def _push(self, frame: bytes, full: Full, key: int) -> None:
        size = len(frame)
        if size > self.max_bytes:
            raise frame_too_large(size, self.max_bytes)
        at = self._place(key)
        old = self._frames[at] if at >= 0 else None
        count, queued = (self.count, self.bytes) if old is None else (self.count - 1, self.bytes - len(old))
        fits = count < self.max_frames and queued + size <= self.max_bytes
        if not fits and full is Full.CLOSE:
            raise outbox_full(self)
        if not fits and full is Full.DROP_NEWEST:
            self.dropped += 1
            return
        if old is not None:
            self.dropped += 1
            if fits and self._base + at > self._plain:
                self._frames[at] = frame
                self.bytes = queued + size
                return
            self._frames[at] = None
            self.count, self.bytes = count, queued
        while self.count and (self.count >= self.max_frames or self.bytes + size > self.max_bytes):
            self._drop_oldest()
        number = self._base + len(self._frames)
        self._frames.append(frame)
        self.count += 1
        self.bytes += size
        if not key:
            self._plain = number
        else:
            if self._keys is None:
                self._keys = {}
            self._keys[key] = number
        if len(self._frames) > 2 * self.max_frames or (self._keys and len(self._keys) > 2 * self.max_frames):
            self._compact()

    def take(self, max_bytes: int) -> bytes:
        """Take whole frames from the front, joined: up to `max_bytes`, but at least one. b"" if no frame is queued."""
        frames = self._frames
        if self.bytes <= max_bytes:
            data = b"".join(cast(list[bytes], frames) if self.count == len(frames) else filter(None, frames))
            self.sent += self.count
            self.count = 0
            self.bytes = 0
            self._base += len(frames)
            frames.clear()
            self._keys = None
            return data
        return b"".join(self.take_frames(len(frames), max_bytes, at_least_one=True))

    def stalled(self, now: float, waits: bool) -> float:
        """Seconds without progress. Call it regularly: a frame taken since the last call, or `waits` False, resets it.

        waits: whether something is waiting to be taken.
        """
        if not waits or self.sent != self._seen:
            self._seen = self.sent
            self._seen_at = now
        return now - self._seen_at

    def drain(self) -> list[bytes]:
        """Take out all queued frames without counting them as sent, for the next session of the same user."""
        frames = [frame for frame in self._frames if frame is not None]
        self._forget(len(self._frames))
        self.count = 0
        self.bytes = 0
        return frames

    def _place(self, key: int) -> int:
        """The index in `_frames` of the queued frame of `key`; -1 if no frame has it."""
        number = self._keys.get(key, -1) if key and self._keys is not None else -1
        return max(number - self._base, -1)

    def take_frames(self, most: int, max_bytes: int, at_least_one: bool) -> list[bytes]:
        """Take up to `most` frames and `max_bytes` from the front. `at_least_one`: the first may be larger."""
        taken: list[bytes] = []
        size = at = 0
        for frame in self._frames:
            if frame is not None:
                size += len(frame)
                if len(taken) == most or (size > max_bytes and (taken or not at_least_one)):
                    size -= len(frame)
                    break
                taken.append(frame)
            at += 1
        self._forget(at)
        self.count -= len(taken)
        self.bytes -= size
        self.sent += len(taken)
        return taken

    def _drop_oldest(self) -> None:
        at = next(i for i, frame in enumerate(self._frames) if frame is not None)
        frame = self._frames[at]
        assert frame is not None
        self._forget(at + 1)
        self.count -= 1
        self.bytes -= len(frame)
        self.dropped += 1

    def _compact(self) -> None:
        """Remove the None entries, and the keys of frames that are no longer queued, so that neither piles up."""
        numbers = [self._base + i for i, frame in enumerate(self._frames) if frame is not None]
        self._frames = [frame for frame in self._frames if frame is not None]
        renumbered = {number: self._base + i for i, number in enumerate(numbers)}
        self._plain = self._base + bisect_right(numbers, self._plain) - 1
        if self._keys is not None:
            self._keys = {key: renumbered[number] for key, number in self._keys.items() if number in renumbered}

    def _forget(self, upto: int) -> None:
        """Remove the first `upto` entries. Their keys stay in `_keys`: `_place` sees that their numbers are too low."""
        del self._frames[:upto]
        self._base += upto
        if not self._frames:
            self._keys = None


def wrong_count(received: int, window: "SendWindow") -> ProtocolError:
    """The error of `acknowledge` for an impossible count."""
    return ProtocolError(
        f"peer has received {counted(received, 'message')}; {window.acknowledged} were acknowledged, {window.sent} sent"
    )


class SendWindow(Outbox):
    """An `Outbox` that keeps the sent frames until they are acknowledged.

    window_frames, window_bytes: the limits of the unacknowledged frames. While none is unacknowledged, a frame of any
    size may be sent.
    """

    __slots__ = ("_kept", "kept_bytes", "window_bytes", "window_frames")

    def __init__(self, max_frames: int, max_bytes: int, window_frames: int, window_bytes: int) -> None:
        super().__init__(max_frames, max_bytes)
        self.window_frames = window_frames
        self.window_bytes = window_bytes
        self.kept_bytes = 0
        self._kept: deque[bytes] = deque()

    @property
    def kept(self) -> int:
        """Frames sent and not acknowledged."""
        return len(self._kept)

    @property
    def acknowledged(self) -> int:
        """How many of the sent frames the peer has acknowledged."""
        return self.sent - len(self._kept)

    @property
    def held_bytes(self) -> int:
        return self.bytes + self.kept_bytes

    def frames(self) -> Iterator[bytes]:
        return chain(self._kept, super().frames())

    def take(self, max_bytes: int) -> bytes:
        """As `Outbox.take`, within the window; b"" while the window is full."""
        room = self.window_frames - len(self._kept)
        if room <= 0:
            return b""
        space = self.window_bytes - self.kept_bytes
        if self.count <= room and self.bytes <= space and self.bytes <= max_bytes:
            self.kept_bytes += self.bytes
            self._kept.extend(frame for frame in self._frames if frame is not None)
            return super().take(max_bytes)
        taken = self.take_frames(room, min(max_bytes, space), at_least_one=not self._kept)
        if not taken:  # if only `max_bytes` is too small for the first frame, take that one alone
            taken = self.take_frames(1, space, at_least_one=False)
        self._kept.extend(taken)
        data = b"".join(taken)
        self.kept_bytes += len(data)
        return data

    def acknowledge(self, received: int) -> None:
        """Drop the kept frames among the first `received` of the session. Raises ProtocolError for a wrong count."""
        fresh = received - self.acknowledged
        if not 0 <= fresh <= len(self._kept):
            raise wrong_count(received, self)
        kept = self._kept
        if fresh == len(kept):
            kept.clear()
            self.kept_bytes = 0
            return
        for _ in range(fresh):
            self.kept_bytes -= len(kept.popleft())

    def lift(self) -> None:
        """Remove the limits of the window. The session will not be resumed, so nothing has to wait for an ack."""
        self.window_frames = self.window_bytes = sys.maxsize

    def unacknowledged(self) -> bytes:
        """The unacknowledged frames, joined, to be sent again on a new connection."""
        return b"".join(self._kept)


if not TYPE_CHECKING:  # not as decorators: the pure window is a pure outbox
    Outbox, SendWindow = compiled(Outbox), compiled(SendWindow)
