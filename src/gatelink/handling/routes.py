"""The routes of a table of handlers, by message id, as the straight path looks them up."""

from collections.abc import Callable
from typing import Any

from gatelink._native import compiled
from gatelink.handling.route import Route


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
