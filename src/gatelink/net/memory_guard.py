"""Bounds what all users of a frontend hold together: over limits.max_held_bytes the largest of them give way.

A user is bounded by its own limits, but fifteen thousand users just below them hold too much. The guard counts the
bytes of messages: received and not handled, waiting for a server, queued, written and not out, sent and not
acknowledged. Python's own memory for them, up to some 100 bytes each, comes on top.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set

from gatelink import tasks
from gatelink.errors import CloseCode
from gatelink.logger import Logger
from gatelink.net.connection import Connection
from gatelink.session.loop_context import LoopContext
from gatelink.session.ranking import rank_by_size
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.user import SessionOfUser, User

log = Logger("gatelink.memory")

INTERVAL = 1.0
AT_ONCE = 1_000
"""Sessions weighed in one turn of the loop: about 1 ms."""


class MemoryGuard:
    """Weighs the users of a context and `connections`; ends sessions of the largest users while all hold too much.

    held: bytes at the last look. queued: returns the bytes that links hold of each session. links_guard: weighs
    the links; what it holds counts here, too.
    """

    def __init__(
        self, context: LoopContext, connections: Set[Connection], address_key: Callable[[str], str | None]
    ) -> None:
        self.held = 0
        self.queued: Callable[[], Mapping[Session, int]] = dict
        self.links_guard: MemoryGuard | None = None
        self._context = context
        self._connections = connections
        self._address_key = address_key
        self._dialled: set[Session] = set()
        self._weighing = tasks.live(self._weigh, "memory guard")

    def add(self, dialled: Session) -> None:
        """Weigh a session that this process dialled with the others, until it is closed."""
        self._dialled.add(dialled)
        dialled.last_handler.then(lambda: self._dialled.discard(dialled))

    def close(self) -> None:
        """Stop weighing."""
        self._weighing.cancel()
        self._note(0)

    async def _weigh(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self._look()

    async def _look(self) -> None:
        """Weigh all holders once. An idle one costs no memory, and nothing of the look stays until the next one."""
        found: Counter[SessionOfUser | User] = Counter()
        others = 0
        for count, (holder, size) in enumerate(self._holders(), 1):
            if holder is None:
                others += size
            elif size:
                found[holder] += size
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._note(self._end_largest(found, others))

    def _holders(self) -> Iterator[tuple[SessionOfUser | User | None, int]]:
        """Each session, user or unverified connection that holds bytes now, and how many."""
        for user in self._context.users:
            yield user, user.bytes_of_ended()
            for session in user.sessions:
                yield session, session.held_bytes + session.carried_bytes
        for connection in list(self._connections):
            receiver = connection.receiver
            if not isinstance(receiver, Session):
                yield None, connection.held_bytes
            elif receiver.state is SessionState.CLOSING:  # its user has it no more
                yield receiver, receiver.held_bytes + connection.held_bytes
        for dialled in list(self._dialled):
            yield dialled, dialled.held_bytes + dialled.carried_bytes

    def _end_largest(self, found: Counter[SessionOfUser | User], others: int) -> int:
        """End sessions of the largest users, until the rest is within the limit. Returns the bytes that the rest holds.

        others: bytes that are no user's. However many these and those of links are, users may hold half of the limit:
        ending small ones would not help.
        """
        most = self._context.limits.max_held_bytes
        held = found.total() + others
        others += self.links_guard.held if self.links_guard is not None else 0
        if found.total() + others <= most:
            return held
        whole = found.copy()
        for session, size in self.queued().items():
            others -= size
            whole[session] += size
        ranking = rank_by_size(whole.items(), self._address_key)
        ended = 0
        while ranking.total > max(most - others, most // 2):
            largest = ranking.largest()
            ranking.discard(largest)
            if isinstance(largest, User):
                largest.drop_ended()
            else:
                largest.close(CloseCode.SLOW_CONSUMER, "the server is short of memory, and this user holds most")
                largest.abort()
            held -= found[largest]
            ended += 1
        if ended:
            log.error("users hold too much", limit=most, ended=ended, held=held)
        return held

    def _note(self, held: int) -> None:
        self._context.stats.held_bytes += held - self.held
        self.held = held
