"""What the login check needs to know of the listener it stands at, and of its server."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatelink.auth.tokens import Tokens
from gatelink.net.admission import Admission
from gatelink.session.hub import Hub
from gatelink.session.manager import SessionManager
from gatelink.session.roles import Dispatcher
from gatelink.wire.handshake import Responder

if TYPE_CHECKING:
    from gatelink.net.login import Login


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the login check needs to know of the listener it stands at, and of its server.

    id: the server's. handlers: of the sessions that come in here. responder: of its HANDSHAKEs.
    is_inner: it is for servers of the group alone; `responder` then knows nothing but the group's keys.
    resume_at: the address in tickets, empty for "where you came in".
    accept_version: whether clients whose HELLO says that they are this version of the application are still served.
    """

    hub: Hub
    tokens: Tokens
    id: int
    sessions: SessionManager
    handlers: Dispatcher
    logins: "set[Login]"
    admission: Admission
    responder: Responder
    sealed_only: bool = False
    resume_plain: bool = False
    is_inner: bool = False
    resume_at: str = ""
    accept_version: Callable[[str], bool] | None = None
