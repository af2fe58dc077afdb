"""An issuer's keys are fetched when they are needed, seldom, in bounds, and are never older than allowed."""

import asyncio
import base64
import gzip
import json
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey

from gatelink import ConfigError
from gatelink.auth.errors import Unavailable
from gatelink.auth.methods.jwks import MAX_BYTES, MAX_KEYS, Jwks, KeysUnavailable, parse_keys
from gatelink.testing import FakeClock
from tests.e2e.support import make_certificate
from tests.issuer import KeyServer, jwks, new_key
from tests.support import MS

OLD, NEW = new_key("ES256", "old"), new_key("ES256", "new")
LIMITS = {"max_age": 3600.0, "retry_after": 30.0}


def made(server: KeyServer, clock: FakeClock, **settings: Any) -> Jwks:
    return Jwks(server.url, clock=clock, **(LIMITS | settings))


async def kid_of(keys: Jwks, kid: str | None) -> str | None:
    found = await keys.find(kid, "ES256")
    return found.kid if found else None


async def test_keys_are_fetched_once_and_then_known() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        keys = made(server, FakeClock())
        assert server.requests == 0
        for _ in range(5):
            assert await kid_of(keys, "old") == "old"
        assert server.requests == 1


async def test_many_logins_at_once_wait_for_one_fetch() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        keys = made(server, FakeClock())
        server.answering.clear()
        waiting = [asyncio.create_task(kid_of(keys, "old")) for _ in range(20)]
        await server.asked.wait()
        waiting[0].cancel()  # it is the one that began the fetch; the others still get their keys
        server.answering.set()
        assert await asyncio.gather(*waiting[1:]) == ["old"] * 19
        assert server.requests == 1


async def test_a_key_that_is_not_known_yet_is_looked_for_but_not_again_and_again() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        clock = FakeClock()
        keys = made(server, clock)
        assert await kid_of(keys, "old") == "old"
        for number in range(50):  # what an attacker can make up
            assert await kid_of(keys, f"made-up-{number}") is None
        assert server.requests == 1
        server.body = jwks(OLD, NEW)
        clock.advance(30)
        assert await kid_of(keys, "new") == "new"
        assert server.requests == 2


async def test_a_key_that_was_withdrawn_is_refused_when_the_keys_are_fetched_again() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        clock = FakeClock()
        keys = made(server, clock)
        assert await kid_of(keys, "old") == "old"
        server.body = jwks(NEW)
        clock.advance(1799)
        assert await kid_of(keys, "old") == "old"
        clock.advance(1)
        assert await kid_of(keys, "old") is None
        assert server.requests == 2


async def test_an_issuer_that_is_away_changes_nothing_until_the_keys_are_too_old() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        clock = FakeClock()
        keys = made(server, clock)
        assert await kid_of(keys, "old") == "old"
        server.status = "503 Service Unavailable"
        clock.advance(3599)
        assert await kid_of(keys, "old") == "old"
        clock.advance(1)
        with pytest.raises(KeysUnavailable, match="503"):
            await kid_of(keys, "old")
        server.status = "200 OK"
        with pytest.raises(KeysUnavailable):
            await kid_of(keys, "old")
        assert server.requests == 2, "an issuer in trouble is not asked by every login"
        clock.advance(30)
        assert await kid_of(keys, "old") == "old"


async def test_an_issuer_that_does_not_answer_is_given_up() -> None:
    async with KeyServer(jwks(OLD)).running() as server:
        server.answering.clear()
        keys = made(server, FakeClock(), timeout=500 * MS)
        with pytest.raises(KeysUnavailable) as error:
            await kid_of(keys, "old")
        assert isinstance(error.value, Unavailable) and server.requests == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"x" * (MAX_BYTES + 1), "200 OK", "more than"),
        (b"not json", "200 OK", "JSON"),
        (b"[]", "200 OK", "JSON"),
        (b'{"keys": ' + b"[" * 100_000, "200 OK", "JSON"),
        (b'{"keys": 5}', "200 OK", "list"),
        (b'{"keys": []}', "200 OK", "no key"),
        (json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(), "200 OK", "at most"),
        (jwks(OLD), "404 Not Found", "404"),
        (jwks(OLD), "302 Found", "302"),
    ],
    ids=["too long", "no json", "no object", "too deep", "no list", "empty", "too many", "not found", "a redirect"],
)
async def test_what_is_no_key_set_is_unavailable_and_says_why(body: bytes, status: str, words: str) -> None:
    async with KeyServer(body).running() as server:
        server.status = status
        server.headers = f"location: {server.url}\r\n" if status.startswith("302") else ""
        with pytest.raises(KeysUnavailable, match=words):
            await kid_of(made(server, FakeClock()), "old")
        assert server.requests == 1


async def test_a_packed_answer_is_not_unpacked() -> None:
    async with KeyServer(gzip.compress(jwks(OLD))).running() as server:
        server.headers = "content-encoding: gzip\r\n"
        with pytest.raises(KeysUnavailable, match="JSON"):
            await kid_of(made(server, FakeClock()), "old")


async def test_over_https_only_a_server_with_a_trusted_certificate_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with KeyServer(jwks(OLD)).running(tls) as server:
        with pytest.raises(KeysUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await kid_of(made(server, FakeClock()), "old")
        assert server.requests == 0
        monkeypatch.setenv("SSL_CERT_FILE", certificate)  # how an operator trusts an authority of his own
        assert await kid_of(made(server, FakeClock()), "old") == "old"


async def test_keys_in_a_file_are_read_and_read_again(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys.json", FakeClock()
    keys = Jwks(str(file), clock=clock, **LIMITS)
    with pytest.raises(KeysUnavailable, match="keys.json"):
        await kid_of(keys, "old")
    file.write_bytes(jwks(OLD))
    clock.advance(30)
    assert await kid_of(keys, "old") == "old"
    file.write_bytes(jwks(NEW))
    clock.advance(30)
    assert await kid_of(keys, "new") == "new"


async def test_without_a_key_id_the_only_key_there_is_for_the_algorithm_is_meant() -> None:
    async with KeyServer(jwks(OLD, new_key("RS256", "rsa"))).running() as server:
        clock = FakeClock()
        keys = made(server, clock)
        assert await kid_of(keys, None) == "old"
        server.body = jwks(OLD, NEW)
        clock.advance(1800)
        assert await kid_of(keys, None) is None


def short_rsa_key() -> Any:
    """The public key set member of a 1024-bit RSA key."""
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    n, e = (
        base64.urlsafe_b64encode(number.to_bytes(size, "big")).decode().rstrip("=")
        for number, size in ((numbers.n, 128), (numbers.e, 3))
    )
    return {"kty": "RSA", "kid": "short", "n": n, "e": e}


def test_a_short_key_is_left_out_whatever_warnings_do() -> None:
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(ValueError, match="no key"):
                parse_keys(json.dumps({"keys": [short_rsa_key()]}).encode())


def test_only_keys_that_check_signatures_of_the_allowed_algorithms_are_kept() -> None:
    good = [new_key("RS256"), new_key("ES256"), new_key("EdDSA")]
    public: list[Any] = [key.as_dict(private=False) for key in good]
    others: list[Any] = [
        OctKey.generate_key(256).as_dict(private=True),
        short_rsa_key(),
        ECKey.generate_key("P-384").as_dict(private=False),
        OKPKey.generate_key("X25519").as_dict(private=False),
        public[0] | {"use": "enc"},
        public[0] | {"alg": "RS512"},
        public[1] | {"key_ops": ["deriveKey"]},
        public[1] | {"x": "AAAA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": ["RSA"]},
        {},
        5,
        None,
    ]
    found = parse_keys(json.dumps({"keys": others + public}).encode())
    assert [key.kid for key in found] == [key.kid for key in good]
    with pytest.raises(ValueError, match="no key"):
        parse_keys(json.dumps({"keys": others}).encode())


@pytest.mark.parametrize("named", ["EdDSA", "Ed25519", None])
@pytest.mark.parametrize("asked", ["EdDSA", "Ed25519"])
async def test_a_key_of_one_name_of_ed25519_is_found_by_the_other(
    named: str | None, asked: str, tmp_path: Path
) -> None:
    public: dict[str, Any] = new_key("EdDSA").as_dict(private=False)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public | ({"alg": named} if named else {})]}))
    key = await Jwks(str(tmp_path / "keys.json")).find(public["kid"], asked)
    assert key is not None and key.kid == public["kid"]


def test_a_key_of_another_kind_does_not_become_one_by_its_algorithm() -> None:
    rsa: dict[str, Any] = new_key("RS256").as_dict(private=False)
    for name in ("EdDSA", "Ed25519"):
        with pytest.raises(ValueError, match="no key"):
            parse_keys(json.dumps({"keys": [rsa | {"alg": name}]}).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["RSA", "EC", "OKP", "P-256"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid", "key_ops", "d"]), inner
        )
    ),
)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps({"keys": [value, value]}).encode()))
def test_any_bytes_are_a_key_set_or_a_value_error(data: bytes) -> None:
    try:
        assert parse_keys(data)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "source",
    [
        "http://issuer.example/keys",
        "ftp://issuer.example/keys",
        "https:///keys",
        "http://127.0.0.1.example/keys",
        "https://[::1/k",
    ],
)
def test_keys_that_anybody_on_the_way_could_replace_are_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        Jwks(source)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="keys from issuer.example: the URL holds a user or a password") as error:
        Jwks("https://me:s3cret@issuer.example/keys")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "source", ["https://issuer.example/keys", "http://[::1]:80/k", "http://localhost/k", "keys.json"]
)
def test_https_loopback_and_files_are_allowed(source: str) -> None:
    Jwks(source)


@pytest.mark.parametrize("name", ["max_age", "retry_after", "timeout"])
def test_a_bound_of_none_is_refused_by_name(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        Jwks("keys.json", **settings)
