"""The received messages of a session that wait for its handlers, and the task that handles them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from gatelink.session.user import User
from gatelink.wire.frames import REQUEST, TAG_SIZE, Frame


class Inbox:
    """A session has one from the first frame that waits until the last has been handled.

    user: counts them, with those in the inboxes of its other sessions. bytes: of the bodies in it.
    is_last: the session has ended, so nothing more comes in. is_held_back: its task begins when another handler of
    the user has ended. is_handling: its messages are being handled outside a task, so no task may start.
    share: how many items may be handled before the next tick. task: handles them, if one does.

    name: the message or event whose handler runs in the task, "" between two handlers. since: the wheel's time at which
    that handler began. is_logged: the log has it. is_timed_out: it was cancelled for limits.handler_timeout.
    """

    __slots__ = (
        "bytes",
        "is_last",
        "is_timed_out",
        "is_logged",
        "items",
        "name",
        "is_handling",
        "is_held_back",
        "share",
        "since",
        "task",
        "user",
    )

    def __init__(self, user: User) -> None:
        self.user = user
        self.items: deque[Frame] = deque()
        self.bytes = 0
        self.is_last = False
        self.is_held_back = False
        self.is_handling = False
        self.share = 0
        self.task: asyncio.Task[None] | None = None
        self.name = ""
        self.since = 0.0
        self.is_logged = False
        self.is_timed_out = False

    @property
    def uid(self) -> int:
        """The user's."""
        return self.user.uid

    def drop_messages(self) -> None:
        """Drop the messages; the events, whose ids are below 0, stay."""
        count, size = len(self.items), self.bytes
        events = [item for item in self.items if item[0] < 0]
        self.items.clear()  # keep the deque: `_from_inbox` may be reading it
        self.items.extend(events)
        self.bytes = sum(len(body) for _, _, body in events)
        self.user.handled(count - len(events), size - self.bytes)

    def forget_tags(self) -> None:
        """The peer's requests in it can't be answered any more: they become plain messages."""
        count = 0
        for at, (id, flags, body) in enumerate(self.items):
            if flags >= REQUEST:
                self.items[at] = id, flags % REQUEST, body[TAG_SIZE:]
                count += 1
        self.bytes -= count * TAG_SIZE
        self.user.handled(0, count * TAG_SIZE)

    def begin(self, name: str, now: float) -> None:
        """A handler begins."""
        self.name = name
        self.since = now
        self.is_logged = False

    def end_timeout(self) -> bool:
        """Whether the handler was cancelled because of its timeout. If so, take that cancellation back."""
        if not self.is_timed_out:
            return False
        self.is_timed_out = False
        cast("asyncio.Task[None]", self.task).uncancel()
        return True


class LastHandler:
    """The end of a closed session's last handler, and what waits for it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[Callable[[], None], ...] | None = ()  # None: it has ended

    @property
    def has_ended(self) -> bool:
        return self._waiting is None

    def then(self, call: Callable[[], None]) -> None:
        """Call `call` when the last handler has ended; at once if it has."""
        if self._waiting is None:
            call()
        else:
            self._waiting += (call,)

    def ended(self) -> None:
        """All received messages and the event `closed` have been handled."""
        calls, self._waiting = self._waiting, None
        for call in calls or ():
            call()
