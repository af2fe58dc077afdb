"""What counts as received, and when it is acknowledged."""

from collections.abc import Callable
from typing import Any

import pytest

from gatelink.config import ACK_BYTES, ACK_FRAMES, Limits
from gatelink.errors import CloseCode, ProtocolError
from gatelink.session.outbox import Outbox
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from gatelink.wire import control
from gatelink.wire.base import BASE_IDS, HEARTBEAT
from gatelink.wire.control import Features
from gatelink.wire.frames import Frame
from tests.fakes import (
    CLOSE,
    COUNT,
    SAY,
    Say,
    extended_session,
    turn,
)
from tests.limits import with_window
from tests.unit.session.support import BOTH, Desk, say


async def test_application_messages_count_and_the_frameworks_do_not() -> None:
    desk = Desk(accepting=False)
    desk.hear(say(), (HEARTBEAT, 0, b""), (COUNT, 0, b""), say(), (2, 0, b""))
    assert desk.extension.received == 3


async def test_a_message_that_is_refused_counts_all_the_same() -> None:
    desk = Desk()
    desk.handlers.then = lambda session, frame: session.broken(ProtocolError("no such thing"))
    desk.hear(say())
    assert desk.extension.received == 1


@pytest.mark.parametrize("id", sorted(BASE_IDS))
async def test_no_base_message_counts(id: int) -> None:
    desk = Desk()
    desk.hear(say(), (id, 0, b""))
    assert desk.extension.received == 1


async def test_while_a_session_is_not_read_for_another_reason_what_it_took_in_is_acknowledged() -> None:
    desk = Desk()
    desk.it.pause(Pause.LINK)
    desk.hear(say())
    await desk.pass_time(1.3)
    assert desk.records == [control.Ack(1)]


@pytest.mark.parametrize(("reads", "size"), [([4, 4, 2], 1), ([1, 1], 50)], ids=["messages", "bytes"])
async def test_a_peer_that_keeps_to_its_window_is_read_while_handlers_lag_however_it_comes(
    reads: list[int], size: int
) -> None:
    desk = Desk(limits=with_window(Limits(), 10, 100))
    desk.it.pause(Pause.INBOX)
    for count in reads:
        desk.hear(*[say(bytes(size))] * count)
        assert desk.stream.paused == Pause(0)
    desk.hear(say(b"x"))
    assert desk.stream.paused == Pause.INBOX


async def test_an_acknowledgement_is_one_wake_and_none_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = 0
    original = Session.on_deadline

    def counting(session: Session, now: float) -> None:
        nonlocal woken
        woken += 1
        original(session, now)

    monkeypatch.setattr(Session, "on_deadline", counting)
    desk = Desk()
    desk.hear(say())
    await desk.pass_time(8)
    assert woken == 1


@pytest.mark.parametrize("answers", [False, True])
async def test_what_is_sent_after_a_read_leaves_in_the_next_turn_whether_or_not_that_was_answered(
    answers: bool,
) -> None:
    desk = Desk()
    if answers:
        desk.handlers.then = lambda session, frame: session.send(Say("answer"))
    desk.hear(say())
    await turn()
    await desk.send(1)
    assert desk.ids == [SAY] * (1 + answers)


async def test_counting_does_not_wait_for_the_ticket() -> None:
    """The count is from the session's start, on both sides, whenever TICKET comes."""
    desk = Desk(Features.PING, accepting=False)
    desk.it = extended_session(desk.context, desk.owner, desk.handlers, desk.stream, uid=7, features=BOTH)
    desk.hear(say(), say(), control.Ticket(bytes(16), bytes(32), 120, ""), say())
    assert desk.extension.received == 3


async def test_without_the_feature_nothing_is_counted_kept_or_acknowledged() -> None:
    desk = Desk(Features.PING)
    assert type(desk.it.outbox) is Outbox
    desk.hear(*[say()] * 200)
    await desk.pass_time(2)
    assert desk.records == [] and desk.extension.received == 0


@pytest.mark.parametrize("count, acknowledged", [(ACK_FRAMES - 1, False), (ACK_FRAMES, True)])
async def test_an_ack_follows_64_messages_at_once(count: int, acknowledged: bool) -> None:
    desk = Desk()
    desk.hear(*[say()] * count)
    assert desk.records == ([control.Ack(count)] if acknowledged else [])


@pytest.mark.parametrize("where", [Pause.INBOX, Pause.HANDLERS])
async def test_while_handlers_lag_nothing_is_acknowledged_and_all_of_it_is_when_they_have_caught_up(
    where: Pause,
) -> None:
    desk = Desk(limits=Limits())
    desk.hear(*[say()] * ACK_FRAMES)
    desk.it.pause(where)
    assert desk.stream.paused == Pause(0), "its acknowledgements are still heard"
    desk.hear(*[say()] * 100)
    await desk.pass_time(3)
    desk.hear(control.Ping(9, 0))
    told = [record.received for record in desk.records if isinstance(record, (control.Ack, control.Pong))]
    assert told == [ACK_FRAMES, ACK_FRAMES]
    desk.it.resume(where)
    await turn()
    assert desk.records[-1] == control.Ack(ACK_FRAMES + 100)


@pytest.mark.parametrize("frames", [(say(),) * 11, (say(bytes(101)),)])
async def test_a_peer_that_keeps_to_no_window_is_read_for_one_more_while_handlers_lag_whatever_it_resumes(
    frames: tuple[Frame, ...],
) -> None:
    desk = Desk(limits=with_window(Limits(), 10, 100))
    desk.it.pause(Pause.INBOX)
    desk.hear(*[say()] * 10)
    assert desk.stream.paused == Pause(0)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    desk.hear(*frames)
    assert desk.stream.paused == Pause.INBOX
    desk.it.resume(Pause.INBOX)
    assert desk.stream.paused == Pause(0)


async def test_a_few_that_came_while_handlers_lagged_are_acknowledged_too() -> None:
    desk = Desk()
    desk.it.pause(Pause.INBOX)
    desk.hear(say())
    await desk.pass_time(3)
    desk.it.resume(Pause.INBOX)
    await desk.pass_time(1.3)
    assert desk.records == [control.Ack(1)]


async def test_a_session_that_closes_while_handlers_lag_says_nothing_after_its_last_word() -> None:
    desk = Desk()
    desk.it.pause(Pause.INBOX)
    desk.hear(*[say()] * 100)
    desk.it.kick()
    await turn()
    assert desk.records == [control.Ack(100), control.Close(4009, "")] and desk.stream.log[-1] == CLOSE
    desk.it.resume(Pause.INBOX)
    desk.it.writable()
    await turn()
    assert desk.stream.log[-1] == CLOSE


@pytest.mark.parametrize("size, acknowledged", [(ACK_BYTES - 1, False), (ACK_BYTES, True)])
async def test_an_ack_follows_32_kib_at_once(size: int, acknowledged: bool) -> None:
    desk = Desk()
    desk.hear(say(bytes(size)))
    assert desk.records == ([control.Ack(1)] if acknowledged else [])


async def test_an_ack_follows_within_a_second_and_is_not_repeated() -> None:
    desk = Desk()
    desk.hear(say())
    await desk.pass_time(0.7)
    assert desk.records == []
    await desk.pass_time(0.6)
    assert desk.records == [control.Ack(1)]
    await desk.pass_time(5)
    assert desk.records == [control.Ack(1)]
    desk.hear(say())
    await desk.pass_time(1.3)
    assert desk.records == [control.Ack(1), control.Ack(2)]


async def test_there_is_at_most_one_ack_a_turn() -> None:
    desk = Desk()
    desk.hear(*[say()] * 500)
    assert desk.records == [control.Ack(500)]


async def test_an_ack_that_is_due_waits_for_a_peer_that_does_not_read() -> None:
    """Else what the transport holds would grow for as long as the peer sends and does not read."""
    desk = Desk()
    desk.stream.writable = False
    for _ in range(20):
        desk.hear(say(bytes(ACK_BYTES)))
        await desk.pass_time(1.2)
    assert desk.stream.log == []
    desk.stream.unblock()
    assert desk.records == [control.Ack(20)]


async def test_a_pong_or_ping_acknowledges_too() -> None:
    desk = Desk()
    desk.hear(say(), control.Ping(5, 0))
    await desk.pass_time(1.5)
    assert [type(record) for record in desk.records] == [control.Pong], "no ACK of the same count behind it"
    assert desk.records[0].received == 1  # type: ignore[union-attr]


async def test_what_is_disowned_is_acknowledged_by_no_record_that_follows() -> None:
    """A process that stood still drops what it then reads; the PING that came with it must not count it as taken."""
    desk = Desk()
    desk.hear(say())
    await desk.pass_time(1.3)
    desk.handlers.then = lambda session, frame: desk.extension.disown()
    desk.hear(say(), control.Ping(5, 0))
    await desk.pass_time(1.3)
    ack, pong = desk.records
    assert ack == control.Ack(1)
    assert isinstance(pong, control.Pong) and pong.received == 1


@pytest.mark.parametrize("record", [control.Ack, lambda n: control.Ping(1, n), lambda n: control.Pong(1, n, 0)])
async def test_every_count_frees_the_window(record: Callable[[int], control.Control]) -> None:
    desk = Desk()
    await desk.send(20)
    window: Any = desk.it.outbox
    assert (window.kept, window.count) == (8, 12)
    desk.hear(record(6))
    assert (window.kept, window.count, window.acknowledged) == (8, 6, 6), "and what waited for it leaves"
    assert desk.ids == [SAY] * 14


@pytest.mark.parametrize("counts", [(4,), (2, 1), (1 << 64 - 1,)], ids=["above", "falling", "absurd"])
async def test_a_count_that_can_not_be_is_a_protocol_error(counts: tuple[int, ...]) -> None:
    desk = Desk()
    await desk.send(3)
    for count in counts:
        desk.hear(control.Ack(count))
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
    assert desk.records == [control.Close(CloseCode.PROTOCOL_ERROR, "")]
