"""What the listeners of one side of a server share: the side for clients, and the inner one, for servers of its group.

The two share no connection, login, session or limit, so that a flood of players keeps no server out.
"""

from collections.abc import Callable

from gatelink.auth.tokens import Identity
from gatelink.errors import CloseCode, VerifyError
from gatelink.net.admission import Admission
from gatelink.net.listener import Listener
from gatelink.net.login import Login
from gatelink.net.memory_guard import MemoryGuard
from gatelink.session.loop_context import LAST_WORDS, LoopContext
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.session import Session
from gatelink.session.stream import Pause

LEAST_GRACE = 0.1
"""Seconds that the last `closed` handlers together, and each `on_stop` function, have when the grace is over."""

TypeOf = Callable[[int], int | None]
"""The type, 1 to 255, of the server with an id; None if the group has no such server."""


class Frontend:
    """Who may come in at one side of a server, who is being checked there, and who is here.

    end_code: what sessions are told at the end.
    """

    def __init__(
        self,
        context: LoopContext,
        duplicate: Duplicate = Duplicate.NEWER_WINS,
        end_code: CloseCode = CloseCode.GOING_AWAY,
    ) -> None:
        self.context = context
        self.end_code = end_code
        self.sessions = SessionManager(context, duplicate)
        self.admission = Admission(context)
        self._dialled: set[Session] = set()
        self.memory_guard = MemoryGuard(context, self.admission.connections, self.sessions, self._dialled)
        self.logins: set[Login] = set()
        self.listeners: list[Listener] = []

    def weigh(self, dialled: Session) -> None:
        """Has a session that this server dialled weighed with the others, until it is closed."""
        self._dialled.add(dialled)
        dialled.after_handlers(lambda: self._dialled.discard(dialled))

    def shut(self) -> None:
        """Accepts nothing more; who is not verified by now has to come again."""
        self.admission.open = False
        for listener in self.listeners:
            listener.close()
        for login in list(self.logins):
            login.stop()

    async def end(self, deadline: float, tick: Callable[[], None] = lambda: None) -> None:
        """Lets handlers end, delivers what is queued, closes every session; returns when nothing is left.

        deadline: when, by the context's clock, handlers are cancelled and connections cut. tick: handles what waits.
        """
        context = self.context
        for session in self.sessions:
            session.pause(Pause.STOPPING)
        tick()
        await context.finish_tasks(deadline - context.wheel.clock())
        await self.sessions.close(self.end_code, "the server stops", deadline)
        for connection in list(self.admission.connections):
            connection.abort()
        await self.admission.empty()
        self.memory_guard.close()
        tick()
        last_words = max(LEAST_GRACE, min(LAST_WORDS, deadline + LAST_WORDS - context.wheel.clock()))
        await context.finish_tasks(deadline - context.wheel.clock(), last_words)  # the last `closed` events


class Members:
    """The `Tokens` of the inner side. Whoever gets there holds the group key and needs no token.

    type_of: gives what the registry has of a server, if there is a registry.
    """

    def __init__(self, type_of: Callable[[], TypeOf | None]) -> None:
        self._type_of = type_of

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `gatelink.Tokens`. Raises VerifyError for a server that is not in the registry as what it says it is."""
        type_of = self._type_of()
        if type_of is not None and (known := type_of(uid)) != source:
            what = "does not have it" if known is None else f"has it with type {known}"
            raise VerifyError(f"server {uid} says it has type {source}; the registry {what}")
        return Identity(uid)
