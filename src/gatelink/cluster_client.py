"""The client of a whole cluster: it logs in over HTTP, and stays connected whatever happens to one gateway.

    client = await connect_cluster("https://login.example.com", guest=device_id, handlers=handlers)
    client.send(Say("hello"))

A broken connection is resumed at its gateway, as `connect(resume=True)` does. If the gateway is gone or refuses, the
client logs in again and begins a new session, at a gateway that the login service names.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from random import random
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from gatelink import tasks
from gatelink.config import Limits, WireOptions
from gatelink.errors import (
    CloseCode,
    ConfigError,
    ConnectError,
    GatelinkError,
    LocalError,
    RequestCode,
    RequestFailed,
    SessionClosed,
)
from gatelink.handlers import Handlers
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.client import CLIENT_LIMITS, connect
from gatelink.net.dialer import PASSING, SHORT_LIFE, Backoff
from gatelink.net.endpoints import parse_endpoint
from gatelink.session.outbox import Full, Outbox, OutboxFull
from gatelink.session.renewal import LEAST_INTERVAL
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.control import Lost
from gatelink.wire.frames import Frame
from gatelink.wire.keys import KEY_SIZE, check_public_key
from gatelink.wire.messages import Catalog, Request
from gatelink.wire.messages import catalog as default_catalog

if TYPE_CHECKING:
    from gatelink.login.client import LoginClient
    from gatelink.login.messages import LoginReply
    from gatelink.login.source import LoginSource

quiet = RateLimitedLogger(Logger("gatelink.client"))

_A = TypeVar("_A")

RESUMING = Backoff(first=0.25, most=5.0, attempts=60)
"""The delays between attempts to resume a session. They last longer than its ticket."""

RESTARTING = frozenset(
    {
        CloseCode.HEARTBEAT_TIMEOUT,
        CloseCode.GOING_AWAY,
        CloseCode.RESUME_REFUSED,
        CloseCode.TOKEN_EXPIRED,
        CloseCode.UNEXPLAINED,
    }
)
"""Codes of a session's end after which the client logs in again. All others are final."""

SECURE = ("tls", "tcp", "unix", "wss", "ws")
"""The order in which addresses without a key, or with a trust store of the caller's, are taken."""

SEALED = ("tcp", "tls", "unix", "ws", "wss")
"""The order with a key: sealing protects as TLS does, for less."""

DIALLING = 5.0  # s for one dial and login at a gateway
CHECK = 3.0  # s between two questions whether the gateway of a suspended session is still there
FRESH = 0.75  # the part of a token's life after which it is renewed; up to SPREAD of that earlier, at random
SPREAD = 0.1


class ClusterClient:
    """One user at a cluster of gateways, made by `connect_cluster`.

    session: the newest session, which may be suspended or have ended; its `uid`, `claims` and `rtt` are the user's.
    close_code, close_reason: why the client ended; None and "" while it has not.
    """

    def __init__(
        self,
        source: "LoginSource",
        handlers: Handlers,
        *,
        slot: int,
        reconnect: Backoff,
        tls: ssl.SSLContext | None,
        catalog: Catalog,
        limits: Limits,
        wire: WireOptions | None,
        server_key: bytes | None,
        transports: Sequence[str],
    ) -> None:
        self.session: Session
        self.close_code: CloseCode | None = None
        self.close_reason = ""
        self._source = source
        self._handlers = handlers
        self._events = _Events(self, handlers)
        self._slot = slot
        self._reconnect = reconnect
        self._tls = tls
        self._catalog = catalog
        self._limits = limits
        self._wire = wire
        self._server_key = server_key
        self._transports = transports
        self._waiting = Outbox(limits.max_outbox_frames, limits.max_outbox_bytes)  # while there is no session
        self._reply: LoginReply
        self._has_begun = False
        self._began_at = 0.0  # of the session, by the wheel's clock
        self._short_lives = 0  # sessions in a row that ended within SHORT_LIFE
        self._resumes = True  # as far as is known, gateways resume sessions
        self._is_suspended = False
        self._doubtful = 0  # messages that were on their way when sessions ended, until `on_lost` tells them
        self._back: asyncio.Future[None] | None = None  # done when there is a session again, or none will be
        self._turn = asyncio.Event()  # wakes `_live`: the session has ended, or was suspended
        self._stale = asyncio.Event()  # the token is to be renewed now
        self._logging_in = asyncio.Lock()  # a login ends the token of the one before, which must be in use by then
        self._life: asyncio.Task[None] | None = None
        self._freshening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- for the application --

    def send(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Queue `message`, as `Session.send`. While there is no connection it waits, in order, within the limits.

        Messages that waited for a session that could not be resumed go to the next one. Those on their way may be
        lost. If too much waits, the client ends with 4006.

        Raises SessionClosed if the client has ended; and what `Session.send` raises.
        """
        if self._is_live:
            self.session.send(message, key=key, full=full)
            return
        self._check_open()
        frame = self.session.context.encoder(type(message)).frame(message)
        try:
            self._waiting.push(frame, full, key)
        except OutboxFull as error:
            self._end(error.code, str(error), handle_rest=True)
            raise SessionClosed(error.code, str(error)) from None

    @overload
    async def request(self, message: Request[_A], *, timeout: float = 10.0) -> _A: ...  # noqa: ASYNC109

    @overload
    async def request(self, message: object, *, timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    async def request(self, message: Any, *, timeout: float = 10.0) -> Any:  # noqa: ASYNC109 - goes with the request
        """Send a request and return its answer, as `Session.request`.

        While the client logs in again, a request waits for the new session, and is sent behind the waiting messages.
        Requests that are under way when a session ends fail with CLOSED: the server may have handled them.
        """
        if self._is_live:
            return await self.session.request(message, timeout=timeout)
        if self.close_code is not None:
            raise RequestFailed(RequestCode.CLOSED, reason="the client has ended")
        if self._back is None:
            self._back = asyncio.get_running_loop().create_future()
        clock = self.session.context.wheel.clock
        until = clock() + timeout
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._back)
        except TimeoutError:
            raise RequestFailed(RequestCode.TIMEOUT, reason="there was no session in time") from None
        if self.close_code is not None:
            raise RequestFailed(RequestCode.CLOSED, reason="the client has ended")
        return await self.session.request(message, timeout=max(0.001, until - clock()))

    async def close(self) -> None:
        """End the session as `Session.close` does, and wait until nothing of the client is left."""
        if self.close_code is None:
            if self._is_live:
                self.session.close()
            self._end(CloseCode.NORMAL, "", handle_rest=False)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the client has ended, and nothing of it is left."""
        if self._life is not None:
            await asyncio.wait([self._life])
        await self.session.wait_closed()
        await self._source.close()  # once more, if its task was cancelled before it began

    @property
    def _is_live(self) -> bool:
        return self.session.close_code is None

    def _check_open(self) -> None:
        if self.close_code is not None:
            raise SessionClosed(self.close_code, self.close_reason)

    # -- logging in --

    async def begin(self, timeout: float) -> None:  # noqa: ASYNC109 - as `connect`
        """The first login; see `connect_cluster`."""
        failed: GatelinkError | None = None
        least = 0.0
        try:
            async with asyncio.timeout(timeout):
                for seconds in chain([0.0], self._reconnect.delays()):
                    await asyncio.sleep(max(least, seconds))
                    try:
                        await self._log_in()
                        break
                    except GatelinkError as error:
                        failed = error
                        least = _wait_after(error)
                        quiet.info("not logged in yet", error=str(error))
                else:
                    raise failed or ConnectError("not connected")
        except TimeoutError:
            await self._source.close()
            raise failed or ConnectError(f"not connected within {timeout:g} s", CloseCode.VERIFY_TIMEOUT) from None
        except BaseException as error:
            await self._source.close()
            if isinstance(error, asyncio.CancelledError) and failed is not None:
                raise error from failed  # what the last attempt met
            raise
        self._life = tasks.keep(self._live(), "keeping a client connected")

    async def _log_in(self) -> None:
        """Log in, and begin a session at the gateway that the login names, or else at another one."""
        reply = await self._source.login()
        try:
            await self._dial(reply)
        except ConnectError as error:
            if _is_refusal(error):
                raise
            for other in await self._source.others(reply):
                try:
                    return await self._dial(other)
                except ConnectError as further:
                    if _is_refusal(further):
                        raise
            raise

    async def _dial(self, reply: "LoginReply") -> None:
        key = self._server_key or _key_of(reply)
        usual = SECURE if self._tls is not None or key is None else SEALED
        address = _address_of(reply, self._transports or usual)
        is_tls = address.startswith(("tls://", "wss://"))
        self._reply = reply
        try:
            await self._connect(address, reply, key, self._resumes and (key is not None or is_tls))
        except ConnectError as error:
            if error.code is not CloseCode.RESUME_REFUSED or not self._resumes:
                raise
            self._resumes = False  # a proxy ends TLS before the gateway, for example
            await self._connect(address, reply, key, False)

    async def _connect(self, address: str, reply: "LoginReply", key: bytes | None, resume: bool) -> None:
        await connect(
            address,
            uid=reply.uid,
            token=reply.token,
            handlers=self._events,
            timeout=DIALLING,
            reconnect=RESUMING if resume else None,
            tls=self._tls if address.startswith(("tls://", "wss://")) else None,
            catalog=self._catalog,
            limits=self._limits,
            wire=self._wire,
            server_key=key,
            slot=self._slot,
            resume=resume,
        )

    # -- what happens to its sessions --

    def opened(self, session: Session) -> None:
        """Take a new session: the first one opens the client, a later one gets the waiting messages."""
        self.session = session
        self._began_at = session.context.wheel.clock()
        session.expires_at = self._reply.expires_at or None
        if not self._has_begun:
            self._has_begun = True
            self._handlers.opened(session)
            return
        self._is_suspended = False
        self._handlers.restarted(session)
        doubtful, self._doubtful = self._doubtful, 0
        if doubtful:
            self._handlers.lost(session, Lost(0, doubtful, 0))
        session.adopt(self._waiting.drain())
        self._release_requests()

    def suspended(self, session: Session) -> None:
        """Report once that there is no connection. `connect` tries to resume the session meanwhile."""
        if session is self.session and not self._is_suspended:
            self._is_suspended = True
            self._turn.set()
            self._handlers.suspended(session)

    def resumed(self, session: Session) -> None:
        """The session has a connection again."""
        self._is_suspended = False
        self._handlers.resumed(session)

    def ended(self, session: Session, handle_rest: bool) -> None:
        """Log in again after a session's end, or end the client if the code is final."""
        code = session.close_code or CloseCode.NORMAL
        if self.close_code is None and (
            code in RESTARTING or (session.closed_by_peer and code is CloseCode.SLOW_CONSUMER)
        ):
            self._doubtful += session.unacknowledged
            self._waiting.adopt(session.take_unsent())
            self.suspended(session)
            self._turn.set()
        else:
            self._end(code, session.close_reason, handle_rest)

    def expiring(self, session: Session) -> None:
        """Renew the login now, as the server warns that it ends soon."""
        self._stale.set()
        self._handlers.expiring(session)

    def _end(self, code: CloseCode, reason: str, handle_rest: bool) -> None:
        """End the client."""
        if self.close_code is not None:
            return
        self.close_code, self.close_reason = code, reason
        self._waiting.drain()
        if self._freshening is not None:
            self._freshening.cancel()
        if self._life is not None and self._life is not asyncio.current_task():
            self._life.cancel()
        self._release_requests()
        self.session.close_code, self.session.close_reason = code, reason
        self._handlers.closed(self.session, handle_rest)

    def _release_requests(self) -> None:
        back, self._back = self._back, None
        if back is not None and not back.done():
            back.set_result(None)

    # -- its life --

    async def _live(self) -> None:
        """Log in again whenever a session has ended, until the client ends."""
        self._freshening = tasks.live(self._keep_fresh, "keeping a login fresh")
        try:
            while self.close_code is None:
                await self._turn.wait()
                self._turn.clear()
                if self.session.state is SessionState.DETACHED:
                    await self._watch_gateway(self.session)
                if self.session.close_code is not None and self.close_code is None:
                    await self._restart()
        except Exception as error:
            self._end(CloseCode.INTERNAL_ERROR, f"a fault of the client: {type(error).__name__}", handle_rest=True)
            raise
        finally:
            await tasks.cancel_and_wait(self._freshening)
            await self._source.close()

    async def _watch_gateway(self, session: Session) -> None:
        """End a suspended session whose gateway is no longer registered, as no process can resume it."""
        from gatelink.login.client import LoginFailed

        while session.state is SessionState.DETACHED:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK * (0.5 + random())):
                    await self._turn.wait()
                    return
            with suppress(LoginFailed):  # the network of this side may be at fault
                if await self._source.has_moved_on(self._reply) and session.state is SessionState.DETACHED:
                    session.close(CloseCode.GOING_AWAY, "its gateway is no longer there")

    async def _restart(self) -> None:
        """Log in again, or end the client."""
        lived = self.session.context.wheel.clock() - self._began_at
        self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE else 0
        least = 0.0
        failed: GatelinkError | None = None
        # Even the first login waits: a gateway that dies sends all its clients here at once.
        for seconds in self._reconnect.delays(self._short_lives):
            await asyncio.sleep(max(least, seconds))
            try:
                async with self._logging_in:
                    return await self._log_in()
            except GatelinkError as error:
                failed = error
            try:
                least = _wait_after(failed)
            except GatelinkError:
                code = failed.code if isinstance(failed, ConnectError) and failed.code else CloseCode.VERIFY_FAILED
                return self._end(code, str(failed), handle_rest=True)
            quiet.info("not logged in again", uid=self.session.uid, error=str(failed))
        text = f"not logged in again by {self._reconnect.attempts} attempts: {failed}"
        self._end(CloseCode.GOING_AWAY, text, handle_rest=True)

    async def _keep_fresh(self) -> None:
        """Renew the login ahead of its end, and when the server warns of it."""
        while True:
            await self._wait_until_stale(self._fresh_for())
            self._stale.clear()
            async with self._logging_in:
                if self.session.state is SessionState.OPEN and self.session.renewal is not None:
                    try:
                        reply = await self._source.login()
                        await self.session.renew(reply.token)
                    except GatelinkError as error:
                        quiet.info("the login could not be renewed", uid=self.session.uid, error=str(error))
            await self._wait_until_stale(LEAST_INTERVAL * (1 + random()))

    async def _wait_until_stale(self, seconds: float | None) -> None:
        """Wait until the server warns, at most `seconds`. None: no limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stale.wait()

    def _fresh_for(self) -> float | None:
        """Seconds until the token should be renewed; None while its end is not known."""
        expires_at = self.session.expires_at
        left = expires_at - time.time() if expires_at is not None else 0.0
        return left * FRESH * (1 - SPREAD * random()) if left > 0 else None


class _Events:
    """The dispatcher of a client's sessions: messages go to the application's handlers, events to the client.

    The client turns the events of several sessions into those of one. It is a `Dispatcher` (session.interfaces).
    """

    def __init__(self, client: ClusterClient, handlers: Handlers) -> None:
        self._client = client
        self._handlers = handlers
        self.dispatch: Callable[[Session, list[Frame]], None] = handlers.dispatch
        self.inject: Callable[[Session, Any], None] = handlers.inject

    def opened(self, session: Session) -> None:
        self._client.opened(session)

    def suspended(self, session: Session) -> None:
        self._client.suspended(session)

    def resumed(self, session: Session) -> None:
        self._client.resumed(session)

    def renewed(self, session: Session) -> None:
        self._handlers.renewed(session)

    def expiring(self, session: Session) -> None:
        self._client.expiring(session)

    def lost(self, session: Session, lost: Lost) -> None:
        self._handlers.lost(session, lost)

    def closed(self, session: Session, handle_rest: bool) -> None:
        self._client.ended(session, handle_rest)


async def connect_cluster(
    login: "str | LoginClient",
    *,
    guest: str | None = None,
    user: str | None = None,
    password: str | None = None,
    uid: int | None = None,
    token: str | Callable[[], str | Awaitable[str]] | None = None,
    handlers: Handlers | None = None,
    slot: int = 0,
    timeout: float = 30.0,  # noqa: ASYNC109 - one number for login, dialling and verification is what callers want
    reconnect: Backoff | None = None,
    tls: ssl.SSLContext | None = None,
    catalog: Catalog = default_catalog,
    limits: Limits | None = None,
    wire: WireOptions | None = None,
    server_key: bytes | None = None,
    transports: Sequence[str] = (),
) -> ClusterClient:
    """A client that is logged in at the service `login` (docs/login.md) and connected to a gateway of its cluster.

    login: the service's URL; or a `LoginClient` that several clients share, and that the caller closes.
    One way to log in: guest, a device's secret; user and password; or uid and token, which is a text or a function,
    plain or async, that returns a fresh one each time, within 15 s. The client keeps them, as it logs in again by
    itself.

    handlers: called with the messages of all its sessions. Their events: `on_verified` for the first session;
    `on_suspended` when its connection breaks; then `on_resumed`, if the session goes on; or `on_restarted` with a new
    session, if that was not possible, and the server has forgotten the old one; `on_closed` when the client has ended:
    after `close`, a newer login, a kick, a refusal, or too many attempts in vain.

    timeout: seconds for the first login, which is tried again and again until then.
    reconnect: the delays between later logins; Backoff() by default. After so many attempts in a row the client ends.
    slot, limits, wire, catalog: as `connect`. tls: trust it for tls:// and wss://, not the system's trust store.
    server_key: the gateways' public key; by default the one that the login service gives with the address.

    transports: those to use, best first, of tcp, tls, ws, wss and unix. By default all, the WebSocket ones last. Give
    ("wss",) in a network that lets nothing else through.

    The connection is sealed if there is a key, else over TLS if the gateway offers it; such sessions are resumed. A
    session on a plain connection is followed by a new one.

    Raises LoginFailed if the service refuses, or gives no login in time; ConnectError likewise for the gateways;
    ConfigError for arguments that cannot be, and ModuleNotFoundError without the extra `client`.
    """
    from gatelink.login.source import LoginSource, credentials_of

    check_public_key(server_key)
    if not 0 <= slot <= 255:
        raise ConfigError(f"slot is {slot}; a user's devices are numbered 0 to 255")
    if unknown := set(transports) - set(SECURE):
        raise ConfigError(f"transports has {', '.join(sorted(unknown))}; there are {', '.join(SECURE)}")
    if not timeout > 0:
        raise ConfigError(f"timeout is {timeout}; give seconds above 0")
    client = ClusterClient(
        LoginSource(login, credentials_of(guest, user, password, uid, token), slot),
        handlers if handlers is not None else Handlers(catalog),
        slot=slot,
        reconnect=reconnect or Backoff(),
        tls=tls,
        catalog=catalog,
        limits=limits or CLIENT_LIMITS,
        wire=wire,
        server_key=server_key,
        transports=transports,
    )
    await client.begin(timeout)
    return client


def _key_of(reply: "LoginReply") -> bytes | None:
    """The gateway's public key, if it has one. Raises ConnectError."""
    try:
        key = bytes.fromhex(reply.public_key)
    except ValueError:
        key = b"?"
    if len(key) not in (0, KEY_SIZE):
        text = (
            f"the login service gave a public key of {len(reply.public_key)} characters, not {2 * KEY_SIZE} hex digits"
        )
        raise ConnectError(text)
    return key or None


def _address_of(reply: "LoginReply", transports: Sequence[str]) -> str:
    """The gateway's address over the first of `transports` that it has. Raises ConnectError."""
    for transport in transports:
        if address := reply.addresses.get(transport):
            try:
                parse_endpoint(address)
            except ConfigError as error:  # the service's fault, not the caller's: another gateway may do
                raise ConnectError(f"the login service gave an address that is none: {error}") from None
            return address
    found = ", ".join(reply.addresses) or "none"
    raise ConnectError(f"the gateway has no address over {', '.join(transports)}; the login service gave {found}")


def _is_refusal(error: GatelinkError) -> bool:
    """Whether a gateway refused the login for a reason that stays."""
    return isinstance(error, ConnectError) and error.code is not None and error.code not in PASSING


def _wait_after(error: GatelinkError) -> float:
    """Seconds to wait at least after a failed login. Raises `error` if another one would fail, too."""
    from gatelink.login.source import wait_of

    seconds = wait_of(error)
    if seconds is None or _is_refusal(error) or isinstance(error, LocalError):
        raise error
    return seconds
