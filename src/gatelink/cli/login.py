"""`gatelink login`: run the login service alone."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.errors import ConfigError, GatelinkError, needing
from gatelink.logger import Logger
from gatelink.ops.logs import Format, Level, configure

if TYPE_CHECKING:
    from gatelink.cluster.engine import Engine
    from gatelink.settings import Settings

log = Logger("gatelink.login.http")

DEV_DATABASE = "gatelink-dev.db"
DEV_GATEWAY = "tcp://127.0.0.1:7000"

PATIENCE = 4.0
"""Seconds that a step of a login waits for the engine. NATS takes 4 to 9 s to elect a leader."""


def login(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file with a [login] section, as cluster.toml.")
    ] = None,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev",
            help=f"For development. Secrets may be missing. Without --config, accounts are in {DEV_DATABASE} here, all "
            f"else is in memory, and players are sent to {DEV_GATEWAY}.",
        ),
    ] = False,
    listen: Annotated[
        str | None, typer.Option(metavar="URL", help="http://host:port, instead of the configuration's.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="GATELINK_ADMIN",
            help="Serve /metrics, /healthz and /livez there, as plain HTTP.",
        ),
    ] = None,
    log_format: Annotated[
        Format | None, typer.Option(help="Format of the log, which goes to standard error.", show_default="console")
    ] = None,
    log_level: Annotated[
        Level | None, typer.Option(help="Log this level and those above it.", show_default="info")
    ] = None,
) -> None:
    """Run the login service, which gives players a token and a gateway's address, until SIGTERM or SIGINT.

    The log's line "started" has its address, and /docs at that address describes its HTTP API. For TLS put a reverse
    proxy in front of it (docs/login.md).

    Exit status: 0 it stopped at a signal, 1 the engine or the database is away at the start, or the cluster's other
    logins have another database, 78 it can't run as configured.
    """
    if config is None and not dev:
        raise ConfigError("login needs --config FILE, or --dev to try it")
    from gatelink.cli.engine import engine_of
    from gatelink.cluster.engines.memory import MemoryEngine
    from gatelink.settings import load

    settings = load(config, dev=dev) if config is not None else _dev_settings()
    if settings.login is None:
        raise ConfigError(f"{config} has no [login]; add the section, with nothing in it for the defaults")
    patience = max(PATIENCE, settings.engine.timeout)
    engine = engine_of(settings, "login", patience=patience) if config is not None else MemoryEngine()
    with needing("login", "login"):
        import gatelink.login.from_settings  # noqa: F401
    configure(log_format or settings.logs.format, log_level or settings.logs.level)
    from gatelink.ops import logs, process

    process.prepare()
    try:
        process.run(_serve(settings, engine, listen, admin, is_alone=config is None))
    except ConfigError:
        raise
    except GatelinkError as error:  # the engine or the database, at the start
        logs.say(f"gatelink: {error}")
        raise typer.Exit(1) from None


def _dev_settings() -> "Settings":
    from gatelink.settings import AccountSettings, DatabaseUrl, EngineSettings, LoginSettings, Settings, StaticServer

    return Settings(
        engine=EngineSettings(url="memory"),
        accounts=AccountSettings(url=DatabaseUrl(f"sqlite:///{DEV_DATABASE}")),
        login=LoginSettings(servers=(StaticServer(name="dev", id=1, addresses=(DEV_GATEWAY,)),)),
    )


async def _serve(settings: "Settings", engine: "Engine", listen: str | None, admin: str | None, is_alone: bool) -> None:
    import msgspec

    from gatelink.login.from_settings import open_login
    from gatelink.ops import logs, process, readiness
    from gatelink.settings import login_keys

    if listen is not None:
        assert settings.login is not None
        changed = msgspec.structs.replace(settings.login, listen=listen)
        settings = msgspec.structs.replace(settings, login=changed)
    asked = asyncio.Event()
    calls = {signal.SIGTERM: asked.set, signal.SIGINT: asked.set, signal.SIGHUP: logs.reopen}
    grace = settings.limits.close_timeout
    with process.signals(calls, at_once=lambda: process.stop_within(grace)):
        async with engine:
            if not is_alone and not login_keys(settings):
                fix = "give login.key what `gatelink keys login` makes"
                log.warning("tokens are not authenticated: gateways of a cluster refuse them", fix=fix)
            async with open_login(settings, engine, admin=admin) as service:
                readiness.tell(login=service.url)
                await asked.wait()
