"""The login check: from the first frame of a connection to its session (docs/protocol.md, "Base messages").

The first message must be ClientVertifyReq. It must come before an absolute deadline and within the limits for
unverified connections. Any other message is refused without an answer. A verified peer gets a `Session`. Until a peer
is verified, its connection changes nothing in other sessions.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gatelink.auth.tokens import Identity, Tokens, checked
from gatelink.calls import invoke, says_yes, words_of
from gatelink.config import Limits
from gatelink.errors import (
    BodyError,
    CloseCode,
    FrameTooLarge,
    GatelinkError,
    PeerError,
    ProtocolError,
    VerifyError,
    counted,
)
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.admission import Admission, TooManyUnverified
from gatelink.net.connection import NULL_RECEIVER, Connection
from gatelink.net.states import LOGIN, LoginEvent, LoginState
from gatelink.net.tls_watch import EmptyRecords
from gatelink.session.extension import Extension, Strength
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.renewal import CloseExpired
from gatelink.session.session import NO_CLAIMS, Session
from gatelink.session.states import ConnectionState, step
from gatelink.session.stream import Pause
from gatelink.session.timers import Item
from gatelink.wire.base import (
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.control import (
    Close,
    Control,
    Features,
    Handshake,
    Hello,
    Resume,
    close_frame,
    control_frame,
    decode_control,
    printable,
)
from gatelink.wire.frames import CONTROL, HEAD_SIZE, Frame, encode_frame
from gatelink.wire.handshake import Responder
from gatelink.wire.resume import NO_HANDSHAKE, resumed, verify_resume

log = Logger("gatelink.login")
quiet = RateLimitedLogger(log)

VERIFY_FAILED_FRAME = encode_frame(VERIFY_FAILED, b"")


class LoginChecks:
    """The login checks of one frontend that are under way, and the objects that they share."""

    def __init__(
        self, context: LoopContext, rules: "LoginRules", admission: Admission, sessions: SessionManager
    ) -> None:
        self.context = context
        self.rules = rules
        self.admission = admission
        self.sessions = sessions
        self.running: set[Login] = set()
        self.is_kicked: Callable[[int, int], bool] = lambda uid, slot: False
        """Says whether a kick of (uid, slot) is not carried out yet; until then the user is refused."""

    def refuse_all(self) -> None:
        """The server stops: refuse the connections that are not verified yet."""
        for login in list(self.running):
            login.refuse("stopping", CloseCode.GOING_AWAY)

    def refuse_user(self, uid: int, slot: int | None = None) -> None:
        """A user was kicked: refuse the checks that are under way, or those of one slot.

        The token of such a check may have been accepted before it was revoked. The client may connect again.
        """
        for login in list(self.running):
            if login.uid == uid and slot in (None, login.slot):
                login.refuse("tokens-ended", CloseCode.GOING_AWAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRules:
    """The conditions for logins at one frontend, and the answers to them.

    tokens: checks the tokens. responder: answers HANDSHAKEs from peers that have one of its keys.
    id, source: this server's id and type, for its answers. sealed_only: refuse logins that are not sealed.
    resume_plain: allow sessions on plain connections to be resumed.
    accept_version: returns whether clients of an application version are still served.
    expiry: what happens to a session whose token expires; None: nothing.
    """

    tokens: Tokens
    responder: Responder
    id: int
    source: int
    sealed_only: bool = False
    resume_plain: bool = False
    accept_version: Callable[[str], bool] | None = None
    expiry: CloseExpired | None = None


class Login(Item):
    """One connection's login check, and the connection's receiver until the session is.

    handlers: the table of the session. resume_at: the address in its ticket; empty: the one that the client dialled.
    until: the deadline of the check, on the wheel's clock. uid, slot: the user as the peer says it, once the
    token has come.
    """

    __slots__ = (
        "_agreed",
        "_checks",
        "_connection",
        "_context",
        "_frames",
        "_from_server",
        "_handlers",
        "_handshake_hash",
        "_pending",
        "_resume_at",
        "_rules",
        "_size",
        "_task",
        "slot",
        "state",
        "uid",
    )

    def __init__(
        self,
        checks: LoginChecks,
        handlers: Dispatcher[Session],
        resume_at: str,
        connection: Connection,
        until: float,
    ) -> None:
        self._tick = 0
        self.state = LoginState.FIRST_FRAME
        self._checks = checks
        self._context = checks.context
        self._rules = checks.rules
        self._handlers = handlers
        self._resume_at = resume_at
        self._connection = connection
        self._frames = 0  # received since the connection's start
        self._size = 0  # bytes of their bodies
        self._pending: list[Frame] = []  # frames received and not handled yet
        self._task: asyncio.Task[None] | None = None
        self._agreed: Hello | None = None  # our HELLO, once the peer has sent its own
        self.slot = 0
        self._from_server = 0  # the server id in the HANDSHAKE; 0: a client
        self._handshake_hash = NO_HANDSHAKE
        self.uid: int | None = None
        connection.receiver = self
        checks.running.add(self)
        self._context.wheel.set(self, until - self._context.wheel.clock())

    close_code = None  # what its `refuse` gives the carrier

    @property
    def is_open(self) -> bool:
        """Whether the check is under way."""
        return self.state is not LoginState.VERIFIED and self.state is not LoginState.REFUSED

    # -- from the connection (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        limits: Limits = self._context.limits
        self._pending += frames
        self._frames += len(frames)
        self._size += sum(len(frame[2]) for frame in frames)
        size = self._size + (0 if self._agreed is None else self._connection.buffered)
        if self._frames > limits.max_unverified_frames or size > limits.max_unverified_bytes:
            self._refuse_excess()
        else:
            self._checks.admission.steps.enter(self)

    def waiting(self, buffered: int) -> None:
        most = self._context.limits.max_unverified_bytes
        if self._holds:
            if buffered >= most:
                self._connection.pause(Pause.UNVERIFIED)
        elif buffered > most:
            self._refuse_excess()

    def broken(self, error: PeerError) -> None:
        if isinstance(error, TooManyUnverified):
            self.refuse("unverified-full", error.code)
            return
        self._checks.admission.login_failed(self._address)
        reason = "wrong-first-message"
        if isinstance(error, FrameTooLarge):
            reason = "frame-too-large"
        elif isinstance(error, EmptyRecords):
            reason = "unverified-limit"
        why = str(error)
        if isinstance(error, ProtocolError) and self._agreed is None:
            why += looks_like(error.head)
        self.refuse(reason, error.code, why=why)

    def writable(self) -> None: ...

    def when_handled(self, call: Callable[[], None]) -> None:
        call()

    def lost(self, error: Exception | None) -> None:
        reason = "left-unverified"
        if self._frames or self._connection.buffered:
            why = f"it left after {counted(self._frames, 'frame')}"
            self._checks.admission.note_refusal(reason, self._address, why)
        else:  # not logged: a health check does this
            self._context.stats.refused[reason] += 1
        self._finish(LoginEvent.REFUSE)

    def on_deadline(self, now: float) -> None:
        rest = counted(self._connection.buffered, "byte")
        why = f"{counted(self._frames, 'frame')}, and {rest} of the next, came"
        self.refuse("verify-timeout", CloseCode.VERIFY_TIMEOUT, why=why)

    # -- up to the credentials --

    def wait(self) -> None:
        self._connection.pause(Pause.LOGINS)

    def go_on(self) -> None:
        """Handle frames up to the one with the credentials. Frames after that wait in `_pending`."""
        self._connection.resume(Pause.LOGINS)
        try:
            while self._pending and self.state in (LoginState.FIRST_FRAME, LoginState.AGREED):
                frame = self._pending.pop(0)
                if frame[1] & CONTROL:
                    self._control(decode_control(frame[2]))
                else:
                    self._check(self._request(frame))
        except PeerError as error:
            self.broken(error)

    def _check(self, request: ClientVerifyRequest) -> None:
        """Start the check of the token. Bytes that a base client sent after the request are not decoded meanwhile."""
        self._step(LoginEvent.REQUEST)
        self._checks.admission.credentials_received(self._connection)
        self._task = self._context.loop.create_task(self._verify(request))
        self._context.track(self._task)
        if self._holds:
            self._connection.hold()
            self.waiting(self._connection.buffered)

    @property
    def _holds(self) -> bool:
        """Whether incoming bytes are kept undecoded: those of a base client, while its token is checked."""
        return self.state is LoginState.CHECKING and self._agreed is None

    def _agree(self, agreed: Hello) -> None:
        """The peer speaks the extension, and must wait for answers. Decode its frames at once, to see if it does."""
        self._agreed = agreed
        self._connection.take_together(self._context.limits.max_unverified_frames + 1)

    def _control(self, record: Control | None) -> None:
        """Handle a control record. Raises ProtocolError for one that is not due."""
        state = self.state
        match record:
            case Hello() if (state, LoginEvent.HELLO) in LOGIN and not self._rules.sealed_only:
                self._step(LoginEvent.HELLO)
                self.slot = record.slot
                agreed = record.answer(self._features)
                self._agree(agreed)
                self._connection.write(control_frame(agreed))
                self._check_hello(record)
            case Handshake() if (state, LoginEvent.HANDSHAKE) in LOGIN:
                self._step(LoginEvent.HANDSHAKE)
                self._checks.admission.handshakes.enter(self._connection, partial(self._shake_hands, record))
            case Resume() if self._agreed is not None:
                self._resume(record, self._agreed)
            case Hello() if (state, LoginEvent.HELLO) in LOGIN:
                raise ProtocolError("a plain HELLO at a listener that takes sealed connections only (sealed_only)")
            case None if self._agreed is not None:
                pass  # of a type that is ignored
            case _:
                what = "a control record of an ignored type" if record is None else type(record).__name__
                due = "HELLO, HANDSHAKE or ClientVertifyReq" if self._agreed is None else "ClientVertifyReq or RESUME"
                raise ProtocolError(f"{what}, where {due} was due")

    def _shake_hands(self, record: Handshake) -> None:
        """Answer a HANDSHAKE when its turn in the queue has come."""
        if self.state is not LoginState.QUEUED:
            return
        try:
            if self._pending or self._connection.has_more:
                raise ProtocolError("bytes behind a HANDSHAKE that is not answered yet")
            sealing = self._rules.responder.respond(record, self._offered | Features.RESUME)
        except PeerError as error:
            self.broken(error)
            return
        self._step(LoginEvent.TURN)
        self.slot = sealing.hello.slot
        self._from_server = sealing.from_server
        self._agree(sealing.agreed)
        self._handshake_hash = sealing.handshake_hash
        self._connection.write(sealing.answer)
        self._context.ciphers.watch(sealing.stream)
        self._connection.seal(sealing.stream)
        self._check_hello(sealing.hello)

    def _check_hello(self, hello: Hello) -> None:
        """Refuse a slot that this server does not have, and a client whose application is too old.

        The client has our HELLO by now, so it can be sent the reason.
        """
        max_slots = self._context.limits.max_slots
        if self.slot >= max_slots:
            self._checks.admission.login_failed(self._address)
            detail = f"slot {self.slot}; this server has slots 0 to {max_slots - 1} (limits.max_slots)"
            self.refuse("slot-refused", CloseCode.PROTOCOL_ERROR, why=detail, detail=detail)
            return
        accept_version = self._rules.accept_version
        if accept_version is None:
            return
        try:
            accepted = says_yes(accept_version, hello.app_version)
        except Exception as error:
            quiet.error("accept_version failed", exc_info=error)
            accepted = False
        if not accepted:
            version = printable(hello.app_version)[:64]
            self.refuse("client-too-old", CloseCode.CLIENT_TOO_OLD, why=f"its application says version {version!r}")

    @property
    def _features(self) -> int:
        """The features of this side on a connection that is not sealed."""
        may_resume = self._strength is Strength.TLS or self._rules.resume_plain
        return self._offered | Features.RESUME if may_resume else self._offered

    @property
    def _offered(self) -> int:
        """The features of this side on every connection."""
        features = Features.PING | Features.REQUESTS | Features.RENEWAL | Features.LOSSES
        return features | Features.LINK_REPORTS if self._context.between_servers else features

    @property
    def _address(self) -> str:
        return self._connection.address or ""

    @property
    def _is_sealed(self) -> bool:
        return self._handshake_hash != NO_HANDSHAKE

    @property
    def _strength(self) -> Strength:
        if self._is_sealed:
            return Strength.SEALED
        return Strength.TLS if self._connection.is_tls else Strength.PLAIN

    # -- RESUME --

    def _resume(self, record: Resume, agreed: Hello) -> None:
        """Attach the connection to the session of a ticket (docs/protocol.md, "Resume").

        The session may still have its old connection, if it did not notice that connection's end. Raises ProtocolError
        if something came behind the RESUME: handlers could get it unmetered, and before the session's `verified` event.
        """
        behind = self._pending
        if self._connection.has_more or (behind and not _is_close(behind)):
            raise ProtocolError("bytes behind a RESUME; a client sends only CLOSE until it has RESUMED")
        sessions = self._checks.sessions
        session = sessions.by_ticket(record.session_id)
        extension = session.extension if session is not None else None
        if not agreed.features & Features.RESUME:
            self._refuse_resume("HELLO did not agree on it")
        elif session is None or extension is None or extension.ticket is None:
            self._refuse_resume("unknown ticket")
        elif not verify_resume(record, extension.ticket.resume_key, self._handshake_hash):
            self._refuse_resume("wrong mac", is_fault=True)
        elif record.attempt <= extension.attempt:
            self._refuse_resume("attempt seen before", is_fault=True)
        elif extension.features & ~agreed.features:
            self._refuse_resume("HELLO lacks a feature that the session has")
        elif self._strength < extension.strength:
            self._refuse_resume("weaker connection")
        elif self._context.between_servers and session.uid != self._from_server:
            self._refuse_resume(f"a session of server {session.uid}, from server {self._from_server}")
        elif not extension.can_resume_from(record.received):
            self._refuse_resume("impossible count", is_fault=True)
        else:
            extension.attempt = record.attempt
            self._finish(LoginEvent.RESUME)
            connection = self._connection
            self._bind(session)
            answer = resumed(
                extension.ticket.resume_key,
                self._handshake_hash,
                record.session_id,
                extension.received,
                record.attempt,
            )
            sessions.resumed(session)
            session.address = self._address
            session.resume_on(connection, record.received, control_frame(answer))
            self._checks.admission.login_succeeded(session.address)
            if self._context.between_servers:
                log.debug("server resumed", server=session.uid, address=connection.address, attempt=record.attempt)
            else:
                log.info("resumed", uid=session.uid, address=connection.address, attempt=record.attempt)
            if behind:
                session.receive(behind)
            connection.resume(Pause.UNVERIFIED)

    def _refuse_resume(self, why: str, is_fault: bool = False) -> None:
        """Refuse a RESUME. The peer gets the same answer whatever was wrong; the log says why.

        is_fault: counts as a failure of the address. An unknown ticket does not: after a restart all players behind one
        NAT come back with theirs.
        """
        if is_fault:
            self._checks.admission.login_failed(self._address)
        quiet.info("resume refused", address=self._address, reason=why)
        self.refuse("resume-refused", CloseCode.RESUME_REFUSED)

    # -- ClientVertifyReq --

    def _request(self, frame: Frame) -> ClientVerifyRequest:
        """The request in a connection's first message. Raises ProtocolError."""
        id, flags, body = frame
        context, between_servers = self._context, self._context.between_servers
        if self._rules.sealed_only and not self._is_sealed:
            raise ProtocolError("a plain login at a listener that takes sealed connections only (sealed_only)")
        if id != VERIFY_REQUEST:
            raise ProtocolError(f"first message has id {id}; it must be ClientVertifyReq ({VERIFY_REQUEST})")
        request: ClientVerifyRequest = context.catalog.by_id[VERIFY_REQUEST].decode(
            context.coder.open(flags, body, context.limits.max_frame_unverified)
        )
        if request.source and not between_servers:
            raise ProtocolError(f"source {request.source} is a server's; a listener for clients takes only 0")
        if between_servers and (not request.source or request.uid != self._from_server):
            raise ProtocolError(
                f"source {request.source}, uid {request.uid} in a handshake of server {self._from_server}; "
                "a server says its type, 1 to 255, and its id"
            )
        size = len(request.token.encode("utf-8", "surrogateescape"))
        if size > context.limits.max_token:
            raise BodyError(f"token of {size} bytes is over {context.limits.max_token} (limits.max_token)")
        return request

    async def _verify(self, request: ClientVerifyRequest) -> None:
        context, sessions = self._context, self._checks.sessions
        address = self._address
        epoch = 0
        is_verified = False
        self.uid = request.uid
        try:
            async with asyncio.timeout(context.limits.token_timeout):
                token = request.token.encode("utf-8", "surrogateescape")
                identity = await self._identity(token, request.uid, request.source)
                if identity.uid != request.uid:
                    raise VerifyError(f"the token is of uid {identity.uid}, not of {request.uid}")
                is_verified = True
                if self._checks.is_kicked(request.uid, self.slot):
                    self.refuse("tokens-ended", CloseCode.GOING_AWAY, why="a kick of the user is not carried out yet")
                    return
                proofs = () if context.between_servers else sessions.proofs_of(token)
                epoch = await sessions.claim(request.uid, self.slot, proofs)
            if self.is_open:  # else the check ended meanwhile, and `verify` ignored its cancellation
                self._admit(request, identity, epoch, proofs)
        except VerifyError as error:
            quiet.info("login refused", uid=request.uid, address=address, reason=str(error))
            if not is_verified:
                self._checks.admission.login_failed(address)
            self.refuse("verify-failed", CloseCode.VERIFY_FAILED, context.in_form(VERIFY_FAILED_FRAME))
        except TimeoutError:
            quiet.error("tokens did not answer", uid=request.uid, seconds=context.limits.token_timeout)
            self.refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        except GatelinkError as error:  # an error of the engine, for example: its text is enough
            quiet.error("login impossible", uid=request.uid, error=words_of(error))
            self.refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        except Exception as error:
            quiet.error("login failed", uid=request.uid, exc_info=error)
            self.refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        finally:
            if epoch:
                sessions.release(request.uid, self.slot, epoch)

    async def _identity(self, token: bytes, uid: int, source: int) -> Identity:
        """The identity that the token proves. Measures the time of `verify`."""
        started = time.perf_counter()
        try:
            found = await invoke(self._rules.tokens.verify, token, uid, source, self._address)
            return checked(found, "Tokens.verify")
        finally:
            self._context.stats.token_seconds.observe(time.perf_counter() - started)

    # -- verified --

    def _admit(self, request: ClientVerifyRequest, identity: Identity, epoch: int, proofs: tuple[bytes, ...]) -> None:
        """Make the session of a verified peer, and answer."""
        context, sessions, rules = self._context, self._checks.sessions, self._rules
        connection = self._connection
        extension = None
        if self._agreed is not None:
            extension = Extension(
                self._agreed.features,
                context.limits,
                accepting=True,
                strength=self._strength,
                rtts=None if context.between_servers else context.stats.rtt,
            )
        session = Session(
            context,
            sessions,
            self._handlers,
            connection,
            uid=request.uid,
            slot=self.slot,
            epoch=epoch,
            source=request.source,
            address=self._address,
            claims=identity.claims or NO_CLAIMS,
            verified_at=time.time(),
            expires_at=identity.expires_at,
            extension=extension,
            proof=proofs[0] if proofs else b"",
            linger=context.limits.base_linger if extension is None else 0.0,
        )
        replaced = sessions.get(session.uid, session.slot)
        backlog = sessions.install(session)
        self._finish(LoginEvent.TOKEN)
        if not context.between_servers:
            context.stats.verified += 1
        session.returned = backlog is not None
        answer = ClientVerifySucceeded(
            source=rules.source, uid=request.uid, source_id=rules.id, type=int(session.returned)
        )
        body = context.catalog.by_id[VERIFY_SUCCEEDED].encode(answer)
        greeting = context.in_form(encode_frame(VERIFY_SUCCEEDED, body))
        if extension is not None and extension.window is not None:
            greeting += sessions.issue_ticket(session, self._resume_at)
        connection.write(greeting)
        self._bind(session)
        if backlog is not None:
            session.adopt(backlog)
        self._checks.admission.login_succeeded(session.address)
        # Before the session's own lines. The logger raises nothing.
        if rules.expiry is not None:
            session.close_when_expired(rules.expiry)
        if context.between_servers:
            log.debug("server verified", server=session.uid, address=session.address)
        else:
            log.info("verified", uid=session.uid, address=session.address, back=session.returned)
        if replaced is None:
            self._begin(session)
        else:
            self._begin_after(replaced, session)

    def _begin(self, session: Session) -> None:
        """Open the session, and give its handlers the frames that the peer sent meanwhile."""
        session.open()
        # If the connection is lost already, the peer sends them again.
        if self._pending and self._connection.state is ConnectionState.BOUND:
            if session.is_paused:
                self._connection.put_back(self._pending)
            else:
                if session.meter is not None:
                    session.meter.charge(len(self._pending), sum(len(frame[2]) + HEAD_SIZE for frame in self._pending))
                session.receive(self._pending)
        self._connection.resume(Pause.UNVERIFIED)

    def _begin_after(self, replaced: Session, session: Session) -> None:
        """Begin the session when the handlers of the older login have ended, or after limits.close_timeout."""
        session.pause(Pause.OPENING)
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                self._context.wheel.cancel(deadline)
                session.resume(Pause.OPENING)
                self._begin(session)

        deadline = self._context.wheel.call(self._context.limits.close_timeout, begin)
        replaced.last_handler.then(begin)

    def _bind(self, session: Session) -> None:
        """Give the connection to the session. From now on the user's rates apply to the peer."""
        context = self._context
        exempt = context.between_servers or self._checks.admission.is_exempt(self._address)
        if session.meter is None and not exempt:
            session.meter = session.user.metered(session, context.wheel, context.stats)
        limits = context.limits
        self._connection.bind(session, limits.max_frame, limits.turn_frames, session.meter, session.allowed_flags)
        if session.meter is not None:
            session.meter.charge(0, self._connection.buffered)  # what came with the login; decoding charges its frames

    # -- the end of the check --

    def _refuse_excess(self) -> None:
        self._checks.admission.login_failed(self._address)
        why = "more than limits.max_unverified_frames or max_unverified_bytes came before the login was verified"
        self.refuse("unverified-limit", CloseCode.PROTOCOL_ERROR, why=why)

    def refuse(self, reason: str, code: CloseCode, answer: bytes = b"", why: str = "", detail: str = "") -> None:
        """Send `answer`, then CLOSE with `code` if we have answered a HELLO or HANDSHAKE; then close the connection.

        why: for the log. detail: the reason in the CLOSE. The peer has a moment to read these. If nothing is
        sent, and the connection has no carrier that tells the code, it is dropped. Do nothing if the check has ended.
        """
        if not self.is_open:
            return
        self._checks.admission.note_refusal(reason, self._address, why)
        if self._agreed is not None:
            answer += close_frame(code, detail)
        self._finish(LoginEvent.REFUSE)
        carrier = self._connection.carrier
        if carrier is not None:
            carrier.close_code = code
        elif not answer:
            self._connection.drop()
            return
        if answer:
            self._connection.write(answer)
        if answer and self._agreed is None:  # give a base client time to read its answer before the end of the stream
            self._connection.discard_input()
            self._context.wheel.call(self._context.limits.base_linger, self._close)
        else:
            self._close()
        self._checks.admission.add_refused(self._connection)

    def _close(self) -> None:
        self._connection.close()
        self._context.wheel.call(self._context.limits.close_timeout, self._connection.abort)

    def _finish(self, event: LoginEvent) -> None:
        """Take the step that ends the check, and release everything that it holds."""
        self._step(event)
        self._checks.admission.credentials_received(self._connection)
        self._context.wheel.cancel(self)
        self._checks.running.discard(self)
        self._checks.admission.steps.leave(self)
        self._connection.receiver = NULL_RECEIVER
        self._connection.resume(Pause.LOGINS)  # the session is not read else, if the peer waited for a turn
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _step(self, event: LoginEvent) -> None:
        self.state = step(LOGIN, self.state, event)


def _is_close(frames: list[Frame]) -> bool:
    """Whether `frames` are one CLOSE. Raises ProtocolError for a control record that can't be decoded."""
    return len(frames) == 1 and bool(frames[0][1] & CONTROL) and isinstance(decode_control(frames[0][2]), Close)


_HTTP = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC", b"PRI ")
_BEGINNINGS = {
    b"\x16\x03": "TLS; this listener is plain, write its endpoint as tls://, or dial it as tcp://",
    b"PROX": "a PROXY header; give this listener `proxies`",
    b"\r\n\r\n": "a PROXY header; give this listener `proxies`",
    b"SSH-": "SSH",
    **dict.fromkeys(_HTTP, "an HTTP request"),
}
"""The first bytes of other protocols."""


def looks_like(head: bytes) -> str:
    """The protocol of a peer whose first bytes are no frame, for the log; "" if it is not known."""
    for start, name in _BEGINNINGS.items():
        if head.startswith(start):
            return f"; it begins as {name}"
    return ""
