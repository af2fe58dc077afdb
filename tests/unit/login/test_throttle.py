"""A client that tries too often waits; nobody waits because of a stranger elsewhere."""

import asyncio
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import ConfigError
from gatelink.login.limits import LoginLimits, Rule
from gatelink.login.throttle import Throttle, TooMany
from gatelink.testing import FakeClock
from tests.support import run_watched

HOME, AWAY, STRANGER = "198.51.100.7", "203.0.113.9", "192.0.2.66"
PLENTY = Rule(free=100_000, recovery=1.0)


class World:
    """Login processes of one cluster, and a clock."""

    def __init__(self, **rules: Rule) -> None:
        self.clock = FakeClock(1_000_000_000.0)
        self.engine = MemoryEngine(clock=self.clock)
        self.limits = LoginLimits(**{"network": PLENTY, **rules})  # type: ignore[arg-type]
        self.throttle = self.another()

    def another(self) -> Throttle:
        return Throttle(self.engine, self.limits, self.clock)

    async def __aenter__(self) -> "World":
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.close()

    async def wrong(self, address: str, user: str = "anna") -> int:
        """A try with a wrong password: the seconds that it was told to wait instead, 0 for none."""
        try:
            attempt = await self.throttle.login(user, address)
        except TooMany as error:
            return error.retry_after
        await attempt.failed()
        return 0

    async def right(self, address: str, user: str = "anna") -> int:
        """The same with the right one."""
        try:
            attempt = await self.throttle.login(user, address)
        except TooMany as error:
            return error.retry_after
        await attempt.succeeded()
        return 0

    async def kept(self) -> dict[str, bytes]:
        """What the engine has of tries."""
        await self.engine.get("any")  # it looks at its clock
        async with self.engine.watch("logins") as watch:
            return dict(watch.entries)

    async def under_attack(self, tries: int) -> None:
        """So many wrong passwords, each from another network."""
        for n in range(tries):
            assert await self.wrong(str(IPv4Address("10.0.0.0") + n)) == 0


def addresses_in(network: str, bits: int, count: int) -> list[str]:
    """So many addresses, each in another network of `bits`."""
    return [str(IPv6Address(network) + (n << (128 - bits))) for n in range(count)]


@pytest.mark.parametrize(("network", "bits", "tries"), [("2001:db8:1:200::1", 64, 12), ("2001:db8:1::1", 56, 48)])
async def test_a_network_of_ipv6_guesses_less_often_than_its_networks_together(
    network: str, bits: int, tries: int
) -> None:
    async with World(pair=Rule(free=3, recovery=1e9), account=PLENTY) as world:
        waits = [await world.wrong(address) for address in addresses_in(network, bits, 100)]
        assert waits.index(1) == tries and all(waits[tries:])
        assert await world.wrong(STRANGER) == 0 == await world.wrong("2001:db8:2::1"), "others have counts of their own"


@pytest.mark.parametrize("limit", ["network", "registrations"])
@pytest.mark.parametrize(("network", "bits", "tries"), [("2001:db8:1:200::1", 64, 12), ("2001:db8:1::1", 56, 48)])
async def test_so_are_logins_and_registrations_of_ipv6_networks(
    limit: str, network: str, bits: int, tries: int
) -> None:
    async with World(**{limit: Rule(free=3, recovery=1e9)}) as world:
        count = world.throttle.visit if limit == "network" else world.throttle.register
        done = 0
        for address in addresses_in(network, bits, 100):
            try:
                await count(address)
                done += 1
            except TooMany as error:
                assert error.limit == limit
        assert done == tries


async def test_an_owner_at_home_does_not_wait_for_guesses_of_neighbours() -> None:
    async with World(pair=Rule(free=3, recovery=1e9), account=PLENTY) as world:
        home, *neighbours = addresses_in("2001:db8:1:200::1", 64, 100)
        assert await world.right(home) == 0
        for address in neighbours:
            await world.wrong(address)
        assert await world.right(home) == 0
        assert await world.wrong(neighbours[-1]) > 0, "the right password forgives no wrong ones of others"


async def test_waits_grow_up_to_the_longest() -> None:
    async with World(pair=Rule(free=3, recovery=1e9, first=1, longest=10)) as world:
        for _ in range(3):
            assert await world.wrong(STRANGER) == 0
        waits = []
        for _ in range(6):
            waits.append(await world.wrong(STRANGER))
            world.clock.advance(waits[-1])
            assert await world.wrong(STRANGER) == 0
        assert waits == [1, 2, 4, 8, 10, 10]


async def test_time_that_passes_between_tries_does_not_make_one_more_free() -> None:
    async with World(pair=Rule(free=3, recovery=1_000, first=10, longest=10)) as world:
        for _ in range(3):
            assert await world.wrong(STRANGER) == 0
            world.clock.advance(0.5)
        assert await world.wrong(STRANGER) == 10


async def test_tries_during_a_wait_do_not_prolong_it() -> None:
    async with World(pair=Rule(free=1, recovery=1e9, first=8, longest=60)) as world:
        await world.wrong(STRANGER)
        for left in range(8, 0, -1):
            assert await world.wrong(STRANGER) == left
            world.clock.advance(1)
        assert await world.wrong(STRANGER) == 0


async def test_what_is_long_ago_is_forgotten_one_by_one() -> None:
    async with World(pair=Rule(free=2, recovery=60, first=1, longest=60)) as world:
        await world.wrong(STRANGER)
        await world.wrong(STRANGER)
        assert await world.wrong(STRANGER) == 1
        world.clock.advance(60)
        assert await world.wrong(STRANGER) == 0
        assert await world.wrong(STRANGER) == 1


async def test_after_the_longest_attack_the_count_is_gone_in_a_known_time() -> None:
    rule = Rule(free=2, recovery=10, first=1, longest=4)
    async with World(pair=rule) as world:
        for _ in range(200):
            world.clock.advance(await world.wrong(STRANGER))
        world.clock.advance(rule.most * rule.recovery + 120)
        assert not [key for key in await world.kept() if ".pair." in key]


async def test_a_stranger_elsewhere_delays_nobody_at_home() -> None:
    async with World() as world:
        assert await world.right(HOME) == 0
        for _ in range(500):
            await world.wrong(STRANGER)
            world.clock.advance(1)
        assert await world.right(HOME) == 0


async def test_an_attack_from_many_networks_delays_nobody_at_home() -> None:
    async with World() as world:
        assert await world.right(HOME) == 0
        await world.under_attack(50)
        assert await world.wrong(HOME) == 0, "a typo at home is a try like any other"
        assert await world.right(HOME) == 0


async def test_under_attack_a_new_network_waits_once_and_a_wait_that_others_do_not_prolong() -> None:
    async with World(account=Rule(free=20, recovery=60, first=1, longest=30)) as world:
        await world.under_attack(20)
        wait = await world.right(AWAY)
        assert 1 <= wait <= 30
        for n in range(wait):
            await world.wrong(f"192.0.2.{n}")
            world.clock.advance(1)
        assert await world.right(AWAY) == 0, "it waited, so it is let in, whatever the others did"
        assert await world.right(AWAY) == 0, "and is known from now on"


async def test_under_attack_no_wait_is_longer_than_the_longest() -> None:
    async with World(account=Rule(free=5, recovery=1e6, first=1, longest=30)) as world:
        waits = []
        for n in range(40):
            address = f"10.1.0.{n}"
            if wait := await world.wrong(address):
                waits.append(wait)
                world.clock.advance(wait)
                assert await world.wrong(address) == 0
        assert waits[0] == 1 and waits == sorted(waits) and waits[-1] == 30


async def test_networks_are_known_for_the_last_eight() -> None:
    async with World(account=Rule(free=1, recovery=1e9, first=5, longest=30)) as world:
        homes = [f"198.51.100.{n}" for n in range(9)]
        for home in homes:
            assert await world.right(home) == 0
        await world.wrong(homes[8])
        assert await world.right(homes[1]) == 0
        assert await world.right(homes[0]) == 5


async def test_a_right_password_forgives_the_wrong_ones_before_it() -> None:
    async with World(pair=Rule(free=3, recovery=1e9)) as world:
        for _ in range(5):
            assert await world.wrong(HOME) == 0
            assert await world.wrong(HOME) == 0
            assert await world.right(HOME) == 0


async def test_ones_own_logins_do_not_buy_guesses_at_others() -> None:
    async with World(network=Rule(free=6, recovery=1e9)) as world:
        for n in range(3):
            assert await world.wrong(STRANGER, f"victim-{n}") == 0
            assert await world.right(STRANGER, "mallory") == 0
        assert await world.wrong(STRANGER, "victim-9") > 0


async def test_a_try_that_nobody_looked_at_is_not_counted() -> None:
    async with World(pair=Rule(free=2, recovery=1e9)) as world:
        for _ in range(20):
            attempt = await world.throttle.login("anna", HOME)
            await attempt.undecided()


async def test_a_process_whose_clock_is_behind_delays_no_try_that_is_free() -> None:
    """Two processes measure the engine's time, and differ by some ms."""
    async with World() as world:
        behind = Throttle(world.engine, world.limits, lambda: world.clock() - 0.25)
        await world.throttle.login("anna", HOME)
        await behind.login("anna", HOME)
        attempt = await world.throttle.login("anna", HOME)
        await attempt.undecided()
        await behind.login("anna", HOME)


async def test_tries_at_the_same_time_do_not_pass_together() -> None:
    async with World(pair=Rule(free=5, recovery=1e9)) as world:
        processes = [world.throttle, world.another(), world.another()]
        tries = [processes[n % 3].login("anna", STRANGER) for n in range(60)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        passed = [result for result in results if not isinstance(result, Exception)]
        assert len(passed) == 5
        assert {type(result) for result in results if isinstance(result, Exception)} <= {TooMany, EngineUnavailable}


@pytest.mark.parametrize(
    ("one", "other"),
    [("anna", "ANNA"), ("anna", "Ａnna"), ("straße", "STRASSE")],
)
async def test_ways_to_write_a_name_are_one_account(one: str, other: str) -> None:
    async with World(pair=Rule(free=1, recovery=1e9)) as world:
        assert await world.wrong(HOME, one) == 0
        assert await world.wrong(HOME, other) > 0


async def test_a_network_is_an_ipv4_address_or_an_ipv6_slash_64() -> None:
    async with World(network=Rule(free=1, recovery=1e9)) as world:
        assert await world.wrong("2001:db8::1", "a") == 0
        assert await world.wrong("2001:db8::2", "b") > 0
        assert await world.wrong("2001:db8:0:1::1", "c") == 0
        assert await world.wrong("192.0.2.1", "d") == 0
        assert await world.wrong("::ffff:192.0.2.1", "e") > 0
        assert await world.wrong("192.0.2.2", "f") == 0


async def test_exempt_networks_have_no_limit_of_their_own_but_an_account_has() -> None:
    async with World(network=Rule(free=2, recovery=1e9), pair=Rule(free=3, recovery=1e9)) as world:
        for n in range(20):
            assert await world.wrong("127.0.0.1", f"user-{n}") == 0
            await world.throttle.register("127.0.0.1")
        for _ in range(3):
            await world.wrong("127.0.0.1")
        assert await world.wrong("127.0.0.1") > 0


async def test_registrations_of_a_network_are_limited_in_the_long_run() -> None:
    async with World(registrations=Rule(free=20, recovery=180, first=180, longest=3_600)) as world:
        made = 0
        for _ in range(24 * 60):
            try:
                await world.throttle.register(STRANGER)
                made += 1
            except TooMany:
                pass
            world.clock.advance(60)
        assert 24 * 20 <= made <= 24 * 20 + 20


async def test_a_guest_that_comes_back_is_no_new_account() -> None:
    async with World(registrations=Rule(free=1, recovery=1e9)) as world:
        attempt = await world.throttle.guest("a" * 32, HOME)
        await attempt.remember()
        for _ in range(5):
            await world.throttle.guest("a" * 32, HOME)
        with pytest.raises(TooMany, match="registrations"):
            await world.throttle.guest("b" * 32, HOME)


async def test_what_is_kept_has_no_name_and_no_address_and_expires() -> None:
    async with World(network=Rule(free=10, recovery=1)) as world:
        await world.wrong(HOME, "anna")
        await world.right(HOME, "anna")
        kept = await world.kept()
        assert kept
        for key, value in kept.items():
            assert "anna" not in key and b"anna" not in value and HOME not in key and HOME.encode() not in value
        world.clock.advance(31 * 86_400)
        assert not await world.kept()


async def test_when_the_engine_is_away_nobody_tries() -> None:
    world = World()
    with pytest.raises(EngineUnavailable):
        await world.throttle.login("anna", HOME)


@given(
    free=st.integers(1, 100),
    recovery=st.floats(0.1, 1e4),
    first=st.floats(0.1, 100),
    factor=st.floats(1, 1e4),
    level=st.floats(0, 1e6),
)
def test_no_wait_is_longer_than_the_longest_or_negative(
    free: int, recovery: float, first: float, factor: float, level: float
) -> None:
    rule = Rule(free=free, recovery=recovery, first=first, longest=first * factor)
    assert 0 <= rule.wait(level) <= rule.longest
    assert rule.wait(free - 1) == 0 and rule.wait(free - 0.99) == rule.first
    assert rule.wait(rule.most) == pytest.approx(rule.longest)


@settings(max_examples=25)  # each is a loop of its own
@given(st.lists(st.tuples(st.sampled_from([HOME, STRANGER]), st.floats(0, 100)), max_size=40))
def test_in_the_long_run_there_is_one_in_recovery_seconds(tries: list[tuple[str, float]]) -> None:
    rule = Rule(free=3, recovery=50, first=1, longest=50)

    async def run() -> None:
        async with World(pair=rule) as world:
            start = world.clock()
            passed = {HOME: 0, STRANGER: 0}
            for address, pause in tries:
                passed[address] += not await world.wrong(address)
                world.clock.advance(pause)
            elapsed = world.clock() - start
            most = rule.free + elapsed / rule.recovery + 1 + (rule.most - rule.free)
            assert all(count <= most for count in passed.values())

    run_watched(run())


@pytest.mark.parametrize(
    "wrong",
    [{"free": 0}, {"recovery": 0.0}, {"first": 0.0}, {"first": 9.0, "longest": 8.0}, {"first": 1e-300, "longest": 1e9}],
)
def test_a_rule_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="free must be 1 or more"):
        Rule(**{"free": 1, "recovery": 1.0, **wrong})  # type: ignore[arg-type]
