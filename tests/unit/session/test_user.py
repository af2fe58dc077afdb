"""What the sessions of one user share, with the real manager and a clock that stands still."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.config import Limits
from gatelink.errors import CloseCode, LocalError
from gatelink.handlers import Handlers
from gatelink.session.groups import MAX_NAME_BYTES, MAX_OF_ONE
from gatelink.session.manager import SessionManager
from gatelink.session.rates import Meter
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from tests.fakes import CATALOG, Bench, Count, FakeStream, Say, settle
from tests.handling import count, say
from tests.support import run_watched

LIMITS = Limits(message_rate=10, message_burst=20, byte_rate=50_000, byte_burst=110_000, rate_timeout=5)


class House(Bench):
    """A bench with a manager; a login is given the user's meter, as the login check does it."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__(limits)
        self.manager = SessionManager(self.context, clock=self.clock)

    async def login(self, slot: int = 0, uid: int = 7, handlers: Handlers | None = None) -> tuple[Session, FakeStream]:
        epoch = await self.manager.claim(uid, slot)
        session, stream = self.session(handlers, owner=self.manager, uid=uid, slot=slot, epoch=epoch)
        self.manager.install(session)
        session.meter = session.user.metered(session, self.context.wheel, self.stats)
        session.open()
        return session, stream


def meter_of(session: Session) -> Meter:
    assert session.meter is not None
    return session.meter


# -- rates --

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["log in", "leave", "close"]), st.integers(0, 3)),
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 30)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_whatever_a_user_does_with_its_slots_it_gets_one_burst_and_one_rate(steps: list[tuple[str, int, int]]) -> None:
    """In any order of logins, breaks and reads: all that is read is within one burst, one rate, and one read's debt."""

    async def run() -> None:
        house = House(Limits(message_rate=10, message_burst=20, rate_timeout=1_000))
        here: dict[int, tuple[Session, FakeStream]] = {}
        other, its_stream = await house.login(uid=8)
        read, began = 0, house.clock()
        for what, *how in steps:
            if what == "wait":
                await house.pass_time(how[0] / 10)
            elif what == "log in":
                here[how[0]] = await house.login(how[0])
            elif (session_and_stream := here.get(how[0])) is None:
                continue
            elif what == "leave":
                session_and_stream[1].lose()
                del here[how[0]]
            elif what == "close":
                session_and_stream[0].close()
                session_and_stream[1].lose()
                del here[how[0]]
            elif not session_and_stream[1].paused & Pause.RATE:
                meter_of(session_and_stream[0]).charge(how[1], 10)
                read += how[1]
            assert read <= 20 + 10 * (house.clock() - began) + 30, "a burst, the rate, and the debt of one read"
            paused = {bool(stream.paused & Pause.RATE) for _, stream in here.values()}
            assert len(paused) <= 1, "all of them or none"
        meter_of(other).charge(20, 0)
        assert not other._paused, "another user has its own"
        for session, stream in (*here.values(), (other, its_stream)):
            session.close()
            stream.lose()
        await house.pass_time(100)  # the backlog of a base client waits for 90
        assert len(house.context.users) == 0 and len(house.context.wheel) == 0, "bounded by time"

    run_watched(run(), asyncio.new_event_loop)


async def test_a_user_is_known_until_its_buckets_are_full_and_then_forgotten() -> None:
    house = House()
    session, stream = await house.login()
    meter_of(session).charge(20, 0)
    stream.lose()
    assert len(house.context.users) == 1
    await house.pass_time(1)
    again, stream = await house.login(slot=1)
    assert again.user.full_in(house.clock()) == pytest.approx(1.0)
    stream.lose()
    await house.pass_time(0.8)
    assert len(house.context.users) == 1
    await house.pass_time(0.5)
    assert len(house.context.users) == 0


async def test_a_login_in_debt_is_not_read_until_the_debt_is_paid() -> None:
    house = House()
    session, stream = await house.login()
    meter_of(session).charge(30, 0)
    stream.lose()
    for slot in (0, 1, 2, 3):
        _, stream = await house.login(slot)
        assert stream.paused & Pause.RATE
        stream.lose()
    _, stream = await house.login()
    await house.pass_time(1.2)
    assert not stream.paused


async def test_over_the_rate_for_the_timeout_all_sessions_of_the_user_end_and_no_others() -> None:
    house = House()
    sessions = [(await house.login(slot))[0] for slot in (0, 1)]
    other, _ = await house.login(uid=8)
    meter_of(sessions[0]).charge(1_000, 0)
    await house.pass_time(5.3)
    assert [session.close_code for session in sessions] == [CloseCode.RATE_LIMITED] * 2
    assert other.close_code is None


async def test_pauses_add_up_over_logins() -> None:
    """rate_timeout is of the user, too: a user that comes again after each pause is closed, too."""
    house = House()
    for _ in range(20):
        session, stream = await house.login()
        if not stream.paused:
            meter_of(session).charge(30, 0)
        await house.pass_time(0.5)
        if session.close_code is CloseCode.RATE_LIMITED:
            return
        stream.lose()
    raise AssertionError("20 logins that were all over the rate")


async def test_messages_over_the_rate_of_their_type_are_dropped_whatever_slot_or_login_they_come_in() -> None:
    house = House()
    handlers = Handlers(CATALOG)
    seen: list[str] = []
    handlers.on(Say, rate=5)(lambda session, message: seen.append(message.text))
    for turn in range(3):
        for slot in range(4):
            session, stream = await house.login(slot, handlers=handlers)
            session.receive([say(f"{turn} {slot} {n}") for n in range(10)])
            stream.lose()
    assert len(seen) == 5 and house.stats.rate_dropped["Say"] == 115
    await house.pass_time(1.2)
    assert len(house.context.users) == 0


# -- the inbox, and handlers in tasks --


class Slow:
    """A table whose Count handlers wait for `gate`."""

    def __init__(self) -> None:
        self.handlers = Handlers(CATALOG)
        self.gate = asyncio.Event()
        self.running = self.most = 0
        self.done: list[int] = []
        self.handlers.on(Count)(self.count)

    async def count(self, session: Session, message: Count) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1
        self.done.append(message.n)


@pytest.mark.parametrize("each", [1, 5, 40])
async def test_a_user_that_comes_and_goes_has_as_many_handlers_and_waiting_messages_as_one_that_stays(
    each: int,
) -> None:
    limits = Limits(max_inbox=50, message_burst=10_000)
    house, slow = House(limits), Slow()
    sent = 0
    for turn in range(100):
        session, stream = await house.login(turn % 4, handlers=slow.handlers)
        if not stream.paused:
            session.receive([count(sent + n) for n in range(each)])
            sent += each
        await settle()
        stream.lose()  # it left by itself: its messages are still handled
    assert slow.most <= limits.max_slots
    assert sent <= limits.max_inbox + limits.max_slots + 2 * each
    before = slow.running
    other, _ = await house.login(uid=8, handlers=slow.handlers)
    other.receive([count(-1)])
    await settle()
    assert slow.running == before + 1, "another user's handlers do not wait"
    slow.gate.set()
    await settle()
    await settle()
    for _ in range(sent):
        await settle()
    assert sorted(slow.done) == list(range(-1, sent))
    user = session.user
    assert (user.frames, user.bytes, user.running, len(user.waiting)) == (0, 0, 0, 0)
    session, stream = await house.login(handlers=slow.handlers)
    assert not stream.paused


async def test_the_inbox_of_a_user_is_one_over_all_its_slots() -> None:
    limits = Limits(max_inbox=50)
    house, slow = House(limits), Slow()
    sessions = [await house.login(slot, handlers=slow.handlers) for slot in range(4)]
    sent = 0
    for turn in range(100):
        session, stream = sessions[turn % 4]
        if not stream.paused:
            session.receive([count(sent)])
            sent += 1
    assert sent <= limits.max_inbox + limits.max_slots + 1
    assert all(stream.paused & Pause.INBOX for _, stream in sessions) and house.stats.paused == 1
    slow.gate.set()
    for _ in range(sent):
        await settle()
    assert not any(stream.paused for _, stream in sessions)


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_a_message_that_fills_the_inbox_alone_is_followed_by_others(most: int) -> None:
    house, slow = House(Limits(max_inbox=most)), Slow()
    sessions = [await house.login(slot, handlers=slow.handlers) for slot in range(4)]
    for turn in range(8):
        session, stream = sessions[turn % 4]
        assert not stream.paused
        session.receive([count(turn)])
        slow.gate.set()
        await settle()
        slow.gate.clear()
    assert slow.done == list(range(8))


async def test_a_session_that_is_closed_here_gives_its_room_in_the_inbox_back() -> None:
    limits = Limits(max_inbox=50)
    house, slow = House(limits), Slow()
    first, _ = await house.login(0, handlers=slow.handlers)
    second, stream = await house.login(1, handlers=slow.handlers)
    first.receive([count(n) for n in range(60)])
    assert stream.paused & Pause.INBOX
    first.kick()
    assert not stream.paused and second.user.frames == 0
    slow.gate.set()
    await settle()


async def test_in_ticks_a_user_that_comes_and_goes_piles_up_no_handlers_either() -> None:
    limits = Limits(max_inbox=50, message_burst=10_000)
    house, slow = House(limits), Slow()
    slow.handlers.ticking = True
    sent = 0
    for turn in range(100):
        session, stream = await house.login(turn % 4, handlers=slow.handlers)
        if not stream.paused:
            session.receive([count(sent), count(sent + 1)])
            sent += 2
        slow.handlers.tick()
        await settle()
        stream.lose()
    assert slow.most == limits.max_slots and sent <= limits.max_inbox + 2 * limits.max_slots
    slow.gate.set()
    for _ in range(2 * sent):
        slow.handlers.tick()
        await settle()
    assert sorted(slow.done) == list(range(sent))
    user = session.user
    assert (user.frames, user.bytes, user.running, len(user.waiting), len(user.inboxes)) == (0, 0, 0, 0, 0)


async def test_handlers_that_wait_for_others_of_their_user_begin_when_the_server_stops() -> None:
    house, slow = House(), Slow()
    for turn in range(9):
        session, stream = await house.login(turn % 4, handlers=slow.handlers)
        session.receive([count(turn)])
        stream.lose()
    await settle()
    assert slow.running == 4
    house.context.users.lift()
    await settle()
    assert slow.running == 9
    slow.gate.set()
    await settle()


# -- groups --


async def test_the_groups_of_a_user_are_counted_over_its_sessions_and_given_back() -> None:
    house = House()
    sessions = [(await house.login(slot))[0] for slot in range(4)]
    for n in range(MAX_OF_ONE):
        sessions[n % 4].join(f"g{n}")
    for session in sessions:
        with pytest.raises(LocalError, match="1000 groups"):
            session.join("one more")
    sessions[0].join("g0")  # it is in it
    sessions[0].leave("g0")
    sessions[1].join("one more")
    sessions[2].close()
    for n in range(250):
        sessions[3].join(f"h{n}")
    other, _ = await house.login(uid=8)
    other.join("one more")
    for session in (*sessions, other):
        session.close()
    user = sessions[0].user
    assert (user.groups, user.group_bytes, len(house.context.groups)) == (0, 0, 0)


@pytest.mark.parametrize("letter", ["x", "é", "語", "\U0001f600"])
async def test_the_names_of_a_users_groups_have_a_bound_in_bytes(letter: str) -> None:
    house = House()
    sessions = [(await house.login(slot))[0] for slot in range(4)]
    joined = 0
    with pytest.raises(LocalError, match=str(MAX_NAME_BYTES)):
        for n in range(MAX_OF_ONE):
            sessions[n % 4].join(f"{n:03}" + letter * 252)
            joined += 1
    size = 3 + 252 * len(letter.encode())
    assert joined == MAX_NAME_BYTES // size
    sessions[0].close()
    sessions[1].join("y" * 255)
