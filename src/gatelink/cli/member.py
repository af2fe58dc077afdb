"""A process of a cluster, as its section of the configuration and the command line say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatelink.cli.engine import engine_of
from gatelink.cluster.membership import Membership
from gatelink.errors import ConfigError
from gatelink.settings import Settings, cluster_keys
from gatelink.settings.sections import GatewaySettings, ServiceSettings, shifted


@asynccontextmanager
async def member_of(
    settings: Settings,
    section: GatewaySettings | ServiceSettings,
    name: str,
    id: int,
    index: int,
    inner: str | None,
    advertise: str | None,
) -> AsyncIterator[Membership]:
    """The membership of the section's process `index`, whose engine runs during the block.

    inner, advertise: from the command line, instead of the section's. Raises ConfigError, EngineUnavailable.
    """
    async with engine_of(settings, name) as engine:
        yield Membership(
            engine=engine,
            keys=cluster_keys(settings),
            id=id,
            inner=inner or at(section.inner, index),
            advertise=advertise or advertised_at(section.advertise, index, inner),
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
