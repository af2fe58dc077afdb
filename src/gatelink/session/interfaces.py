"""The interfaces around a session: those that it uses, and those that handlers see.

Nothing here imports a session, so that every layer may import this.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, TypeVar, overload

from gatelink.errors import CloseCode, PeerError
from gatelink.session.inbox import Inbox, LastHandler
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full
from gatelink.session.requests import Requests
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.session.user import User
from gatelink.wire.control import Lost
from gatelink.wire.frames import Frame
from gatelink.wire.messages import Request

_A = TypeVar("_A")
_Session = TypeVar("_Session", contravariant=True)


class Peer(Protocol):
    """The session that a handler gets: a `Session` if the connection is here, a `Player` if a gateway holds it.

    uid, slot: the user, and which of the user's devices. epoch: grows with every login of (uid, slot).
    fence: (epoch, binding), which only grows; your own store can refuse a write with an older one (docs/cluster.md).
    source: 0 for a client, else a server's type. address: the peer's host. claims: what the token said of the user.
    verified_at: unix seconds. data: the application's; data_of: the same, by the object that it belongs to.
    close_code, close_reason: why it ended; None and "" before.
    """

    uid: int
    slot: int
    epoch: int
    source: int
    address: str
    claims: Mapping[str, Any]
    verified_at: float
    data: Any
    close_code: CloseCode | None
    close_reason: str

    @property
    def data_of(self) -> dict[object, Any]: ...

    @property
    def fence(self) -> tuple[int, int]: ...

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def send_raw(self, id: int, body: bytes, flags: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def drain(self) -> Awaitable[None]: ...

    def join(self, group: str) -> None: ...

    def leave(self, group: str) -> None: ...

    def bind(self, type: int, server: int) -> bool: ...

    @overload
    async def request(self, message: Request[_A], *, timeout: float = 10.0) -> _A: ...  # noqa: ASYNC109

    @overload
    async def request(self, message: object, *, timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    def inject(self, message: Any) -> None: ...

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "") -> None: ...

    def kick(self, reason: str = "") -> None: ...

    def wait_closed(self) -> Awaitable[None]: ...


class Forwarder(Protocol):
    """Takes the frames of one session that go elsewhere: to a service, or to the receiver of a link."""

    def forward(self, frames: list[Frame]) -> bool:
        """Take all of `frames`. Return False, and take none, if one of them has a handler here."""

    def forward_answer(self, frame: Frame) -> None:
        """Take an answer, or a failure, to a request of a service. Without such a request it is dropped and counted."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames that wait in it."""


class MessageSource(Peer, Protocol):
    """A peer as the table of handlers sees it (handlers.Handlers)."""

    context: LoopContext
    state: SessionState
    inbox: Inbox | None
    user: User
    forwarder: Forwarder | None
    handlers: "Dispatcher[Any]"

    @property
    def last_handler(self) -> LastHandler: ...

    @property
    def requests(self) -> Requests | None: ...

    @property
    def accepted(self) -> bool: ...

    @property
    def held(self) -> asyncio.Event | None:
        """While it is not None, no waiting message is handled. The event is set when that is over."""

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def expect_answers(self) -> None: ...

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def broken(self, error: PeerError) -> None: ...


class Dispatcher(Protocol[_Session]):
    """Hands a session's messages and events to code: `gatelink.handlers.Handlers`."""

    def opened(self, session: _Session) -> None: ...

    def dispatch(self, session: _Session, frames: list[Frame]) -> None: ...

    def inject(self, session: _Session, message: Any) -> None:
        """Handle `message` as if the session's peer had sent it, after what has been received."""

    def suspended(self, session: _Session) -> None: ...

    def resumed(self, session: _Session) -> None: ...

    def renewed(self, session: _Session) -> None: ...

    def expiring(self, session: _Session) -> None: ...

    def lost(self, session: _Session, lost: Lost) -> None: ...

    def closed(self, session: _Session, handle_rest: bool) -> None:
        """handle_rest: what arrived before the end is still to be handled."""


class Owner(Protocol[_Session]):
    """Keeps the sessions that it installed: a `SessionManager`, or the `connect()` that dialled one."""

    accepting: bool
    """True on the side that accepted the connection; the two sides may send different builtin messages."""

    def detached(self, session: _Session, code: CloseCode) -> bool:
        """The connection of an open session broke. True keeps the session, DETACHED; False ends it."""

    def closed(self, session: _Session) -> None:
        """The session has ended for the application. Queued messages may still be on their way."""

    def released(self, session: _Session) -> None:
        """Nothing is left of the session."""

    def renew(self, session: _Session, token: str) -> None:
        """The peer shows a fresh token. Answered later, with `Session.renewed` or `Session.answer_renewal`."""

    def expiring(self, session: _Session) -> None:
        """The peer warns that the login expires soon."""


class LoginArbiter(Protocol):
    """Says which login of a user is the newest, among all servers that share their users."""

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        """Return the new login's epoch, above that of any other, and the messages that waited for the user elsewhere.

        The second is None if no messages waited, or only for another token. proofs: of the token that was shown, as
        `SessionManager.proofs_of` gives them.
        """

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        """A session has ended. For `keep` seconds its messages wait here for its user."""
