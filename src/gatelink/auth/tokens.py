"""Tokens: a login issues them, and every server checks them the same way."""

import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from gatelink.errors import ConfigError, VerifyError
from gatelink.wire.codecs import decode_error


class Identity(msgspec.Struct, frozen=True):
    """The identity of a verified peer."""

    uid: int  # u64
    claims: dict[str, Any] = {}  # what the login knows of the user: name, roles, ...
    expires_at: float | None = None  # unix seconds; None: never


def checked(found: object, giver: str) -> Identity:
    """Return `found` if it is an Identity whose values have the declared types. giver: what gave it, for the error.

    A Struct does not check that itself, and a session whose `expires_at` is no number would not end. Raises TypeError,
    without any of the values.
    """
    if not isinstance(found, Identity):
        raise TypeError(f"{giver} returned a {type(found).__name__}; it must be an Identity")
    try:
        msgspec.convert({**msgspec.structs.asdict(found), "claims": found.claims or {}}, Identity)
    except (msgspec.ValidationError, OverflowError) as error:
        raise TypeError(f"{giver} returned an Identity with a wrong value: {decode_error(error)}") from None
    if found.expires_at is not None and math.isnan(found.expires_at):
        raise TypeError(f"{giver} returned an Identity whose expires_at is NaN")
    return found


class Tokens(Protocol):
    """Checks the token of a ClientVertifyReq (docs/protocol.md, "Base messages")."""

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """The identity that `token` proves, its `uid` the one given.

        token: as the peer sent it, up to `limits.max_token` bytes of any value, UTF-8 or not. uid (u64), source (0
        client, 1..255 server type): what the peer claims; a token proves the uid, never the source. address: the
        peer's, for the log and for policy.

        Raises VerifyError. Its text is for the log and has nothing of the token. After `limits.token_timeout` seconds
        the server cancels the call and refuses the peer.
        """
        ...


class Issuer(Protocol):
    """Issues tokens for a login service, and ends them. Its methods may also be plain functions."""

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0) -> str:
        """A new token for `uid`. `only`: the user's older tokens of the same `slot` (u8) end."""
        ...

    async def revoke(self, token: str) -> None:
        """End one token. An unknown token is no error."""
        ...


class IssuedTokens(Tokens, Issuer, Protocol):
    """Tokens that are issued, checked and ended: `EngineTokens`, `SignedTokens`."""

    async def revoke_user(self, uid: int) -> None:
        """End every token of `uid` that was issued before."""
        ...


class StaticTokens:
    """The token is a function of the uid: for tests and benchmarks, never for players.

    check: returns the valid token of a uid; by default the uid with 32 digits.
    """

    def __init__(self, check: Callable[[int], bytes] = lambda uid: b"%032d" % uid) -> None:
        self._check = check

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        if not hmac.compare_digest(token, self._check(uid)):
            raise VerifyError(f"not the static token of uid {uid}")
        return Identity(uid)


class _Record(msgspec.Struct):
    """All about one issued token but the token itself."""

    uid: int
    claims: dict[str, Any]
    ends_at: float  # unix seconds: the end of its lifetime, used or not
    expires_at: float  # unix seconds: `ends_at`, or before its first use the earlier end of that window
    ended: str = ""  # how it ended before it expired: revoked, used-up


_Queue = OrderedDict[bytes, _Record]


class MemoryTokens:
    """Tokens of one process, which issues, checks and forgets them.

    A token is 256 random bits bound to a uid. It must be used within `first_use` seconds of its issue, and ends
    `lifetime` seconds after its issue however often it is used; with `single_use` its first use is also its last. Only
    its SHA-256 is kept, so a dump of the memory shows no token.

    At most `max_tokens` are remembered, in about 0.7 KiB each. In a full table an issue forgets one token, the first of
    these: an expired one, an ended one (revoked, used up), the one whose first use is the longest ago, the oldest
    unused one. Its holder logs in again. Used tokens go before unused ones because their holders are connected already.
    The other way round, new logins would take the last place of each other.
    """

    def __init__(
        self,
        *,
        first_use: float = 30.0,
        lifetime: float = 12 * 3600.0,
        single_use: bool = False,
        max_tokens: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_times(first_use, lifetime)
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}; it must be 1 or more")
        self._first_use = first_use
        self._lifetime = lifetime
        self._single_use = single_use
        self._max_tokens = max_tokens
        self._clock = clock
        # By the digest of a token; each is in the order in which tokens came to it.
        self._ended, self._used, self._unused = self._queues = (_Queue(), _Queue(), _Queue())
        self._digests_of: dict[int, set[bytes]] = {}
        self.when_revoked: set[Callable[[int, bytes], None]] = set()
        """Called with the uid and the SHA-256 of a token that was revoked; b"" for all of the user's tokens. A server
        that uses these tokens then ends the sessions."""

    def __len__(self) -> int:
        """The number of remembered tokens, with ended and expired ones that are not forgotten yet."""
        return sum(map(len, self._queues))

    def issue(self, uid: int, claims: dict[str, Any] | None = None) -> str:
        """A new token for `uid` (u64): 43 characters of URL-safe base64. The uid's other tokens stay valid."""
        now = self._clock()
        self._forget_expired(now)
        if len(self) >= self._max_tokens:
            self._forget_first(next(filter(None, self._queues)))
        token = new_token()
        digest = digest_of(token)
        self._unused[digest] = _Record(uid, dict(claims or {}), now + self._lifetime, now + self._first_use)
        self._digests_of.setdefault(uid, set()).add(digest)
        return token

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `Tokens.verify`. A token with another uid is refused and stays valid."""
        digest = digest_of(token)
        queue = self._queue_of(digest)
        if queue is None:
            raise VerifyError(f"unknown token shown by uid {uid}: never issued by this process, or forgotten since")
        record = queue[digest]
        if record.uid != uid:
            raise VerifyError(f"wrong uid: a token of uid {record.uid} was shown by uid {uid}")
        if record.ended:
            raise VerifyError(f"{record.ended} token of uid {uid}")
        if self._clock() >= record.expires_at:
            limit = f"first_use {self._first_use:g} s" if queue is self._unused else f"lifetime {self._lifetime:g} s"
            raise VerifyError(f"expired token of uid {uid} ({limit})")
        if queue is self._unused:
            record.expires_at = record.ends_at
            self._used[digest] = queue.pop(digest)
            if self._single_use:
                self._end(digest, "used-up")
        return Identity(uid, dict(record.claims), record.ends_at)

    def revoke(self, token: str) -> None:
        """End one token, and the sessions that it opened; an unknown or ended token is no error."""
        digest = digest_of(token)
        queue = self._queue_of(digest)
        if queue is not None:
            uid = queue[digest].uid
            self._end(digest, "revoked")
            for call in list(self.when_revoked):
                call(uid, digest)

    async def revoke_user(self, uid: int) -> None:
        """End every token of `uid`, and all sessions of the user."""
        for digest in self._digests_of.get(uid, ()):
            self._end(digest, "revoked")
        for call in list(self.when_revoked):
            call(uid, b"")

    def _queue_of(self, digest: bytes) -> _Queue | None:
        return next((queue for queue in self._queues if digest in queue), None)

    def _end(self, digest: bytes, how: str) -> None:
        """Refuse a token from now on, but remember it for a while, so that the log can give the reason."""
        queue = self._queue_of(digest)
        if queue is not None and queue is not self._ended:
            record = self._ended[digest] = queue.pop(digest)
            record.ended = how

    def _forget_expired(self, now: float) -> None:
        """Forget up to two expired tokens a queue: faster than they are issued, and without a long pause."""
        for queue in self._queues:
            for _ in range(2):
                if queue and next(iter(queue.values())).expires_at <= now:
                    self._forget_first(queue)

    def _forget_first(self, queue: _Queue) -> None:
        digest, record = queue.popitem(last=False)
        digests = self._digests_of[record.uid]
        digests.remove(digest)
        if not digests:
            del self._digests_of[record.uid]


def check_times(first_use: float, lifetime: float) -> None:
    """Raise ConfigError unless the window of the first use is within the lifetime."""
    if not 0 < first_use <= lifetime:
        raise ConfigError(f"first_use is {first_use} s; it must be above 0 and at most the lifetime, {lifetime} s")


def new_token() -> str:
    """256 random bits, as 43 characters of URL-safe base64."""
    return secrets.token_urlsafe(32)


def digest_of(token: str | bytes) -> bytes:
    """The SHA-256 of a token, under which it is kept.

    The time of a look-up may depend on the digest. That helps no guesser: a digest cannot be chosen.
    """
    # An issued token is ASCII, and "?" is not in base64: so the replacement makes no token out of another text.
    return sha256(token.encode("ascii", "replace") if isinstance(token, str) else token).digest()
