"""The command line: `gatelink COMMAND`, one file for each command. Heavy modules are imported inside the commands."""

import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gatelink import _command
from gatelink.cli.accounts import accounts
from gatelink.cli.config import config
from gatelink.cli.conform import conform
from gatelink.cli.decode import decode
from gatelink.cli.gateway import gateway
from gatelink.cli.keys import keys
from gatelink.cli.kick import kick
from gatelink.cli.login import login
from gatelink.cli.messages import messages
from gatelink.cli.new import new
from gatelink.cli.robots import robots
from gatelink.cli.serve import serve
from gatelink.cli.service import service
from gatelink.cli.sessions import sessions
from gatelink.cli.top import top
from gatelink.cli.up import up
from gatelink.cli.version import version
from gatelink.errors import ConfigError


class Commands(TyperGroup):
    """The commands, whose help is one screen: of the two options for completion it names the one that people need."""

    def get_params(self, ctx: Any) -> list[Any]:  # the types are click's, which typer has under a private name
        params: list[Any] = list(super().get_params(ctx))
        for each in params:
            if "--show-completion" in each.opts:
                each.hidden = True
        return params


app = typer.Typer(
    name="gatelink",
    cls=Commands,
    help="The connection tier of an online game, chat or device backend. Start with: gatelink new mygame",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions."),
    ] = False,
) -> None:
    pass  # `--version` ends the program before any command


RUN: dict[Callable[..., None], str] = {
    new: "Make a small project: server, page, robots, test.",
    serve: "Run a server.",
    up: "Run a whole cluster on this machine.",
    gateway: "Run one gateway of a cluster.",
    service: "Run one service of a cluster.",
    login: "Run the login service: tokens, and a gateway's address.",
}
OPERATE: dict[Callable[..., None], str] = {
    top: "Show a running cluster until q or Ctrl-C.",
    sessions: "List a user's sessions at all gateways.",
    kick: "End a user's sessions and tokens, at all gateways.",
    robots: "Load-test a server with robots that check its answers.",
    conform: "Prove an SDK against a scripted server on a breaking path.",
    decode: "Show what the bytes of frames mean; tokens, too.",
}
GROUPS: dict[typer.Typer, str] = {
    messages: "Export a catalog, compare two, or make TypeScript of one.",
    keys: "Make the keys of servers and clusters; show the public parts.",
    accounts: "Upgrade the accounts' database; make or disable accounts.",
    config: "Check a configuration file, and show all its settings.",
}

for panel, commands in (("Run", RUN), ("Operate and test", OPERATE)):
    for command, text in commands.items():
        app.command(rich_help_panel=panel, short_help=text)(command)
for group, text in GROUPS.items():
    app.add_typer(group, rich_help_panel="Operate and test", short_help=text)
app.command(hidden=True)(version)  # `--version` is its better known name


def main() -> None:
    """The `gatelink` command. A ConfigError gives one line and exit status 78 (EX_CONFIG), which nothing else uses."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path need not be UTF-8
    try:
        _command.imported()
        app()
    except KeyboardInterrupt:  # before the command itself has begun
        sys.exit(128 + signal.SIGINT)
    except ConfigError as error:
        from gatelink.ops import logs, process

        process.ends_with(os.EX_CONFIG)
        logs.say(f"gatelink: {error}")
        sys.exit(os.EX_CONFIG)
