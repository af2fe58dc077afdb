"""The configuration of a login service: its limits, and the address where it listens."""

import math

import msgspec

from gatelink.config import LOOPBACK, networks
from gatelink.errors import ConfigError
from gatelink.net.endpoints import http_address


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How often something may be done: `free` times at once. Each further time makes the next wait longer.

    The first wait is `first` seconds. It doubles with each further time, up to `longest`. Every `recovery` seconds one
    time is forgotten, so in the long run there is at most one in `recovery` seconds.
    """

    free: int
    recovery: float
    first: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        times = (self.recovery, self.first, self.longest)
        if self.free < 1 or not all(0.001 <= time <= 1e9 for time in times) or self.first > self.longest:
            raise ConfigError(
                f"free {self.free}, recovery {self.recovery:g} s, first {self.first:g} s, longest {self.longest:g} s: "
                "free must be 1 or more, the times from 0.001 to 1e9, and first at most longest"
            )

    @property
    def most(self) -> float:
        """The highest level. Further tries add nothing, so that a level falls to 0 in a bounded time."""
        return self.free + math.ceil(math.log2(self.longest / self.first))

    def wait(self, level: float) -> float:
        """Seconds that the next one waits when `level` are remembered."""
        if level <= self.free - 1:
            return 0.0
        return min(self.longest, self.first * 2 ** max(0.0, min(level, self.most) - self.free))


class LoginLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one login service. The defaults are for players on the open internet."""

    # -- HTTP --
    max_head: int = 16_384  # bytes of a request's line and headers
    max_body: int = 16_384  # bytes; an ID token has up to 8,192
    head_timeout: float = 10.0  # s from the connection, or the first byte after a reply, to the end of the headers
    keep_alive: float = 75.0  # s that a connection may idle after a reply: balancers keep theirs for 60 s
    timeout: float = 10.0  # s from the end of the headers to the reply: the body, the work, and waiting for it
    max_requests: int = 256  # whole requests under way at a time; more get a 503
    max_connections: int = 4_096
    max_per_address: int = 128  # connections of one IPv4 address or IPv6 /64
    request_rate: float = 20.0  # requests a second of one address; 4 times that of a /24 or /56, 16 times of a /48
    request_burst: int = 100  # of them at once
    exempt: tuple[str, ...] = LOOPBACK  # networks without limits per network

    # -- tries, counted in the engine for all login processes together --
    network: Rule = Rule(free=60, recovery=1.0)  # logins of one network, right or wrong
    pair: Rule = Rule(free=10, recovery=300.0, longest=300.0)  # wrong passwords for one account from one network
    account: Rule = Rule(free=50, recovery=60.0, longest=30.0)  # wrong passwords for one account from anywhere
    registrations: Rule = Rule(free=20, recovery=180.0, first=180.0, longest=3_600.0)  # new accounts of one network

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigError(f"limits.{name} is {value}; it must be above 0")
        try:
            networks(*self.exempt)
        except ConfigError as error:
            raise ConfigError(f"limits.exempt: {error}") from None


def host_and_port(url: str) -> tuple[str, int]:
    """The host and port of `http://host:port`. Raises ConfigError for anything else."""
    if (address := http_address(url)) is None:
        raise ConfigError(
            f"login cannot listen on {url!r}; write it as http://127.0.0.1:8080 (for TLS put a reverse proxy in front)"
        )
    return address
