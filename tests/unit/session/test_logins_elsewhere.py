"""Logins of the same user on other servers."""

import asyncio

import pytest

from gatelink.errors import CloseCode, VerifyError
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME
from gatelink.session.states import SessionState
from tests.fakes import CLOSE, state_of, turn
from tests.unit.session.support import WINDOW, House, numbered


class FakeArbiter:
    """A `LoginArbiter` that gives the epochs in `next`."""

    def __init__(self) -> None:
        self.next: list[tuple[int, list[bytes] | None]] = []
        self.ends: list[tuple[int, int, int, float]] = []

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        await turn()
        return self.next.pop(0)

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        self.ends.append((uid, slot, epoch, keep))


def shared() -> tuple[House, FakeArbiter]:
    house, arbiter = House(), FakeArbiter()
    house.manager.arbiter = arbiter
    return house, arbiter


async def test_a_newer_login_elsewhere_ends_the_older_one_here_and_an_older_one_does_not() -> None:
    house, arbiter = shared()
    arbiter.next = [(5, None)]
    session, stream, _ = await house.login()
    assert house.manager.supersede(7, 0, 4, 1_000) is None and state_of(session) is SessionState.OPEN
    assert house.manager.supersede(7, 0, 6, 1_000) is None
    await turn()
    assert session.close_code is CloseCode.REPLACED
    assert stream.log == [DUPLICATE_LOGIN_FRAME, CLOSE]
    assert arbiter.ends == [(7, 0, 5, 0.0)]


@pytest.mark.parametrize("while_claiming", [False, True])
async def test_a_newer_login_elsewhere_keeps_one_that_is_under_way_here_from_coming_in(while_claiming: bool) -> None:
    house, arbiter = shared()
    arbiter.next = [(5, None), (7, None)]
    claim = asyncio.create_task(house.manager.claim(7))
    await asyncio.sleep(0)
    if not while_claiming:
        await claim
    house.manager.supersede(7, 0, 6, 1_000)
    late, _ = house.claimed(7, await claim)
    with pytest.raises(VerifyError, match="a newer login came first"):
        house.manager.install(late)
    house.manager.release(7, 0, 5)
    await house.login()
    assert house.manager.get(7) is not None, "the next one here is newer still"


@pytest.mark.parametrize(("epoch", "room", "given"), [(4, 1_000, None), (6, 2 * len(numbered(1)), 2), (6, 1, 0)])
async def test_what_waits_for_a_user_goes_along_with_a_newer_login_elsewhere_if_there_is_room(
    epoch: int, room: int, given: int | None
) -> None:
    house, arbiter = shared()
    arbiter.next = [(5, None)]
    frames = [numbered(1), numbered(2)]
    await house.break_with(*frames)
    assert arbiter.ends == [(7, 0, 5, WINDOW)], "the entry stays for as long as something waits here"
    assert house.manager.supersede(7, 0, epoch, room) == (None if given is None else frames[:given])
    assert house.stats.backlogs_dropped == (2 if given == 0 else 0)
    if given is not None:
        assert house.manager.supersede(7, 0, epoch + 1, room) is None, "it is given once"


async def test_a_claim_that_fails_leaves_nothing_that_keeps_a_later_login_out() -> None:
    house, arbiter = shared()
    for _ in range(2):
        claim = asyncio.create_task(house.manager.claim(7))  # no epoch comes: it raises
        await asyncio.sleep(0)
        house.manager.supersede(7, 0, 9, 1_000)
        with pytest.raises(IndexError):
            await claim
    house.manager.supersede(7, 0, 10, 1_000)
    arbiter.next = [(5, None)]
    session, _, _ = await house.login()
    assert house.manager.get(7) is session


async def test_what_waited_elsewhere_is_given_to_the_login_that_fetched_it_or_counted_as_dropped() -> None:
    house, arbiter = shared()
    frames = [numbered(1), numbered(2)]
    arbiter.next = [(5, frames), (6, frames)]
    _, _, backlog = await house.login()
    assert backlog == frames and house.stats.backlogs_dropped == 0
    epoch = await house.manager.claim(7)
    house.manager.release(7, 0, epoch)
    assert house.stats.backlogs_dropped == 2
