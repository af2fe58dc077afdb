"""Handshakes cost a hundred times what a message does, and any stranger can ask for one: so many begin in a second.

The others wait, each as long as its connection may be unverified. So there are never more than limits.max_unverified of
them. Addresses take turns: who asks for thousands waits behind themselves, and not before those who ask for one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gatelink.net.endpoints import address_key
from gatelink.session.hub import Hub
from gatelink.session.rates import Bucket
from gatelink.session.timers import Item

if TYPE_CHECKING:
    from gatelink.net.connection import Connection


class HandshakeLine(Item):
    """Who may begin a Noise or TLS handshake (limits.handshake_rate): one of each address in turn, in order of asking.

    An address is an IPv4 address or IPv6 /64, as for all limits.
    """

    def __init__(self, hub: Hub) -> None:
        self._tick = 0
        self._hub = hub
        self._bucket = Bucket(hub.limits.handshake_rate, hub.limits.handshake_burst, hub.wheel.now)
        self._lines: dict[str, dict[Connection, Callable[[], None]]] = {}  # by address; whose turn is next, in front

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    def enter(self, connection: "Connection", begin: Callable[[], None]) -> None:
        """Calls `begin` when it is `connection`'s turn, at once if nobody waits."""
        if not self._lines:
            if self._bucket.take(self._hub.wheel.read_clock()):
                begin()
                return
            self._hub.wheel.set(self, self._bucket.wait())
        self._lines.setdefault(_key(connection), {})[connection] = begin

    def leave(self, connection: "Connection") -> None:
        """`connection` wants no handshake any more; nothing if it does not wait."""
        key = _key(connection)
        line = self._lines.get(key)
        if line is not None:
            line.pop(connection, None)
            if not line:
                del self._lines[key]

    def on_deadline(self, now: float) -> None:
        self._next()

    def _next(self) -> None:
        """Lets one begin, and the next in another turn of the loop: in between others are heard."""
        begin = self._take() if self._lines and self._bucket.take(self._hub.wheel.read_clock()) else None
        if self._lines:
            if seconds := self._bucket.wait():
                self._hub.wheel.set(self, seconds)
            else:
                self._hub.loop.call_soon(self._next)
        if begin is not None:
            begin()

    def _take(self) -> Callable[[], None]:
        """Takes out who has waited for the longest at the address whose turn it is."""
        key = next(iter(self._lines))
        line = self._lines.pop(key)
        begin = line.pop(next(iter(line)))
        if line:
            self._lines[key] = line
        return begin


def _key(connection: "Connection") -> str:
    return address_key(connection.address or "")
