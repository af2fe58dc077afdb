"""How a session notices that its peer is gone, or takes nothing, and what it asks to find out (limits.heartbeat_*,
max_outbox_age; docs/protocol.md, PING and PONG)."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.session.outbox import Full, Outbox
from gatelink.session.session import LEAST_BEAT, Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.stats import RTT_BUCKETS, Histogram
from gatelink.wire import control
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.control import Features
from tests.fakes import Bench, FakeHandlers, FakeStream, Say, extended_session, state_of, turn
from tests.limits import with_window
from tests.twins import frame
from tests.unit.session.support import Desk, say

SLOW = with_window(Limits(max_outbox_age=20, heartbeat_interval=5, heartbeat_timeout=60), 8)
TALKS = 2.0  # s between two messages of a peer that is heard


async def pass_time(desk: Desk, seconds: float) -> None:
    """The peer says something all the while, so that its silence ends nothing."""
    for _ in range(round(seconds / TALKS)):
        if state_of(desk.it) is SessionState.OPEN:
            desk.hear(say())
        await desk.pass_time(TALKS)


# -- a peer that takes none of its queued messages: limits.max_outbox_age --


async def test_a_ticketed_session_whose_peer_takes_nothing_is_detached_with_4006() -> None:
    desk = Desk(limits=SLOW)
    desk.stream.writable = False
    await desk.send(1)
    await pass_time(desk, 18)
    assert state_of(desk.it) is SessionState.OPEN
    await pass_time(desk, 10)
    assert state_of(desk.it) is SessionState.DETACHED and desk.stream.is_dropped
    assert desk.owner.calls == ["detached slow-consumer"]


async def test_a_peer_that_reads_and_never_acknowledges_is_the_same_once_its_window_is_full() -> None:
    desk = Desk(limits=SLOW)
    await desk.send(9)
    assert desk.it.outbox.count == 1, "one is held back by the window"
    await pass_time(desk, 28)
    assert desk.owner.calls == ["detached slow-consumer"]


async def test_one_that_takes_a_little_at_a_time_is_not() -> None:
    desk = Desk(limits=SLOW)
    await desk.send(100)
    for acknowledged in range(1, 20):
        await pass_time(desk, 16)
        desk.hear(control.Ack(acknowledged))
    assert state_of(desk.it) is SessionState.OPEN and desk.it.outbox.count == 73


async def test_one_whose_queue_is_empty_is_not_however_long_it_acknowledges_nothing() -> None:
    desk = Desk(limits=SLOW)
    await desk.send(8)
    await pass_time(desk, 200)
    assert state_of(desk.it) is SessionState.OPEN


async def test_nor_one_whose_acknowledgements_we_do_not_read() -> None:
    desk = Desk(limits=SLOW)
    await desk.send(9)
    desk.it.pause(Pause.LINK)
    await pass_time(desk, 100)
    assert state_of(desk.it) is SessionState.OPEN
    desk.it.resume(Pause.LINK)
    await pass_time(desk, 28)
    assert desk.owner.calls == ["detached slow-consumer"]


async def test_one_not_read_because_its_inbox_is_full_is_to_come_again_and_tell_what_it_has() -> None:
    """Its handlers may wait for its acknowledgements, and it for theirs."""
    desk = Desk(limits=SLOW)
    await desk.send(9)
    desk.it._paused = Pause.INBOX
    await pass_time(desk, 28)
    assert desk.owner.calls == ["detached slow-consumer"]


async def test_on_its_next_connection_it_has_all_the_time_again() -> None:
    desk = Desk(limits=SLOW)
    await desk.send(9)
    await pass_time(desk, 28)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    await pass_time(desk, 16)
    assert state_of(desk.it) is SessionState.OPEN
    desk.hear(control.Ack(8))
    assert desk.it.outbox.count == 0


async def test_a_base_session_ends_with_4006_and_what_was_queued_is_its_user_s() -> None:
    bench = Bench(SLOW)
    session, stream = bench.session()
    session.open()
    stream.writable = False
    session.send(Say("x"), full=Full.DROP_NEWEST)
    for _ in range(14):
        session.receive([say()])
        await bench.pass_time(TALKS)
    assert (session.close_code, stream.is_aborted) == (CloseCode.SLOW_CONSUMER, True)
    assert bench.owner.calls == ["detached slow-consumer", "closed", "released"] and session.outbox.count == 1


def test_what_counts_as_taken_is_what_was_sent() -> None:
    box = Outbox(10, 1_000)
    assert box.stalled(100, False) == 0
    box.push(frame(b"a"))
    assert box.stalled(110, True) == 10
    box.push(frame(b"b"))
    assert box.stalled(125, True) == 25
    box.take(1)
    assert box.stalled(130, True) == 0
    assert box.stalled(131, True) == 1
    assert box.stalled(132, False) == 0
    assert box.stalled(140, True) == 8


# -- how often a session is looked at --


def count_looks(monkeypatch: pytest.MonkeyPatch, session: Session) -> list[float]:
    """The times, of the clock, at which the wheel calls `session` from now on."""
    looks: list[float] = []
    kind = type(session)
    before = kind.on_deadline

    def noted(self: Session, now: float) -> None:
        looks.append(now)
        before(self, now)

    monkeypatch.setattr(kind, "on_deadline", noted)
    return looks


@pytest.mark.parametrize("features", [None, Features(0), Features.PING, Features.PING | Features.RESUME])
@pytest.mark.parametrize("queued", [0, 1, 20])
@pytest.mark.parametrize("why", [Pause(0), Pause.LINK, Pause.INBOX])
async def test_a_peer_that_neither_reads_nor_sends_is_looked_at_once_an_interval(
    monkeypatch: pytest.MonkeyPatch, features: Features | None, queued: int, why: Pause
) -> None:
    limits = with_window(Limits(heartbeat_interval=10, heartbeat_timeout=60, max_outbox_age=1_000), 8)
    bench: Bench = Bench(limits) if features is None else Desk(features, limits=limits)
    session = bench.it if isinstance(bench, Desk) else bench.session()[0]
    if features is None:
        session.open()
    stream = bench.stream if isinstance(bench, Desk) else session._stream
    assert isinstance(stream, FakeStream)
    stream.writable = False
    for n in range(queued):
        session.send(Say(str(n)))
    if why:
        session.pause(why)
    looks = count_looks(monkeypatch, session)
    await bench.pass_time(50)
    assert state_of(session) is SessionState.OPEN
    assert len(looks) <= 7, "five intervals, each up to a tenth shorter"


STEPS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.1, 25)),
    st.tuples(st.just("writable"), st.booleans()),
    st.tuples(st.just("hear"), st.sampled_from(["message", "ping", "pong", "nothing"])),
    st.tuples(st.just("pause"), st.sampled_from([Pause.LINK, Pause.INBOX, Pause.RATE])),
    st.tuples(st.just("resume"), st.sampled_from([Pause.LINK, Pause.INBOX, Pause.RATE])),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("measured"), st.floats(0, 5)),
)


@given(
    st.lists(STEPS, min_size=1, max_size=40),
    st.sampled_from([Features(0), Features.PING, Features.PING | Features.RESUME]),
    st.floats(0.5, 20),
    st.floats(1.1, 8),
)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_a_session_is_looked_at_a_few_times_a_second_at_most(
    plan: list[tuple[str, Any]], features: Features, interval: float, factor: float
) -> None:
    """Besides once for each event: one that came, an ACK that is due, a deadline that ends something."""

    async def walk() -> None:
        limits = Limits(heartbeat_interval=interval, heartbeat_timeout=interval * factor, max_outbox_age=30)
        desk = Desk(features, limits=with_window(limits, 8))
        with pytest.MonkeyPatch.context() as patch:
            looks = count_looks(patch, desk.it)
            began, events = desk.clock(), 0
            for what, value in plan:
                if state_of(desk.it) is not SessionState.OPEN:
                    break
                events += 1
                match what:
                    case "pass":
                        await desk.pass_time(value)
                    case "writable":
                        desk.stream.writable = value
                    case "hear" if value == "message":
                        desk.hear(say())
                    case "hear" if value == "ping" and features:
                        desk.hear(control.Ping(5, 0))
                    case "hear" if value == "pong" and features:
                        desk.hear(control.Pong(5, 0, 0))
                    case "pause":
                        desk.it.pause(value)
                    case "resume":
                        desk.it.resume(value)
                    case "send":
                        await desk.send(value)
                    case "measured":
                        desk.extension.rtt = value
            elapsed = desk.clock() - began
            least = min(interval * 0.9, LEAST_BEAT)
            assert len(looks) <= 2 + 2 * events + elapsed / least

    asyncio.run(walk())


# -- PING --


def pings(stream: FakeStream) -> int:
    return b"".join(stream.writes).count(bytes.fromhex("1100008006"))


async def test_a_peer_that_is_heard_is_asked_only_to_measure() -> None:
    desk = Desk()
    await pass_time(desk, 100)
    assert 3 <= pings(desk.stream) <= 4
    idle = Desk()
    for _ in range(10):
        await idle.pass_time(10.3)
        idle.hear(say())
    assert pings(idle.stream) == 10


async def test_while_it_may_not_have_got_what_it_was_sent_it_is_asked_often_but_not_too_often() -> None:
    desk = Desk()
    await desk.send(1)
    await desk.pass_time(30)
    assert 12 <= pings(desk.stream) <= 22, "from the first interval on, once a second"
    assert len({ping.sent_at for ping in desk.records if isinstance(ping, control.Ping)}) == 1
    quiet = Desk()
    await quiet.pass_time(30)
    assert pings(quiet.stream) == 3


async def ping_answered(desk: Desk, rtt: float = 0.0) -> None:
    """The first PING has measured a round trip of `rtt` seconds."""
    await desk.pass_time(10.1)
    (ping,) = (record for record in desk.records if isinstance(record, control.Ping))
    await desk.pass_time(rtt)
    desk.hear(control.Pong(ping.sent_at, 0, 0))


@pytest.mark.parametrize("sent", [0, 1])
async def test_a_peer_in_doubt_is_asked_when_the_session_wakes_though_it_was_heard_in_the_interval(
    sent: int,
) -> None:
    desk = Desk()
    await ping_answered(desk)
    await desk.pass_time(5)
    desk.hear(say())
    await desk.send(sent)
    await desk.pass_time(6)
    assert (pings(desk.stream) > 1) is bool(sent)


async def test_a_slow_path_is_doubted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame to a peer 2 s away is not in doubt before 4 round trips have gone by."""
    desk = Desk()
    monkeypatch.setattr("gatelink.session.extension.perf_counter", desk.clock)
    await ping_answered(desk, rtt=2)
    assert desk.it.rtt == pytest.approx(2, abs=0.3)
    await desk.pass_time(1)
    desk.hear(say())
    await desk.send(1)
    await desk.pass_time(8)
    assert pings(desk.stream) == 1
    await desk.pass_time(3)
    assert pings(desk.stream) == 2


async def test_a_dead_path_is_noticed_within_the_timeout_whatever_was_sent_before() -> None:
    for sent in (0, 1, 20):
        desk = Desk()
        await desk.send(sent)
        await desk.pass_time(60.4)
        assert desk.owner.calls[:1] == ["detached heartbeat-timeout" if sent < 9 else "detached slow-consumer"]


def opened(extended: bool) -> tuple[Bench, Session]:
    """An open session of either kind that beats every 10 s, and the clock that it lives by."""
    if extended:
        desk = Desk()
        return desk, desk.it
    bench = Bench(Limits(heartbeat_interval=10, heartbeat_timeout=60))
    session = bench.session()[0]
    session.open()
    return bench, session


@pytest.mark.parametrize("extended", [False, True])
async def test_a_session_and_its_deadlines_live_by_one_clock(extended: bool) -> None:
    bench, session = opened(extended)
    for _ in range(5):
        await bench.pass_time(50)
        session.receive([say()])
        assert session.last_heard == bench.clock()
    await bench.pass_time(59)
    assert state_of(session) is SessionState.OPEN
    await bench.pass_time(2)
    assert bench.owner.calls[0] == "detached heartbeat-timeout"


@pytest.mark.parametrize("extended", [False, True])
async def test_what_is_read_right_after_a_stall_was_heard_after_it(extended: bool) -> None:
    bench, session = opened(extended)
    bench.clock.advance(100)
    session.receive([say()])
    await bench.pass_time(59)
    assert state_of(session) is SessionState.OPEN


@pytest.mark.parametrize("extended", [False, True])
async def test_a_session_that_begins_where_nothing_ran_for_hours_has_all_its_time(extended: bool) -> None:
    bench, old = opened(extended)
    old.abort()
    await turn()
    assert not len(bench.context.wheel)
    bench.clock.advance(7_200)
    if extended:
        new: Session = extended_session(
            bench.context, bench.owner, FakeHandlers(), FakeStream(), uid=8, features=Features.PING
        )
    else:
        new = bench.session(uid=8)[0]
    new.open()
    await bench.pass_time(59)
    assert state_of(new) is SessionState.OPEN
    await bench.pass_time(2)
    assert state_of(new) is not SessionState.OPEN


@pytest.mark.parametrize("extended", [False, True])
async def test_while_it_is_not_read_its_silence_is_not_its_own(extended: bool) -> None:
    bench, session = opened(extended)
    await bench.pass_time(50)
    session.pause(Pause.LINK)
    await bench.pass_time(200)
    assert state_of(session) is SessionState.OPEN
    session.resume(Pause.LINK)
    await bench.pass_time(59)
    assert state_of(session) is SessionState.OPEN
    await bench.pass_time(2)
    assert bench.owner.calls[0] == "detached heartbeat-timeout"


async def test_an_answer_ends_the_doubt() -> None:
    desk = Desk()
    await desk.send(1)
    await desk.pass_time(12)
    (ping, *_) = (record for record in desk.records if isinstance(record, control.Ping))
    desk.hear(control.Pong(ping.sent_at, 1, 0))
    asked = pings(desk.stream)
    await desk.pass_time(8)
    assert pings(desk.stream) == asked
    assert desk.it.outbox.held_bytes == 0


async def test_the_first_answer_counts_when_several_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr("gatelink.session.extension.perf_counter", desk.clock)
    await desk.send(1)
    await desk.pass_time(14)
    asked: list[Any] = [record for record in desk.records if isinstance(record, control.Ping)]
    assert len(asked) > 2
    desk.hear(*[control.Pong(ping.sent_at, 1, 0) for ping in asked])
    assert desk.it.rtt == pytest.approx(4, abs=0.5) and sum(desk.stats.rtt.counts) == 1


async def test_the_round_trip_is_smoothed_and_each_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr("gatelink.session.extension.perf_counter", desk.clock)
    expected: float | None = None
    for seconds in (0.4, 1.2, 0.4):
        while not desk.extension._ping:
            await desk.pass_time(0.1)
        asked = desk.extension._ping
        await desk.pass_time(seconds)
        desk.hear(control.Pong(asked, 0, 0))
        expected = seconds if expected is None else expected + (seconds - expected) / 8
        assert desk.it.rtt == pytest.approx(expected, abs=0.01)
    assert desk.stats.rtt.counts == [0, 0, 0, 0, 0, 0, 2, 0, 1, 0] and desk.stats.rtt.sum == pytest.approx(2.0)


async def test_a_session_that_measures_nothing_has_no_round_trip() -> None:
    base: Session = Bench().session()[0]
    assert base.rtt is None
    assert Desk(Features.RESUME).it.rtt is None


async def test_a_base_peer_gets_its_heartbeats_as_ever() -> None:
    bench = Bench()
    session, stream = bench.session()
    session.open()
    for _ in range(10):
        await bench.pass_time(5)
        session.receive([say()])
    assert [frame[0] for frame in stream.frames] == [HEARTBEAT] * len(stream.frames) and len(stream.frames) >= 4


@pytest.mark.parametrize("value, at", [(0.0, 0), (0.005, 0), (0.0051, 1), (2.5, 8), (9.0, 9)])
def test_a_histogram_counts_a_value_in_the_first_bound_that_holds_it(value: float, at: int) -> None:
    histogram = Histogram(RTT_BUCKETS)
    histogram.observe(value)
    assert histogram.counts.index(1) == at and histogram.sum == value
