"""`gatelink service`: run one service of a cluster."""

from typing import Annotated

import typer

from gatelink.cli.loading import load_service
from gatelink.cli.member import admin_at, check_index, member_of
from gatelink.cli.options import AdminAt, Advertise, Config, Dev, Id, Index, Inner, LogLevel
from gatelink.cli.running import end_if_replaced, prepared, run_to_end
from gatelink.ops import readiness


def service(
    service: Annotated[
        str, typer.Argument(metavar="MODULE:SERVICE", help="A Service object, as mygame.lobby:service.")
    ],
    config: Config,
    index: Index = 1,
    id: Id = None,
    inner: Inner = None,
    advertise: Advertise = None,
    admin: AdminAt = None,
    dev: Dev = False,
    log_level: LogLevel = None,
) -> None:
    """Run one service of a cluster until SIGTERM or SIGINT.

    Its settings are in the section [services.NAME] of the configuration; NAME is the name of the Service. On the first
    signal its players go to other services of its type. On a second one it stops at once. Exit status: 0 it stopped at
    a signal, 1 the engine is away at the start, 78 it can't run as configured, 3 a newer server took its id.
    """
    settings = prepared(config, dev, log_level)
    found = load_service(service, None, settings.services, config)
    section = settings.services[found.name]
    check_index(f"services.{found.name}", index, section.count)

    async def run() -> None:
        server_id = id or section.ids[index - 1]
        async with member_of(
            settings, section, f"{found.name}-{server_id}", server_id, index, inner, advertise
        ) as member:
            found.member = member
            if (where_admin := admin or admin_at(section.admin, index)) is not None:
                found.admin = where_admin
            await found.serve(lambda: readiness.tell(admin=found.admin_address))
            end_if_replaced(found)

    run_to_end(run())
