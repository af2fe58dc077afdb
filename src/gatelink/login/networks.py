"""How often the networks around an address may ask: a bucket for each, looked at before any work is done for it.

Whoever has many addresses has them in one network: an IPv4 address counts with its /24, an IPv6 address, which is its
/64 here, with its /56 and /48. A wider network may ask more often than a narrow one, but not as often as all of its
addresses together.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from gatelink.config import networks
from gatelink.login.limits import LoginLimits
from gatelink.net.endpoints import address_key, contains

MAX_NETWORKS = 32_768
"""Networks that are remembered, in about 0.7 KiB each; the one that asked the longest ago is forgotten first."""

_WIDER = {4: ((24, 4),), 6: ((56, 4), (48, 16))}


@lru_cache(16_384)
def networks_of(host: str) -> tuple[tuple[str, int], ...]:
    """The networks that `host` counts for: (key, how many times what one address is allowed), the narrowest first."""
    found = [(address_key(host), 1)]
    try:
        parsed: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return tuple(found)  # a Unix socket's peer
    address = getattr(parsed, "ipv4_mapped", None) or parsed
    for length, times in _WIDER[address.version]:
        found.append((str(ip_network((address, length), strict=False)), times))
    return tuple(found)


class _Bucket:
    """`rate` tokens come in a second, and at most `burst` of them are kept. It begins full."""

    __slots__ = ("at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = self.tokens = burst
        self.at = now

    def refill(self, now: float) -> float:
        """The tokens that there are now."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        return self.tokens

    def take(self) -> None:
        self.tokens = max(0.0, self.tokens - 1)

    def wait(self) -> float:
        """Seconds until there is one."""
        return max(0.0, (1 - self.tokens) / self.rate)


class _Network:
    """What one network has left: requests, and refusals that it is told."""

    __slots__ = ("refusals", "requests")

    def __init__(self, limits: LoginLimits, times: int, now: float) -> None:
        self.requests = _Bucket(limits.request_rate * times, limits.request_burst * times, now)
        self.refusals = _Bucket(limits.request_rate * times, limits.request_burst * times, now)


class RequestRates:
    """The buckets of one process (limits.request_rate, request_burst). clock: seconds that only grow."""

    def __init__(self, limits: LoginLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._exempt = networks(*limits.exempt)
        self._clock = clock
        self._networks: OrderedDict[str, _Network] = OrderedDict()  # the one used last at the end

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._networks)

    def take(self, host: str) -> float:
        """Counts a request from `host`: 0 if it may be served, else the seconds until it might be."""
        if contains(self._exempt, host):
            return 0.0
        now = self._clock()
        found = []
        for key, times in reversed(networks_of(host)):  # a full one keeps its many addresses out of the table
            network = self._network(key, times, now)
            if network.requests.refill(now) < 1:
                if network.refusals.refill(now) >= 1:
                    network.refusals.take()
                return network.requests.wait()
            found.append(network)
        for network in found:
            network.requests.take()
        return 0.0

    def is_flooding(self, host: str) -> bool:
        """Whether `host` goes on asking though it was told often enough: then it is not even told."""
        now = self._clock()
        return not contains(self._exempt, host) and any(
            (each := self._networks.get(key)) is not None
            and each.requests.refill(now) < 1
            and each.refusals.refill(now) < 1
            for key, _ in networks_of(host)
        )

    def _network(self, key: str, times: int, now: float) -> _Network:
        found = self._networks.pop(key, None)
        if found is None:
            while len(self._networks) >= MAX_NETWORKS:
                self._networks.popitem(last=False)
            found = _Network(self._limits, times, now)
        self._networks[key] = found
        return found
