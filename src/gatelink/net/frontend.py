"""Everything of one trust domain: a server has one frontend for clients, and one for the other servers of its cluster.

The two share no connection, login, session or limit, so that a flood of players keeps no server out.
"""

from collections.abc import Callable
from functools import partial

from gatelink.auth.tokens import Identity
from gatelink.errors import CloseCode, VerifyError
from gatelink.net.admission import Admission
from gatelink.net.listen import Listen
from gatelink.net.listener import Listener
from gatelink.net.login import Login, LoginChecks, LoginRules
from gatelink.net.memory_guard import MemoryGuard
from gatelink.net.token_renewer import TokenRenewer
from gatelink.net.user_kicks import UserKicks
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LAST_WORDS, LoopContext
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.session import Session
from gatelink.session.stream import Pause

LEAST_GRACE = 0.1
"""Seconds that the last `closed` handlers together, and each `on_stop` function, have when the grace is over."""

TypeOf = Callable[[int], int | None]
"""The type, 1 to 255, of the server with an id; None if the cluster has no such server."""


class Frontend:
    """One trust domain.

    listeners: where its peers come in. admission: the connections, and the records of their addresses.
    logins: the login checks under way. sessions: those that were verified. kicks: those that are to be carried out.
    memory_guard: bounds what all of them hold. ends_sessions: whether a user's sessions end with the user's tokens.
    end_code: the code with which sessions are closed at the end.
    """

    def __init__(
        self,
        context: LoopContext,
        rules: LoginRules,
        duplicate: Duplicate = Duplicate.NEWER_WINS,
        end_code: CloseCode = CloseCode.GOING_AWAY,
        ends_sessions: bool = True,
    ) -> None:
        self.context = context
        self.end_code = end_code
        self.listeners: list[Listener] = []
        self.admission = Admission(context)
        self.sessions = SessionManager(context, duplicate, address_key=self.admission.counted_key)
        self.logins = LoginChecks(context, rules, self.admission, self.sessions)
        self.kicks = UserKicks(rules.tokens, self.logins, ends_sessions)
        self.sessions.on_kick = self.kicks.kicked
        self.sessions.on_kick_of_user = self.kicks.kick
        self.memory_guard = MemoryGuard(context, self.admission.connections, self.admission.counted_key)
        self.sessions.on_renew = TokenRenewer(self.logins)

    async def open(self, listen: Listen, handlers: Dispatcher[Session]) -> Listener:
        """Open a listener; `handlers` get the sessions that log in there. Raises ConfigError if it can't."""
        welcome = partial(Login, self.logins, handlers, listen.resume_at)
        listener = Listener(listen, self.context, self.admission, welcome)
        self.listeners.append(listener)  # first: what it opened before it failed is to be closed, too
        await listener.open()
        return listener

    def stop_accepting(self) -> None:
        """Accept nothing more; refuse the connections that are not verified yet."""
        self.admission.open = False
        for listener in self.listeners:
            listener.close()
        self.logins.refuse_all()

    async def close(self, deadline: float, tick: Callable[[], None] = lambda: None) -> None:
        """Let handlers finish, deliver what is queued, and close every session. Returns when nothing is left.

        deadline: when, on the wheel's clock, handlers are cancelled and connections aborted. tick: handles what waits.
        """
        context = self.context
        for session in self.sessions:
            session.pause(Pause.STOPPING)
        context.users.lift()
        tick()
        await context.finish_tasks(deadline - context.wheel.clock())
        await self.sessions.close(self.end_code, "the server stops", deadline)
        for connection in list(self.admission.connections):
            connection.abort()
        await self.admission.wait_empty()
        self.memory_guard.close()
        tick()
        last_words = max(LEAST_GRACE, min(LAST_WORDS, deadline + LAST_WORDS - context.wheel.clock()))
        await context.finish_tasks(deadline - context.wheel.clock(), last_words)  # the last `closed` events
        await self.kicks.close()


class ServerTokens:
    """The `Tokens` of the frontend for servers: its peers have shown the cluster's key, and need no token.

    type_of: returns what the registry has of a server, if there is a registry.
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


class NoTokens:
    """The `Tokens` of a server that no client can connect to."""

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """Raises VerifyError."""
        raise VerifyError("this server has no tokens, so no client can log in")
