"""Dials, says who we are, and hands the connection to the session; again and again for one that comes back.

base         ClientVertifyReq ->                                   <- ClientVertifySucceedRet
extension    HELLO ->  <- HELLO  ClientVertifyReq or RESUME ->     <- ClientVertifySucceedRet or RESUMED
sealed       HANDSHAKE ->  <- HANDSHAKE, and then as above inside SEALED records, without the HELLOs
"""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum, auto
from time import time

import msgspec
import structlog

from gatelink import tasks
from gatelink.errors import CloseCode, ConnectError, GatelinkError, MessageTooLarge, PeerError, ProtocolError
from gatelink.net.connection import NULL_RECEIVER, Connection
from gatelink.net.endpoints import Endpoint, failure
from gatelink.net.target import Target
from gatelink.session.control_frames import close_code, control_frame, printable
from gatelink.session.extension import DETACHING, Extension
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.base import (
    DUPLICATE_LOGIN,
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.control import Close, Features, Hello, Resumed, Ticket, decode_control
from gatelink.wire.frames import CONTROL, Frame, FrameDecoder, encode_frame
from gatelink.wire.handshake import Initiator, check_answer
from gatelink.wire.keys import ClusterKey
from gatelink.wire.resume import NO_HANDSHAKE, resume, verify_resumed

log = structlog.get_logger("gatelink.client")

PASSING = DETACHING | {CloseCode.VERIFY_TIMEOUT, CloseCode.SERVER_FULL, CloseCode.INTERNAL_ERROR}
"""Codes of a CLOSE before the verdict that say nothing of this session: the next attempt may well succeed."""


FINAL = frozenset({CloseCode.VERIFY_FAILED, CloseCode.REPLACED, CloseCode.RESUME_REFUSED})
"""Codes of an attempt after which the session is not dialled again, however the server said them."""

SHORT_LIFE = 5.0
"""Seconds. A connection that ends sooner, without a reason or by a GOAWAY, does not reset the delays: the next may end
the same way, as after a kick, a message that the server refuses, or at a server that sends everybody away."""

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives a fresh token for each login."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before each attempt to reconnect: a random part of a time that doubles ("full jitter").

    first, most: seconds; attempts: after so many in a row the session ends.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int = 20

    def delays(self, doubled: int = 0) -> Iterator[float]:
        """The seconds to wait before each attempt; as if `doubled` attempts had failed before."""
        longest = min(self.first * 2 ** min(doubled, 64), max(self.first, self.most))
        for _ in range(self.attempts):
            yield random.uniform(0, longest)
            longest = min(longest * 2, self.most)


class Offer(msgspec.Struct, frozen=True):
    """How this side speaks the extension: its HELLO; and if it seals, the server's public key or the group's.

    peer_id: with the group's key, the server that is called.
    """

    hello: Hello
    key: bytes | ClusterKey | None = None
    peer_id: int = 0


class Due(Enum):
    """What the server has to say next."""

    HELLO = auto()
    """Its HELLO or HANDSHAKE."""
    VERDICT = auto()
    """The answer to ClientVerifyReq or RESUME."""
    TICKET = auto()
    """It follows the verdict at once: a session that can be resumed is resumable from its first moment."""


class Dialer:
    """Dials for one session: its owner, and the receiver of each new connection until the server has answered."""

    accepting = False

    def __init__(
        self,
        context: LoopContext,
        endpoint: Endpoint,
        request: ClientVerifyRequest,
        handlers: Dispatcher[Session],
        seconds: float,
        backoff: Backoff | None,
        tls: ssl.SSLContext | None,
        offer: Offer | None,
        token: TokenSource | None = None,
    ) -> None:
        self._context = context
        self._target = Target(endpoint, tls)
        self._request = request
        self._handlers = handlers
        self._timeout = seconds
        self._backoff = backoff
        self._offer = offer
        self._token = token
        self._verified_at = 0.0
        self._source = 0  # of the server, as it answered
        self._short_lives = 0  # connections in a row that ended without a reason within SHORT_LIFE
        self._heard = False  # a frame on this connection
        self._initiator: Initiator | None = None
        self._agreed: Hello | None = None
        self._handshake_hash = NO_HANDSHAKE
        self._due = Due.HELLO
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._answer: asyncio.Future[Session]
        self._is_made = False
        self._redial: asyncio.Task[None] | None = None

    @property
    def _endpoint(self) -> Endpoint:
        return self._target.endpoint

    async def dial(self) -> Session:
        """Connects and verifies; the session, which is `OPEN`. Raises ConnectError."""
        loop = self._context.loop
        endpoint = self._endpoint
        self._answer = loop.create_future()
        try:
            async with asyncio.timeout(self._timeout):
                if self._token is not None and self._ticket is None:
                    self._request = await self._fresh_request(self._token)
                await self._open()
                return await self._answer
        except TimeoutError:
            if self._answer.done() and not self._answer.cancelled():  # it came first, and this loop stood still since
                return self._answer.result()
            silent = self._connection is not None and not self._heard
            hint = "; it took the connection and said nothing: is this a gatelink listener?" if silent else ""
            text = f"{endpoint}: not verified within {self._timeout} s{hint}"
            raise ConnectError(text, CloseCode.VERIFY_TIMEOUT) from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{endpoint}: {failure(error)}{_tls_hint(endpoint, error)}") from error
        finally:
            if not self._answer.cancel() and not self._answer.cancelled():  # what is made from now on came too late
                self._answer.exception()  # was seen, or comes after another
            if self._connection is not None:  # not bound to the session: nobody else would close it
                self._connection.drop()
                self._connection = None

    async def _fresh_request(self, source: TokenSource) -> ClientVerifyRequest:
        """The login with a fresh token. Raises ConnectError, without what it got."""
        try:
            given = source()
            token = given if isinstance(given, str) else await given
            request = msgspec.structs.replace(self._request, token=token)
            self._context.catalog.encode(request)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # The words of others may hold a token.
            words = f": {error}" if isinstance(error, GatelinkError) and not isinstance(error, MessageTooLarge) else ""
            raise ConnectError(
                f"{self._endpoint}: no token: the function given as `token` must give a str of at most 65,535 bytes, "
                f"and failed with {type(error).__name__}{words}"
            ) from error
        return request

    async def _open(self) -> None:
        """Makes the connection. uvloop forgets one whose making is cancelled after `connection_made`; so it is not."""
        loop = self._context.loop
        endpoint = self._endpoint
        if endpoint.scheme == "unix":
            opening = loop.create_task(loop.create_unix_connection(self._make, endpoint.path))
        else:
            opening = loop.create_task(
                loop.create_connection(self._make, endpoint.host, endpoint.port, ssl=self._target.tls)
            )
        self._is_made = False
        try:
            await asyncio.shield(opening)
        finally:
            if not self._is_made:
                opening.cancel()

    def abandon(self) -> None:
        """`dial` failed, or was cancelled in the very moment in which it succeeded: nobody will have the session."""
        if self._session is not None:
            self._session.abort()

    def _make(self) -> Connection:
        limits = self._context.limits
        # One frame at a time: what comes behind the answer to a handshake is sealed, and no frame for this decoder.
        return Connection(FrameDecoder(limits.max_frame, 1, limits.turn_bytes), self._made)

    def _made(self, connection: Connection) -> None:
        self._is_made = True
        if self._answer.done():  # it came too late
            connection.drop()
            return
        self._connection = connection
        connection.receiver = self
        connection.transport.set_write_buffer_limits(self._context.limits.write_high_water)
        self._handshake_hash = NO_HANDSHAKE
        self._due = Due.HELLO
        self._heard = False
        try:
            if self._offer is None:
                self._say_who()
            elif self._offer.key is not None:
                to_server = self._offer.peer_id
                from_server = self._request.uid if to_server else 0
                self._initiator = Initiator(self._offer.key, self._offer.hello, from_server, to_server)
                connection.write(self._initiator.frame)
            else:
                connection.write(control_frame(self._offer.hello))
        except PeerError as error:  # the server's key is no point of the curve
            self.broken(error)

    @property
    def _peer_id(self) -> int:
        """The server that is called by another one; 0 for a client's."""
        return self._offer.peer_id if self._offer is not None else 0

    @property
    def _ticket(self) -> Ticket | None:
        """What resumes the session that lost its connection, if anything does."""
        return self._session.ticket if self._session is not None else None

    def _agree(self, agreed: Hello) -> None:
        """The server knows how we speak: now ClientVerifyReq, or RESUME for a session that had a connection."""
        assert self._offer is not None
        self._agreed = agreed
        if self._offer.hello.features & Features.RESUME and not agreed.features & Features.RESUME:
            text = f"{self._endpoint}: resume is for sealed or TLS connections; give server_key, or dial tls://"
            self._fail(ConnectError(text, CloseCode.RESUME_REFUSED))
        else:
            self._say_who()

    def _say_who(self) -> None:
        connection = self._connection
        assert connection is not None
        self._due = Due.VERDICT
        extension = self._session.extension if self._session is not None else None
        if extension is not None and extension.ticket is not None:
            extension.attempt += 1
            ticket = extension.ticket
            record = resume(
                ticket.resume_key, self._handshake_hash, ticket.session_id, extension.received, extension.attempt
            )
            connection.write(control_frame(record))
        else:
            kind = self._context.catalog.by_id[VERIFY_REQUEST]
            flags, body = self._context.coder.close(kind, kind.encode(self._request))
            connection.write(encode_frame(VERIFY_REQUEST, body, flags))

    # -- from a connection that is not verified yet (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        self._heard = True
        try:
            for at, (id, flags, body) in enumerate(frames):
                if flags & CONTROL:
                    over = self._hear(body)
                else:
                    over = self._hear_verdict(id, flags, body)
                if over:
                    if self._session is not None and len(frames) > at + 1:
                        self._session.receive(frames[at + 1 :])
                    return
        except PeerError as error:
            self.broken(error)

    def _hear(self, payload: bytes) -> bool:
        """A control record before the verdict; whether it was the verdict. Raises ProtocolError."""
        connection = self._connection
        assert connection is not None
        if self._initiator is not None:
            sealing = self._initiator.finish(payload)
            self._initiator = None
            self._handshake_hash = sealing.handshake_hash
            connection.seal(sealing.stream)
            if self._connection is not None:  # else there was something behind the answer, and that was wrong
                self._agree(sealing.agreed)
            return False
        plain = self._offer if self._handshake_hash == NO_HANDSHAKE else None
        match decode_control(payload):
            case None:
                return False
            case Hello() as answer if plain is not None and self._due is Due.HELLO:
                self._agree(check_answer(plain.hello, answer))
                return False
            case Resumed() as answer if self._ticket is not None and self._due is Due.VERDICT:
                self._resumed(answer, self._ticket)
                return True
            case Ticket() as ticket if self._due is Due.TICKET:
                self._verified(ticket)
                return True
            case Close(number, reason):
                self._refused(close_code(number), reason)
                return True
            case record:
                raise ProtocolError(f"{type(record).__name__} before verification")

    def _refused(self, code: CloseCode, reason: str) -> None:
        """The server closed before it took us, or took us back."""
        text = "the session can't be resumed" if code is CloseCode.RESUME_REFUSED else printable(reason)
        self._fail(ConnectError(f"{self._endpoint}: the server closed: {code.label} {text}", code))
        if self._session is not None and code not in PASSING:
            self._session.close(code, text)

    def _hear_verdict(self, id: int, flags: int, body: bytes) -> bool:
        """The answer to ClientVerifyReq. Raises ProtocolError."""
        if self._due is not Due.VERDICT or self._ticket is not None:
            due = "RESUMED" if self._ticket is not None else self._due.name
            raise ProtocolError(f"message {id} where {due} was due")
        if id == VERIFY_FAILED:
            self._fail(ConnectError(f"{self._endpoint}: the server refused the token", CloseCode.VERIFY_FAILED))
            return True
        if id == DUPLICATE_LOGIN:
            self._fail(ConnectError(f"{self._endpoint}: a newer login of the same user came first", CloseCode.REPLACED))
            return True
        if id != VERIFY_SUCCEEDED:
            raise ProtocolError(f"answered with message {id}, not with ClientVertifySucceedRet")
        answer: ClientVerifySucceeded = self._context.catalog.by_id[id].decode(self._context.open_body(flags, body))
        if answer.uid != self._request.uid:
            raise ProtocolError(f"verified uid {answer.uid}, not {self._request.uid}")
        self._source = answer.source
        if self._peer_id and answer.source_id != self._peer_id:
            raise ProtocolError(f"server {answer.source_id} answered, not {self._peer_id}")
        if self._agreed is not None and self._agreed.features & Features.RESUME:
            self._due = Due.TICKET
            return False
        self._verified(None)
        return True

    def waiting(self, buffered: int) -> None: ...

    def writable(self) -> None: ...

    def release(self, call: Callable[[], None]) -> None:
        call()

    def broken(self, error: PeerError) -> None:
        hint = "" if self._heard else "; no gatelink server says that: check the address and its port"
        self._fail(ConnectError(f"{self._endpoint}: {error}{hint}", error.code))

    def lost(self, error: Exception | None) -> None:
        text = "the server closed the connection before it verified us"
        self._fail(ConnectError(f"{self._endpoint}: {text}; {self._likely_causes()}"))

    def _likely_causes(self) -> str:
        """What a server that closes without a word may have had against us; its log has the reason."""
        connection, extension = self._connection, self._offer
        if connection is not None and connection.buffered and not self._heard:
            return "what it sent is no gatelink frame: a TLS listener is dialled as tls://, an HTTP port not at all"
        if self._heard:
            return "it is full or stops, or its limits are smaller than what was sent; its log has the reason"
        if extension is not None and extension.key is not None:
            keys = "server_key is not a key of this server, or it has none" if extension.peer_id == 0 else "no such key"
            return f"likely: {keys}, or it takes no connections from here; its log has the reason"
        wants = "TLS (dial tls://), " if self._endpoint.scheme == "tcp" else ""
        return (
            f"likely: this listener takes only sealed connections (give server_key), {wants}or those of a proxy; or it "
            "is full, stops, or refuses this address for now; its log has the reason"
        )

    def _fail(self, error: ConnectError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def _verified(self, ticket: Ticket | None) -> None:
        self._verified_at = self._context.wheel.clock()
        session = self._session
        if session is None:
            session = self._session = self._make_session(self._take_connection())
            if session.extension is not None:
                session.extension.ticket = ticket
            session.open()
        elif session.state is SessionState.DETACHED:
            session.attach(self._take_connection(session))
        else:  # it was closed while we dialled
            self._fail(ConnectError("closed meanwhile"))
            return
        if not self._answer.done():
            self._answer.set_result(session)

    def _resumed(self, answer: Resumed, ticket: Ticket) -> None:
        """The server goes on with our session. Raises ProtocolError if it is not our server, or has lost its count."""
        session = self._session
        extension = session.extension if session is not None else None
        if session is None or extension is None:
            raise ProtocolError("RESUMED where no session was to be resumed")
        if not verify_resumed(answer, ticket.resume_key, self._handshake_hash, ticket.session_id, extension.attempt):
            raise ProtocolError("RESUMED with a wrong mac")
        if not extension.can_resume_from(answer.received):
            raise ProtocolError(f"RESUMED with the impossible count {answer.received}")
        if session.state is not SessionState.DETACHED:
            self._fail(ConnectError("closed meanwhile"))
            return
        self._verified_at = self._context.wheel.clock()
        session.resume_on(self._take_connection(session), answer.received, b"")
        if not self._answer.done():
            self._answer.set_result(session)

    def _take_connection(self, session: Session | None = None) -> Connection:
        """The connection, which is the session's from now on."""
        connection, self._connection = self._connection, None
        assert connection is not None
        limits = self._context.limits
        connection.bind(session or NULL_RECEIVER, limits.max_frame, limits.turn_frames)
        if session is not None and session.extension is not None and self._agreed is not None:
            session.extension.features = self._agreed.features
        return connection

    def _make_session(self, connection: Connection) -> Session:
        context, agreed, offer = self._context, self._agreed, self._offer
        extension = None
        if agreed is not None and offer is not None:
            rtts = None if context.between_servers else context.stats.rtt
            extension = Extension(agreed.features, context.limits, accepting=False, rtts=rtts)
        session = Session(
            context,
            self,
            self._handlers,
            connection,
            uid=self._peer_id or self._request.uid,
            slot=offer.hello.slot if offer is not None else 0,
            source=self._source,
            address=connection.address or "",
            verified_at=time(),
            extension=extension,
        )
        connection.receiver = session
        return session

    # -- the session's owner (session.Owner) --

    def detached(self, session: Session, code: CloseCode) -> bool:
        if self._backoff is None:
            return False
        lived = self._context.wheel.clock() - self._verified_at
        wait = self._target.find(session)
        is_suspect = wait is not None or (code is CloseCode.UNEXPLAINED and self._ticket is None)
        self._short_lives = self._short_lives + 1 if is_suspect and lived < SHORT_LIFE else 0
        self._redial = tasks.keep(self._dial_again(session, self._backoff, wait), "dialling again")
        return True

    def closed(self, session: Session) -> None:
        if self._redial is not None and self._redial is not asyncio.current_task():
            self._redial.cancel()
        self._redial = None

    def released(self, session: Session) -> None: ...

    async def _dial_again(self, session: Session, backoff: Backoff, wait: float | None) -> None:
        for seconds in backoff.delays(max(0, self._short_lives - 1)):
            if wait is not None:  # a server may ask for 0 s, again and again
                seconds = wait if self._short_lives < 2 else max(wait, seconds)
                wait = None
            await asyncio.sleep(seconds)
            try:
                await self.dial()
                return  # should it have broken again by now, another task is at it
            except ConnectError as error:
                if error.code in FINAL:
                    session.close(error.code, "the server took us back no more")
                if self._ticket is None:  # else only the server that has the session can go on with it
                    self._target.go_home()
            except Exception as error:  # not foreseen; the next attempt may do better
                tasks.failures["dialling again"] += 1
                log.error("an attempt to connect failed", exc_info=error)
            if session.state is not SessionState.DETACHED:
                return
        session.close(CloseCode.GOING_AWAY, f"not connected again after {backoff.attempts} attempts")


def _tls_hint(endpoint: Endpoint, error: OSError | UnicodeError) -> str:
    """What else may be wrong where a TLS handshake failed."""
    if endpoint.scheme != "tls":
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; give tls= a context that trusts the server's certificate, and dial the name that it is for"
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "; does this listener speak TLS? a plain one is dialled as tcp://"
    return ""
