"""One timing wheel for every heartbeat, deadline and window of a loop.

An object with a deadline is an `Item`. It stands in the wheel at most once, under the tick of its next deadline. So
moving or removing it costs one set operation, and ten thousand sessions cost one `call_later` a tick.
"""

import asyncio
from collections.abc import Callable
from math import inf

from gatelink._native import compiled

STALL = 1.0
"""Seconds that a turn of the wheel may be late before it lets the loop read first."""

TICK = 0.1
"""Seconds: how late an item may be called, and how coarse `Wheel.now` is."""


REST = 0.001
"""Seconds for others between two turns of the loop that call items of the same tick."""

ITEMS_A_TURN = 256
"""Items that are called in one turn of the loop. The end of a connection takes about 50 us, and thousands may be due in
a tick."""


@compiled
class Item:
    """Something with a next deadline. `_tick` is the wheel's."""

    __slots__ = ("_tick",)
    _tick: int

    def on_deadline(self, now: float) -> None:
        """Called once at or up to two ticks after the deadline; sets the next one itself with `Wheel.set`."""
        raise NotImplementedError


class Call(Item):
    """An item that calls a function once."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self._tick = 0
        self._function = function

    def on_deadline(self, now: float) -> None:
        self._function()


class Wheel:
    """The deadlines of one event loop, and the one clock of all that has deadlines there.

    clock: returns seconds, the loop's time by default. now: what it returned last; at most one tick old while an item
    is set and the loop is not late.

    An item whose `on_deadline` raises is reported to the loop's exception handler; the other items are still called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] | None = None) -> None:
        self._loop = loop
        self.clock = clock or loop.time
        self.now = self.clock()
        self._slots: dict[int, dict[Item, None]] = {}  # sets of thousands take twice as much
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when its next turn should be

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def read_clock(self) -> float:
        """`now`, brought up to date."""
        self.now = now = self.clock()
        return now

    def set(self, item: Item, seconds: float) -> None:
        """Call `item` in `seconds` (inf: not at all), in place of its earlier deadline."""
        if item._tick:
            self.cancel(item)
        if seconds == inf:
            return
        now = self.read_clock()  # a tick-old `now` would call it early
        if self._timer is None:
            self._arm(TICK)
        item._tick = tick = int((now + max(seconds, 0.0)) / TICK) + 1
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = {item: None}
        else:
            slot[item] = None

    def call(self, seconds: float, function: Callable[[], None]) -> Item:
        """Call `function` once in `seconds`. `cancel` takes what this returns."""
        item = Call(function)
        self.set(item, seconds)
        return item

    def cancel(self, item: Item) -> None:
        """Take `item` out; do nothing if it is not in."""
        slot = self._slots.get(item._tick)
        if slot is not None:
            slot.pop(item, None)
            if not slot:
                del self._slots[item._tick]
        item._tick = 0

    def close(self) -> None:
        """Forget every item."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for slot in self._slots.values():
            for item in slot:
                item._tick = 0
            slot.clear()  # it may be the one that is being run
        self._slots.clear()

    def run_due(self, most: float = inf) -> bool:
        """Call the items whose deadline has passed, at most `most`. Returns whether those were all.

        The wheel does so by itself once a tick.
        """
        now = self.read_clock()
        tick = int(now / TICK)
        for t in sorted(t for t in self._slots if t <= tick):
            slot = self._slots.get(t)  # it stays in while it is run: an item may cancel or move the others
            while slot:
                if most <= 0:
                    return False
                most -= 1
                item, _ = slot.popitem()
                item._tick = 0
                try:
                    item.on_deadline(now)
                except Exception as error:
                    self._loop.call_exception_handler(
                        {"message": f"deadline of {item!r} failed", "exception": error, "loop": self._loop}
                    )
            self._slots.pop(t, None)
        return True

    def _arm(self, seconds: float) -> None:
        self._due = self.clock() + seconds
        self._timer = self._loop.call_later(seconds, self._turn)

    def _turn(self) -> None:
        if self.clock() - self._due > STALL:
            # The process stood still. Read pending data before checking heartbeats: peers may have sent meanwhile.
            # Wait only once. Where every turn is this late, deadlines must still hold.
            self._arm(0.01)
            self._due = inf
            return
        is_done = self.run_due(ITEMS_A_TURN)
        if self._timer is not None:  # its own, which has fired, unless an item closed the wheel and set another
            self._timer.cancel()
        self._timer = None
        if self._slots:
            self._arm(TICK if is_done else REST)
