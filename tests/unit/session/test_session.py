"""A session sends in one order, ends well from either side, and costs a bounded amount until then."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import BodyError, CatalogError, CloseCode, LocalError, ProtocolError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.handling.fallback import take_builtin
from gatelink.net.connection import deliver
from gatelink.session.loop_context import FLUSH_AT_ONCE, LoopContext
from gatelink.session.outbox import Full
from gatelink.session.session import HEARTBEAT_FRAME, Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.session.timers import TICK
from gatelink.wire.base import DUPLICATE_LOGIN, HEARTBEAT
from gatelink.wire.control import Features
from gatelink.wire.frames import COMPRESSED, Frame, FrameDecoder, encode_frame
from tests.fakes import (
    CATALOG,
    COUNT,
    SAY,
    Bench,
    Count,
    FakeHandlers,
    FakeOwner,
    FakeStream,
    Say,
    extended_session,
    settle,
    state_of,
    turn,
)
from tests.limits import with_window
from tests.support import run_watched
from tests.unit.session.support import FAREWELL, INTERVAL, TIMEOUT, numbered

# -- sending --


async def test_typed_raw_and_whole_frames_leave_in_one_order() -> None:
    session, stream = Bench().session()
    for _ in range(3):
        session.send(Say("typed"))
        session.send_raw(11_003, b"raw")
        session.send_frame(encode_frame(11_004, b"whole"))
    await turn()
    assert [id for id, _, _ in stream.frames] == [SAY, 11_003, 11_004] * 3


async def test_a_session_with_a_full_window_costs_no_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    schedule_flush = LoopContext.schedule_flush

    def counting(context: LoopContext, session: Any) -> None:
        nonlocal asked
        asked += 1
        schedule_flush(context, session)

    monkeypatch.setattr(LoopContext, "schedule_flush", counting)
    bench, stream = Bench(with_window(Limits(), 2)), FakeStream()
    session = extended_session(bench.context, bench.owner, FakeHandlers(), stream, uid=7, features=Features.RESUME)
    for n in range(4):
        session.send(Count(n))
    await settle()
    before = asked
    await settle()
    assert asked == before > 0 and session.outbox.count == 2 and len(stream.frames) == 2


async def test_a_session_says_when_it_has_written_messages() -> None:
    session, stream = Bench().session()
    assert session.close_reason == "" and session.close_code is None
    written: list[int] = []
    session.on_written = lambda: written.append(len(stream.frames))
    session.send(Count(1))
    session.send(Count(2))
    await settle()
    session.flush()
    assert written == [2]
    stream.writable = False
    session.send(Count(3))
    await settle()
    assert written == [2]
    stream.unblock()
    assert written == [2, 3]


async def test_a_send_in_another_thread_is_refused_and_the_session_goes_on() -> None:
    session, stream = Bench().session()
    with pytest.raises(LocalError, match=r"another thread .* loop\.call_soon_threadsafe\(session\.send, message\)"):
        await asyncio.to_thread(session.send, Say("thread"))
    asyncio.get_running_loop().call_soon_threadsafe(session.send, Say("loop"))
    await turn()
    await turn()
    assert [id for id, _, _ in stream.frames][-1] == SAY


async def test_what_is_sent_in_one_turn_of_the_loop_leaves_in_one_write() -> None:
    session, stream = Bench().session()
    for n in range(3):
        session.send(Count(n))
    assert stream.writes == []
    await turn()
    session.send(Count(3))
    await turn()
    assert [len(stream.writes), len(stream.frames)] == [2, 4]


async def test_what_handlers_send_while_a_read_is_handled_leaves_in_one_write_at_its_end() -> None:
    handlers = FakeHandlers(lambda session, frame: session.send_frame(encode_frame(*frame[::2])))
    session, stream = Bench().session(handlers)
    frames: list[Frame] = [(11_003, 0, b"%d" % n) for n in range(50)]
    session.receive(frames)
    assert len(stream.writes) == 1, "before anything else happens in the loop"
    assert not session.context._flush_scheduled, "and no flush is left to be done"
    assert stream.frames == frames
    await turn()
    assert len(stream.writes) == 1
    session.send(Say("later"))
    await turn()
    assert len(stream.writes) == 2


@pytest.mark.parametrize("answers", [False, True])
async def test_what_is_sent_after_a_read_leaves_in_the_next_turn_whether_or_not_that_was_answered(
    answers: bool,
) -> None:
    session, stream = Bench().session(FakeHandlers(lambda session, _: session.send(Say("answer")) if answers else None))
    session.receive([(COUNT, 0, b"")])
    await turn()
    session.send(Say("later"))
    await turn()
    assert [id for id, _, _ in stream.frames] == [SAY] * (1 + answers)


@pytest.mark.parametrize("is_straight", [True, False])
async def test_what_is_sent_before_and_after_a_keyboard_interrupt_in_a_read_leaves(is_straight: bool) -> None:
    handlers = Handlers(CATALOG)

    @handlers.on(Say)
    def say(session: Session, message: Say) -> None:
        session.send(Count(1))
        signal.default_int_handler(signal.SIGINT, None)  # as a signal does, in the middle of the handler

    session, stream = Bench().session(handlers)
    body = CATALOG.encode(Say("hello"))[1]
    with pytest.raises(KeyboardInterrupt):
        if is_straight:
            data = encode_frame(SAY, body)
            deliver(FrameDecoder(1_000), data, len(data), session, None)
        else:
            session.receive([(SAY, 0, body)])
    await settle()
    assert [id for id, _, _ in stream.frames] == [COUNT]
    session.send(Count(2))
    await settle()
    assert [id for id, _, _ in stream.frames] == [COUNT, COUNT]


async def test_a_keyboard_interrupt_while_sessions_are_flushed_keeps_none_from_being_flushed() -> None:
    bench = Bench()
    sessions = [bench.session() for _ in range(3)]
    interrupt = iter([True])

    def write(data: bytes) -> None:
        if next(interrupt, False):
            raise KeyboardInterrupt
        FakeStream.write(sessions[1][1], data)

    sessions[1][1].write = write  # type: ignore[method-assign]
    for session, _ in sessions:
        session.send(Say("first"))
    with pytest.raises(KeyboardInterrupt):
        bench.context._flush_scheduled_ones()
    for session, _ in sessions:
        session.send(Say("second"))
    await settle()
    assert [len(stream.frames) for _, stream in sessions] == [2, 1, 2]  # one write was cut short, and is lost


async def test_frames_that_are_sent_together_leave_in_order_in_one_write() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.send_frame(numbered(0))
    session.send_frames([numbered(1), numbered(2)])
    await turn()
    session.send_frames([numbered(3)])
    await turn()
    assert stream.writes == [numbered(0) + numbered(1) + numbered(2), numbered(3)]


async def test_frames_together_that_are_more_than_the_queue_holds_leave_in_order_while_the_peer_reads() -> None:
    session, stream = Bench(Limits(max_outbox_frames=2)).session()
    session.send_frame(numbered(0))
    session.send_frames([numbered(n) for n in range(1, 8)])
    await turn()
    assert b"".join(stream.writes) == b"".join(map(numbered, range(8))) and session.close_code is None


async def test_frames_together_that_are_too_many_for_a_peer_that_does_not_read_end_the_session_with_4006() -> None:
    session, stream = Bench(Limits(max_outbox_frames=2)).session()
    stream.writable = False
    with pytest.raises(SessionClosed, match="4006"):
        session.send_frames([numbered(n) for n in range(3)])
    assert session.close_code is CloseCode.SLOW_CONSUMER and stream.is_aborted


@pytest.mark.parametrize("id", [HEARTBEAT, DUPLICATE_LOGIN, 100, 199])
async def test_what_is_the_frameworks_can_not_be_sent_as_a_raw_message(id: int) -> None:
    session, stream = Bench().session()
    with pytest.raises(LocalError, match=f"message {id} .* is the framework's"):
        session.send_raw(id, b"")
    await turn()
    assert stream.log == [] and session.state is SessionState.OPEN


async def test_no_more_is_written_than_the_stream_says_that_it_takes() -> None:
    bench = Bench(Limits(write_high_water=100))
    session, stream = bench.session()
    frames = [numbered(n) for n in range(100)]
    for frame in frames:
        session.send_frame(frame)
    await turn()
    assert len(stream.writes) == 1 and len(stream.writes[0]) <= 100
    stream.writable = False
    await settle()
    assert len(stream.writes) == 1
    stream.unblock()
    await settle()
    await settle()
    assert b"".join(stream.writes) == b"".join(frames)
    assert max(map(len, stream.writes)) <= 100


async def test_every_session_of_a_large_broadcast_is_flushed_a_few_at_a_time() -> None:
    bench = Bench()
    several = [bench.session(uid=uid) for uid in range(3 * FLUSH_AT_ONCE + 1)]
    for session, _ in several:
        session.send(Say("all"))
    flushed = []
    for _ in range(4):
        await turn()
        flushed.append(sum(bool(stream.writes) for _, stream in several))
    assert flushed == [FLUSH_AT_ONCE, 2 * FLUSH_AT_ONCE, 3 * FLUSH_AT_ONCE, len(several)]


async def test_what_is_sent_is_counted_by_message() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.send(Say("a"))
    session.send_raw(COUNT, b"b")
    session.send_raw(12_345, b"c")
    await turn()
    sent = {name: (traffic.messages, traffic.bytes) for name, traffic in bench.stats.sent.items()}
    assert {name: messages for name, (messages, _) in sent.items()} == {"Say": 1, "Count": 1, "other": 1}
    assert sum(size for _, size in sent.values()) == len(b"".join(stream.writes))


async def test_a_message_that_is_not_registered_is_not_queued() -> None:
    session, stream = Bench().session()
    with pytest.raises(CatalogError):
        session.send("text")
    await turn()
    assert stream.writes == [] and session.outbox.count == 0


async def test_a_slow_consumer_is_closed_with_4006_and_aborted() -> None:
    bench = Bench(Limits(max_outbox_frames=3))
    session, stream = bench.session()
    stream.writable = False
    for n in range(3):
        session.send(Count(n))
    with pytest.raises(SessionClosed) as raised:
        session.send(Count(3))
    assert raised.value.code is session.close_code is CloseCode.SLOW_CONSUMER
    assert "3 frames" in session.close_reason
    assert stream.is_aborted
    await settle()
    assert state_of(session) is SessionState.CLOSED and stream.writes == []
    assert bench.stats.closed == {CloseCode.SLOW_CONSUMER: 1}


async def test_dropped_and_replaced_messages_are_counted_when_the_session_is_gone() -> None:
    bench = Bench(Limits(max_outbox_frames=2))
    session, stream = bench.session()
    for n in range(5):
        session.send(Count(n), full=Full.DROP_OLDEST)
    session.send(Count(5), full=Full.DROP_NEWEST)
    await turn()
    session.send(Say("a"), key=1)
    session.send(Say("b"), key=1)
    await turn()
    assert len(stream.frames) == 3
    stream.lose()
    assert bench.stats.dropped == 5


# -- drain --


async def test_drain_returns_at_once_when_nothing_waits() -> None:
    session, _ = Bench().session()
    await session.drain()


async def test_drain_waits_for_the_write_of_what_was_just_sent() -> None:
    session, stream = Bench().session()
    for n in range(3):
        session.send(Say("a"))
        await session.drain()
        assert len(stream.frames) == n + 1


async def test_drain_can_be_awaited_again_and_again_while_a_stream_fills_up() -> None:
    session, stream = Bench().session()
    for n in range(3):
        stream.writable = False
        session.send(Say("a"))
        waiting = asyncio.create_task(session.drain())
        await settle()
        assert not waiting.done()
        stream.unblock()
        await waiting
        assert len(stream.frames) == n + 1


async def test_drain_waits_until_everything_was_handed_over() -> None:
    session, stream = Bench().session()
    stream.writable = False
    session.send(Say("a"))
    waiting = [asyncio.create_task(session.drain()) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await settle()
    stream.unblock()
    await asyncio.gather(*waiting[1:])
    assert len(stream.frames) == 1
    assert waiting[0].cancelled()


async def test_drain_waits_for_a_stream_that_is_full() -> None:
    session, stream = Bench().session()
    stream.writable = False
    waiting = asyncio.create_task(session.drain())
    await settle()
    assert not waiting.done()
    stream.unblock()
    await waiting


@pytest.mark.parametrize("end", ["close", "lost"])
async def test_drain_raises_when_the_session_ends_first(end: str) -> None:
    session, stream = Bench().session()
    stream.writable = False
    session.send(Say("a"))
    waiting = asyncio.create_task(session.drain())
    await turn()
    if end == "close":
        session.close(CloseCode.KICKED)
    stream.lose()
    with pytest.raises(SessionClosed) as raised:
        await waiting
    assert raised.value.code is (CloseCode.KICKED if end == "close" else CloseCode.NORMAL)
    with pytest.raises(SessionClosed):
        await session.drain()


# -- heartbeats --


async def test_an_idle_session_sends_a_heartbeat_every_interval() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    for beats in range(1, 6):
        session.receive([(HEARTBEAT, 0, b"")])
        await bench.pass_time(INTERVAL + 2 * TICK)
        assert stream.writes == [HEARTBEAT_FRAME] * beats


async def test_a_heartbeat_never_overtakes_or_piles_up_behind_what_is_queued() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    stream.writable = False
    session.send(Say("first"))
    await bench.pass_time(3 * INTERVAL)
    assert stream.writes == []
    stream.unblock()
    assert [id for id, _, _ in stream.frames] == [SAY]


async def test_heartbeats_wait_for_a_stream_that_takes_nothing() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    stream.writable = False
    await bench.pass_time(3 * INTERVAL)
    assert stream.log == []


async def test_a_silent_peer_is_closed_with_4004_after_the_timeout_not_before() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    await bench.pass_time(TIMEOUT - 2 * TICK)
    assert state_of(session) is SessionState.OPEN
    await bench.pass_time(5 * TICK)
    assert session.close_code is CloseCode.HEARTBEAT_TIMEOUT
    assert state_of(session) is SessionState.CLOSED and stream.is_aborted


async def test_only_whole_frames_are_life() -> None:
    bench = Bench()
    handlers = FakeHandlers(lambda session, frame: None)
    (speaking, _), (trickling, _) = bench.session(handlers), bench.session(handlers)
    speaking.open()
    trickling.open()
    for _ in range(30):
        await bench.pass_time(5)
        speaking.receive([(SAY, 0, b"")])
        trickling.waiting(100)
        if state_of(trickling) is SessionState.OPEN:
            trickling.send(Say("it must not keep itself alive"))
    assert state_of(speaking) is SessionState.OPEN
    assert trickling.close_code is CloseCode.HEARTBEAT_TIMEOUT


async def test_a_late_loss_of_a_dropped_connection_changes_nothing() -> None:
    bench = Bench()
    session, _ = bench.session()
    session.open()
    await bench.pass_time(TIMEOUT + 5 * TICK)
    calls = list(bench.owner.calls)
    session.lost(ConnectionResetError())
    session.writable()
    session.broken(ProtocolError("late"))
    session.receive([(SAY, 0, b"")])
    assert bench.owner.calls == calls == ["detached heartbeat-timeout", "closed", "released"]
    assert session.close_code is CloseCode.HEARTBEAT_TIMEOUT


# -- what the framework takes --


@pytest.mark.parametrize("id", [1, 2, 3, 24, 100, 150, 199])
async def test_a_verified_client_may_not_send_what_is_the_frameworks(id: int) -> None:
    session, _ = Bench().session()
    with pytest.raises(ProtocolError, match=f"framework message {id}"):
        take_builtin(session, id, 0, b"", False)


@pytest.mark.parametrize("id, known, taken", [(11_000, False, False), (59_999, False, False), (5, True, False)])
async def test_an_applications_message_is_left_to_it(id: int, known: bool, taken: bool) -> None:
    session, _ = Bench().session()
    assert take_builtin(session, id, 0, b"", known) is taken


@pytest.mark.parametrize("id", [0, 60_000, 65_535])
async def test_an_id_that_nobody_registered_outside_the_applications_range_is_an_error(id: int) -> None:
    bench = Bench()
    with pytest.raises(ProtocolError, match="not registered"):
        take_builtin(bench.session()[0], id, 0, b"", False)
    dialled = bench.session(owner=FakeOwner(accepting=False))[0]
    assert take_builtin(dialled, id, 0, b"", False) is False, "the connecting side trusts the server"


@pytest.mark.parametrize("id", [5, 99, 200, 10_999])
async def test_an_id_of_the_original_engine_is_the_applications_matter(id: int) -> None:
    assert take_builtin(Bench().session()[0], id, 0, b"", False) is False


async def test_what_the_body_of_a_heartbeat_says_is_nobodys_matter() -> None:
    session, _ = Bench().session()
    assert take_builtin(session, HEARTBEAT, 0, b"", True)
    assert take_builtin(session, HEARTBEAT, 0, b"x", True)
    with pytest.raises(BodyError):
        take_builtin(session, HEARTBEAT, COMPRESSED, b"\xff\xff", True)


async def test_the_connecting_side_closes_when_a_newer_login_replaced_it() -> None:
    session, _ = Bench().session(owner=FakeOwner(accepting=False))
    assert take_builtin(session, DUPLICATE_LOGIN, 0, b"", True)
    assert session.close_code is CloseCode.REPLACED


@pytest.mark.parametrize("id", [1, 2, 3, 100, 199])
async def test_the_connecting_side_takes_no_other_message_of_the_framework(id: int) -> None:
    session, _ = Bench().session(owner=FakeOwner(accepting=False))
    with pytest.raises(ProtocolError, match=f"framework message {id}"):
        take_builtin(session, id, 0, b"", True)
    assert session.close_code is None


# -- reading --


async def test_reading_is_paused_and_resumed_by_reason() -> None:
    session, stream = Bench().session()
    session.pause(Pause.INBOX)
    session.pause(Pause.STOPPING)
    session.resume(Pause.INBOX)
    assert stream.paused == Pause.STOPPING
    stream.lose()
    session.pause(Pause.INBOX)
    session.resume(Pause.INBOX)


def test_a_session_says_its_user_and_state() -> None:
    async def main() -> None:
        session, _ = Bench().session(uid=42, slot=3, address="10.0.0.1")
        assert repr(session) == "<Session uid=42 slot=3 10.0.0.1 OPEN>"
        session.kick()
        assert repr(session) == "<Session uid=42 slot=3 10.0.0.1 CLOSING kicked>"

    run_watched(main())


# -- anything, in any order --

ACTIONS: dict[str, Callable[[Bench, Session, FakeStream], object]] = {
    "send": lambda bench, session, stream: session.send(Say("x")),
    "receive": lambda bench, session, stream: session.receive([(SAY, 0, b"")]),
    "close": lambda bench, session, stream: session.close(CloseCode.KICKED, farewell=FAREWELL),
    "abort": lambda bench, session, stream: session.abort(),
    "broken": lambda bench, session, stream: session.broken(ProtocolError("x")),
    "lose": lambda bench, session, stream: stream.lose(),
    "reset": lambda bench, session, stream: stream.lose(ConnectionResetError()),
    "block": lambda bench, session, stream: setattr(stream, "writable", False),
    "unblock": lambda bench, session, stream: None if stream.is_lost else stream.unblock(),
    "a second": lambda bench, session, stream: bench.pass_time(1),
    "a minute": lambda bench, session, stream: bench.pass_time(61),
    "turn": lambda bench, session, stream: turn(),
    "attach": lambda bench, session, stream: None,
}


@settings(max_examples=40)  # each is a life of some tenths of a second
@given(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=15), st.booleans())
def test_whatever_happens_in_whatever_order_a_session_ends_once_and_leaves_nothing(
    actions: list[str], keeps: bool
) -> None:
    async def main() -> None:
        bench = Bench(Limits(max_outbox_frames=4))
        bench.owner.keeps = keeps
        handlers = FakeHandlers()
        session, stream = bench.session(handlers)
        session.open()
        for action in actions:
            if action == "attach" and state_of(session) is SessionState.DETACHED:
                stream = FakeStream()
                stream.receiver = session
                session.attach(stream)
            try:
                result: Any = ACTIONS[action](bench, session, stream)
                if asyncio.iscoroutine(result):
                    await result
            except SessionClosed:
                assert session.close_code is not None
            assert (session.close_code is None) == (state_of(session) in (SessionState.OPEN, SessionState.DETACHED))
        session.abort()
        await settle()
        assert state_of(session) is SessionState.CLOSED
        calls = [call for call in bench.owner.calls if not call.startswith("detached")]
        assert calls == ["closed", "released"] and handlers.received.count("closed") == 1
        assert bench.stats.closed.total() == 1
        assert len(bench.context.wheel) == 0
        await session.wait_closed()

    run_watched(main())
