"""Tokens kept in the engine of a cluster: every server checks them, and a revocation holds at once.

The key `tokens.<SHA-256 of the token, hex>` has the uid and the times of a token. The key `user-tokens.<uid>` has the
digests of that user's tokens, so that all of them can be ended. A digest is followed by the slot of its token, unless
the slot is 0. A digest is no token: what the engine holds logs nobody in.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from gatelink.auth.tokens import Identity, check_times, digest_of, new_token
from gatelink.cluster.engine import Conflict, Engine, Entry
from gatelink.errors import VerifyError

MAX_TOKENS = 16
"""Tokens of one user at a time; a newer one ends the oldest."""

MAX_CLAIMS = 16_384
"""Bytes of a token's claims as MessagePack."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """All about one token but the token itself. Times are unix seconds."""

    uid: int
    claims: dict[str, Any]
    unused_until: float
    ends_at: float
    is_used: bool


_DIGEST = 32  # bytes
_SLOT = slice(_DIGEST, None)

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(_Record).decode
_decode_owned = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode


class EngineTokens:
    """`Tokens` on a cluster's engine, which the caller starts and closes.

    A token is 256 random bits bound to a uid. It must be used within `first_use` seconds of its issue, and ends
    `lifetime` seconds after its issue however often it is used. With `single_use` its first use is also its last, on
    all servers. clock: unix seconds; the servers' clocks should agree within a second or two.

    `verify` is one round trip to the engine, two at a token's first use. While the engine is away every method raises
    EngineUnavailable; a first use whose answer was lost may have happened, and a single-use token is then used up.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        lifetime: float = 43_200.0,
        first_use: float = 30.0,
        single_use: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_times(first_use, lifetime)
        self._engine = engine
        self._first_use = first_use
        self._lifetime = lifetime
        self._single_use = single_use
        self._clock = clock

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0) -> str:
        """A new token for `uid` (u64): 43 characters of URL-safe base64.

        The user's other tokens stay valid. With `only`, those for the same `slot` (u8) end before this returns; of
        several issued at once, one stays. Raises ValueError for claims of more than MAX_CLAIMS bytes,
        EngineUnavailable.
        """
        now = self._clock()
        record = _Record(uid, claims or {}, now + self._first_use, now + self._lifetime, is_used=False)
        if (size := len(_encode(record.claims))) > MAX_CLAIMS:
            raise ValueError(f"the claims have {size} bytes; a token may have {MAX_CLAIMS}")
        token = new_token()
        digest = digest_of(token)
        # Before the user's list: nobody has the token yet, and `revoke_user` finds whatever is in the list.
        await self._engine.create(_token_key(digest), _encode(record), self._ttl(self._first_use))
        await self._add(uid, digest + bytes((slot,)) if slot else digest, only)
        return token

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `Tokens.verify`. A token with another uid is refused and stays valid.

        Raises EngineUnavailable, too.
        """
        entry = await self._engine.get(_token_key(digest_of(token)))
        record = self._checked(entry, uid)
        if entry is not None and not record.is_used:
            record = await self._use(entry, record)
        return Identity(uid, record.claims, record.ends_at)

    async def revoke(self, token: str) -> None:
        """End one token; an unknown or ended one is no error. Sessions that it opened stay."""
        key = _token_key(digest_of(token))
        if await self._engine.get(key) is not None:  # a delete writes, and made-up tokens must not fill the engine
            await self._engine.delete(key)

    async def revoke_user(self, uid: int) -> None:
        """End every token of `uid` that was issued before, as `revoke` does: a kick, or a logout everywhere."""
        await self._own(uid, lambda owned: ())

    def _checked(self, entry: Entry | None, uid: int) -> _Record:
        """The record of a token that came with `uid`. Raises VerifyError."""
        if entry is None:
            raise VerifyError(f"unknown token shown by uid {uid}: never issued, expired, used up or revoked")
        record = _decode_record(entry.value)
        if record.uid != uid:
            raise VerifyError(f"wrong uid: a token of uid {record.uid} was shown by uid {uid}")
        if record.is_used and self._single_use:
            raise VerifyError(f"used-up token of uid {uid}")
        if self._clock() >= (record.ends_at if record.is_used else record.unused_until):
            limit = f"lifetime {self._lifetime:g} s" if record.is_used else f"first_use {self._first_use:g} s"
            raise VerifyError(f"expired token of uid {uid} ({limit})")
        return record

    async def _use(self, entry: Entry, record: _Record) -> _Record:
        """Mark a token as used; of several servers that do so at once, one succeeds. Raises VerifyError."""
        used = msgspec.structs.replace(record, is_used=True)
        # A used-up token is kept for a moment, so that the log can give the reason.
        keep = self._first_use if self._single_use else record.ends_at - self._clock()
        try:
            await self._engine.update(entry.key, _encode(used), self._ttl(keep), entry.revision)
        except Conflict:  # another server's use came first, or the token was revoked
            used = self._checked(await self._engine.get(entry.key), record.uid)
            if not used.is_used:
                raise VerifyError(f"token of uid {record.uid} changed while it was checked") from None
        return used

    async def _add(self, uid: int, new: bytes, only: bool) -> None:
        """Add a token to the user's list. `only`: no other token of its slot stays."""

        def change(owned: tuple[bytes, ...]) -> tuple[bytes, ...]:
            others = (each for each in owned if not only or each[_SLOT] != new[_SLOT])
            return (*others, new)[-MAX_TOKENS:]

        await self._own(uid, change)

    async def _own(self, uid: int, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
        """Change a user's list, and end the tokens that are removed from it."""
        key = _user_key(uid)
        while True:
            entry = await self._engine.get(key)
            owned = _decode_owned(entry.value) if entry is not None else ()
            kept = change(owned)
            for each in owned:
                if each not in kept:  # before the list changes: nothing finds a token that is in no list
                    await self._engine.delete(_token_key(each[:_DIGEST]))
            try:
                if entry is None and kept:
                    await self._engine.create(key, _encode(kept), self._ttl(self._lifetime))
                elif entry is not None and kept:
                    await self._engine.update(key, _encode(kept), self._ttl(self._lifetime), entry.revision)
                elif entry is not None:
                    await self._engine.delete(key, entry.revision)
                return
            except Conflict:
                continue  # another login of the same user came first

    @staticmethod
    def _ttl(seconds: float) -> float:
        return max(1.0, seconds)  # the least that an engine keeps; the times in the record are exact


def _token_key(digest: bytes) -> str:
    return f"tokens.{digest.hex()}"


def _user_key(uid: int) -> str:
    return f"user-tokens.{uid}"
