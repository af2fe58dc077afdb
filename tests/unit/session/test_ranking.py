"""The largest user gives way: a ranking against its definition, and sessions and backlogs over their bounds."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.session.manager import SessionManager
from gatelink.session.ranking import LOOK_AT, Ranking
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.control import Features
from tests.fakes import Bench, FakeHandlers, FakeStream, extended_session, state_of
from tests.twins import frame

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("end the largest")),
    ),
    max_size=80,
)


@given(steps=steps)
def test_what_gives_way_is_the_largest_users_and_of_equal_ones_at_the_largest_address(
    steps: list[tuple[str, int, int, int]],
) -> None:
    ranking: Ranking[int] = Ranking(lambda host: host or None)
    things: dict[int, tuple[int, str, int]] = {}
    numbers = count()
    for what, *how in steps:
        if what == "add":
            uid, host, size = how[0], f"10.0.0.{how[1]}" if how[1] else "", how[2]
            things[n := next(numbers)] = uid, host, size
            ranking.add(n, uid, host, size)
        elif what == "remove":
            things.pop(how[0], None)
            ranking.discard(how[0])
        elif things:
            users: dict[int, int] = {}
            for uid, _, size in things.values():
                users[uid] = users.get(uid, 0) + size
            largest = ranking.largest()
            assert users[things[largest][0]] == max(users.values())
            del things[largest]
            ranking.discard(largest)
        assert len(ranking) == len(things) and set(ranking) == set(things)
        assert ranking.total == sum(size for _, _, size in things.values())


def test_of_equal_users_the_oldest_thing_of_the_address_that_holds_most_gives_way() -> None:
    ranking: Ranking[int] = Ranking()
    for n in range(10):
        ranking.add(n, n, f"10.0.1.{n}")
    for n in range(10, 13):
        ranking.add(n, n, "10.0.0.1")
    gone = []
    while len(ranking):
        gone.append(ranking.largest())
        ranking.discard(gone[-1])
    assert gone == [10, 11, *range(10), 12], "the address first, then the oldest"


def test_a_host_that_counts_with_no_other_is_no_large_address() -> None:
    ranking: Ranking[int] = Ranking(lambda host: None if host == "127.0.0.1" else host)
    for n in range(5):
        ranking.add(n, n, "127.0.0.1")
    for n in range(5, 7):
        ranking.add(n, n, "10.0.0.1")
    assert ranking.largest() == 5


def test_a_ranking_keeps_little_more_than_what_is_in_it() -> None:
    ranking: Ranking[int] = Ranking()
    for n in range(10_000):
        ranking.add(n, n % 7, f"10.0.0.{n % 5}")
        if n >= 20:
            ranking.discard(n - 20)
    assert len(ranking._users._heap) < 200 and len(ranking._addresses._heap) < 200
    assert LOOK_AT < 200
    for n in list(ranking):
        ranking.discard(n)
    assert not ranking._users.of and not ranking._addresses.of and not ranking._of_user and not ranking._at_address
    with pytest.raises(IndexError):
        ranking.largest()


class House(Bench):
    """A bench with a manager, and sessions with tickets or without."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.manager = SessionManager(self.context, clock=self.clock)

    async def ticketed(self, uid: int, host: str, slot: int = 0) -> tuple[Session, FakeStream]:
        stream = FakeStream()
        epoch = await self.manager.claim(uid, slot)
        session = extended_session(
            self.context,
            self.manager,
            FakeHandlers(),
            stream,
            features=Features.RESUME,
            uid=uid,
            slot=slot,
            epoch=epoch,
            address=host,
        )
        stream.receiver = session
        self.manager.install(session)
        self.manager.issue_ticket(session)
        session.open()
        return session, stream

    async def detached(self, uid: int, host: str, slot: int = 0) -> Session:
        session, stream = await self.ticketed(uid, host, slot)
        stream.lose(ConnectionResetError())
        return session

    async def broken(self, uid: int, host: str, slot: int = 0, size: int = 0) -> None:
        """A base client's break, with so many bytes queued."""
        epoch = await self.manager.claim(uid, slot)
        session, stream = self.session(owner=self.manager, uid=uid, slot=slot, epoch=epoch, address=host)
        self.manager.install(session)
        session.open()
        stream.writable = False
        if size:
            session.send_frame(frame(bytes(size - 4)))
        stream.lose(ConnectionResetError())


async def test_one_account_ends_nobody_elses_detached_sessions() -> None:
    house = House(Limits(max_detached=20, max_slots=256))
    honest = [await house.detached(uid, f"10.0.0.{uid}") for uid in range(1, 20)]
    for turn in range(300):
        await house.detached(666, "10.6.6.6", turn % 256)
    assert {state_of(session) for session in honest} == {SessionState.DETACHED}
    assert len(house.manager._detached) == 20


async def test_many_accounts_of_one_address_end_nobody_elses_detached_sessions() -> None:
    house = House(Limits(max_detached=20))
    honest = [await house.detached(uid, f"10.0.0.{uid}") for uid in range(1, 18)]
    for uid in range(1_000, 1_300):
        await house.detached(uid, "10.6.6.6")
    assert {state_of(session) for session in honest} == {SessionState.DETACHED}
    assert len(house.manager._detached) == 20


async def test_a_session_that_is_itself_the_largest_ends_when_it_breaks() -> None:
    house = House(Limits(max_detached=2))
    first = await house.detached(7, "10.0.0.1")
    other = await house.detached(8, "10.0.0.2")
    second = await house.detached(7, "10.0.0.1", slot=1)
    assert [state_of(each).name for each in (first, other, second)] == ["CLOSED", "DETACHED", "DETACHED"]
    assert first.close_code is CloseCode.GOING_AWAY
    assert "this user has most" in first.close_reason


@pytest.mark.parametrize("accounts", [1, 50])
async def test_the_user_that_holds_most_detached_bytes_ends_and_not_the_oldest(accounts: int) -> None:
    house = House(Limits(max_detached_bytes=100_000, max_slots=256))
    honest = [await house.detached(uid, f"10.0.0.{uid}") for uid in range(1, 21)]
    for session in honest:
        session.send_frame(frame(bytes(996)))
    for n in range(50):
        session = await house.detached(1_000 + n % accounts, "10.6.6.6", slot=n // accounts)
        session.send_frame(frame(bytes(9_996)))
    await house.pass_time(1.3)
    assert {state_of(session) for session in honest} == {SessionState.DETACHED}
    held = sum(session.held_bytes for session in house.manager._detached)
    assert 90_000 < held <= 100_000, "no more ended than had to"


@pytest.mark.parametrize("accounts", [1, 100])
@pytest.mark.parametrize("limits", [Limits(max_backlogs=20, max_slots=256), Limits(max_backlog_bytes=20_000)])
async def test_the_user_that_has_most_backlogs_loses_them_and_not_the_oldest(limits: Limits, accounts: int) -> None:
    house = House(limits)
    for uid in range(1, 11):
        await house.broken(uid, f"10.0.0.{uid}", size=100)
    for n in range(100):
        await house.broken(1_000 + n % accounts, "10.6.6.6", slot=n // accounts, size=5_000)
    kept = house.manager._backlogs
    assert all((uid, 0) in kept for uid in range(1, 11)), "every bystander's"
    assert len(kept) <= limits.max_backlogs and house.manager._backlog_bytes.total <= limits.max_backlog_bytes
    await house.pass_time(95)
    assert not kept and not len(house.manager._backlog_counts) and not len(house.manager._backlog_bytes)


async def test_ten_thousand_breaks_over_the_bound_cost_a_bounded_number_of_steps_each() -> None:
    """A provider's outage: nobody is larger than another, and the heaps stay as small as what is detached."""
    house = House(Limits(max_detached=500))
    for uid in range(3_000):
        await house.detached(uid, f"10.{uid % 200}.0.1")
    ranking = house.manager._detached
    assert len(ranking) == 500
    assert len(ranking._users._heap) <= 2 * 500 + 64 and len(ranking._addresses._heap) <= 2 * 500 + 64
