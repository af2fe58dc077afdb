"""The sessions, and which login is current: a newer one always wins, and nothing late from an older one touches it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from gatelink.config import Limits
from gatelink.errors import CatalogError, CloseCode, ProtocolError, VerifyError
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME, Duplicate
from gatelink.session.outbox import Full
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.codecs import Decode, Encode
from gatelink.wire.messages import Catalog
from tests.fakes import CLOSE, FakeHandlers, FakeStream, Say, settle, state_of, turn
from tests.support import run_watched
from tests.unit.session.support import House, numbered

# -- sessions by user --


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
async def test_of_two_logins_at_once_the_newer_claim_wins_whichever_installs_first(first: str) -> None:
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


async def test_a_broadcast_is_encoded_once_and_passes_over_ended_sessions() -> None:
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


async def test_close_cuts_off_each_session_that_is_not_done_at_the_deadline() -> None:
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
