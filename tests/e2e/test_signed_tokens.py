"""Signed tokens: what they promise besides."""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.jwk import Key, OctKey, OKPKey

from gatelink.auth.signed_tokens import MAX_LIFETIME, MAX_SIZE, SignedTokens, key_id, public_key, signing_key
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import ConfigError
from tests.e2e.engines import NewEngine
from tests.e2e.tokens import KEY, Clock, opened, refusal, round_trips, verify

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

    async def test_a_server_with_only_public_keys_cannot_issue(self) -> None:
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
            rows = [row for key, row in engine._rows.items() if not key.startswith("revocations.")]
            assert len(rows) == 2 and all(row.due - now <= MAX_LIFETIME + 6 for row in rows)

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
