"""One user in this process: the allowances that all sessions of a uid share, whatever their slots.

A new login, another slot and a resume bring no new allowance. So a user's state must outlive its sessions. It is kept
until the user has no session, no unhandled message, and full buckets. So time bounds the memory.
"""

from collections.abc import Callable, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Protocol

from gatelink.config import Limits
from gatelink.session.rates import Meter, Metered, TokenBucket
from gatelink.session.stream import Pause
from gatelink.session.timers import Item, Wheel
from gatelink.stats import Stats


class SessionOfUser(Metered, Protocol):
    """A session, as its user sees it."""

    uid: int
    address: str

    @property
    def held_bytes(self) -> int: ...

    @property
    def carried_bytes(self) -> int: ...

    def abort(self) -> None: ...


class Waiting(Protocol):
    """An inbox, as the user of its session sees it."""

    bytes: int

    def drop_messages(self) -> None: ...


_NO_INBOXES: Mapping[Waiting, object] = MappingProxyType({})


class User(Item):
    """The state that all sessions of one user share. A session that no manager has installed has a user of its own.

    There may be as many users as sessions. So the parts that most users never need are made on first use.

    sessions: the open and detached ones. address: the host of the newest session.
    meter: charges what all of them send; None before the first session with rates.
    type_rates: the buckets of the message types that have a rate; None before the first.
    inboxes: the inboxes in which messages wait, and their sessions. Such a session may have ended.
    frames, bytes: received and not handled, in all inboxes together.
    is_full: they reached `max_inbox` or `max_inbox_bytes`, so reading from all sessions is paused. A session with a
    window is read for one more window, because its peer may send that much. is_over: that room is used up too, so no
    session is read.
    running: the user's handlers that run in tasks. max_running: how many may run. waiting: calls that start the others.
    groups, group_bytes: memberships in broadcast groups, and the bytes of their names.
    """

    __slots__ = (
        "_forget",
        "_inboxes",
        "address",
        "bytes",
        "frames",
        "group_bytes",
        "groups",
        "is_full",
        "is_over",
        "limits",
        "max_running",
        "meter",
        "running",
        "sessions",
        "type_rates",
        "uid",
        "waiting",
    )

    def __init__(
        self,
        uid: int,
        limits: Limits,
        max_running: float = inf,
        forget: "Callable[[User], None] | None" = None,
    ) -> None:
        """forget: called when the user is idle. It may set a deadline on the user, and is called again then."""
        self._tick = 0
        self._forget = forget
        self.uid = uid
        self.limits = limits
        self.address = ""
        self.sessions: tuple[SessionOfUser, ...] = ()
        self._inboxes: dict[Waiting, object] | None = None
        self.meter: Meter | None = None
        self.type_rates: dict[int, TokenBucket] | None = None
        self.frames = 0
        self.bytes = 0
        self.is_full = False
        self.is_over = False
        self.running = 0
        self.max_running = max_running
        self.waiting: tuple[Callable[[], None], ...] = ()
        self.groups = 0
        self.group_bytes = 0

    @property
    def inboxes(self) -> Mapping[Waiting, object]:
        return self._inboxes or _NO_INBOXES

    def add_inbox(self, inbox: Waiting, session: object) -> None:
        """Add an inbox in which messages begin to wait."""
        if self._inboxes is None:
            self._inboxes = {}
        self._inboxes[inbox] = session

    def remove_inbox(self, inbox: Waiting) -> None:
        """Remove an inbox in which none wait any more."""
        assert self._inboxes is not None
        del self._inboxes[inbox]
        if not self._inboxes:
            self._inboxes = None

    @property
    def is_idle(self) -> bool:
        """Whether no session, message or handler of the user is here."""
        return not (self.sessions or self.frames or self.running or self.waiting)

    def join(self, session: SessionOfUser) -> None:
        """Add a session that begins. It is paused if the user's inbox is full."""
        self.address = session.address
        if session not in self.sessions:
            self.sessions += (session,)
        if self.is_full:
            session.pause(Pause.INBOX)
        if self.is_over:
            session.pause(Pause.USER)

    def leave(self, session: SessionOfUser) -> None:
        """Remove a session that has ended. Its messages may still be handled."""
        self.sessions = tuple(other for other in self.sessions if other is not session)
        if self.meter is not None:
            self.meter.leave(session)
        self.forget_if_idle()

    def forget_if_idle(self) -> None:
        """Forget an idle user when its buckets are full."""
        if self._forget is not None and self.is_idle:
            self._forget(self)

    def on_deadline(self, now: float) -> None:
        self.forget_if_idle()

    # -- rates --

    def metered(self, session: SessionOfUser, wheel: Wheel, stats: Stats) -> Meter:
        """The meter of the user, which from now on pauses and closes `session`, too."""
        if self.meter is None:
            self.meter = Meter(wheel, self.limits, stats)
        self.meter.join(session)
        return self.meter

    def full_in(self, now: float) -> float:
        """Seconds until all its buckets are full."""
        seconds = 0.0 if self.meter is None else self.meter.full_in(now)
        if self.type_rates is not None:
            for bucket in self.type_rates.values():
                bucket.refill(now)
                seconds = max(seconds, bucket.wait(bucket.burst))
        return seconds

    # -- the inbox --

    def received(self, frames: int, size: int, stats: Stats, begun: bool) -> None:
        """Count frames that wait for handlers, and pause reading over the limits. begun: one more is being handled."""
        self.frames += frames
        self.bytes += size
        limits = self.limits
        waiting = self.frames + len(self.waiting) + begun
        if not self.is_full:
            if waiting < limits.max_inbox and self.bytes < limits.max_inbox_bytes:
                return
            self.is_full = True
            stats.paused += 1
            self._pause(Pause.INBOX)
        elif not self.is_over and (
            waiting >= limits.max_inbox + limits.turn_frames + limits.window_frames
            or self.bytes >= limits.max_inbox_bytes + limits.turn_bytes + limits.max_frame + limits.window_bytes
        ):
            self.is_over = True
            self._pause(Pause.USER)

    def handled(self, frames: int, size: int) -> None:
        """Count frames that were handled, and resume reading if half of the room is free."""
        self.frames -= frames
        self.bytes -= size
        if self.is_full:
            self._read_on()

    def _read_on(self) -> None:
        limits = self.limits
        if self.frames + len(self.waiting) > limits.max_inbox // 2 or self.bytes > limits.max_inbox_bytes // 2:
            return
        why = Pause.INBOX | Pause.USER if self.is_over else Pause.INBOX
        self.is_full = self.is_over = False
        for session in self.sessions:
            session.resume(why)

    def bytes_of_ended(self) -> int:
        """Bytes that ended sessions have received and not handled."""
        return sum(inbox.bytes for inbox, session in self.inboxes.items() if session not in self.sessions)

    def drop_ended(self) -> None:
        """Drop the messages that ended sessions have received and not handled."""
        for inbox, session in list(self.inboxes.items()):
            if session not in self.sessions:
                inbox.drop_messages()

    def _pause(self, why: Pause) -> None:
        for session in self.sessions:
            session.pause(why)

    # -- handlers that run in tasks --

    def ended(self) -> None:
        """Count a task that has ended, and start the handler that waits for longest. Resumes reading, as `handled`."""
        self.running -= 1
        if self.waiting and self.running < self.max_running:
            self._start_next()
        if self.is_full:  # the message of this task may be all that filled the inbox
            self._read_on()

    def lift(self) -> None:
        """Start all handlers that wait, and limit none from now on."""
        self.max_running = inf
        while self.waiting:
            self._start_next()

    def _start_next(self) -> None:
        self.running += 1
        start, self.waiting = self.waiting[0], self.waiting[1:]
        start()


class Users:
    """The users of one loop's context: those with a session, and those whose buckets are not full again.

    wheel: returns the context's wheel.
    """

    def __init__(self, wheel: Callable[[], Wheel], limits: Limits) -> None:
        self._wheel = wheel
        self._limits = limits
        self._users: dict[int, User] = {}
        self._forget_user = self._forget  # one bound method for all

    def __len__(self) -> int:
        return len(self._users)

    def __iter__(self) -> Iterator[User]:
        """The users of this moment."""
        return iter(list(self._users.values()))

    def join(self, uid: int, session: SessionOfUser) -> User:
        """Add a session that begins to its user, and return the user."""
        user = self._users.get(uid)
        if user is None:
            user = self._users[uid] = User(uid, self._limits, self._limits.max_slots, self._forget_user)
        else:
            self._wheel().cancel(user)
        user.join(session)
        return user

    def lift(self) -> None:
        """Start all waiting handlers, of all users. Called when the server stops, so that they end within the grace."""
        for user in self:
            user.lift()

    def _forget(self, user: User) -> None:
        wheel = self._wheel()
        seconds = user.full_in(wheel.read_clock())
        if seconds > 0:
            wheel.set(user, seconds)
        else:
            self._users.pop(user.uid, None)
