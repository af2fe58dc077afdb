"""A session that lost its connection, and one that is resumed."""

import pytest

from gatelink.config import Limits
from gatelink.errors import CloseCode, SessionClosed
from gatelink.session.outbox import SendWindow
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire import control
from gatelink.wire.control import Features, control_frame
from gatelink.wire.frames import CONTROL
from tests.fakes import (
    FakeHandlers,
    Say,
    state_of,
    turn,
)
from tests.limits import with_window
from tests.unit.session.support import Desk, say


async def test_a_break_detaches_and_what_is_sent_meanwhile_arrives_after_what_was_sent_before() -> None:
    desk = Desk()
    await desk.send(3)
    desk.hear(control.Ack(1))
    desk.stream.lose(ConnectionResetError())
    assert desk.handlers.received[-1] == "suspended"
    for n in range(3, 5):
        desk.it.send(Say(str(n)))
    desk.it.resume_on(desk.new_stream(), 2, control_frame(control.Resumed(0, bytes(32))))
    await turn()
    assert desk.handlers.received[-1] == "resumed"
    first, *rest = desk.stream.frames
    assert first[1] == CONTROL and [frame[2][-1:] for frame in rest] == [b"2", b"3", b"4"]
    assert desk.it.outbox.sent == 5


async def test_detached_sends_nothing_and_applies_its_queue_s_policy() -> None:
    desk = Desk(limits=Limits(max_outbox_frames=10))
    desk.stream.lose()
    for n in range(10):
        desk.it.send(Say(str(n)))
    await turn()
    assert desk.stream.log == [] and desk.it.outbox.sent == 0
    with pytest.raises(SessionClosed, match="4006"):
        desk.it.send(Say("one too many"))
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.SLOW_CONSUMER


async def test_detached_for_longer_than_the_window_ends_with_the_break_s_code() -> None:
    desk = Desk(limits=Limits(resume_window=5))
    desk.stream.lose(ConnectionResetError())
    await desk.pass_time(4.8)
    assert state_of(desk.it) is SessionState.DETACHED
    await desk.pass_time(0.6)
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.GOING_AWAY


@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["end of stream", "reset"])
async def test_a_client_that_was_not_back_in_time_is_told_that_it_can_t_resume(error: Exception | None) -> None:
    desk = Desk(accepting=False)
    desk.stream.lose(error)
    await desk.pass_time(119.0)
    assert state_of(desk.it) is SessionState.DETACHED
    await desk.pass_time(1.5)
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.RESUME_REFUSED


async def test_a_window_under_a_second_is_not_none_at_all() -> None:
    desk = Desk(limits=Limits(resume_window=0.2))
    assert desk.it.ticket is not None and desk.it.ticket.window == 1


async def test_a_new_connection_wins_over_one_that_still_seems_to_live() -> None:
    desk = Desk()
    old = desk.stream
    desk.it.resume_on(desk.new_stream(), 0, b"")
    assert old.is_dropped and state_of(desk.it) is SessionState.OPEN
    old.lose(ConnectionResetError())
    assert state_of(desk.it) is SessionState.OPEN, "nothing late from the old one touches it"
    assert desk.handlers.received == ["opened"], "nobody had been told of a break, so nobody is told of its end"


async def test_what_paused_one_connection_pauses_the_next() -> None:
    desk = Desk()
    desk.it.pause(Pause.STOPPING)
    desk.stream.lose()
    desk.it.pause(Pause.LINK)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    assert desk.stream.paused == Pause.LINK | Pause.STOPPING
    desk.it.resume(Pause.LINK)
    assert desk.stream.paused == Pause.STOPPING


async def test_closed_while_detached_is_over_at_once() -> None:
    desk = Desk()
    desk.stream.lose()
    desk.it.kick("enough")
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.KICKED
    assert desk.owner.calls[-2:] == ["closed", "released"]


@pytest.mark.parametrize("received, possible", [(1, False), (2, True), (5, True), (6, False)])
async def test_a_resume_is_possible_from_what_is_kept(received: int, possible: bool) -> None:
    desk = Desk()
    await desk.send(5)
    desk.hear(control.Ack(2))
    assert desk.extension.can_resume_from(received) is possible


async def test_a_session_without_the_feature_can_not_be_resumed() -> None:
    assert not Desk(Features.PING).extension.can_resume_from(0)


async def test_after_a_resume_counts_go_on_where_they_were() -> None:
    desk = Desk()
    desk.hear(say(), say())
    desk.stream.lose()
    desk.it.resume_on(desk.new_stream(), 0, b"")
    desk.hear(say())
    await desk.pass_time(1.3)
    assert desk.records == [control.Ack(3)]


async def test_a_handler_that_ends_the_session_when_it_is_suspended_is_heard() -> None:
    desk = Desk()

    class Ends(FakeHandlers):
        def suspended(self, session: Session) -> None:
            session.kick("gone for good")

    desk.it.handlers = Ends()
    desk.stream.lose()
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.KICKED


async def test_the_window_is_what_the_limits_say() -> None:
    window = Desk(limits=with_window(Limits(), 3, 99)).it.outbox
    assert isinstance(window, SendWindow) and (window.window_frames, window.window_bytes) == (3, 99)
