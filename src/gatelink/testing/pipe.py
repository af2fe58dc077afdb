"""One direction of a proxied connection: bytes in, the same bytes out, delayed or in pieces, until it ends."""

import asyncio
import fcntl
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from heapq import heappop, heappush
from math import ceil, inf

_HIGH_WATER = 262_144  # bytes held for a slow or delayed receiver; over it, reading pauses
_SIOCOUTQNSD = 0x894B  # Linux: bytes that the kernel has taken and not sent
_POLL = 0.001  # s between two looks at them


class Schedule:
    """Actions by the position of something that only grows: bytes delivered, or seconds.

    Actions at the same position happen in the order they were added.
    """

    def __init__(self) -> None:
        self.next = inf  # the position of the next action
        self._added = 0
        self._heap: list[tuple[float, int, Callable[[], None], Iterator[float]]] = []

    def add(self, positions: Iterator[float], action: Callable[[], None]) -> None:
        """Schedule `action` at each of `positions`, which ascend and may be endless."""
        self._added += 1
        self._push(self._added, action, positions)

    def advance(self, position: float) -> None:
        """Run the actions up to `position`."""
        while self.next <= position:
            _, order, action, positions = heappop(self._heap)
            self._push(order, action, positions)
            action()

    def clear(self) -> None:
        """Remove all actions."""
        self._heap.clear()
        self.next = inf

    def _push(self, order: int, action: Callable[[], None], positions: Iterator[float]) -> None:
        if (position := next(positions, None)) is not None:
            heappush(self._heap, (position, order, action, positions))
        self.next = self._heap[0][0] if self._heap else inf


class _Mark(Enum):
    """Marks among the held bytes."""

    EOF = "the sender ended its stream"
    RESET = "reset the connection when all bytes before this have been written"


class Pipe:
    """Passes the bytes of `source` to `sink`, in order. Both are set when they connect. It starts paused.

    ended: called after the end of the source's stream has been passed on. reset: called when a reset is due.
    """

    def __init__(self, ended: Callable[[], None], reset: Callable[[], None]) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.position = 0  # bytes passed to the sink
        self.stops = Schedule()  # actions between two bytes, by position
        self.source_ended = False
        self.sink_ended = False
        self._ended = ended
        self._reset = reset
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, bytes | memoryview | _Mark]] = deque()  # with their times of arrival
        self._held_bytes = 0
        self._due: float | None = None  # when the first held item is due; None: not drawn yet
        self._timer: asyncio.Handle | None = None
        self._reading = True
        self._blocked = False  # the sink's buffer is full
        self._paused = True
        self._discarding = False
        self._stalled_until = -inf
        self._draw_delay: Callable[[], float] | None = None
        self._piece: int | None = None  # bytes to pass on at once; None: as they came

    # -- called by the transports --

    def receive(self, data: bytes) -> None:
        """Take bytes from the source."""
        if not self._discarding:
            self._held.append((self._loop.time(), data))
            self._held_bytes += len(data)
            self._pump()

    def receive_eof(self) -> None:
        """Take the end of the source's stream."""
        self.source_ended = True
        self._held.append((self._loop.time(), _Mark.EOF))
        self._pump()

    def receive_reset(self) -> None:
        """Take the reset of the source's connection."""
        self.source_ended = True
        self._held.append((self._loop.time(), _Mark.RESET))
        self._pump()

    def block(self) -> None:
        """Stop while the sink's buffer is full."""
        self._blocked = True
        self._control_reading()

    def unblock(self) -> None:
        """Continue: the sink's buffer has room."""
        self._blocked = False
        self._pump()

    # -- called by a test or a script --

    def pause(self) -> None:
        """Pass on nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Pass on the held bytes, and continue."""
        self._paused = False
        self._pump()

    def stall(self, seconds: float) -> None:
        """Pass on nothing for `seconds`."""
        self._stalled_until = max(self._stalled_until, self._loop.time() + seconds)

    @property
    def is_stalled(self) -> bool:
        """Whether a stall holds the bytes."""
        return self._loop.time() < self._stalled_until

    def delay(self, draw: Callable[[], float]) -> None:
        """From now on, pass on each item `draw()` seconds after its arrival."""
        self._draw_delay = draw
        self._due = None
        if self._timer is not None:
            self._wake_soon()

    def split(self, size: int) -> None:
        """From now on, pass on at most `size` bytes at once, in every second turn of the loop."""
        self._piece = size

    def end(self) -> None:
        """End the sink's stream. Held and later bytes are discarded."""
        marks = [item for item in self._held if isinstance(item[1], _Mark)]
        self.discard()
        self._held.extend(marks)
        if self.sink is not None and not self.sink_ended:
            self.sink_ended = True
            with suppress(OSError):  # it is closed already, and connection_lost follows
                self.sink.write_eof()
        if marks:
            self._wake_soon()

    def reset_when_written(self) -> None:
        """Call `reset` when all bytes that were passed on have been sent, before any held byte."""
        self._held.appendleft((-inf, _Mark.RESET))
        self._due = None

    def discard(self) -> None:
        """Discard held and later bytes."""
        self._discarding = True
        self._held.clear()
        self._held_bytes = 0
        self.stops.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._control_reading()

    # -- the queue --

    def _pump(self) -> None:
        """Pass on the due items, and set the timer for the next."""
        sink = self.sink
        while self._held and self._timer is None and sink is not None and not sink.is_closing():
            if self._paused or self._blocked:
                break
            due = self._first_due()
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._wake)
                break
            self._pass_on(sink)
            if self._piece and self._held and self._timer is None:
                # TCP would join pieces that are written before the receiver's next turn
                self._timer = self._loop.call_soon(self._wake_soon)
        self._control_reading()

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    def _wake_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_soon(self._wake)

    def _first_due(self) -> float:
        if self._due is None:
            came, _ = self._held[0]
            self._due = came + self._draw_delay() if self._draw_delay else came
        return max(self._due, self._stalled_until)

    def _pass_on(self, sink: asyncio.Transport) -> None:
        """Pass on the first held item: a mark, or bytes up to the next stop or the size of a piece."""
        came, first = self._held.popleft()
        self._due = None
        if first is _Mark.EOF:
            self.end()
            self._ended()
            return
        if first is _Mark.RESET:
            sink.set_write_buffer_limits(high=0)  # calls `block` unless its buffer is empty
            if not self._blocked and not _unsent(sink):
                self._reset()
                return
            self.reset_when_written()
            if not self._blocked:
                self._timer = self._loop.call_later(_POLL, self._wake)
            return
        size = min(len(first), self._piece or len(first))
        if self.stops.next < self.position + size:
            size = max(1, ceil(self.stops.next - self.position))
        if size < len(first):
            rest = memoryview(first)
            first, rest = rest[:size], rest[size:]
            self._held.appendleft((came, rest))
        self._held_bytes -= size
        self.position += size
        sink.write(first)
        if self.stops.next <= self.position:
            self.stops.advance(self.position)

    def _control_reading(self) -> None:
        """Read the source only while there is room."""
        source = self.source
        wanted = self._discarding or not (self._blocked or self._held_bytes > _HIGH_WATER)
        if wanted is self._reading or source is None or self.source_ended or source.is_closing():
            return
        self._reading = wanted
        if wanted:
            source.resume_reading()
        else:
            source.pause_reading()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes in the kernel's buffer, which a reset would lose; 0 if the system does not say."""
    sock: socket.socket = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, bytes(4)), sys.byteorder)
    except OSError:
        return 0
