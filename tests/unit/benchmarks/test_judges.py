"""What the chaos figure stands on can fail: its ledger finds every kind of loss, its plan repeats itself."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.plan import Plan, resume_bytes
from benchmarks.chaos.talk import body
from benchmarks.children import Child
from benchmarks.harness import BenchmarkError
from benchmarks.ledger import Ledger


@pytest.mark.parametrize(
    ("came", "lost", "doubled", "reordered"),
    [
        ([0, 1, 2, 3], 0, 0, 0),
        ([0, 1, 2], 1, 0, 0),
        ([], 4, 0, 0),
        ([0, 2, 3], 1, 0, 0),
        ([0, 1, 1, 2, 3], 0, 1, 0),
        ([0, 1, 2, 3, 0, 1], 0, 2, 0),
        ([0, 2, 1, 3], 0, 0, 1),
        ([3, 0, 1, 2], 0, 0, 3),
        ([2, 1, 1], 2, 1, 1),
    ],
)
def test_a_ledger_finds_what_is_lost_doubled_or_reordered(
    came: list[int], lost: int, doubled: int, reordered: int
) -> None:
    ledger = Ledger()
    for number in came:
        ledger.take(number)
    assert ledger.losses(4) == {"lost": lost, "doubled": doubled, "reordered": reordered}


@given(st.lists(st.integers(0, 20)))
def test_a_ledger_accounts_for_everything_that_came(came: list[int]) -> None:
    ledger = Ledger()
    for number in came:
        ledger.take(number)
    losses = ledger.losses(21)
    assert losses["lost"] == 21 - len(set(came))
    assert losses["doubled"] == sum(Counter(came).values()) - len(set(came))
    assert bool(losses["reordered"]) == (list(dict.fromkeys(came)) != sorted(set(came)))


def test_a_plan_is_a_function_of_the_seed_and_the_number() -> None:
    first = [Plan(7, 100)(number) for number in range(1, 400)]
    assert [Plan(7, 100)(number) for number in range(1, 400)] == first
    assert [Plan(8, 100)(number) for number in range(1, 400)] != first


def test_only_later_connections_break_in_a_resume() -> None:
    plan, ends = Plan(1, 1_000), resume_bytes()
    within = [
        before < (fault.after_bytes or 0) <= end
        for number in range(1, 3_001)
        for fault in plan(number)
        for before, end in [ends[fault.direction]]
    ]
    assert not any(within[:1_000]) and 200 < sum(within[1_000:]) < 400


def test_every_body_is_told_from_every_other() -> None:
    assert len({body(number) for number in range(5_000)}) == 5_000


def test_a_child_that_fails_says_what_it_wrote() -> None:
    with Child("benchmarks.chaos.proxy") as child, pytest.raises(BenchmarkError) as failure:
        child.ask("no such command")
    assert any("KeyError" in note for note in failure.value.__notes__)
