"""Ciphers of sealed connections, made when they are needed.

A cipher of OpenSSL takes 2.5 KB, and a connection has two. Nearly all connections of a large server are idle nearly all
the time, and making a cipher costs no more than sealing a message. So a connection that was idle for a second has none.
"""

from collections import deque
from collections.abc import Callable

from gatelink.session.timers import Item, Wheel
from gatelink.wire.secure import SecureStream

IDLE = 1.0
"""Seconds without a record after which a connection's ciphers are given back."""

LOOK = 0.2
"""Seconds between two looks."""

AT_ONCE = 1_000
"""Connections that one look is at: it takes about half a millisecond."""


class Ciphers(Item):
    """The sealed connections of a loop's context that have ciphers now, in the order in which they were looked at.

    wheel: returns the context's wheel.
    """

    __slots__ = ("_awake", "_wake", "_wheel")

    def __init__(self, wheel: Callable[[], Wheel]) -> None:
        self._tick = 0
        self._wheel = wheel
        self._awake: deque[tuple[SecureStream, int, float]] = deque()  # each with its records and the time of that look
        self._wake = self.wake  # one bound method for all

    def __len__(self) -> int:
        return len(self._awake)

    def watch(self, stream: SecureStream) -> None:
        """Give the ciphers of a new connection back whenever it is idle. It has none yet."""
        stream.on_wake = self._wake

    def wake(self, stream: SecureStream) -> None:
        """`stream` has ciphers now."""
        wheel = self._wheel()
        if not self._awake:
            wheel.set(self, IDLE)
        self._awake.append((stream, stream.records + 1, wheel.read_clock()))  # counts the record that comes next

    def on_deadline(self, now: float) -> None:
        for _ in range(AT_ONCE):
            if not self._awake or self._awake[0][2] > now - IDLE:
                break
            stream, records, _ = self._awake.popleft()
            if stream.records == records:
                stream.rest()
            else:
                self._awake.append((stream, stream.records, now))
        if self._awake:
            self._wheel().set(self, LOOK)
