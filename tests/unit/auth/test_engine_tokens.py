"""Tokens in the engine, on a clock that a test moves: when each ends, whose a revocation is, and what is stored."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from gatelink.auth.engine_tokens import MAX_CLAIMS, MAX_TOKENS, EngineTokens
from gatelink.cluster.engine import Conflict, Entry, Revision
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import ConfigError, VerifyError
from gatelink.testing import FakeClock

FIRST_USE, LIFETIME = 30.0, 600.0
ODD = 7_777.5  # s; what the clock starts at


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(ODD)


@pytest.fixture
def engine(clock: FakeClock) -> MemoryEngine:
    return MemoryEngine(clock)


def tokens_on(engine: MemoryEngine, **options: Any) -> EngineTokens:
    return EngineTokens(engine, first_use=FIRST_USE, lifetime=LIFETIME, **options)


async def refusal(tokens: EngineTokens, token: str, uid: int = 7) -> str:
    """Why a token is refused; "" if it is good."""
    try:
        await tokens.verify(token.encode(), uid, 0, "192.0.2.1")
    except VerifyError as error:
        return str(error)
    return ""


async def test_a_token_must_be_used_first_before_its_time_is_over(engine: MemoryEngine) -> None:
    clock = FakeClock(ODD)  # of the servers: the engine's stands still, and so the engine forgets nothing
    async with engine:
        tokens = tokens_on(engine, clock=clock)
        in_time, late = await tokens.issue(7), await tokens.issue(7)
        clock.advance(FIRST_USE - 0.5)
        assert await refusal(tokens, in_time) == ""
        clock.advance(0.5)
        assert await refusal(tokens, late) == "expired token of uid 7 (first_use 30 s)"


async def test_a_used_token_is_good_until_its_life_ends_and_says_when(engine: MemoryEngine) -> None:
    clock = FakeClock(ODD)
    async with engine:
        tokens = tokens_on(engine, clock=clock)
        token = await tokens.issue(7, {"name": "Ann"})
        found = await tokens.verify(token.encode(), 7, 0, "")
        assert (found.uid, found.claims, found.expires_at) == (7, {"name": "Ann"}, ODD + LIFETIME)
        clock.advance(LIFETIME - 0.5)
        assert await refusal(tokens, token) == ""
        clock.advance(0.5)
        assert await refusal(tokens, token) == "expired token of uid 7 (lifetime 600 s)"


async def test_the_engine_keeps_a_used_token_for_its_life_and_then_forgets_it(
    engine: MemoryEngine, clock: FakeClock
) -> None:
    async with engine:
        tokens = tokens_on(engine)
        token = await tokens.issue(7)
        clock.advance(FIRST_USE / 2)
        assert await refusal(tokens, token) == ""
        clock.advance(LIFETIME - FIRST_USE / 2 - 0.5)
        assert await refusal(tokens, token) == ""
        clock.advance(2)
        assert "unknown token" in await refusal(tokens, token)
        assert [key for key in engine._rows if key.startswith("tokens.")] == []


async def test_a_used_up_token_is_told_from_an_unknown_one_for_as_long_as_a_first_use_takes(
    engine: MemoryEngine, clock: FakeClock
) -> None:
    async with engine:
        tokens = tokens_on(engine, single_use=True)
        token = await tokens.issue(7)
        clock.advance(FIRST_USE / 2)
        assert await refusal(tokens, token) == ""
        clock.advance(FIRST_USE - 1)
        assert await refusal(tokens, token) == "used-up token of uid 7"
        clock.advance(3)
        assert "unknown token" in await refusal(tokens, token)


async def test_a_list_lives_as_long_as_its_newest_token(engine: MemoryEngine, clock: FakeClock) -> None:
    """Else a kick would miss that token."""
    async with engine:
        tokens = tokens_on(engine)
        await tokens.issue(7)
        clock.advance(LIFETIME - 1)
        token = await tokens.issue(7)
        assert await refusal(tokens, token) == ""
        clock.advance(LIFETIME - 2)
        await tokens.revoke_user(7)
        assert "unknown token" in await refusal(tokens, token)


async def test_a_token_is_good_for_its_own_uid_alone_and_another_s_try_is_no_use_of_it(engine: MemoryEngine) -> None:
    async with engine:
        tokens = tokens_on(engine, single_use=True)
        token = await tokens.issue(7)
        assert await refusal(tokens, token, 8) == "wrong uid: a token of uid 7 was shown by uid 8"
        assert await refusal(tokens, token) == ""


async def test_only_ends_the_tokens_of_its_own_slot_and_of_its_own_user(engine: MemoryEngine) -> None:
    async with engine:
        tokens = tokens_on(engine)
        phone, tablet = await tokens.issue(7, slot=1), await tokens.issue(7, slot=2)
        plain, other = await tokens.issue(7), await tokens.issue(8)
        new_phone = await tokens.issue(7, slot=1, only=True)
        assert [await refusal(tokens, each) for each in (tablet, plain, new_phone)] == ["", "", ""]
        assert "unknown token" in await refusal(tokens, phone)
        new_plain = await tokens.issue(7, slot=0, only=True)
        assert [await refusal(tokens, each) for each in (tablet, new_phone, new_plain)] == ["", "", ""]
        assert "unknown token" in await refusal(tokens, plain)
        assert await refusal(tokens, other, 8) == ""


async def test_a_revocation_up_to_a_moment_ends_the_tokens_issued_by_then(
    engine: MemoryEngine, clock: FakeClock
) -> None:
    async with engine:
        tokens = tokens_on(engine)
        older = [await tokens.issue(7, slot=slot) for slot in (0, 1)]
        other = await tokens.issue(8)
        moment = clock()
        clock.advance(1)
        newer = await tokens.issue(7, slot=1)
        await tokens.revoke_user_up_to(7, moment)
        assert all(["unknown token" in await refusal(tokens, each) for each in older])
        assert await refusal(tokens, newer) == "" and await refusal(tokens, other, 8) == ""
        assert len([key for key in engine._rows if key.startswith("revocations.7.token-")]) == len(older)
        await tokens.revoke_user_up_to(9, moment)  # has none


async def test_a_revocation_of_a_user_ends_the_tokens_of_every_slot_and_of_nobody_else(engine: MemoryEngine) -> None:
    async with engine:
        tokens = tokens_on(engine)
        mine = [await tokens.issue(7, slot=slot) for slot in (0, 1, 255)]
        other = await tokens.issue(8)
        await tokens.revoke_user(7)
        assert all(["unknown token" in await refusal(tokens, each) for each in mine])
        assert await refusal(tokens, other, 8) == ""
        await tokens.revoke_user(7)  # there are none left


async def test_a_revocation_of_a_token_ends_it_alone_and_writes_nothing_for_one_that_is_unknown(
    engine: MemoryEngine,
) -> None:
    async with engine:
        tokens = tokens_on(engine)
        ended, other = await tokens.issue(7), await tokens.issue(7)
        await tokens.revoke("made up")
        assert not engine.stats.calls["delete"]
        await tokens.revoke(ended)
        assert "unknown token" in await refusal(tokens, ended) and await refusal(tokens, other) == ""


@pytest.mark.parametrize("wrong", [{"first_use": 0.0}, {"first_use": LIFETIME + 1}])
def test_times_that_cannot_work_are_refused(engine: MemoryEngine, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="first_use"):
        EngineTokens(engine, lifetime=LIFETIME, **wrong)


async def test_one_token_over_the_most_ends_the_oldest_whatever_its_slot(engine: MemoryEngine) -> None:
    async with engine:
        tokens = tokens_on(engine)
        issued = [await tokens.issue(7, slot=n % 3) for n in range(MAX_TOKENS + 1)]
        results = [await refusal(tokens, each) for each in issued]
        assert "unknown token" in results[0] and not any(results[1:])


async def test_claims_have_room_up_to_the_limit(engine: MemoryEngine) -> None:
    async with engine:
        tokens = tokens_on(engine)
        room = MAX_CLAIMS - len(msgspec.msgpack.encode({"a": "x" * 1_000})) + 1_000
        assert await refusal(tokens, await tokens.issue(7, {"a": "x" * room})) == ""
        with pytest.raises(ValueError, match=f"{MAX_CLAIMS + 1} bytes; a token may have {MAX_CLAIMS}"):
            await tokens.issue(7, {"a": "x" * (room + 1)})


async def test_servers_of_any_version_read_each_other_s_tokens(engine: MemoryEngine) -> None:
    """Servers are replaced one after the other, so what is stored must stay as it is."""
    now = 1_000.0
    async with engine:
        tokens = tokens_on(engine, clock=lambda: now)
        await tokens.issue(7, {"a": 1}, slot=3)
        stored = {key: msgspec.msgpack.decode(row.value) for key, row in engine._rows.items()}
        (digest,) = (bytes.fromhex(key.removeprefix("tokens.")) for key in stored if key.startswith("tokens."))
        assert stored == {
            f"tokens.{digest.hex()}": [
                7,
                {"a": 1},
                pytest.approx(now + FIRST_USE),
                pytest.approx(now + LIFETIME),
                False,
            ],
            "user-tokens.7": [digest + b"\3"],
        }


class Contended(MemoryEngine):
    """Another server changes a user's list between our reading and our writing, the first `times`."""

    times = 0

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        if key.startswith("user-tokens.") and self.times:
            self.times -= 1
            raise Conflict("another write came first")
        return await super().update(key, value, ttl, revision)


async def test_a_change_of_the_list_that_another_server_came_before_is_tried_again(clock: FakeClock) -> None:
    async with Contended(clock) as engine:
        tokens = tokens_on(engine)
        first = await tokens.issue(7)
        engine.times = 3
        second = await tokens.issue(7)
        await tokens.revoke_user(7)
        assert engine.times == 0
        assert all(["unknown token" in await refusal(tokens, each) for each in (first, second)])


class Meanwhile(MemoryEngine):
    """Another server does something between our look at a token and the write that marks its first use, once."""

    does: Callable[[Entry], Awaitable[object]] | None = None

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        does, self.does = self.does, None
        if does is not None and (entry := await self.get(key)) is not None:
            await does(entry)
        return await super().update(key, value, ttl, revision)


@pytest.mark.parametrize("single_use", [False, True])
@pytest.mark.parametrize(
    ("event", "words"),
    [("used", ("", "used-up")), ("revoked", ("unknown", "unknown")), ("written", ("token of uid 7 changed",) * 2)],
)
async def test_a_first_use_that_another_server_came_before_is_judged_by_what_is_there_then(
    clock: FakeClock, single_use: bool, event: str, words: tuple[str, str]
) -> None:
    async with Meanwhile(clock) as engine:
        tokens = tokens_on(engine, single_use=single_use)
        token = await tokens.issue(7)

        async def happens(entry: Entry) -> None:
            if event == "used":
                assert await refusal(tokens_on(engine, single_use=single_use), token) == ""
            elif event == "revoked":
                await tokens.revoke(token)
            else:
                await engine.put(entry.key, entry.value, LIFETIME)

        engine.does = happens
        why = await refusal(tokens, token)
        assert why.startswith(words[single_use]) if words[single_use] else why == ""
        assert engine.does is None
