"""The command line: `gatelink COMMAND`, one file for each command. Heavy modules are imported inside the commands."""

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from gatelink.cli.accounts import accounts
from gatelink.cli.config import config
from gatelink.cli.decode import decode
from gatelink.cli.gateway import gateway
from gatelink.cli.keys import keys
from gatelink.cli.login import login
from gatelink.cli.robots import robots
from gatelink.cli.serve import serve
from gatelink.cli.service import service
from gatelink.cli.top import top
from gatelink.cli.up import up
from gatelink.cli.version import version
from gatelink.errors import ConfigError

app = typer.Typer(
    name="gatelink",
    help="The connection tier of an online game, chat or device backend.",
    epilog="Start with: gatelink serve MODULE:SERVER",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # the only one that reflows a docstring
    pretty_exceptions_enable=False,  # its tracebacks can show locals, which hold tokens; Python's own never do
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the versions, as the command `version`."
        ),
    ] = False,
) -> None:
    pass  # `--version` ends the program before any command


for command in (serve, up, top, gateway, service, login, robots, decode, version):
    app.command()(command)
app.add_typer(keys)
app.add_typer(accounts)
app.add_typer(config)


def main() -> None:
    """The `gatelink` command. A ConfigError gives one line and exit status 78 (EX_CONFIG), which nothing else uses."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path need not be UTF-8
    try:
        app()
    except ConfigError as error:
        from gatelink.ops import logs, process

        process.ends_with(os.EX_CONFIG)
        logs.say(f"gatelink: {error}")
        sys.exit(os.EX_CONFIG)
