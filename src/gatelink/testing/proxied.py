"""One connection through the proxy: the client's socket and the target's, joined by two pipes."""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import cast

from gatelink.testing.pipe import Pipe, Schedule

_LINGER_0 = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST, not FIN
_log = logging.getLogger(__name__)


class ProxiedConnection:
    """One proxied connection.

    accepted: called with it at its start. closed: called with it when both its sockets are closed.
    """

    def __init__(
        self, accepted: "Callable[[ProxiedConnection], None]", closed: "Callable[[ProxiedConnection], None]"
    ) -> None:
        self.up = Pipe(self._close_if_over, self.abort)
        self.down = Pipe(self._close_if_over, self.abort)
        self.client = End(self, outgoing=self.up, incoming=self.down)
        self.server = End(self, outgoing=self.down, incoming=self.up)
        self.times = Schedule()  # actions by seconds since it was opened
        self.broken_by = ""  # the fault that broke it: reset, half-close, drop, or a stall during which a side closed
        self.dropped = False
        self._accepted = accepted
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._ends: set[End] = set()  # the connected ones
        self._opening: asyncio.Task[object] | None = None
        self._opened_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._closing = False

    # -- its life --

    def open(self, target: tuple[str, int], begin: Callable[[], None]) -> None:
        """Connect to `target`, call `begin`, then let bytes pass."""

        def opened(task: asyncio.Task[object]) -> None:
            self._opening = None
            if task.cancelled():
                self._ends.discard(self.server)  # uvloop closes it without a connection_lost
            elif error := task.exception():
                _log.warning("the target %s:%d does not accept connections: %s", *target, error)
                self.abort()
            elif not (self._closing or self.dropped):
                self._opened_at = self._loop.time()
                begin()
                self._tick()
                self._let_pass()
            self._check_closed()

        self._opening = self._loop.create_task(self._loop.create_connection(lambda: self.server, *target))
        self._opening.add_done_callback(opened)

    def end_connected(self, end: "End") -> None:
        self._ends.add(end)
        if end is self.client:
            self._accepted(self)
        elif self._closing:
            self.abort()

    def end_lost(self, end: "End") -> None:
        """A socket is closed, so a reset follows its last bytes to the other one."""
        self.note_stall()
        self._ends.discard(end)
        end.incoming.discard()
        if not (self._closing or self.dropped):
            end.outgoing.receive_reset()
        self._check_closed()

    def note_stall(self) -> None:
        """One side closes. If it does so while a stall holds its bytes, the stall broke the connection."""
        if not self._closing and (self.up.is_stalled or self.down.is_stalled):
            self.break_by("stall")

    def break_by(self, fault: str) -> None:
        """Note the fault that broke it. The first one counts."""
        self.broken_by = self.broken_by or fault

    def abort(self) -> None:
        """Reset both sides now."""
        self._closing = True
        self._stop()
        for end in self._ends:
            end.abort()
        if self._opening is not None:
            self._opening.cancel()

    def _close_if_over(self) -> None:
        if self.up.source_ended and self.up.sink_ended and self.down.source_ended and self.down.sink_ended:
            self._closing = True
            self._stop()
            for end in self._ends:
                end.transport.close()

    def _check_closed(self) -> None:
        if not self._ends and self._opening is None:
            self._stop()
            self._closed(self)

    def _stop(self) -> None:
        self.times.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.up.discard()
        self.down.discard()

    def _tick(self) -> None:
        """Run the actions that are due, and set the timer for the next."""
        assert self._opened_at is not None
        self.times.advance(self._loop.time() - self._opened_at)
        if self.times.next < inf:
            self._timer = self._loop.call_at(self._opened_at + self.times.next, self._tick)

    def _let_pass(self) -> None:
        if self._opened_at is not None and not self._paused:
            self.up.resume()
            self.down.resume()

    # -- what a test or a script does --

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        self._paused = True
        self.up.pause()
        self.down.pause()

    def resume(self) -> None:
        """Deliver the held bytes, and go on."""
        self._paused = False
        self._let_pass()

    def reset(self) -> None:
        """Break it: reset both sides."""
        self.break_by("reset")
        self.abort()

    def drop(self) -> None:
        """Break it: keep its sockets open and discard everything they receive."""
        self.break_by("drop")
        self.dropped = True
        self._stop()
        for end in self._ends:
            if end.outgoing.source_ended:  # no later event would close it
                end.transport.close()


class End(asyncio.Protocol):
    """One of the two sockets. Bytes that it receives go into `outgoing`; bytes out of `incoming` are sent on it."""

    transport: asyncio.Transport

    def __init__(self, connection: ProxiedConnection, *, outgoing: Pipe, incoming: Pipe) -> None:
        self.connection = connection
        self.outgoing = outgoing
        self.incoming = incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.outgoing.source = self.incoming.sink = self.transport
        self.connection.end_connected(self)

    def data_received(self, data: bytes) -> None:
        self.outgoing.receive(data)

    def eof_received(self) -> bool:
        if self.connection.dropped:
            return False  # close this socket; the other side must not learn of it
        self.connection.note_stall()
        self.outgoing.receive_eof()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        self.incoming.block()

    def resume_writing(self) -> None:
        self.incoming.unblock()

    def connection_lost(self, error: Exception | None) -> None:
        self.connection.end_lost(self)

    def abort(self) -> None:
        """Close the socket with a reset."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        with suppress(OSError, ValueError):  # it is closed already, and `connection_lost` follows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self.transport.abort()
