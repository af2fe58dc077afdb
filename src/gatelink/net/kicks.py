"""A kick ends the user's tokens: a client that still held one would just come back."""

from typing import Protocol, runtime_checkable

import structlog

from gatelink.net.side import Side
from gatelink.session.session import Session

log = structlog.get_logger("gatelink.sessions")


@runtime_checkable
class Revocable(Protocol):
    """`Tokens` that can be ended before they expire."""

    async def revoke_user(self, uid: int) -> None:
        """Ends all tokens of a user."""


class Kicks:
    """Called with each session that was kicked."""

    def __init__(self, tokens: Revocable, side: Side) -> None:
        self._tokens = tokens
        self._side = side

    @classmethod
    def of(cls, tokens: object, side: Side) -> "Kicks | None":
        """None for tokens that can't be ended."""
        return cls(tokens, side) if isinstance(tokens, Revocable) else None

    def __call__(self, session: Session) -> None:
        hub = self._side.hub
        task = hub.loop.create_task(self._end_tokens(session))
        hub.tasks.add(task)
        task.add_done_callback(hub.tasks.discard)

    async def _end_tokens(self, session: Session) -> None:
        try:
            await self._tokens.revoke_user(session.uid)
        except Exception as error:
            log.error("a kicked user's tokens are not ended", uid=session.uid, error=f"{type(error).__name__}: {error}")
            return
        for login in list(self._side.logins):
            if login.uid == session.uid:  # it is on its way in
                login.doubt()
        back = self._side.sessions.get(session.uid, session.slot)
        if back is not None:  # it was quicker
            back.kick(session.close_reason)
