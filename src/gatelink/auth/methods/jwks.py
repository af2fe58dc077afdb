"""An issuer's public keys: a JSON Web Key Set (RFC 7517), fetched when needed and kept for a while."""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gatelink.auth.errors import Unavailable
from gatelink.auth.key_source import url_of
from gatelink.errors import ConfigError, importing

with importing(__name__, "login"):
    import httpx
    from joserfc.errors import JoseError, SecurityWarning
    from joserfc.jwk import ECKey, OKPKey, RSAKey

PublicKey = RSAKey | ECKey | OKPKey

MAX_BYTES = 262_144  # of a key set; the large issuers' are 2 to 30 KiB
MAX_KEYS = 100
HEADERS = {"accept": "application/json", "accept-encoding": "identity"}  # a few compressed bytes could be gigabytes
MIN_RSA_BITS = 2_048  # RFC 7518, section 3.3

# The algorithms and the key of each. Never `none`; never HMAC, whose "key" would be the public one.
ALGORITHMS = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}

EDWARDS = ("EdDSA", "Ed25519")
"""Two names of one algorithm (RFC 9864): an issuer may sign with one and have the other in its key set."""


class KeysUnavailable(Unavailable):
    """The issuer's key set can't be fetched, or is invalid."""


class Jwks:
    """The key set at `source`: an https URL, an http URL on loopback, or a file's path.

    Keys are used for at most `max_age` seconds. A login fetches them again when half of that has passed or when its key
    is unknown, but at most once in `retry_after` seconds. So a withdrawn key is refused after `max_age` seconds at the
    latest, and a new one is known after `retry_after`. No client can cause more fetches. A fetch has `timeout` seconds,
    follows no redirect and reads at most 256 KiB.
    """

    def __init__(
        self,
        source: str,
        *,
        max_age: float = 3600.0,
        retry_after: float = 30.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("max_age", max_age), ("retry_after", retry_after), ("timeout", timeout)):
            if not value > 0:
                raise ConfigError(f"{name} of the key set is {value}; it must be above 0")
        self._source = source
        self._url = url_of(source)
        self._max_age = max_age
        self._retry_after = retry_after
        self._timeout = timeout
        self._clock = clock
        self._keys: list[PublicKey] = []
        self._fetched_at = self._tried_at = float("-inf")
        self._failure = "was never fetched"
        self._tls: ssl.SSLContext | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key `kid` for `algorithm` (one of ALGORITHMS); without `kid` the only one for it. None if no key fits.

        Raises KeysUnavailable when no key set is young enough to decide.
        """
        if self._age() >= self._max_age:
            await self._refresh()
            if self._age() >= self._max_age:
                raise KeysUnavailable(f"the key set {self._source} {self._failure}")
        found = self._look_up(kid, algorithm)
        if found is None or self._age() >= self._max_age / 2:
            await self._refresh()
            found = self._look_up(kid, algorithm)
        return found

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _look_up(self, kid: str | None, algorithm: str) -> PublicKey | None:
        fitting = [key for key in self._keys if _fits(key, algorithm)]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.kid == kid), None)

    async def _refresh(self) -> None:
        """Fetch, or wait for the fetch under way. Does nothing soon after the last one."""
        if self._fetching is None:
            if self._clock() - self._tried_at < self._retry_after:
                return
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        # A cancelled login must not cancel the fetch of others; it has its own deadline.
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        """Replace the keys. A failure leaves the old keys, and its text in `_failure`."""
        try:
            async with asyncio.timeout(self._timeout):
                data = await (self._download() if self._url else asyncio.to_thread(self._read_file))
            self._keys = parse_keys(data)
            self._fetched_at = self._clock()
        except TimeoutError:
            self._failure = f"did not come within {self._timeout:g} s"
        except (httpx.HTTPError, OSError, ValueError) as error:
            self._failure = f"can't be fetched: {type(error).__name__}: {error}"
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        assert self._url is not None
        loopback = self._url.startswith("http:")  # without TLS, and not through a proxy of the environment
        if self._tls is None and not loopback:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads and parses a file of authorities
        tls = self._tls if self._tls is not None else False
        async with (
            httpx.AsyncClient(timeout=self._timeout, trust_env=not loopback, verify=tls) as client,
            client.stream("GET", self._url, headers=HEADERS) as response,
        ):
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}, not 200")
            data = b""
            async for chunk in response.aiter_raw(65_536):
                data += chunk
                if len(data) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return data

    def _read_file(self) -> bytes:
        with Path(self._source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return data


def parse_keys(data: bytes) -> list[PublicKey]:
    """The keys in a key set's JSON that check signatures; the others are ignored (RFC 7517, section 5).

    Raises ValueError if it is no key set or has no such key.
    """
    try:
        jwks = msgspec.json.decode(data, type=dict[str, Any])
        found = jwks["keys"]
    except (msgspec.DecodeError, RecursionError, KeyError):
        raise ValueError('not a JSON object with "keys"') from None
    if not isinstance(found, list) or len(found) > MAX_KEYS:
        raise ValueError(f'"keys" is not a list of at most {MAX_KEYS}')
    keys = [key for key in map(_import, found) if key is not None]
    if not keys:
        raise ValueError(f"no key for {', '.join(ALGORITHMS)} among {len(found)}")
    return keys


def _import(data: Any) -> PublicKey | None:
    kinds: dict[str, type[PublicKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    if not isinstance(data, dict) or not isinstance(data.get("kty"), str) or data["kty"] not in kinds:
        return None
    if data["kty"] == "OKP" and data.get("alg") in EDWARDS:  # it checks tokens of both names
        data = {name: value for name, value in data.items() if name != "alg"}
    try:
        key = kinds[data["kty"]].import_key(data)
        key.check_use("sig")
        key.check_key_op("verify")
    except (
        JoseError,
        ValueError,
        TypeError,
        KeyError,
        SecurityWarning,
    ):  # the last for a short key, where warnings are errors
        return None
    return key if any(_fits(key, algorithm) for algorithm in ALGORITHMS) else None


def _fits(key: PublicKey, algorithm: str) -> bool:
    kind, curve = ALGORITHMS[algorithm]
    if key.key_type != kind or key.alg not in (None, algorithm):
        return False
    if isinstance(key, RSAKey):
        return key.public_key.key_size >= MIN_RSA_BITS
    return key.curve_name == curve
