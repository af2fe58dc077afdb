"""`MemoryTokens` and `StaticTokens`: which tokens are verified, for how long, and what a revocation ends."""

import asyncio
import gc
import re

import pytest

from gatelink.auth import Identity, MemoryTokens, StaticTokens, Tokens
from gatelink.errors import ConfigError, VerifyError


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def verify(tokens: Tokens, token: str | bytes, uid: int = 7) -> Identity:
    if isinstance(token, str):
        token = token.encode()
    return asyncio.run(tokens.verify(token, uid, 0, "192.0.2.1"))


def refusal(tokens: Tokens, token: str | bytes, uid: int = 7) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(tokens, token, uid)
    return str(caught.value)


def test_an_issued_token_proves_its_uid_and_carries_its_claims(clock: Clock) -> None:
    tokens = MemoryTokens(lifetime=100, clock=clock)
    identity = verify(tokens, tokens.issue(7, {"name": "Ada"}))
    assert identity == Identity(7, {"name": "Ada"}, clock.now + 100)


def test_the_largest_uid_works() -> None:
    tokens = MemoryTokens()
    assert verify(tokens, tokens.issue(2**64 - 1), 2**64 - 1).uid == 2**64 - 1


def test_a_token_is_256_random_bits_as_url_safe_text() -> None:
    tokens = MemoryTokens()
    issued = [tokens.issue(7) for _ in range(100)]
    assert len(set(issued)) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in issued)


def test_claims_changed_by_a_caller_do_not_reach_the_next_one() -> None:
    tokens = MemoryTokens()
    claims = {"role": "player"}
    token = tokens.issue(7, claims)
    claims["role"] = "admin"
    verify(tokens, token).claims["role"] = "admin"
    assert verify(tokens, token).claims == {"role": "player"}


def test_the_token_itself_is_not_kept() -> None:
    tokens = MemoryTokens()
    token = tokens.issue(7)
    verify(tokens, token)
    seen: set[int] = set()
    pending: list[object] = [vars(tokens)]
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert thing not in (token, token.encode())
        if isinstance(thing, dict):
            pending += [*thing.keys(), *thing.values()]
        elif not callable(thing):
            pending += gc.get_referents(thing)


def test_a_token_can_be_used_again_until_its_lifetime_ends(clock: Clock) -> None:
    tokens = MemoryTokens(lifetime=100, clock=clock)
    token = tokens.issue(7)
    verify(tokens, token)
    clock.now += 99.9
    verify(tokens, token)
    clock.now += 0.1
    assert refusal(tokens, token) == "expired token of uid 7 (lifetime 100 s)"


def test_a_token_not_used_in_time_expires(clock: Clock) -> None:
    tokens = MemoryTokens(clock=clock)
    token = tokens.issue(7)
    clock.now += 30
    assert refusal(tokens, token) == "expired token of uid 7 (first_use 30 s)"


def test_use_does_not_extend_the_lifetime(clock: Clock) -> None:
    tokens = MemoryTokens(first_use=30, lifetime=100, clock=clock)
    token = tokens.issue(7)
    clock.now += 29
    assert verify(tokens, token).expires_at == clock.now + 71
    clock.now += 71
    refusal(tokens, token)


def test_another_uid_is_refused_and_does_not_consume_the_token() -> None:
    tokens = MemoryTokens(single_use=True)
    token = tokens.issue(7)
    assert refusal(tokens, token, 8) == "wrong uid: a token of uid 7 was shown by uid 8"
    assert verify(tokens, token).uid == 7


def test_another_uid_does_not_count_as_the_first_use(clock: Clock) -> None:
    tokens = MemoryTokens(clock=clock)
    token = tokens.issue(7)
    refusal(tokens, token, 8)
    clock.now += 30
    assert "first_use" in refusal(tokens, token)


def test_a_single_use_token_works_once() -> None:
    tokens = MemoryTokens(single_use=True)
    token = tokens.issue(7)
    verify(tokens, token)
    assert refusal(tokens, token) == "used-up token of uid 7"


@pytest.mark.parametrize("used", [False, True])
def test_a_revoked_token_is_refused(used: bool) -> None:
    tokens = MemoryTokens()
    token, other = tokens.issue(7), tokens.issue(7)
    if used:
        verify(tokens, token)
    tokens.revoke(token)
    tokens.revoke(token)
    assert refusal(tokens, token) == "revoked token of uid 7"
    verify(tokens, other)


def test_revoking_a_uid_ends_all_its_tokens_and_nobody_elses() -> None:
    tokens = MemoryTokens()
    mine = [tokens.issue(7) for _ in range(3)]
    theirs = tokens.issue(8)
    verify(tokens, mine[1])
    asyncio.run(tokens.revoke_user(7))
    assert [refusal(tokens, token) for token in mine] == ["revoked token of uid 7"] * 3
    assert verify(tokens, theirs, 8).uid == 8
    assert verify(tokens, tokens.issue(7)).uid == 7


@pytest.mark.parametrize("token", ["", "no such token", "\u20ac", "\udcff"])
def test_revoking_what_is_unknown_is_no_error(token: str) -> None:
    tokens = MemoryTokens()
    tokens.revoke(token)
    asyncio.run(tokens.revoke_user(9))
    assert len(tokens) == 0


@pytest.mark.parametrize("token", [b"", b"nobody issued this", b"\xff\xfe\x00", bytes(1_000)])
def test_any_unknown_bytes_are_refused(token: bytes) -> None:
    tokens = MemoryTokens()
    tokens.issue(7)
    assert refusal(tokens, token).startswith("unknown token shown by uid 7")


def test_no_refusal_tells_the_token(clock: Clock) -> None:
    tokens = MemoryTokens(clock=clock)
    token, revoked = tokens.issue(7), tokens.issue(7)
    tokens.revoke(revoked)
    reasons = [refusal(tokens, token, 8), refusal(tokens, revoked)]
    clock.now += 30
    reasons.append(refusal(tokens, token))
    assert len(set(reasons)) == 3
    assert not any(token in reason or revoked in reason for reason in reasons)


def test_expired_tokens_are_forgotten_as_new_ones_are_issued(clock: Clock) -> None:
    tokens = MemoryTokens(first_use=30, lifetime=100, clock=clock)
    for uid in range(100):
        token = tokens.issue(uid)
        if uid % 3:
            verify(tokens, token, uid)
        if uid % 3 == 2:
            tokens.revoke(token)
    clock.now += 100
    for uid in range(100):
        tokens.issue(uid)
    assert len(tokens) == 100


def test_a_full_table_forgets_expired_then_ended_then_used_then_unused_tokens(clock: Clock) -> None:
    tokens = MemoryTokens(max_tokens=4, clock=clock)
    expired = tokens.issue(7)
    clock.now += 30
    used, later_used, ended = (tokens.issue(7) for _ in range(3))
    verify(tokens, used)
    verify(tokens, later_used)
    tokens.revoke(ended)
    new = []
    for gone in [expired, ended, used, later_used]:
        new.append(tokens.issue(7))
        assert len(tokens) <= 4
        assert refusal(tokens, gone).startswith("unknown")
    new.append(tokens.issue(7))
    assert refusal(tokens, new.pop(0)).startswith("unknown")
    for token in new:
        verify(tokens, token)


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    tokens = MemoryTokens(max_tokens=10)
    for uid in range(1_000):
        tokens.issue(uid)
    assert len(tokens) == 10
    assert set(tokens._digests_of) == set(range(990, 1_000))


@pytest.mark.parametrize("wrong", [{"first_use": 0}, {"first_use": 31, "lifetime": 30}, {"max_tokens": 0}])
def test_settings_that_cannot_work_are_refused_by_name(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        MemoryTokens(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [{"first_use": 30, "lifetime": 30}, {"first_use": 0.5}, {"max_tokens": 1}])
def test_settings_that_just_work_are_taken(least: dict[str, float]) -> None:
    tokens = MemoryTokens(**least)  # type: ignore[arg-type]
    assert verify(tokens, tokens.issue(7)).uid == 7


def test_a_static_token_is_the_uid_in_32_digits() -> None:
    assert verify(StaticTokens(), b"0" * 30 + b"42", 42) == Identity(42)


@pytest.mark.parametrize("token", [b"", b"42", b"0" * 30 + b"43", b"0" * 30 + b"42\x00", b"\xff" * 32])
def test_any_other_static_token_is_refused(token: bytes) -> None:
    assert refusal(StaticTokens(), token, 42) == "not the static token of uid 42"


def test_static_tokens_take_a_rule_of_their_own() -> None:
    tokens = StaticTokens(lambda uid: b"secret-%d" % uid)
    assert verify(tokens, b"secret-42", 42).uid == 42
    refusal(tokens, b"secret-42", 43)
