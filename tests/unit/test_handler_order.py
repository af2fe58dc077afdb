"""In which order handlers get messages, and in how many turns of the loop."""

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.handlers import Handlers
from gatelink.handling.routes import TIME_BUCKETS
from gatelink.net.connection import deliver
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from gatelink.testing import FakeClock
from gatelink.wire.body import compress
from gatelink.wire.frames import COMPRESSED, FrameDecoder, encode_frame
from tests.fakes import CATALOG, COUNT, SAY, Bench, Count, FakeStream, Say, settle, turn
from tests.handling import Seen, count, opened, say
from tests.support import run_watched

# -- order --


@settings(max_examples=40)  # each is a life of some tenths of a second
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([SAY, COUNT]), st.integers(0, 3)), min_size=1, max_size=6),
        max_size=8,
    ),
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
    st.booleans(),
)
def test_messages_of_a_session_are_handled_in_order_one_at_a_time(
    reads: list[list[tuple[int, int]]], pauses: list[int], ticking: bool
) -> None:
    async def main() -> None:
        handlers = Handlers(CATALOG)
        handlers.ticking = ticking
        waits = [wait for read in reads for _, wait in read]
        began: list[int] = []
        ended: list[int] = []

        def begin(number: int) -> None:
            assert began == ended, "the one before it has ended"
            began.append(number)

        @handlers.on(Say)
        def on_say(session: Session, message: Say) -> None:
            begin(int(message.text))
            ended.append(int(message.text))

        @handlers.on(Count)
        async def on_count(session: Session, message: Count) -> None:
            begin(message.n)
            for _ in range(waits[message.n]):
                await turn()
            ended.append(message.n)

        session, _ = opened(Bench(), handlers)
        number = 0
        for read, turns in zip(reads, pauses, strict=False):
            frames = []
            for id, _ in read:
                frames.append(say(str(number)) if id == SAY else count(number))
                number += 1
            session.receive(frames)
            for _ in range(turns):
                await turn()
            if turns % 2:
                handlers.tick()
        while len(ended) < number:
            handlers.tick()
            await turn()
        assert ended == list(range(number))
        await settle()
        assert session.inbox is None

    run_watched(main())


async def test_sessions_do_not_wait_for_each_other() -> None:
    seen = Seen()
    bench = Bench()
    (slow, _), (fast, _) = opened(bench, seen.handlers), opened(bench, seen.handlers, uid=8)
    seen.gate.clear()
    slow.receive([count(1), say("slow")])
    await settle()
    fast.receive([say("fast")])
    assert seen.notes == ["verified", "verified", 1, "fast"]
    seen.gate.set()
    await settle()
    assert seen.notes[4:] == [-1, "slow"]


async def test_a_burst_of_async_messages_is_one_task_and_plain_ones_are_none() -> None:
    loop = asyncio.get_running_loop()
    made = 0

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **settings: Any) -> asyncio.Future[Any]:
        nonlocal made
        made += 1
        return asyncio.Task(coroutine, loop=loop, **settings)

    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    loop.set_task_factory(factory)
    tasks = []
    for frames in ([say("a")] * 50, [count(1)] * 50, [say("a"), count(1)] * 50):
        session.receive(frames)
        session.receive(frames)
        await settle()
        while session.inbox is not None:
            await turn()
        tasks.append(made)
    assert tasks == [0, 1, 2]
    assert not session.context.tasks


async def test_more_than_the_inbox_holds_pauses_reading_until_half_is_handled() -> None:
    handlers = Handlers(CATALOG)
    goes = asyncio.Semaphore(0)

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        await goes.acquire()

    bench = Bench(Limits(max_inbox=10))
    session, stream = opened(bench, handlers)
    session.receive([count(n) for n in range(10)])  # one is being handled, nine wait
    seen = [(9, stream.paused)]
    session.receive([count(10)])
    seen.append((10, stream.paused))
    while session.inbox is not None:
        goes.release()
        await settle()
        if session.inbox is not None:
            seen.append((len(session.inbox.items), stream.paused))
    paused = [(waiting, Pause.INBOX) for waiting in (10, 9, 8, 7, 6)]
    assert seen == [(9, Pause.INBOX), *paused, *((waiting, Pause(0)) for waiting in (5, 4, 3, 2, 1, 0))]
    assert bench.stats.paused == 1


async def test_the_inbox_is_bounded_in_bytes_too() -> None:
    seen = Seen()
    session, stream = opened(Bench(Limits(max_inbox_bytes=1_000)), seen.handlers)
    seen.gate.clear()
    paused = []
    session.receive([count(1), say("x" * 1_100)])
    paused.append(stream.paused)
    seen.gate.set()
    await settle()
    paused.append(stream.paused)
    assert paused == [Pause.INBOX, Pause(0)]
    assert session.inbox is None


async def test_an_inbox_that_is_full_of_bytes_is_read_again_when_half_of_them_are_handled() -> None:
    paused: list[tuple[str, Pause]] = []

    class Noting(Seen):
        def say(self, session: Session, message: Say) -> None:
            paused.append((message.text[0], stream.paused))

    handlers = Noting().handlers
    handlers.ticking = True
    session, stream = opened(Bench(Limits(max_inbox_bytes=1_000)), handlers)
    handlers.tick()
    session.receive([say(letter + "x" * 240) for letter in "abcd"])
    assert stream.paused == Pause(0)
    session.receive([say("e" + "x" * 240)])
    assert stream.paused == Pause.INBOX
    handlers.tick()
    assert paused == [("a", Pause.INBOX), ("b", Pause.INBOX), ("c", Pause(0)), ("d", Pause(0)), ("e", Pause(0))]


async def test_a_full_inbox_pauses_the_next_connection_too() -> None:
    seen = Seen()
    bench = Bench(Limits(max_inbox=2))
    bench.owner.keeps = True
    session, stream = opened(bench, seen.handlers)
    seen.gate.clear()
    session.receive([count(1)] * 4)
    stream.lose()
    after = FakeStream()
    session.attach(after)
    paused = [after.paused]
    seen.gate.set()
    await settle()
    paused.append(after.paused)
    assert paused == [Pause.INBOX, Pause(0)]


# -- turns --


@pytest.mark.parametrize("waits", [False, True], ids=["from the connection", "from the inbox"])
async def test_handlers_that_take_long_leave_the_loop_to_others_and_go_on_in_order(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr("gatelink.handlers.TURN_SECONDS", 0.005)
    monkeypatch.setattr("gatelink.handlers.perf_counter", clock)

    class Working(Seen):
        def say(self, session: Session, message: Say) -> None:
            clock.advance(0.002)
            super().say(session, message)

    seen = Working()
    session, _ = opened(Bench(), seen.handlers)
    if waits:
        seen.gate.clear()
        session.receive([count(0), *(say(str(n)) for n in range(8))])
        await settle()
        seen.gate.set()
        await turn()
    else:
        session.receive([say(str(n)) for n in range(8)])
    session.receive([say("later")])
    assert "later" not in seen.notes
    heard = len(seen.notes)
    rounds = 0
    while "later" not in seen.notes:
        await turn()
        assert len(seen.notes) - heard <= 3, "6 ms of work, then others have their turn"
        heard = len(seen.notes)
        rounds += 1
    assert [note for note in seen.notes if isinstance(note, str)] == ["verified", *map(str, range(8)), "later"]
    assert rounds >= 2


@pytest.mark.parametrize("waits", [False, True], ids=["from the connection", "from the inbox"])
async def test_the_time_of_a_call_is_counted_wherever_it_is_made(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("gatelink.handlers.perf_counter", clock)

    class Working(Seen):
        def say(self, session: Session, message: Say) -> None:
            clock.advance(0.02)

    seen = Working()
    route = seen.handlers.routes[SAY]
    session, _ = opened(Bench(), seen.handlers)
    session.receive([*([count(1)] if waits else []), say("a"), say("b")])
    await settle()
    at = next(at for at, most in enumerate(TIME_BUCKETS) if most >= 0.02)
    assert route.buckets[at] == 2 and sum(route.buckets) == 2
    assert route.count == 2 and route.seconds == pytest.approx(0.04)


async def test_in_unit_tests_what_comes_together_is_handled_together_on_both_cores_however_long_that_takes() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    @handlers.on(Say)
    def slow(session: Session, message: Say) -> None:
        time.sleep(0.006)  # longer than a turn, as where the machine stops this process
        heard.append(message.text)

    session, _ = opened(Bench(), handlers)
    data = b"".join(encode_frame(id, body) for id, _, body in map(say, "ab"))
    deliver(FrameDecoder(1_000), data, len(data), session, None)
    assert heard == ["a", "b"]


async def test_a_burst_whose_last_handler_took_long_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("gatelink.handlers.TURN_SECONDS", 0.005)
    monkeypatch.setattr("gatelink.handlers.perf_counter", clock)
    handlers = Handlers(CATALOG)
    handlers.on(Say)(lambda session, message: clock.advance(1))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([say("a")])
    assert session.inbox is None and not bench.context.tasks


async def test_a_handler_that_closes_is_the_last_though_it_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("gatelink.handlers.TURN_SECONDS", 0.005)
    monkeypatch.setattr("gatelink.handlers.perf_counter", clock)
    handlers = Handlers(CATALOG)
    said: list[str] = []

    @handlers.on(Say)
    def on_say(session: Session, message: Say) -> None:
        said.append(message.text)
        session.close()
        clock.advance(1)

    session, _ = opened(Bench(), handlers)
    session.receive([say("a"), say("b")])
    await settle()
    assert said == ["a"]


# -- what follows in a burst comes once, whatever becomes of the first part of it --


async def test_what_a_plain_function_returns_to_be_awaited_is_awaited_before_the_next_message() -> None:
    notes: list[str] = []

    async def work(text: str) -> None:
        notes.append(f"{text} begins")
        await turn()
        notes.append(f"{text} ends")

    handlers = Handlers(CATALOG)
    handlers.on(Say)(lambda session, message: work(message.text))
    session, _ = opened(Bench(), handlers)
    session.receive([say(text) for text in "abc"])
    await settle()
    assert notes == [f"{text} {what}" for text in "abc" for what in ("begins", "ends")]


@pytest.mark.parametrize("at", range(4))
async def test_a_table_that_a_session_is_given_in_a_burst_has_the_rest_of_it(at: int) -> None:
    own = Seen()
    first: list[str] = []
    handlers = Handlers(CATALOG)

    @handlers.on(Say)
    def hand_over(session: Session, message: Say) -> None:
        first.append(message.text)
        if message.text == str(at):
            session.handlers = own.handlers

    session, _ = opened(Bench(), handlers)
    session.receive([say(str(n)) for n in range(4)])
    await settle()
    assert first == [str(n) for n in range(at + 1)]
    assert own.notes == [str(n) for n in range(at + 1, 4)]


async def test_a_body_behind_an_async_handler_is_opened_as_its_flags_say() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    id, _, body = say("x" * 500)
    session.receive([count(1), (id, COMPRESSED, compress(body)), say("plain")])
    await settle()
    assert seen.notes == ["verified", 1, -1, "x" * 500, "plain"]


async def test_an_inbox_that_fills_up_again_pauses_again() -> None:
    bench = Bench(Limits(max_inbox=4))
    seen = Seen()
    session, stream = opened(bench, seen.handlers)
    for times in (1, 2):
        seen.gate.clear()
        session.receive([count(n) for n in range(6)])
        assert stream.paused == Pause.INBOX and bench.stats.paused == times
        seen.gate.set()
        await settle()
        await settle()
        assert stream.paused == Pause(0)
