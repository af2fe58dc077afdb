"""The handlers that run in tasks: which, for whom and since when. One look a second finds those that do not end."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from gatelink.session.timers import Call

if TYPE_CHECKING:
    from gatelink.session.loop_context import LoopContext

log = structlog.get_logger("gatelink.handlers")

LONG = 10.0
"""Seconds after which the log has a handler that still runs."""

INTERVAL = 1.0
"""Seconds between two looks."""


class Running:
    """A task that runs one session's handlers, one after the other, and the one that it runs now.

    name: of its message or event, "" between two handlers. since: the wheel's time at which it began.
    is_told: the log has it. is_timed_out: it was cancelled for limits.handler_timeout.
    """

    __slots__ = ("is_timed_out", "is_told", "name", "since", "task", "uid")

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.task: asyncio.Task[None] | None = None
        self.name = ""
        self.since = 0.0
        self.is_told = False
        self.is_timed_out = False

    def begin(self, name: str, now: float) -> None:
        """A handler begins."""
        self.name = name
        self.since = now
        self.is_told = False

    def end_timeout(self) -> bool:
        """Whether the handler was cancelled for its time; then that cancellation is over."""
        if not self.is_timed_out:
            return False
        self.is_timed_out = False
        assert self.task is not None
        self.task.uncancel()
        return True


class RunningHandlers:
    """Those of one hub. It says which run for LONG, and cancels those over limits.handler_timeout, if that is set."""

    def __init__(self, hub: "LoopContext") -> None:
        self._context = hub
        self._timeout = hub.limits.handler_timeout
        self._running: dict[Running, None] = {}
        self._look_item = Call(self._look)
        self._is_looking = False

    def add(self, running: Running) -> None:
        """Its task has been made."""
        self._running[running] = None
        if not self._is_looking:
            self._is_looking = True
            self._context.wheel.set(self._look_item, INTERVAL)

    def remove(self, running: Running) -> None:
        """Its task ends."""
        self._running.pop(running, None)

    def count(self, seconds: float = 0.0) -> int:
        """How many handlers have run for so long."""
        now = self._context.wheel.read_clock()
        return sum(1 for each in self._running if each.name and now - each.since >= seconds)

    def _look(self) -> None:
        now = self._context.wheel.now
        untold: dict[str, list[Running]] = {}
        for each in self._running:
            seconds = now - each.since
            if not each.name:
                continue
            if self._timeout and seconds >= self._timeout and not each.is_timed_out:
                each.is_timed_out = True
                assert each.task is not None
                each.task.cancel()
            elif seconds >= LONG and not each.is_told:
                each.is_told = True
                untold.setdefault(each.name, []).append(each)
        for name, those in untold.items():  # one line for a message, however many of its handlers hang
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
            self._context.wheel.set(self._look_item, INTERVAL)
