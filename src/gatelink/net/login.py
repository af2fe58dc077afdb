"""The login check: what happens to a connection between accept and verified (docs/protocol.md, "Base messages").

The first message is ClientVertifyReq, before an absolute deadline and within the limits for the unverified; anything
else is closed without a word. Whoever is verified gets a `Session`; nothing that another session has is touched before.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from gatelink.auth.tokens import Identity
from gatelink.calls import invoke, invoke_plain
from gatelink.config import Limits
from gatelink.errors import BodyError, CloseCode, FrameTooLarge, GatelinkError, PeerError, ProtocolError, VerifyError
from gatelink.net.admission import Crowded
from gatelink.net.connection import NULL_RECEIVER, Connection
from gatelink.net.login_context import LoginContext
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.control_frames import close_frame, control_frame, printable
from gatelink.session.extension import Extension, Strength
from gatelink.session.rates import Meter
from gatelink.session.session import NO_CLAIMS, Session
from gatelink.session.states import ConnectionState
from gatelink.session.stream import Pause
from gatelink.session.timers import Item
from gatelink.wire.base import (
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.control import Control, Features, Handshake, Hello, Resume, decode_control
from gatelink.wire.frames import CONTROL, Frame, encode_frame
from gatelink.wire.resume import NO_HANDSHAKE, resumed, verify_resume

log = structlog.get_logger("gatelink.login")
quiet = RateLimitedLogger(log)

VERIFY_FAILED_FRAME = encode_frame(VERIFY_FAILED, b"")


class Login(Item):
    """One connection's login check; the connection's receiver until it is over.

    until: when, by the context's clock, it ends without an answer. uid: who it is, once a token has said so.
    """

    __slots__ = (
        "_agreed",
        "_connection",
        "_checks",
        "_from_server",
        "_handshake_hash",
        "_heard",
        "_is_in_line",
        "_pending",
        "_slot",
        "_task",
        "uid",
    )

    def __init__(self, checks: LoginContext, connection: Connection, until: float) -> None:
        self._tick = 0
        self._checks = checks
        self._connection = connection
        self._heard = (0, 0)  # frames, and bytes of them, since the connection's start
        self._pending: list[Frame] = []  # of them, those that are not taken yet
        self._task: asyncio.Task[None] | None = None
        self._agreed: Hello | None = None  # our HELLO, once the peer has said its own
        self._slot = 0
        self._from_server = 0  # which server made the handshake, 0: a client
        self._handshake_hash = NO_HANDSHAKE
        self._is_in_line = False  # for its handshake
        self.uid: int | None = None
        connection.receiver = self
        checks.logins.add(self)
        checks.context.wheel.set(self, until - checks.context.wheel.clock())

    # -- from the connection (FrameReceiver) --

    def receive(self, frames: list[Frame]) -> None:
        limits: Limits = self._checks.context.limits
        self._pending += frames
        count, size = self._heard
        self._heard = count, size = count + len(frames), size + sum(len(frame[2]) for frame in frames)
        if self._agreed is not None:
            size += self._connection.buffered
        if count > limits.max_unverified_frames or size > limits.max_unverified_bytes:
            self._refuse_limit()
        else:
            self._go_on()

    def waiting(self, buffered: int) -> None:
        most = self._checks.context.limits.max_unverified_bytes
        if self._holds:
            if buffered >= most:
                self._connection.pause(Pause.UNVERIFIED)
        elif buffered > most:
            self._refuse_limit()

    def broken(self, error: PeerError) -> None:
        if isinstance(error, Crowded):
            self._refuse("unverified-full", error.code)
            return
        self._failed()
        reason = "frame-too-large" if isinstance(error, FrameTooLarge) else "wrong-first-message"
        why = str(error)
        if isinstance(error, ProtocolError) and self._agreed is None:
            why += looks_like(error.head)
        self._refuse(reason, error.code, why=why)

    def writable(self) -> None: ...

    def release(self, call: Callable[[], None]) -> None:
        call()

    def lost(self, error: Exception | None) -> None:
        reason, frames = "left-unverified", self._heard[0]
        if frames or self._connection.buffered:
            self._checks.admission.note_refusal(reason, self._address, f"it left after {frames} frames")
        else:  # not logged: a health check comes and goes so
            self._checks.context.stats.refused[reason] += 1
        self._over()

    def on_deadline(self, now: float) -> None:
        why = f"{self._heard[0]} frames, and {self._connection.buffered} bytes of the next, came"
        self._refuse("verify-timeout", CloseCode.VERIFY_TIMEOUT, why=why)

    def stop(self) -> None:
        """The server stops; who is not verified by now has to come again."""
        self._refuse("stopping", CloseCode.GOING_AWAY)

    def doubt(self) -> None:
        """The user's tokens have been ended since this one's was checked; who has a good one has to come again."""
        self._refuse("tokens-ended", CloseCode.GOING_AWAY)

    # -- what a connection begins with --

    def _go_on(self) -> None:
        """Takes frames up to the one that says who the peer is; what comes after it waits for the answer."""
        try:
            while self._pending and self._task is None and not self._is_in_line and self in self._checks.logins:
                frame = self._pending.pop(0)
                if frame[1] & CONTROL:
                    self._control(decode_control(frame[2]))
                else:
                    self._check(self._request(frame))
        except PeerError as error:
            self.broken(error)

    def _check(self, request: ClientVerifyRequest) -> None:
        """Has the token checked. What a base client has written behind the request is not looked at meanwhile."""
        context = self._checks.context
        self._checks.admission.credentials_received(self._connection)
        self._task = context.loop.create_task(self._verify(request))
        context.tasks.add(self._task)
        self._task.add_done_callback(context.tasks.discard)
        if self._holds:
            self._connection.hold()
            self.waiting(self._connection.buffered)

    @property
    def _holds(self) -> bool:
        """Whether what arrives is kept as bytes: a base client's, from its request on."""
        return self._task is not None and self._agreed is None

    def _agree(self, agreed: Hello) -> None:
        """The peer speaks the extension, and waits for answers: what it sends too early is found at once."""
        self._agreed = agreed
        self._connection.take_together(self._checks.context.limits.max_unverified_frames + 1)

    def _control(self, record: Control | None) -> None:
        """A control record before verification. Raises ProtocolError for one that has no place there."""
        match record:
            case Hello() if self._agreed is None and not self._checks.sealed_only:
                self._slot = record.slot
                agreed = record.answer(self._features)
                self._agree(agreed)
                self._connection.write(control_frame(agreed))
                self._check_version(record)
            case Handshake() if self._agreed is None:
                self._is_in_line = True
                self._checks.admission.handshakes.enter(self._connection, partial(self._shake_hands, record))
            case Resume() if self._agreed is not None:
                self._resume(record, self._agreed)
            case Hello() if self._agreed is None:
                raise ProtocolError("a plain HELLO at a listener that takes sealed connections only (sealed_only)")
            case None if self._agreed is not None:
                pass  # of a type that is ignored
            case _:
                raise ProtocolError(f"{type(record).__name__} before verification")

    def _shake_hands(self, record: Handshake) -> None:
        """It is this connection's turn to have its HANDSHAKE answered."""
        self._is_in_line = False
        if self not in self._checks.logins:
            return
        try:
            if self._pending or self._connection.buffered:
                raise ProtocolError("bytes behind a HANDSHAKE that is not answered yet")
            sealing = self._checks.responder.respond(record, Features.PING | Features.RESUME)
        except PeerError as error:
            self.broken(error)
            return
        self._slot = sealing.hello.slot
        self._from_server = sealing.from_server
        self._agree(sealing.agreed)
        self._handshake_hash = sealing.handshake_hash
        self._connection.write(sealing.answer)
        self._connection.seal(sealing.stream)
        self._check_version(sealing.hello)

    def _check_version(self, hello: Hello) -> None:
        """Refuses a client whose application is too old; it has been answered, so it can be told."""
        accept_version = self._checks.accept_version
        if accept_version is None:
            return
        try:
            accepted = invoke_plain(accept_version, hello.app_version)
        except Exception as error:
            quiet.error("accept_version failed", exc_info=error)
            accepted = False
        if not accepted:
            version = printable(hello.app_version)[:64]
            self._refuse("client-too-old", CloseCode.CLIENT_TOO_OLD, why=f"its application says version {version!r}")

    @property
    def _features(self) -> int:
        """What this side has on a connection that is not sealed."""
        may_resume = self._strength is Strength.TLS or self._checks.resume_plain
        return Features.PING | Features.RESUME if may_resume else Features.PING

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

    def _resume(self, record: Resume, agreed: Hello) -> None:
        """Goes on with a session that lost its connection, or is about to find out (docs/protocol.md, "Resume")."""
        checks = self._checks
        session = checks.sessions.by_ticket(record.session_id)
        extension = session.extension if session is not None else None
        if not agreed.features & Features.RESUME:
            self._refuse_resume("HELLO did not agree on it")
        elif session is None or extension is None or extension.ticket is None:
            self._refuse_resume("unknown ticket")
        elif not verify_resume(record, extension.ticket.resume_key, self._handshake_hash):
            self._refuse_resume("wrong mac")
        elif record.attempt <= extension.attempt:
            self._refuse_resume("attempt seen before")
        elif self._strength < extension.strength:
            self._refuse_resume("weaker connection")
        elif checks.is_inner and session.uid != self._from_server:
            self._refuse_resume(f"a session of server {session.uid}, from server {self._from_server}")
        elif not extension.can_resume_from(record.received):
            self._refuse_resume("impossible count")
        else:
            extension.attempt = record.attempt
            self._over()
            connection = self._connection
            self._bind(session)
            answer = resumed(
                extension.ticket.resume_key,
                self._handshake_hash,
                record.session_id,
                extension.received,
                record.attempt,
            )
            checks.sessions.resumed(session)
            session.address = self._address
            extension.features = agreed.features
            session.resume_on(connection, record.received, control_frame(answer))
            checks.admission.login_succeeded(session.address)
            log.info("resumed", uid=session.uid, address=connection.address, attempt=record.attempt)
            if self._pending:
                session.receive(self._pending)
            connection.resume(Pause.UNVERIFIED)

    def _refuse_resume(self, why: str) -> None:
        """All the same to the peer, whatever was wrong."""
        quiet.info("resume refused", address=self._address, reason=why)
        self._refuse("resume-refused", CloseCode.RESUME_REFUSED)

    # -- the check --

    def _request(self, frame: Frame) -> ClientVerifyRequest:
        """The request in a connection's first frame. Raises ProtocolError."""
        id, flags, body = frame
        context = self._checks.context
        if self._checks.sealed_only and not self._is_sealed:
            raise ProtocolError("a plain login at a listener that takes sealed connections only (sealed_only)")
        if id != VERIFY_REQUEST:
            raise ProtocolError(f"first message has id {id}; it must be ClientVertifyReq ({VERIFY_REQUEST})")
        request: ClientVerifyRequest = context.catalog.by_id[VERIFY_REQUEST].decode(
            context.coder.open(flags, body, context.limits.max_frame_unverified)
        )
        if request.source and not self._checks.is_inner:
            raise ProtocolError(f"source {request.source} says it is a server; a client listener takes 0")
        if self._checks.is_inner and (not request.source or request.uid != self._from_server):
            raise ProtocolError(
                f"source {request.source}, uid {request.uid} in a handshake of server {self._from_server}; "
                "a server says its type, 1 to 255, and its id"
            )
        size = len(request.token.encode("utf-8", "surrogateescape"))
        if size > context.limits.max_token:
            raise BodyError(f"token of {size} bytes is over {context.limits.max_token} (limits.max_token)")
        return request

    async def _verify(self, request: ClientVerifyRequest) -> None:
        checks = self._checks
        address = self._address
        epoch = 0
        try:
            async with asyncio.timeout(checks.context.limits.token_timeout):
                token = request.token.encode("utf-8", "surrogateescape")
                identity = await self._identity(token, request.uid, request.source)
                if identity.uid != request.uid:
                    raise VerifyError(f"the token is of uid {identity.uid}, not of {request.uid}")
                self.uid = request.uid
                proofs = () if checks.is_inner else checks.sessions.proofs_of(token)
                epoch = await checks.sessions.claim(request.uid, self._slot, proofs)
            if self in checks.logins:  # else this was cancelled, and `verify` went on regardless
                self._admit(request, identity, epoch, proofs)
        except VerifyError as error:
            quiet.info("login refused", uid=request.uid, address=address, reason=str(error))
            if self.uid is None:
                self._failed()
            self._refuse("verify-failed", CloseCode.VERIFY_FAILED, checks.context.in_form(VERIFY_FAILED_FRAME))
        except TimeoutError:
            quiet.error("tokens did not answer", uid=request.uid, seconds=checks.context.limits.token_timeout)
            self._refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        except GatelinkError as error:  # as the engine's: its words are enough
            quiet.error("login impossible", uid=request.uid, error=f"{type(error).__name__}: {error}")
            self._refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        except Exception as error:
            quiet.error("login failed", uid=request.uid, exc_info=error)
            self._refuse("tokens-unavailable", CloseCode.INTERNAL_ERROR)
        finally:
            if epoch:
                checks.sessions.release(request.uid, self._slot, epoch)

    async def _identity(self, token: bytes, uid: int, source: int) -> Identity:
        """What the tokens say, and how long they took to say it."""
        started = time.perf_counter()
        try:
            return await invoke(self._checks.tokens.verify, token, uid, source, self._address)
        finally:
            self._checks.context.stats.token_seconds.observe(time.perf_counter() - started)

    def _admit(self, request: ClientVerifyRequest, identity: Identity, epoch: int, proofs: tuple[bytes, ...]) -> None:
        """Makes the session, and has it hear what the peer sent meanwhile."""
        checks = self._checks
        context = checks.context
        connection = self._connection
        extension = None
        if self._agreed is not None:
            extension = Extension(
                self._agreed.features,
                context.limits,
                accepting=True,
                strength=self._strength,
                rtts=None if checks.is_inner else context.stats.rtt,
            )
        session = Session(
            context,
            checks.sessions,
            checks.handlers,
            connection,
            uid=request.uid,
            slot=self._slot,
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
        replaced = checks.sessions.get(session.uid, session.slot)
        backlog = checks.sessions.install(session)
        self._over()
        if not checks.is_inner:
            context.stats.verified += 1
        session.returned = backlog is not None
        answer = ClientVerifySucceeded(
            source=checks.source, uid=request.uid, source_id=checks.id, type=int(session.returned)
        )
        greeting = context.in_form(
            encode_frame(VERIFY_SUCCEEDED, context.catalog.by_id[VERIFY_SUCCEEDED].encode(answer))
        )
        if extension is not None and extension.window is not None:
            greeting += checks.sessions.issue_ticket(session, checks.resume_at)
        connection.write(greeting)
        self._bind(session)
        if backlog is not None:
            session.adopt(backlog.frames)
        checks.admission.login_succeeded(session.address)
        log.info("verified", uid=session.uid, address=session.address, back=session.returned)
        if replaced is None:
            self._begin(session)
        else:
            self._begin_after(replaced, session)

    def _begin(self, session: Session) -> None:
        """The handlers hear of the session, and what it sent meanwhile."""
        session.open()
        if self._pending and self._connection.state is ConnectionState.BOUND:  # else it will all be sent again
            session.receive(self._pending)
        self._connection.resume(Pause.UNVERIFIED)

    def _begin_after(self, replaced: Session, session: Session) -> None:
        """Lets the handlers hear the end of the older login before the begin of the newer one.

        One of them may be at it for long: it is given limits.close_timeout.
        """
        session.pause(Pause.OPENING)
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                self._checks.context.wheel.cancel(deadline)
                session.resume(Pause.OPENING)
                self._begin(session)

        deadline = self._checks.context.wheel.call(self._checks.context.limits.close_timeout, begin)
        replaced.after_handlers(begin)

    def _bind(self, session: Session) -> None:
        """The connection is the session's from now on; what it may send in time is the session's, too."""
        limits = self._checks.context.limits
        if session.meter is None and not self._checks.is_inner and not self._checks.admission.is_exempt(self._address):
            session.meter = Meter(session, session.context.wheel, limits, session.context.stats)
        self._connection.bind(session, limits.max_frame, limits.turn_frames, session.meter)

    def _failed(self) -> None:
        """What came could not be verified, by its own fault."""
        self._checks.admission.login_failed(self._address)

    def _refuse_limit(self) -> None:
        self._failed()
        why = "more came before the login was through than limits.max_unverified_frames or max_unverified_bytes"
        self._refuse("unverified-limit", CloseCode.PROTOCOL_ERROR, why=why)

    def _refuse(self, reason: str, code: CloseCode, answer: bytes = b"", why: str = "") -> None:
        """Closes the connection, after `answer`, and CLOSE with `code` if we have answered a HELLO or HANDSHAKE.

        Where there is nothing to say it is dropped; else the peer has a moment to read it.
        """
        context = self._checks.context
        if self not in self._checks.logins:
            return
        self._checks.admission.note_refusal(reason, self._address, why)
        if self._agreed is not None:
            answer += close_frame(code)
        self._over()
        if not answer:
            self._connection.drop()
            return
        self._connection.write(answer)
        if self._agreed is None:  # a base client hears its answer first, and then the end
            self._connection.discard_input()
            context.wheel.call(context.limits.base_linger, self._close_refused)
        else:
            self._close_refused()

    def _close_refused(self) -> None:
        self._connection.close()
        context = self._checks.context
        context.wheel.call(context.limits.close_timeout, self._connection.abort)

    def _over(self) -> None:
        """The check has ended, one way or the other."""
        self._checks.admission.credentials_received(self._connection)
        self._checks.context.wheel.cancel(self)
        self._checks.logins.discard(self)
        self._connection.receiver = NULL_RECEIVER
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


_HTTP = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC", b"PRI ")
_BEGINNINGS = {
    b"\x16\x03": "TLS; this listener is plain, write its endpoint as tls://, or dial it as tcp://",
    b"PROX": "a PROXY header; give this listener `proxies`",
    b"\r\n\r\n": "a PROXY header; give this listener `proxies`",
    b"SSH-": "SSH",
    **dict.fromkeys(_HTTP, "an HTTP request"),
}
"""What others send first where a frame's header is due."""


def looks_like(head: bytes) -> str:
    """What a peer speaks whose first bytes make no frame, for the log; "" if nobody knows."""
    for start, name in _BEGINNINGS.items():
        if head.startswith(start):
            return f"; it begins as {name}"
    return ""
