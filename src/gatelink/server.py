"""A complete server: listeners, sessions and handlers, and how they start, run and stop together.

server = Server("tcp://127.0.0.1:7000", tokens=MemoryTokens())

@server.on(Say)
def say(session, message):
    server.sessions.broadcast(message)

server.run()
"""

import asyncio
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence, Set
from functools import partial
from time import perf_counter
from typing import Self

import msgspec
import structlog
import uvloop

from gatelink.auth.tokens import Tokens
from gatelink.config import Limits, WireOptions
from gatelink.errors import CloseCode, ConfigError
from gatelink.handlers import Handlers
from gatelink.net.connection import Connection
from gatelink.net.endpoints import Endpoint, parse_endpoint
from gatelink.net.listener import Accept, Admission, Listener
from gatelink.net.login import Login
from gatelink.ops import logs
from gatelink.ops.admin import Admin
from gatelink.session.carrier import Pause
from gatelink.session.hub import LAST_WORDS, Hub
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.stats import Stats
from gatelink.wire.handshake import Responder
from gatelink.wire.keys import ServerKey
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

log = structlog.get_logger("gatelink.server")

LEAST_GRACE = 0.1
"""Seconds that each `on_stop` function, and the last `closed` handlers together, have when the grace is over."""


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a server listens.

    certificate, key: PEM files, for a tls:// endpoint. proxies: networks of load balancers that send a PROXY protocol
    v2 header before each connection. accept: called with every `Connection` that the limits admit; False refuses
    it, `connection.hand_over(protocol)` takes it over.
    """

    endpoint: str
    certificate: str | None = None
    key: str | None = None
    proxies: tuple[str, ...] = ()
    accept: Accept | None = None

    def tls(self) -> ssl.SSLContext | None:
        """The context of a tls:// endpoint. Raises ConfigError for a certificate or key that does not load."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"listener {self.endpoint}: certificate {self.certificate}: {error}") from None
        return context


class Server:
    """A server of one process.

    listen: one endpoint or `Listen`, or several; `gatelink serve --listen` replaces them.
    tokens: how a token is checked. catalog: its messages; the default is what `@message` registers in.
    id: its server id, in ClientVertifySucceedRet. admin: "host:port" of /metrics and /healthz, None for none.
    tick_hz: 0 handles messages as they come; else they are handled that many times a second, then `on_tick` is called.
    duplicate: what a login does to an open session of the same user.
    keys: for sealed connections, the newest first; older ones serve clients that know only them. sealed_only: refuses
    plain logins. resume_plain: gives tickets on connections that are neither sealed nor TLS, too: for tests.

    Its table is `handlers`; `on`, `register`, `default` and the events `on_verified`, `on_closed`, `on_forward` are
    that table's, within reach.
    """

    def __init__(
        self,
        *listen: str | Listen,
        tokens: Tokens,
        catalog: Catalog = default_catalog,
        limits: Limits | None = None,
        wire: WireOptions | None = None,
        id: int = 0,
        admin: str | None = None,
        tick_hz: float = 0,
        duplicate: Duplicate = Duplicate.NEWER_WINS,
        keys: Sequence[ServerKey] = (),
        sealed_only: bool = False,
        resume_plain: bool = False,
    ) -> None:
        self.listen: tuple[str | Listen, ...] = listen
        self.tokens = tokens
        self.catalog = catalog
        self.limits = limits or Limits()
        self.wire = wire or WireOptions()
        self.id = id
        self.admin = admin
        self.tick_hz = tick_hz
        self.duplicate = duplicate
        if sealed_only and not keys:
            raise ConfigError("sealed_only without a key: give Server keys=[ServerKey...], made by `gatelink keys`")
        self.keys = tuple(keys)
        self.sealed_only = sealed_only
        self.resume_plain = resume_plain
        self.responder = Responder(keys, server_id=id)
        self.stats = Stats()
        self.handlers = handlers = Handlers(catalog)
        self.on = handlers.on
        self.register = handlers.register
        self.default = handlers.default
        self.on_verified = handlers.on_verified
        self.on_closed = handlers.on_closed
        self.on_suspended = handlers.on_suspended
        self.on_resumed = handlers.on_resumed
        self.on_forward = handlers.on_forward
        self.hub: Hub
        self._sessions: SessionManager | None = None
        self.logins: set[Login] = set()
        self._admission: Admission
        self._stopping: asyncio.Lock
        self._listeners: list[Listener] = []
        self._admin: Admin | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._on_tick: Callable[[float], None] | None = None
        self._on_start: list[Callable[[], Awaitable[None]]] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []
        self._to_stop: list[Callable[[], Awaitable[None]]] = []  # those that are due in this run
        self._running = False
        handlers.ticking = tick_hz > 0

    def on_tick(self, handler: Callable[[float], None]) -> Callable[[float], None]:
        """Decorator: `handler(seconds)`, a plain function, after each tick's messages; the time since the last tick."""
        self._on_tick = handler
        return handler

    def on_start(self, function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Decorator: `async def function()`, awaited before anything listens; what it raises, `start` raises."""
        self._on_start.append(function)
        return function

    def on_stop(self, function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Decorator: `async def function()`, awaited when all sessions are gone; also after a start that failed.

        It is cancelled when the grace of `stop` is over, but has at least 0.1 s.
        """
        self._on_stop.append(function)
        return function

    @property
    def sessions(self) -> SessionManager:
        """The sessions of this run, or of the last. Raises ConfigError before the first `start`."""
        if self._sessions is None:
            raise ConfigError("this server has not been started, so it has no sessions; use `sessions` after `start`")
        return self._sessions

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where it listens, with the ports that were taken."""
        return [listener.endpoint for listener in self._listeners]

    @property
    def public_key(self) -> bytes | None:
        """The newest key's public part, for clients to know the server by; None without keys."""
        return self.keys[0].public if self.keys else None

    @property
    def connections(self) -> Set[Connection]:
        """The connections that were admitted and are not gone, verified or not."""
        return self._admission.connections

    @property
    def admin_port(self) -> int | None:
        """The port of the admin endpoint, once started; None without one."""
        return self._admin.port if self._admin is not None else None

    @property
    def is_running(self) -> bool:
        """True from `start` until `stop` is called."""
        return self._running and self._admission.open

    async def start(self) -> None:
        """Starts to listen. Raises ConfigError if it can't; then nothing is left open."""
        if self._running:
            raise ConfigError("this server is running already")
        if not self.listen:
            raise ConfigError('nowhere to listen: give Server an endpoint, as "tcp://127.0.0.1:7000"')
        self._running = True
        self.hub = Hub(asyncio.get_running_loop(), self.catalog, self.limits, self.wire, self.stats)
        self._sessions = SessionManager(self.hub, self.duplicate)
        self._admission = Admission(self.hub)
        self._stopping = asyncio.Lock()
        self._to_stop = self._on_stop.copy()
        try:
            for function in self._on_start:
                await function()
            for listen in self.listen:
                await self._open(listen if isinstance(listen, Listen) else Listen(endpoint=listen))
            if self.admin is not None:
                self._admin = Admin(self, self.admin)
                await self._admin.start()
        except BaseException:
            await self.stop(0)
            raise
        if self.tick_hz:
            self._ticker = self.hub.loop.create_task(self._tick())
        log.info("started", listen=[str(endpoint) for endpoint in self.endpoints], admin=self.admin)

    async def stop(self, grace: float | None = None) -> None:
        """Accepts nothing more, lets handlers end and delivers what is queued, closes every session with 4011.

        grace: seconds for all of that, limits.close_timeout if None; then handlers are cancelled, with 2 s to clean up.
        Returns when nothing of the server is left, but for handlers that go on when cancelled.
        """
        if self._running:
            async with self._stopping:
                if self._running:
                    await self._stop(self.limits.close_timeout if grace is None else grace)

    async def _stop(self, grace: float) -> None:
        """Stops; when it is cancelled, another call goes on from there."""
        loop = self.hub.loop
        deadline = loop.time() + grace
        self._admission.open = False
        for listener in self._listeners:
            listener.close()
        for login in list(self.logins):
            login.stop()
        for session in self.sessions:
            session.pause(Pause.STOPPING)
        self.handlers.tick()
        await self.hub.finish_tasks(deadline - loop.time())
        await self.sessions.close(CloseCode.GOING_AWAY, "the server stops", deadline)
        for connection in list(self._admission.connections):
            connection.abort()
        await self._admission.empty()
        self.handlers.tick()
        last_words = max(LEAST_GRACE, min(LAST_WORDS, deadline + LAST_WORDS - loop.time()))
        await self.hub.finish_tasks(deadline - loop.time(), last_words)  # the last `closed` events
        while self._to_stop:
            function = self._to_stop.pop(0)  # first, so that none is called twice
            try:
                async with asyncio.timeout(max(LEAST_GRACE, deadline - loop.time())):
                    await function()
            except Exception as error:
                log.error("on_stop failed", function=repr(function), exc_info=error)
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
            self._ticker = None
        if self._admin is not None:
            await self._admin.stop()
            self._admin = None
        self._listeners.clear()
        self.hub.wheel.close()
        self._running = False
        log.info("stopped", verified=self.stats.verified)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def serve(self) -> None:
        """Starts, and stops on SIGTERM or SIGINT; a second signal, or one while it starts, stops without grace."""
        loop = asyncio.get_running_loop()
        started = asyncio.Event()
        asked = asyncio.Event()
        living = loop.create_task(self._live(started, asked))
        hurried = False

        def on_signal() -> None:
            nonlocal hurried
            if not hurried and (asked.is_set() or not started.is_set()):
                hurried = living.cancel()
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            await living
        except asyncio.CancelledError:
            if not hurried:
                raise
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _live(self, started: asyncio.Event, asked: asyncio.Event) -> None:
        """From start to stop; when it is cancelled, it stops without grace."""
        await self.start()
        try:
            started.set()
            await asked.wait()
            log.info("stopping", grace=self.limits.close_timeout)
            await self.stop()
        finally:
            await self.stop(0)  # nothing, unless we were cancelled

    def run(self) -> None:
        """`serve` in a uvloop of its own. Logs go to standard error unless structlog has been configured."""
        if not structlog.is_configured():
            logs.configure()
        uvloop.run(self.serve())

    async def _open(self, listen: Listen) -> None:
        listener = Listener(
            parse_endpoint(listen.endpoint),
            self.hub,
            self._admission,
            partial(Login, self),
            tls=listen.tls(),
            proxies=listen.proxies,
            accept=listen.accept,
        )
        await listener.open()
        self._listeners.append(listener)

    async def _tick(self) -> None:
        period = 1 / self.tick_hz
        last = perf_counter()
        due = last + period
        while True:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            now = perf_counter()
            self.handlers.tick()
            if self._on_tick is not None:
                try:
                    self._on_tick(now - last)
                except Exception as error:
                    self.stats.handler_errors["tick"] += 1
                    log.error("tick handler failed", exc_info=error)
            last = now
            self.stats.ticks += 1
            due += period
            if perf_counter() > due:
                self.stats.tick_overruns += 1
                due = perf_counter()
