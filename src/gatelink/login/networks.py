"""How often an address and the networks around it may ask, checked before any work is done for a request.

The many addresses of one attacker are in one network. So an IPv4 address also counts for its /24, and an IPv6 address,
which is its /64 here, for its /56 and /48. A wider network may ask more often than a narrow one, but not as often as
all of its addresses together.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network

from gatelink.config import networks
from gatelink.login.limits import LoginLimits
from gatelink.net.endpoints import address_key, contains
from gatelink.session.rates import TokenBucket

MAX_NETWORKS = 32_768
"""Networks that are remembered, in about 0.7 KiB each. The one that asked the longest ago is forgotten first."""

_WIDER = {4: ((24, 4),), 6: ((56, 4), (48, 16))}


@lru_cache(16_384)
def networks_of(host: str) -> tuple[tuple[str, int], ...]:
    """The networks that `host` counts for, the narrowest first: (key, how many times the rate of one address)."""
    key = address_key(host)
    try:
        network = ip_network(key)
    except ValueError:
        return ((key, 1),)  # a Unix socket's peer
    wider = ((str(network.supernet(new_prefix=length)), times) for length, times in _WIDER[network.version])
    return ((key, 1), *wider)


class _Network:
    """The requests that one network may still send, and the refusals that it may still get."""

    __slots__ = ("refusals", "requests")

    def __init__(self, limits: LoginLimits, times: int, now: float) -> None:
        self.requests = TokenBucket(limits.request_rate * times, limits.request_burst * times, now)
        self.refusals = TokenBucket(limits.request_rate * times, limits.request_burst * times, now)


class RequestRates:
    """The request rates of one process (limits.request_rate, request_burst). clock: seconds that only grow."""

    def __init__(self, limits: LoginLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._exempt = networks(*limits.exempt)
        self._clock = clock
        self._networks: OrderedDict[str, _Network] = OrderedDict()  # the one used last at the end

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._networks)

    def take(self, host: str) -> float:
        """Count a request from `host`: 0 if it may be served, else the seconds until it might be."""
        if contains(self._exempt, host):
            return 0.0
        now = self._clock()
        found = []
        for key, times in reversed(networks_of(host)):  # an empty wide one keeps its addresses out
            network = self._network(key, times, now)
            if network.requests.refill(now) < 1:
                network.refusals.take(now)
                return network.requests.wait()
            found.append(network)
        for network in found:
            network.requests.take(now)
        return 0.0

    def is_flooding(self, host: str) -> bool:
        """Whether `host` goes on asking after its share of refusals; its connections are then refused."""
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
