"""Events keep their place among the messages of their session, and ticks theirs among all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.config import Limits
from gatelink.handlers import CLOSED, Handlers
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from tests.fakes import CATALOG, Bench, Count, FakeStream, Say, settle, turn
from tests.handling import Seen, count, opened, say

# -- events --

EVENTS = ("verified", "closed", "suspended", "resumed")


def note_events(handlers: Handlers, notes: list[Any], is_async: bool) -> None:
    """Registers handlers of all events that note them, as plain functions or as async ones that take a while."""
    for name in EVENTS:

        def plain(session: Session, name: str = name) -> None:
            notes.append(name)

        async def slow(session: Session, name: str = name) -> None:
            await turn()
            notes.append(name)

        register: Callable[[Any], Any] = getattr(handlers, f"on_{name}")
        register(slow if is_async else plain)


def note_messages(handlers: Handlers, notes: list[Any], is_async: bool) -> None:
    def plain(session: Session, message: Say) -> None:
        notes.append(message.text)

    async def slow(session: Session, message: Say) -> None:
        notes.append(f"{message.text} begins")
        await turn()
        notes.append(message.text)

    handlers.on(Say)(slow if is_async else plain)


@pytest.mark.parametrize("events_async", [False, True])
@pytest.mark.parametrize("messages_async", [False, True])
@pytest.mark.parametrize("ticking", [False, True])
async def test_verified_comes_before_the_first_message_and_closed_after_the_last(
    events_async: bool, messages_async: bool, ticking: bool
) -> None:
    notes: list[Any] = []
    handlers = Handlers(CATALOG)
    handlers.ticking = ticking
    note_events(handlers, notes, events_async)
    note_messages(handlers, notes, messages_async)
    session, stream = opened(Bench(), handlers)
    session.receive([say("a"), say("b")])
    stream.lose()  # what arrived before is still heard
    for _ in range(20):
        handlers.tick()
        await turn()
    assert [note for note in notes if "begins" not in note] == ["verified", "a", "b", "closed"]
    assert session.inbox is None and not session.context.tasks


@pytest.mark.parametrize("is_async", [False, True])
async def test_suspended_and_resumed_stand_in_line_with_the_messages(is_async: bool) -> None:
    notes: list[Any] = []
    handlers = Handlers(CATALOG)
    note_events(handlers, notes, is_async)
    note_messages(handlers, notes, is_async)
    bench = Bench()
    bench.owner.keeps = True
    session, stream = opened(bench, handlers)
    session.receive([say("a")])
    stream.lose()
    session.attach(FakeStream())
    session.receive([say("b")])
    await settle()
    await settle()
    assert [note for note in notes if "begins" not in note] == ["verified", "a", "suspended", "resumed", "b"]


@pytest.mark.parametrize("first", ["plain", "async"])
@pytest.mark.parametrize("closer", ["plain", "async"])
async def test_closing_in_a_handler_ends_the_burst_and_closed_comes_after_that_handler(first: str, closer: str) -> None:
    notes: list[str] = []
    handlers = Handlers(CATALOG)
    handlers.on_closed(lambda session: notes.append(f"closed {session.close_code}"))

    def close(session: Session, message: Say) -> None:
        session.kick()
        notes.append("kicked")

    async def close_slowly(session: Session, message: Say) -> None:
        session.kick()
        await settle()
        notes.append("kicked")

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        notes.append("count")

    handlers.on(Say)(close if closer == "plain" else close_slowly)
    session, _ = opened(Bench(), handlers)
    session.receive([*([count(1)] if first == "async" else []), say("x"), say("never"), count(2), say("never")])
    session.receive([say("never")])
    await settle()
    await settle()
    assert notes == [*(["count"] if first == "async" else []), "kicked", "closed 4009"]
    assert session.inbox is None


async def test_closing_from_outside_lets_the_running_handler_end_and_handles_nothing_more() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    seen.gate.clear()
    session.receive([count(1), say("never"), count(2)])
    await settle()
    session.close()
    await settle()
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, "closed"]


async def test_closing_from_outside_drops_the_messages_that_wait_and_still_tells_the_events_among_them() -> None:
    seen = Seen()
    seen.handlers.on_suspended(lambda session: seen.notes.append("suspended"))
    bench = Bench()
    bench.owner.keeps = True
    session, stream = opened(bench, seen.handlers)
    seen.gate.clear()
    session.receive([count(1), say("never")])
    stream.lose()
    await settle()
    assert session.held_bytes
    session.close()
    assert session.held_bytes == 0
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, "suspended", "closed"]


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("busy", [False, True])
async def test_who_waits_for_the_last_handler_is_called_when_the_end_has_been_told(listens: bool, busy: bool) -> None:
    seen = Seen()
    if not listens:
        del seen.handlers.routes[CLOSED]
    session, _ = opened(Bench(), seen.handlers)
    seen.gate.clear()
    if busy:
        session.receive([count(1)])
        await settle()
    session.close()
    session.after_handlers(lambda: seen.notes.append("after the last"))
    await settle()
    assert ("after the last" in seen.notes) is not busy
    seen.gate.set()
    await settle()
    assert seen.notes == [
        "verified",
        *([1, -1] if busy else []),
        *(["closed"] if listens else []),
        "after the last",
    ]


async def test_an_event_handler_that_raises_is_counted_and_harms_nothing() -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)

    @handlers.on_verified
    def fail(session: Session) -> None:
        raise LookupError

    @handlers.on_closed
    async def fail_too(session: Session) -> None:
        raise LookupError

    with capture_logs():
        session, _ = opened(bench, handlers)
        session.close()
        await settle()
    assert bench.stats.handler_errors == {"verified": 1, "closed": 1}


async def test_what_a_handler_sends_from_a_task_of_its_burst_leaves_in_one_write_a_turn() -> None:
    handlers = Handlers(CATALOG)

    @handlers.on(Count)
    async def echo(session: Session, message: Count) -> None:
        session.send(message)

    session, stream = opened(Bench(), handlers)
    session.receive([count(n) for n in range(10)])
    await settle()
    assert stream.frames == [count(n) for n in range(10)] and len(stream.writes) == 1


# -- ticks --


async def test_nothing_is_handled_between_ticks() -> None:
    seen = Seen()
    seen.handlers.ticking = True
    session, _ = opened(Bench(), seen.handlers)
    session.receive([say("a"), count(1)])
    await settle()
    assert seen.notes == []
    seen.handlers.tick()
    await settle()
    assert seen.notes == ["verified", "a", 1, -1]
    session.receive([say("b")])
    session.close()
    await settle()
    assert len(seen.notes) == 4
    seen.handlers.tick()
    await settle()
    assert seen.notes[4:] == ["closed"], "a closed session is not heard"


async def test_what_arrives_in_a_tick_waits_for_the_next() -> None:
    seen = Seen()
    handlers = seen.handlers
    handlers.ticking = True
    session, _ = opened(Bench(), handlers)
    handlers.tick()
    seen.gate.clear()
    session.receive([count(1), say("a")])
    handlers.tick()
    await settle()
    session.receive([say("b")])
    handlers.tick()  # the first is still at work
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, "a"]
    handlers.tick()
    assert seen.notes[4:] == ["b"]


async def test_a_tick_handles_sessions_in_the_order_in_which_they_were_heard() -> None:
    notes: list[int] = []
    handlers = Handlers(CATALOG)
    handlers.ticking = True
    handlers.on(Say)(lambda session, message: notes.append(session.uid))
    bench = Bench()
    sessions = [opened(bench, handlers, uid=uid)[0] for uid in (3, 1, 2)]
    for session in sessions:
        session.receive([say("a"), say("b")])
    handlers.tick()
    assert notes == [3, 3, 1, 1, 2, 2]


async def test_an_inbox_is_bounded_between_ticks() -> None:
    seen = Seen()
    seen.handlers.ticking = True
    bench = Bench(Limits(max_inbox=10))
    session, stream = opened(bench, seen.handlers)
    session.receive([say("a")] * 20)
    paused = [stream.paused]
    seen.handlers.tick()
    paused.append(stream.paused)
    assert paused == [Pause.INBOX, Pause(0)]
