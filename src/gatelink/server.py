"""A complete server: listeners, sessions and handlers, and how they start, run and stop together.

server = Server("tcp://127.0.0.1:7000", tokens=MemoryTokens())

@server.on(Say)
def say(session, message):
    server.sessions.broadcast(message)

server.run()
"""

import asyncio
import contextlib
import gc
import math
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self, cast

import structlog

from gatelink import tasks
from gatelink._native import description
from gatelink.auth.tokens import Tokens
from gatelink.calls import invoke, invoke_plain
from gatelink.config import LINK_LIMITS, Limits, WireOptions
from gatelink.errors import CatalogError, CloseCode, ConfigError
from gatelink.handlers import Handlers
from gatelink.handling.checks import check_handler
from gatelink.logger import Logger
from gatelink.net.admission import Admission
from gatelink.net.certificates import INTERVAL as CERTIFICATE_INTERVAL
from gatelink.net.connection import Connection
from gatelink.net.endpoints import Endpoint, parse_endpoint
from gatelink.net.frontend import LEAST_GRACE, Frontend, NoTokens, ServerTokens, TypeOf
from gatelink.net.listen import Listen as Listen
from gatelink.net.listener import Listener
from gatelink.net.login import Login, LoginRules
from gatelink.ops import logs, process
from gatelink.ops.admin import Admin
from gatelink.ops.lag import LoopLag
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.outbox import Full
from gatelink.session.renewal import CloseExpired
from gatelink.session.session import Session
from gatelink.stats import Stats
from gatelink.wire.handshake import Responder
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gatelink.ops.families import Exposition

log = Logger("gatelink.server")


class Server:
    """A server of one process.

    listen: where it listens, endpoints or `Listen`s; `gatelink serve --listen` replaces them.
    tokens: checks the tokens of clients; a server with only inner listeners needs none.
    catalog: its messages; by default those that `@message` has registered.
    limits: of clients' sessions. link_limits: of the sessions of other servers. wire: how messages are written.
    id: its server id, which verified clients get.
    source: its type, 0 to 255, which they get, too (ClientVertifySucceedRet's `source`).
    admin: "host:port" of /metrics, /healthz and /livez; None for no admin port.
    tick_hz: ticks a second, in which messages are handled and `on_tick` is called; 0: handled as they come.
    duplicate: what a login does to an open session of the same user and slot.
    keys: for sealed connections, the newest first; older ones are for clients that know no newer one.
    sealed_only: whether plain logins are refused.
    resume_plain: whether sessions on plain connections can be resumed, too; for tests.
    cluster_key: admits other servers at inner listeners; several while the key is being changed.
    end_with_tokens: whether a user's sessions end with 4009 kicked when the user's tokens are revoked.
    expiry: what happens to a session whose token expires. None: nothing, the session goes on.
    accept_version: called with the application version in a client's HELLO, "" if it has none; if it returns False, the
    client is refused with 4014 client-too-old. Clients of the base protocol send no HELLO and are not checked.
    peers: returns the type of a server by its id, None for an unknown one, which is then refused. May be set at any
    time.

    Its table is `handlers`; `on`, `register`, `default`, `around` and the events `on_verified`, `on_closed`,
    `on_suspended`, `on_resumed`, `on_renewed`, `on_lost` and `on_forward` are methods of that table.
    """

    _links_end: CloseCode = CloseCode.GOING_AWAY
    """The code with which links are closed; NORMAL for a member of a cluster, which then needs no probe."""

    def __init__(
        self,
        *listen: str | Listen,
        tokens: Tokens | None = None,
        catalog: Catalog = default_catalog,
        limits: Limits | None = None,
        wire: WireOptions | None = None,
        id: int = 0,
        source: int = 0,
        admin: str | None = None,
        tick_hz: float = 0,
        duplicate: Duplicate = Duplicate.NEWER_WINS,
        keys: Sequence[ServerKey] = (),
        sealed_only: bool = False,
        resume_plain: bool = False,
        cluster_key: ClusterKey | Sequence[ClusterKey] = (),
        link_limits: Limits = LINK_LIMITS,
        accept_version: Callable[[str], bool] | None = None,
        end_with_tokens: bool = True,
        expiry: CloseExpired | None = None,
    ) -> None:
        self.listen: tuple[str | Listen, ...] = listen
        self.tokens = tokens
        self.catalog = catalog
        self.limits = limits or Limits()
        self.wire = wire or WireOptions()
        self.id = id
        if not 0 <= source <= 255:
            raise ConfigError(f"source is {source}; it is the server's type, 0 to 255")
        self.source = source
        self.admin = admin
        if not 0 <= tick_hz < math.inf:
            raise ConfigError(f"tick_hz is {tick_hz}; give ticks a second, or 0 for none")
        self.tick_hz = tick_hz
        self.duplicate = duplicate
        if sealed_only and not keys:
            raise ConfigError("sealed_only without a key: give Server keys=[ServerKey...], made by `gatelink keys`")
        self.keys = tuple(keys)
        self.sealed_only = sealed_only
        self.resume_plain = resume_plain
        self.cluster_keys = (cluster_key,) if isinstance(cluster_key, ClusterKey) else tuple(cluster_key)
        if self.cluster_keys and not id:
            raise ConfigError("a server of a cluster needs an id above 0, its own in the cluster: give Server id=")
        self.link_limits = link_limits
        self.accept_version = accept_version
        self.end_with_tokens = end_with_tokens
        self.expiry = expiry
        self.peers: TypeOf | None = None
        self.stats = Stats()
        self.lag = LoopLag()
        self.handlers = handlers = Handlers(catalog)
        self.on = handlers.on
        self.register = handlers.register
        self.default = handlers.default
        self.around = handlers.around
        self.on_verified = handlers.on_verified
        self.on_closed = handlers.on_closed
        self.on_suspended = handlers.on_suspended
        self.on_resumed = handlers.on_resumed
        self.on_renewed = handlers.on_renewed
        self.on_lost = handlers.on_lost
        self.on_forward = handlers.on_forward
        self.context: LoopContext
        self._clients: Frontend | None = None
        self._inner: Frontend | None = None
        self._stopping: asyncio.Lock
        self._listeners: list[Listener] = []
        self._looking: asyncio.Task[None] | None = None
        self._admin: Admin | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._on_tick: Callable[[float], None] | None = None
        self._on_start: list[Callable[[], Awaitable[None]]] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []
        self._to_stop: list[Callable[[], Awaitable[None]]] = []  # calls that this run still has to make
        self._running = False
        self._stopped: asyncio.Event | None = None  # of `serve`
        handlers.ticking = tick_hz > 0

    def on_tick(self, handler: Callable[[float], None]) -> Callable[[float], None]:
        """Decorator: `handler(seconds)`, a plain function, after each tick's messages; the time since the last tick.

        Raises ConfigError without `tick_hz`, as there are no ticks then; CatalogError for a second handler.
        A tick handles all messages that came before it. An async handler begins in it; if it waits, it goes on after
        `on_tick`, and later messages of its session are handled when it has ended.
        """
        check_handler(handler, "on_tick", "seconds", asynchronous=False)
        if not self.tick_hz:
            raise ConfigError(f"on_tick without ticks: give {type(self).__name__} tick_hz, in ticks a second, as 20")
        if self._on_tick is not None:
            raise CatalogError("on_tick has a handler already; one server has one")
        self._on_tick = handler
        return handler

    def on_start(self, function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Decorator: `async def function()`, awaited before anything listens; what it raises, `start` raises."""
        check_handler(function, "on_start", asynchronous=True)
        self._on_start.append(function)
        return function

    def on_stop(self, function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Decorator: `async def function()`, awaited when all sessions are closed; also after a start that failed.

        It is cancelled when the grace of `stop` is over, but has at least 0.1 s.
        """
        check_handler(function, "on_stop", asynchronous=True)
        self._on_stop.append(function)
        return function

    @property
    def sessions(self) -> SessionManager:
        """The sessions of clients of this run, or of the last. Raises ConfigError before the first `start`."""
        return self._started(self._clients).sessions

    @property
    def links(self) -> SessionManager:
        """The sessions of servers that connected to an inner listener, by their ids. Raises as `sessions`."""
        return self._started(self._inner).sessions

    @property
    def logins(self) -> Set[Login]:
        """The logins of clients that are being checked. Raises as `sessions`."""
        return self._started(self._clients).logins.running

    def _client_frontend(self) -> Frontend:
        return self._started(self._clients)

    def _inner_frontend(self) -> Frontend:
        return self._started(self._inner)

    @staticmethod
    def _started(frontend: Frontend | None) -> Frontend:
        if frontend is None:
            raise ConfigError("this server has not been started, so it has no sessions; use `sessions` after `start`")
        return frontend

    @property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints that it listens at, with the ports that were taken."""
        return [listener.endpoint for listener in self._listeners]

    @property
    def public_key(self) -> bytes | None:
        """The newest key's public part, for clients to know the server by; None without keys."""
        return self.keys[0].public if self.keys else None

    @property
    def connections(self) -> Set[Connection]:
        """The open connections of clients that were admitted, verified or not."""
        return self._admission.connections

    @property
    def _admission(self) -> Admission:
        return self._started(self._clients).admission

    @property
    def admin_port(self) -> int | None:
        """The port of the admin endpoint, once started; None without one."""
        return self._admin.port if self._admin is not None else None

    @property
    def admin_address(self) -> str:
        """host:port of the admin endpoint, once started; empty without one."""
        return f"{self.admin.rpartition(':')[0]}:{self.admin_port}" if self.admin and self.admin_port else ""

    @property
    def most_connections(self) -> int:
        """The most connections that any of its listeners admits."""
        each_limits = [
            self.link_limits if isinstance(each, Listen) and each.inner else self.limits for each in self.listen
        ]
        return max((limits.max_connections for limits in each_limits), default=self.link_limits.max_connections)

    @property
    def is_running(self) -> bool:
        """True from `start` until `stop` is called."""
        return self._running and self._admission.open

    @property
    def trouble(self) -> str:
        """Why it can't take new players now, for /healthz; "" if it can."""
        return ""

    async def _join(self) -> None:
        """Join the cluster, in a member of one. Called once it listens."""

    async def _leave(self) -> None:
        """Leave the cluster. May be called again, and before `_join` has ended."""

    def metrics(self) -> "Exposition":
        """The metrics of this run for Prometheus. Raises ConfigError before the first `start`."""
        from gatelink.ops.metrics import Metrics  # keeps prometheus out of processes without an admin port

        return Metrics(self._started(self._clients), self.sessions, self.handlers, self.lag, self._cluster_metrics)

    def _cluster_metrics(self) -> "Iterable[Metric]":
        """Further metrics of a member of a cluster."""
        return ()

    def broadcast(self, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Send `message`, encoded once, to every session. Raises what encoding raises, as `Session.send`."""
        self.sessions.broadcast(message, key=key, full=full)

    def broadcast_to(self, group: str, message: Any, *, key: int = 0, full: Full = Full.CLOSE) -> None:
        """Send `message`, encoded once, to the sessions that joined `group`, if any did.

        Raises LocalError for a name that is empty or too long, and what encoding raises.
        """
        self.sessions.broadcast(message, self.context.groups.members(group), key=key, full=full)

    async def start(self) -> None:
        """Start to listen, if it is not stopped meanwhile. Raises ConfigError if it can't, with nothing left open."""
        if self._running:
            raise ConfigError("this server is running already")
        if isinstance(cast("object", self.listen), str):  # one character would be an endpoint
            raise ConfigError(f'listen is a text; set a tuple of endpoints: ("{self.listen}",)')
        if not self.listen:
            raise ConfigError('no place to listen at: give Server an endpoint, as "tcp://127.0.0.1:7000"')
        self._running = True
        self._has_started = False
        self.context = LoopContext(asyncio.get_running_loop(), self.catalog, self.limits, self.wire, self.stats)
        self._clients = Frontend(
            self.context, self._rules_for_clients(), self.duplicate, ends_sessions=self.end_with_tokens
        )
        self._clients.kicks.start()
        inner_context = LoopContext(
            self.context.loop, self.catalog, self.link_limits, self.wire, self.stats, between_servers=True
        )
        self._inner = Frontend(inner_context, self._rules_for_servers(), end_code=self._links_end)
        self._clients.memory_guard.links_guard = self._inner.memory_guard
        self._stopping = asyncio.Lock()
        self._to_stop = [self._leave, *self._on_stop]
        try:
            for function in self._on_start:
                await invoke(function)
            for listen in self.listen:
                await self._open(listen if isinstance(listen, Listen) else Listen(endpoint=listen))
            if self.admin is not None:
                self._admin = Admin(self, self.admin)
                await self._admin.start()
            if self.is_running:
                await self._join()
        except BaseException:
            await self.stop(0)
            raise
        if not self.is_running:  # the server was stopped meanwhile: close the listeners opened since
            async with self._stopping:
                self._to_stop = [self._leave]
                await self._stop(0)
            return
        if any(listener.certificate for listener in self._listeners):
            self._looking = tasks.live(self._look_at_certificates, "certificates")
        if self.tick_hz:
            self._ticker = tasks.live(self._tick, "ticks")
        self._has_started = True
        endpoints = [str(endpoint) for endpoint in self.endpoints]
        log.info("started", listen=endpoints, admin=self.admin, core=description())

    async def drain(self, within: float, address: str = "") -> None:
        """Accept no more clients, and ask those that are here to leave within so many seconds, for `address`.

        address: the endpoint where they should connect, empty for where they are. Returns when all connections of
        clients are closed, at the latest a second after `within`: clients without the extension can't be asked.
        The server then waits for `stop`, and may be drained again. Raises ConfigError if `address` is no endpoint.
        """
        if address:
            parse_endpoint(address)
        clients = self._started(self._clients)
        clients.stop_accepting()
        asked = sum(session.go_away(within, address) for session in clients.sessions)
        log.info("draining", sessions=len(clients.sessions), asked=asked, within=within, address=address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within + 1):
                await clients.admission.wait_empty()

    async def stop(self, grace: float | None = None) -> None:
        """Accept nothing more, let handlers end, deliver what is queued, and close every session with 4011.

        Clients that speak the extension are asked to reconnect at a random time within limits.reconnect_within.
        grace: seconds for all of that, limits.close_timeout if None; then handlers are cancelled, with 2 s to clean up.
        Returns when nothing of the server is left, but for handlers that go on when cancelled.
        """
        if self._running:
            async with self._stopping:
                if self._running:
                    await self._stop(self.limits.close_timeout if grace is None else grace)

    def _before_links_close(self) -> None:
        """All handlers have ended, and the sessions with other servers are closed next."""

    async def _stop(self, grace: float) -> None:
        """Stops; when it is cancelled, another call goes on from there."""
        clock = self.context.wheel.clock
        deadline = clock() + grace
        clients, inner = self._started(self._clients), self._started(self._inner)
        clients.stop_accepting()
        inner.stop_accepting()
        await clients.close(deadline, self.handlers.tick)
        self._before_links_close()
        await inner.close(max(deadline, clock() + LEAST_GRACE))  # last: `on_closed` of clients may write to servers
        while self._to_stop:
            function = self._to_stop.pop(0)  # first, so that no function is called twice
            try:
                async with asyncio.timeout(max(LEAST_GRACE, deadline - clock())):
                    await invoke(function)
            except Exception as error:
                log.error("on_stop failed", function=repr(function), exc_info=error)
        for task in (self._ticker, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._ticker = self._looking = None
        if self._admin is not None:
            await self._admin.stop()
            self._admin = None
        self.lag.stop()
        self._listeners.clear()
        clients.context.wheel.close()
        inner.context.wheel.close()
        self._running = False
        if self._stopped is not None:
            self._stopped.set()
        if self._has_started:
            log.info("stopped", verified=self.stats.verified)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def reload(self) -> None:
        """Load the certificates of tls:// listeners again, for handshakes to come. A changed file is loaded anyway.

        One that does not load is logged, and the old one is kept.
        """
        for listener in self._listeners:
            if listener.certificate is not None:
                listener.certificate.reload()

    async def _look_at_certificates(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_INTERVAL)
            for listener in self._listeners:
                if listener.certificate is not None:
                    listener.certificate.look()

    @property
    def stop_seconds(self) -> float:
        """Seconds that `stop` without a grace gives sessions and handlers."""
        return self.limits.close_timeout

    async def serve(self, on_ready: Callable[[], object] | None = None) -> None:
        """Start, and stop on SIGTERM or SIGINT; a second signal, or one while it starts, stops without grace.

        SIGHUP loads certificates again, and reopens the log if standard error is a file. on_ready: called once it has
        started.

        Returns when it has stopped, also when `stop` was called.
        """
        self._stopped = asked = asyncio.Event()
        started = asyncio.Event()
        living = asyncio.get_running_loop().create_task(self._live(started, asked, on_ready))
        hurried = False
        signals_seen = 0

        def set_deadline() -> None:
            nonlocal signals_seen
            signals_seen += 1
            process.stop_within(self.stop_seconds if signals_seen == 1 else 0.0)

        def on_signal() -> None:
            nonlocal hurried
            if not hurried and (asked.is_set() or not started.is_set()):
                hurried = living.cancel()
            asked.set()

        def on_hangup() -> None:
            logs.reopen()
            self.reload()

        calls = {signal.SIGTERM: on_signal, signal.SIGINT: on_signal, signal.SIGHUP: on_hangup}
        with process.signals(calls, at_once=set_deadline):
            try:
                await living
            except asyncio.CancelledError:
                if not hurried:
                    raise

    async def _live(self, started: asyncio.Event, asked: asyncio.Event, on_ready: Callable[[], object] | None) -> None:
        """From start to stop; when it is cancelled, it stops without grace."""
        needed, allowed = process.allow_files(self.most_connections)
        if allowed < needed:
            log.warning("fewer open files than max_connections: raise ulimit -Hn", needed=needed, allowed=allowed)
        await self.start()
        gc.collect()
        gc.freeze()  # modules stay: looking through them again stops the loop for 10 to 30 ms each time
        try:
            started.set()
            if on_ready is not None and self.is_running:
                on_ready()
            await asked.wait()
            if self.is_running:
                log.info("stopping", grace=self.limits.close_timeout)
                await self.stop()
        finally:
            await self.stop(0)  # does nothing, unless this task was cancelled

    def run(self, on_ready: Callable[[], object] | None = None) -> None:
        """`serve` in a uvloop of its own. Logs go to standard error unless structlog has been configured.

        After a signal the process ends within the grace and 4.5 s. The log names what has not ended by then: tasks, and
        threads that are not daemons.
        """
        if not structlog.is_configured():
            logs.configure()
        process.run(self.serve(on_ready))

    def _rules_for_clients(self) -> LoginRules:
        """Without the cluster's key: no server gets in where clients do."""
        return LoginRules(
            tokens=NoTokens() if self.tokens is None else self.tokens,
            responder=Responder(self.keys),
            id=self.id,
            source=self.source,
            sealed_only=self.sealed_only,
            resume_plain=self.resume_plain,
            accept_version=self.accept_version,
            expiry=self.expiry,
        )

    def _rules_for_servers(self) -> LoginRules:
        """With the cluster's key alone: no client gets in where servers do."""
        return LoginRules(
            tokens=ServerTokens(lambda: self.peers),
            responder=Responder((), self.cluster_keys, self.id),
            id=self.id,
            source=self._type_of_links(),
            sealed_only=True,
        )

    async def _open(self, listen: Listen) -> None:
        handlers = self._handlers_of(listen)
        frontend = self._started(self._inner if listen.inner else self._clients)
        listener = await frontend.open(listen, handlers)
        self._listeners.append(listener)
        if listener.is_everywhere and not (listen.inner or listen.proxies or self.sealed_only):
            fix = "use a tls:// endpoint, sealed_only, or a balancer that ends TLS"
            log.warning("players' tokens come in unencrypted from every network", listen=listen.endpoint, fix=fix)

    def _handlers_of(self, listen: Listen) -> Dispatcher[Session]:
        """The table of the sessions of a listener. Raises ConfigError for what the listener needs and does not have."""
        where = f"listener {listen.endpoint}"
        if not listen.inner:
            if self.tokens is None:
                raise ConfigError(f"{where}: nothing checks its clients' tokens; give Server tokens=...")
            if listen.handlers is not None:
                raise ConfigError(f"{where}: only an inner one has handlers of its own")
            return self.handlers
        if not self.cluster_keys:
            raise ConfigError(f"{where}: an inner one needs the cluster's key; give Server cluster_key=...")
        if listen.handlers is None:
            raise ConfigError(f"{where}: an inner one needs handlers of its own; give Listen handlers=...")
        return listen.handlers

    def _type_of_links(self) -> int:
        """The type for other servers."""
        return self.source

    async def _tick(self) -> None:
        period = 1 / self.tick_hz
        last = perf_counter()
        due = last + period
        while True:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            now = perf_counter()
            self.handlers.tick()
            if self.context.tasks:
                await asyncio.sleep(0)  # async handlers run in the tick, up to their first wait
            if self._on_tick is not None:
                try:
                    invoke_plain(self._on_tick, now - last)
                except Exception as error:
                    self.stats.handler_errors["tick"] += 1
                    log.error("tick handler failed", exc_info=error)
            last = now
            self.stats.ticks += 1
            due += period
            if perf_counter() > due:
                self.stats.tick_overruns += 1
                due = perf_counter()
