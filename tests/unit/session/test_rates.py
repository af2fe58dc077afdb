"""Token buckets against the definition of one, and what a meter lets through, pauses and ends."""

from hypothesis import given
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.session.rates import TokenBucket
from gatelink.session.stream import Pause
from tests.fakes import Bench, FakeStream, state_of

SLACK = 1e-6

steps = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30)), max_size=60)


@given(rate=st.floats(0.1, 50), burst=st.floats(1, 40), steps=steps)
def test_in_any_span_of_time_no_more_is_taken_than_the_burst_and_the_rate(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    """For all spans taken <= burst + rate * seconds; and none is refused that this allows."""
    bucket = TokenBucket(rate, burst, 0.0)
    now = 0.0
    taken: list[float] = []  # when
    for seconds, tries in steps:
        now += seconds
        for _ in range(tries):
            worst = max(
                (len(taken) - at + 1 - rate * (now - since) for at, since in enumerate(taken)), default=1.0
            )  # of all spans that end now and begin with something taken
            if bucket.take(now):
                assert max(worst, 1.0) <= burst + SLACK
                taken.append(now)
            else:
                assert worst > burst - SLACK


@given(rate=st.floats(0.1, 50), burst=st.floats(1, 40), tries=st.integers(1, 60))
def test_after_the_wait_there_is_a_token_and_not_before(rate: float, burst: float, tries: int) -> None:
    bucket = TokenBucket(rate, burst, 100.0)
    for _ in range(tries):
        bucket.take(100.0)
    wait = bucket.wait()
    if wait > SLACK:
        assert not bucket.take(100.0 + wait * 0.99)
    assert bucket.take(100.0 + wait * 1.01 + SLACK)


def test_a_clock_that_goes_back_brings_nothing() -> None:
    bucket = TokenBucket(1, 1, 100.0)
    assert bucket.take(100.0) and not bucket.take(99.0) and not bucket.take(100.5)
    assert bucket.take(101.0)


# -- the meter of a session --

LIMITS = Limits(message_rate=10, message_burst=20, byte_rate=50_000, byte_burst=110_000, rate_timeout=5)


class Desk(Bench):
    """A session with a meter that is full."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__(limits)
        self.it, self.stream = self.session()
        self.it.open()
        user, context = self.it.user, self.context
        self.meter = self.it.meter = user.metered(self.it, context.wheel, context.stats)

    def is_paused(self) -> bool:
        return Pause.RATE in self.stream.paused


async def test_a_burst_passes_and_one_message_more_pauses_until_it_is_paid() -> None:
    desk = Desk()
    desk.meter.charge(20, 100)
    assert not desk.is_paused()
    desk.meter.charge(5, 100)  # in debt by 5: half a second
    assert desk.is_paused() and desk.stats.rate_paused == 1
    await desk.pass_time(0.4)
    assert desk.is_paused()
    await desk.pass_time(0.3)
    assert not desk.is_paused()


async def test_bytes_are_charged_as_messages_are() -> None:
    desk = Desk()
    desk.meter.charge(0, 110_000)
    assert not desk.is_paused()
    desk.meter.charge(0, 25_000)
    assert desk.is_paused()
    await desk.pass_time(0.7)
    assert not desk.is_paused()


async def test_what_comes_at_the_rate_is_never_paused() -> None:
    desk = Desk()
    desk.meter.charge(20, 0)
    for _ in range(100):
        await desk.pass_time(0.1)
        desk.meter.charge(1, 0)
    assert desk.stats.rate_paused == 0


async def test_a_peer_that_is_over_its_rate_for_the_timeout_is_closed_with_4005() -> None:
    desk = Desk()
    seconds = 0.0
    while state_of(desk.it).name == "OPEN":
        if not desk.is_paused():
            desk.meter.charge(30, 0)
        await desk.pass_time(0.1)
        seconds += 0.1
        assert seconds < 20
    assert desk.it.close_code is CloseCode.RATE_LIMITED
    assert seconds >= 5
    assert desk.it.close_reason.startswith("more than 10 messages or 50000 bytes a second, paused for 5")


async def test_one_debt_that_is_longer_than_the_timeout_ends_it_too() -> None:
    desk = Desk()
    desk.meter.charge(1_000, 0)
    await desk.pass_time(4.8)
    assert desk.it.close_code is None
    await desk.pass_time(0.5)
    assert desk.it.close_code is CloseCode.RATE_LIMITED


async def test_pauses_are_forgotten_when_the_buckets_have_been_full() -> None:
    desk = Desk()
    for _ in range(5):
        desk.meter.charge(50, 0)  # 3 s of debt, each time
        await desk.pass_time(3.3)
        assert not desk.is_paused()
        await desk.pass_time(2.2)
        desk.meter.charge(0, 0)
    assert desk.it.close_code is None and desk.stats.rate_paused == 5


async def test_a_pause_that_is_made_longer_counts_once_for_what_it_lasts() -> None:
    desk = Desk()
    desk.meter.charge(25, 0)
    for _ in range(10):
        await desk.pass_time(0.4)
        desk.meter.charge(4, 0)
        assert desk.is_paused()
    assert desk.it.close_code is None, "4 s of 5"
    await desk.pass_time(0.8)
    assert not desk.is_paused() and desk.it.close_code is None


async def test_a_full_bucket_gives_the_whole_timeout_back() -> None:
    desk = Desk()
    desk.meter.charge(50, 0)  # 3 s of debt
    await desk.pass_time(3.2)
    await desk.pass_time(2.2)
    desk.meter.charge(0, 0)
    desk.meter.charge(68, 0)  # 4.8 s of debt: with nothing left of the first it is within 5
    await desk.pass_time(5)
    assert desk.it.close_code is None and not desk.is_paused()


async def test_what_was_on_its_way_when_the_pause_began_makes_it_longer_and_is_no_second_pause() -> None:
    desk = Desk()
    desk.meter.charge(25, 0)
    await desk.pass_time(0.2)
    desk.meter.charge(10, 0)
    assert desk.stats.rate_paused == 1
    await desk.pass_time(1.1)
    assert desk.is_paused()
    await desk.pass_time(0.4)
    assert not desk.is_paused()


async def test_a_read_after_a_stall_is_charged_against_what_the_stall_brought() -> None:
    """The wheel has not turned yet, so the meter looks at the clock before it pauses anybody."""
    desk = Desk()
    desk.meter.charge(20, 0)
    desk.clock.advance(2)
    desk.meter.charge(19, 0)
    assert not desk.is_paused() and desk.stats.rate_paused == 0
    desk.meter.charge(2, 0)
    assert desk.is_paused()


async def test_a_pause_holds_over_the_sessions_next_connection() -> None:
    """A client that breaks off and comes back still has its debt."""
    desk = Desk()
    desk.owner.keeps = True
    desk.meter.charge(30, 0)
    desk.stream.lose()
    stream = FakeStream()
    stream.receiver = desk.it
    desk.it.attach(stream)
    assert stream.paused & Pause.RATE
    await desk.pass_time(1.2)
    assert not stream.paused
    assert desk.it.meter is desk.meter


async def test_nothing_of_a_meter_is_left_with_its_session() -> None:
    desk = Desk()
    desk.meter.charge(30, 0)
    desk.it.close()
    desk.it.abort()
    desk.stream.lose()
    assert desk.it.meter is None and len(desk.context.wheel) == 0


async def test_heartbeats_of_two_users_drift_apart_and_stay_within_a_tenth() -> None:
    """After a stall all are due at once; the next time they are not."""
    desk = Bench()
    seconds = [desk.context.beat_interval(uid) for uid in range(1_000)]
    limit = desk.context.limits.heartbeat_interval
    assert all(0.9 * limit <= each <= limit for each in seconds)
    assert len({round(each, 1) for each in seconds}) >= 10
    assert seconds == [desk.context.beat_interval(uid) for uid in range(1_000)]
