"""The queue for handshakes. One costs a hundred times what a message does, and any peer can ask for one.

So only so many begin in a second. The others wait, each as long as its connection may be unverified: there are never
more than limits.max_unverified of them. Addresses take turns: one that asks for thousands does not delay one that asks
for a single handshake. An address is penalised from its handshake to its next successful login: it comes last.
"""

from collections import OrderedDict
from collections.abc import Callable

from gatelink.net.connection import Connection
from gatelink.net.endpoints import address_key
from gatelink.session.loop_context import LoopContext
from gatelink.session.rates import TokenBucket
from gatelink.session.timers import Item

Line = dict[Connection, Callable[[], None]]
"""The connections of one address that wait, the oldest in front."""


class HandshakeQueue(Item):
    """Lets Noise and TLS handshakes begin (limits.handshake_rate): one of each address in turn, in order of asking.

    An address is an IPv4 address or IPv6 /64, as for all limits.
    """

    def __init__(self, context: LoopContext) -> None:
        self._tick = 0
        self._context = context
        self._bucket = TokenBucket(context.limits.handshake_rate, context.limits.handshake_burst, context.wheel.now)
        self._first: dict[str, Line] = {}  # by address; the next one in front
        self._last: dict[str, Line] = {}  # the same, of penalised addresses
        self._penalised: OrderedDict[str, None] = OrderedDict()  # addresses; the last handshake at the end

    def __len__(self) -> int:
        """The number of connections that wait."""
        return sum(map(len, self._first.values())) + sum(map(len, self._last.values()))

    def enter(self, connection: Connection, begin: Callable[[], None]) -> None:
        """Calls `begin` when it is `connection`'s turn, at once if none waits."""
        key = _key(connection)
        if not self._is_waited_for:
            if self._bucket.take(self._context.wheel.read_clock()):
                self._penalise(key)
                begin()
                return
            self._context.wheel.set(self, self._bucket.wait())
        lines = self._last if key in self._penalised else self._first
        lines.setdefault(key, {})[connection] = begin

    def leave(self, connection: Connection) -> None:
        """Takes `connection` out of the queue; does nothing if it is not in it."""
        key = _key(connection)
        for lines in (self._first, self._last):
            if (line := lines.get(key)) is not None:
                line.pop(connection, None)
                if not line:
                    del lines[key]

    def clear_penalty(self, key: str) -> None:
        """A login from an address (an `address_key`) succeeded."""
        self._penalised.pop(key, None)
        if (line := self._last.pop(key, None)) is not None:
            self._first.setdefault(key, {}).update(line)

    def on_deadline(self, now: float) -> None:
        self._next()

    def _next(self) -> None:
        """Lets one begin, and the next in another turn of the loop: in between other connections are read."""
        if not self._is_waited_for:
            return
        begin = self._take() if self._bucket.take(self._context.wheel.read_clock()) else None
        if self._is_waited_for:
            if seconds := self._bucket.wait():
                self._context.wheel.set(self, seconds)
            else:
                self._context.loop.call_soon(self._next)
        if begin is not None:
            begin()

    @property
    def _is_waited_for(self) -> bool:
        return bool(self._first or self._last)

    def _take(self) -> Callable[[], None]:
        """Takes out the oldest of the address whose turn it is."""
        lines = self._first or self._last
        key = next(iter(lines))
        line = lines.pop(key)
        begin = line.pop(next(iter(line)))
        self._penalise(key)
        if line:
            line.update(self._last.pop(key, {}))
            self._last[key] = line
        return begin

    def _penalise(self, key: str) -> None:
        self._penalised[key] = None
        self._penalised.move_to_end(key)
        if len(self._penalised) > self._context.limits.max_addresses:
            self._penalised.popitem(last=False)


def _key(connection: Connection) -> str:
    return address_key(connection.address or "")
