"""The login service as a whole: what it stands on is given, what it opens it closes."""

from collections.abc import Callable, Mapping
from typing import Self

import structlog

from gatelink.auth.accounts import Accounts
from gatelink.auth.methods import LoginMethod
from gatelink.cluster.engine import Engine
from gatelink.errors import ConfigError
from gatelink.login.address import host_and_port
from gatelink.login.api import LegacyStatus, build
from gatelink.login.app import Front
from gatelink.login.gateways import Gateways
from gatelink.login.http import HttpAdmission
from gatelink.login.limits import LoginLimits
from gatelink.login.logins import Issuer, Logins
from gatelink.login.metrics import LoginMetrics
from gatelink.login.networks import RequestRates
from gatelink.login.throttle import Throttle
from gatelink.net.endpoints import is_everywhere
from gatelink.ops.admin import Admin
from gatelink.ops.http import HttpServer
from gatelink.ops.lag import LoopLag

log = structlog.get_logger("gatelink.login.http")


class LoginService:
    """An HTTP service that logs players in (docs/login.md).

    listen: `http://host:port`, port 0 for any that is free. engine: started, where tries are counted. tokens: who
    issues; `lifetime` is how long those tokens live, in seconds. methods: by name, of `password`, `guest`, `oidc`.
    accounts: where players register; None: they can't. gateways: where players are sent. one_token: a newer login
    ends the tokens of the same user and slot. proxies: networks whose X-Forwarded-For is believed. admin: "host:port"
    of /metrics and /healthz, None for none.

    legacy_status: how clients of the original engine are refused, with 200 and a `Result` or with the original's
    statuses. accept_version: whether those with this ClientVer ("" without) are served; None: all are.

    Whoever made the engine and the accounts closes them, after `stop`.
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
        gateways: Gateways,
        limits: LoginLimits | None = None,
        one_token: bool = True,
        proxies: tuple[str, ...] = (),
        legacy_status: LegacyStatus = "always-200",
        accept_version: Callable[[str], bool] | None = None,
        admin: str | None = None,
    ) -> None:
        self.limits = limits or LoginLimits()
        self.logins = Logins(
            methods=methods,
            accounts=accounts,
            tokens=tokens,
            gateways=gateways,
            throttle=Throttle(engine, self.limits),
            lifetime=lifetime,
            one_token=one_token,
        )
        self.engine = engine
        self._listen, self._where = listen, host_and_port(listen)
        rates = RequestRates(self.limits)
        self.admission = HttpAdmission(self.limits, proxies, rates)
        self.app = build(
            self.logins,
            lambda: self.is_running and engine.is_available,
            legacy_status=legacy_status,
            accept_version=accept_version,
        )
        self.front = Front(self.app, self.limits, rates, proxies)  # type: ignore[arg-type]  # Litestar's own ASGI types
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
        """Why nobody can log in just now; "" if players can."""
        return "" if self.engine.is_available else "the engine is away, or its bucket cannot be used"

    def metrics(self) -> LoginMetrics:
        """What it has counted and holds, for Prometheus."""
        return LoginMetrics(self)

    @property
    def url(self) -> str:
        """Where it is reached, `http://host:port` with the port that was taken."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def admin_port(self) -> int | None:
        """The port of the admin endpoint, once started; None without one."""
        return self._admin.port if self._admin is not None else None

    async def start(self) -> None:
        """Starts to listen. Raises ConfigError if it can't; then nothing is left open."""
        if self._http is not None:
            raise ConfigError("this login service is running already")
        http = HttpServer(
            self.front,
            *self._where,
            name=self._listen,
            protocol=self.admission.protocol,
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
        if is_everywhere(self._where[0]):
            fix = "listen on loopback or a private address, behind a proxy that ends TLS"
            log.warning("passwords come in unencrypted from every network", listen=self._listen, fix=fix)
        log.info("started", listen=self.url, methods=sorted(self.logins.methods))

    async def stop(self) -> None:
        """Accepts nothing more, gives requests under way a second, and leaves nothing open."""
        if self._http is None:
            return
        http, self._http = self._http, None
        await http.stop()
        if self._admin is not None:
            await self._admin.stop()
        self.lag.stop()
        log.info("stopped", logins=sum(n for (_, how), n in self.logins.outcomes.items() if how == "succeeded"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
