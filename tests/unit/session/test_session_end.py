"""How a session ends: closed, aborted or detached, and what is left of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatelink.config import Limits
from gatelink.errors import CloseCode, FrameTooLarge, LocalError, ProtocolError, SessionClosed
from gatelink.session.session import HEARTBEAT_FRAME, Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.session.timers import TICK
from gatelink.wire.frames import Frame
from tests.fakes import (
    CLOSE,
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
from tests.handling import Seen, count, opened
from tests.unit.session.support import CLOSING, FAREWELL, TIMEOUT, numbered

# -- closing --


async def test_close_delivers_what_is_queued_then_the_farewell_then_closes() -> None:
    session, stream = Bench().session()
    session.send(Count(1))
    session.send(Count(2))
    session.close(CloseCode.REPLACED, farewell=FAREWELL)
    assert stream.log == []
    await turn()
    assert [id for id, _, _ in stream.frames] == [COUNT, COUNT, 24]
    assert stream.log[-1] == CLOSE
    assert state_of(session) is SessionState.CLOSING


async def test_close_waits_for_a_full_stream_and_delivers_then() -> None:
    session, stream = Bench(Limits(write_high_water=20)).session()
    stream.writable = False
    for n in range(10):
        session.send_frame(numbered(n))
    session.close(farewell=FAREWELL)
    await settle()
    assert stream.log == []
    stream.unblock()
    await settle()
    assert b"".join(stream.writes) == b"".join(map(numbered, range(10))) + FAREWELL
    assert stream.log[-1] == CLOSE


async def test_a_session_closed_in_a_handler_answers_first() -> None:
    def answer_and_close(session: Session, frame: Frame) -> None:
        if state_of(session) is SessionState.OPEN:
            session.send(Say("last"))
            session.close(farewell=FAREWELL)

    session, stream = Bench().session(FakeHandlers(answer_and_close))
    session.receive([(SAY, 0, b"")])
    assert [id for id, _, _ in stream.frames] == [SAY, 24] and stream.log[-1] == CLOSE


async def test_a_session_closed_in_a_handler_that_answers_nothing_closes_with_that_read() -> None:
    session, stream = Bench().session(FakeHandlers(lambda session, frame: session.close(farewell=FAREWELL)))
    session.receive([(SAY, 0, b"")])
    assert stream.log == [FAREWELL, CLOSE]


@pytest.mark.parametrize(
    "send",
    [
        lambda s: s.send(Say("")),
        lambda s: s.send_raw(SAY, b""),
        lambda s: s.send_frame(b""),
        lambda s: s.send_frames([b""]),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
async def test_sending_after_the_end_raises_why_it_ended(send: Callable[[Session], None], gone: bool) -> None:
    session, stream = Bench().session()
    session.kick("spam")
    if gone:
        stream.lose()
    with pytest.raises(SessionClosed) as raised:
        send(session)
    assert (raised.value.code, raised.value.reason) == (CloseCode.KICKED, "spam")


async def test_the_first_close_says_why() -> None:
    bench = Bench()
    handlers = FakeHandlers()
    session, stream = bench.session(handlers)
    session.close(CloseCode.KICKED, "spam")
    session.close(CloseCode.NORMAL)
    session.broken(ProtocolError("late"))
    session.abort()
    await settle()
    stream.lose()
    assert (session.close_code, session.close_reason) == (CloseCode.KICKED, "spam")
    assert bench.stats.closed == {CloseCode.KICKED: 1}
    assert bench.owner.calls == ["closed", "released"]
    assert handlers.received == ["closed"]


@pytest.mark.parametrize("code", [4500, 1000, "bye"])
@pytest.mark.parametrize("extension", [False, True])
async def test_a_close_with_a_number_that_is_no_code_is_refused_and_ends_nothing(code: Any, extension: bool) -> None:
    bench = Bench()
    session, _ = bench.session()
    if extension:
        session = extended_session(bench.context, bench.owner, FakeHandlers(), FakeStream(), features=0, uid=7)
    with pytest.raises(LocalError, match=f"{code!r} is no close code; give one of CloseCode"):
        session.close(code)
    assert state_of(session) is SessionState.OPEN and not bench.stats.closed
    session.close(int(CloseCode.KICKED))  # type: ignore[arg-type]  # its number will do
    assert bench.stats.closed == {CloseCode.KICKED: 1} and bench.owner.calls == ["closed"]


async def test_a_peer_that_does_not_take_the_end_is_aborted_after_the_close_timeout() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    session.close()
    aborted = []
    for seconds in (CLOSING - TICK, 3 * TICK):
        await bench.pass_time(seconds)
        aborted.append(stream.is_aborted)
    assert aborted == [False, True]
    await session.wait_closed()


async def test_abort_cuts_off_what_is_queued() -> None:
    session, stream = Bench().session()
    stream.writable = False
    session.send(Say("never"))
    session.abort()
    assert stream.is_aborted
    await settle()
    assert state_of(session) is SessionState.CLOSED
    assert session.close_code is CloseCode.NORMAL and stream.writes == []


async def test_wait_closed_waits_until_the_connection_is_gone() -> None:
    session, stream = Bench().session()
    waiting = [asyncio.create_task(session.wait_closed()) for _ in range(2)]
    session.close()
    await settle()
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    stream.lose()
    await waiting[1]
    await session.wait_closed()
    assert state_of(session) is SessionState.CLOSED


async def test_nothing_is_dispatched_after_close() -> None:
    handlers = FakeHandlers()
    session, _ = Bench().session(handlers)
    session.close()
    session.receive([(SAY, 0, b"")])
    assert handlers.received == ["closed"]


async def test_a_peers_fault_ends_the_session_with_its_code() -> None:
    session, _ = Bench().session()
    session.broken(FrameTooLarge("too much"))
    assert (session.close_code, session.close_reason) == (CloseCode.FRAME_TOO_LARGE, "too much")


@pytest.mark.parametrize(
    "accepting, error, code",
    [
        (True, None, CloseCode.NORMAL),
        (False, None, CloseCode.UNEXPLAINED),
        (True, ConnectionResetError(), CloseCode.GOING_AWAY),
        (False, ConnectionResetError(), CloseCode.GOING_AWAY),
    ],
)
async def test_a_lost_connection_ends_the_session_at_once(
    accepting: bool, error: Exception | None, code: CloseCode
) -> None:
    bench = Bench()
    bench.owner = FakeOwner(accepting)
    handlers = FakeHandlers()
    session, stream = bench.session(handlers)
    session.open()
    stream.lose(error)
    assert state_of(session) is SessionState.CLOSED and session.close_code is code
    assert handlers.received == ["opened", "closed"]
    assert bench.owner.calls == [f"detached {code.label}", "closed", "released"]
    assert len(bench.context.wheel) == 0


# -- detached --


async def detached(bench: Bench) -> tuple[Session, FakeHandlers, FakeStream]:
    """A session that lost its connection and is kept."""
    bench.owner.keeps = True
    handlers = FakeHandlers()
    session, stream = bench.session(handlers)
    session.open()
    stream.lose(ConnectionResetError())
    assert state_of(session) is SessionState.DETACHED
    return session, handlers, stream


async def test_what_is_sent_while_detached_leaves_in_order_on_the_next_connection() -> None:
    bench = Bench()
    session, handlers, _ = await detached(bench)
    for n in range(5):
        session.send_frame(numbered(n))
        await turn()
    stream = FakeStream()
    stream.receiver = session
    session.attach(stream)
    session.send_frame(numbered(5))
    await settle()
    assert b"".join(stream.writes) == b"".join(map(numbered, range(6)))
    assert len(stream.writes) == 1
    assert handlers.received == ["opened", "suspended", "resumed"]
    session.send_frame(numbered(6))
    await settle()
    assert len(stream.writes) == 2


async def test_a_heartbeat_begins_anew_with_the_next_connection() -> None:
    bench = Bench()
    session, _, _ = await detached(bench)
    await bench.pass_time(2 * TIMEOUT)
    assert state_of(session) is SessionState.DETACHED
    stream = FakeStream()
    session.attach(stream)
    await bench.pass_time(TIMEOUT - 2 * TICK)
    assert state_of(session) is SessionState.OPEN
    assert set(stream.writes) == {HEARTBEAT_FRAME}


async def test_a_detached_session_that_is_closed_ends_at_once() -> None:
    bench = Bench()
    session, handlers, _ = await detached(bench)
    session.send(Say("never"))
    session.close(CloseCode.KICKED)
    assert state_of(session) is SessionState.CLOSED
    assert handlers.received == ["opened", "suspended", "closed"]
    assert bench.owner.calls[1:] == ["closed", "released"]
    await session.wait_closed()


@pytest.mark.parametrize("keeps", [False, True])
async def test_what_became_of_a_session_while_it_opened_is_told_behind_that_it_opened(keeps: bool) -> None:
    bench = Bench()
    bench.owner.keeps = keeps
    handlers = FakeHandlers()
    session, stream = bench.session(handlers)
    session.pause(Pause.OPENING)
    stream.lose(ConnectionResetError())
    assert handlers.received == []
    session.open()
    assert handlers.received == ["opened", "suspended" if keeps else "closed"]


async def test_a_session_that_its_own_opening_ends_is_told_so_once() -> None:
    class Ends(FakeHandlers):
        def opened(self, session: Session) -> None:
            super().opened(session)
            session.resume(Pause.OPENING)
            session.kick("not you")

    bench = Bench()
    bench.owner.keeps = True
    handlers = Ends()
    session, stream = bench.session(handlers)
    session.pause(Pause.OPENING)
    stream.lose(ConnectionResetError())
    session.open()
    assert handlers.received == ["opened", "closed"]


async def test_a_detached_session_is_bounded_like_any_other() -> None:
    session, _, _ = await detached(Bench(Limits(max_outbox_frames=3)))
    for n in range(3):
        session.send(Count(n))
    with pytest.raises(SessionClosed):
        session.send(Count(3))
    assert state_of(session) is SessionState.CLOSED and session.close_code is CloseCode.SLOW_CONSUMER


async def test_drain_waits_through_a_break() -> None:
    session, _, _ = await detached(Bench())
    session.send(Say("a"))
    waiting = asyncio.create_task(session.drain())
    await settle()
    assert not waiting.done()
    stream = FakeStream()
    stream.receiver = session
    session.attach(stream)
    await waiting
    assert len(stream.frames) == 1


# -- what a session is, and what waits for its end --


async def test_a_session_is_what_its_login_said() -> None:
    about: dict[str, Any] = dict(
        uid=9,
        slot=3,
        epoch=5,
        source=12,
        address="192.0.2.1",
        claims={"role": "admin"},
        verified_at=1_700_000_000.5,
        expires_at=1_700_000_060.0,
    )
    session, _ = Bench().session(**about)
    assert {name: getattr(session, name) for name in about} == about


async def test_a_session_is_in_the_groups_that_it_joined_until_it_leaves_or_ends() -> None:
    bench = Bench()
    (one, _), (other, stream) = bench.session(), bench.session(uid=8)
    groups = bench.context.groups
    for session in (one, other):
        session.join("red")
        session.join("blue")
    one.leave("red")
    assert groups.members("red") == [other] and groups.members("blue") == [one, other]
    other.close()
    assert groups.members("red") == [] and groups.members("blue") == [one]
    with pytest.raises(SessionClosed):
        other.join("red")
    stream.lose()
    assert groups.members("red") == [] and len(groups) == 1


async def test_a_session_without_a_connection_can_join_groups() -> None:
    bench = Bench()
    bench.owner.keeps = True
    session, stream = bench.session()
    stream.lose()
    session.join("red")
    assert bench.context.groups.members("red") == [session]


async def test_a_call_that_waits_for_the_last_handler_comes_once_when_it_has_ended() -> None:
    calls: list[str] = []
    session, _ = Bench().session()
    session.when_handled(lambda: calls.append("it lives on"))
    assert calls == ["it lives on"]
    session.close()
    session.when_handled(lambda: calls.append("released"))
    session.last_handler.then(lambda: calls.append("after the last"))
    assert calls == ["it lives on"]
    session.last_handler.ended()
    assert calls == ["it lives on", "released", "after the last"]
    session.last_handler.then(lambda: calls.append("late"))
    assert calls[3:] == ["late"]


async def test_a_session_holds_what_is_queued_and_what_is_not_handled() -> None:
    seen = Seen()
    session, stream = opened(Bench(), seen.handlers)
    assert session.held_bytes == 0
    stream.writable = False
    session.send_frame(numbered(1))
    queued = session.held_bytes
    assert queued == len(numbered(1))
    seen.gate.clear()
    session.receive([count(1), count(2)])
    await settle()
    assert session.held_bytes > queued
    seen.gate.set()
    await settle()
    assert session.held_bytes == queued
