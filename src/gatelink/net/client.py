"""The connecting side: `connect` gives the same `Session` as a server has, for players, robots and servers.

session = await connect("tcp://127.0.0.1:7000", uid=7, token=token, handlers=handlers)
session.send(Say("hello"))
"""

import asyncio
import random
import ssl
from collections.abc import Iterator
from time import time

import msgspec

from gatelink.config import Limits, WireOptions
from gatelink.errors import CloseCode, ConfigError, ConnectError, PeerError, ProtocolError
from gatelink.handlers import Handlers
from gatelink.net.connection import DEAF, Connection
from gatelink.net.endpoints import Endpoint, failure, parse_endpoint
from gatelink.session.hub import Hub
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.base import (
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.frames import Frame, FrameDecoder, encode_frame
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

CLIENT_LIMITS = Limits(max_frame=4 * 1_048_576)
"""A server is trusted with larger messages than a player."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before each attempt to reconnect: a random part of a time that doubles ("full jitter").

    first, most: seconds; attempts: after so many in a row the session ends.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int = 20

    def delays(self) -> Iterator[float]:
        """The seconds to wait before each attempt."""
        longest = self.first
        for _ in range(self.attempts):
            yield random.uniform(0, longest)
            longest = min(longest * 2, self.most)


async def connect(
    endpoint: str,
    *,
    uid: int,
    token: str,
    handlers: Handlers | None = None,
    source: int = 0,
    timeout: float = 10.0,  # noqa: ASYNC109 - one number for dialling and verification is what callers want
    reconnect: Backoff | None = None,
    tls: ssl.SSLContext | None = None,
    catalog: Catalog = default_catalog,
    limits: Limits = CLIENT_LIMITS,
    wire: WireOptions | None = None,
) -> Session:
    """A verified session with the server at `endpoint` (tcp://, tls:// or unix://).

    handlers: what its messages call; events `on_verified`, `on_closed`, and with `reconnect` also `on_suspended` and
    `on_resumed`. timeout: seconds for dialling and verification together.
    reconnect: when the connection breaks, dial again with these delays; what is sent meanwhile waits, in order, but
    what was on its way when it broke may be lost. tls: for tls://, instead of the system's trust store.

    Raises ConnectError: unreachable, refused (`code` VERIFY_FAILED) or not in time; ConfigError for a bad endpoint.
    """
    hub = _hub(catalog, limits, wire or WireOptions())
    request = ClientVerifyRequest(source=source, uid=uid, token=token)
    dialer = Dialer(hub, parse_endpoint(endpoint), request, handlers or Handlers(catalog), timeout, reconnect, tls)
    try:
        return await dialer.dial()
    except BaseException:
        dialer.abandon()
        raise


class Dialer:
    """Dials for one session: its owner, and the sink of each new connection until the server has answered."""

    accepting = False

    def __init__(
        self,
        hub: Hub,
        endpoint: Endpoint,
        request: ClientVerifyRequest,
        handlers: Handlers,
        seconds: float,
        backoff: Backoff | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        if endpoint.scheme == "tls" and tls is None:
            tls = ssl.create_default_context()
        elif endpoint.scheme != "tls" and tls is not None:
            raise ConfigError(f"a TLS context for {endpoint}; write the endpoint as tls://")
        self._hub = hub
        self._endpoint = endpoint
        self._request = request
        self._handlers = handlers
        self._timeout = seconds
        self._backoff = backoff
        self._tls = tls
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._answer: asyncio.Future[Session]
        self._redial: asyncio.Task[None] | None = None

    async def dial(self) -> Session:
        """Connects and verifies; the session, which is `OPEN`. Raises ConnectError."""
        loop = self._hub.loop
        endpoint = self._endpoint
        self._answer = loop.create_future()
        try:
            async with asyncio.timeout(self._timeout):
                if endpoint.scheme == "unix":
                    await loop.create_unix_connection(self._make, endpoint.path)
                else:
                    await loop.create_connection(self._make, endpoint.host, endpoint.port, ssl=self._tls)
                return await self._answer
        except TimeoutError:
            raise ConnectError(f"{endpoint}: not verified within {self._timeout} s", CloseCode.VERIFY_TIMEOUT) from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{endpoint}: {failure(error)}") from error
        finally:
            if self._connection is not None:  # not bound to the session: nobody else would close it
                self._connection.drop()
                self._connection = None

    def abandon(self) -> None:
        """`dial` failed, or was cancelled in the very moment in which it succeeded: nobody will have the session."""
        if self._session is not None:
            self._session.abort()

    def _make(self) -> Connection:
        limits = self._hub.limits
        decoder = FrameDecoder(limits.max_frame, limits.turn_frames, limits.turn_bytes)
        return Connection(decoder, self._made)

    def _made(self, connection: Connection) -> None:
        if self._answer.done():  # it came too late
            connection.drop()
            return
        self._connection = connection
        connection.sink = self
        connection.transport.set_write_buffer_limits(self._hub.limits.write_high_water)
        kind = self._hub.catalog.by_id[VERIFY_REQUEST]
        flags, body = self._hub.coder.close(kind, kind.encode(self._request))
        connection.write(encode_frame(VERIFY_REQUEST, body, flags))

    # -- from a connection that is not verified yet (Sink) --

    def receive(self, frames: list[Frame]) -> None:
        id, flags, body = frames[0]
        if id == VERIFY_FAILED:
            self._fail(ConnectError(f"{self._endpoint}: the server refused the token", CloseCode.VERIFY_FAILED))
            return
        try:
            if id != VERIFY_SUCCEEDED:
                raise ProtocolError(f"answered with message {id}, not with ClientVertifySucceedRet")
            answer: ClientVerifySucceeded = self._hub.catalog.by_id[id].decode(self._hub.open_body(flags, body))
            if answer.uid != self._request.uid:
                raise ProtocolError(f"verified uid {answer.uid}, not {self._request.uid}")
        except PeerError as error:
            self.broken(error)
            return
        self._verified(frames[1:])

    def waiting(self, buffered: int) -> None: ...

    def writable(self) -> None: ...

    def broken(self, error: PeerError) -> None:
        self._fail(ConnectError(f"{self._endpoint}: {error}", error.code))

    def lost(self, error: Exception | None) -> None:
        self._fail(ConnectError(f"{self._endpoint}: the server closed the connection before it verified us"))

    def _fail(self, error: ConnectError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)

    def _verified(self, frames: list[Frame]) -> None:
        connection = self._connection
        assert connection is not None
        self._connection = None
        hub = self._hub
        session = self._session
        if session is None:
            session = self._session = Session(
                hub,
                self,
                self._handlers,
                connection,
                uid=self._request.uid,
                source=self._request.source,
                address=connection.address or "",
                verified_at=time(),
            )
            connection.bind(session, hub.limits.max_frame, hub.limits.turn_frames)
            session.open()
        elif session.state is SessionState.DETACHED:
            connection.bind(session, hub.limits.max_frame, hub.limits.turn_frames)
            session.attach(connection)
        else:  # it was closed while we dialled
            connection.sink = DEAF
            connection.abort()
            self._fail(ConnectError("closed meanwhile"))
            return
        if frames:
            session.receive(frames)
        if not self._answer.done():
            self._answer.set_result(session)

    # -- the session's owner (session.Owner) --

    def broke(self, session: Session, code: CloseCode) -> bool:
        if self._backoff is None:
            return False
        self._redial = self._hub.loop.create_task(self._dial_again(session, self._backoff))
        return True

    def ended(self, session: Session) -> None:
        if self._redial is not None and self._redial is not asyncio.current_task():
            self._redial.cancel()
        self._redial = None

    def gone(self, session: Session) -> None: ...

    async def _dial_again(self, session: Session, backoff: Backoff) -> None:
        for seconds in backoff.delays():
            await asyncio.sleep(seconds)
            try:
                await self.dial()
            except ConnectError as error:
                if error.code is CloseCode.VERIFY_FAILED:
                    session.close(CloseCode.VERIFY_FAILED, "the server refused the token")
            if session.state is not SessionState.DETACHED:
                return
        session.close(CloseCode.GOING_AWAY, f"not connected again after {backoff.attempts} attempts")


_hubs: dict[asyncio.AbstractEventLoop, dict[tuple[int, Limits, WireOptions], Hub]] = {}


def _hub(catalog: Catalog, limits: Limits, wire: WireOptions) -> Hub:
    """The hub that all sessions of this loop with the same settings share."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        for old in [old for old in _hubs if old.is_closed()]:
            del _hubs[old]
        _hubs[loop] = {}
    hubs = _hubs[loop]
    key = (id(catalog), limits, wire)
    if key not in hubs:
        hubs[key] = Hub(loop, catalog, limits, wire)
    return hubs[key]
