"""A kick ends the user's tokens: a client that still held one would just come back."""

from collections import deque
from typing import Protocol, runtime_checkable

import structlog

from gatelink import tasks
from gatelink.calls import invoke
from gatelink.net.frontend import Frontend
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.session import Session

quiet = RateLimitedLogger(structlog.get_logger("gatelink.sessions"))

WORKERS = 8
"""TokenRevoker that are handled at a time; each waits for an engine or a database."""

MAX_WAITING = 20_000
"""TokenRevoker that wait for a worker. The tokens of those over it are not ended."""


@runtime_checkable
class Revocable(Protocol):
    """`Tokens` that can be ended before they expire."""

    async def revoke_user(self, uid: int) -> None:
        """Ends all tokens of a user."""


class TokenRevoker:
    """Called with each session that was kicked. Workers start when there is work, and end when there is no more."""

    def __init__(self, tokens: Revocable, side: Frontend) -> None:
        self._tokens = tokens
        self._side = side
        self._waiting: deque[Session] = deque()
        self._workers = 0

    @classmethod
    def of(cls, tokens: object, side: Frontend) -> "TokenRevoker | None":
        """None for tokens that can't be ended."""
        return cls(tokens, side) if isinstance(tokens, Revocable) else None

    def __call__(self, session: Session) -> None:
        if len(self._waiting) >= MAX_WAITING:
            quiet.error("a kicked user's tokens are not ended", uid=session.uid, error="too many kicks wait")
            return
        self._waiting.append(session)
        if self._workers < WORKERS:
            self._workers += 1
            worker = tasks.keep(self._work(), "kicks")
            self._side.context.tasks.add(worker)
            worker.add_done_callback(self._side.context.tasks.discard)

    async def _work(self) -> None:
        try:
            while self._waiting:
                session = self._waiting.popleft()
                try:
                    await self._end_tokens(session)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    quiet.error("a kicked user's tokens are not ended", uid=session.uid, error=cause)
        finally:
            self._workers -= 1

    async def _end_tokens(self, session: Session) -> None:
        await invoke(self._tokens.revoke_user, session.uid)
        for login in list(self._side.logins):
            if login.uid == session.uid:  # it is on its way in
                login.doubt()
        back = self._side.sessions.get(session.uid, session.slot)
        if back is not None:  # it was quicker
            back.kick(session.close_reason)
