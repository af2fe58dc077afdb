"""The login service as a whole: its caller gives it an engine and accounts, and it closes what it opens itself."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Self

from prometheus_client.core import CounterMetricFamily, Metric

from gatelink.auth.accounts import Accounts
from gatelink.auth.methods import LoginMethod
from gatelink.auth.tokens import Issuer
from gatelink.cluster.engine import Engine
from gatelink.errors import ConfigError
from gatelink.logger import Logger
from gatelink.login.api import LegacyStatus, build
from gatelink.login.app import LimitedApp
from gatelink.login.database_check import DatabaseCheck
from gatelink.login.gateways import Gateways
from gatelink.login.http import HttpAdmission, LoginConnection
from gatelink.login.limits import LoginLimits, host_and_port
from gatelink.login.logins import Logins
from gatelink.login.networks import RequestRates
from gatelink.login.throttle import Throttle
from gatelink.net.endpoints import is_everywhere
from gatelink.net.origins import check_origins
from gatelink.ops.admin import Admin
from gatelink.ops.families import Exposition, counter, counters, gauge
from gatelink.ops.http import HttpServer
from gatelink.ops.lag import LoopLag

log = Logger("gatelink.login.http")


class LoginService:
    """An HTTP service that logs players in (docs/login.md).

    listen: `http://host:port`, port 0 for any free port. engine: started; it counts the tries. tokens: issues tokens,
    each of which lives `lifetime` seconds. methods: by name, of `password`, `guest`, `oidc`.
    accounts: where players register; None: they can't. database: the accounts that logins need: /healthz says whether
    they answer. None: `accounts`. gateways: where players are sent. one_token: a newer login ends the tokens of the
    same user and slot. proxies: networks whose X-Forwarded-For is believed. origins: those of
    web pages elsewhere whose scripts may log in, "*" for all. admin: "host:port" of /metrics, /healthz and /livez.

    legacy_status: how clients of the original engine are refused, with 200 and a `Result` or with the original's
    statuses. accept_version: whether those with this ClientVer ("" without) are served; None: all are.

    The caller closes the engine and the accounts, after `stop`.
    """

    def __init__(
        self,
        listen: str = "http://127.0.0.1:8080",
        *,
        engine: Engine,
        tokens: Issuer,
        lifetime: float,
        methods: Mapping[str, LoginMethod],
        accounts: Accounts | None = None,
        database: Accounts | None = None,
        gateways: Gateways,
        limits: LoginLimits | None = None,
        one_token: bool = True,
        proxies: tuple[str, ...] = (),
        origins: tuple[str, ...] = (),
        legacy_status: LegacyStatus = "always-200",
        accept_version: Callable[[str], bool] | None = None,
        admin: str | None = None,
    ) -> None:
        self.limits = limits or LoginLimits()
        checked = database or accounts
        self._database = DatabaseCheck(checked, engine) if checked is not None else None
        self.logins = Logins(
            methods=methods,
            accounts=accounts,
            tokens=tokens,
            gateways=gateways,
            throttle=Throttle(engine, self.limits),
            lifetime=lifetime,
            one_token=one_token,
            clock=engine.now,
            database=self._database,
        )
        self.engine = engine
        self._listen, self._where = listen, host_and_port(listen)
        rates = RequestRates(self.limits)
        self.admission = HttpAdmission(self.limits, proxies, rates)
        self.app = build(
            self.logins,
            self._public_trouble,
            legacy_status=legacy_status,
            accept_version=accept_version,
        )
        self.limited_app = LimitedApp(self.app, self.limits, rates, proxies, check_origins(origins))  # type: ignore[arg-type]  # Litestar's own ASGI types
        self.lag = LoopLag()
        self._admin = Admin(self, admin) if admin is not None else None
        self._http: HttpServer | None = None
        self._address = ("", 0)

    @property
    def is_running(self) -> bool:
        """True from `start` until `stop` is called."""
        return self._http is not None

    @property
    def trouble(self) -> str:
        """Why no login can succeed now, for people; "" if one can. The part before a colon may be public."""
        if not self.engine.is_available:
            return f"the engine cannot be used: {self.engine.trouble}"
        if self._database is not None and self._database.trouble:
            return f"the accounts' database fails: {self._database.trouble}"
        if not any(gateway.open for gateway in self.logins.gateways.all()):
            return "no gateway is up and takes players"
        return ""

    def _public_trouble(self) -> str:
        """Why /healthz on the public port says 503; "" if it does not."""
        return self.trouble.partition(":")[0] if self.is_running else "the service stops"

    def metrics(self) -> "LoginMetrics":
        """The metrics of this service for Prometheus."""
        return LoginMetrics(self)

    @property
    def url(self) -> str:
        """Its URL, `http://host:port` with the port that was taken."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def admin_port(self) -> int | None:
        """The port of the admin endpoint, once started; None without one."""
        return self._admin.port if self._admin is not None else None

    async def start(self) -> None:
        """Start to listen. Raises ConfigError if it can't, OtherDatabase, AccountsUnavailable; nothing is left open."""
        if self._http is not None:
            raise ConfigError("this login service is running already")
        if self._database is not None:
            await self._database.start()
        try:
            await self._listen_for_players()
        except BaseException:
            if self._database is not None:
                await self._database.stop()
            raise

    async def _listen_for_players(self) -> None:
        http = HttpServer(
            self.limited_app,
            *self._where,
            name=self._listen,
            connection=partial(LoginConnection, self.admission),
            keep_alive=self.limits.keep_alive,
        )
        await http.start()
        self._http, self._address = http, (http.host, http.port)
        if self._admin is not None:
            try:
                await self._admin.start()
            except BaseException:
                await self.stop()
                raise
        if is_everywhere(http.host):  # the address that was bound
            fix = "listen on loopback or a private address, behind a proxy that ends TLS"
            log.warning("passwords come in unencrypted from every network", listen=self._listen, fix=fix)
        log.info("started", listen=self.url, methods=sorted(self.logins.methods))

    async def stop(self) -> None:
        """Stop accepting, give requests under way a second, and leave nothing open."""
        if self._http is None:
            return
        http, self._http = self._http, None
        await http.stop()
        if self._database is not None:
            await self._database.stop()
        if self._admin is not None:
            await self._admin.stop()
        self.lag.stop()
        log.info("stopped", logins=self.logins.succeeded())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class LoginMetrics(Exposition):
    """The metrics of a login service for Prometheus; docs/login.md says what each means."""

    def __init__(self, service: LoginService) -> None:
        super().__init__(service.lag)
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        yield gauge("login_connections", "HTTP connections that are open.", service.admission.count)
        yield gauge("login_requests_active", "Requests under way.", service.limited_app.active)
        yield from self.of_process()
        yield gauge("login_engine_available", "1 while the engine is connected.", service.engine.is_available)
        ignored = service.engine.stats.not_authentic
        yield counters("login_engine_not_authentic", "Entries that no server of the cluster wrote.", "purpose", ignored)
        skew = service.engine.skew
        yield gauge("login_engine_clock_skew_seconds", "How far this machine's clock is ahead of the engine's.", skew)
        if (accounts := service.logins.accounts) is not None:
            yield gauge("login_database_calls", "Calls of the database under way.", accounts.calls)
            passwords = accounts.passwords
            yield gauge("login_passwords_waiting", "Passwords queued or being hashed.", passwords.waiting)
            yield counter("login_passwords_refused", "Passwords refused as too many waited.", passwords.refused)
        outcomes = CounterMetricFamily(
            "gatelink_login_attempts", "Logins and registrations, by how they ended.", labels=("method", "outcome")
        )
        for (method, outcome), count in service.logins.outcomes.items():
            outcomes.add_metric((method, outcome), count)
        yield outcomes
        yield counters("login_delays", "Tries that were told to wait.", "limit", service.logins.delays)
        responses = {str(status): count for status, count in service.limited_app.responses.items()}
        yield counters("login_responses", "HTTP responses.", "status", responses)
        yield counters("login_refusals", "HTTP connections not admitted.", "reason", service.admission.refused)
