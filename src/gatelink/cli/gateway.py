"""`gatelink gateway`: run one gateway of a cluster."""

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

Outer = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="How clients reach this one, tcp://host:port; instead of `outer`. Repeatable."),
]


def gateway(
    config: Config,
    index: Index = 1,
    id: Id = None,
    inner: Inner = None,
    outer: Outer = None,
    dev: Dev = False,
) -> None:
    """Run one gateway of a cluster until SIGTERM or SIGINT.

    On the first signal it accepts no more players, and asks its players to go to other gateways within
    `gateway.drain_seconds`. On a second one it stops at once. Exit status: 0 it was told to stop, 1 the engine is away
    at the start, 78 it can't run as configured, 3 a newer server took its id.
    """
    from gatelink.errors import ConfigError
    from gatelink.ops import process
    from gatelink.ops.logs import configure
    from gatelink.settings import load

    process.prepare()
    settings = load(config, dev=dev)
    configure(settings.logs.format, settings.logs.level)
    if settings.gateway is None:
        raise ConfigError(f"{config} has no [gateway]")
    check_index("gateway", index, settings.gateway.count)

    async def run() -> None:
        from gatelink.cluster.gateway import Gateway
        from gatelink.cluster.routes import Routes
        from gatelink.settings import build_listen, build_rules, open_tokens, server_keys

        section = settings.gateway
        assert section is not None
        server_id = id or section.first_id + index - 1
        where = inner or at(section.inner, index)
        reached = advertised_at(section.advertise, index, inner)
        async with (
            member_of(settings, f"gateway-{server_id}", server_id, where, reached) as member,
            open_tokens(settings, member.engine, issues=False) as tokens,
        ):
            server = Gateway(
                *build_listen(section, index - 1),
                member=member,
                tokens=tokens,
                routes=Routes(settings.routes),
                rules=build_rules(settings),
                outer=tuple(outer) if outer else section.outer,
                limits=settings.limits,
                wire=settings.wire,
                keys=server_keys(settings),
                sealed_only=section.sealed_only,
                source=section.source,
                admin=admin_at(section.admin, index),
                drain_seconds=section.drain_seconds,
            )
            await server.serve()
            end_if_replaced(server)

    run_to_end(run())
