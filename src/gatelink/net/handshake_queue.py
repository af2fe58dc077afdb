"""The queue for handshakes. A handshake costs a hundred times what a message does, and any peer can ask for one.

So only limits.handshake_rate of them begin in a second. The others wait, each as long as its connection may be
unverified: no more than limits.max_unverified ever wait. Addresses take turns: one that asks for thousands does not
delay one that asks for a single handshake. From its handshake to its next successful login an address is penalised: it
comes last.
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
        self._is_scheduled = False  # whether a call of `_begin_next` is due

    def __len__(self) -> int:
        """The number of connections that wait."""
        return sum(map(len, self._first.values())) + sum(map(len, self._last.values()))

    def enter(self, connection: Connection, begin: Callable[[], None]) -> None:
        """Call `begin` when it is `connection`'s turn: now, if none waits and none began in this turn of the loop."""
        key = _key(connection)
        lines = self._last if key in self._penalised else self._first
        lines.setdefault(key, {})[connection] = begin
        if not self._is_scheduled:
            self._begin_next()

    def leave(self, connection: Connection) -> None:
        """Take `connection` out of the queue; do nothing if it does not wait."""
        key = _key(connection)
        for lines in (self._first, self._last):
            if (line := lines.get(key)) is not None:
                line.pop(connection, None)
                if not line:
                    del lines[key]

    def clear_penalty(self, key: str) -> None:
        """Let an address (an `address_key`) come first again: a login from it succeeded."""
        self._penalised.pop(key, None)
        if (line := self._last.pop(key, None)) is not None:
            self._first.setdefault(key, {}).update(line)

    def on_deadline(self, now: float) -> None:
        self._begin_next()

    def _begin_next(self) -> None:
        """Let one begin, and the next in another turn of the loop, so that other connections are read in between."""
        self._is_scheduled = bool(self._first or self._last)
        if not self._is_scheduled:
            return
        if self._bucket.take(self._context.wheel.read_clock()):
            try:
                self._take()()
            finally:
                self._context.loop.call_soon(self._begin_next)
        else:
            self._context.wheel.set(self, self._bucket.wait())

    def _take(self) -> Callable[[], None]:
        """Take out the oldest handshake of the address whose turn it is, and penalise the address."""
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
