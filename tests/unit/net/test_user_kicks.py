"""Kicks that wait: many at once, through an engine that never waits, and two of one user."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.kicks import PREFIX, write_record
from gatelink.config import Limits
from gatelink.net import user_kicks
from gatelink.net.user_kicks import MARGIN, WORKERS, UserKick, UserKicks
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
    kicks.keep_for_another(7, None, "", since=100)
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
        since = int(engine.now() * 1_000_000)
        async with asyncio.timeout(10), engine.watch(PREFIX) as watch:
            kicks.keep_for_another(7, None, "", since)
            await anext(aiter(watch))
        kicks.record_seen(7, None, since)
        await until(lambda: tries >= 3 or not len(kicks))
        assert kicks.is_kept(7, 1)
        tokens.is_away = False
        await until(lambda: not len(kicks))
        assert tokens.revoked == [7]
        await kicks.close()


async def test_a_kick_does_not_wait_for_the_next_try_of_one_that_is_kept_for_another_server() -> None:
    tokens = Tokens()
    tokens.is_away = False
    kicks = kicks_of(tokens)
    kicks.keep_for_another(7, None, "", since=100)
    kick = kicks.kick(7, None, "")
    assert kick is not None and await kick.tried
    assert tokens.revoked == [7] and not kicks.is_kept(7, 1)
    await kicks.close()


@pytest.mark.parametrize("first", ["another server's", "its own"])
@pytest.mark.parametrize("ends", ["well", "in vain"])
async def test_a_kick_that_another_server_sends_during_a_try_of_an_earlier_one_is_carried_out_too(
    monkeypatch: pytest.MonkeyPatch, first: str, ends: str
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
        kicks.keep_for_another(7, None, "", since=100)
    await trying.wait()
    kicks.keep_for_another(7, None, "", since=60_000_000)
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


async def test_of_two_kicks_of_other_servers_the_later_one_counts_whichever_comes_first() -> None:
    kicks = kicks_of(object())
    kicks.keep_for_another(7, None, "", since=200)
    kicks.keep_for_another(7, None, "", since=100)
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
            kicks.keep_for_another(7, None, "", since=at)

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
