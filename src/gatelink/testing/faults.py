"""What can go wrong on a path, as data: a `ChaosProxy`'s script is a sequence of these.

Fault
├── Delay      every byte comes later
├── Split      bytes come in small pieces
├── Stall      nothing comes for a while; nothing is lost
├── HalfClose  one direction ends (FIN), the other goes on
├── Reset      both sides get a reset (RST); with `after_bytes`, in the middle of a frame
├── Drop       the path dies silently: sockets stay open, bytes vanish
└── Refuse     new connections are refused for a while
"""

from collections.abc import Iterator
from random import Random
from typing import Literal

import msgspec

from gatelink.errors import ConfigError

Direction = Literal["up", "down", "both"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """When a fault strikes: at most one of the four triggers; without one, as soon as the path is through.

    A byte trigger counts what was delivered in the fault's direction, in each for itself if it is `both`, and strikes
    between two exact bytes. Seconds count from when the proxy has connected to its target. Raises ConfigError.
    """

    direction: Direction = "both"  # up: from the client to the target
    connection: int | None = None  # only on this one, counted from 1 as they are accepted; None: on every one
    after_bytes: int | None = None  # once
    after_seconds: float | None = None  # once
    mean_bytes: float | None = None  # again and again, on average once in so many bytes
    mean_seconds: float | None = None  # again and again, on average once in so many seconds

    def __post_init__(self) -> None:
        triggers = [f"{name}={value}" for name in _TRIGGERS if (value := getattr(self, name)) is not None]
        if len(triggers) > 1:
            raise ConfigError(f"{type(self).__name__} has {', '.join(triggers)}; give at most one trigger")
        if self.direction not in ("up", "down", "both"):
            raise ConfigError(f"{type(self).__name__}.direction is {self.direction!r}; it must be up, down or both")
        for name, least in _LEAST.items():
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise ConfigError(f"{type(self).__name__}.{name} is {value}; it must be {least} or more")

    @property
    def by_bytes(self) -> bool:
        """Whether delivered bytes trigger it, not time."""
        return self.after_bytes is not None or self.mean_bytes is not None

    def positions(self, random: Random) -> Iterator[float]:
        """Where it strikes, ascending: bytes or seconds since the connection's start. Endless for the means."""
        mean = self.mean_bytes or self.mean_seconds
        if mean is None:
            yield self.after_bytes or self.after_seconds or 0
            return
        position = 0.0
        while True:
            position += random.expovariate(1 / mean)
            yield position


_TRIGGERS = ("after_bytes", "after_seconds", "mean_bytes", "mean_seconds")
_LEAST = {
    "connection": 1,
    "after_bytes": 1,
    "after_seconds": 0,
    "mean_bytes": 1,
    "mean_seconds": 0.001,
    "seconds": 0,
    "jitter": 0,
    "size": 1,
}


class Delay(Fault, frozen=True):
    """From now on bytes are delivered `seconds` + uniform(0, `jitter`) after they came, in order.

    Jitter is drawn per chunk that the proxy reads. `Delay(0)` ends it.
    """

    seconds: float
    jitter: float = 0.0

    def draw(self, random: Random) -> float:
        """The seconds that one chunk is delayed by."""
        return self.seconds + random.uniform(0, self.jitter)


class Split(Fault, frozen=True):
    """From now on bytes are written in pieces of `size`, so far apart that a receiver in the same loop sees each."""

    size: int = 1


class Stall(Fault, frozen=True):
    """For `seconds` nothing is delivered; then all of it is."""

    seconds: float


class HalfClose(Fault, frozen=True):
    """The receiver of this direction sees the end of the stream; what its sender still sends is discarded."""


class Reset(Fault, frozen=True):
    """Both sides see a connection reset. One by bytes waits until the receiver's kernel has all of these.

    A receiver that is writing may learn of it before it has read them.
    """


class Drop(Fault, frozen=True):
    """The path dies as a mobile one does: both sockets stay open, and whatever either side sends is discarded.

    It does not come back: a stream with a gap in it is not TCP. One side's end is not shown to the other.
    """


class Refuse(Fault, frozen=True):
    """For `seconds` the proxy does not listen: who connects gets ConnectionRefusedError. Others are untouched."""

    seconds: float
