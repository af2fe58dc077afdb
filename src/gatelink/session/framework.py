"""The framework's own messages, as a verified session hears them (docs/protocol.md, "Base messages")."""

from typing import TYPE_CHECKING

from gatelink.errors import BodyError, CloseCode, ProtocolError
from gatelink.wire.base import (
    DUPLICATE_LOGIN,
    FIRST_APPLICATION_ID,
    FRAMEWORK_IDS,
    HEARTBEAT,
    LAST_APPLICATION_ID,
)

if TYPE_CHECKING:
    from gatelink.session.session import Session


def receive(session: "Session", accepting: bool, id: int, flags: int, body: bytes, known: bool) -> bool:
    """Takes a message that is the framework's; False if it is the application's.

    accepting: this side accepted the connection. known: the application registered the message.
    Raises ProtocolError for one that this peer may not send now.
    """
    if id == HEARTBEAT:
        if session.hub.open_body(flags, body):
            raise BodyError(f"HeartBeat with a body of {len(body)} bytes; it has none")
        return True
    if id in FRAMEWORK_IDS:
        if id == DUPLICATE_LOGIN and not accepting:
            session.close(CloseCode.REPLACED, "a newer login of the same user")
            return True
        raise ProtocolError(f"framework message {id} from a peer that may not send it now")
    if accepting and not known and not FIRST_APPLICATION_ID <= id <= LAST_APPLICATION_ID:
        raise ProtocolError(f"message {id} is not registered; applications have 11000 to 59999")
    return False
