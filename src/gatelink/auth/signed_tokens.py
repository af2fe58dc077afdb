"""Tokens that a server checks alone: JWTs (RFC 7519), signed with Ed25519 (RFC 8037), valid for a minute at most.

The header has `alg` Ed25519 (as RFC 9864 names it) and `kid`; the claims are `aud`, `sub` (the uid, in digits), `iat`,
`exp`, `jti`, `slot` if it is not 0, and under `claims` the claims of the user. They are JWT and not PASETO, because
OpenID Connect needs a JOSE library anyway. PASETO leaves no choice of algorithms; here a list of one does the same.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import Annotated, Any, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gatelink.auth import revocations
from gatelink.auth.tokens import Identity, digest_of
from gatelink.cluster.engine import Conflict, Conflicts, Engine, Watch, write_over
from gatelink.errors import ConfigError, VerifyError, importing

with importing(__name__, "login"):
    from joserfc import jws
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
MAX_LIFETIME = 60.0
"""Seconds that a stolen token is valid at most, and that a revocation has to be remembered."""

MAX_SKEW = 5.0
"""Seconds that an issuer's time may be ahead of ours: each server's measurement of the engine's time has an error."""

MAX_SIZE = 1_000
"""Bytes of a token: `limits.max_token` by default."""

MOMENT = 1e-6
"""Seconds between a revocation and the next token: more than the rounding of unix seconds as a float."""

REVOKED = "revoked-tokens"

_registry = jws.JWSRegistry(algorithms=[ALGORITHM])


class _Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload. Times are unix seconds."""

    aud: str
    sub: str
    iat: float
    exp: float
    jti: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{22}$")]
    claims: dict[str, Any] = {}
    slot: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0


_decode = msgspec.json.Decoder(_Claims).decode


class SignedTokens:
    """`Tokens` without a look-up: a public key checks them, a private key issues them.

    engine: carries revocations; started and closed by the caller. keys: private keys, the first of them signs.
    public_keys: further keys that are accepted. To change keys, add the new one to every server, then let it sign, and
    remove the old one a minute later. audience: of the tokens; those for another one are refused. lifetime: seconds, at
    most 60. clock: unix seconds, by default the engine's, which is the same for all servers.

    A token can be used again until it expires, which is soon: it is for the first connection, not for a resume. Enter
    the object with `async with` before use: from then on it follows revocations, and `verify` needs no round trip.
    While the engine is away it uses the revocations it knows, so it may miss one for the minute that tokens live.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        keys: Sequence[Ed25519PrivateKey] = (),
        public_keys: Sequence[Ed25519PublicKey] = (),
        audience: str = "gatelink",
        lifetime: float = MAX_LIFETIME,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not keys and not public_keys:
            raise ConfigError("signed tokens without a key; give keys to issue them, public_keys to check them")
        if not 0 < lifetime <= MAX_LIFETIME:
            raise ConfigError(f"lifetime is {lifetime} s; it must be above 0 and at most {MAX_LIFETIME:g} s")
        self._engine = engine
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock or engine.now
        self._signing = OKPKey.import_key(keys[0]) if keys else None
        self._kid = key_id(keys[0].public_key()) if keys else ""
        publics = [*(key.public_key() for key in keys), *public_keys]
        self._keys = {key_id(key): OKPKey.import_key(key) for key in publics}
        self._watching: AbstractAsyncContextManager[Watch] | None = None
        self._watch: Watch | None = None

    async def __aenter__(self) -> Self:
        """Raises EngineUnavailable."""
        self._watching = self._engine.watch(REVOKED)
        self._watch = await self._watching.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._watching is not None:
            await self._watching.__aexit__(None, None, None)
        self._watching = self._watch = None

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0) -> str:
        """A new token for `uid` (u64).

        With `only`, the user's tokens that were issued for the same `slot` (u8) end: of several issued at once, one
        stays. A server refuses them once the engine has sent it the revocation; `issue` does not wait for that. Raises
        ValueError for claims that make it longer than MAX_SIZE; with `only`, EngineUnavailable.
        """
        if self._signing is None:
            raise ConfigError("no key to sign tokens with; give SignedTokens keys, not only public_keys")
        now = self._clock()
        if only:
            issued_at = max(await self._end_before(_slot_key(uid, slot)), self._ended_at(_user_key(uid))) + MOMENT
        else:
            issued_at = max(
                now, self._revoked_before(uid, slot) + MOMENT
            )  # a clock may be behind the revoking server's
        payload = _Claims(
            self._audience, str(uid), issued_at, now + self._lifetime, secrets.token_urlsafe(16), claims or {}, slot
        )
        header = {"alg": ALGORITHM, "kid": self._kid}
        token = jws.serialize_compact(header, msgspec.json.encode(payload), self._signing, registry=_registry)
        if len(token) > MAX_SIZE:
            raise ValueError(f"a token of {len(token)} bytes; it may have {MAX_SIZE}, so give it fewer claims")
        return token

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `Tokens.verify`, without a round trip."""
        payload = self._opened(token)
        if payload.sub != str(uid):
            raise VerifyError(f"wrong uid: a token of uid {payload.sub} was shown by uid {uid}")
        if f"{REVOKED}.token.{payload.jti}" in self._revoked or payload.iat <= self._revoked_before(uid, payload.slot):
            raise VerifyError(f"revoked token of uid {uid}")
        return Identity(uid, payload.claims, payload.exp)

    async def revoke(self, token: str) -> None:
        """End one token, and the sessions that it opened; an invalid or expired token is no error.

        Raises EngineUnavailable.
        """
        try:
            payload = self._opened(token.encode("ascii", "replace"))
        except VerifyError:
            return
        left = max(1.0, payload.exp - self._clock())
        await self._engine.put(f"{REVOKED}.token.{payload.jti}", b"", left)
        await revocations.announce(self._engine, int(payload.sub), digest_of(token))

    async def revoke_user(self, uid: int) -> None:
        """End every token of `uid` that was issued before, and all sessions of the user.

        Raises EngineUnavailable.
        """
        await self._end_before(_user_key(uid))
        await revocations.announce(self._engine, uid)

    async def revoke_user_up_to(self, uid: int, at: float) -> None:
        """End the tokens of `uid` that were issued up to a moment, unix seconds. The caller ends the sessions.

        Raises EngineUnavailable.
        """
        key = _user_key(uid)
        conflicts = Conflicts(key)
        while True:
            entry = await self._engine.get(key)
            if entry is not None and float(entry.value) >= at:
                return
            try:
                await write_over(self._engine, entry, key, repr(at).encode(), MAX_LIFETIME + MAX_SKEW)
                return
            except Conflict:  # another server's came first
                await conflicts.another()

    async def follow_revocations(self, revoked: revocations.Revoked) -> None:
        """Call `revoked` with the revocations of all servers, until the engine is closed. Raises EngineUnavailable."""
        await revocations.follow(self._engine, revoked)

    async def _end_before(self, key: str) -> float:
        """End the tokens of `key` that were issued up to a moment, which is later each time. Returns it."""
        ttl = MAX_LIFETIME + MAX_SKEW
        conflicts = Conflicts(key)
        while True:
            entry = await self._engine.get(key)
            moment = self._clock() if entry is None else max(self._clock(), float(entry.value) + MOMENT)
            try:
                await write_over(self._engine, entry, key, repr(moment).encode(), ttl)
                return moment
            except Conflict:  # another server's came first
                await conflicts.another()

    def _opened(self, token: bytes) -> _Claims:
        """The payload of a valid token that has not expired. Raises VerifyError."""
        if len(token) > MAX_SIZE:
            raise VerifyError(f"not a signed token: {len(token)} bytes, over {MAX_SIZE}")
        try:
            signed = jws.deserialize_compact(token, self._find_key, registry=_registry)
            payload = _decode(signed.payload)
        except VerifyError:
            raise
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            # Only its name: the text may hold parts of the token.
            raise VerifyError(f"not a signed token of ours: {type(error).__name__}") from None
        now = self._clock()
        if payload.aud != self._audience:
            raise VerifyError(f"token for another audience, of uid {payload.sub}")
        if now >= payload.exp:
            raise VerifyError(f"expired token of uid {payload.sub}")
        if payload.exp > now + MAX_LIFETIME + MAX_SKEW:
            raise VerifyError(f"token of uid {payload.sub} is valid for longer than {MAX_LIFETIME:g} s")
        return payload

    def _find_key(self, signed: Any) -> OKPKey:
        """joserfc asks it for the key of a header that it has checked."""
        key = self._keys.get(signed.headers().get("kid"))
        if key is None:
            raise VerifyError(f"token signed with a key that is none of {', '.join(self._keys)}")
        return key

    @property
    def _revoked(self) -> Mapping[str, bytes]:
        if self._watch is None:
            raise ConfigError("signed tokens are used within `async with SignedTokens(...)`, to follow revocations")
        return self._watch.entries

    def _revoked_before(self, uid: int, slot: int) -> float:
        """The time of the last revocation of `uid` or its `slot`; 0 if no revocation matters any more."""
        return max(self._ended_at(_user_key(uid)), self._ended_at(_slot_key(uid, slot)))

    def _ended_at(self, key: str) -> float:
        return float(self._revoked.get(key, b"0"))


def _user_key(uid: int) -> str:
    return f"{REVOKED}.user.{uid}"


def _slot_key(uid: int, slot: int) -> str:
    return f"{REVOKED}.slot.{uid}.{slot}"


def key_id(key: Ed25519PublicKey) -> str:
    """The id of a key in a token's header: the first 4 bytes of its SHA-256, in hex."""
    return sha256(key.public_bytes_raw()).hexdigest()[:8]


def signing_key(text: str) -> Ed25519PrivateKey:
    """The private key of 64 hex digits, its seed (RFC 8032). Raises ConfigError, without the text."""
    return Ed25519PrivateKey.from_private_bytes(_from_hex(text))


def public_key(text: str) -> Ed25519PublicKey:
    """The public key of 64 hex digits. Raises ConfigError."""
    return Ed25519PublicKey.from_public_bytes(_from_hex(text))


def _from_hex(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ConfigError(f"an Ed25519 key of {len(text)} characters; it must be 64 hex digits: openssl rand -hex 32")
    return raw
