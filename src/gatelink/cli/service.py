"""`gatelink service`: run one service of a cluster."""

from typing import Annotated

import typer

from gatelink.cli.common import (
    Config,
    Dev,
    Id,
    Index,
    Inner,
    admin_at,
    advertised_at,
    at,
    check_index,
    end_if_replaced,
    member_of,
    run_to_end,
)
from gatelink.cli.loading import load_service


def service(
    service: Annotated[
        str, typer.Argument(metavar="MODULE:SERVICE", help="A Service object, as mygame.lobby:service.")
    ],
    config: Config,
    index: Index = 1,
    id: Id = None,
    inner: Inner = None,
    dev: Dev = False,
) -> None:
    """Run one service of a cluster until SIGTERM or SIGINT.

    Its settings are in the section [services.NAME] of the configuration; NAME is the name of the Service. On the first
    signal its players go to other services of its type. On a second one it stops at once. Exit status: 0 it was told to
    stop, 1 the engine is away at the start, 78 it can't run as configured, 3 a newer server took its id.
    """
    from gatelink.ops import process
    from gatelink.ops.logs import configure
    from gatelink.settings import load

    process.prepare()
    settings = load(config, dev=dev)
    configure(settings.logs.format, settings.logs.level)
    found = load_service(service, None, settings.services, config)
    section = settings.services[found.name]
    check_index(f"services.{found.name}", index, section.count)

    async def run() -> None:
        server_id = id or section.ids[index - 1]
        name = f"{found.name}-{server_id}"
        where = inner or at(section.inner, index)
        reached = advertised_at(section.advertise, index, inner)
        async with member_of(settings, name, server_id, where, reached) as member:
            found.member = member
            if section.admin is not None:
                found.admin = admin_at(section.admin, index)
            await found.serve()
            end_if_replaced(found)

    run_to_end(run())
