"""What a session received and nobody has handled yet, and the task that handles it."""

import asyncio
from collections import deque
from typing import cast

from gatelink.wire.frames import Frame


class Inbox:
    """A session has one from the first frame that waits until the last has been handled.

    bytes: of the bodies in it. is_last: the session has ended, so nothing more comes in. paused: reading stopped
    because it is full. share: how many items may be handled before the next tick. task: handles them, if one does.

    name: the message or event whose handler runs in the task, "" between two handlers. since: the wheel's time at which
    that handler began. is_told: the log has it. is_timed_out: it was cancelled for limits.handler_timeout.
    """

    __slots__ = (
        "bytes",
        "is_last",
        "is_timed_out",
        "is_told",
        "items",
        "name",
        "paused",
        "share",
        "since",
        "task",
        "uid",
    )

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.items: deque[Frame] = deque()
        self.bytes = 0
        self.is_last = False
        self.paused = False
        self.share = 0
        self.task: asyncio.Task[None] | None = None
        self.name = ""
        self.since = 0.0
        self.is_told = False
        self.is_timed_out = False

    def drop_messages(self) -> None:
        """Drops the messages; the events, whose ids are below 0, stay."""
        events = [item for item in self.items if item[0] < 0]
        self.items.clear()  # the same deque: it may be being drained
        self.items.extend(events)
        self.bytes = 0

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
        cast("asyncio.Task[None]", self.task).uncancel()
        return True
