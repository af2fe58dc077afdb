"""A process's part of a configuration, for `gatelink gateway`, `service`, `top` and `up`."""

import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from gatelink.cluster.cluster import Membership
from gatelink.cluster.engine import Engine, EngineUnavailable
from gatelink.errors import ConfigError, needing
from gatelink.ops import logs
from gatelink.settings import Settings, build_engine, cluster_keys
from gatelink.settings.sections import shifted

if TYPE_CHECKING:
    from gatelink.cluster.gateway import Gateway
    from gatelink.cluster.service import Service

ENGINE_URL = "GATELINK_ENGINE_URL"
"""The environment variable with the URL, password included, of the engine that `gatelink up` runs for its children."""

Config = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", help="The cluster's configuration, as cluster.toml.", show_default=False),
]
Index = Annotated[int, typer.Option(min=1, help="Which of the section's `count` processes this is.")]
Id = Annotated[
    int | None,
    typer.Option(
        min=1, help="Its server id, instead of the one that --index gives; --index then only changes the ports."
    ),
]
Inner = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the cluster's other servers connect, tcp://host:port; instead of `inner`."),
]
Dev = Annotated[bool, typer.Option("--dev", help="For development: missing secrets are made up.")]


def url_file(settings: Settings) -> Path:
    """Where `gatelink up` writes that URL for commands that are not its children. Only its user can read the file."""
    return settings.engine.data / "url"


def engine_of(settings: Settings, name: str) -> Engine:
    """The engine, not started. Raises ConfigError for an engine that no other process can reach."""
    if settings.engine.url == "embedded":
        with needing("cluster", "engine.url"):
            from gatelink.cluster.engines.nats import NatsEngine
        url = os.environ.get(ENGINE_URL) or _url_of_up(settings)
        return NatsEngine([url], name=name, timeout=settings.engine.timeout, bucket=settings.cluster.name)
    if settings.engine.url == "memory":
        raise ConfigError(
            "engine.url is memory, which only this process can reach; start the cluster with engine.url = "
            '"embedded" and `gatelink up`, or give the URL of a nats-server that all its processes reach'
        )
    return build_engine(settings, name)


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


def end_if_replaced(server: "Gateway | Service") -> None:
    """End the process with its own exit status, after a server that was replaced has stopped."""
    if server.is_replaced:
        logs.say(f"gatelink: another server has the id {server.id}; give each its own")
        from gatelink.ops.supervisor import REPLACED

        raise typer.Exit(REPLACED)


def run_to_end(process: Coroutine[Any, Any, None]) -> None:
    """Run a process of the cluster to its end. An engine that is away at the start gives a line and exit status 1."""
    from gatelink.ops.process import run

    try:
        run(process)
    except EngineUnavailable as error:
        logs.say(f"gatelink: the engine (engine.url) can't be used: {error}")
        raise typer.Exit(1) from None


@asynccontextmanager
async def member_of(settings: Settings, name: str, id: int, inner: str, advertise: str) -> AsyncIterator[Membership]:
    """A membership whose engine runs during the block. Raises ConfigError, EngineUnavailable."""
    async with engine_of(settings, name) as engine:
        yield Membership(
            engine=engine,
            keys=cluster_keys(settings),
            id=id,
            inner=inner,
            advertise=advertise,
            types=["gateway", *settings.services],
        )


def at(endpoint: str, index: int) -> str:
    """The endpoint of the process of that index, from 1."""
    return shifted(endpoint, index - 1)


def advertised_at(advertise: str | None, index: int, inner: str | None) -> str:
    """The address where the process of that index is reached; "" if it is reached where it listens.

    inner: the endpoint from the command line, which replaces `advertise`.
    """
    return at(advertise, index) if advertise and not inner else ""


def admin_at(admin: str | None, index: int) -> str | None:
    """The admin endpoint, host:port, of the process of that index, from 1."""
    return at(f"tcp://{admin}", index).removeprefix("tcp://") if admin else None


def check_index(section: str, index: int, count: int) -> None:
    """Raises ConfigError for a process that the configuration does not have."""
    if index > count:
        raise ConfigError(f"--index {index}, but {section}.count is {count}")
