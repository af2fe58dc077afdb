"""CLOSE and GOAWAY, from this side and from the peer."""

from math import inf

import pytest

from gatelink.config import ACK_FRAMES, Limits
from gatelink.errors import CloseCode, LocalError, PeerError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire import control
from gatelink.wire.base import DUPLICATE_LOGIN
from gatelink.wire.control import Features, decode_control
from gatelink.wire.frames import CONTROL, encode_frame
from tests.fakes import (
    CATALOG,
    CLOSE,
    SAY,
    Bench,
    Say,
    settle,
    state_of,
    turn,
)
from tests.handling import Seen
from tests.handling import count as count_to
from tests.handling import say as say_text
from tests.unit.session.support import Desk, say


async def test_close_is_the_last_thing_and_says_why() -> None:
    desk = Desk()
    desk.it.send(Say("bye"))
    desk.it.close(CloseCode.KICKED, "no shouting")
    await turn()
    assert desk.ids == [SAY]
    assert desk.records == [control.Close(CloseCode.KICKED, "no shouting")]
    assert desk.stream.log[-1] == CLOSE


async def test_a_replaced_session_is_notified_and_then_closed() -> None:
    desk = Desk()
    desk.it.close(CloseCode.REPLACED, farewell=encode_frame(DUPLICATE_LOGIN, b""))
    await turn()
    (id, _, _), (_, flags, payload) = desk.stream.frames
    assert id == DUPLICATE_LOGIN and flags == CONTROL
    assert decode_control(payload) == control.Close(CloseCode.REPLACED, "")


async def test_what_is_queued_is_delivered_before_close_however_full_the_window_is() -> None:
    desk = Desk()
    await desk.send(50)
    assert len(desk.ids) == 8
    desk.it.close(CloseCode.KICKED)
    await turn()
    assert len(desk.ids) == 50 and desk.records == [control.Close(CloseCode.KICKED, "")]
    assert desk.stream.log[-1] == CLOSE


@pytest.mark.parametrize("code", [4000, 4001, 4003, 4005, 4007, 4009, 4010, 4012, 4014, 1000, 0, 65_535])
async def test_a_close_that_ends_ends_the_session_and_says_why(code: int) -> None:
    desk = Desk(accepting=False)
    desk.hear(say(), control.Close(code, "so it goes"), say())
    known = code in list(CloseCode) and code != CloseCode.UNEXPLAINED
    assert desk.it.close_code == (code if known else CloseCode.NORMAL)
    assert desk.it.close_reason == "so it goes"
    assert state_of(desk.it) is SessionState.CLOSED
    assert desk.handlers.received.count(say()) == 1
    assert desk.owner.calls == ["closed", "released"] and desk.stream.log == [], "no answer to a peer that has gone"
    assert desk.stream.is_aborted


async def test_a_peer_s_words_are_made_fit_for_logs_and_screens() -> None:
    desk = Desk()
    text = "wé\n\x1b[31m\u202e".encode() + b"\xff"
    desk.hear((0, CONTROL, b"\x09\xa0\x0f" + len(text).to_bytes(2, "little") + text))
    assert desk.it.close_reason == "wé??[31m??"
    desk.it.close_reason.encode()


async def test_the_side_that_closed_is_known_and_counted() -> None:
    told, telling = Desk(), Desk()
    told.hear(control.Close(CloseCode.KICKED, ""))
    telling.it.close(CloseCode.KICKED)
    assert (told.it.closed_by_peer, telling.it.closed_by_peer) == (True, False)
    assert told.stats.closed_by_peer[CloseCode.KICKED] == 1
    assert sum(telling.stats.closed_by_peer.values()) == 0
    assert not Desk().it.closed_by_peer


async def test_what_the_peer_said_of_an_earlier_connection_is_not_its_word_for_the_end() -> None:
    desk = Desk()
    desk.hear(control.Close(CloseCode.GOING_AWAY, ""))
    desk.it.resume_on(desk.new_stream(), 0, b"")
    desk.it.close(CloseCode.GOING_AWAY)
    assert not desk.it.closed_by_peer and sum(desk.stats.closed_by_peer.values()) == 0


async def test_messages_before_the_peer_s_close_are_handled_and_then_the_end_is_told() -> None:
    seen = Seen()
    desk = Desk()
    desk.it.handlers = seen.handlers
    seen.gate.clear()
    desk.hear(count_to(1), say_text("after it"), control.Close(CloseCode.NORMAL, ""))
    await settle()
    assert seen.notes == [1]
    seen.gate.set()
    await settle()
    assert seen.notes == [1, -1, "after it", "closed"]


async def test_nothing_can_be_sent_once_the_peer_s_close_is_told() -> None:
    handlers = Handlers(CATALOG)
    told: list[bool] = []

    @handlers.on_closed
    def closed(session: Session) -> None:
        with pytest.raises(SessionClosed):
            session.send(Say("too late"))
        told.append(True)

    desk = Desk()
    desk.it.handlers = handlers
    desk.hear(control.Close(CloseCode.NORMAL, ""))
    await settle()
    assert told == [True] and desk.ids == []


async def test_a_link_s_last_word_is_behind_the_count_of_what_it_took_in() -> None:
    """Else the other server would take these messages for lost."""
    desk = Desk()
    desk.context.between_servers = True
    desk.hear(say(), say())
    desk.it.close(CloseCode.GOING_AWAY)
    await turn()
    assert desk.records == [control.Ack(2), control.Close(CloseCode.GOING_AWAY, "")]


@pytest.mark.parametrize("code", [4004, 4006, 4011])
async def test_a_close_that_detaches_keeps_a_ticketed_session(code: int) -> None:
    desk = Desk(accepting=False)
    desk.hear(control.Close(code, ""))
    assert state_of(desk.it) is SessionState.DETACHED and desk.stream.is_dropped
    assert desk.owner.calls == [f"detached {CloseCode(code).label}"]


async def test_a_close_that_detaches_ends_a_session_that_nobody_keeps() -> None:
    desk = Desk(Features.PING, keeps=False)
    desk.hear(control.Close(4011, "bye"))
    assert state_of(desk.it) is SessionState.CLOSED and desk.it.close_code is CloseCode.GOING_AWAY


async def test_an_unticketed_client_that_dials_again_is_kept_when_the_server_goes_away() -> None:
    """Like a base client, it sees only the connection end."""
    desk = Desk(Features.PING, accepting=False)
    desk.hear(control.Close(4011, "the server stops"))
    assert state_of(desk.it) is SessionState.DETACHED


async def test_a_goaway_has_a_client_leave_at_a_random_time_within_what_it_gives() -> None:
    left_after: list[float] = []
    for _ in range(20):
        desk = Desk(accepting=False)
        desk.hear(control.GoAway(5_000, "tcp://there:1"))
        assert desk.extension.going_away is not None and desk.extension.going_away[0].address == "tcp://there:1"
        seconds = 0.0
        while state_of(desk.it) is SessionState.OPEN:
            desk.hear(say())  # and is heard until then
            await desk.pass_time(0.5)
            seconds += 0.5
        assert desk.stream.is_dropped and desk.owner.calls == ["detached going-away"]
        left_after.append(seconds)
    assert max(left_after) <= 6 and len(set(left_after)) > 3


async def test_a_client_that_is_on_a_new_connection_leaves_it_alone() -> None:
    desk = Desk(accepting=False)
    desk.hear(control.GoAway(2_000, ""))
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await desk.pass_time(5)
    assert state_of(desk.it) is SessionState.OPEN and desk.extension.going_away is None


async def test_a_silent_client_too_leaves_within_what_a_goaway_gives() -> None:
    desk = Desk(accepting=False)
    desk.hear(control.GoAway(500, ""))
    await desk.pass_time(0.8)
    assert state_of(desk.it) is SessionState.DETACHED and desk.owner.calls == ["detached going-away"]


async def test_a_goaway_is_said_once() -> None:
    desk = Desk()
    assert desk.it.go_away(1)
    await turn()
    desk.hear(*[say()] * ACK_FRAMES)
    desk.hear(control.Ping(5, 0))
    assert [type(record).__name__ for record in desk.records] == ["GoAway", "Ack", "Pong"]


async def test_a_client_keeps_the_last_ticket_that_it_was_given() -> None:
    desk = Desk(accepting=False)
    ticket = control.Ticket(b"s" * 16, b"k" * 32, 9, "tcp://there:1")
    desk.hear(ticket)
    assert desk.it.ticket == ticket


async def test_go_away_leaves_with_the_next_write_once_before_messages_and_close() -> None:
    desk = Desk()
    desk.it.send(Say("bye"))
    assert desk.it.go_away(1.5, "tcp://there:1") and desk.it.go_away(2.5, "tcp://there:2"), "the last one counts"
    desk.it.close(CloseCode.GOING_AWAY)
    assert not desk.it.go_away(1)
    await turn()
    assert desk.records == [control.GoAway(2_500, "tcp://there:2"), control.Close(CloseCode.GOING_AWAY, "")]
    assert desk.stream.frames[0][1] == CONTROL and desk.ids == [SAY]


async def test_only_a_session_that_accepted_its_connection_and_has_it_can_ask_its_peer_to_go() -> None:
    desk = Desk()
    desk.stream.lose()
    assert not desk.it.go_away(1)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    assert desk.records == []
    with pytest.raises(LocalError, match="client"):
        Desk(accepting=False).it.go_away(1)
    base, stream = Bench().session()
    assert not base.go_away(1)
    await turn()
    assert stream.log == []


async def test_a_key_that_is_used_up_detaches_a_ticketed_session_and_ends_any_other() -> None:
    class UsedUp(PeerError):
        code = CloseCode.GOING_AWAY

    desk = Desk()
    desk.it.broken(UsedUp())
    assert state_of(desk.it) is SessionState.DETACHED and desk.stream.is_dropped
    desk = Desk(Features.PING)
    desk.it.broken(UsedUp())
    await turn()
    assert desk.records == [control.Close(CloseCode.GOING_AWAY, "")]
    desk = Desk()
    desk.it.close(CloseCode.KICKED)
    desk.it.broken(UsedUp())  # by the very record that says so
    assert state_of(desk.it) is SessionState.CLOSING and desk.it.close_code is CloseCode.KICKED


async def test_times_that_a_record_has_no_room_for_are_the_longest_it_can_say() -> None:
    desk = Desk(limits=Limits(resume_window=inf))
    assert desk.it.ticket is not None and desk.it.ticket.window == 0xFFFFFFFF
    desk.it.go_away(inf)
    await turn()
    assert desk.records == [control.GoAway(0xFFFFFFFF, "")]
