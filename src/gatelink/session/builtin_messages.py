"""The framework's own messages, as a verified peer hears them (docs/protocol.md, "Base messages")."""

from gatelink.errors import CloseCode, ProtocolError
from gatelink.session.interfaces import MessageSource
from gatelink.wire.base import DUPLICATE_LOGIN, FRAMEWORK_IDS, HEARTBEAT, LAST_APPLICATION_ID


def receive(session: MessageSource, id: int, flags: int, body: bytes, known: bool) -> bool:
    """Takes a message that is the framework's; False if it is the application's, or the original engine's.

    known: the application registered the message. Raises ProtocolError for one that this peer may not send now;
    FrameTooLarge or BodyError for a body that can't be decompressed.
    """
    if id == HEARTBEAT:
        session.context.open_body(flags, body)  # a deployed client's may have one, which says nothing to us
        return True
    if id in FRAMEWORK_IDS:
        if id == DUPLICATE_LOGIN and not session.accepted:
            session.close(CloseCode.REPLACED, "a newer login of the same user")
            return True
        raise ProtocolError(f"framework message {id} from a peer that may not send it now")
    if session.accepted and not known and not 0 < id <= LAST_APPLICATION_ID:  # 0: a control record
        raise ProtocolError(f"message {id} is not registered; applications have 11000 to {LAST_APPLICATION_ID}")
    return False
