"""What a session needs of the byte stream under it. A `Connection` is one; so is anything a test makes."""

from collections.abc import Callable
from enum import IntFlag
from typing import Protocol

from gatelink.errors import PeerError
from gatelink.wire.frames import Frame


class Pause(IntFlag):
    """Why reading from a peer is paused; it goes on when no reason is left."""

    TURN = 1  # it has had its share of this turn of the loop
    INBOX = 2  # its handlers lag
    STOPPING = 4  # the server takes nothing more
    OPENING = 8  # the handlers have not had the closed event of the session that it replaces
    RATE = 16  # it sends more than its rates allow
    LINK = 32  # the server that its messages go to is not there, or has more to read than it can
    HANDLERS = 64  # its handlers lag in another process
    UNVERIFIED = 128  # it has sent all that may wait here until it is verified


LAGGING = Pause.INBOX | Pause.HANDLERS


class Stream(Protocol):
    """One byte stream: it carries frames up to a `FrameReceiver`, and bytes down to the peer."""

    writable: bool
    """False while so much is written and not yet out that the outbox should hold back."""

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps in memory: arrived and not yet decoded, written and not yet out."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken, as far as the stream can tell."""

    def write(self, data: bytes) -> None: ...

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def close(self) -> None:
        """Closes when what was written is out and the peer is done too; drops what comes in. Give it a deadline."""

    def abort(self) -> None:
        """Closes at once; the receiver hears `lost`."""

    def drop(self) -> None:
        """Closes at once, and the receiver never hears of this stream again."""


class FrameReceiver(Protocol):
    """What a stream hands its frames to: the login check first, then the session."""

    def receive(self, frames: list[Frame]) -> None:
        """Frames that arrived together, at least one."""

    def waiting(self, buffered: int) -> None:
        """Bytes arrived and completed no frame; `buffered` of them are kept."""

    def broken(self, error: PeerError) -> None:
        """The peer sent what ends its connection. Comes after the frames that were good."""

    def writable(self) -> None:
        """The stream takes bytes again."""

    def lost(self, error: Exception | None) -> None:
        """The stream is over: `error` None for its regular end. Called once; the stream is dead."""

    def release(self, call: Callable[[], None]) -> None:
        """After `lost`: calls `call` when nothing of what this stream brought is being handled any more."""
