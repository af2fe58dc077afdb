"""What the manager keeps of a session without a connection: a backlog, or all of it if it can be resumed."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.timers import TICK
from gatelink.wire.control import Close, GoAway, control_frame, decode_control, encode_control
from gatelink.wire.frames import CONTROL
from tests.fakes import FakeStream, Say, settle, state_of, turn
from tests.support import run_watched
from tests.unit.session.support import WINDOW, House, Ticketed, numbered, session_id

# -- the backlog window --


async def test_what_a_broken_session_had_queued_goes_to_the_next_login_of_its_user() -> None:
    house = House()
    await house.break_with(numbered(1), numbered(2))
    _, _, other = await house.login(8)
    assert other is None
    _, _, slot = await house.login(7, slot=1)
    assert slot is None
    _, _, backlog = await house.login(7)
    assert backlog == [numbered(1), numbered(2)]
    _, _, again = await house.login(7)
    assert again is None, "it is given once"
    assert house.stats.backlogs_dropped == 0


async def test_a_session_that_broke_with_nothing_queued_is_remembered_too() -> None:
    house = House()
    await house.break_with()
    _, _, backlog = await house.login()
    assert backlog == []


async def test_what_was_written_when_the_connection_broke_counts_as_sent() -> None:
    house = House(Limits(write_high_water=1))
    session, stream, _ = await house.login()
    for n in range(3):
        session.send_frame(numbered(n))
    await turn()
    assert stream.writes == [numbered(0)]
    stream.lose(ConnectionResetError())
    _, _, backlog = await house.login()
    assert backlog == [numbered(1), numbered(2)]


@pytest.mark.parametrize("queue", [2, 100], ids=["over a full queue", "with room in the queue"])
@pytest.mark.parametrize(("taken", "first"), [(0, 0), (0.5, 1), (1, 1), (1.5, 2)])
async def test_what_the_kernel_had_not_taken_of_the_last_write_goes_to_the_next_login(
    queue: int, taken: float, first: int
) -> None:
    """taken: how many frames the kernel took. One of which it took a part counts as sent."""
    size = len(numbered(0))
    house = House(Limits(max_outbox_frames=queue, write_high_water=2 * size))
    session, stream, _ = await house.login()
    stream.room = int(taken * size)
    for n in range(4):
        session.send_frame(numbered(n))
    await turn()
    assert stream.writes == [numbered(0) + numbered(1)]
    stream.lose(ConnectionResetError())
    _, _, backlog = await house.login()
    assert backlog == [numbered(n) for n in range(first, 4)]


async def test_a_session_that_was_closed_leaves_nothing_to_a_later_login() -> None:
    house = House()
    session, stream, _ = await house.login()
    stream.writable = False
    session.send_frame(numbered(1))
    session.close()
    stream.lose()
    _, _, backlog = await house.login()
    assert backlog is None


async def test_the_window_ends_after_its_time_not_before() -> None:
    house = House()
    await house.break_with(numbered(1), uid=7)
    await house.pass_time(WINDOW - TICK)
    await house.break_with(numbered(1), numbered(2), uid=8)
    _, _, backlog = await house.login(7)
    assert backlog is not None
    await house.pass_time(WINDOW + 3 * TICK)
    assert house.stats.backlogs_dropped == 2
    _, _, backlog = await house.login(8)
    assert backlog is None


async def test_a_window_belongs_to_its_session_not_to_the_next_one_of_that_user() -> None:
    house = House()
    await house.break_with(numbered(1))
    await house.pass_time(WINDOW / 2)
    await house.break_with(numbered(2))  # logs in, and breaks again
    await house.pass_time(WINDOW / 2 + 1)  # the first window would be over
    _, _, backlog = await house.login()
    assert backlog == [numbered(2)]


async def test_backlogs_are_bounded_in_number_and_the_oldest_is_forgotten() -> None:
    house = House(Limits(max_backlogs=3))
    for uid in range(5):
        await house.break_with(numbered(uid), uid=uid)
    assert house.stats.backlogs_dropped == 2
    kept = [(await house.login(uid))[2] is not None for uid in range(5)]
    assert kept == [False, False, True, True, True]


async def test_backlogs_are_bounded_in_bytes_and_the_oldest_is_forgotten() -> None:
    size = len(numbered(0))
    house = House(Limits(max_backlog_bytes=5 * size))
    await house.break_with(numbered(0), numbered(1), uid=0)
    await house.break_with(numbered(0), numbered(1), uid=1)
    await house.break_with(numbered(0), numbered(1), uid=2)
    assert house.stats.backlogs_dropped == 2
    assert [(await house.login(uid))[2] is not None for uid in range(3)] == [False, True, True]


async def test_a_backlog_that_would_not_fit_alone_is_dropped_and_forgets_no_other() -> None:
    size = len(numbered(0))
    house = House(Limits(max_backlog_bytes=2 * size))
    await house.break_with(numbered(0), uid=0)
    await house.break_with(*map(numbered, range(3)), uid=1)
    assert house.stats.backlogs_dropped == 3
    backlogs = [(await house.login(uid))[2] for uid in range(2)]
    assert backlogs == [[numbered(0)], []]


@settings(max_examples=40)  # each is a life of some tenths of a second
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 60)), max_size=25))
def test_every_message_of_a_broken_session_is_given_once_or_counted_as_dropped(
    plan: list[tuple[int, int, int]],
) -> None:
    size = len(numbered(0))

    async def main() -> None:
        house = House(Limits(max_backlogs=2, max_backlog_bytes=5 * size))
        n = given = held = 0
        for uid, queued, seconds in plan:
            session, stream, backlog = await house.login(uid)
            given += len(backlog or ())
            stream.writable = False
            for _ in range(queued):
                session.send_frame(numbered(n))
                n += 1
            stream.lose(ConnectionResetError())
            held = n - given - house.stats.backlogs_dropped
            assert 0 <= held <= 5 and len(house.manager._backlogs) <= 2
            assert house.manager._backlog_bytes.total == held * size
            house.jump(seconds)
        house.jump(WINDOW + 1)
        assert given + house.stats.backlogs_dropped == n
        assert len(house.context.wheel) == 0 and house.manager._backlog_bytes.total == 0

    run_watched(main())


# -- sessions that can be resumed --


async def test_a_session_is_found_by_its_ticket_until_it_ends() -> None:
    house = Ticketed()
    session, stream = await house.ticketed(7)
    id = session_id(session)
    assert house.manager.by_ticket(id) is session and house.manager.by_ticket(bytes(16)) is None
    stream.lose(ConnectionResetError())
    assert house.manager.by_ticket(id) is session and house.manager.get(7) is session
    session.close()
    assert house.manager.by_ticket(id) is None and house.manager.get(7) is None


async def test_the_frame_of_a_ticket_tells_the_peer_what_the_manager_knows() -> None:
    house = Ticketed()
    session, _ = await house.ticketed(7)
    frame = house.manager.issue_ticket(session, "tcp://there:1")
    assert session.ticket is not None and session.ticket.address == "tcp://there:1"
    assert frame == control_frame(session.ticket)
    assert house.manager.by_ticket(session.ticket.session_id) is session


async def test_a_client_that_can_be_told_is_asked_to_come_back_later_when_the_server_ends() -> None:
    house = Ticketed(Limits(reconnect_within=7))
    session, stream = await house.ticketed(7)
    closing = asyncio.create_task(house.manager.close(CloseCode.GOING_AWAY, "stop", house.clock() + 10))
    await settle()
    records = [decode_control(body) for _, flags, body in stream.frames if flags & CONTROL]
    assert records == [GoAway(7_000, ""), Close(CloseCode.GOING_AWAY, "stop")]
    stream.lose()
    await closing


async def test_of_too_many_detached_sessions_the_one_that_broke_first_ends() -> None:
    house = Ticketed(Limits(max_detached=2))
    here = [await house.ticketed(uid) for uid in range(4)]
    for at in (2, 0, 1):
        here[at][1].lose(ConnectionResetError())
    assert [state_of(session) for session, _ in here] == [
        SessionState.DETACHED,
        SessionState.DETACHED,
        SessionState.CLOSED,
        SessionState.OPEN,
    ]
    assert here[2][0].close_code is CloseCode.GOING_AWAY


async def test_a_session_that_was_resumed_is_not_detached_any_more() -> None:
    house = Ticketed(Limits(max_detached=1))
    first, stream = await house.ticketed(1)
    second, other = await house.ticketed(2)
    stream.lose(ConnectionResetError())
    first.resume_on(FakeStream(), 0, b"")
    house.manager.resumed(first)
    other.lose(ConnectionResetError())
    assert (state_of(first), state_of(second)) == (SessionState.OPEN, SessionState.DETACHED)


async def test_of_detached_sessions_that_hold_too_much_the_one_that_broke_first_ends() -> None:
    house = Ticketed(Limits(max_detached_bytes=2_000))
    here = [await house.ticketed(uid) for uid in range(3)]
    for session, stream in here:
        stream.lose(ConnectionResetError())
        session.send(Say("x" * 900))
    await house.pass_time(1.3)
    assert [state_of(session) for session, _ in here] == [
        SessionState.CLOSED,
        SessionState.DETACHED,
        SessionState.DETACHED,
    ]
    here[1][0].send(Say("x" * 900))
    await house.pass_time(1.3)
    assert state_of(here[1][0]) is SessionState.CLOSED and state_of(here[2][0]) is SessionState.DETACHED


async def test_a_kick_is_reported_once_and_no_other_end_is() -> None:
    house = Ticketed()
    kicked: list[Session] = []
    house.manager.on_kick = kicked.append
    ours, _ = await house.ticketed(1)
    theirs, _ = await house.ticketed(2)
    closed, _ = await house.ticketed(3)
    ours.kick("enough")
    theirs.receive([(0, CONTROL, encode_control(Close(CloseCode.KICKED, "I was kicked")))])
    closed.close(CloseCode.RATE_LIMITED)
    assert theirs.close_code is CloseCode.KICKED
    assert kicked == [ours]
