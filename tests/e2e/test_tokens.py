"""What every kind of token promises, on every engine."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.auth.signed_tokens import key_id
from gatelink.auth.tokens import MemoryTokens, Tokens
from gatelink.cluster.engines.memory import MemoryEngine
from tests.e2e.engines import NewEngine
from tests.e2e.tokens import KEY, KINDS, Clock, Issuing, is_refused, opened, refusal, verify


class OfOneProcess:
    """MemoryTokens, called as the others are."""

    def __init__(self, clock: Clock) -> None:
        self.inner = MemoryTokens(lifetime=50.0, clock=clock)
        self.verify = self.inner.verify

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0) -> str:
        assert not only
        return self.inner.issue(uid, claims)

    async def revoke(self, token: str) -> None:
        self.inner.revoke(token)

    async def revoke_user(self, uid: int) -> None:
        await self.inner.revoke_user(uid)


NewTokens = Callable[[Clock], AbstractAsyncContextManager[Issuing]]


@pytest.fixture(params=["memory", "engine-memory", "engine-nats", "signed-memory", "signed-nats"])
def new_tokens(request: pytest.FixtureRequest) -> NewTokens:
    kind, _, engine = request.param.partition("-")

    @asynccontextmanager
    async def made(clock: Clock) -> AsyncIterator[Issuing]:
        if kind == "memory":
            yield OfOneProcess(clock)
            return
        new: NewEngine = MemoryEngine if engine == "memory" else new_nats
        async with opened(new(), kind, clock) as tokens:
            yield tokens

    if engine == "nats":
        new_nats: NewEngine = request.getfixturevalue("new_nats_engine")
    return made


async def until_refused(tokens: Tokens, token: str) -> None:
    """A revocation reaches another server when it gets there; nothing else changes meanwhile."""
    async with asyncio.timeout(30):
        while not await is_refused(tokens, token):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class TestEveryKind:
    async def test_a_token_proves_its_uid_and_carries_its_claims(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            before = time.time()
            token = await tokens.issue(7, {"name": "Ada", "roles": ["player"], "level": 3})
            identity = await verify(tokens, token)
            assert (identity.uid, identity.claims) == (7, {"name": "Ada", "roles": ["player"], "level": 3})
            assert identity.expires_at is not None and before + 50 <= identity.expires_at <= time.time() + 50

    async def test_the_largest_uid_works(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            assert (await verify(tokens, await tokens.issue(2**64 - 1), 2**64 - 1)).uid == 2**64 - 1

    async def test_a_token_fits_the_limit_and_is_text_for_a_url(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            issued = [await tokens.issue(7, {"user": "a" * 32}) for _ in range(20)]
            assert len(set(issued)) == 20
            assert all(re.fullmatch(r"[A-Za-z0-9_.-]{43,1000}", token) for token in issued)

    async def test_a_token_can_be_used_again_until_its_lifetime_ends(self, new_tokens: NewTokens) -> None:
        clock = Clock()
        async with new_tokens(clock) as tokens:
            token = await tokens.issue(7)
            await verify(tokens, token)
            clock.ahead = 45
            await verify(tokens, token)
            clock.ahead = 50
            assert "expired token of uid 7" in await refusal(tokens, token)

    async def test_an_unused_token_expires(self, new_tokens: NewTokens) -> None:
        clock = Clock()
        async with new_tokens(clock) as tokens:
            token = await tokens.issue(7)
            clock.ahead = 51
            assert "expired token of uid 7" in await refusal(tokens, token)

    async def test_another_uid_is_refused_and_does_not_spoil_the_token(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            token = await tokens.issue(7)
            for uid in (8, 0, 2**64 - 1):
                assert "wrong uid" in await refusal(tokens, token, uid)
            assert (await verify(tokens, token)).uid == 7

    @pytest.mark.parametrize("used", [False, True])
    async def test_a_revoked_token_is_refused_and_no_other(self, new_tokens: NewTokens, used: bool) -> None:
        async with new_tokens(Clock()) as tokens:
            token, other = await tokens.issue(7), await tokens.issue(7)
            if used:
                await verify(tokens, token)
            await tokens.revoke(token)
            await tokens.revoke(token)
            await until_refused(tokens, token)
            await verify(tokens, other)

    async def test_revoking_a_user_ends_what_was_issued_before_and_nobody_elses(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            mine = [await tokens.issue(7) for _ in range(3)]
            theirs = await tokens.issue(8)
            await verify(tokens, mine[1])
            await tokens.revoke_user(7)
            newer = await tokens.issue(7)
            for token in mine:
                await until_refused(tokens, token)
            await verify(tokens, theirs, 8)
            await verify(tokens, newer)

    @pytest.mark.parametrize("token", ["", "no such token", "\u20ac", "\udcff", "a.b.c"])
    async def test_revoking_what_is_no_token_is_no_error(self, new_tokens: NewTokens, token: str) -> None:
        async with new_tokens(Clock()) as tokens:
            good = await tokens.issue(7)
            await tokens.revoke(token)
            await tokens.revoke_user(9)
            await verify(tokens, good)

    @pytest.mark.parametrize("token", [b"", b"nobody issued this", b"\xff\xfe\x00", bytes(1_000), b"." * 1_000])
    async def test_garbage_is_refused(self, new_tokens: NewTokens, token: bytes) -> None:
        async with new_tokens(Clock()) as tokens:
            await tokens.issue(7)
            await refusal(tokens, token)

    async def test_no_refusal_tells_the_token(self, new_tokens: NewTokens) -> None:
        clock = Clock()
        async with new_tokens(clock) as tokens:
            token, revoked = await tokens.issue(7), await tokens.issue(7)
            await tokens.revoke(revoked)
            await until_refused(tokens, revoked)
            reasons = [
                await refusal(tokens, token, 8),
                await refusal(tokens, revoked),
                await refusal(tokens, token[:-9]),
            ]
            clock.ahead = 51
            reasons.append(await refusal(tokens, token))
            parts = [part for each in (token, revoked) for part in each.split(".")]
            assert not any(part[:20] in reason for part in parts for reason in reasons)

    async def test_claims_changed_by_a_caller_do_not_reach_the_next_one(self, new_tokens: NewTokens) -> None:
        async with new_tokens(Clock()) as tokens:
            claims = {"role": "player"}
            token = await tokens.issue(7, claims)
            claims["role"] = "admin"
            (await verify(tokens, token)).claims["role"] = "admin"
            assert (await verify(tokens, token)).claims == {"role": "player"}


class TestEveryKindOfSeveralServers:
    """Each on an engine of its own, of the same cluster."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_one_issues_another_verifies_and_a_third_revokes(self, kind: str, new_engine: NewEngine) -> None:
        async with opened(new_engine(), kind) as login, opened(new_engine(), kind) as gateway:
            one, other = await login.issue(7, {"a": 1}), await login.issue(7)
            assert (await verify(gateway, one)).claims == {"a": 1}
            async with opened(new_engine(), kind) as console:
                await console.revoke(one)
            await until_refused(gateway, one)
            await verify(gateway, other)
            async with opened(new_engine(), kind) as console:
                await console.revoke_user(7)
            await until_refused(gateway, other)

    @pytest.mark.parametrize("kind", ["engine", "signed"])
    async def test_of_logins_at_the_same_moment_that_want_the_only_token_one_gets_it(
        self, kind: str, new_engine: NewEngine
    ) -> None:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(opened(new_engine(), kind)) for _ in range(4)]
            before, other = await servers[0].issue(7), await servers[0].issue(8)
            issued = await asyncio.gather(*(server.issue(7, only=True) for server in servers * 3))
            for server in servers:
                await until_refused(server, before)
                async with asyncio.timeout(30):
                    while sum([not await is_refused(server, token) for token in issued]) != 1:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                await verify(server, other, 8)


# -- any bytes --

HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["Ed25519", "EdDSA", "none", "HS256", "", 1, None]),
        "kid": st.one_of(st.just(key_id(KEY.public_key())), st.text(max_size=4), st.integers(), st.none()),
        "crit": st.one_of(st.lists(st.text(max_size=4)), st.integers()),
        "b64": st.one_of(st.booleans(), st.integers()),
        "typ": st.text(max_size=4),
        "jwk": st.dictionaries(st.text(max_size=4), st.integers()),
        "zip": st.text(max_size=4),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
)


def segment(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


SEGMENTS = st.one_of(HEADERS.map(segment), JSON.map(segment), st.binary(max_size=40))
GARBAGE = st.one_of(
    st.binary(max_size=1_100),
    st.lists(SEGMENTS, max_size=5).map(b".".join),
    st.tuples(
        HEADERS.map(segment), JSON.map(segment), st.binary(min_size=64, max_size=64).map(base64.urlsafe_b64encode)
    ).map(b".".join),
)


@pytest.mark.parametrize("kind", KINDS)
@given(token=GARBAGE)
def test_any_bytes_are_refused_and_nothing_else_is_raised(kind: str, token: bytes) -> None:
    async def check() -> None:
        async with opened(MemoryEngine(), kind) as tokens:
            await refusal(tokens, token)
            await tokens.revoke(token.decode("utf-8", "surrogateescape"))

    asyncio.run(check())


@pytest.mark.parametrize("kind", KINDS)
@given(at=st.integers(0, 2**16), by=st.integers(1, 255))
def test_a_good_token_with_any_byte_changed_is_refused(kind: str, at: int, by: int) -> None:
    async def check() -> None:
        async with opened(MemoryEngine(), kind) as tokens:
            token = bytearray((await tokens.issue(7, {"role": "player"})).encode())
            # The last character of a signature has bits that stand for nothing.
            changed = at % (len(token) - (kind == "signed"))
            token[changed] = (token[changed] + by) % 256
            await refusal(tokens, bytes(token))

    asyncio.run(check())
