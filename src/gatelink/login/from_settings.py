"""Build a login service from a configuration."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from gatelink.auth.accounts import Accounts
from gatelink.auth.methods import Guest, LoginMethod, Oidc, Password
from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine import Engine
from gatelink.cluster.login_services import keep_entry
from gatelink.cluster.registry import Registry
from gatelink.errors import ConfigError
from gatelink.login.gateways import GatewayInfo, Gateways, RegistryGateways, StaticGateways
from gatelink.login.service import LoginService
from gatelink.settings import LoginSettings, Settings, build_accounts, login_keys, open_tokens


@asynccontextmanager
async def open_login(settings: Settings, engine: Engine, *, admin: str | None = None) -> AsyncIterator[LoginService]:
    """The login service of `settings`, running, with its accounts and tokens; `engine` has been started.

    Players are sent to the gateways in `login.servers`, or, if that is empty, to those of the cluster. With a
    `login.key` everything in the engine is authenticated with it. admin: "host:port" of /metrics, /healthz and
    /livez. Raises ConfigError, EngineUnavailable, AccountsUnavailable.
    """
    login = settings.login
    if login is None:
        raise ConfigError("the configuration has no [login]")
    if login.key.is_made_up or not login.key.is_missing:
        keys = login_keys(settings)
        engine = AuthenticEngine(engine, [key.engine_key for key in keys]) if keys else engine
    tokens = settings.tokens
    async with AsyncExitStack() as stack:
        accounts = await stack.enter_async_context(build_accounts(settings.accounts))
        service = LoginService(
            login.listen,
            engine=engine,
            tokens=await stack.enter_async_context(open_tokens(settings, engine, issues=True)),
            lifetime=tokens.lifetime if tokens.kind == "engine" else tokens.signed_lifetime,
            methods=_methods(login, accounts, engine.now),
            accounts=accounts if "password" in login.methods else None,
            database=accounts,
            gateways=await stack.enter_async_context(_gateways(login, engine)),
            limits=login.limits,
            one_token=login.one_token,
            proxies=login.proxies,
            origins=login.origins,
            legacy_status=login.legacy_status,
            accept_version=login.client_versions.__contains__ if login.client_versions else None,
            admin=admin,
        )
        await stack.enter_async_context(service)
        await stack.enter_async_context(
            keep_entry(engine, service.url, service.logins.succeeded, lambda: service.trouble, service.lag)
        )
        yield service


def _methods(login: LoginSettings, accounts: Accounts, clock: Callable[[], float]) -> dict[str, LoginMethod]:
    found: dict[str, LoginMethod] = {}
    for name in login.methods:
        match name:
            case "password":
                found[name] = Password(accounts)
            case "guest":
                found[name] = Guest(accounts)
            case "oidc":
                assert login.oidc is not None  # LoginSettings has checked
                found[name] = Oidc(
                    accounts,
                    login.oidc.issuer,
                    login.oidc.audience,
                    login.oidc.jwks,
                    authorized_parties=login.oidc.authorized_parties,
                    clock=clock,
                )
    return found


@asynccontextmanager
async def _gateways(login: LoginSettings, engine: Engine) -> AsyncIterator[Gateways]:
    if login.servers:
        yield StaticGateways(
            GatewayInfo(id=each.id, name=each.name, addresses=each.addresses, public_key=each.public_key or "")
            for each in login.servers
        )
        return
    registry = Registry(engine)
    await registry.start()
    try:
        yield RegistryGateways(registry, engine.now)
    finally:
        await registry.close()
