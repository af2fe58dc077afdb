"""Faults of a network path, as data. The script of a `ChaosProxy` is a sequence of them.

Fault
├── Delay      every byte arrives later
├── Split      bytes arrive in small pieces
├── Stall      nothing arrives for a while; nothing is lost
├── HalfClose  one direction ends (FIN), the other continues
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
    """A fault and its trigger: at most one of the four. Without one, it strikes when the path is open.

    A byte trigger counts the bytes delivered in the fault's direction, and strikes between two exact bytes. For `both`,
    each direction has its own count. Seconds count from the proxy's connection to its target. Raises ConfigError.
    """

    direction: Direction = "both"  # up: from the client to the target
    connection: int | None = None  # only on this one, counted from 1 as they are accepted; None: on every one
    after_bytes: int | None = None  # once
    after_seconds: float | None = None  # once
    mean_bytes: float | None = None  # repeatedly, on average once in this many bytes
    mean_seconds: float | None = None  # repeatedly, on average once in this many seconds

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
        """Whether delivered bytes trigger it."""
        return self.after_bytes is not None or self.mean_bytes is not None

    def positions(self, random: Random) -> Iterator[float]:
        """The positions where it strikes, ascending: bytes or seconds since the start. Endless for the means."""
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
    """From now on bytes are delivered `seconds` + uniform(0, `jitter`) after their arrival, in order.

    Jitter is drawn for each chunk that the proxy reads. `Delay(0)` ends the delay.
    """

    seconds: float
    jitter: float = 0.0

    def draw(self, random: Random) -> float:
        """The delay of one chunk, in seconds."""
        return self.seconds + random.uniform(0, self.jitter)


class Split(Fault, frozen=True):
    """From now on bytes are written in pieces of `size`. A receiver in the same loop gets each one separately."""

    size: int = 1


class Stall(Fault, frozen=True):
    """For `seconds` nothing is delivered. Then all held bytes are."""

    seconds: float


class HalfClose(Fault, frozen=True):
    """The receiver of this direction gets the end of the stream. Later bytes of its sender are discarded."""


class Reset(Fault, frozen=True):
    """Both sides get a connection reset. A reset by bytes waits until the receiver's kernel has all of these bytes.

    A receiver that is writing may get the reset before it has read them.
    """


class Drop(Fault, frozen=True):
    """The path dies as a mobile one does: both sockets stay open, and all bytes of both sides are discarded.

    It stays dead, because a stream with a gap is not TCP. The end of one side is not passed to the other.
    """


class Refuse(Fault, frozen=True):
    """For `seconds` the proxy does not listen: new connections get ConnectionRefusedError. Others continue."""

    seconds: float
