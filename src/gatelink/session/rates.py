"""How much a peer may send, or do, in time: token buckets, and the meter of a session's messages and bytes."""

from typing import Protocol

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.session.stream import Pause
from gatelink.session.timers import Item, Wheel
from gatelink.stats import Stats


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
        """Takes one token, if there is one."""
        if self.refill(now) < 1:
            return False
        self.tokens -= 1
        return True

    def wait(self, tokens: float = 1.0) -> float:
        """Seconds from `at` until there are `tokens`; at most `burst` ever are."""
        return max(0.0, (tokens - self.tokens) / self.rate)


class Metered(Protocol):
    """What a meter does to its session."""

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...


class Meter(Item):
    """What a session's peer may send: messages (limits.message_rate) and bytes (byte_rate), each from its own bucket.

    A read is charged as it comes, before anything of it is decoded; so it may leave a debt, and then reading pauses
    until that is paid. A session that has been paused for limits.rate_timeout seconds since both buckets were last full
    is closed with 4005. The meter is the session's, not its connection's: a resume does not fill the buckets.
    """

    __slots__ = ("_bytes", "_frames", "_is_paused", "_paused", "_session", "_since", "_stats", "_timeout", "_wheel")

    def __init__(self, session: Metered, wheel: Wheel, limits: Limits, stats: Stats) -> None:
        self._tick = 0
        self._session = session
        self._wheel = wheel
        self._stats = stats
        self._frames = TokenBucket(limits.message_rate, limits.message_burst, self._wheel.now)
        self._bytes = TokenBucket(limits.byte_rate, limits.byte_burst, self._wheel.now)
        self._timeout = limits.rate_timeout
        self._is_paused = False
        self._since = 0.0  # when the pause began, or was last added to `_paused`
        self._paused = 0.0  # s of pauses since both buckets were full

    def charge(self, frames: int, size: int) -> None:
        """Takes what one read brought: `size` bytes as they came, and the frames that they completed."""
        now = self._wheel.now
        if now > self._frames.at:  # ten times a second at the most: the wheel's time moves by ticks
            self._refill(now)
        self._frames.tokens = left = self._frames.tokens - frames
        self._bytes.tokens -= size
        if (left < 0 or self._bytes.tokens < 0) and not self._is_paused:
            self._pause()

    def close(self) -> None:
        """The session has ended."""
        self._wheel.cancel(self)

    def on_deadline(self, now: float) -> None:
        debt = self._refill(now)
        self._paused += now - self._since
        self._since = now
        if self._paused >= self._timeout:
            most = f"{self._frames.rate:g} messages or {self._bytes.rate:g} bytes a second"
            self._session.close(CloseCode.RATE_LIMITED, f"more than {most}, paused for {self._paused:.1f} s")
        elif debt > 0:
            self._wait(debt)
        else:
            self._is_paused = False
            self._session.resume(Pause.RATE)

    def _refill(self, now: float) -> float:
        """Brings both buckets up to `now`; the seconds until neither is in debt."""
        frames, size = self._frames, self._bytes
        if (frames.refill(now) >= frames.burst) & (size.refill(now) >= size.burst):  # both, whatever the first says
            self._paused = 0.0
        return max(frames.wait(0), size.wait(0))

    def _pause(self) -> None:
        """Stops reading, unless what has come in since the last tick is enough."""
        now = self._wheel.read_clock()
        debt = self._refill(now)
        if not debt:
            return
        self._is_paused = True
        self._since = now
        self._stats.rate_paused += 1
        self._session.pause(Pause.RATE)
        self._wait(debt)

    def _wait(self, debt: float) -> None:
        self._wheel.set(self, min(debt, self._timeout - self._paused))
