"""The interface between a session and its byte stream. `Connection` is the real stream; tests have their own."""

from collections.abc import Callable
from enum import IntFlag
from typing import Protocol

from gatelink.errors import CloseCode, PeerError
from gatelink.wire.frames import Frame


class Pause(IntFlag):
    """Why reading from a peer is paused. Reading goes on when no reason is left."""

    TURN = 1  # the peer has used its share of this turn of the loop
    INBOX = 2  # the session's handlers lag in this process
    STOPPING = 4  # the server is stopping and reads no more messages
    OPENING = 8  # the session replaces one whose closed event the handlers have not had yet
    RATE = 16  # the peer sends faster than its rates allow
    LINK = 32  # the link to the server that gets the peer's messages is down or crowded
    HANDLERS = 64  # the session's handlers lag in another process
    UNVERIFIED = 128  # as much has arrived as may be held until the peer is verified
    USER = 256  # all sessions of the user together have sent more than one window since their handlers began to lag
    CHECK = 512  # the process stood still: whether the session's login is still the newest is being checked
    LOGINS = 1_024  # other login checks had this turn of the loop


LAGGING = Pause.INBOX | Pause.HANDLERS


class Stream(Protocol):
    """A byte stream. It passes the peer's frames to a `FrameReceiver`, and writes bytes to the peer."""

    writable: bool
    """False while the write buffer is so full that the outbox should keep its frames."""

    @property
    def held_bytes(self) -> int:
        """Bytes in memory: those not decoded yet, and those in the write buffer."""

    @property
    def unsent(self) -> int:
        """Written bytes that the kernel has not taken, as far as the stream can tell."""

    def write(self, data: bytes) -> None: ...

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def close(self) -> None:
        """Close after writing all bytes, once the peer closes too. Drops what arrives. The caller sets a deadline."""

    def abort(self) -> None:
        """Close at once; then the receiver's `lost` is called."""

    def drop(self) -> None:
        """Close at once, without any further call of the receiver."""


class FrameReceiver(Protocol):
    """The receiver of a stream's frames: the login check first, then the session."""

    @property
    def close_code(self) -> CloseCode | None:
        """Why it closed; None while it is open. A stream that can tells the peer, as WebSocket does."""

    def receive(self, frames: list[Frame]) -> None:
        """Called with frames that arrived together, at least one."""

    def waiting(self, buffered: int) -> None:
        """Called when bytes arrived that complete no frame; `buffered` bytes now wait for the rest."""

    def broken(self, error: PeerError) -> None:
        """Called after the last valid frames, when the peer sent something that ends its connection."""

    def writable(self) -> None:
        """Called when the stream is writable again."""

    def lost(self, error: Exception | None) -> None:
        """Called once, when the stream has closed. `error` is None if it closed in the regular way."""

    def when_handled(self, call: Callable[[], None]) -> None:
        """Call `call` when no handler works on a frame of this stream any more. Used after `lost`."""
