"""Events keep their place among the messages of their session, and ticks theirs among all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.config import Limits
from gatelink.errors import CatalogError
from gatelink.handlers import CLOSED, Handlers
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from gatelink.wire.control import Lost, encode_control
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


async def test_an_event_that_a_handler_causes_waits_for_the_messages_before_it() -> None:
    seen = Seen()
    seen.handlers.on_suspended(lambda session: seen.notes.append("suspended"))
    bench = Bench()
    bench.owner.keeps = True
    session, stream = opened(bench, seen.handlers)

    @seen.handlers.around
    def lose(session: Session, message: Any, call_next: Any) -> Any:
        stream.lose()
        return call_next(session, message)

    for message in (Say("first"), Count(1), Say("last")):
        session.inject(message)
    await settle()
    assert seen.notes == ["verified", "first", 1, -1, "last", "suspended"]
    assert session.inbox is None and not bench.context.tasks


async def test_a_loss_that_outlives_the_messages_around_it_is_counted_until_it_is_told() -> None:
    seen = Seen()
    seen.handlers.on_lost(lambda session, lost: seen.notes.append(lost))
    session, _ = opened(Bench(), seen.handlers)
    seen.gate.clear()
    session.receive([count(1), say("never")])
    await settle()
    seen.handlers.lost(session, Lost(12, 3, 1))
    session.close()
    user = session.user
    assert session.held_bytes == user.bytes == len(encode_control(Lost(12, 3, 1)))
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, Lost(12, 3, 1), "closed"] and user.bytes == user.frames == 0


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("busy", [False, True])
async def test_a_call_that_waits_for_the_last_handler_comes_when_the_end_has_been_told(
    listens: bool, busy: bool
) -> None:
    seen = Seen()
    if not listens:
        del seen.handlers.routes[CLOSED]
    session, _ = opened(Bench(), seen.handlers)
    seen.gate.clear()
    if busy:
        session.receive([count(1)])
        await settle()
    session.close()
    session.last_handler.then(lambda: seen.notes.append("after the last"))
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


EMITTED: dict[str, Callable[[Handlers, Session], None]] = {
    "verified": Handlers.opened,
    "suspended": Handlers.suspended,
    "resumed": Handlers.resumed,
    "renewed": Handlers.renewed,
    "expiring": Handlers.expiring,
    "restarted": Handlers.restarted,
    "lost": lambda handlers, session: handlers.lost(session, Lost(12, 3, 1)),
}


@pytest.mark.parametrize("by", ["decorator", "method"])
@pytest.mark.parametrize("event", EMITTED)
async def test_the_failure_of_an_event_is_counted_and_logged_under_the_name_of_the_event(event: str, by: str) -> None:
    handlers = Handlers(CATALOG)

    def fail(*arguments: Any) -> None:
        raise LookupError

    if by == "decorator":
        getattr(handlers, f"on_{event}")(fail)
    else:
        handlers.register(type("Game", (), {f"on_{event}": staticmethod(fail)})())
    bench = Bench()
    session, _ = bench.session(handlers)
    with capture_logs() as logs:
        EMITTED[event](handlers, session)
    assert bench.stats.handler_errors == {event: 1}
    assert [(line["event"], line["message"]) for line in logs] == [("handler failed", event)]


class Watch:
    """An observer of a table that takes notes."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def opened(self, session: Session) -> None:
        self.notes.append("watch verified")

    def suspended(self, session: Session) -> None:
        self.notes.append("watch suspended")

    def resumed(self, session: Session) -> None:
        self.notes.append("watch resumed")

    def renewed(self, session: Session) -> None:
        self.notes.append("watch renewed")

    def closed(self, session: Session) -> None:
        self.notes.append("watch closed")


async def test_an_observer_is_called_before_the_handlers_of_an_event_but_after_those_of_the_end() -> None:
    notes: list[str] = []
    handlers = Handlers(CATALOG)
    handlers.observer = Watch(notes)
    for event in ("verified", "suspended", "resumed", "renewed", "closed"):
        getattr(handlers, f"on_{event}")(lambda session, event=event: notes.append(event))
    session, _ = opened(Bench(), handlers)
    handlers.suspended(session)
    handlers.resumed(session)
    handlers.renewed(session)
    session.close()
    await settle()
    before = ("verified", "suspended", "resumed", "renewed")
    assert notes == [*(text for event in before for text in (f"watch {event}", event)), "closed", "watch closed"]


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


@pytest.mark.parametrize("ticking", [False, True])
async def test_a_loss_keeps_its_place_among_the_messages_and_reaches_a_registered_method(ticking: bool) -> None:
    notes: list[Any] = []

    class Game:
        async def on_say(self, session: Session, message: Say) -> None:
            await turn()
            notes.append(message.text)

        async def on_lost(self, session: Session, lost: Lost) -> None:
            notes.append(lost)

    handlers = Handlers(CATALOG)
    handlers.ticking = ticking
    handlers.register(Game())
    session, _ = opened(Bench(), handlers)
    session.receive([say("a")])
    handlers.lost(session, Lost(12, 3, 1))
    session.receive([say("b")])
    handlers.tick()
    await settle()
    assert notes == ["a", Lost(12, 3, 1), "b"]


def test_a_handler_of_losses_takes_two_arguments() -> None:
    one_argument: Any = lambda session: None  # noqa: E731
    with pytest.raises(CatalogError, match="on_lost"):
        Handlers(CATALOG).on_lost(one_argument)
