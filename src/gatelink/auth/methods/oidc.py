"""Logging in with an OpenID Connect issuer's ID token: a JWT (RFC 7519) that the issuer has signed."""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from gatelink.auth.accounts import Accounts
from gatelink.auth.errors import InvalidCredential, LoginRefused
from gatelink.auth.methods.base import text
from gatelink.auth.methods.jwks import ALGORITHMS, Jwks
from gatelink.auth.tokens import Identity
from gatelink.errors import ConfigError, importing

with importing(__name__, "login"):
    from joserfc.errors import JoseError, UnsupportedAlgorithmError
    from joserfc.jws import CompactSignature, JWSRegistry, extract_compact, validate_compact
    from joserfc.jwt import JWTClaimsRegistry

MAX_TOKEN = 8_192  # characters; the large issuers' ID tokens have 1,000 to 2,000
MAX_KID = 256
MAX_NONCE = 256


class _Allowed(JWSRegistry):
    """ALGORITHMS out of joserfc's, without its warning about EdDSA: RFC 9864 renames it, but issuers use it."""

    def get_alg(self, name: str) -> Any:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"{name!r:.20} is not one of {', '.join(ALGORITHMS)}")
        return self.algorithms[name]


_registry = _Allowed(strict_check_header=False)  # an unknown header is ignored (RFC 7515, section 4)


class Oidc:
    """Credential `id_token`: the account of its `sub` at `issuer`, made the first time it is seen.

    The token is signed with RS256, ES256 or EdDSA (Ed25519) by a key in `jwks`, the issuer's key set: an https URL,
    an http URL on loopback, or a file's path. Its `iss` is `issuer`, its `aud` has (one of) `audience`, `exp`, `iat`
    and `nbf` (the last if there) hold, give or take `leeway` seconds. A token that is also for other parties could come
    from one of them. So every `aud`, and `azp` if present, must be in `audience` or `authorized_parties`. The latter
    are other clients of ours: an app has an id of its own, and its tokens are for the server. A token with several
    audiences must have `azp` (OpenID Connect Core 1.0, section 3.1.3.7). If the credentials have a `nonce`, the token
    must have the same; that stops the reuse of a stolen token only if the caller drew the nonce.

    Instead of `accounts`, a function can give the identity: `async def (claims) -> Identity`, with the verified claims.
    """

    def __init__(
        self,
        accounts: Accounts | Callable[[dict[str, Any]], Awaitable[Identity]],
        issuer: str,
        audience: str | Sequence[str],
        jwks: str | Jwks,
        *,
        authorized_parties: Sequence[str] = (),
        leeway: int = 60,
        clock: Callable[[], float] = time.time,
    ) -> None:
        audiences = [audience] if isinstance(audience, str) else list(audience)
        if not issuer or not audiences or not all(audiences):
            raise ConfigError("an OpenID Connect login needs the issuer and an audience, which is your client id there")
        self._accounts = accounts
        self._issuer = issuer
        self._ours = frozenset((*audiences, *authorized_parties))
        self._jwks = jwks if isinstance(jwks, Jwks) else Jwks(jwks)
        self._claims = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=leeway,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "values": audiences},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        claims = await self.verify(text(credentials, "id_token", MAX_TOKEN))
        if "nonce" in credentials:
            shown = claims.get("nonce")
            nonce = text(credentials, "nonce", MAX_NONCE).encode(errors="surrogatepass")
            if not isinstance(shown, str) or not hmac.compare_digest(shown.encode(errors="surrogatepass"), nonce):
                raise LoginRefused(f"the ID token of {self._issuer} has another nonce")
        if not isinstance(self._accounts, Accounts):
            return await self._accounts(claims)
        try:
            return await self._accounts.get_or_create_external(self._issuer, claims["sub"])
        except InvalidCredential as error:
            raise LoginRefused(str(error)) from None

    async def verify(self, id_token: str) -> dict[str, Any]:
        """The claims of a token that is valid. Raises LoginRefused, KeysUnavailable."""
        try:
            token = extract_compact(id_token.encode("ascii"), registry=_registry)
            algorithm, kid = _header(token)
            key = await self._jwks.find(kid, algorithm)
            if key is None:
                raise LoginRefused(f"the ID token's key is not in the key set of {self._issuer} for {algorithm}")
            if not validate_compact(token, key, registry=_registry):
                raise LoginRefused(f"the ID token is not signed by {self._issuer}")
            claims = msgspec.json.decode(token.payload, type=dict[str, Any])
            self._claims.validate(claims)
            self._check_parties(claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise LoginRefused(f"not an ID token of {self._issuer}: {_words(error)}") from None
        return claims

    def _check_parties(self, claims: dict[str, Any]) -> None:
        """Raise LoginRefused for a token that is for another party too. Its `aud` has one of ours."""
        audience, party = claims["aud"], claims.get("azp")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(each, str) and each in self._ours for each in audiences):
            raise LoginRefused(f"the ID token of {self._issuer} is for an audience that is not ours, too")
        if party is None and len(audiences) > 1:
            raise LoginRefused(f"the ID token of {self._issuer} has {len(audiences)} audiences and no azp")
        if party is not None and not (isinstance(party, str) and party in self._ours):
            raise LoginRefused(f"the ID token of {self._issuer} was issued to a party that is not ours (azp)")


def _header(token: CompactSignature) -> tuple[str, str | None]:
    """The header's algorithm and key id. Raises JoseError and ValueError."""
    header = token.headers()
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    _registry.check_header(header)
    if "crit" in header or "b64" in header:
        raise ValueError("its header has extensions")
    _registry.get_alg(header["alg"])
    kid = header.get("kid")
    if kid is not None and len(kid) > MAX_KID:
        raise ValueError(f"its key id has {len(kid)} characters")
    return header["alg"], kid


def _words(error: Exception) -> str:
    """The error, with nothing of the token but names of claims and of the algorithm."""
    return str(error) if isinstance(error, JoseError) else type(error).__name__
