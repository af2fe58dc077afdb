"""The outbox of a session that can be resumed: what was sent is kept until the peer has acknowledged it.

Retention is a send window (docs/protocol.md): while it is full nothing is taken, the queue grows, and its policy
applies. So a session that lives can always be resumed.
"""

import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain

from gatelink.errors import ProtocolError
from gatelink.session.outbox import Outbox


class SendWindow(Outbox):
    """An `Outbox` that keeps what it gave out.

    window_frames, window_bytes: what may be sent and not acknowledged; one frame is always let out when nothing is.
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
        """How many of the sent frames the peer has taken in, as far as it said."""
        return self.sent - len(self._kept)

    @property
    def held_bytes(self) -> int:
        return self.bytes + self.kept_bytes

    def frames(self) -> Iterator[bytes]:
        return chain(self._kept, super().frames())

    def take(self, max_bytes: int) -> bytes:
        """As `Outbox.take`, within the window; b"" while that is full."""
        room = self.window_frames - len(self._kept)
        if room <= 0:
            return b""
        space = self.window_bytes - self.kept_bytes
        if self.count <= room and self.bytes <= space and self.bytes <= max_bytes:
            self.kept_bytes += self.bytes
            self._kept.extend(frame for frame in self._frames if frame is not None)
            return super().take(max_bytes)
        taken = self._take_frames(room, min(max_bytes, space), at_least_one=not self._kept)
        if not taken:  # the first is larger than what was asked for, and may be within the window all the same
            taken = self._take_frames(1, space, at_least_one=False)
        self._kept.extend(taken)
        data = b"".join(taken)
        self.kept_bytes += len(data)
        return data

    def acknowledge(self, received: int) -> None:
        """The peer has taken in `received` frames since the start. Raises ProtocolError for a count that can't be."""
        fresh = received - self.acknowledged
        if not 0 <= fresh <= len(self._kept):
            raise ProtocolError(
                f"peer has received {received} messages; {self.acknowledged} were acknowledged, {self.sent} sent"
            )
        kept = self._kept
        if fresh == len(kept):
            kept.clear()
            self.kept_bytes = 0
            return
        for _ in range(fresh):
            self.kept_bytes -= len(kept.popleft())

    def lift(self) -> None:
        """The session has ended and will not be resumed: what is queued waits for no acknowledgement any more."""
        self.window_frames = self.window_bytes = sys.maxsize

    def unacknowledged(self) -> bytes:
        """Everything that was sent and not acknowledged, joined: to be sent again on a new connection."""
        return b"".join(self._kept)
