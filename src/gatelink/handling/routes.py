"""Routes from message ids to handlers, with the cost of their calls; and the part of the table that the core reads."""

from collections.abc import Callable
from math import inf
from typing import Any

from gatelink._native import compiled
from gatelink.wire.frames import HEAD_SIZE

TIME_BUCKETS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds, in seconds, of the handler time histogram. Most calls fall into the first, at one comparison."""


@compiled
class Route:
    """One message type's handler, and what it has cost."""

    __slots__ = ("buckets", "bytes", "call", "count", "decode", "handler", "logged", "name", "seconds")

    def __init__(self, name: str, handler: Callable[..., Any], decode: Callable[[bytes], Any]) -> None:
        self.name = name
        self.handler = handler
        self.call = handler  # or the handler with the hooks of `Handlers.around`
        self.decode = decode
        self.count = 0  # messages handled
        self.bytes = 0  # of their frames
        self.logged = -inf  # when a failure was last logged, on the wheel's clock; at most one a second is logged
        self.seconds = 0.0  # in decoding and handling
        self.buckets = [0] * (len(TIME_BUCKETS) + 1)  # calls by time; [0] stays 0: readers compute it from `count`

    def handled(self, size: int, seconds: float) -> None:
        """Count one call; `_call_handlers` has the same code inlined."""
        self.count += 1
        self.bytes += size + HEAD_SIZE
        self.seconds += seconds
        if seconds > TIME_BUCKETS[0]:
            self.observe(seconds)

    def observe(self, seconds: float) -> None:
        """Count a call that was not fast."""
        at = 1
        while at < len(TIME_BUCKETS) and seconds > TIME_BUCKETS[at]:
            at += 1
        self.buckets[at] += 1


@compiled
class Routes(dict[int, Route]):
    """Routes by message id; events have ids below 0. They are set and deleted one at a time."""

    __slots__ = ()


@compiled
class HandlerTable:
    """The part of `Handlers` that decides whether the frames of a read may go straight to their handlers.

    rates: how many messages one user may send in a second, by message id. ticking: whether frames wait for `tick`.
    default_handler: the handler of all messages without one of their own.
    """

    __slots__ = ("default_handler", "rates", "routes", "ticking")

    def __init__(self) -> None:
        self.routes = Routes()
        self.rates: dict[int, float] = {}
        self.ticking = False
        self.default_handler: Callable[..., Any] | None = None
