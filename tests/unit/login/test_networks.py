"""Each network around an address has its own bucket of requests."""

from ipaddress import IPv6Address

import pytest

from gatelink.login.limits import LoginLimits
from gatelink.login.networks import MAX_NETWORKS, RequestRates, networks_of
from gatelink.testing import FakeClock

LIMITS = LoginLimits(request_rate=1.0, request_burst=5, exempt=("10.0.0.0/8",))


class Asking:
    """The buckets, and a clock."""

    def __init__(self, limits: LoginLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.rates = RequestRates(limits, self.clock)

    def served(self, *hosts: str) -> int:
        """How many of a request of each are served."""
        return sum(not self.rates.take(host) for host in hosts)


@pytest.mark.parametrize(
    ("host", "keys"),
    [
        ("192.0.2.66", ["192.0.2.66", "192.0.2.0/24"]),
        ("::ffff:192.0.2.66", ["192.0.2.66", "192.0.2.0/24"]),
        ("2001:db8:1:2ff:3::4", ["2001:db8:1:2ff::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"]),
        ("", ["unix"]),
        ("no address", ["unix"]),
    ],
)
def test_an_address_counts_for_the_networks_around_it(host: str, keys: list[str]) -> None:
    assert [key for key, _ in networks_of(host)] == keys


def test_one_address_is_served_its_burst_and_then_its_rate() -> None:
    asking = Asking()
    assert asking.served(*["192.0.2.1"] * 20) == 5
    assert asking.rates.take("192.0.2.1") == 1.0, "the seconds until the next"
    asking.clock.advance(3)
    assert asking.served(*["192.0.2.1"] * 20) == 3
    assert asking.served("198.51.100.1") == 1, "nobody else waits"


@pytest.mark.parametrize(
    ("hosts", "most"),
    [
        ([f"192.0.2.{n}" for n in range(250)], 20),
        ([str(IPv6Address("2001:db8:1:200::1") + (n << 64)) for n in range(250)], 20),
        ([str(IPv6Address("2001:db8:1::1") + (n << 72)) for n in range(250)], 80),
    ],
    ids=["a /24", "a /56", "a /48"],
)
def test_a_network_is_served_less_than_its_addresses_together(hosts: list[str], most: int) -> None:
    asking = Asking()
    assert asking.served(*hosts, *hosts) == most
    asking.clock.advance(1)
    assert asking.served(*hosts) == most // 5
    assert asking.served("198.51.100.1", "2001:db8:2::1") == 2


def test_a_network_that_goes_on_after_it_was_told_is_not_told_any_more_until_time_has_passed() -> None:
    asking = Asking()
    told = 0
    for _ in range(100):
        if not asking.rates.is_flooding("192.0.2.1"):
            told += asking.rates.take("192.0.2.1") > 0
    assert told == 5
    assert not asking.rates.is_flooding("192.0.2.2"), "its neighbour has asked for nothing"
    asking.clock.advance(1)
    assert not asking.rates.is_flooding("192.0.2.1") and asking.served("192.0.2.1") == 1


def test_networks_that_are_exempt_are_not_counted() -> None:
    asking = Asking()
    assert asking.served(*["10.1.2.3"] * 1_000) == 1_000 and len(asking.rates) == 0


def test_what_is_remembered_is_bounded_and_a_full_network_fills_no_more_of_it() -> None:
    asking = Asking()
    asking.served(*(str(IPv6Address("2001:db8:1::1") + (n << 64)) for n in range(5_000)))
    assert len(asking.rates) < 200
    for n in range(MAX_NETWORKS):
        asking.rates.take(str(IPv6Address("2400::1") + (n << 80)))
    assert len(asking.rates) <= MAX_NETWORKS
