"""The login check: what happens to a connection between accept and verified (docs/protocol.md, "Base messages").

The first message is ClientVertifyReq, before an absolute deadline and within the limits for the unverified; anything
else is closed without a word. Whoever is verified gets a `Session`; nothing that another session has is touched before.
"""

import asyncio
import time
from typing import Protocol

import structlog

from gatelink.auth.tokens import Identity, Tokens
from gatelink.config import Limits
from gatelink.errors import BodyError, FrameTooLarge, PeerError, ProtocolError, VerifyError
from gatelink.net.connection import DEAF, Connection
from gatelink.session.hub import Hub
from gatelink.session.manager import SessionManager
from gatelink.session.session import Dispatcher, Session
from gatelink.session.timers import Item
from gatelink.wire.base import (
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.frames import CONTROL, Frame, encode_frame

log = structlog.get_logger("gatelink.login")

VERIFY_FAILED_FRAME = encode_frame(VERIFY_FAILED, b"")


class Door(Protocol):
    """What the login check needs of its server."""

    hub: Hub
    tokens: Tokens
    sessions: SessionManager
    id: int
    logins: "set[Login]"

    @property
    def handlers(self) -> Dispatcher: ...


class Login(Item):
    """One connection's login check; the connection's sink until it is over.

    until: the loop's time at which it ends without an answer.
    """

    __slots__ = ("_connection", "_door", "_pending", "_task")

    def __init__(self, door: Door, connection: Connection, until: float) -> None:
        self._tick = 0
        self._door = door
        self._connection = connection
        self._pending: list[Frame] = []  # sent before the answer; at most limits.max_unverified_frames
        self._task: asyncio.Task[None] | None = None
        connection.sink = self
        door.logins.add(self)
        door.hub.stats.unverified += 1
        door.hub.wheel.set(self, until - door.hub.loop.time())

    # -- from the connection (Sink) --

    def receive(self, frames: list[Frame]) -> None:
        limits: Limits = self._door.hub.limits
        self._pending += frames
        size = sum(len(frame[2]) for frame in self._pending) + self._connection.buffered
        if len(self._pending) > limits.max_unverified_frames or size > limits.max_unverified_bytes:
            self._refuse("unverified-limit")
        elif self._task is None:
            try:
                request = self._request(self._pending.pop(0))
            except PeerError as error:
                self.broken(error)
                return
            self._task = self._door.hub.loop.create_task(self._verify(request))

    def waiting(self, buffered: int) -> None:
        if buffered > self._door.hub.limits.max_unverified_bytes:
            self._refuse("unverified-limit")

    def broken(self, error: PeerError) -> None:
        self._refuse("frame-too-large" if isinstance(error, FrameTooLarge) else "wrong-first-message")

    def writable(self) -> None: ...

    def lost(self, error: Exception | None) -> None:
        self._door.hub.stats.refused["left-unverified"] += 1
        self._over()

    def on_deadline(self, now: float) -> None:
        self._refuse("verify-timeout")

    def stop(self) -> None:
        """The server stops; who is not verified by now has to come again."""
        self._refuse("stopping")

    # -- the check --

    def _request(self, frame: Frame) -> ClientVerifyRequest:
        """The request in a connection's first frame. Raises ProtocolError."""
        id, flags, body = frame
        hub = self._door.hub
        if id != VERIFY_REQUEST or flags & CONTROL:
            raise ProtocolError(f"first message has id {id}; it must be ClientVertifyReq ({VERIFY_REQUEST})")
        request: ClientVerifyRequest = hub.catalog.by_id[VERIFY_REQUEST].decode(
            hub.coder.open(flags, body, hub.limits.max_frame_unverified)
        )
        if request.source:
            raise ProtocolError(f"source {request.source} says it is a server; a client listener takes 0")
        size = len(request.token.encode("utf-8", "surrogateescape"))
        if size > hub.limits.max_token:
            raise BodyError(f"token of {size} bytes is over {hub.limits.max_token} (limits.max_token)")
        return request

    async def _verify(self, request: ClientVerifyRequest) -> None:
        door = self._door
        address = self._connection.address or ""
        epoch = 0
        try:
            async with asyncio.timeout(door.hub.limits.token_timeout):
                token = request.token.encode("utf-8", "surrogateescape")
                identity = await door.tokens.verify(token, request.uid, request.source, address)
                if identity.uid != request.uid:
                    raise VerifyError(f"the token is of uid {identity.uid}, not of {request.uid}")
                epoch = await door.sessions.claim(request.uid)
            if self in door.logins:  # else this was cancelled, and `verify` went on regardless
                self._admit(request, identity, epoch)
        except VerifyError as error:
            log.info("login refused", uid=request.uid, address=address, reason=str(error))
            self._refuse("verify-failed", VERIFY_FAILED_FRAME)
        except TimeoutError:
            log.error("tokens did not answer", uid=request.uid, seconds=door.hub.limits.token_timeout)
            self._refuse("tokens-unavailable")
        except Exception as error:
            log.error("login failed", uid=request.uid, exc_info=error)
            self._refuse("tokens-unavailable")
        finally:
            if epoch:
                door.sessions.release(request.uid, 0, epoch)

    def _admit(self, request: ClientVerifyRequest, identity: Identity, epoch: int) -> None:
        """Makes the session, and has it hear what the peer sent meanwhile."""
        door = self._door
        hub = door.hub
        connection = self._connection
        session = Session(
            hub,
            door.sessions,
            door.handlers,
            connection,
            uid=request.uid,
            epoch=epoch,
            source=request.source,
            address=connection.address or "",
            claims=identity.claims or None,
            verified_at=time.time(),
        )
        backlog = door.sessions.install(session)
        self._over()
        back = backlog is not None
        answer = ClientVerifySucceeded(source=request.source, uid=request.uid, source_id=door.id, type=int(back))
        connection.write(encode_frame(VERIFY_SUCCEEDED, hub.catalog.by_id[VERIFY_SUCCEEDED].encode(answer)))
        connection.bind(session, hub.limits.max_frame, hub.limits.turn_frames)
        for frame in backlog.frames if backlog is not None else ():
            session.send_frame(frame)
        session.open()
        log.info("verified", uid=session.uid, address=session.address, back=back)
        if self._pending:
            session.receive(self._pending)

    def _refuse(self, reason: str, answer: bytes = b"") -> None:
        """Closes the connection: without a word, or after `answer` and a moment for the peer to read it."""
        hub = self._door.hub
        if self not in self._door.logins:
            return
        hub.stats.refused[reason] += 1
        self._over()
        if not answer:
            self._connection.drop()
            return
        self._connection.write(answer)
        self._connection.close()
        hub.wheel.call(hub.limits.close_timeout, self._connection.abort)

    def _over(self) -> None:
        """The check has ended, one way or the other."""
        self._door.hub.wheel.cancel(self)
        self._door.logins.discard(self)
        self._door.hub.stats.unverified -= 1
        self._connection.sink = DEAF
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
