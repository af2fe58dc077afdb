"""The engine of a cluster that runs, as its commands reach it."""

import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine import Engine
from gatelink.cluster.engine_keys import EngineKey
from gatelink.errors import ConfigError, needing
from gatelink.settings import Settings, build_engine, cluster_keys, login_keys
from gatelink.settings.secret import DEV_SECRET

if TYPE_CHECKING:
    from gatelink.cluster.kicks import ClusterUsers

ENGINE_URL = "GATELINK_ENGINE_URL"
"""The environment variable with the URL, password included, of the engine that `gatelink up` runs for its children."""


def url_file(settings: Settings) -> Path:
    """Where `gatelink up` writes the URL of the engine, for other commands of the same user. Others can't read it."""
    return settings.engine.data / "url"


def dev_secret_file(settings: Settings) -> Path:
    """Where `gatelink up --dev` writes what its secrets are made up from, for its next run and for other commands."""
    return settings.engine.data / "dev-secret"


def take_dev_secret(settings: Settings) -> bool:
    """Make up secrets from what the latest `gatelink up --dev` made up its own from. Returns whether it does so now."""
    if os.environ.get(DEV_SECRET):
        return False
    with suppress(OSError, UnicodeDecodeError):
        os.environ[DEV_SECRET] = dev_secret_file(settings).read_text()
    return bool(os.environ.get(DEV_SECRET))


def engine_of(settings: Settings, name: str, *, checks_clock: bool = True, patience: float | None = None) -> Engine:
    """The engine, not started. Raises ConfigError for an engine that no other process can reach.

    With the engine of a `gatelink up --dev`, secrets that are revealed after this call are made up as its own are.
    checks_clock, patience: as for `build_engine`.
    """
    if settings.engine.url == "embedded":
        take_dev_secret(settings)
        with needing("cluster", "engine.url"):
            from gatelink.cluster.engines.nats import NatsEngine
        url = os.environ.get(ENGINE_URL) or _url_of_up(settings)
        max_skew = settings.engine.max_skew if checks_clock else math.inf
        return NatsEngine(
            [url], name=name, timeout=settings.engine.timeout, bucket=settings.cluster.name, max_skew=max_skew
        )
    if settings.engine.url == "memory":
        raise ConfigError(
            "engine.url is memory, which only this process can reach; start the cluster with engine.url = "
            '"embedded" and `gatelink up`, or give the URL of a nats-server that all its processes reach'
        )
    return build_engine(settings, name, checks_clock=checks_clock, patience=patience)


def registry_engine_of(settings: Settings, engine: Engine) -> AuthenticEngine:
    """`engine` for reading the registry, with the key of a login service or else the cluster's. Raises ConfigError."""
    if settings.login is not None and not settings.login.key.is_missing:
        return AuthenticEngine(engine, [key.engine_key for key in login_keys(settings)])
    return AuthenticEngine(engine, [EngineKey.of(key) for key in cluster_keys(settings)])


def _url_of_up(settings: Settings) -> str:
    """The URL of the engine that a `gatelink up` of this configuration runs. Raises ConfigError."""
    path = url_file(settings)
    start = "start the cluster with `gatelink up`, or give engine.url a nats-server that all its processes reach"
    try:
        url = path.read_text()
        place = urlsplit(url)
        socket.create_connection((place.hostname, place.port), timeout=settings.engine.timeout).close()
    except FileNotFoundError:
        raise ConfigError(f"engine.url is embedded, but no cluster runs here: there is no {path}; {start}") from None
    except ConnectionRefusedError:
        raise ConfigError(f"nothing answers at the address in {path}: that cluster has ended; {start}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it does not hold a URL"
        raise ConfigError(f"the engine of {path} can't be reached: {why}; {start}") from None
    return url


@asynccontextmanager
async def users_of(settings: Settings, name: str) -> "AsyncIterator[ClusterUsers]":
    """The users of a running cluster, for a process that is none of its servers. Raises EngineUnavailable."""
    from gatelink.cluster.kicks import ClusterUsers
    from gatelink.cluster.registry import Registry

    found = engine_of(settings, name, checks_clock=False)  # first: it says what made-up secrets are made of
    async with AuthenticEngine(found, [EngineKey.of(key) for key in cluster_keys(settings)]) as engine:
        registry = Registry(engine)
        await registry.start()
        try:
            yield ClusterUsers(engine, registry)
        finally:
            await registry.close()
