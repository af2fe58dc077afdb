"""Builds the parts of a process from its configuration: the engine, tokens, accounts, keys and listeners.

Heavy libraries are imported where they are used, so that a process loads only what it needs.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from gatelink.auth.key_source import url_of
from gatelink.auth.tokens import IssuedTokens
from gatelink.cluster.engine import Engine
from gatelink.cluster.engine_keys import LoginKey
from gatelink.errors import ConfigError, needing
from gatelink.keys import key_of_text, login_keys_of_text, login_keys_text
from gatelink.session.renewal import CloseExpired
from gatelink.settings.load import where
from gatelink.settings.secret import Secret
from gatelink.settings.sections import (
    AccountSettings,
    EngineSettings,
    GatewaySettings,
    Settings,
    TokenSettings,
    shifted,
)
from gatelink.wire.keys import ClusterKey, ServerKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from gatelink.auth.accounts import Accounts
    from gatelink.cluster.routes import Rules
    from gatelink.net.listen import Listen

Key = TypeVar("Key", ServerKey, ClusterKey)


def build_engine(
    settings: Settings, name: str = "gatelink", *, checks_clock: bool = True, patience: float | None = None
) -> Engine:
    """The engine, not started. name: the name of this process in the monitoring of NATS.

    checks_clock: whether its start is refused if this machine's clock is off the engine's by over `engine.max_skew`.
    patience: as for `NatsEngine`, where NATS has to elect leaders.

    Raises ConfigError for a missing or invalid secret, or a library that is not installed.
    """
    engine = settings.engine
    options: dict[str, Any] = {"name": name, "timeout": engine.timeout, "bucket": settings.cluster.name}
    with needing("cluster", "engine.url"):
        if engine.url == "memory":
            from gatelink.cluster.engines.memory import MemoryEngine

            return MemoryEngine()
        if engine.url == "embedded":
            from gatelink.cluster.engines.embedded import EmbeddedEngine

            return EmbeddedEngine(folder=engine.data, **options)
        from gatelink.cluster.engines.nats import NatsEngine

        return NatsEngine(
            _nats_urls(engine),
            credentials=engine.credentials,
            replicas=engine.replicas,
            max_skew=engine.max_skew if checks_clock else math.inf,
            patience=patience,
            **options,
        )


def signing_keys(settings: TokenSettings) -> "list[Ed25519PrivateKey]":
    """The private keys for signed tokens. The first one signs. Raises ConfigError."""
    with needing("login", "tokens.kind"):
        from gatelink.auth.signed_tokens import signing_key
    keys = []
    for secret in settings.signing_keys:
        text = secret.reveal()
        try:
            keys.append(signing_key(text))
        except ConfigError as error:
            raise secret.error_from(error) from None
    return keys


@asynccontextmanager
async def open_tokens(settings: Settings, engine: Engine, *, issues: bool) -> AsyncIterator[IssuedTokens]:
    """Open the tokens, for checking and, with `issues`, also for issuing. `engine` must have been started.

    A process that only checks signed tokens needs no private key if the settings have `public_keys`. Raises
    ConfigError, EngineUnavailable.
    """
    tokens = settings.tokens
    if tokens.kind == "engine":
        from gatelink.auth.engine_tokens import EngineTokens

        yield EngineTokens(engine, lifetime=tokens.lifetime, first_use=tokens.first_use, single_use=tokens.single_use)
        return
    with needing("login", "tokens.kind"):
        from gatelink.auth.signed_tokens import SignedTokens, public_key
    async with SignedTokens(
        engine,
        keys=signing_keys(tokens) if issues or not tokens.public_keys else (),
        public_keys=[public_key(text) for text in tokens.public_keys],
        audience=tokens.audience,
        lifetime=tokens.signed_lifetime,
    ) as signed:
        yield signed


def build_accounts(settings: AccountSettings) -> "Accounts":
    """The accounts, not started. Raises ConfigError."""
    with needing("login", "accounts"):
        from gatelink.auth.accounts import Accounts
        from gatelink.auth.passwords import PasswordHashing
    argon2 = settings.argon2
    hashing = PasswordHashing(
        memory_kib=argon2.memory_kib,
        passes=argon2.time_cost,
        lanes=argon2.parallelism,
        threads=argon2.workers,
        max_waiting=argon2.max_waiting,
    )
    return Accounts(account_url(settings), first_uid=settings.first_uid, passwords=hashing, upgrade=settings.migrate)


def account_url(settings: AccountSettings) -> str:
    """The database's URL, with its password: not for logs. Raises ConfigError."""
    return str(settings.url) if settings.password is None else _with_password(settings.url, settings.password)


def cluster_keys(settings: Settings) -> list[ClusterKey]:
    """The cluster's keys, the newest first. Raises ConfigError."""
    return [_key(secret, ClusterKey) for secret in (settings.cluster.key, *settings.cluster.older_keys)]


def login_keys(settings: Settings) -> list[LoginKey]:
    """What a login service has of the cluster's keys, the newest first. Raises ConfigError.

    None for a login service without a key that sends players to the gateways in `login.servers` only.
    """
    login = settings.login
    assert login is not None, "there is a [login]"
    if login.key.is_missing:
        if login.servers:
            return []
        if not login.key.is_made_up:
            raise login.key.error(
                "is not set: a login service must know which gateways are of the cluster; make its key with "
                "`gatelink keys login CLUSTER_KEY_FILE`, or start it by `gatelink up`"
            )
        return login_keys_of_text(login_keys_text(cluster_keys(settings)))
    try:
        return login_keys_of_text(login.key.reveal())
    except ConfigError as error:
        raise login.key.error_from(error) from None


def environment_of_login(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the login service that `gatelink up` runs: with the login key, without the cluster key.

    Raises ConfigError if neither key is there.
    """
    login, cluster = settings.login, settings.cluster
    assert login is not None, "there is a [login]"
    hidden = {secret.variable for secret in (cluster.key, *cluster.older_keys)}
    found = {name: value for name, value in environment.items() if name not in hidden}
    if login.key.variable is not None and login.key.is_missing and not (login.servers and cluster.key.is_missing):
        found[login.key.variable] = login_keys_text(cluster_keys(settings))
    return found


def server_keys(settings: Settings) -> list[ServerKey]:
    """The gateway's keys, the newest first. Raises ConfigError."""
    return [_key(secret, ServerKey) for secret in (settings.gateway.keys if settings.gateway else ())]


def build_listen(settings: GatewaySettings, index: int) -> "list[Listen]":
    """The listeners for players. index: the number of the gateway process, from 0, which shifts the endpoints."""
    from gatelink.net.listen import Listen

    return [
        Listen(
            endpoint=shifted(each.endpoint, index),
            certificate=str(each.certificate) if each.certificate is not None else None,
            key=str(each.key) if each.key is not None else None,
            proxies=each.proxies,
            tls=each.tls,
            origins=each.origins,
        )
        for each in settings.listen
    ]


def build_expiry(settings: Settings) -> CloseExpired | None:
    """What the gateways do with a session whose token ends; None: nothing."""
    tokens = settings.tokens
    if tokens.at_expiry == "ignore":
        return None
    return CloseExpired(warn=tokens.expiry_warning, base_clients=tokens.close_base_clients)


def build_rules(settings: Settings) -> "dict[int, Rules]":
    """The routing rules of the gateways for each service, by server type."""
    from gatelink.cluster.routes import OnDeath, Pick, Rules

    return {
        each.type: Rules(
            pick=Pick(each.pick),
            on_death=OnDeath(each.on_death),
            hold_seconds=each.hold_seconds,
            give_up_seconds=each.give_up_seconds,
        )
        for each in settings.services.values()
    }


def _key(secret: Secret, kind: type[Key]) -> Key:
    """Parse a key: the text that `gatelink keys` wrote, or only the hex digits in it."""
    text = secret.reveal()
    try:
        key = key_of_text(text) if " " in text else kind.from_hex(text)
    except ConfigError as error:
        raise secret.error_from(error) from None
    if not isinstance(key, kind):
        raise secret.error(f"is a {type(key).__name__}, not a {kind.__name__}; make one with `gatelink keys new`")
    return key


def _nats_urls(engine: EngineSettings) -> list[str]:
    if engine.user is None or engine.password is None:
        return list(engine.servers)
    credentials = f"{quote(engine.user, safe='')}:{quote(engine.password.reveal(), safe='')}"
    return [url.replace("://", f"://{credentials}@", 1) for url in engine.servers]


def _with_password(url: str, secret: Secret) -> str:
    scheme, _, rest = url.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user}:{quote(secret.reveal(), safe='')}@{place}"


def problems_with_secrets(settings: Settings, file: Path) -> list[str]:
    """Check the secrets and certificates in `settings` without starting a process. Returns the errors found.

    file: the path of the configuration, for the error texts.
    """
    steps: list[Callable[[], object]] = [
        lambda: build_engine(settings),
        lambda: asyncio.run(_try_tokens(settings)),
        lambda: account_url(settings.accounts),
    ]
    if settings.gateway is not None:
        listens = enumerate(build_listen(settings.gateway, 0))
        steps += [partial(_try_certificate, listen, file, index) for index, listen in listens]
    if settings.gateway is not None or settings.services:
        steps += [lambda: cluster_keys(settings), lambda: server_keys(settings)]
    if settings.login is not None and not settings.login.key.is_missing:  # else `gatelink up` derives it
        steps.append(lambda: login_keys(settings))
    if settings.login is not None and settings.login.oidc is not None and "oidc" in settings.login.methods:
        steps.append(partial(_try_key_set, settings.login.oidc.jwks, file))
    problems = []
    for step in steps:
        try:
            step()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _try_certificate(listen: "Listen", file: Path, index: int) -> None:
    try:
        listen.load_certificate()
    except ConfigError as error:
        raise ConfigError(f"{where(file, ('gateway', 'listen', index))}: {error}") from None


def _try_key_set(source: str, file: Path) -> None:
    """Read an issuer's key set if it is a file. A URL is not fetched."""
    if url_of(source) is not None:
        return
    place = where(file, ("login", "oidc", "jwks"))
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{place}: {source}: {error.strerror}; write the path of the issuer's key set") from None
    with needing("login", "[login]"):
        from gatelink.auth.methods.jwks import parse_keys
    try:
        parse_keys(data)
    except ValueError as error:
        raise ConfigError(f"{place}: {source} is no key set of signature keys (RFC 7517): {error}") from None


async def _try_tokens(settings: Settings) -> None:
    from gatelink.cluster.engines.memory import MemoryEngine

    async with MemoryEngine() as engine, open_tokens(settings, engine, issues=settings.login is not None):
        pass
