"""What `gatelink gateway`, `service` and `up` share: a process's part of a configuration."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from gatelink.errors import ConfigError
from gatelink.group.engine import Engine
from gatelink.group.group import Membership
from gatelink.settings import Settings, build_engine, group_keys
from gatelink.settings.servers import shifted

ENGINE_URL = "GATELINK_ENGINE_URL"
"""The environment variable in which `gatelink up` gives its children the URL of its own engine, password and all."""

Config = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The group's configuration, as group.toml.", show_default=False)
]
Index = Annotated[int, typer.Option(min=1, help="Which of the section's `count` processes this is.")]
Dev = Annotated[bool, typer.Option("--dev", help="For development: secrets that are missing are made up.")]


def engine_of(settings: Settings, name: str) -> Engine:
    """The engine, not started. Raises ConfigError for one that only its own process would see."""
    given = os.environ.get(ENGINE_URL)
    if settings.engine.url == "embedded" and given:
        from gatelink.group.engines.nats import NatsEngine

        return NatsEngine([given], name=name, timeout=settings.engine.timeout, bucket=settings.group.name)
    if settings.engine.url in ("embedded", "memory"):
        raise ConfigError(
            f"engine.url is {settings.engine.url}, which this process alone would see; start the group with "
            "`gatelink up`, or give the URL of a nats-server that all its processes reach"
        )
    return build_engine(settings, name)


@asynccontextmanager
async def member_of(
    settings: Settings, name: str, id: int, inner: str, advertise: str | None
) -> AsyncIterator[Membership]:
    """A membership whose engine runs while the block does. Raises ConfigError, EngineUnavailable."""
    async with engine_of(settings, name) as engine:
        yield Membership(engine=engine, keys=group_keys(settings), id=id, inner=inner, advertise=advertise or "")


def at(endpoint: str, index: int) -> str:
    """Where the process of that index, from 1, listens."""
    return shifted(endpoint, index - 1)


def admin_at(admin: str | None, index: int) -> str | None:
    """The admin endpoint, host:port, of the process of that index, from 1."""
    return at(f"tcp://{admin}", index).removeprefix("tcp://") if admin else None


def check_index(section: str, index: int, count: int) -> None:
    """Raises ConfigError for a process that the configuration does not have."""
    if index > count:
        raise ConfigError(f"--index {index}, but {section}.count is {count}")
