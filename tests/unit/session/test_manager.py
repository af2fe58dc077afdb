"""Who is here and which login is current: a newer one always wins, and nothing late from an older one touches it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from gatelink.config import Limits
from gatelink.errors import CatalogError, CloseCode, ProtocolError, VerifyError
from gatelink.session.control_frames import control_frame
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME, Backlog, Duplicate, SessionManager
from gatelink.session.outbox import Full
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.timers import TICK
from gatelink.wire.codecs import Decode, Encode
from gatelink.wire.control import Close, Features, GoAway, decode_control, encode_control
from gatelink.wire.frames import CONTROL, encode_frame
from gatelink.wire.messages import Catalog
from tests.fakes import CLOSE, COUNT, Bench, FakeHandlers, FakeStream, Say, extended_session, settle, state_of, turn
from tests.support import run_watched

WINDOW = 90.0  # the default of Limits


def numbered(n: int) -> bytes:
    return encode_frame(COUNT, b"%06d" % n)


class House(Bench):
    """A bench with a manager, who owns the sessions."""

    def __init__(
        self, limits: Limits | None = None, duplicate: Duplicate = Duplicate.NEWER_WINS, **settings: Any
    ) -> None:
        super().__init__(limits, **settings)
        self.unix = 1_700_000_000.0
        self.manager = SessionManager(self.context, duplicate, clock=lambda: self.unix)

    def claimed(self, uid: int, epoch: int, **about: Any) -> tuple[Session, FakeStream]:
        """A session with what `claim` gave, not installed."""
        return self.session(owner=self.manager, uid=uid, epoch=epoch, **about)

    async def login(self, uid: int = 7, **about: Any) -> tuple[Session, FakeStream, Backlog | None]:
        """The whole of a login, as the login check does it."""
        epoch = await self.manager.claim(uid, about.get("slot", 0))
        session, stream = self.claimed(uid, epoch, **about)
        backlog = self.manager.install(session)
        session.open()
        return session, stream, backlog

    async def break_with(self, *frames: bytes, uid: int = 7) -> None:
        """A login whose connection breaks while `frames` are queued."""
        session, stream, _ = await self.login(uid)
        stream.writable = False
        for frame in frames:
            session.send_frame(frame)
        stream.lose(ConnectionResetError())


# -- who is here --


async def test_sessions_are_found_by_user_slot_and_address() -> None:
    house = House()
    phone, _, _ = await house.login(7, address="10.0.0.1")
    desk, _, _ = await house.login(7, slot=1, address="10.0.0.1")
    other, stream, _ = await house.login(8, address="10.0.0.2")
    manager = house.manager
    assert len(manager) == 3 and list(manager) == [phone, desk, other]
    assert (manager.get(7), manager.get(7, 1), manager.get(8), manager.get(9)) == (phone, desk, other, None)
    assert manager.at("10.0.0.1") == [phone, desk]
    stream.lose()
    assert len(manager) == 2 and manager.get(8) is None
    assert phone in manager and other not in manager and "7" not in manager


async def test_sessions_may_come_and_go_while_all_are_looked_at() -> None:
    house = House()
    for uid in range(5):
        await house.login(uid)
    for session in house.manager:
        session.close()
        await house.login(session.uid + 100)
    assert sorted(session.uid for session in house.manager) == [100, 101, 102, 103, 104]


# -- which login is current --


async def test_a_newer_login_tells_and_closes_the_older_session() -> None:
    house = House()
    older, stream, _ = await house.login()
    older.send_frame(numbered(1))
    newer, _, _ = await house.login()
    assert house.manager.get(7) is newer and len(house.manager) == 1
    assert older.close_code is CloseCode.REPLACED
    await turn()
    assert b"".join(stream.writes) == numbered(1) + DUPLICATE_LOGIN_FRAME
    assert stream.log[-1] == CLOSE


@pytest.mark.parametrize("how", ["lost", "reset", "broken", "closed", "silence"])
async def test_nothing_late_from_the_older_session_touches_the_newer_one(how: str) -> None:
    house = House()
    older, stream, _ = await house.login()
    newer, _, _ = await house.login()
    match how:
        case "lost":
            stream.lose()
        case "reset":
            stream.lose(ConnectionResetError())
        case "broken":
            older.broken(ProtocolError("late"))
        case "closed":
            older.close(CloseCode.KICKED)
        case "silence":
            await house.pass_time(10)
    await settle()
    assert house.manager.get(7) is newer and state_of(newer) is SessionState.OPEN
    assert older.close_code is CloseCode.REPLACED
    _, _, backlog = await house.login()
    assert backlog is None, "what the older session had queued was delivered to it, or not at all"


async def test_slots_of_a_user_do_not_replace_each_other() -> None:
    house = House()
    phone, _, _ = await house.login(7)
    await house.login(7, slot=1)
    assert state_of(phone) is SessionState.OPEN


@pytest.mark.parametrize("first", ["older", "newer"])
async def test_of_two_logins_at_once_the_newer_claim_wins_whoever_installs_first(first: str) -> None:
    house = House()
    manager = house.manager
    older = house.claimed(7, await manager.claim(7))[0]
    newer = house.claimed(7, await manager.claim(7))[0]
    if first == "newer":
        manager.install(newer)
    with pytest.raises(VerifyError, match="newer login came first"):
        manager.install(older)
    if first == "older":
        manager.install(newer)
    assert manager.get(7) is newer and len(manager) == 1


async def test_a_login_that_was_refused_leaves_the_session_that_is_here() -> None:
    house = House()
    current, stream, _ = await house.login()
    stale = house.claimed(7, current.epoch - 1)[0]
    with pytest.raises(VerifyError):
        house.manager.install(stale)
    stale.close()
    await settle()
    assert house.manager.get(7) is current and stream.log == []


async def test_a_claim_that_is_released_lets_an_older_one_in() -> None:
    house = House()
    manager = house.manager
    first, second = await manager.claim(7), await manager.claim(7)
    manager.release(7, 0, first)
    with pytest.raises(VerifyError):
        manager.install(house.claimed(7, first)[0])
    manager.release(7, 0, second)
    manager.install(house.claimed(7, first)[0])
    assert len(manager) == 1
    manager.release(7, 0, second)
    assert not manager._logins


async def test_no_claim_is_left_behind() -> None:
    house = House()
    for uid in range(100):
        await house.login(uid)
        house.manager.release(1_000 + uid, 0, await house.manager.claim(1_000 + uid))
    assert not house.manager._logins


async def test_epochs_grow_while_the_clock_steps_back() -> None:
    house = House()
    epochs = []
    for step in (0.0, 1.0, -100.0, 0.0, 0.0, 200.0, -1.0):
        house.unix += step
        epochs += [await house.manager.claim(7), await house.manager.claim(8)]
    assert epochs == sorted(set(epochs))
    assert epochs[0] == 1_700_000_000 * 1_000_000, "microseconds of unix time"
    house.unix -= 10_000
    older, _, _ = await house.login()
    newer, _, _ = await house.login()
    assert house.manager.get(7) is newer and newer.epoch > older.epoch


async def test_a_login_is_refused_while_its_user_is_here_if_that_is_the_policy() -> None:
    house = House(duplicate=Duplicate.REFUSE_NEW)
    current, stream, _ = await house.login()
    with pytest.raises(VerifyError, match="newer logins are refused"):
        await house.manager.claim(7)
    assert state_of(current) is SessionState.OPEN
    await house.manager.claim(7, slot=1)
    stream.lose()
    again, _, _ = await house.login()
    assert house.manager.get(7) is again


@pytest.mark.parametrize("first", ["older", "newer"])
async def test_of_two_claims_before_either_is_installed_one_gets_in_under_refuse_new(first: str) -> None:
    house = House(duplicate=Duplicate.REFUSE_NEW)
    claims = [house.claimed(7, await house.manager.claim(7))[0] for _ in range(2)]
    installed = []
    for session in claims if first == "older" else reversed(claims):
        try:
            house.manager.install(session)
            installed.append(session)
        except VerifyError:
            continue
    assert installed == claims[1:] and state_of(claims[1]) is SessionState.OPEN


# -- one message to many --


class Counting:
    """A codec that counts how often it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        def encode(message: Any) -> bytes:
            self.encoded += 1
            return bytes(message.n)

        return encode, lambda body: cls(len(body))


class News(Struct):
    n: int


async def test_a_broadcast_is_encoded_once_and_passes_over_who_has_left() -> None:
    codec = Counting()
    catalog = Catalog()
    catalog.add(11_001, News, codec=codec)
    house = House(catalog=catalog)
    here = [await house.login(uid) for uid in range(10)]
    closing, gone = here[3][0], here[4][1]
    closing.close()
    gone.lose()
    assert house.manager.broadcast(News(5), [session for session, _, _ in here]) == 8
    await turn()
    assert codec.encoded == 1
    got = [stream.frames for _, stream, _ in here]
    assert got.count([(11_001, 0, bytes(5))]) == 8 and got.count([]) == 2
    assert house.stats.sent["News"].messages == 8


async def test_a_broadcast_goes_to_all_or_to_whom_it_is_for() -> None:
    house = House()
    here = [await house.login(uid) for uid in range(4)]
    assert house.manager.broadcast(Say("all")) == 4
    assert house.manager.broadcast(Say("some"), (session for session, _, _ in here[:2])) == 2
    await turn()
    assert [len(stream.frames) for _, stream, _ in here] == [2, 2, 1, 1]
    traffic = house.stats.sent_of("Say")
    assert (traffic.messages, traffic.bytes) == (
        6,
        sum(len(write) for _, stream, _ in here for write in stream.writes),
    )
    with pytest.raises(CatalogError):
        house.manager.broadcast("text")


async def test_a_slow_consumer_of_a_broadcast_costs_only_itself() -> None:
    house = House(Limits(max_outbox_frames=2))
    here = [await house.login(uid) for uid in range(3)]
    here[1][1].writable = False
    took = []
    for _ in range(4):
        took.append(house.manager.broadcast(Say("x")))
        await turn()
    assert took == [3, 3, 2, 2]
    assert here[1][0].close_code is CloseCode.SLOW_CONSUMER
    assert [len(stream.frames) for _, stream, _ in here] == [4, 0, 4]


async def test_a_broadcasts_key_and_policy_hold_for_everybody() -> None:
    house = House(Limits(max_outbox_frames=2))
    _, stream, _ = await house.login()
    for text in "abc":
        house.manager.broadcast(Say(text), key=1)
    house.manager.broadcast(Say("d"))
    house.manager.broadcast(Say("e"), full=Full.DROP_NEWEST)
    await turn()
    assert len(stream.frames) == 2


# -- the backlog window --


async def test_what_a_broken_session_had_queued_goes_to_the_next_login_of_its_user() -> None:
    house = House()
    await house.break_with(numbered(1), numbered(2))
    _, _, other = await house.login(8)
    assert other is None
    _, _, slot = await house.login(7, slot=1)
    assert slot is None
    _, _, backlog = await house.login(7)
    assert backlog is not None and backlog.frames == [numbered(1), numbered(2)]
    _, _, again = await house.login(7)
    assert again is None, "it is given once"
    assert house.stats.backlogs_dropped == 0


async def test_a_session_that_broke_with_nothing_queued_is_remembered_too() -> None:
    house = House()
    await house.break_with()
    _, _, backlog = await house.login()
    assert backlog is not None and backlog.frames == []


async def test_what_was_written_when_the_connection_broke_counts_as_sent() -> None:
    house = House(Limits(write_high_water=1))
    session, stream, _ = await house.login()
    for n in range(3):
        session.send_frame(numbered(n))
    await turn()
    assert stream.writes == [numbered(0)]
    stream.lose(ConnectionResetError())
    _, _, backlog = await house.login()
    assert backlog is not None and backlog.frames == [numbered(1), numbered(2)]


async def test_a_session_that_was_closed_leaves_nothing_to_a_later_login() -> None:
    house = House()
    session, stream, _ = await house.login()
    stream.writable = False
    session.send_frame(numbered(1))
    session.close()
    stream.lose()
    _, _, backlog = await house.login()
    assert backlog is None


async def test_the_window_ends_after_its_time_not_before() -> None:
    house = House()
    await house.break_with(numbered(1), uid=7)
    await house.pass_time(WINDOW - TICK)
    await house.break_with(numbered(1), numbered(2), uid=8)
    _, _, backlog = await house.login(7)
    assert backlog is not None
    await house.pass_time(WINDOW + 3 * TICK)
    assert house.stats.backlogs_dropped == 2
    _, _, backlog = await house.login(8)
    assert backlog is None


async def test_a_window_belongs_to_its_session_not_to_the_next_one_of_that_user() -> None:
    house = House()
    await house.break_with(numbered(1))
    await house.pass_time(WINDOW / 2)
    await house.break_with(numbered(2))  # logs in, and breaks again
    await house.pass_time(WINDOW / 2 + 1)  # the first window would be over
    _, _, backlog = await house.login()
    assert backlog is not None and backlog.frames == [numbered(2)]


async def test_backlogs_are_bounded_in_number_and_the_oldest_is_forgotten() -> None:
    house = House(Limits(max_backlogs=3))
    for uid in range(5):
        await house.break_with(numbered(uid), uid=uid)
    assert house.stats.backlogs_dropped == 2
    kept = [(await house.login(uid))[2] is not None for uid in range(5)]
    assert kept == [False, False, True, True, True]


async def test_backlogs_are_bounded_in_bytes_and_the_oldest_is_forgotten() -> None:
    size = len(numbered(0))
    house = House(Limits(max_backlog_bytes=5 * size))
    await house.break_with(numbered(0), numbered(1), uid=0)
    await house.break_with(numbered(0), numbered(1), uid=1)
    await house.break_with(numbered(0), numbered(1), uid=2)
    assert house.stats.backlogs_dropped == 2
    assert [(await house.login(uid))[2] is not None for uid in range(3)] == [False, True, True]


async def test_a_backlog_that_would_not_fit_alone_is_dropped_and_forgets_no_other() -> None:
    size = len(numbered(0))
    house = House(Limits(max_backlog_bytes=2 * size))
    await house.break_with(numbered(0), uid=0)
    await house.break_with(*map(numbered, range(3)), uid=1)
    assert house.stats.backlogs_dropped == 3
    backlogs = [(await house.login(uid))[2] for uid in range(2)]
    assert [backlog and backlog.frames for backlog in backlogs] == [[numbered(0)], []]


@settings(max_examples=40)  # each is a life of some tenths of a second
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 60)), max_size=25))
def test_every_message_of_a_broken_session_is_given_once_or_counted_as_dropped(
    plan: list[tuple[int, int, int]],
) -> None:
    size = len(numbered(0))

    async def main() -> None:
        house = House(Limits(max_backlogs=2, max_backlog_bytes=5 * size))
        n = given = held = 0
        for uid, queued, seconds in plan:
            session, stream, backlog = await house.login(uid)
            given += len(backlog.frames) if backlog is not None else 0
            stream.writable = False
            for _ in range(queued):
                session.send_frame(numbered(n))
                n += 1
            stream.lose(ConnectionResetError())
            held = n - given - house.stats.backlogs_dropped
            assert 0 <= held <= 5 and len(house.manager._backlogs) <= 2
            assert house.manager._backlog_bytes == held * size
            house.jump(seconds)
        house.jump(WINDOW + 1)
        assert given + house.stats.backlogs_dropped == n
        assert len(house.context.wheel) == 0 and house.manager._backlog_bytes == 0

    run_watched(main())


# -- one message to one --


async def test_a_push_reaches_the_user_s_device_if_it_is_here_and_says_whether() -> None:
    house = House()
    _, phone, _ = await house.login(7)
    desk_session, desk, _ = await house.login(7, slot=1)
    assert await house.manager.push(7, Say("phone"))
    assert await house.manager.push(7, Say("desk"), 1)
    assert not await house.manager.push(8, Say("nobody"))
    await turn()
    assert (len(phone.frames), len(desk.frames)) == (1, 1) and desk.frames[0][2].endswith(b"desk")
    desk_session.close()
    assert not await house.manager.push(7, Say("gone"), 1)


async def test_a_push_has_a_key_and_a_policy_as_a_send_has() -> None:
    house = House(Limits(max_outbox_frames=2))
    _, stream, _ = await house.login(7)
    for text in ("a", "b", "c"):
        assert await house.manager.push(7, Say(text), key=1)
    for text in ("d", "e"):
        assert await house.manager.push(7, Say(text), full=Full.DROP_NEWEST)
    await turn()
    assert [frame[2][-1:] for frame in stream.frames] == [b"c", b"d"]


# -- sessions that can be resumed --


class Ticketed(House):
    """A house whose sessions have tickets."""

    async def ticketed(self, uid: int) -> tuple[Session, FakeStream]:
        stream = FakeStream()
        epoch = await self.manager.claim(uid)
        session = extended_session(
            self.context, self.manager, FakeHandlers(), stream, uid=uid, epoch=epoch, features=Features.RESUME
        )
        stream.receiver = session
        self.manager.install(session)
        self.manager.issue_ticket(session)
        session.open()
        return session, stream


def session_id(session: Session) -> bytes:
    assert session.ticket is not None
    return session.ticket.session_id


async def test_a_session_is_found_by_its_ticket_until_it_ends() -> None:
    house = Ticketed()
    session, stream = await house.ticketed(7)
    id = session_id(session)
    assert house.manager.by_ticket(id) is session and house.manager.by_ticket(bytes(16)) is None
    stream.lose(ConnectionResetError())
    assert house.manager.by_ticket(id) is session and house.manager.get(7) is session
    session.close()
    assert house.manager.by_ticket(id) is None and house.manager.get(7) is None


async def test_the_frame_of_a_ticket_tells_the_peer_what_the_manager_knows() -> None:
    house = Ticketed()
    session, _ = await house.ticketed(7)
    frame = house.manager.issue_ticket(session, "tcp://there:1")
    assert session.ticket is not None and session.ticket.address == "tcp://there:1"
    assert frame == control_frame(session.ticket)
    assert house.manager.by_ticket(session.ticket.session_id) is session


async def test_a_client_that_can_be_told_is_asked_to_come_back_later_when_the_server_ends() -> None:
    house = Ticketed(Limits(reconnect_within=7))
    session, stream = await house.ticketed(7)
    closing = asyncio.create_task(house.manager.close(CloseCode.GOING_AWAY, "stop", house.clock() + 10))
    await settle()
    records = [decode_control(body) for _, flags, body in stream.frames if flags & CONTROL]
    assert records == [GoAway(7_000, ""), Close(CloseCode.GOING_AWAY, "stop")]
    stream.lose()
    await closing


async def test_of_too_many_detached_sessions_the_one_that_broke_first_ends() -> None:
    house = Ticketed(Limits(max_detached=2))
    here = [await house.ticketed(uid) for uid in range(4)]
    for at in (2, 0, 1):
        here[at][1].lose(ConnectionResetError())
    assert [state_of(session) for session, _ in here] == [
        SessionState.DETACHED,
        SessionState.DETACHED,
        SessionState.CLOSED,
        SessionState.OPEN,
    ]
    assert here[2][0].close_code is CloseCode.GOING_AWAY


async def test_a_session_that_was_resumed_is_not_detached_any_more() -> None:
    house = Ticketed(Limits(max_detached=1))
    first, stream = await house.ticketed(1)
    second, other = await house.ticketed(2)
    stream.lose(ConnectionResetError())
    first.resume_on(FakeStream(), 0, b"")
    house.manager.resumed(first)
    other.lose(ConnectionResetError())
    assert (state_of(first), state_of(second)) == (SessionState.OPEN, SessionState.DETACHED)


async def test_of_detached_sessions_that_hold_too_much_the_one_that_broke_first_ends() -> None:
    house = Ticketed(Limits(max_detached_bytes=2_000))
    here = [await house.ticketed(uid) for uid in range(3)]
    for session, stream in here:
        stream.lose(ConnectionResetError())
        session.send(Say("x" * 900))
    await house.pass_time(1.3)
    assert [state_of(session) for session, _ in here] == [
        SessionState.CLOSED,
        SessionState.DETACHED,
        SessionState.DETACHED,
    ]
    here[1][0].send(Say("x" * 900))
    await house.pass_time(1.3)
    assert state_of(here[1][0]) is SessionState.CLOSED and state_of(here[2][0]) is SessionState.DETACHED


async def test_who_was_kicked_is_told_of_once_and_no_other_end_is() -> None:
    house = Ticketed()
    kicked: list[Session] = []
    house.manager.on_kick = kicked.append
    ours, _ = await house.ticketed(1)
    theirs, _ = await house.ticketed(2)
    closed, _ = await house.ticketed(3)
    ours.kick("enough")
    theirs.receive([(0, CONTROL, encode_control(Close(CloseCode.KICKED, "I was kicked")))])
    closed.close(CloseCode.RATE_LIMITED)
    assert theirs.close_code is CloseCode.KICKED
    assert kicked == [ours]


# -- logins on other servers --


class FakeClaims:
    """The directory of a group: gives the epochs that it is told to."""

    def __init__(self) -> None:
        self.next: list[tuple[int, list[bytes] | None]] = []
        self.ends: list[tuple[int, int, int, float]] = []

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        await turn()
        return self.next.pop(0)

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        self.ends.append((uid, slot, epoch, keep))


def shared() -> tuple[House, FakeClaims]:
    house, claims = House(), FakeClaims()
    house.manager.arbiter = claims
    return house, claims


async def test_a_newer_login_elsewhere_ends_the_older_one_here_and_an_older_one_does_not() -> None:
    house, claims = shared()
    claims.next = [(5, None)]
    session, stream, _ = await house.login()
    assert house.manager.supersede(7, 0, 4, 1_000) is None and state_of(session) is SessionState.OPEN
    assert house.manager.supersede(7, 0, 6, 1_000) is None
    await turn()
    assert session.close_code is CloseCode.REPLACED
    assert stream.log == [DUPLICATE_LOGIN_FRAME, CLOSE]
    assert claims.ends == [(7, 0, 5, 0.0)]


@pytest.mark.parametrize("while_claiming", [False, True])
async def test_a_newer_login_elsewhere_keeps_one_that_is_under_way_here_from_coming_in(while_claiming: bool) -> None:
    house, claims = shared()
    claims.next = [(5, None), (7, None)]
    claim = asyncio.create_task(house.manager.claim(7))
    await asyncio.sleep(0)
    if not while_claiming:
        await claim
    house.manager.supersede(7, 0, 6, 1_000)
    late, _ = house.claimed(7, await claim)
    with pytest.raises(VerifyError, match="a newer login came first"):
        house.manager.install(late)
    house.manager.release(7, 0, 5)
    await house.login()
    assert house.manager.get(7) is not None, "the next one here is newer still"


@pytest.mark.parametrize(("epoch", "room", "given"), [(4, 1_000, None), (6, 2 * len(numbered(1)), 2), (6, 1, 0)])
async def test_what_waits_for_a_user_goes_along_with_a_newer_login_elsewhere_if_there_is_room(
    epoch: int, room: int, given: int | None
) -> None:
    house, claims = shared()
    claims.next = [(5, None)]
    frames = [numbered(1), numbered(2)]
    await house.break_with(*frames)
    assert claims.ends == [(7, 0, 5, WINDOW)], "the entry stays for as long as something waits here"
    assert house.manager.supersede(7, 0, epoch, room) == (None if given is None else frames[:given])
    assert house.stats.backlogs_dropped == (2 if given == 0 else 0)
    if given is not None:
        assert house.manager.supersede(7, 0, epoch + 1, room) is None, "it is given once"


async def test_a_claim_that_fails_leaves_nothing_that_keeps_a_later_login_out() -> None:
    house, claims = shared()
    for _ in range(2):
        claim = asyncio.create_task(house.manager.claim(7))  # no epoch comes: it raises
        await asyncio.sleep(0)
        house.manager.supersede(7, 0, 9, 1_000)
        with pytest.raises(IndexError):
            await claim
    house.manager.supersede(7, 0, 10, 1_000)
    claims.next = [(5, None)]
    session, _, _ = await house.login()
    assert house.manager.get(7) is session


async def test_what_waited_elsewhere_is_given_to_the_login_that_fetched_it_or_counted_as_dropped() -> None:
    house, claims = shared()
    frames = [numbered(1), numbered(2)]
    claims.next = [(5, frames), (6, frames)]
    _, _, backlog = await house.login()
    assert backlog is not None and backlog.frames == frames and house.stats.backlogs_dropped == 0
    epoch = await house.manager.claim(7)
    house.manager.release(7, 0, epoch)
    assert house.stats.backlogs_dropped == 2


# -- the end of all --


async def test_close_ends_every_session_and_waits_until_their_last_words_are_out() -> None:
    house = House()
    here = [await house.login(uid) for uid in range(3)]
    for session, _, _ in here:
        session.send_frame(numbered(1))
    await house.break_with(numbered(1), uid=9)
    closing = asyncio.create_task(house.manager.close(CloseCode.GOING_AWAY, "stop", house.clock() + 10))
    await settle()
    assert not closing.done()
    for session, stream, _ in here:
        assert session.close_code is CloseCode.GOING_AWAY
        assert stream.log == [numbered(1), CLOSE]
        stream.lose()
    await closing
    assert len(house.manager) == 0 and house.stats.backlogs_dropped == 1


async def test_close_cuts_off_who_is_not_done_at_the_deadline() -> None:
    house = House()
    _, stuck, _ = await house.login(1)
    session, was_closing, _ = await house.login(2)
    session.kick()
    await house.manager.close(CloseCode.GOING_AWAY, "stop", house.clock())
    assert stuck.is_aborted and was_closing.is_aborted
    assert stuck.is_lost and was_closing.is_lost, "it returns when they are gone"
    assert session.close_code is CloseCode.KICKED
    await house.manager.close(CloseCode.GOING_AWAY, "stop", house.clock())


# -- anything, in any order --

LATE: dict[str, Callable[[FakeStream, Session], object]] = {
    "lose": lambda stream, session: stream.lose(),
    "reset": lambda stream, session: stream.lose(ConnectionResetError()),
    "close": lambda stream, session: session.close(),
    "broken": lambda stream, session: session.broken(ProtocolError("x")),
    "abort": lambda stream, session: session.abort(),
}


@settings(max_examples=40)  # each is a life of some tenths of a second
@given(
    st.lists(
        st.tuples(st.sampled_from(["claim", "install", "release", *LATE]), st.integers(0, 10)),
        max_size=40,
    )
)
def test_in_any_order_of_events_the_current_session_is_the_newest_that_lives(plan: list[tuple[str, int]]) -> None:
    async def main() -> None:
        house = House()
        manager = house.manager
        claims: list[int] = []
        installed: list[tuple[Session, FakeStream]] = []
        for what, which in plan:
            if what == "claim":
                claims.append(await manager.claim(7))
            elif what == "install" and claims:
                session, stream = house.claimed(7, claims.pop(which % len(claims)), handlers=FakeHandlers())
                before = manager.get(7)
                try:
                    manager.install(session)
                    session.open()
                    installed.append((session, stream))
                except VerifyError:
                    assert manager.get(7) is before
                    manager.release(7, 0, session.epoch)
            elif what == "release" and claims:
                manager.release(7, 0, claims.pop(which % len(claims)))
            elif what in LATE and installed:
                session, stream = installed[which % len(installed)]
                LATE[what](stream, session)
            await turn()
            alive = [session for session, _ in installed if state_of(session) is SessionState.OPEN]
            assert alive == ([manager.get(7)] if len(manager) else [])
        for claim in claims:
            manager.release(7, 0, claim)
        for session, _ in installed:
            session.abort()
        await settle()
        assert len(manager) == 0 and not manager._logins and not manager._closing

    run_watched(main())
