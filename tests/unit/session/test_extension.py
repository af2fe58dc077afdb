"""A session that speaks the extension, over a stream that takes notes and a clock that stands still."""

from collections.abc import Callable
from math import inf
from time import time
from typing import Any

import pytest

from gatelink.config import ACK_BYTES, ACK_FRAMES, Limits
from gatelink.errors import CloseCode, LocalError, PeerError, ProtocolError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.control_frames import control_frame
from gatelink.session.extension import PONGS_PER_SECOND, Extension
from gatelink.session.outbox import Outbox, SendWindow
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire import control
from gatelink.wire.base import BASE_IDS, DUPLICATE_LOGIN, HEARTBEAT
from gatelink.wire.control import Features, decode_control, encode_control
from gatelink.wire.frames import CONTROL, Frame, encode_frame
from tests.fakes import (
    CATALOG,
    CLOSE,
    COUNT,
    SAY,
    Bench,
    FakeHandlers,
    FakeOwner,
    FakeStream,
    Say,
    extended_session,
    extension_of,
    settle,
    state_of,
    turn,
)
from tests.handling import Seen
from tests.handling import count as count_to
from tests.handling import say as say_text
from tests.limits import with_window

BOTH = Features.RESUME | Features.PING
LIMITS = with_window(Limits(heartbeat_interval=10, heartbeat_timeout=60), 8)


class Desk(Bench):
    """One extended session; by default an accepting, ticketed one whose owner keeps it when it breaks."""

    def __init__(
        self, features: int = BOTH, *, accepting: bool = True, keeps: bool = True, limits: Limits = LIMITS
    ) -> None:
        super().__init__(limits)
        self.owner = FakeOwner(accepting)
        self.owner.keeps = keeps
        self.handlers = FakeHandlers()
        self.stream = FakeStream()
        self.it = extended_session(self.context, self.owner, self.handlers, self.stream, uid=7, features=features)
        self.stream.receiver = self.it
        if features & Features.RESUME and accepting:
            self.extension.issue_ticket()
        elif features & Features.RESUME:
            self.hear(control.Ticket(bytes(16), bytes(32), 120, ""))
        self.it.open()

    @property
    def extension(self) -> Extension:
        return extension_of(self.it)

    def hear(self, *what: control.Control | Frame) -> None:
        """These arrive together."""
        self.it.receive([frame if isinstance(frame, tuple) else (0, CONTROL, encode_control(frame)) for frame in what])

    async def send(self, count: int) -> None:
        for n in range(count):
            self.it.send(Say(str(n)))
        await turn()
        await turn()

    @property
    def records(self) -> list[control.Control | None]:
        """The control records that were written."""
        return [decode_control(body) for id, flags, body in self.stream.frames if flags & CONTROL]

    @property
    def ids(self) -> list[int]:
        """The messages that were written."""
        return [id for id, flags, _ in self.stream.frames if not flags & CONTROL]

    def new_stream(self) -> FakeStream:
        self.stream = FakeStream()
        self.stream.receiver = self.it
        return self.stream


def say(text: bytes = b"") -> Frame:
    return (SAY, 0, text)


# -- what counts, and when it is acknowledged --


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
async def test_who_keeps_to_its_window_is_read_while_handlers_lag_however_it_comes(reads: list[int], size: int) -> None:
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
async def test_who_keeps_to_no_window_is_read_for_one_more_while_handlers_lag_whatever_it_resumes(
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


# -- PING and PONG --


async def test_each_ping_is_answered_once_with_its_own_time() -> None:
    desk = Desk()
    desk.hear(control.Ping(11, 0), control.Ping(12, 0))
    desk.hear(control.Ping(13, 0))
    pongs: list[Any] = desk.records
    assert [pong.sent_at for pong in pongs] == [11, 12, 13]
    assert all(pong.server_time > 1_600_000_000_000 for pong in pongs)


async def test_a_server_tells_its_time_in_unix_milliseconds() -> None:
    desk = Desk()
    before = time() * 1_000
    desk.hear(control.Ping(11, 0))
    (pong,) = desk.records
    assert isinstance(pong, control.Pong) and int(before) <= pong.server_time <= time() * 1_000


async def test_a_client_tells_no_time() -> None:
    desk = Desk(accepting=False)
    desk.hear(control.Ping(11, 0))
    assert desk.records == [control.Pong(11, 0, 0)]


async def test_at_most_four_pings_a_second_are_answered() -> None:
    desk = Desk()
    for n in range(1, 21):
        desk.hear(*[control.Ping(n, 0)] * 3)
    assert len(desk.records) == PONGS_PER_SECOND
    await desk.pass_time(1.1)
    for n in range(1, 21):
        desk.hear(control.Ping(n, 0))
    assert len(desk.records) == 2 * PONGS_PER_SECOND


async def test_pings_of_a_peer_that_does_not_read_pile_nothing_up() -> None:
    desk = Desk()
    desk.stream.writable = False
    for n in range(1, 50):
        desk.hear(control.Ping(n, 0))
        await desk.pass_time(0.3)
    assert desk.stream.log == [], "neither PONGs nor PINGs of ours"
    desk.stream.unblock()
    assert len(desk.records) <= PONGS_PER_SECOND


async def test_a_ping_goes_out_every_interval_and_its_answer_measures_the_round_trip() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (ping,) = desk.records
    assert isinstance(ping, control.Ping) and ping.sent_at and desk.it.rtt is None
    desk.hear(control.Pong(ping.sent_at, 0, 0))
    rtt: Any = desk.it.rtt
    assert 0 < rtt < 20
    assert HEARTBEAT not in desk.ids


async def test_an_answer_to_nothing_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    desk.hear(control.Pong(0, 0, 0), control.Pong(12_345, 0, 0))
    assert desk.it.rtt is None


async def test_a_second_answer_to_an_earlier_ping_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (first,) = desk.records
    assert isinstance(first, control.Ping)
    desk.hear(control.Pong(first.sent_at, 0, 0))
    await desk.pass_time(10.3)
    desk.hear(control.Pong(first.sent_at, 0, 0))
    assert sum(desk.stats.rtt.counts) == 1


async def test_a_late_answer_of_the_old_connection_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (ping,) = desk.records
    assert isinstance(ping, control.Ping)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    desk.hear(control.Pong(ping.sent_at, 0, 0))
    assert desk.it.rtt is None


async def test_an_answer_that_was_due_is_not_given_on_the_next_connection() -> None:
    desk = Desk()
    desk.stream.writable = False
    desk.hear(control.Ping(11, 0))
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    assert desk.records == []
    desk.hear(*[say()] * ACK_FRAMES)
    assert desk.records == [control.Ack(ACK_FRAMES)]


async def test_a_goaway_that_did_not_leave_is_not_said_on_the_next_connection() -> None:
    desk = Desk()
    desk.stream.writable = False
    assert desk.it.go_away(5)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    desk.hear(*[say()] * ACK_FRAMES)
    assert desk.records == [control.Ack(ACK_FRAMES)]


async def test_without_the_ping_feature_heartbeats_are_the_base_ones() -> None:
    desk = Desk(Features.RESUME)
    await desk.pass_time(10.3)
    assert desk.ids == [HEARTBEAT] and desk.records == []


async def test_a_silent_peer_s_session_is_detached_after_the_heartbeat_timeout() -> None:
    desk = Desk()
    await desk.pass_time(61)
    assert state_of(desk.it) is SessionState.DETACHED and desk.stream.is_dropped
    assert desk.owner.calls == ["detached heartbeat-timeout"]


# -- control records --


@pytest.mark.parametrize(
    "record",
    [
        control.Hello(),
        control.Resume(bytes(16), 0, 1, bytes(32)),
        control.Resumed(0, bytes(32)),
        control.Ticket(bytes(16), bytes(32), 9, ""),
        control.GoAway(0),
    ],
    ids=lambda record: type(record).__name__,
)
async def test_a_server_hears_no_such_record_after_verification(record: control.Control) -> None:
    desk = Desk()
    desk.hear(say(), record, say())
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
    assert desk.handlers.received.count(say()) == 1, "what came before it is handled, what came after is not"


async def test_a_ticket_without_the_feature_is_a_protocol_error() -> None:
    desk = Desk(Features.PING, accepting=False)
    desk.hear(control.Ticket(bytes(16), bytes(32), 9, ""))
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR


async def test_records_of_types_to_come_are_ignored() -> None:
    desk = Desk()
    desk.hear((0, CONTROL, b"\x80"), (0, CONTROL, b"\xffanything"), say())
    assert state_of(desk.it) is SessionState.OPEN and desk.extension.received == 1


@pytest.mark.parametrize("payload", [b"\x0b", b"\x7f", b"\x06", b"\x08" + bytes(9), b"\x09\xa0\x0f\x05\x00abc"])
async def test_a_malformed_or_unknown_record_is_a_protocol_error(payload: bytes) -> None:
    desk = Desk()
    desk.hear((0, CONTROL, payload))
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
    assert desk.records == [control.Close(CloseCode.PROTOCOL_ERROR, "")], "the details are for our log"


# -- CLOSE --


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


async def test_who_closed_is_known_and_counted() -> None:
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
    """As a base client is, who sees only the connection end."""
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


async def test_only_who_has_a_connection_and_accepted_it_can_ask_its_peer_to_go() -> None:
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


# -- detached, and resumed --


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
