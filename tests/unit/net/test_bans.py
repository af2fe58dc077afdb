"""What is remembered of addresses, against a model that remembers everything; and that it stays bounded."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatelink.config import Limits
from gatelink.net.bans import BanTable, ConnectRates
from gatelink.testing import FakeClock

LIMITS = Limits(free_failures=3, ban_first=1, ban_longest=60, ban_memory=100, max_addresses=1_000)
KEYS = st.sampled_from(["192.0.2.1", "2001:db8::/64", "unix"])


class Model(RuleBasedStateMachine):
    """Each key's failures and the end of its ban, computed from its whole history."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.table = BanTable(LIMITS)
        self.failures: dict[str, int] = {}
        self.failed_at: dict[str, float] = {}
        self.until: dict[str, float] = {}

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        now = self.clock()
        if now - self.failed_at.get(key, -1e9) >= 100:
            self.failures[key] = 0
        self.failures[key] += 1
        self.failed_at[key] = now
        over = self.failures[key] - 3
        seconds = min(60, 2 ** (over - 1)) if over > 0 else 0
        if seconds:
            self.until[key] = now + seconds
        assert self.table.failed(key, now) == seconds

    @rule(key=KEYS)
    def succeed(self, key: str) -> None:
        self.failures[key] = max(0, self.failures.get(key, 0) - 1)
        self.table.succeeded(key)

    @rule(seconds=st.sampled_from([0.5, 1, 3, 30, 99.5, 100]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_same_are_banned(self) -> None:
        now = self.clock()
        banned = {key for key, until in self.until.items() if now < until}
        assert {key for key in ("192.0.2.1", "2001:db8::/64", "unix") if self.table.is_banned(key, now)} == banned
        assert self.table.banned(now) == len(banned)


TestModel: Any = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_bans_double_up_to_the_longest_and_begin_anew_after_a_quiet_time() -> None:
    table = BanTable(LIMITS)
    assert [table.failed("a", 0.0) for _ in range(11)] == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert table.is_banned("a", 59.9) and not table.is_banned("a", 60.0)
    assert table.failed("a", 99.9) == 60
    assert table.failed("a", 200.0) == 0


def test_ever_so_many_failures_do_not_overflow() -> None:
    table = BanTable(LIMITS)
    assert max(table.failed("a", 0.0) for _ in range(5_000)) == 60


def test_where_most_tokens_are_good_the_wrong_tokens_of_few_ban_nobody() -> None:
    """A provider's NAT: of ten logins one is wrong, for as long as you like."""
    table = BanTable(LIMITS)
    for n in range(1_000):
        if n % 10:
            table.succeeded("nat")
        else:
            assert table.failed("nat", n * 0.1) == 0


def test_a_client_that_hops_through_networks_fills_no_table() -> None:
    table, rates = BanTable(LIMITS), ConnectRates(LIMITS)
    for n in range(10_000):
        table.failed(f"2001:db8:{n:x}::/64", n * 0.001)
        assert rates.take(f"2001:db8:{n:x}::/64", n * 0.001)
    assert len(table) <= 1_000 and len(rates) <= 1_000


def test_over_the_limit_the_address_that_was_heard_of_the_longest_ago_is_forgotten() -> None:
    table = BanTable(LIMITS)
    for _ in range(4):
        table.failed("first", 0.0)
    for n in range(999):
        table.failed(str(n), 0.0)
    assert table.is_banned("first", 0.5)
    for _ in range(4):
        table.failed("second", 0.0)
    assert not table.is_banned("first", 0.5) and table.is_banned("second", 0.5)


def test_what_is_over_takes_no_room() -> None:
    table, rates = BanTable(LIMITS), ConnectRates(LIMITS)
    for n in range(900):
        table.failed(str(n), 0.0)
        rates.take(str(n), 0.0)
    for n in range(500):
        table.failed(f"later {n}", 200.0)
        rates.take(f"later {n}", 200.0)
    assert len(table) == 500 and len(rates) == 500


def test_an_address_may_connect_its_burst_at_once_and_then_at_its_rate() -> None:
    rates = ConnectRates(Limits(connect_rate=2, connect_burst=5))
    assert [rates.take("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert rates.take("b", 0.0)
    assert [rates.take("a", 1.0) for _ in range(3)] == [True, True, False]
