"""Which messages of a read reach a handler, the session's forwarder, the forward hook, or nobody."""

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.handlers import Handlers
from gatelink.handling.fallback import RawFrame
from gatelink.session.session import Session
from gatelink.wire.frames import Frame
from tests.fakes import CATALOG, SAY, Bench, Count, Say, settle
from tests.handling import Seen, count, opened, say

OTHER, LOST = 11_501, 11_502  # ids that nobody registered; the forwarder takes the first alone


class Forwarder:
    """Takes frames of some ids, and no read that has others."""

    held_bytes = 0

    def __init__(self, *ids: int) -> None:
        self.ids = ids
        self.taken: list[Frame] = []

    def forward(self, frames: list[Frame]) -> bool:
        assert frames, "a read has at least one"
        if any(id not in self.ids for id, _, _ in frames):
            return False
        self.taken += frames
        return True

    def forward_answer(self, frame: Frame) -> None:
        raise AssertionError("nobody asked")


def forwarding(bench: Bench, table: Handlers, *ids: int) -> tuple[Session, Forwarder]:
    session, _ = opened(bench, table)
    session.forwarder = forwarder = Forwarder(*(ids or (OTHER,)))
    return session, forwarder


async def test_of_a_read_with_a_handlers_message_the_others_are_forwarded_one_by_one() -> None:
    bench, seen = Bench(), Seen()
    session, forwarder = forwarding(bench, seen.handlers)
    with capture_logs() as lines:
        session.receive([(OTHER, 0, b"1"), say("a"), (OTHER, 2, b"2")])
    assert forwarder.taken == [(OTHER, 0, b"1"), (OTHER, 2, b"2")] and seen.notes == ["verified", "a"]
    assert not bench.stats.unhandled and not lines


async def test_a_read_that_the_forwarder_takes_is_forwarded_once_and_reaches_nothing_else() -> None:
    bench, seen = Bench(), Seen()
    session, forwarder = forwarding(bench, seen.handlers, OTHER, SAY)
    frames = [(OTHER, 0, b"1"), say("a"), (OTHER, 2, b"2")]
    session.receive(frames)
    assert forwarder.taken == frames and seen.notes == ["verified"] and not bench.stats.unrouted


async def test_what_the_forwarder_does_not_take_goes_to_the_forward_hook() -> None:
    bench, seen = Bench(), Seen()
    session, forwarder = forwarding(bench, seen.handlers)
    raw: list[RawFrame] = []
    seen.handlers.on_forward(lambda session, frame: raw.append(frame))
    session.receive([(LOST, 1, b"1"), (OTHER, 0, b"2")])
    assert raw == [RawFrame(LOST, 1, b"1")] and forwarder.taken == [(OTHER, 0, b"2")]
    assert not bench.stats.unhandled


async def test_what_nobody_takes_is_counted_and_said_once_and_is_no_failure_of_a_handler() -> None:
    bench, seen = Bench(), Seen()
    session, _ = forwarding(bench, seen.handlers)
    with capture_logs() as lines:
        session.receive([(LOST, 0, b"hunter2")])
        assert len(lines) == 1
        session.receive([(LOST, 0, b"hunter2"), (LOST, 0, b"hunter2"), say("a")])
    assert bench.stats.unhandled == 3 and not bench.stats.handler_errors and seen.notes == ["verified", "a"]
    assert [(line["id"], line["uid"]) for line in lines] == [(LOST, session.uid)] and "hunter2" not in repr(lines)
    assert session.close_code is None


async def test_a_table_that_is_not_the_sessions_own_forwards_nothing() -> None:
    """A link's forwarder gave the frame to this table, and would give it to it again."""
    bench, seen = Bench(), Seen()
    session, forwarder = forwarding(bench, seen.handlers)
    posts = Handlers(CATALOG)
    posts.dispatch(session, [(OTHER, 0, b"")])
    assert not forwarder.taken and bench.stats.unhandled == 1


@pytest.mark.parametrize("behind", range(3))
async def test_a_table_that_a_session_is_given_forwards_what_is_left_of_the_read(behind: int) -> None:
    bench, own, table = Bench(), Handlers(CATALOG), Handlers(CATALOG)

    @table.on(Say)
    def hand_over(session: Session, message: Say) -> None:
        session.handlers = own

    session, forwarder = forwarding(bench, table)
    left = [(OTHER, 0, b"%d" % n) for n in range(behind)]
    session.receive([say("a"), *left])
    assert forwarder.taken == left and session.handlers is own


async def test_a_default_handler_gets_what_the_catalog_knows_though_the_forwarder_would_take_it() -> None:
    bench, table = Bench(), Handlers(CATALOG)
    heard: list[Any] = []
    table.default(lambda session, message: heard.append(message.text))
    session, forwarder = forwarding(bench, table, SAY, OTHER)
    session.receive([say("a")])
    session.receive([say("b"), (OTHER, 0, b"1")])
    assert heard == ["a", "b"] and forwarder.taken == [(OTHER, 0, b"1")]


@pytest.mark.parametrize("is_busy", [False, True], ids=["at once", "behind an async handler"])
async def test_a_rate_holds_while_messages_wait_too(is_busy: bool) -> None:
    bench, table = Bench(), Handlers(CATALOG)
    seen = Seen()
    table.on(Say, rate=2)(seen.say)
    table.on(Count)(seen.count)
    session, _ = opened(bench, table)
    seen.gate.clear()
    if is_busy:
        session.receive([count(1)])
        await settle()
    session.receive([say(text) for text in "abcd"])
    seen.gate.set()
    await settle()
    assert [note for note in seen.notes if isinstance(note, str)] == ["a", "b"]
    assert bench.stats.rate_dropped == {"Say": 2}


async def test_a_call_that_returns_a_generator_has_failed_and_the_next_message_is_handled() -> None:
    bench, table, seen = Bench(), Handlers(CATALOG), Seen()

    def steps() -> Iterator[int]:
        yield 1

    @table.on(Say)
    def plain(session: Session, message: Say) -> Any:
        seen.say(session, message)
        return steps()

    @table.on(Count)
    async def asynchronous(session: Session, message: Count) -> Any:
        await seen.count(session, message)
        return steps()

    session, _ = opened(bench, table)
    with capture_logs():
        session.receive([say("a"), count(1), say("b"), count(2)])
        await settle()
    assert seen.notes == ["a", 1, -1, "b", 2, -2] and session.inbox is None
    assert bench.stats.handler_errors == {"Say": 2, "Count": 2}
