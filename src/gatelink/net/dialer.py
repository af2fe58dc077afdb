"""Dials, logs in, and gives the connection to the session. Does so again whenever the session loses its connection.

base         ClientVertifyReq ->                                   <- ClientVertifySucceedRet
extension    HELLO ->  <- HELLO  ClientVertifyReq or RESUME ->     <- ClientVertifySucceedRet or RESUMED
sealed       HANDSHAKE ->  <- HANDSHAKE, and then as above inside SEALED records, without the HELLOs
"""

import asyncio
import random
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from time import time
from typing import Any

import msgspec

from gatelink import tasks
from gatelink.calls import contain
from gatelink.errors import CloseCode, ConnectError, GatelinkError, MessageTooLarge, PeerError, ProtocolError
from gatelink.logger import Logger
from gatelink.net.connection import NULL_RECEIVER, Connection
from gatelink.net.endpoints import TLS_SCHEMES, WEB_SCHEMES, Endpoint, failure
from gatelink.net.sockets import open_socket
from gatelink.net.states import DIAL, DialEvent, DialState
from gatelink.net.target import Target
from gatelink.net.websocket_client import ClientUpgrade
from gatelink.session.extension import DETACHING, Extension
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.renewal import LEAST_INTERVAL
from gatelink.session.session import Session
from gatelink.session.states import SessionState, step
from gatelink.wire.base import (
    DUPLICATE_LOGIN,
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.control import (
    Close,
    Features,
    Hello,
    Resumed,
    Ticket,
    close_code,
    control_frame,
    decode_control,
    printable,
)
from gatelink.wire.frames import ALL_FLAGS, BASE_FLAGS, CONTROL, Frame, FrameDecoder, encode_frame
from gatelink.wire.handshake import Initiator, check_answer
from gatelink.wire.keys import ClusterKey
from gatelink.wire.resume import NO_HANDSHAKE, resume, verify_resumed

log = Logger("gatelink.client")

PASSING = DETACHING | {CloseCode.VERIFY_TIMEOUT, CloseCode.SERVER_FULL, CloseCode.INTERNAL_ERROR}
"""Codes of a CLOSE before the login is verified that are not about this session: the next attempt may succeed."""

FINAL = frozenset({CloseCode.VERIFY_FAILED, CloseCode.REPLACED, CloseCode.RESUME_REFUSED})
"""Codes of a failed attempt after which the session ends. The server sends them as a message or as a CLOSE."""

RENEW_AGAIN = LEAST_INTERVAL + 1
"""Seconds between two attempts to renew the login."""

SHORT_LIFE = 5.0
"""Seconds. If a connection ends sooner, by a GOAWAY, a CLOSE, or without a reason, the delays go on growing: the next
may end the same way. Examples: a kick, a message that the server refuses, a server that sends clients away."""

GONE_SECONDS = 8.0, 12.0
"""The bounds of a random time in seconds. If the host refuses all attempts for that long, the server is gone, and with
it the session. The time is random so that the server's clients do not all dial at once."""

UNACKNOWLEDGED = 15.0
"""Seconds for which the server's kernel acknowledges nothing of what was sent. Then a session that can be resumed dials
again: the server's machine died, or the path did. A process that only stands still has a kernel that acknowledges."""

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives a fresh token for each login."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The delays before attempts to reconnect. Each is random, between 0 and a time that doubles ("full jitter").

    first, most: the first and the longest such time, in seconds. attempts: after so many in a row the session ends.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int = 20

    def delays(self, doubled: int = 0) -> Iterator[float]:
        """The seconds to wait before each attempt. doubled: begin as if so many attempts had failed before."""
        longest = min(self.first * 2 ** min(doubled, 64), max(self.first, self.most))
        for _ in range(self.attempts):
            yield random.uniform(0, longest)
            longest = min(longest * 2, self.most)


class Offer(msgspec.Struct, frozen=True):
    """How this side offers the extension.

    hello: its HELLO. key: to seal, the server's public key or the cluster's key. peer_id: the server that is dialled,
    with the cluster's key; else 0.
    """

    hello: Hello
    key: bytes | ClusterKey | None = None
    peer_id: int = 0


class Dialer:
    """Dials for one session. It owns the session, and receives from each connection until the session does."""

    accepting = False
    close_code = None

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
        self._source = 0  # the server's type, from its answer
        self._short_lives = 0  # connections in a row that ended within SHORT_LIFE by a GOAWAY, a CLOSE, or unexplained
        self._answered = False  # a frame came on this connection
        self._initiator: Initiator | None = None
        self._agreed: Hello | None = None
        self._handshake_hash = NO_HANDSHAKE
        self.state = DialState.IDLE
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._answer: asyncio.Future[Session]
        self._redial: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    @property
    def _endpoint(self) -> Endpoint:
        return self._target.endpoint

    async def dial(self) -> Session:
        """Connect and log in. Returns the session, which is OPEN. Raises ConnectError."""
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
            if self._answer.done() and not self._answer.cancelled():  # it came in time, but the loop was blocked
                return self._answer.result()
            silent = self._connection is not None and not self._answered
            hint = "; it took the connection and said nothing: is this a gatelink listener?" if silent else ""
            if silent and self._offer is not None:
                hint += " One of the base protocol alone needs base_protocol=True"
            text = f"{endpoint}: not verified within {self._timeout} s{hint}"
            raise ConnectError(text, CloseCode.VERIFY_TIMEOUT) from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{endpoint}: {failure(error)}{_hint(endpoint, error)}") from error
        finally:
            if not self._answer.cancel() and not self._answer.cancelled():
                self._answer.exception()  # marks it as retrieved: it was raised, or another error is
            self._reset()

    async def _fresh_request(self, source: TokenSource) -> ClientVerifyRequest:
        """The login request with a fresh token. Raises ConnectError, whose text never has the token."""
        try:
            given = source()
            token = given if isinstance(given, str) else await given
            request = msgspec.structs.replace(self._request, token=token)
            self._context.catalog.encode(request)
        except BaseException as error:
            contain(error)  # raises a cancellation that was asked for, and a signal's KeyboardInterrupt
            # Only our own errors are quoted: that of an application may hold the token, as may MessageTooLarge.
            words = f": {error}" if isinstance(error, GatelinkError) and not isinstance(error, MessageTooLarge) else ""
            raise ConnectError(
                f"{self._endpoint}: no token: the function given as `token` must give a str of at most 65,535 bytes, "
                f"and failed with {type(error).__name__}{words}"
            ) from error
        return request

    async def _open(self) -> None:
        """Open the connection. It is not cancelled after `connection_made`: uvloop would never close it then."""
        loop = self._context.loop
        endpoint = self._endpoint
        if self._context.reactor is not None and endpoint.scheme in ("tcp", "unix"):
            opening: asyncio.Task[object] = loop.create_task(self._open_natively(self._context.reactor))
        elif endpoint.scheme == "unix":
            opening = loop.create_task(loop.create_unix_connection(self._make, endpoint.path))
        else:
            opening = loop.create_task(
                loop.create_connection(self._make, endpoint.host, endpoint.port, ssl=self._target.tls)
            )
        self._step(DialEvent.DIAL)
        try:
            await asyncio.shield(opening)
        finally:
            if self.state is DialState.CONNECTING:
                opening.cancel()

    async def _open_natively(self, reactor: Any) -> None:
        """Open a socket without a transport, for the compiled core (docs/native.md)."""
        opened, host = await open_socket(self._context.loop, self._endpoint)
        with opened:  # until it is detached
            if self.state is not DialState.CONNECTING:  # it came too late
                return
            self._set_options(opened)
            connection: Connection = reactor.dialled(opened.detach(), host, self._context.limits)
        self._begin(connection)

    def abandon(self) -> None:
        """Abort the session, if there is one, of a `dial` that failed or was cancelled just as it succeeded."""
        if self._session is not None:
            self._session.abort()

    def _make(self) -> asyncio.BaseProtocol:
        limits = self._context.limits
        # One frame at a time: the bytes after the answer to a handshake are sealed, and this decoder can't read them.
        connection = Connection(FrameDecoder(limits.max_frame, 1, limits.turn_bytes), self._made)
        if self._endpoint.scheme not in WEB_SCHEMES:
            return connection
        return ClientUpgrade(connection, self._endpoint, self._connected, self._not_upgraded, self._context)

    def _connected(self, connection: Connection) -> bool:
        """The socket of a WebSocket is there, and its upgrade begins; whether it is still wanted."""
        if self.state is not DialState.CONNECTING:  # it came too late
            connection.drop()
            return False
        self._connection = connection
        return True

    def _not_upgraded(self, why: str) -> None:
        if self.state is DialState.CONNECTING:
            self._fail(ConnectError(f"{self._endpoint}: {why}"))

    def _made(self, connection: Connection) -> None:
        if self.state is not DialState.CONNECTING:  # it came too late
            connection.drop()
            return
        if (opened := connection.transport.get_extra_info("socket")) is not None:
            self._set_options(opened)
        self._begin(connection)

    def _set_options(self, opened: socket.socket) -> None:
        """Have the kernel end a connection to be resumed after UNACKNOWLEDGED. Only Linux can do that."""
        resumes = self._offer is not None and self._offer.hello.features & Features.RESUME
        if resumes and self._endpoint.scheme != "unix" and sys.platform == "linux":
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNACKNOWLEDGED * 1_000))

    def _begin(self, connection: Connection) -> None:
        """Send the first message on a connection that has just been made."""
        self._connection = connection
        connection.receiver = self
        connection.transport.set_write_buffer_limits(self._context.limits.write_high_water)
        self._handshake_hash = NO_HANDSHAKE
        self._initiator = None
        self._answered = False
        try:
            if self._offer is None:
                self._log_in(connection)
            elif self._offer.key is not None:
                to_server = self._offer.peer_id
                from_server = self._request.uid if to_server else 0
                self._initiator = Initiator(self._offer.key, self._offer.hello, from_server, to_server)
                self._step(DialEvent.SEND_HANDSHAKE)
                connection.write(self._initiator.frame)
            else:
                self._step(DialEvent.SEND_HELLO)
                connection.write(control_frame(self._offer.hello))
        except PeerError as error:  # the server's key is not a point on the curve
            self.broken(error)

    @property
    def _peer_id(self) -> int:
        """The id of the server that this server calls; 0 for a client."""
        return self._offer.peer_id if self._offer is not None else 0

    @property
    def _ticket(self) -> Ticket | None:
        """The ticket of the session; None if it can't be resumed."""
        return self._session.ticket if self._session is not None else None

    def _agree(self, connection: Connection, ours: Hello, agreed: Hello) -> None:
        """The server answered our HELLO with `agreed`: log in, or resume."""
        self._agreed = agreed
        extension = self._session.extension if self._session is not None else None
        if extension is not None and extension.features & ~agreed.features:
            text = f"{self._endpoint}: the server no longer has a feature that the session has"
            is_private = connection.is_tls or (self._offer is not None and self._offer.key is not None)
            # An older version runs there, which has not got the session. On a plain path anybody may have said it.
            self._fail(ConnectError(text, CloseCode.RESUME_REFUSED if extension.ticket and is_private else None))
        elif ours.features & Features.RESUME and not agreed.features & Features.RESUME:
            text = f"{self._endpoint}: resume is for sealed or TLS connections; give server_key, or dial tls://"
            self._fail(ConnectError(text, CloseCode.RESUME_REFUSED))
        else:
            self._log_in(connection)

    def _log_in(self, connection: Connection) -> None:
        """Send RESUME if the session has a ticket, else ClientVertifyReq."""
        extension = self._session.extension if self._session is not None else None
        if extension is not None and extension.ticket is not None:
            self._step(DialEvent.SEND_RESUME)
            extension.attempt += 1
            ticket = extension.ticket
            record = resume(
                ticket.resume_key, self._handshake_hash, ticket.session_id, extension.received, extension.attempt
            )
            connection.write(control_frame(record))
        else:
            self._step(DialEvent.SEND_REQUEST)
            kind = self._context.catalog.by_id[VERIFY_REQUEST]
            flags, body = self._context.coder.close(kind, kind.encode(self._request))
            connection.write(encode_frame(VERIFY_REQUEST, body, flags))

    # -- from a connection that is not verified yet (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        ((id, flags, body),) = frames  # `_make` sets the decoder to one frame at a time
        self._answered = True
        connection = self._connection
        assert connection is not None
        try:
            if not flags & CONTROL:
                self._message(connection, id, flags, body)
            elif self._initiator is not None:
                self._sealed(connection, self._initiator, body)
            else:
                self._control(connection, body)
        except PeerError as error:
            self.broken(error)

    def _sealed(self, connection: Connection, initiator: Initiator, payload: bytes) -> None:
        """The answer to our HANDSHAKE. Raises ProtocolError."""
        assert self._offer is not None
        sealing = initiator.finish(payload)
        self._initiator = None
        self._handshake_hash = sealing.handshake_hash
        self._context.ciphers.watch(sealing.stream)
        connection.seal(sealing.stream)
        if self.state is DialState.HANDSHAKE:  # else bytes after the answer were wrong, and the attempt has failed
            self._agree(connection, self._offer.hello, sealing.agreed)

    def _control(self, connection: Connection, payload: bytes) -> None:
        """A control record before the login is verified. Raises ProtocolError for one that is not due."""
        match decode_control(payload), self.state:
            case None, _:
                pass  # of a type that is ignored
            case Hello() as answer, DialState.HELLO if self._offer is not None:
                self._agree(connection, self._offer.hello, check_answer(self._offer.hello, answer))
            case Resumed() as answer, DialState.RESUMED if self._ticket is not None:
                self._resumed(connection, answer, self._ticket)
            case Ticket() as ticket, DialState.TICKET:
                self._verified(connection, ticket)
            case Close(number, reason), _:
                self._refused(close_code(number), reason)
            case record, state:
                raise ProtocolError(f"{type(record).__name__} before verification, where {state.name} was due")

    def _message(self, connection: Connection, id: int, flags: int, body: bytes) -> None:
        """The answer to ClientVertifyReq. Raises ProtocolError."""
        if self.state is not DialState.VERDICT:
            raise ProtocolError(f"message {id} where {self.state.name} was due")
        if id == VERIFY_FAILED:
            self._fail(ConnectError(f"{self._endpoint}: the server refused the token", CloseCode.VERIFY_FAILED))
            return
        if id == DUPLICATE_LOGIN:
            self._fail(ConnectError(f"{self._endpoint}: a newer login of the same user came first", CloseCode.REPLACED))
            return
        if id != VERIFY_SUCCEEDED:
            raise ProtocolError(f"answered with message {id}, not with ClientVertifySucceedRet")
        answer: ClientVerifySucceeded = self._context.catalog.by_id[id].decode(self._context.open_body(flags, body))
        if answer.uid != self._request.uid:
            raise ProtocolError(f"verified uid {answer.uid}, not {self._request.uid}")
        self._source = answer.source
        if self._peer_id and answer.source_id != self._peer_id:
            raise ProtocolError(f"server {answer.source_id} answered, not {self._peer_id}")
        if self._agreed is not None and self._agreed.features & Features.RESUME:
            self._step(DialEvent.VERIFIED)
        else:
            self._verified(connection, None)

    def _refused(self, code: CloseCode, reason: str) -> None:
        """The server sent CLOSE instead of verifying us or resuming the session."""
        text = "the session can't be resumed" if code is CloseCode.RESUME_REFUSED else printable(reason)
        self._fail(ConnectError(f"{self._endpoint}: the server closed: {code.label} {text}", code))
        if self._session is not None and code not in PASSING:
            self._session.close(code, text)

    def waiting(self, buffered: int) -> None: ...

    def writable(self) -> None: ...

    def when_handled(self, call: Callable[[], None]) -> None:
        call()

    def broken(self, error: PeerError) -> None:
        hint = "" if self._answered else "; no gatelink server says that: check the address and its port"
        if hint and isinstance(error, ProtocolError) and error.head.startswith(b"HTTP"):
            hint += ". A WebSocket listener is dialled as ws:// or wss://"
        self._fail(ConnectError(f"{self._endpoint}: {error}{hint}", error.code))

    def lost(self, error: Exception | None) -> None:
        text = "the server closed the connection before it verified us"
        self._fail(ConnectError(f"{self._endpoint}: {text}; {self._likely_causes()}"))

    def _likely_causes(self) -> str:
        """The likely reasons for which a server closed without a message. Only its log has the real one."""
        connection, offer = self._connection, self._offer
        if connection is not None and connection.buffered and not self._answered:
            return "it sent no gatelink frame: dial a TLS listener as tls://; an HTTP port can't be dialled"
        if self._answered:
            return "it is full or stopping, or what was sent exceeds its limits; its log has the reason"
        if offer is not None and offer.key is not None:
            keys = "server_key is not a key of this server, or it has none" if offer.peer_id == 0 else "no such key"
            wants = "takes TLS (dial tls:// or wss://), or " if self._endpoint.scheme == "tcp" else ""
            return f"likely: {keys}, or it {wants}takes no connections from here; its log has the reason"
        wants = "TLS (dial tls:// or wss://), " if self._endpoint.scheme == "tcp" else ""
        knows = ", or it knows only the base protocol (give base_protocol=True)" if offer is not None else ""
        return (
            f"likely: this listener takes only sealed connections (give server_key), {wants}or those of a proxy{knows}"
            "; or it is full, stops, or refuses this address for now; its log has the reason"
        )

    def _fail(self, error: ConnectError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
        self._reset()

    def _reset(self) -> None:
        """Drop the connection of an attempt that has not succeeded."""
        if self.state is not DialState.IDLE and self.state is not DialState.BOUND:
            self._step(DialEvent.FAIL)
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def _step(self, event: DialEvent) -> None:
        self.state = step(DIAL, self.state, event)

    # -- verified --

    def _verified(self, connection: Connection, ticket: Ticket | None) -> None:
        session = self._session
        if session is None:
            self._bind(connection, None)
            session = self._session = self._make_session(connection)
            if session.extension is not None:
                session.extension.ticket = ticket
            session.open()
        elif session.state is SessionState.DETACHED:
            self._bind(connection, session)
            session.attach(connection)
        else:
            self._fail(ConnectError("the session was closed meanwhile"))
            return
        if not self._answer.done():
            self._answer.set_result(session)

    def _resumed(self, connection: Connection, answer: Resumed, ticket: Ticket) -> None:
        """The server resumes our session. Raises ProtocolError if its mac or its count is wrong."""
        session = self._session
        extension = session.extension if session is not None else None
        if session is None or extension is None:
            raise ProtocolError("RESUMED where no session was to be resumed")
        if not verify_resumed(answer, ticket.resume_key, self._handshake_hash, ticket.session_id, extension.attempt):
            raise ProtocolError("RESUMED with a wrong mac")
        if not extension.can_resume_from(answer.received):
            raise ProtocolError(f"RESUMED with the impossible count {answer.received}")
        if session.state is not SessionState.DETACHED:
            self._fail(ConnectError("the session was closed meanwhile"))
            return
        self._bind(connection, session)
        session.resume_on(connection, answer.received, b"")
        if not self._answer.done():
            self._answer.set_result(session)

    def _bind(self, connection: Connection, session: Session | None) -> None:
        """Give the connection to the session. None: the session is made next, and becomes the receiver then."""
        self._step(DialEvent.BIND)
        self._connection = None
        self._verified_at = self._context.wheel.clock()
        limits = self._context.limits
        if session is not None:
            allowed = session.allowed_flags  # its features are those of its first login
        else:
            speaks_requests = self._agreed is not None and self._agreed.features & Features.REQUESTS
            allowed = ALL_FLAGS if speaks_requests and not self._context.between_servers else BASE_FLAGS
        connection.bind(session or NULL_RECEIVER, limits.max_frame, limits.turn_frames, allowed=allowed)

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
        self._step(DialEvent.DETACH)
        if self._backoff is None:
            return False
        lived = self._context.wheel.clock() - self._verified_at
        away = self._target.follow(session)
        extension = session.extension
        server_ended_it = away is not None or (extension is not None and extension.peer_code is not None)
        is_suspect = server_ended_it or (code is CloseCode.UNEXPLAINED and self._ticket is None)
        self._short_lives = self._short_lives + 1 if is_suspect and lived < SHORT_LIFE else 0
        self._redial = tasks.keep(self._dial_again(session, self._backoff, away), "dialling again")
        return True

    def closed(self, session: Session) -> None:
        if self._redial is not None and self._redial is not asyncio.current_task():
            self._redial.cancel()
        self._redial = None
        if self._renewing is not None and self._renewing is not asyncio.current_task():
            self._renewing.cancel()

    def released(self, session: Session) -> None: ...

    def renew(self, session: Session, token: str) -> None:
        """Never called: a server shows no token."""

    def expiring(self, session: Session) -> None:
        """Renew the login with a fresh token, if there is a function that gives one."""
        if self._token is not None and (self._renewing is None or self._renewing.done()):
            self._renewing = tasks.keep(self._renew(session, self._token), "renewing a login")

    async def _renew(self, session: Session, source: TokenSource) -> None:
        """Renew the login; try again until it is renewed or the session ends."""
        while True:
            try:
                await session.renew((await self._fresh_request(source)).token)
                return
            except GatelinkError as error:
                log.warning("the login could not be renewed", uid=session.uid, error=str(error))
            await asyncio.sleep(RENEW_AGAIN)

    async def _dial_again(self, session: Session, backoff: Backoff, away: tuple[float, float] | None) -> None:
        clock = self._context.wheel.clock
        gone_after = random.uniform(*GONE_SECONDS)
        refused_since: float | None = None
        for seconds in backoff.delays(max(0, self._short_lives - 1)):
            if refused_since is not None:
                seconds = min(seconds, max(0.0, refused_since + gone_after - clock()))
            if away is not None:
                # The server said when. If that is "at once", all its clients would dial together; if it says so again
                # and again, they would dial without a pause.
                wait, spread = away
                seconds = wait if spread and self._short_lives < 2 else max(wait, seconds)
                away = None
            await asyncio.sleep(seconds)
            try:
                await self.dial()
                return  # if the session is detached again by now, another task dials
            except ConnectError as error:
                if error.code in FINAL:
                    session.close(error.code, "the server does not take this session back")
                if self._ticket is None:  # with a ticket, only the server that has the session can resume it
                    self._target.go_home()
                elif not _is_refused(error) or self._context.between_servers:
                    refused_since = None
                elif refused_since is None:
                    refused_since = clock()
                elif clock() - refused_since >= gone_after:
                    session.close(CloseCode.RESUME_REFUSED, "the server that had the session is gone")
            except Exception as error:  # unforeseen; the next attempt may succeed
                tasks.failures["dialling again"] += 1
                log.error("an attempt to connect failed", exc_info=error)
            if session.state is not SessionState.DETACHED:
                return
        session.close(CloseCode.GOING_AWAY, f"not connected again after {backoff.attempts} attempts")


def _is_refused(error: ConnectError) -> bool:
    """Whether no process listens at the address. Then the process that had the session has ended."""
    return isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError)


def _hint(endpoint: Endpoint, error: OSError | UnicodeError) -> str:
    """A hint at what may be wrong, if nothing listens at the endpoint or a TLS handshake failed; else ""."""
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "; is the server running there?"
    if endpoint.scheme not in TLS_SCHEMES:
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; give tls= a context that trusts the server's certificate, and dial the name that it is for"
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "; does this listener speak TLS? a plain one is dialled as tcp:// or ws://"
    return ""
