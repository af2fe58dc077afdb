"""What a kick does at its server and in which order; and kicks that wait: many at once, and two of one user."""

import asyncio
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.kicks import PREFIX, write_record
from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.net import user_kicks
from gatelink.net.user_kicks import MARGIN, REVOKED, WORKERS, UserKick, UserKicks
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.timers import Wheel
from gatelink.wire.messages import Catalog
from tests.e2e.support import until
from tests.fakes import settle

MANY = 3_000


class Tokens:
    """Tokens that note whose were revoked. is_away: the database can't be reached."""

    def __init__(self) -> None:
        self.is_away = True
        self.revoked: list[int] = []

    async def revoke_user(self, uid: int) -> None:
        if self.is_away:
            raise OSError("no database")
        self.revoked.append(uid)


def kicks_of(tokens: object, ends_sessions: bool = True) -> UserKicks:
    context = LoopContext(asyncio.get_running_loop(), Catalog(), Limits())
    logins: Any = SimpleNamespace(context=context, sessions=SessionManager(context), refuse_user=lambda *_: None)
    return UserKicks(tokens, logins, ends_sessions)


class Server:
    """The kicks of a server with an engine. `notes` has what they do to its login checks, sessions, tokens and others.

    fails: the engine is away. gate: where each announcement waits.
    """

    def __init__(self, tokens: object = None, ends_sessions: bool = True, **limits: Any) -> None:
        self.context = LoopContext(asyncio.get_running_loop(), Catalog(), Limits(**limits))
        self.notes: list[Any] = []
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        logins: Any = SimpleNamespace(
            context=self.context,
            sessions=self,
            refuse_user=lambda uid, slot=None: self.notes.append(("refuse", uid, slot)),
        )
        self.logins = logins
        self.kicks = UserKicks(tokens or self, logins, ends_sessions)
        self.kicks.announce = self.announce
        self.kicks.relay = lambda kick: self.notes.append(("relay", kick.uid, kick.slot))

    def end(self, uid: int, slot: int | None, code: CloseCode, reason: str, verified_until: float | None) -> list[Any]:
        assert code is CloseCode.KICKED
        self.notes.append(("end", uid, slot, reason, verified_until))
        return [f"a session of {uid}"]

    def end_opened_with(self, uid: int, digest: bytes, code: CloseCode, reason: str) -> None:
        assert code is CloseCode.KICKED
        self.notes.append(("end opened with", uid, digest, reason))

    async def announce(self, kick: UserKick) -> bool:
        await self.gate.wait()
        if self.fails:
            raise EngineUnavailable("no engine")
        self.notes.append(("announce", kick.uid, kick.slot))
        return True

    async def revoke_user(self, uid: int) -> None:
        self.notes.append(("revoke", uid))

    def take(self) -> list[Any]:
        notes, self.notes = self.notes, []
        return notes


# -- what a kick does --


async def test_a_kick_of_a_user_ends_sessions_at_once_and_then_tokens_and_what_came_back_meanwhile() -> None:
    server = Server()
    kick = server.kicks.kick(7, None, "enough")
    at_once = [("refuse", 7, None), ("end", 7, None, "enough", None), ("relay", 7, None)]
    assert server.take() == at_once and kick is not None and len(server.kicks) == 1 and not server.kicks.is_kept(7, 0)
    assert await kick.tried and len(kick.ended) == 2 and not kick.ended_elsewhere
    last = ("end", 7, None, "enough", inf)
    assert server.take() == [("announce", 7, None), ("revoke", 7), ("refuse", 7, None), ("announce", 7, None), last]
    await until(lambda: not len(server.kicks))


async def test_a_kick_of_one_slot_leaves_the_tokens() -> None:
    server = Server()
    kick = server.kicks.kick(7, 2, "enough")
    assert kick is not None and await kick.tried
    assert server.take() == [("refuse", 7, 2), ("end", 7, 2, "enough", None), ("relay", 7, 2), ("announce", 7, 2)]


async def test_a_kick_that_another_server_has_carried_out_is_done() -> None:
    server = Server()

    async def announce(kick: UserKick) -> bool:
        return False

    server.kicks.announce = announce
    kick = server.kicks.kick(7, None, "enough")
    server.take()
    assert kick is not None and await kick.tried and server.take() == []


async def test_a_kick_ends_the_tokens_of_a_server_of_no_cluster_too() -> None:
    server = Server()
    server.kicks.announce = server.kicks.relay = None
    kick = server.kicks.kick(7, None, "enough")
    assert kick is not None and await kick.tried and ("revoke", 7) in server.take()


@pytest.mark.parametrize("slot", [None, 1])
async def test_a_kick_with_nothing_to_announce_or_revoke_is_carried_out_at_once(slot: int | None) -> None:
    server = Server(tokens=object() if slot is None else None)
    server.kicks.announce = None
    kick = server.kicks.kick(7, slot, "enough")
    assert kick is not None and kick.tried.result() and len(server.kicks) == 0


@pytest.mark.parametrize("ends_sessions, can_revoke", [(True, True), (False, True), (False, False)])
async def test_a_session_that_is_kicked_takes_the_users_tokens_along_and_the_sessions_unless_they_may_outlive_them(
    ends_sessions: bool, can_revoke: bool
) -> None:
    server = Server(None if can_revoke else object(), ends_sessions)
    session: Any = SimpleNamespace(uid=7, slot=1, close_reason="enough")
    server.kicks.kicked(session)
    await until(lambda: not len(server.kicks))
    notes = server.take()
    assert (("announce", 7, None) in notes) is (("relay", 7, None) in notes) is ends_sessions
    assert (("revoke", 7) in notes) is can_revoke
    if not ends_sessions:
        assert notes == ([("revoke", 7), ("refuse", 7, None), ("end", 7, 1, "enough", inf)] if can_revoke else [])


async def test_any_number_of_kicks_is_carried_out_by_a_few_workers() -> None:
    server = Server()
    for _ in range(2):
        server.gate.clear()
        for uid in range(3 * WORKERS):
            server.kicks.kick(uid, 0, "")
        await settle()
        assert len(server.kicks) == 3 * WORKERS and len(asyncio.all_tasks()) == WORKERS + 1
        server.gate.set()
        await until(lambda: not len(server.kicks))
        assert [note[1] for note in server.take() if note[0] == "announce"] == list(range(3 * WORKERS))


# -- what revoked tokens end --


@pytest.mark.parametrize(
    "age, since", [(None, None), (0.0, None), (MARGIN - 1, None), (MARGIN + 1, -1.0), (3_600.0, MARGIN - 3_600)]
)
async def test_revoked_tokens_end_the_sessions_of_logins_before_them(
    monkeypatch: pytest.MonkeyPatch, age: float | None, since: float | None
) -> None:
    """A revocation that was heard of late ends no session of a later login."""
    now = 1_000_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    server = Server()
    server.kicks.revoked(7, b"", None if age is None else now - age)
    ((*end, found),) = (note for note in server.take() if note[0] == "end")
    assert end == ["end", 7, None, REVOKED] and found == (None if since is None else now + since)


async def test_one_revoked_token_ends_the_sessions_that_it_opened() -> None:
    server = Server()
    server.kicks.revoked(7, b"digest")
    assert server.take() == [("end opened with", 7, b"digest", REVOKED)]


async def test_sessions_that_may_outlive_their_tokens_do() -> None:
    server = Server(ends_sessions=False)
    server.kicks.revoked(7, b"digest")
    server.kicks.revoked(7, b"")
    assert server.take() == []


@pytest.mark.parametrize("ends_sessions", [True, False])
async def test_revocations_are_followed_until_the_server_stops(ends_sessions: bool) -> None:
    followed: list[Any] = []

    class Shared(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.when_revoked = set[Any]()

        async def follow_revocations(self, revoked: Any) -> None:
            followed.append(revoked)
            try:
                await asyncio.Event().wait()
            finally:
                followed.append("end")

    tokens = Shared()
    kicks = kicks_of(tokens, ends_sessions)
    kicks.start()
    await settle()
    assert tokens.when_revoked == {kicks.revoked} and followed == ([kicks.revoked] if ends_sessions else [])
    await kicks.close()
    assert tokens.when_revoked == set() and followed == ([kicks.revoked, "end"] if ends_sessions else [])


async def test_tokens_that_nobody_else_revokes_are_not_followed() -> None:
    kicks = kicks_of(Tokens())
    kicks.start()
    await settle()
    await kicks.close()


# -- a kick that waits --


async def test_a_kick_that_fails_is_tried_again_for_an_hour_and_the_log_says_so_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions that came back during a try end again. Only the kicked slots are refused."""
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    monkeypatch.setattr(user_kicks, "quiet", user_kicks.log)
    later = 0.0
    read_clock = Wheel.read_clock
    monkeypatch.setattr(Wheel, "read_clock", lambda wheel: read_clock(wheel) + later)
    server = Server()
    server.fails = True
    with capture_logs() as lines:
        kicks = [server.kicks.kick(7, None, "enough"), server.kicks.kick(8, 2, "enough")]
        assert not any([kick is None or await kick.tried for kick in kicks])
        server.take()
        await until(lambda: len(server.notes) > 8)
        assert {note for note in server.take() if note[0] == "end"} == {
            ("end", 7, None, "enough", None),
            ("end", 8, 2, "enough", None),
        }
        kept = [(uid, slot) for uid in (7, 8, 9) for slot in range(4) if server.kicks.is_kept(uid, slot)]
        assert kept == [(7, 0), (7, 1), (7, 2), (7, 3), (8, 2)] and server.logins.is_kicked(8, 2)
        later = user_kicks.KEEP_SECONDS + 1
        await until(lambda: not len(server.kicks))
    assert not server.kicks.is_kept(7, 0)
    said = [(line["uid"], line["event"], line["tried_again_for"], line["error"]) for line in lines]
    tokens, kick, error = "a kicked user's tokens are not revoked", "a kick is not carried out", "no engine"
    assert sorted(said) == [
        (uid, event, seconds, f"EngineUnavailable: {error}")
        for uid, event in ((7, tokens), (8, kick))
        for seconds in (0, 3_600)
    ]


async def test_tokens_that_take_too_long_to_revoke_count_as_failed() -> None:
    class Hanging:
        async def revoke_user(self, uid: int) -> None:
            await asyncio.Event().wait()

    server = Server(Hanging(), token_timeout=0.05)
    kick = server.kicks.kick(7, None, "")
    assert kick is not None and not await kick.tried and server.kicks.is_kept(7, 0)
    await server.kicks.close()


async def test_a_kick_that_finds_too_many_waiting_ends_only_the_sessions_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kicks that are kept count as those that wait."""
    monkeypatch.setattr(user_kicks, "MAX_WAITING", 2)
    monkeypatch.setattr(user_kicks, "quiet", user_kicks.log)
    monkeypatch.setattr(user_kicks, "WORKERS", 1)
    monkeypatch.setattr(user_kicks, "RETRY", 60.0)
    server = Server()
    server.fails = True
    assert (kick := server.kicks.kick(1, None, "")) is not None and not await kick.tried
    server.gate.clear()
    server.kicks.kick(2, None, "")
    await settle()
    assert server.kicks.kick(3, None, "") is not None
    server.take()
    with capture_logs() as lines:
        assert server.kicks.kick(4, None, "enough") is None
        server.kicks.keep_for_another(5, None, "enough", relayed_at=100)
        server.kicks.keep_for_another(3, None, "enough", relayed_at=100)
    assert server.take() == [("refuse", 4, None), ("end", 4, None, "enough", None)]
    assert [line["uid"] for line in lines] == [4, 5], "that of 3 waits already"
    assert len(server.kicks) == 3 and not server.kicks.is_kept(5, 0)
    assert server.kicks.kick(3, None, "") is not None
    await server.kicks.close()
    await server.context.finish_tasks(0)


async def test_the_kicks_that_a_stopping_server_has_not_carried_out_are_counted_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "WORKERS", 1)
    monkeypatch.setattr(user_kicks, "RETRY", 60.0)
    server = Server()
    server.fails = True
    kicks = [server.kicks.kick(1, None, "")]
    assert kicks[0] is not None and not await kicks[0].tried
    server.gate.clear()
    kicks += [server.kicks.kick(uid, None, "") for uid in (2, 3)]
    await settle()
    with capture_logs() as lines:
        await server.kicks.close()
        await server.context.finish_tasks(0)
    assert [kick is not None and kick.tried.result() for kick in kicks] == [False] * 3
    assert [line["kicks"] for line in lines if line["event"] == "kicks were not carried out"] == [3]
    assert len(server.kicks) == 0
    with capture_logs() as lines:
        await server.kicks.close()
    assert not lines


async def test_a_kick_whose_try_is_cut_short_was_not_carried_out() -> None:
    server = Server()
    server.gate.clear()
    kick = server.kicks.kick(7, None, "")
    await settle()
    await server.context.finish_tasks(0)
    assert kick is not None and not await kick.tried and len(server.kicks) == 0


@pytest.mark.parametrize("waits", ["for a worker", "for its next try"])
async def test_a_kick_kept_for_another_server_is_dropped_where_it_waits(
    monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    monkeypatch.setattr(user_kicks, "WORKERS", 1)
    monkeypatch.setattr(user_kicks, "RETRY", 0.0 if waits == "for a worker" else 60.0)
    server = Server()
    server.gate.clear()
    server.kicks.kick(8, None, "")
    server.kicks.keep_for_another(7, None, "", relayed_at=100)
    await until(lambda: bool(server.kicks._kept) is (waits != "for a worker"))
    server.kicks.record_seen(7, 1, 100)
    assert server.kicks.is_kept(7, 1) and len(server.kicks) == 2
    server.kicks.record_seen(7, None, 100)
    assert not server.kicks.is_kept(7, 1) and len(server.kicks) == 1
    server.gate.set()
    await until(lambda: not len(server.kicks))


# -- two at once --


async def test_the_loop_turns_once_for_every_few_of_many_kicks() -> None:
    kicks = kicks_of(object())
    announced: list[int] = []
    turns = 0

    async def announce(kick: UserKick) -> bool:
        announced.append(kick.uid)
        return True

    kicks.announce = announce
    for uid in range(MANY):
        assert kicks.kick(uid, None, "") is not None
    while len(announced) < MANY:
        done = len(announced)
        await asyncio.sleep(0)
        turns += 1
        assert len(announced) - done <= WORKERS
    assert announced == list(range(MANY)) and turns >= MANY // WORKERS
    await asyncio.sleep(0)
    assert len(kicks) == 0
    await kicks.close()


async def test_of_two_kicks_of_one_session_that_wait_both_are_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is of this server alone, and ends the tokens. The second is for the cluster, and leaves them."""
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    tokens = Tokens()
    kicks = kicks_of(tokens, ends_sessions=False)
    announced: list[int] = []

    async def announce(kick: UserKick) -> bool:
        announced.append(kick.uid)
        return True

    kicks.announce = announce
    session: Any = SimpleNamespace(uid=7, slot=1, close_reason="")
    kicks.kicked(session)
    await until(lambda: kicks.is_kept(7, 1))
    kicks.kick(7, 1, "")
    tokens.is_away = False
    await until(lambda: not len(kicks))
    assert announced and tokens.revoked == [7]
    await kicks.close()


@pytest.mark.parametrize("second", ["waits", "fails"])
async def test_a_kick_that_fails_while_another_of_the_same_session_waits_is_carried_out_too(
    monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """The first ends the tokens. The second announces: it still waits at the time of the first's next try, or fails."""
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    monkeypatch.setattr(user_kicks, "WORKERS", 1)
    trying, go_on, busy = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(Tokens):
        async def revoke_user(self, uid: int) -> None:
            if self.is_away:
                trying.set()
                await go_on.wait()
            await super().revoke_user(uid)

    tokens = Slow()
    kicks = kicks_of(tokens, ends_sessions=False)
    announced: list[int] = []

    async def announce(kick: UserKick) -> bool:
        if kick.uid == 8:
            await busy.wait()
        elif tokens.is_away and second == "fails":
            raise EngineUnavailable("no engine")
        announced.append(kick.uid)
        return True

    kicks.announce = announce
    session: Any = SimpleNamespace(uid=7, slot=1, close_reason="")
    kicks.kicked(session)
    await trying.wait()
    if second == "waits":
        kicks.kick(8, 1, "")  # keeps the only worker
    kicks.kick(7, 1, "")
    go_on.set()
    await until(lambda: kicks.is_kept(7, 1))
    await until(lambda: not kicks._kept)
    assert kicks.is_kept(7, 1), "the user comes back before the tokens are revoked"
    tokens.is_away = False
    busy.set()
    await until(lambda: not len(kicks))
    assert 7 in announced and tokens.revoked == [7] and not kicks.is_kept(7, 1)
    await kicks.close()


@pytest.mark.parametrize("tried", ["not", "in time", "in vain"])
async def test_a_kick_kept_for_another_server_refuses_nobody_once_its_record_is_seen(
    monkeypatch: pytest.MonkeyPatch, tried: str
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 30.0 if tried == "not" else 0.0)
    kicks = kicks_of(object())
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def announce(kick: UserKick) -> bool:
        begun.set()
        await go_on.wait()
        if tried == "in vain":
            raise EngineUnavailable("no engine")
        return False

    kicks.announce = announce
    kicks.keep_for_another(7, None, "", relayed_at=100)
    if tried != "not":
        await begun.wait()
    kicks.record_seen(7, None, 99)
    assert kicks.is_kept(7, 1)
    kicks.record_seen(7, None, 100)
    assert not kicks.is_kept(7, 1)
    go_on.set()
    await until(lambda: not len(kicks))
    assert not kicks.is_kept(7, 1)
    await kicks.close()


@pytest.mark.parametrize("lost", ["nothing", "the engine's answer"])
async def test_a_server_that_writes_the_record_of_anothers_kick_goes_on_until_the_tokens_are_revoked(
    monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The record that it sees, or finds at its next try, is its own. No other server revokes the tokens."""
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    tokens = Tokens()
    kicks = kicks_of(tokens)
    tries = 0
    async with MemoryEngine() as engine:

        async def announce(kick: UserKick) -> bool:
            nonlocal tries
            tries += 1
            is_written = await write_record(engine, kick)
            if tokens.is_away and lost != "nothing":
                raise EngineUnavailable("no answer")
            return is_written

        kicks.announce = announce
        relayed_at = int(engine.now() * 1_000_000)
        async with asyncio.timeout(10), engine.watch(PREFIX) as watch:
            kicks.keep_for_another(7, None, "", relayed_at)
            await anext(aiter(watch))
        kicks.record_seen(7, None, relayed_at)
        await until(lambda: tries >= 3 or not len(kicks))
        assert kicks.is_kept(7, 1)
        tokens.is_away = False
        await until(lambda: not len(kicks))
        assert tokens.revoked == [7]
        await kicks.close()


async def test_a_kick_knows_the_times_of_its_first_and_its_last_record() -> None:
    kick = UserKick(7, None, "", ends_tokens=True, cluster_wide=True, until=0.0)
    async with MemoryEngine() as engine:
        begin = int(engine.now() * 1_000_000)
        assert await write_record(engine, kick)
        first = kick.last_at
        assert kick.first_at == first >= begin
        assert await write_record(engine, kick)
        assert kick.first_at == first < kick.last_at


async def test_a_kick_does_not_wait_for_the_next_try_of_one_that_is_kept_for_another_server() -> None:
    tokens = Tokens()
    tokens.is_away = False
    kicks = kicks_of(tokens)
    kicks.keep_for_another(7, None, "", relayed_at=100)
    kick = kicks.kick(7, None, "")
    kicks.record_seen(7, None, 100)  # of the other's kick, not of this server's
    assert kick is not None and await kick.tried
    assert tokens.revoked == [7] and not kicks.is_kept(7, 1)
    await kicks.close()


@pytest.mark.parametrize("first", ["another server's", "its own"])
@pytest.mark.parametrize("ends", ["well", "in vain"])
@pytest.mark.parametrize("is_seen", [True, False])
async def test_a_kick_that_another_server_sends_during_a_try_of_an_earlier_one_is_carried_out_too(
    monkeypatch: pytest.MonkeyPatch, first: str, ends: str, is_seen: bool
) -> None:
    """Tokens that were issued between the two kicks end, too. Until then the user is refused."""
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    trying, go_on, second_try = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class UpTo(Tokens):
        latest = 0.0

        async def revoke_user_up_to(self, uid: int, at: float) -> None:
            self.latest = max(self.latest, at)

    tokens = UpTo()
    tokens.is_away = False
    kicks = kicks_of(tokens)

    async def announce(kick: UserKick) -> bool:
        if not trying.is_set():
            trying.set()
            await go_on.wait()
            if ends == "in vain":
                raise EngineUnavailable("no engine")
        elif go_on.is_set():
            await second_try.wait()
        return True

    kicks.announce = announce
    if first == "its own":
        kicks.kick(7, None, "")
    else:
        kicks.keep_for_another(7, None, "", relayed_at=100)
    await trying.wait()
    kicks.keep_for_another(7, None, "", relayed_at=60_000_000)
    if is_seen:  # the record of the first
        kicks.record_seen(7, None, 200)
    assert kicks.is_kept(7, 1)
    go_on.set()
    await settle()
    assert kicks.is_kept(7, 1)
    second_try.set()
    await until(lambda: not len(kicks))
    if first == "its own" and ends == "in vain":
        assert tokens.revoked == [7]
    else:
        assert tokens.latest == 60 + MARGIN
    await kicks.close()


async def test_a_kick_is_this_servers_own_though_it_takes_over_anothers_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    server = Server()
    server.fails = True
    server.gate.clear()
    server.kicks.keep_for_another(7, None, "", relayed_at=100)
    await until(lambda: bool(server.kicks._trying))
    kick = server.kicks.kick(7, None, "")
    server.gate.set()
    assert kick is not None and not await kick.tried
    server.kicks.record_seen(7, None, 100)
    assert server.kicks.is_kept(7, 0)
    server.fails = False
    await until(lambda: not len(server.kicks))
    assert ("revoke", 7) in server.take()


async def test_a_kick_of_a_user_whose_kick_is_kept_is_that_kick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 60.0)
    server = Server()
    server.fails = True
    kick = server.kicks.kick(7, None, "")
    assert kick is not None and not await kick.tried
    assert server.kicks.kick(7, None, "") is kick and len(server.kicks) == 1
    await server.kicks.close()


async def test_of_two_kicks_of_other_servers_the_later_one_counts_whichever_comes_first() -> None:
    kicks = kicks_of(object())
    kicks.keep_for_another(7, None, "", relayed_at=200)
    kicks.keep_for_another(7, None, "", relayed_at=100)
    kicks.record_seen(7, None, 100)
    assert kicks.is_kept(7, 1)
    kicks.record_seen(7, None, 200)
    assert not kicks.is_kept(7, 1)
    await kicks.close()


@pytest.mark.parametrize("again", ["kick", "keep_for_another"])
async def test_a_kick_that_repeats_one_that_is_kept_is_tried_for_an_hour_of_its_own(
    monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    monkeypatch.setattr(user_kicks, "RETRY", 0.0)
    later = 0.0
    read_clock = Wheel.read_clock
    monkeypatch.setattr(Wheel, "read_clock", lambda wheel: read_clock(wheel) + later)
    kicks = kicks_of(object())
    tries = 0

    async def announce(kick: UserKick) -> bool:
        nonlocal tries
        tries += 1
        raise EngineUnavailable("no engine")

    async def two_tries() -> None:
        before = tries
        await until(lambda: tries >= before + 2 or not len(kicks))

    def kick(at: int) -> None:
        if again == "kick":
            kicks.kick(7, None, "")
        else:
            kicks.keep_for_another(7, None, "", relayed_at=at)

    kicks.announce = announce
    kick(100)
    await two_tries()
    later += user_kicks.KEEP_SECONDS - 60
    await until(lambda: bool(kicks._kept))
    kick(200)
    later += 61
    await two_tries()
    assert kicks.is_kept(7, 1)
    later += user_kicks.KEEP_SECONDS
    await until(lambda: not len(kicks))
    assert not kicks.is_kept(7, 1)
    await kicks.close()
