"""How much a peer may send, or do, in time: token buckets, and the meter of a user's messages and bytes."""

from typing import Protocol

from gatelink._native import compiled
from gatelink.config import Limits
from gatelink.errors import CloseCode, plural
from gatelink.session.stream import Pause
from gatelink.session.timers import Item, Wheel
from gatelink.stats import Stats


@compiled
class TokenBucket:
    """A token bucket: `rate` tokens come in a second, and at most `burst` of them are kept. It begins full.

    now: seconds of any clock, the same in all calls; one that goes back brings no tokens.
    """

    __slots__ = ("at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.at = now  # when `tokens` was true

    def refill(self, now: float) -> float:
        """The tokens that there are `now`."""
        if now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
            self.at = now
        return self.tokens

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        if self.refill(now) < 1:
            return False
        self.tokens -= 1
        return True

    def wait(self, tokens: float = 1.0) -> float:
        """Seconds from `at` until there are `tokens`; at most `burst` ever are."""
        return max(0.0, (tokens - self.tokens) / self.rate)


@compiled
class Allowance(Item):
    """Two token buckets that are charged together: one of frames, one of bytes.

    wheel: its clock. paused: seconds of pauses since both buckets were full. is_paused: there is a debt, which
    `overdrawn` has been told.
    """

    __slots__ = ("bytes", "frames", "is_paused", "paused", "wheel")

    def __init__(self, wheel: Wheel, limits: Limits) -> None:
        self._tick = 0
        self.wheel = wheel
        self.frames = TokenBucket(limits.message_rate, limits.message_burst, wheel.now)
        self.bytes = TokenBucket(limits.byte_rate, limits.byte_burst, wheel.now)
        self.is_paused = False
        self.paused = 0.0

    def charge(self, frames: int, size: int) -> None:
        """Take what one read brought: `size` bytes as they came, and the frames that they completed."""
        now = self.wheel.now
        if now > self.frames.at:  # ten times a second at the most: the wheel's time moves by ticks
            self.refill(now)
        self.frames.tokens = left = self.frames.tokens - frames
        self.bytes.tokens -= size
        if (left < 0 or self.bytes.tokens < 0) and not self.is_paused:
            self.overdrawn()

    def overdrawn(self) -> None:
        """Called after a charge that left a debt, unless `is_paused`."""
        raise NotImplementedError

    def full_in(self, now: float) -> float:
        """Seconds until both buckets are full."""
        self.refill(now)
        return max(self.frames.wait(self.frames.burst), self.bytes.wait(self.bytes.burst))

    def refill(self, now: float) -> float:
        """Refill both buckets up to `now`. Returns the seconds until neither is in debt."""
        frames, size = self.frames, self.bytes
        if (frames.refill(now) >= frames.burst) & (size.refill(now) >= size.burst):  # both, whatever the first says
            self.paused = 0.0
        return max(frames.wait(0), size.wait(0))


class Metered(Protocol):
    """A session, as its user's meter sees it: paused, resumed and closed."""

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...


class Charged(Protocol):
    """A meter, as a connection sees it: charged with each read."""

    def charge(self, frames: int, size: int) -> None: ...


class Meter(Allowance):
    """A user's allowance to send: messages (limits.message_rate) and bytes (byte_rate), each from its own bucket.

    All sessions of the user share it. A read is charged as it comes, before anything of it is decoded; so it may leave
    a debt. Then reading from all of them pauses until that is paid. If it has been paused for limits.rate_timeout
    seconds since both buckets were last full, they are closed with 4005. A login or a resume does not fill the buckets.
    """

    __slots__ = ("_sessions", "_since", "_stats", "_timeout")

    def __init__(self, wheel: Wheel, limits: Limits, stats: Stats) -> None:
        super().__init__(wheel, limits)
        self._sessions: dict[Metered, None] = {}
        self._stats = stats
        self._timeout = limits.rate_timeout
        self._since = 0.0  # when the pause began, or was last added to `paused`

    def join(self, session: Metered) -> None:
        """One more session is charged here. In debt, it is not read from the start."""
        self._sessions[session] = None
        if self.is_paused:
            session.pause(Pause.RATE)
        else:
            self.overdrawn()

    def leave(self, session: Metered) -> None:
        """A session has ended."""
        self._sessions.pop(session, None)
        if not self._sessions and self.is_paused:
            self.is_paused = False
            self.paused += self.wheel.read_clock() - self._since
            self.wheel.cancel(self)

    def on_deadline(self, now: float) -> None:
        debt = self.refill(now)
        self.paused += now - self._since
        self._since = now
        if self.paused >= self._timeout:
            most = f"{self.frames.rate:g} {plural('message', self.frames.rate)} or {self.bytes.rate:g} bytes a second"
            for session in list(self._sessions):
                session.close(CloseCode.RATE_LIMITED, f"more than {most}, paused for {self.paused:.1f} s")
        elif debt > 0:
            self._wait(debt)
        else:
            self.is_paused = False
            for session in list(self._sessions):
                session.resume(Pause.RATE)

    def overdrawn(self) -> None:
        """Stop reading, unless what has come in since the last tick is enough."""
        now = self.wheel.read_clock()
        debt = self.refill(now)
        if not debt or not self._sessions:
            return
        self.is_paused = True
        self._since = now
        self._stats.rate_paused += 1
        for session in list(self._sessions):
            session.pause(Pause.RATE)
        self._wait(debt)

    def _wait(self, debt: float) -> None:
        self.wheel.set(self, min(debt, self._timeout - self.paused))
