"""Handshakes cost a hundred times what a message does, and any stranger can ask for one: so many begin in a second.

The others wait, each as long as its connection may be unverified. So there are never more than limits.max_unverified of
them. Addresses take turns: who asks for thousands waits behind themselves, and not before those who ask for one. And an
address that owes a login for its last handshake comes after those that do not.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from gatelink.net.endpoints import address_key
from gatelink.session.loop_context import LoopContext
from gatelink.session.rates import TokenBucket
from gatelink.session.timers import Item

if TYPE_CHECKING:
    from gatelink.net.connection import Connection


Line = dict["Connection", Callable[[], None]]
"""Who waits at one address, the one that came first in front."""


class HandshakeQueue(Item):
    """Who may begin a Noise or TLS handshake (limits.handshake_rate): one of each address in turn, in order of asking.

    An address is an IPv4 address or IPv6 /64, as for all limits.
    """

    def __init__(self, context: LoopContext) -> None:
        self._tick = 0
        self._context = context
        self._bucket = TokenBucket(context.limits.handshake_rate, context.limits.handshake_burst, context.wheel.now)
        self._first: dict[str, Line] = {}  # by address; whose turn is next, in front
        self._last: dict[str, Line] = {}  # the same, of addresses that owe
        self._owing: OrderedDict[str, None] = OrderedDict()  # addresses, the one that began last at the end

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._first.values())) + sum(map(len, self._last.values()))

    def enter(self, connection: "Connection", begin: Callable[[], None]) -> None:
        """Calls `begin` when it is `connection`'s turn, at once if nobody waits."""
        key = _key(connection)
        if not self._is_waited_for:
            if self._bucket.take(self._context.wheel.read_clock()):
                self._owe(key)
                begin()
                return
            self._context.wheel.set(self, self._bucket.wait())
        lines = self._last if key in self._owing else self._first
        lines.setdefault(key, {})[connection] = begin

    def leave(self, connection: "Connection") -> None:
        """`connection` wants no handshake any more; nothing if it does not wait."""
        key = _key(connection)
        for lines in (self._first, self._last):
            if (line := lines.get(key)) is not None:
                line.pop(connection, None)
                if not line:
                    del lines[key]

    def paid(self, key: str) -> None:
        """A login from an address (an `address_key`) succeeded."""
        self._owing.pop(key, None)
        if (line := self._last.pop(key, None)) is not None:
            self._first.setdefault(key, {}).update(line)

    def on_deadline(self, now: float) -> None:
        self._next()

    def _next(self) -> None:
        """Lets one begin, and the next in another turn of the loop: in between others are heard."""
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
        """Takes out who has waited for the longest at the address whose turn it is."""
        lines = self._first or self._last
        key = next(iter(lines))
        line = lines.pop(key)
        begin = line.pop(next(iter(line)))
        self._owe(key)
        if line:
            line.update(self._last.pop(key, {}))
            self._last[key] = line
        return begin

    def _owe(self, key: str) -> None:
        self._owing[key] = None
        self._owing.move_to_end(key)
        if len(self._owing) > self._context.limits.max_addresses:
            self._owing.popitem(last=False)


def _key(connection: "Connection") -> str:
    return address_key(connection.address or "")
