"""What the login checks of one listener share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatelink.auth.tokens import Tokens
from gatelink.net.admission import Admission
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.wire.handshake import Responder

if TYPE_CHECKING:
    from gatelink.net.login import Login


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginContext:
    """What a login check needs to know of its listener and of its server.

    id, source: the server's, as it answers. handlers: of the sessions that log in here. responder: answers HANDSHAKEs.
    is_inner: whether it is for servers of the group; `responder` then knows the group's keys alone.
    resume_at: the address in tickets, empty for the one that the client dialled.
    accept_version: whether clients with this application version are still served.
    """

    context: LoopContext
    tokens: Tokens
    id: int
    source: int
    sessions: SessionManager
    handlers: Dispatcher[Session]
    logins: "set[Login]"
    admission: Admission
    responder: Responder
    sealed_only: bool = False
    resume_plain: bool = False
    is_inner: bool = False
    resume_at: str = ""
    accept_version: Callable[[str], bool] | None = None
