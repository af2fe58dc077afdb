"""Messages that can't be handled: without a handler, with a body that does not decode, or with a handler that fails."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gatelink.calls import invoke_plain
from gatelink.errors import BodyError, CloseCode, PeerError, ProtocolError, RequestCode, SessionClosed
from gatelink.handling.routes import Route
from gatelink.logger import Logger
from gatelink.session.interfaces import Dispatcher, MessageSource
from gatelink.session.requests import tag_of
from gatelink.session.states import SessionState
from gatelink.wire.base import DUPLICATE_LOGIN, FRAMEWORK_IDS, HEARTBEAT, LAST_APPLICATION_ID
from gatelink.wire.codecs import decode_error
from gatelink.wire.frames import HEAD_SIZE, REQUEST, Frame, encode_frame
from gatelink.wire.messages import Catalog

log = Logger("gatelink.handlers")

_FORWARD = Route("forward", lambda session, frame: None, bytes)


class RawFrame(NamedTuple):
    """A message as it came: still compressed or scrambled if its flags say so."""

    id: int
    flags: int
    body: bytes

    def encode(self) -> bytes:
        """The whole frame again, byte for byte."""
        return encode_frame(self.id, self.body, self.flags)


class Table(Dispatcher[MessageSource], Protocol):
    """The table of handlers, as its fallback sees it: `gatelink.handlers.Handlers`."""

    catalog: Catalog
    forward: Callable[[Any, RawFrame], None] | None


class Fallback:
    """Deals with messages that have no handler, that do not decode, or whose handler fails."""

    def unrouted(self, table: Table, session: MessageSource, frame: Frame) -> None:
        """Deal with a frame that has no handler in `table`: one of the framework's, one to forward, or one to drop."""
        id, flags, body = frame
        context = session.context
        traffic = context.stats.unrouted_of(context.name_of(id))
        traffic.messages += 1
        traffic.bytes += len(body) + HEAD_SIZE
        try:
            if take_builtin(session, id, flags, body, id in table.catalog.by_id):
                return
        except PeerError as error:
            session.broken(error)
            return
        if session.forwarder is not None and session.handlers is table and session.forwarder.forward([frame]):
            return
        if flags >= REQUEST and session.requests is not None:
            session.requests.refuse(session, tag_of(body), RequestCode.NO_HANDLER)
            return
        if table.forward is None:
            context.stats.unhandled += 1
            if traffic.messages == 1:  # later ones are only counted
                log.warning("no handler for a message", message=context.name_of(id), id=id, uid=session.uid)
            return
        try:
            invoke_plain(table.forward, session, RawFrame(id, flags, body))
        except Exception as error:
            self.failed(session, _FORWARD, error)

    def malformed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """A message did not decode. That is the peer's fault, whatever the codec raised."""
        if not isinstance(error, PeerError):
            error = BodyError(f"{route.name} does not decode: {decode_error(error)}")
        session.broken(error)

    def failed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """A handler raised: count and log it. Other sessions are not affected."""
        if isinstance(error, SessionClosed) and session.state is not SessionState.OPEN:
            return  # the handler wrote to a peer that had just left
        context = session.context
        errors = context.stats.handler_errors
        errors[route.name] += 1
        now = context.wheel.now
        if now - route.logged >= 1:  # a peer that can make a handler fail must not fill the disk
            route.logged = now
            log.error(
                "handler failed",
                message=route.name,
                uid=session.uid,
                address=session.address,
                failed=errors[route.name],
                exc_info=error,
            )


def take_builtin(session: MessageSource, id: int, flags: int, body: bytes, known: bool) -> bool:
    """Take a message that is the framework's; False if it is the application's, or the original engine's.

    known: the application registered the message. Raises ProtocolError for one that this peer may not send now;
    FrameTooLarge or BodyError for a body that can't be decompressed.
    """
    if id == HEARTBEAT:
        session.context.open_body(flags, body)  # a deployed client may send a body; only its form is checked
        return True
    if id in FRAMEWORK_IDS:
        if id == DUPLICATE_LOGIN and not session.accepted:
            session.close(CloseCode.REPLACED, "a newer login of the same user")
            return True
        raise ProtocolError(f"framework message {id} from a peer that may not send it now")
    if session.accepted and not known and not 0 < id <= LAST_APPLICATION_ID:  # 0: a control record
        raise ProtocolError(f"message {id} is not registered; applications have 11000 to {LAST_APPLICATION_ID}")
    return False
