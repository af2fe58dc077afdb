"""What every kind of token promises, on every engine; and what each kind promises besides."""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import Key, OctKey, OKPKey

from gatelink.auth.engine_tokens import MAX_CLAIMS, MAX_TOKENS, EngineTokens
from gatelink.auth.signed_tokens import MAX_LIFETIME, MAX_SIZE, SignedTokens, key_id, public_key, signing_key
from gatelink.auth.tokens import Identity, MemoryTokens, Tokens
from gatelink.errors import ConfigError, VerifyError
from gatelink.group.engine import Conflict, Engine, EngineUnavailable
from gatelink.group.engines.embedded import NatsServer
from gatelink.group.engines.memory import MemoryEngine
from gatelink.group.engines.nats import NatsEngine
from tests.e2e.engines import NewEngine
from tests.e2e.support import RawClient, serving, until, verify_request


class Clock:
    """The real time, and what a test adds to it: an engine's own expiry is not ours to move."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Issuing(Tokens, Protocol):
    """What the login service needs besides."""

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False) -> str: ...

    async def revoke(self, token: str) -> None: ...

    async def revoke_user(self, uid: int) -> None: ...


class OfOneProcess:
    """MemoryTokens, called as the others are."""

    def __init__(self, clock: Clock) -> None:
        self.inner = MemoryTokens(lifetime=50.0, clock=clock)
        self.verify = self.inner.verify

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False) -> str:
        assert not only
        return self.inner.issue(uid, claims)

    async def revoke(self, token: str) -> None:
        self.inner.revoke(token)

    async def revoke_user(self, uid: int) -> None:
        self.inner.revoke_uid(uid)


KEY = Ed25519PrivateKey.generate()
NewTokens = Callable[[Clock], AbstractAsyncContextManager[Issuing]]

KINDS: dict[str, Callable[[Engine, Callable[[], float]], Issuing]] = {
    "engine": lambda engine, clock: EngineTokens(engine, lifetime=50.0, clock=clock),
    "signed": lambda engine, clock: SignedTokens(engine, lifetime=50.0, clock=clock, keys=[KEY]),
}


@asynccontextmanager
async def opened(engine: Engine, kind: str, clock: Callable[[], float] = time.time) -> AsyncIterator[Issuing]:
    """Tokens of a kind that live for 50 s, on `engine`, which is started and closed."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        tokens = KINDS[kind](engine, clock)
        if isinstance(tokens, SignedTokens):
            await stack.enter_async_context(tokens)
        yield tokens


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


async def verify(tokens: Tokens, token: str | bytes, uid: int = 7) -> Identity:
    return await tokens.verify(token.encode() if isinstance(token, str) else token, uid, 0, "192.0.2.1")


async def refusal(tokens: Tokens, token: str | bytes, uid: int = 7) -> str:
    with pytest.raises(VerifyError) as caught:
        await verify(tokens, token, uid)
    return str(caught.value)


async def is_refused(tokens: Tokens, token: str) -> bool:
    try:
        await verify(tokens, token)
    except VerifyError:
        return True
    return False


async def until_refused(tokens: Tokens, token: str) -> None:
    """A revocation reaches another server when it gets there; nothing else changes meanwhile."""
    async with asyncio.timeout(10):
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
    """Each on an engine of its own, of the same group."""

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
                async with asyncio.timeout(10):
                    while sum([not await is_refused(server, token) for token in issued]) != 1:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                await verify(server, other, 8)


def round_trips(engine: Engine) -> int:
    calls: dict[str, int] = engine.stats.calls  # type: ignore[attr-defined]
    return sum(calls.values())


class TestEngineTokens:
    async def test_a_check_is_one_round_trip_and_a_first_use_two(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        async with engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            counts = []
            for _ in range(3):
                before = round_trips(engine)
                await verify(tokens, token)
                counts.append(round_trips(engine) - before)
            before = round_trips(engine)
            await refusal(tokens, token, 8)
            await refusal(tokens, b"unknown")
            assert (counts, round_trips(engine) - before) == ([2, 1, 1], 2)

    async def test_of_servers_that_race_for_a_single_use_token_exactly_one_wins(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(new_engine()) for _ in range(4)]
            servers = [EngineTokens(engine, single_use=True) for engine in engines]
            for _ in range(10):
                token = await servers[0].issue(7)
                results = await asyncio.gather(*(is_refused(server, token) for server in servers * 3))
                assert results.count(False) == 1
                assert "used-up" in await refusal(servers[1], token)

    async def test_servers_that_race_for_the_first_use_of_another_token_all_win(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(new_engine()) for _ in range(4)]
            servers = [EngineTokens(engine) for engine in engines]
            for _ in range(10):
                token = await servers[0].issue(7)
                assert not any(await asyncio.gather(*(is_refused(server, token) for server in servers)))

    async def test_a_token_not_used_in_time_expires_though_its_lifetime_goes_on(self, new_engine: NewEngine) -> None:
        clock = Clock()
        async with new_engine() as engine:
            tokens = EngineTokens(engine, clock=clock)
            token, used = await tokens.issue(7), await tokens.issue(7)
            await verify(tokens, used)
            await refusal(tokens, token, 8)  # another uid's try is no first use
            clock.ahead = 30
            assert "first_use 30 s" in await refusal(tokens, token)
            await verify(tokens, used)

    async def test_the_engine_forgets_what_was_not_used_in_time(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine, first_use=0.5, lifetime=0.5)
            token = await tokens.issue(7)
            await until(lambda: not engine._rows)
            assert "unknown" in await refusal(tokens, token)

    async def test_what_the_engine_keeps_lets_nobody_in(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            await verify(tokens, token)
            kept = repr(engine._rows)
            assert token not in kept
            for text in re.findall(r"[A-Za-z0-9_-]{20,}", kept):
                await refusal(tokens, text)

    async def test_a_user_has_so_many_tokens_and_a_newer_one_ends_the_oldest(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            tokens = EngineTokens(engine)
            issued = [await tokens.issue(7) for _ in range(MAX_TOKENS + 2)]
            results = [await is_refused(tokens, token) for token in issued]
            assert results == [True] * 2 + [False] * MAX_TOKENS

    async def test_what_ends_tokens_and_fails_midway_can_be_tried_again(self) -> None:
        class Failing(MemoryEngine):
            fails = False

            async def delete(self, key: str, revision: Any = None) -> None:
                if self.fails:
                    raise EngineUnavailable("gone")
                await super().delete(key, revision)

        async with Failing() as engine:
            tokens = EngineTokens(engine)
            issued = [await tokens.issue(7) for _ in range(MAX_TOKENS)]
            engine.fails = True
            for only in (False, True):
                with pytest.raises(EngineUnavailable):
                    await tokens.issue(7, only=only)
            engine.fails = False
            await tokens.revoke_user(7)
            assert all([await is_refused(tokens, token) for token in issued])

    async def test_a_made_up_token_that_is_revoked_leaves_nothing_in_the_engine(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            for _ in range(3):
                await tokens.revoke(secrets.token_urlsafe(32))
            assert engine.stats.calls["delete"] == 0  # type: ignore[attr-defined]
            await tokens.revoke(token)
            assert await is_refused(tokens, token)

    async def test_nothing_of_a_user_is_left_when_all_is_revoked(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine)
            for _ in range(3):
                await tokens.issue(7)
            await tokens.revoke_user(7)
            assert not engine._rows

    async def test_logins_at_the_same_time_can_all_be_ended(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            servers = [EngineTokens(await stack.enter_async_context(new_engine())) for _ in range(4)]
            issued = await asyncio.gather(*(server.issue(7) for server in servers * 3))
            for token in issued:
                await verify(servers[0], token)
            await servers[1].revoke_user(7)
            assert all([await is_refused(servers[0], token) for token in issued])

    async def test_a_token_revoked_while_it_is_used_first_stays_revoked(self) -> None:
        """The revocation comes between the look-up and the write that marks the first use."""

        class Slow(MemoryEngine):
            async def get(self, key: str) -> Any:
                found = await super().get(key)
                await self.delete(key)
                return found

        async with Slow() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            await refusal(tokens, token)
            assert not [key for key in engine._rows if key.startswith("tokens.")]

    async def test_a_first_use_that_can_not_be_marked_lets_nobody_in(self) -> None:
        class Odd(MemoryEngine):
            async def update(self, *_: Any) -> Any:
                raise Conflict("another write came first")

        async with Odd() as engine:
            tokens = EngineTokens(engine)
            assert "changed while it was checked" in await refusal(tokens, await tokens.issue(7))

    async def test_without_the_engine_every_call_says_so(self) -> None:
        engine = MemoryEngine()
        tokens = EngineTokens(engine)
        async with engine:
            token = await tokens.issue(7)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: tokens.issue(7),
            lambda: verify(tokens, token),
            lambda: tokens.revoke(token),
            lambda: tokens.revoke_user(7),
        ]
        for call in calls:
            with pytest.raises(EngineUnavailable):
                await call()

    async def test_tokens_outlive_a_crash_of_the_engine(self) -> None:
        async with NatsServer() as server, NatsEngine(server.url, timeout=2.0) as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            server.kill()
            with pytest.raises(EngineUnavailable):
                await verify(tokens, token)
            await server.start()
            await until(lambda: engine.is_available)
            await verify(tokens, token)

    async def test_too_many_claims_are_refused_where_they_are_given(self) -> None:
        async with MemoryEngine() as engine:
            with pytest.raises(ValueError, match=f"may have {MAX_CLAIMS}"):
                await EngineTokens(engine).issue(7, {"text": "a" * MAX_CLAIMS})
            assert not engine._rows

    @pytest.mark.parametrize("wrong", [{"first_use": 0}, {"first_use": 31, "lifetime": 30}])
    def test_times_that_cannot_work_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="first_use"):
            EngineTokens(MemoryEngine(), **wrong)  # type: ignore[arg-type]


class TestALogin:
    """A server with tokens that others issue."""

    async def test_it_takes_a_token_of_the_engine(self, new_engine: NewEngine) -> None:
        async with opened(new_engine(), "engine") as login, opened(new_engine(), "engine") as tokens:
            async with serving(tokens=tokens) as server:
                client = await RawClient.open(server)
                client.send(verify_request(7, (await login.issue(7, {"name": "Ann"})).encode()))
                assert (await client.frame())[0] == 2
                assert server.session(7).claims == {"name": "Ann"}
                await client.close()

    async def test_without_the_engine_it_is_refused_and_sessions_go_on(self) -> None:
        engine = MemoryEngine()
        tokens = EngineTokens(engine)
        async with engine:
            first, second = await tokens.issue(7), await tokens.issue(8)
            async with serving(tokens=tokens) as server:
                inside = await RawClient.open(server)
                inside.send(verify_request(7, first.encode()))
                await inside.frame()
                await engine.close()
                late = await RawClient.open(server)
                late.send(verify_request(8, second.encode()))
                assert await late.rest() == []
                assert server.stats.refused == {"tokens-unavailable": 1}
                await inside.echo(1)
                assert sum(server.stats.token_seconds.counts) == 2
                await inside.close()
                await late.close()


OTHER = Ed25519PrivateKey.generate()


class _Anything(jws.JWSRegistry):
    """Signs with every algorithm and header, without a warning: what an attacker would use."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: dict[str, Any]) -> None: ...


def forged(key: Key, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token signed with `key`, good but for what is changed; None leaves a claim or a field out."""
    now = time.time()
    good = {"aud": "gatelink", "sub": "7", "iat": now, "exp": now + 30, "jti": secrets.token_urlsafe(16), "claims": {}}
    claims = {name: value for name, value in (good | changes).items() if value is not None}
    fields = {"alg": "Ed25519", "kid": key_id(KEY.public_key())} | (header or {})
    head = {name: value for name, value in fields.items() if value is not None}
    return jws.serialize_compact(head, json.dumps(claims).encode(), key, registry=_Anything())


OURS, THEIRS = OKPKey.import_key(KEY), OKPKey.import_key(OTHER)


class TestSignedTokens:
    async def test_a_check_asks_nobody(self, new_engine: NewEngine) -> None:
        async with opened(engine := new_engine(), "signed") as tokens:
            token = await tokens.issue(7)
            before = round_trips(engine)
            await verify(tokens, token)
            assert round_trips(engine) == before

    async def test_they_are_checked_while_the_engine_is_away(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        async with opened(engine, "signed") as tokens:
            token = await tokens.issue(7)
            await engine.close()
            await verify(tokens, token)
            with pytest.raises(EngineUnavailable):
                await tokens.revoke(token)

    async def test_a_token_is_a_jwt_signed_with_ed25519(self) -> None:
        async with opened(MemoryEngine(), "signed") as tokens:
            token = await tokens.issue(7, {"name": "Ada"})
            signed = jws.deserialize_compact(token, OKPKey.import_key(KEY.public_key()), algorithms=["Ed25519"])
            assert signed.headers() == {"alg": "Ed25519", "kid": key_id(KEY.public_key())}
            claims = json.loads(signed.payload)
            assert claims["exp"] - claims["iat"] <= 60
            assert (claims["aud"], claims["sub"], claims["claims"]) == ("gatelink", "7", {"name": "Ada"})

    async def test_the_good_token_that_forgeries_are_made_of_is_good(self) -> None:
        async with opened(MemoryEngine(), "signed") as tokens:
            assert (await verify(tokens, forged(OURS))).uid == 7

    @pytest.mark.parametrize(
        "forge",
        [
            pytest.param(lambda: forged(THEIRS), id="another key under our key's id"),
            pytest.param(lambda: forged(THEIRS, {"kid": key_id(OTHER.public_key())}), id="a key nobody knows"),
            pytest.param(lambda: forged(OURS, {"kid": None}), id="no key id"),
            pytest.param(lambda: forged(OURS, {"alg": "none"}), id="no signature"),
            pytest.param(
                lambda: forged(OctKey.import_key(KEY.public_key().public_bytes_raw()), {"alg": "HS256"}), id="HMAC"
            ),
            pytest.param(lambda: forged(OURS, {"crit": ["exp"], "exp": 1}), id="a header that must be understood"),
            pytest.param(lambda: forged(OURS, aud="another"), id="another audience"),
            pytest.param(lambda: forged(OURS, aud=None), id="no audience"),
            pytest.param(lambda: forged(OURS, sub="8"), id="another uid"),
            pytest.param(lambda: forged(OURS, sub="07"), id="a uid written otherwise"),
            pytest.param(lambda: forged(OURS, exp=None), id="no end"),
            pytest.param(lambda: forged(OURS, exp="never"), id="an end that is no number"),
            pytest.param(lambda: forged(OURS, exp=time.time() + 3_600), id="an end far away"),
            pytest.param(lambda: forged(OURS, exp=time.time() - 1), id="expired"),
            pytest.param(lambda: forged(OURS, jti="../../x"), id="an id that is no word"),
            pytest.param(lambda: forged(OURS)[:-4], id="a cut signature"),
            pytest.param(lambda: forged(OURS) + "." * 700, id="too long"),
        ],
    )
    async def test_a_forgery_is_refused(self, forge: Callable[[], str]) -> None:
        async with opened(MemoryEngine(), "signed") as tokens:
            await refusal(tokens, forge())

    async def test_keys_change_without_a_login_that_fails(self) -> None:
        async with MemoryEngine() as engine:
            old = SignedTokens(engine, keys=[KEY])
            both = SignedTokens(engine, keys=[OTHER, KEY])
            checking = SignedTokens(engine, public_keys=[KEY.public_key(), OTHER.public_key()])
            new = SignedTokens(engine, keys=[OTHER])
            async with old, both, checking, new:
                before, after = await old.issue(7), await both.issue(7)
                for tokens in (both, checking):
                    await verify(tokens, before)
                    await verify(tokens, after)
                await verify(new, after)
                assert key_id(OTHER.public_key()) in await refusal(new, before)

    async def test_who_has_only_public_keys_cannot_issue(self) -> None:
        async with MemoryEngine() as engine, SignedTokens(engine, public_keys=[KEY.public_key()]) as tokens:
            with pytest.raises(ConfigError, match="no key to sign"):
                await tokens.issue(7)

    async def test_a_token_too_long_for_a_login_is_not_issued(self) -> None:
        async with opened(MemoryEngine(), "signed") as tokens:
            assert len(await tokens.issue(2**64 - 1, {"text": "a" * 500})) <= MAX_SIZE
            with pytest.raises(ValueError, match="fewer claims"):
                await tokens.issue(7, {"text": "a" * MAX_SIZE})
            assert "over 1000" in await refusal(tokens, b"a" * 1_001)

    async def test_a_login_after_a_revocation_works_though_its_server_is_behind(self) -> None:
        clock = Clock()
        async with opened(MemoryEngine(), "signed", clock) as tokens:
            before = await tokens.issue(7)
            await tokens.revoke_user(7)
            clock.ahead = -2
            after = await tokens.issue(7)
            assert "revoked" in await refusal(tokens, before)
            await verify(tokens, after)
            await tokens.revoke_user(7)
            assert "revoked" in await refusal(tokens, after), "a revocation, too, works though its server is behind"

    async def test_revocations_are_forgotten_with_the_tokens_they_ended(self) -> None:
        async with opened(engine := MemoryEngine(), "signed") as tokens:
            await tokens.revoke(await tokens.issue(7))
            await tokens.revoke("no.such.token")
            await tokens.revoke_user(7)
            now = time.monotonic()
            assert len(engine._rows) == 2
            assert all(row.due - now <= MAX_LIFETIME + 6 for row in engine._rows.values())

    async def test_before_it_follows_revocations_it_checks_nothing(self) -> None:
        async with MemoryEngine() as engine, SignedTokens(engine, keys=[KEY]) as tokens:
            token = await tokens.issue(7)
            with pytest.raises(ConfigError, match="async with"):
                await verify(SignedTokens(engine, keys=[KEY]), token)

    def test_keys_are_64_hex_digits(self) -> None:
        key = signing_key("01" * 32)
        assert public_key(key.public_key().public_bytes_raw().hex()) == key.public_key()
        for text in ("", "01" * 31, "x" * 64):
            with pytest.raises(ConfigError, match="64 hex digits") as caught:
                signing_key(text)
            assert not text or text not in str(caught.value)

    @pytest.mark.parametrize("wrong", [{}, {"keys": [KEY], "lifetime": 61}, {"keys": [KEY], "lifetime": 0}])
    def test_settings_that_cannot_work_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            SignedTokens(MemoryEngine(), **wrong)


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
