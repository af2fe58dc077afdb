"""An ID token logs in if its issuer signed it, for us, for now, in a way we allow; every other one is refused."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey, RSAKey

from gatelink import ConfigError
from gatelink.auth.accounts import Accounts
from gatelink.auth.methods import LoginRefused, Oidc
from gatelink.auth.methods.jwks import Jwks, KeysUnavailable
from gatelink.auth.passwords import PasswordHashing
from gatelink.auth.tokens import Identity
from gatelink.testing import FakeClock
from tests.issuer import AUDIENCE, NAME, From, Key, KeyServer, claims, jwks, new_key, sign

ADDRESS = "203.0.113.7"
KEYS: dict[str, Key] = {algorithm: new_key(algorithm) for algorithm in ("RS256", "ES256", "EdDSA")}
RSA = KEYS["RS256"]
ALGORITHMS = pytest.mark.parametrize(
    ("algorithm", "key"), [*KEYS.items(), ("Ed25519", KEYS["EdDSA"])], ids=[*KEYS, "Ed25519"]
)


async def by_subject(found: dict[str, Any]) -> Identity:
    return Identity(7, {"name": found["sub"]})


@dataclass
class Issuer:
    """Our method, and the server it has its keys from."""

    method: Oidc
    server: KeyServer
    clock: FakeClock

    async def login(self, token: Any, **credentials: Any) -> Identity:
        return await self.method.login({"id_token": token} | credentials, ADDRESS)

    async def refusal(self, token: Any, **credentials: Any) -> str:
        with pytest.raises(LoginRefused) as refused:
            await self.login(token, **credentials)
        assert refused.value.__cause__ is None
        assert not isinstance(token, str) or len(token) < 20 or token not in refused.value.reason
        return refused.value.reason


@asynccontextmanager
async def issuing(*keys: Key, **settings: Any) -> AsyncIterator[Issuer]:
    async with KeyServer(jwks(*(keys or KEYS.values()))).running() as server:
        clock = FakeClock()
        yield Issuer(Oidc(by_subject, NAME, AUDIENCE, Jwks(server.url, clock=clock), **settings), server, clock)


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: str = "") -> str:
    """A token made by hand."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, payload)]
    return ".".join([*parts, signature])


# -- the ID tokens that are accepted --


@ALGORITHMS
async def test_a_token_of_each_allowed_algorithm_logs_in(algorithm: str, key: Key) -> None:
    async with issuing() as issuer:
        assert await issuer.login(sign(key, algorithm)) == Identity(7, {"name": "player-1"})


async def test_the_same_subject_is_the_same_account_and_another_is_another(tmp_path: Path) -> None:
    hashing = PasswordHashing(memory_kib=8, passes=1)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(RSA))
    async with Accounts(f"sqlite:///{tmp_path}/a.db", passwords=hashing) as accounts:
        method = Oidc(accounts, NAME, [AUDIENCE, "another-client"], str(file))

        async def login(**changes: Any) -> Identity:
            return await method.login({"id_token": sign(RSA, "RS256", claims(**changes))}, ADDRESS)

        first = await login()
        assert first.claims == {"issuer": NAME, "subject": "player-1"}
        assert await login(aud="another-client") == first
        assert (await login(sub="player-2")).uid == first.uid + 1
        await accounts.disable(first.uid)
        with pytest.raises(LoginRefused, match=f"{first.uid} is disabled"):
            await login()
        with pytest.raises(LoginRefused, match="subject"):
            await login(sub="x" * 256)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [AUDIENCE]},
        {"aud": ["the-app", AUDIENCE], "azp": "the-app"},
        {"aud": [AUDIENCE], "azp": AUDIENCE},
        {"exp": From(-30)},  # within the leeway of 60 s
        {"iat": From(30)},
        {"nbf": From(30)},
        {"exp": From(600.5)},
        {"nonce": "whatever", "azp": "the-app", "email": "é@example.org"},
    ],
    ids=str,
)
async def test_what_the_standard_allows_is_allowed(changes: dict[str, Any]) -> None:
    async with issuing(authorized_parties=("the-app",)) as issuer:
        assert await issuer.login(sign(RSA, "RS256", claims(**changes)))


# -- logins that are refused --


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [AUDIENCE, "client-of-another-game"], "azp": AUDIENCE},
        {"aud": [AUDIENCE, "the-app"]},
        {"aud": [AUDIENCE, AUDIENCE]},
        {"aud": [AUDIENCE, 7], "azp": AUDIENCE},
        {"azp": "client-of-another-game"},
        {"azp": ["the-app"]},
        {"azp": ""},
        {"azp": 7},
    ],
)
async def test_a_token_that_is_somebody_elses_as_well_is_refused(changes: dict[str, Any]) -> None:
    async with issuing(authorized_parties=("the-app",)) as issuer:
        reason = await issuer.refusal(sign(RSA, "RS256", claims(**changes)))
        assert "azp" in reason or "aud" in reason
        assert "another-game" not in reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": NAME + "/"}, "iss"),
        ({"iss": None}, "iss"),
        ({"iss": [NAME]}, "iss"),
        ({"aud": "client-of-another-game"}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": {AUDIENCE: 1}}, "aud"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 5}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": From(-61)}, "expired"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("nan")}, "DecodeError"),
        ({"exp": float("inf")}, "DecodeError"),
        ({"iat": None}, "iat"),
        ({"iat": From(3600)}, "in the future"),
        ({"nbf": From(3600)}, "not yet valid"),
    ],
    ids=str,
)
async def test_a_token_of_another_for_another_or_for_another_time_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    async with issuing() as issuer:
        assert words in await issuer.refusal(sign(RSA, "RS256", claims(**changes)))


async def test_a_token_that_nobody_signed_is_refused() -> None:
    async with issuing() as issuer:
        for algorithm in ("none", "None", "NONE", "nOnE", ""):
            assert "is not one of" in await issuer.refusal(unsigned({"alg": algorithm, "kid": RSA.kid}, claims()))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_the_public_key_is_no_secret_to_sign_with(algorithm: str) -> None:
    """The confusion of RFC 8725, section 2.1: HMAC with what everybody can read."""
    assert isinstance(RSA, RSAKey)
    pem = RSA.as_pem(private=False)
    jwk = json.dumps(RSA.as_dict(private=False)).encode()
    async with issuing() as issuer:
        for secret in (base64.b64encode(pem), jwk):
            key = OctKey.import_key(secret, {"kid": str(RSA.kid)})
            assert "is not one of" in await issuer.refusal(sign(key, algorithm))


async def test_a_signature_of_another_key_is_refused_whatever_key_id_it_names() -> None:
    async with issuing() as issuer:
        for algorithm, key in KEYS.items():
            forged = sign(new_key(algorithm, key.kid), algorithm)
            assert "not signed" in await issuer.refusal(forged)
            good = sign(key, algorithm)
            head, payload, signature = good.split(".")
            other = sign(key, algorithm, claims(sub="admin")).split(".")[1]
            assert "not signed" in await issuer.refusal(f"{head}.{other}.{signature}")
            assert await issuer.refusal(f"{head}.{payload}.")
            assert await issuer.refusal(f"{head}.{payload}.{signature[:-4]}")


async def test_a_key_is_used_for_its_own_algorithm_alone() -> None:
    """RS512, PS256, ES384 and so on are not allowed; and ES256 named with an RSA key's id finds no key."""
    async with issuing() as issuer:
        for algorithm in ("RS384", "RS512", "PS256"):
            assert "is not one of" in await issuer.refusal(sign(RSA, algorithm))
        token = sign(KEYS["ES256"], "ES256", kid=RSA.kid)
        assert "not in the key set" in await issuer.refusal(token)


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": RSA.as_dict(private=False), "kid": "mine"},
        {"jku": "https://evil.example/keys", "kid": "mine"},
        {"x5u": "https://evil.example/keys", "kid": "mine"},
    ],
    ids=["jwk", "jku", "x5u"],
)
async def test_a_key_that_the_token_brings_along_is_never_used(header: dict[str, Any]) -> None:
    async with issuing(KEYS["ES256"]) as issuer:
        assert await issuer.refusal(sign(RSA, "RS256", **header))
        assert issuer.server.requests <= 1


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": False}, {"b64": True}, {"kid": "x" * 300}, {"kid": 5}],
    ids=str,
)
async def test_a_header_with_extensions_or_an_odd_key_id_is_refused(header: dict[str, Any]) -> None:
    async with issuing() as issuer:
        assert await issuer.refusal(unsigned({"alg": "RS256", "kid": RSA.kid} | header, claims(), "AAAA"))
        assert issuer.server.requests == 0


async def test_a_token_that_is_too_long_is_refused_unread() -> None:
    async with issuing() as issuer:
        token = sign(RSA, "RS256", claims(padding="x" * 8_192))
        assert "at most 8192" in await issuer.refusal(token)
        assert issuer.server.requests == 0
        nothings: list[Any] = [None, "", 5, ["a.b.c"], {}]
        for nothing in nothings:
            assert "id_token" in await issuer.refusal(nothing)


# -- keys that change --


async def test_a_key_that_the_issuer_has_rotated_in_is_found_and_the_old_one_ends() -> None:
    new = new_key("RS256", "RS256-2")
    async with issuing(RSA) as issuer:
        assert await issuer.login(sign(RSA, "RS256"))
        issuer.server.body = jwks(new)
        assert "not in the key set" in await issuer.refusal(sign(new, "RS256")), "asked again too soon"
        issuer.clock.advance(30)
        assert await issuer.login(sign(new, "RS256"))
        assert "not in the key set" in await issuer.refusal(sign(RSA, "RS256"))
        assert issuer.server.requests == 2


async def test_while_the_keys_cannot_be_had_nobody_is_refused_for_it() -> None:
    async with issuing() as issuer:
        issuer.server.status = "500 Oh"
        with pytest.raises(KeysUnavailable, match="500"):
            await issuer.login(sign(RSA, "RS256"))


async def test_without_a_key_id_the_issuers_only_key_counts() -> None:
    async with issuing(RSA) as issuer:
        assert await issuer.login(sign(RSA, "RS256", kid=None))
    async with issuing(RSA, new_key("RS256", "RS256-2")) as issuer:
        assert "not in the key set" in await issuer.refusal(sign(RSA, "RS256", kid=None))


# -- nonces --


async def test_a_nonce_that_is_asked_for_must_be_the_tokens() -> None:
    async with issuing() as issuer:
        token = sign(RSA, "RS256", claims(nonce="n-0S6_WzA2Mj"))
        assert await issuer.login(token, nonce="n-0S6_WzA2Mj")
        assert "nonce" in await issuer.refusal(token, nonce="n-0S6_WzA2Mk")
        assert "nonce" in await issuer.refusal(sign(RSA, "RS256"), nonce="n-0S6_WzA2Mj")
        assert "nonce" in await issuer.refusal(sign(RSA, "RS256", claims(nonce=5)), nonce="5")
        for odd in ("", None, 5, "x" * 300):
            assert "nonce" in await issuer.refusal(token, nonce=odd)


# -- anything --


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Verifies on keys in a file: a LoginRefused is fine, anything else is not."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_bytes(jwks(*KEYS.values()))
    method = Oidc(by_subject, NAME, AUDIENCE, str(file))

    async def verify(token: str) -> None:
        with pytest.raises(LoginRefused):
            await method.login({"id_token": token}, ADDRESS)

    return lambda token: asyncio.run(verify(token))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c", "enc", "zip"])
headers = st.dictionaries(names, values | st.sampled_from(["RS256", "ES256", "EdDSA", "ES256-1"])) | values


@given(st.text() | st.builds(unsigned, headers, values, st.sampled_from(["", "AAAA", "!", "A"])))
def test_any_text_is_refused_and_breaks_nothing(check: Callable[[str], None], token: str) -> None:
    check(token)


def test_a_token_nested_without_end_is_refused(check: Callable[[str], None]) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 3_000).decode()
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","x":' + b"[" * 300).decode().rstrip("=")
    for token in (f"{head}.{deep}.AAAA", f"{deep}.{deep}.AAAA"):
        check(token)
    check(sign(RSA, "RS256", claims(iss="https://evil.example")))


@pytest.mark.parametrize(("issuer", "audience"), [("", AUDIENCE), (NAME, ""), (NAME, []), (NAME, [AUDIENCE, ""])])
def test_a_method_that_would_let_anybody_in_cannot_be_made(issuer: str, audience: Any) -> None:
    with pytest.raises(ConfigError, match="audience"):
        Oidc(by_subject, issuer, audience, "keys.json")
