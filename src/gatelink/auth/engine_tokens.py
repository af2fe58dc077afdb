"""Tokens kept in the engine of a cluster. Every server can check them, and a revocation takes effect at once.

The key `tokens.<SHA-256 of the token, hex>` holds the `_Record` of a token. The key `user-tokens.<uid>` lists the
digests of a user's tokens, so that all of them can be ended. In the list, a digest is followed by one byte, the slot of
its token, unless the slot is 0. The engine holds only digests, so nobody can log in with what is stored there.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from gatelink.auth import revocations
from gatelink.auth.tokens import Identity, check_times, digest_of, new_token
from gatelink.cluster.engine import Conflict, Conflicts, Engine, Entry, write_over
from gatelink.errors import VerifyError

MAX_TOKENS = 16
"""The most tokens of one user. One more ends the oldest."""

MAX_CLAIMS = 16_384
"""Bytes of a token's claims as MessagePack."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """What is stored of one token. Times are unix seconds."""

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

    A token is 256 random bits bound to a uid. It must first be used within `first_use` seconds of its issue, and it
    expires `lifetime` seconds after its issue. With `single_use` it can be used only once, whichever server checks it.
    clock: unix seconds, by default the engine's, which is the same for all servers.

    `verify` makes one round trip to the engine, and two at a token's first use. Every method raises EngineUnavailable
    while the engine can't be reached. If this happens at the first use of a single-use token, the token may be used up.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        lifetime: float = 43_200.0,
        first_use: float = 30.0,
        single_use: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        check_times(first_use, lifetime)
        self._engine = engine
        self._first_use = first_use
        self._lifetime = lifetime
        self._single_use = single_use
        self._clock = clock or engine.now

    async def issue(self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0) -> str:
        """A new token for `uid` (u64): 43 characters of URL-safe base64.

        The user's other tokens stay valid. With `only`, those of the same `slot` (u8) end before this returns. If
        several are issued at the same time with `only`, one of them stays valid. Raises ValueError for claims of more
        than MAX_CLAIMS bytes; EngineUnavailable.
        """
        now = self._clock()
        record = _Record(uid, claims or {}, now + self._first_use, now + self._lifetime, is_used=False)
        if (size := len(_encode(record.claims))) > MAX_CLAIMS:
            raise ValueError(f"the claims have {size} bytes; a token may have {MAX_CLAIMS}")
        token = new_token()
        digest = digest_of(token)
        # The record first, the list second. Then `revoke_user` can delete the record of every token in the list, and
        # nobody has the token before it is in the list.
        await self._engine.create(_token_key(digest), _encode(record), self._ttl(self._first_use))
        await self._add(uid, digest + bytes((slot,)) if slot else digest, only)
        return token

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `Tokens.verify`. A token that comes with a wrong uid is refused and stays valid.

        Also raises EngineUnavailable.
        """
        entry = await self._engine.get(_token_key(digest_of(token)))
        record = self._checked(entry, uid)
        if entry is not None and not record.is_used:
            record = await self._use(entry, record)
        return Identity(uid, record.claims, record.ends_at)

    async def revoke(self, token: str) -> None:
        """End one token, and the sessions that it opened. An unknown or ended token is no error."""
        digest = digest_of(token)
        key = _token_key(digest)
        entry = await self._engine.get(key)
        if entry is not None:  # every delete writes: made-up tokens would fill the engine
            await self._engine.delete(key)
            await revocations.announce(self._engine, _decode_record(entry.value).uid, digest)

    async def revoke_user(self, uid: int) -> None:
        """End every token of `uid` that has been issued, and all sessions of the user.

        It is for a kick, or a logout everywhere.
        """
        await self._own(uid, lambda owned: ())
        await revocations.announce(self._engine, uid)

    async def revoke_user_up_to(self, uid: int, at: float) -> None:
        """End the tokens of `uid` that were issued up to a moment, unix seconds, and the sessions that they opened."""
        entry = await self._engine.get(_user_key(uid))
        older = {each for each in _decode_owned(entry.value) if not await self._is_later(each, at)} if entry else set()
        await self._own(uid, lambda owned: tuple(each for each in owned if each not in older))
        for each in older:
            await revocations.announce(self._engine, uid, each[:_DIGEST])

    async def _is_later(self, owned: bytes, at: float) -> bool:
        """Whether a token of a user's list was issued after a moment."""
        entry = await self._engine.get(_token_key(owned[:_DIGEST]))
        return entry is not None and _decode_record(entry.value).ends_at - self._lifetime > at

    async def follow_revocations(self, revoked: revocations.Revoked) -> None:
        """Call `revoked` with the revocations of all servers, until the engine is closed. Raises EngineUnavailable."""
        await revocations.follow(self._engine, revoked)

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
        """Mark a token as used. If several servers do this at once, only one write succeeds. Raises VerifyError."""
        used = msgspec.structs.replace(record, is_used=True)
        # A used-up token is kept for a while, so that the log can tell it from an unknown one.
        keep = self._first_use if self._single_use else record.ends_at - self._clock()
        try:
            await self._engine.update(entry.key, _encode(used), self._ttl(keep), entry.revision)
        except Conflict:  # another server's use came first, or the token was revoked
            used = self._checked(await self._engine.get(entry.key), record.uid)
            if not used.is_used:
                raise VerifyError(f"token of uid {record.uid} changed while it was checked") from None
        return used

    async def _add(self, uid: int, new: bytes, only: bool) -> None:
        """Add a token to the user's list. `only`: end the other tokens of its slot."""

        def change(owned: tuple[bytes, ...]) -> tuple[bytes, ...]:
            others = (each for each in owned if not only or each[_SLOT] != new[_SLOT])
            return (*others, new)[-MAX_TOKENS:]

        await self._own(uid, change)

    async def _own(self, uid: int, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
        """Change a user's list, and end the tokens that are removed from it."""
        key = _user_key(uid)
        conflicts = Conflicts(key)
        while True:
            entry = await self._engine.get(key)
            owned = _decode_owned(entry.value) if entry is not None else ()
            kept = change(owned)
            for each in owned:
                if each not in kept:  # before the list changes, as a token outside the list can't be found
                    await self._engine.delete(_token_key(each[:_DIGEST]))
            try:
                if kept:
                    await write_over(self._engine, entry, key, _encode(kept), self._ttl(self._lifetime))
                elif entry is not None:
                    await self._engine.delete(key, entry.revision)
                return
            except Conflict:  # somebody else changed the list; read it again
                await conflicts.another()

    @staticmethod
    def _ttl(seconds: float) -> float:
        return max(1.0, seconds)  # the shortest TTL of an engine; `_checked` compares the exact times


def _token_key(digest: bytes) -> str:
    return f"tokens.{digest.hex()}"


def _user_key(uid: int) -> str:
    return f"user-tokens.{uid}"
