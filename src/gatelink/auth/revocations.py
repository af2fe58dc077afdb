"""Revocations in the engine: every server that checks the tokens watches them, and ends the sessions.

A revocation lives for an hour. So a server that was frozen, or had lost the engine, finds it when it is back. The key
is `revocations.<uid>.tokens` for all tokens of a user, or `revocations.<uid>.token-<hex>` for one.
"""

from collections.abc import Callable

import msgspec

from gatelink.cluster.engine import Conflict, Conflicts, Engine, Entry, write_over
from gatelink.logger import Logger, RateLimitedLogger

quiet = RateLimitedLogger(Logger("gatelink.tokens"))

PREFIX = "revocations"

TTL = 3_600.0
"""Seconds that a revocation lives; a directory entry lives for as long."""

Revoked = Callable[[int, bytes, float], None]
"""Called with the uid, the SHA-256 of the one token that was revoked or b"" for all, and the unix time."""


class _Revocation(msgspec.Struct, frozen=True, array_like=True):
    """at: unix microseconds. digest: the SHA-256 of the one token that was revoked."""

    at: int
    digest: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Revocation).decode


async def announce(engine: Engine, uid: int, digest: bytes = b"") -> None:
    """Write the revocation of a user's tokens, or of the one with this SHA-256. Raises EngineUnavailable."""
    key = f"{PREFIX}.{uid}." + (f"token-{digest[:8].hex()}" if digest else "tokens")
    conflicts = Conflicts(key)
    while True:
        entry = await engine.get(key)
        before = _time_of(entry)
        revocation = _Revocation(max(int(engine.now() * 1_000_000), before + 1), digest)
        try:
            await write_over(engine, entry, key, _encode(revocation), TTL)
            return
        except Conflict:  # another server's came first
            await conflicts.another()


def _time_of(entry: Entry | None) -> int:
    """The time of a revocation; 0 without one, and for one that can't be read."""
    try:
        return _decode(entry.value).at if entry is not None else 0
    except msgspec.MsgspecError:
        return 0


async def follow(engine: Engine, revoked: Revoked) -> None:
    """Call `revoked` with each revocation of the last hour, and of the time to come, until the engine is closed.

    Raises EngineUnavailable at the beginning.
    """
    async with engine.watch(PREFIX) as watch:
        for key, value in list(watch.entries.items()):
            _report(key, value, revoked)
        async for change in watch:
            if change.value is not None:
                _report(change.key, change.value, revoked)


def _report(key: str, value: bytes, revoked: Revoked) -> None:
    try:
        uid = int(key.split(".")[1])
        revocation = _decode(value)
    except (ValueError, msgspec.MsgspecError) as error:
        quiet.error("a revocation in the engine cannot be read", key=key, error=str(error))
        return
    revoked(uid, revocation.digest, revocation.at / 1_000_000)
