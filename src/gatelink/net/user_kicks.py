"""Kicks of users: how this server ends a user's sessions and tokens, and announces the kick to the cluster.

The sessions here end at once. The tokens end too, because a client that still held one would come back. Both the
announcement and the tokens may need an engine or a database that is away. Such a kick is kept and tried again. Until it
is carried out, this server refuses the user.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol, runtime_checkable

import msgspec

from gatelink import tasks
from gatelink.calls import invoke, words_of
from gatelink.errors import CloseCode
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.login import LoginChecks
from gatelink.session.session import Session

log = Logger("gatelink.sessions")
quiet = RateLimitedLogger(log)

WORKERS = 8
"""Tasks that carry out kicks, at most. Each waits for an engine or a database."""

MAX_WAITING = 20_000
"""Kicks that wait for a worker or for their next try. Over this number a kick ends only the sessions here."""

RETRY = 1.0
"""Seconds before a kick that failed is tried again."""

KEEP_SECONDS = 3_600.0
"""How long a kick is tried again. Directory entries of sessions live for the same time."""

MARGIN = 3.0
"""Seconds by which the record of a kick may be late, or two clocks differ.

A login up to MARGIN after a kick may really be older than the kick. If the kick's record comes later than the login,
the login's session ends too."""

REVOKED = "the token was revoked"
"""The reason of sessions that end with their token."""


@runtime_checkable
class Revocable(Protocol):
    """`Tokens` that can be revoked before they expire."""

    async def revoke_user(self, uid: int) -> None:
        """Revoke all tokens of a user."""


@runtime_checkable
class RevocableUpTo(Protocol):
    """`Tokens` that can revoke only the older tokens of a user: `EngineTokens`, `SignedTokens`."""

    async def revoke_user_up_to(self, uid: int, at: float) -> None:
        """Revoke the tokens of a user that were issued up to a moment, unix seconds."""


@runtime_checkable
class Following(Protocol):
    """`Tokens` that several processes revoke: `EngineTokens`, `SignedTokens`."""

    async def follow_revocations(self, revoked: Callable[[int, bytes, float], None]) -> None:
        """Call `revoked` with each revocation. An error means that it is called again, after a pause.

        Its arguments: the uid, the SHA-256 of the one token or b"" for all, and the unix time.
        """


@runtime_checkable
class Announcing(Protocol):
    """`Tokens` of this process that report their revocations: `MemoryTokens`."""

    when_revoked: set[Callable[[int, bytes], None]]
    """Called with the uid, and the SHA-256 of the token that was revoked; b"" for all of the user's."""


class UserSession(msgspec.Struct, frozen=True, array_like=True):
    """One session of a user in a cluster.

    gateway: the id of its gateway. since: unix seconds of its login; 0 if the gateway does not answer.
    """

    gateway: int
    slot: int
    since: float
    is_connected: bool = True


class UserKick:
    """A kick that is to be carried out.

    slot: None for all sessions of the user. ends_tokens: whether the user's tokens end, too. cluster_wide: whether the
    kick is announced to the rest of the cluster. until: when this server stops trying, on the wheel's clock.
    has_failed: a try failed, and the kick is kept. While it is set, logins of the user are refused.
    tried: done when the first try is over; True if the kick was carried out then.
    ended: the sessions that it ended here. ended_elsewhere: those at other servers, as far as is known.

    Times in unix microseconds, 0 for none: first_at: its first announcement. last_at: its last record in the engine.
    relayed_at: when another server sent this kick, set while this server keeps it in case the other one can't carry it
    out. A record of that time or later shows that another server does. written_at: the last record that this server
    tried to write. The engine may have it even if the try failed.
    """

    __slots__ = (
        "ended",
        "ended_elsewhere",
        "ends_tokens",
        "first_at",
        "has_failed",
        "cluster_wide",
        "last_at",
        "reason",
        "relayed_at",
        "slot",
        "tried",
        "uid",
        "until",
        "written_at",
    )

    def __init__(
        self, uid: int, slot: int | None, reason: str, *, ends_tokens: bool, cluster_wide: bool, until: float
    ) -> None:
        self.uid = uid
        self.slot = slot
        self.reason = reason
        self.ends_tokens = ends_tokens
        self.cluster_wide = cluster_wide
        self.until = until
        self.has_failed = False
        self.tried: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.ended: list[Session] = []
        self.ended_elsewhere: list[UserSession] = []
        self.first_at = 0
        self.last_at = 0
        self.relayed_at = 0
        self.written_at = 0

    def merge(self, other: "UserKick") -> None:
        """Take over what `other`, a kick of the same sessions, has to do."""
        self.ends_tokens |= other.ends_tokens
        self.cluster_wide |= other.cluster_wide
        self.has_failed |= other.has_failed
        self.until = max(self.until, other.until)
        # 0 wins: one of the two is this server's own kick, which no other server carries out.
        self.relayed_at = max(self.relayed_at, other.relayed_at) if self.relayed_at and other.relayed_at else 0
        self.written_at = max(self.written_at, other.written_at)


def is_fresh(at: float, now: float) -> bool:
    """Whether a kick is at most MARGIN old, so that every session counts as older. at, now: unix seconds."""
    return now <= at + MARGIN


Key = tuple[int, int | None]
"""(uid, slot); None for all slots."""


class UserKicks:
    """The kicks and revocations of one frontend's users.

    Workers start when a kick waits, and end when none does. ends_sessions: whether all sessions of a user end with the
    user's tokens.
    """

    def __init__(self, tokens: object, logins: LoginChecks, ends_sessions: bool) -> None:
        self.ends_sessions = ends_sessions
        self.announce: Callable[[UserKick], Awaitable[bool]] | None = None
        """Announces a kick through the engine. It returns False if another server has carried the kick out already.

        None outside of a cluster.
        """
        self.relay: Callable[[UserKick], None] | None = None
        """Sends a kick to all gateways over links, without the engine. None outside of a cluster."""
        self._tokens = tokens
        self._logins = logins
        self._waiting = OrderedDict[Key, UserKick]()  # a dict is slow to find its first entry after many deletions
        self._trying: dict[Key, UserKick] = {}
        self._kept: dict[Key, UserKick] = {}  # until the next try
        self._workers = 0
        self._following: asyncio.Task[None] | None = None
        logins.is_kicked = self.is_kept

    def start(self) -> None:
        """Follow the revocations of the tokens from now on."""
        if isinstance(self._tokens, Announcing):
            self._tokens.when_revoked.add(self.revoked)
        if isinstance(self._tokens, Following) and self.ends_sessions:
            follow = self._tokens.follow_revocations
            self._following = tasks.live(lambda: follow(self.revoked), "revocations")

    async def close(self) -> None:
        """Stop following. Kicks that were not carried out are lost, and the log says how many."""
        await tasks.cancel_and_wait(self._following)
        if isinstance(self._tokens, Announcing):
            self._tokens.when_revoked.discard(self.revoked)
        left = [*self._waiting.values(), *self._trying.values(), *self._kept.values()]
        for kick in left:
            if not kick.tried.done():
                kick.tried.set_result(False)
        if left:
            log.error("kicks were not carried out", kicks=len(left), error="the server stops")
        self._waiting.clear()
        self._kept.clear()

    def __len__(self) -> int:
        """The number of kicks that wait to be carried out."""
        return len(self._waiting) + len(self._trying) + len(self._kept)

    def is_kept(self, uid: int, slot: int) -> bool:
        """Whether a kick of the user failed and is tried again. Until it succeeds, the user's logins are refused."""
        for key in ((uid, None), (uid, slot)):
            for kicks in (self._waiting, self._trying, self._kept):
                if (kick := kicks.get(key)) is not None and kick.has_failed:
                    return True
        return False

    # -- what happened --

    def kicked(self, session: Session) -> None:
        """End the user's other sessions and the tokens, after a kick of one session (SessionManager.on_kick)."""
        if self.ends_sessions:
            self.kick(session.uid, None, session.close_reason)
        elif self._can_revoke:
            self._add(session.uid, session.slot, session.close_reason, ends_tokens=True, cluster_wide=False)

    def kick(self, uid: int, slot: int | None, reason: str) -> UserKick | None:
        """End the user's sessions and tokens, or the sessions of one slot. Returns None if too many kicks wait."""
        ended = self.end(uid, slot, reason)
        kick = self._add(uid, slot, reason, ends_tokens=slot is None, cluster_wide=True)
        if kick is not None:
            kick.ended += ended
            if self.relay is not None:
                self.relay(kick)
        return kick

    def keep_for_another(self, uid: int, slot: int | None, reason: str, relayed_at: int) -> None:
        """Keep a kick that another server sent over its link, in case that server can't carry it out.

        This server refuses the user until it sees the kick's record (`record_seen`). After RETRY it carries out the
        kick itself. relayed_at: as of `UserKick`.
        """
        key = (uid, slot)
        kick = self._waiting.get(key) or self._kept.get(key)
        if kick is None:  # a kick that is tried now does not count: it may have revoked the tokens already
            if not self._has_room(uid):
                return
            kick = self._new(uid, slot, reason, ends_tokens=slot is None, cluster_wide=True)
            kick.relayed_at = relayed_at
            kick.has_failed = True
            kick.tried.set_result(False)
            self._keep(kick)
        elif kick.relayed_at:
            kick.relayed_at = max(kick.relayed_at, relayed_at)
            kick.until = self._last_try()

    def record_seen(self, uid: int, slot: int | None, at: int) -> None:
        """Drop a kick kept for another server: the engine has its record. at: the record's time, unix microseconds.

        This server's own record of the kick drops nothing: the tokens may not be revoked yet.
        """
        key = (uid, slot)
        for kicks in (self._waiting, self._trying, self._kept):
            kick = kicks.get(key)
            if kick is not None and 0 < kick.relayed_at <= at != kick.written_at:
                kick.has_failed = False  # logins are no longer refused; a running try is the last one
                if kicks is not self._trying:
                    del kicks[key]

    def end(self, uid: int, slot: int | None, reason: str, verified_until: float | None = None) -> list[Session]:
        """End the user's sessions here, or those of one slot, and refuse the logins that are being checked.

        verified_until: unix seconds. Only sessions verified by then end, and no login is refused. None: all end.
        """
        if verified_until is None:
            self._logins.refuse_user(uid, slot)
        return self._logins.sessions.end(uid, slot, CloseCode.KICKED, reason, verified_until)

    def revoked(self, uid: int, digest: bytes, at: float | None = None) -> None:
        """End the sessions that revoked tokens opened. digest: the token's SHA-256; b"" for all tokens of the user.

        at: unix seconds of the revocation; None: now. The call may come late, so sessions of later logins stay.
        """
        if not self.ends_sessions:
            return
        if digest:
            self._logins.sessions.end_opened_with(uid, digest, CloseCode.KICKED, REVOKED)
        else:
            self.end(uid, None, REVOKED, None if at is None or is_fresh(at, time.time()) else at + MARGIN)

    # -- until it is carried out --

    @property
    def _can_revoke(self) -> bool:
        return isinstance(self._tokens, Revocable)

    def _add(
        self, uid: int, slot: int | None, reason: str, *, ends_tokens: bool, cluster_wide: bool
    ) -> UserKick | None:
        key = (uid, slot)
        kick = self._waiting.get(key) or self._kept.get(key)
        if kick is None:
            if not self._has_room(uid):
                return None
            kick = self._new(uid, slot, reason, ends_tokens=ends_tokens, cluster_wide=cluster_wide)
            if not (ends_tokens and self._can_revoke) and not (cluster_wide and self.announce):
                kick.tried.set_result(True)  # nothing is left to do
                return kick
            self._waiting[key] = kick
        elif kick.relayed_at:  # kept for another server until now; this server's own kick starts at once
            kick.relayed_at = 0
            kick.tried = self._logins.context.loop.create_future()
            self._kept.pop(key, None)
            self._waiting[key] = kick
        kick.ends_tokens |= ends_tokens
        kick.cluster_wide |= cluster_wide
        kick.until = self._last_try()
        self._start_worker()
        return kick

    def _new(self, uid: int, slot: int | None, reason: str, *, ends_tokens: bool, cluster_wide: bool) -> UserKick:
        until = self._last_try()
        return UserKick(uid, slot, reason, ends_tokens=ends_tokens, cluster_wide=cluster_wide, until=until)

    def _last_try(self) -> float:
        """Until when a kick of this moment is tried, on the wheel's clock."""
        return self._logins.context.wheel.read_clock() + KEEP_SECONDS

    def _has_room(self, uid: int) -> bool:
        if len(self._waiting) + len(self._kept) < MAX_WAITING:
            return True
        quiet.error("a kicked user's tokens are not revoked", uid=uid, error="too many kicks wait")
        return False

    def _keep(self, kick: UserKick) -> None:
        """Try the kick again after RETRY, or with a kick of the same sessions that waits or is kept already."""
        key = (kick.uid, kick.slot)
        if (newer := self._waiting.get(key) or self._kept.get(key)) is not None:
            newer.merge(kick)
            return
        if not self._kept:
            self._logins.context.wheel.call(RETRY, self._try_again)
        self._kept[key] = kick

    def _start_worker(self) -> None:
        if self._workers < WORKERS:
            self._workers += 1
            self._logins.context.track(tasks.keep(self._work(), "kicks"))

    async def _work(self) -> None:
        try:
            while (kick := self._next()) is not None:
                key = kick.uid, kick.slot
                try:
                    await self._carry_out(kick)
                except Exception as error:
                    self._failed(kick, error)
                else:
                    if not kick.tried.done():
                        kick.tried.set_result(True)
                finally:
                    if not kick.tried.done():  # the try failed, or was cancelled
                        kick.tried.set_result(False)
                    del self._trying[key]
                await asyncio.sleep(0)  # an engine in memory never waits; the loop has other work
        finally:
            self._workers -= 1

    def _next(self) -> UserKick | None:
        for key, kick in self._waiting.items():
            if key not in self._trying:
                del self._waiting[key]
                self._trying[key] = kick
                return kick
        return None

    async def _carry_out(self, kick: UserKick) -> None:
        """Take all steps of a kick. Raises what a step raises; a later try takes all of them again."""
        if kick.cluster_wide and self.announce is not None and not await self.announce(kick):
            return
        if kick.ends_tokens and isinstance(self._tokens, Revocable):
            async with asyncio.timeout(self._logins.context.limits.token_timeout):
                if kick.relayed_at and isinstance(self._tokens, RevocableUpTo):
                    latest = kick.relayed_at / 1_000_000 + MARGIN
                    await invoke(self._tokens.revoke_user_up_to, kick.uid, latest)
                else:
                    latest = inf
                    await invoke(self._tokens.revoke_user, kick.uid)
            self._logins.refuse_user(kick.uid)
            if kick.cluster_wide and self.announce is not None:
                await self.announce(kick)  # again: a client may have come back before its token was revoked
            kick.ended += self.end(kick.uid, kick.slot, kick.reason, latest)  # likewise, at this server

    def _failed(self, kick: UserKick, error: Exception) -> None:
        if kick.relayed_at and not kick.has_failed:
            return  # its record was seen during the try: another server carries it out
        now = self._logins.context.wheel.read_clock()
        if not kick.has_failed or now >= kick.until:
            what = "a kicked user's tokens are not revoked" if kick.ends_tokens else "a kick is not carried out"
            seconds = 0 if now >= kick.until else round(kick.until - now)
            quiet.error(what, uid=kick.uid, error=words_of(error), tried_again_for=seconds)
        kick.has_failed = True
        if now >= kick.until:
            return
        self._keep(kick)
        if kick.cluster_wide:
            self.end(kick.uid, kick.slot, kick.reason)  # the user may have come back before the kick was kept

    def _try_again(self) -> None:
        kept, self._kept = self._kept, {}
        self._waiting.update(kept)
        for _ in range(min(WORKERS, len(self._waiting))):
            self._start_worker()
