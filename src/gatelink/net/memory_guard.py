"""Bounds what all sessions of a frontend hold together: over limits.max_held_bytes it closes some.

A session is bounded by its own limits, but fifteen thousand sessions just below them hold too much. The guard counts
the bytes of messages: received and not handled, queued, written and not out, sent and not acknowledged. Python's own
memory for them, up to some 100 bytes each, comes on top.
"""

import asyncio
from collections.abc import Iterator, Set

from gatelink import tasks
from gatelink.errors import CloseCode
from gatelink.logger import Logger
from gatelink.net.connection import Connection
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.session.states import SessionState

log = Logger("gatelink.memory")

INTERVAL = 1.0
AT_ONCE = 1_000
"""Connections weighed in one turn of the loop: about 1 ms."""


class MemoryGuard:
    """Weighs `connections` and the detached ones of `sessions`; closes those that hold most while it is too much."""

    def __init__(self, context: LoopContext, connections: Set[Connection], sessions: SessionManager) -> None:
        self._context = context
        self._connections = connections
        self._sessions = sessions
        self._dialled: set[Session] = set()
        self._shown = 0  # this guard's part of `stats.held_bytes`
        self._weighing = tasks.live(self._weigh, "memory guard")

    def add(self, dialled: Session) -> None:
        """Weigh a session that this process dialled with the others, until it is closed."""
        self._dialled.add(dialled)
        dialled.after_handlers(lambda: self._dialled.discard(dialled))

    def close(self) -> None:
        """Weighs no more."""
        self._weighing.cancel()
        self._show(0)

    async def _weigh(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            found: dict[Session, int] = {}
            total = 0
            for count, (session, size) in enumerate(self._holders(), 1):
                total += size
                if session is not None and size:
                    found[session] = size
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._show(self._close_largest(found, total))

    def _holders(self) -> Iterator[tuple[Session | None, int]]:
        """Each session or connection that holds bytes now, and how many."""
        for connection in list(self._connections):
            session = connection.receiver if isinstance(connection.receiver, Session) else None
            yield session, connection.held_bytes + (session.held_bytes if session is not None else 0)
        for session in self._sessions:
            if session.state is SessionState.DETACHED:
                yield session, session.held_bytes
        for session in list(self._dialled):
            yield session, session.held_bytes + session.carried_bytes

    def _close_largest(self, found: dict[Session, int], total: int) -> int:
        """Closes the sessions that hold most, until the rest is within the limit; the bytes that the rest holds."""
        most = self._context.limits.max_held_bytes
        if total <= most:
            return total
        ended = 0
        for session in sorted(found, key=found.__getitem__, reverse=True):
            if total <= most:
                break
            session.close(CloseCode.SLOW_CONSUMER, "the server is short of memory")
            session.abort()
            total -= found[session]
            ended += 1
        log.error("sessions hold too much", limit=most, ended=ended, held=total)
        return total

    def _show(self, held: int) -> None:
        self._context.stats.held_bytes += held - self._shown
        self._shown = held
