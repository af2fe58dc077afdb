"""The handlers that run in tasks: which, for whom and since when. One look a second finds those that do not end."""

import asyncio
from collections.abc import Callable
from typing import cast

from gatelink.config import Limits
from gatelink.logger import Logger
from gatelink.session.inbox import Inbox
from gatelink.session.timers import Call, Wheel

log = Logger("gatelink.handlers")

LONG = 10.0
"""Seconds after which the log has a handler that still runs."""

INTERVAL = 1.0
"""Seconds between two looks."""


class RunningHandlers:
    """The handlers of one loop that run in tasks.

    It logs those that run for LONG, and cancels those over limits.handler_timeout, if that is set.
    wheel: returns the loop's wheel.
    """

    def __init__(self, wheel: Callable[[], Wheel], limits: Limits) -> None:
        self._wheel = wheel
        self._timeout = limits.handler_timeout
        self._running: dict[Inbox, None] = {}
        self._look_item = Call(self._look)
        self._is_looking = False

    def add(self, inbox: Inbox) -> None:
        """Its task has been made."""
        self._running[inbox] = None
        if not self._is_looking:
            self._is_looking = True
            self._wheel().set(self._look_item, INTERVAL)

    def remove(self, inbox: Inbox) -> None:
        """Its task ends."""
        self._running.pop(inbox, None)

    def count(self, seconds: float = 0.0) -> int:
        """How many handlers have run for so long."""
        now = self._wheel().read_clock()
        return sum(1 for each in self._running if each.name and now - each.since >= seconds)

    def _look(self) -> None:
        now = self._wheel().now
        late: dict[str, list[Inbox]] = {}
        for each in self._running:
            seconds = now - each.since
            if not each.name:
                continue
            if self._timeout and seconds >= self._timeout and not each.is_timed_out:
                each.is_timed_out = True
                cast("asyncio.Task[None]", each.task).cancel()
            elif seconds >= LONG and not each.is_logged:
                each.is_logged = True
                late.setdefault(each.name, []).append(each)
        for name, those in late.items():  # one line for a message, however many of its handlers hang
            first = those[0]
            log.warning(
                "handler does not end",
                message=name,
                uid=first.uid,
                seconds=round(now - first.since),
                sessions=len(those),
            )
        self._is_looking = bool(self._running)
        if self._is_looking:
            self._wheel().set(self._look_item, INTERVAL)
