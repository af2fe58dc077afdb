"""A kick revokes the user's tokens: a client that still held one would just come back."""

from collections import deque
from typing import Protocol, runtime_checkable

from gatelink import tasks
from gatelink.calls import invoke
from gatelink.logger import Logger
from gatelink.net.login import LoginChecks
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.session import Session

quiet = RateLimitedLogger(Logger("gatelink.sessions"))

WORKERS = 8
"""Kicks that are handled at a time; each waits for an engine or a database."""

MAX_WAITING = 20_000
"""Kicks that wait for a worker. Over it the kicked user's tokens stay valid."""


@runtime_checkable
class Revocable(Protocol):
    """`Tokens` that can be revoked before they expire."""

    async def revoke_user(self, uid: int) -> None:
        """Revokes all tokens of a user."""


class TokenRevoker:
    """Called with each session that was kicked. Workers start when there is work, and end when there is no more."""

    def __init__(self, tokens: Revocable, logins: LoginChecks) -> None:
        self._tokens = tokens
        self._logins = logins
        self._waiting: deque[Session] = deque()
        self._workers = 0

    @classmethod
    def of(cls, tokens: object, logins: LoginChecks) -> "TokenRevoker | None":
        """None for tokens that can't be revoked."""
        return cls(tokens, logins) if isinstance(tokens, Revocable) else None

    def __call__(self, session: Session) -> None:
        if len(self._waiting) >= MAX_WAITING:
            quiet.error("a kicked user's tokens are not revoked", uid=session.uid, error="too many kicks wait")
            return
        self._waiting.append(session)
        if self._workers < WORKERS:
            self._workers += 1
            worker = tasks.keep(self._work(), "kicks")
            running = self._logins.context.tasks
            running.add(worker)
            worker.add_done_callback(running.discard)

    async def _work(self) -> None:
        try:
            while self._waiting:
                session = self._waiting.popleft()
                try:
                    await self._revoke(session)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    quiet.error("a kicked user's tokens are not revoked", uid=session.uid, error=cause)
        finally:
            self._workers -= 1

    async def _revoke(self, session: Session) -> None:
        await invoke(self._tokens.revoke_user, session.uid)
        self._logins.tokens_revoked(session.uid)
        newer = self._logins.sessions.get(session.uid, session.slot)
        if newer is not None:  # it logged in before its token was revoked
            newer.kick(session.close_reason)
