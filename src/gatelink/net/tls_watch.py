"""Bounds the TLS records that carry nothing.

A KeyUpdate of TLS 1.3 costs as much as a message, and neither the transport nor `ssl` reports it. But the kernel counts
the bytes that a socket received. So a connection may have only so many bytes that its messages do not explain.
"""

import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Set

from gatelink.errors import CloseCode, PeerError
from gatelink.net.admission import Admission
from gatelink.net.connection import Connection
from gatelink.session.loop_context import LoopContext
from gatelink.session.rates import Charged, TokenBucket
from gatelink.session.states import ConnectionState
from gatelink.session.stream import FrameReceiver, Pause
from gatelink.session.timers import Item
from gatelink.wire.frames import BASE_FLAGS, FrameDecoder

INTERVAL = 1.0
"""Seconds between two checks of a connection. Longer if there are more connections than AT_ONCE for each tick."""

AT_ONCE = 500
"""Connections that are checked in one turn of the loop. This takes about 1 ms."""

PER_FRAME = 64
"""Bytes that TLS may add to a frame: a record adds at most 29, and a client may write header and body apart."""

PER_BYTE = 0.25
"""Bytes that TLS may add to a byte of plaintext, for clients that cut large frames into small records."""

SPARE = 65_536
SPARE_RATE = 1_024
"""Bytes, and bytes a second, that nothing explains: a part of a record, a KeyUpdate now and then."""

HELD = 524_288
"""Bytes that a paused transport may hold. TLS decrypts them in the turn after the pause ends."""

_RECEIVED_AT = 128  # the offset of `tcpi_bytes_received` in Linux's `struct tcp_info`
_INFO_SIZE = _RECEIVED_AT + 8


class EmptyRecords(PeerError):
    """The peer sends TLS records that carry nothing."""

    code = CloseCode.RATE_LIMITED


class _Carried:
    """Counts what the records of a connection carried. The session's own meter is charged, too, if there is one."""

    __slots__ = ("bytes", "frames", "meter")

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.meter: Charged | None = None

    def charge(self, frames: int, size: int) -> None:
        self.frames += frames
        self.bytes += size
        if self.meter is not None:
            self.meter.charge(frames, size)


class TlsConnection(Connection):
    """A connection whose bytes are plaintext of TLS.

    accepted: its socket, which the transport owns. allowance: of unexplained bytes. charged: unexplained bytes that the
    allowance has paid for. check_at: when `TlsWatch` checks the connection next, on the wheel's clock.
    """

    __slots__ = ("_accepted", "_carried", "_start", "_was_paused", "allowance", "charged", "check_at")

    def __init__(
        self,
        accepted: socket.socket,
        decoder: FrameDecoder,
        made: Callable[[Connection], None],
        closed: Callable[[Connection, FrameReceiver], None],
        now: float,
    ) -> None:
        super().__init__(decoder, made, closed)
        self._accepted = accepted
        self._meter = self._carried = _Carried()
        self._start = 0
        self._was_paused = False  # since the last check
        self.allowance = TokenBucket(SPARE_RATE, SPARE, now)
        self.charged = 0.0
        self.check_at = now

    def begin(self) -> None:
        """Count from now on: the handshake explains what the socket has received so far."""
        self._start = self._received()

    def unexplained(self) -> float:
        """Received bytes that the plaintext does not explain."""
        carried = self._carried
        return self._received() - self._start - carried.bytes * (1 + PER_BYTE) - carried.frames * PER_FRAME

    def unread(self) -> int:
        """The most received bytes that may be unread: those in the kernel, and what a paused transport may hold."""
        try:
            size: int = struct.unpack("i", fcntl.ioctl(self._accepted.fileno(), termios.FIONREAD, bytes(4)))[0]
        except (OSError, ValueError):  # the socket is closed
            size = 0
        return size + (HELD if self._was_paused else 0)

    def checked(self) -> None:
        """Called after each check. Unless paused now, the transport has decrypted all held bytes by the next one."""
        self._was_paused = bool(self._paused)

    def pause(self, why: Pause) -> None:
        self._was_paused = True
        super().pause(why)

    def bind(
        self,
        receiver: FrameReceiver,
        max_frame: int,
        turn_frames: int,
        meter: Charged | None = None,
        allowed: Set[int] = BASE_FLAGS,
    ) -> None:
        super().bind(receiver, max_frame, turn_frames, self._carried, allowed)
        self._carried.meter = meter

    def discard_input(self) -> None:
        super().discard_input()
        self._carried.meter = None
        self._meter = self._carried

    def _received(self) -> int:
        """Bytes that the socket received since it was opened; 0 where the system does not say so."""
        if sys.platform != "linux":
            return 0
        try:
            info = self._accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        except OSError:  # the socket is closed
            return 0
        received: int = struct.unpack_from("<Q", info, _RECEIVED_AT)[0] if len(info) >= _INFO_SIZE else 0
        return received


class TlsWatch(Item):
    """Checks the connections of one TLS listener in turn, and aborts those whose records carry nothing."""

    def __init__(self, context: LoopContext, admission: Admission) -> None:
        self._tick = 0
        self._context = context
        self._admission = admission
        self._queue: deque[TlsConnection] = deque()

    def add(self, connection: TlsConnection) -> None:
        """Check `connection`, whose handshake is over, until it is closed."""
        connection.begin()
        connection.check_at = self._context.wheel.read_clock() + INTERVAL
        self._queue.append(connection)
        if len(self._queue) == 1:
            self._context.wheel.set(self, INTERVAL)

    def on_deadline(self, now: float) -> None:
        queue = self._queue
        try:
            for _ in range(AT_ONCE):
                if not queue or queue[0].check_at > now:
                    break
                connection = queue.popleft()
                if connection.state is not ConnectionState.CLOSED:
                    connection.check_at = now + INTERVAL
                    queue.append(connection)  # before the check: if it raises, this connection is still checked again
                    self._check(connection, now)
                    connection.checked()
        finally:
            if queue:
                self._context.wheel.set(self, queue[0].check_at - now)

    def _check(self, connection: TlsConnection, now: float) -> None:
        unexplained = connection.unexplained()
        tokens = connection.allowance.refill(now)
        if unexplained - connection.charged > tokens:  # perhaps the kernel or the transport still holds some of it
            unexplained -= connection.unread()
        if unexplained <= connection.charged:
            return
        connection.allowance.tokens -= unexplained - connection.charged
        connection.charged = unexplained
        if connection.allowance.tokens >= 0:
            return
        if connection.state is ConnectionState.BOUND:
            for _ in range(2):  # its login took one failure of its address back
                self._admission.login_failed(connection.address or "")
        connection.receiver.broken(EmptyRecords(f"TLS records carried nothing in {unexplained:,.0f} bytes"))
        connection.abort()
