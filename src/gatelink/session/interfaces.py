"""Who stands around a session: the table above it that handles its messages, and the owner that keeps it.

What is below it is in carrier.py.
"""

from typing import TYPE_CHECKING, Any, Protocol

from gatelink.errors import CloseCode
from gatelink.wire.frames import Frame

if TYPE_CHECKING:
    from gatelink.session.session import Session


class Dispatcher(Protocol):
    """Hands a session's messages and events to code: `gatelink.handlers.Handlers`."""

    def opened(self, session: "Session") -> None: ...

    def dispatch(self, session: "Session", frames: list[Frame]) -> None: ...

    def inject(self, session: "Session", message: Any) -> None:
        """Handles `message` in its turn, as if the peer had sent it."""

    def suspended(self, session: "Session") -> None: ...

    def resumed(self, session: "Session") -> None: ...

    def closed(self, session: "Session", heard: bool) -> None:
        """`heard`: what arrived before the end is still to be handled."""


class Claims(Protocol):
    """What makes a login the newest of its user among all servers that share their users."""

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        """The new login's epoch, above that of any other; and what waited for the user elsewhere.

        proofs: of the token that was shown, as `SessionManager.proofs_of` gives them. The second of the answer is None
        if the login is a new one: nothing waits elsewhere, or for another token.
        """

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        """A session is over; for `keep` seconds something waits here for its user."""


class Owner(Protocol):
    """Whoever installed the session: a `SessionManager`, or the `connect()` that dialled it."""

    accepting: bool
    """True on the side that accepted the connection; the two sides may send different framework messages."""

    def broke(self, session: "Session", code: CloseCode) -> bool:
        """The connection of an open session broke. True: the session is kept, DETACHED; False: it ends."""

    def ended(self, session: "Session") -> None:
        """The session is over for the application; what is queued may still be on its way."""

    def gone(self, session: "Session") -> None:
        """Nothing is left of the session."""
