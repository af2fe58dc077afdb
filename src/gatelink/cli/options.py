"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from gatelink.ops.logs import Level

Config = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", help="The cluster's configuration, as cluster.toml.", show_default=False),
]
Index = Annotated[
    int,
    typer.Option(
        min=1,
        help="Which of the section's `count` processes this is: the n-th has the n-th server id, and adds n - 1 to the "
        "ports of the configuration. Use it for several processes on one machine.",
    ),
]
Id = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Its server id, instead of the one that --index gives; --index then only changes the ports. Use it alone "
        "for one process a machine: the ports stay.",
    ),
]
Inner = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="GATELINK_INNER",
        help="Where the cluster's other servers connect, tcp://host:port; instead of `inner`.",
    ),
]
Advertise = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="GATELINK_ADVERTISE",
        help="How they reach it, tcp://host:port, if not where it listens; instead of `advertise`.",
    ),
]
AdminAt = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="HOST:PORT",
        envvar="GATELINK_ADMIN",
        help="Where it serves /metrics, /healthz and /livez; instead of `admin`.",
    ),
]
ONE_PROCESS = ("GATELINK_INNER", "GATELINK_ADVERTISE", "GATELINK_OUTER", "GATELINK_ADMIN")
"""Environment variables with addresses of one process: not for the many that `gatelink up` starts."""

LogLevel = Annotated[
    Level | None, typer.Option(help="Log this level and those above it, instead of `logs.level`.", show_default=False)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Log only warnings and errors. A terminal still shows where to connect.")
]
Uid = Annotated[int, typer.Argument(metavar="UID", min=0, max=2**64 - 1, help="The user's uid.", show_default=False)]
Dev = Annotated[
    bool,
    typer.Option("--dev", help="For development: missing secrets are made up, and sessions resume without TLS, too."),
]
