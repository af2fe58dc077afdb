"""`gatelink gateway`: run one gateway of a cluster."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink import tasks
from gatelink.cli.member import admin_at, check_index, member_of
from gatelink.cli.options import AdminAt, Advertise, Config, Dev, Id, Index, Inner, LogLevel
from gatelink.cli.running import end_if_replaced, prepared, run_to_end
from gatelink.errors import ConfigError
from gatelink.ops import readiness

if TYPE_CHECKING:
    from gatelink.cluster.gateway import Gateway

LOOK_EVERY = 0.05
"""Seconds between two looks at what a gateway still lacks."""

Outer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        envvar="GATELINK_OUTER",
        help="How clients reach this one, tcp://host:port; instead of `outer`. Repeatable; with spaces between in the "
        "environment.",
    ),
]


def gateway(
    config: Config,
    index: Index = 1,
    id: Id = None,
    inner: Inner = None,
    advertise: Advertise = None,
    admin: AdminAt = None,
    outer: Outer = None,
    dev: Dev = False,
    log_level: LogLevel = None,
) -> None:
    """Run one gateway of a cluster until SIGTERM or SIGINT.

    On the first signal it accepts no more players, and asks its players to go to other gateways within
    `gateway.drain_seconds`. On a second one it stops at once. Exit status: 0 it stopped at a signal, 1 the engine is
    away at the start, 78 it can't run as configured, 3 a newer server took its id.
    """
    settings = prepared(config, dev, log_level)
    if settings.gateway is None:
        raise ConfigError(f"{config} has no [gateway]")
    check_index("gateway", index, settings.gateway.count)

    async def run() -> None:
        from gatelink.cluster.gateway import Gateway
        from gatelink.cluster.routes import Routes
        from gatelink.settings import build_expiry, build_listen, build_rules, open_tokens, server_keys

        section = settings.gateway
        assert section is not None
        server_id = id or section.first_id + index - 1
        async with (
            member_of(settings, section, f"gateway-{server_id}", server_id, index, inner, advertise) as member,
            open_tokens(settings, member.authentic_engine, issues=False) as tokens,
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
                end_with_tokens=settings.tokens.end_sessions,
                expiry=build_expiry(settings),
                source=section.source,
                admin=admin or admin_at(section.admin, index),
                drain_seconds=section.drain_seconds,
                close_unknown=section.close_unknown,
                resume_plain=dev,
            )
            await server.serve(lambda: tasks.keep(_tell(server), "readiness"))
            end_if_replaced(server)

    run_to_end(run())


async def _tell(server: "Gateway") -> None:
    """Say that the gateway is ready, once players can use it: it is linked with the services that it needs."""
    while server.trouble:  # noqa: ASYNC110 - it has several causes, and no event for their end
        await asyncio.sleep(LOOK_EVERY)
    addresses = server.outer or tuple(map(str, server.endpoints[:-1]))  # the last one is for other servers
    readiness.tell(connect=" ".join(addresses), admin=server.admin_address)
