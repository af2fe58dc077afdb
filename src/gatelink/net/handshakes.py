"""Handshakes cost a hundred times what a message does, and any stranger can ask for one: so many begin in a second.

The others wait in line, each as long as its connection may be unverified. So there are never more than
limits.max_unverified of them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gatelink.session.hub import Hub
from gatelink.session.rates import Bucket
from gatelink.session.timers import Item

if TYPE_CHECKING:
    from gatelink.net.connection import Connection


class HandshakeLine(Item):
    """Who may begin a Noise or TLS handshake, in the order in which they asked (limits.handshake_rate)."""

    def __init__(self, hub: Hub) -> None:
        self._tick = 0
        self._hub = hub
        self._bucket = Bucket(hub.limits.handshake_rate, hub.limits.handshake_burst, hub.wheel.now)
        self._waiting: dict[Connection, Callable[[], None]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, connection: "Connection", begin: Callable[[], None]) -> None:
        """Calls `begin` when it is `connection`'s turn, at once if nobody waits."""
        if not self._waiting and self._bucket.take(self._hub.wheel.read_clock()):
            begin()
            return
        if not self._waiting:
            self._hub.wheel.set(self, self._bucket.wait())
        self._waiting[connection] = begin

    def leave(self, connection: "Connection") -> None:
        """`connection` wants no handshake any more; nothing if it does not wait."""
        self._waiting.pop(connection, None)

    def on_deadline(self, now: float) -> None:
        self._next()

    def _next(self) -> None:
        """Lets one begin, and the next in another turn of the loop: in between others are heard."""
        if not self._waiting:
            return
        if self._bucket.take(self._hub.wheel.read_clock()):
            connection = next(iter(self._waiting))
            self._waiting.pop(connection)()
        if not self._waiting:
            return
        if seconds := self._bucket.wait():
            self._hub.wheel.set(self, seconds)
        else:
            self._hub.loop.call_soon(self._next)
