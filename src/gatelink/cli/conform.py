"""`gatelink conform`: prove an SDK with the conformance kit."""

import sys
from typing import Annotated, Literal

import typer

from gatelink.errors import ConfigError

PASSED, FAILED, NOT_RUN = 0, 1, 2


def conform(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="The driver: a program around the SDK.", show_default=False),
    ] = None,
    transport: Annotated[Literal["tcp", "ws"], typer.Option(help="How the client connects.")] = "tcp",
    sealed: Annotated[
        bool, typer.Option("--sealed", help="With the server's key: the connections are sealed.")
    ] = False,
    steps: Annotated[str, typer.Option(metavar="NAMES", help="Only these steps or groups, separated by commas.")] = "",
    short: Annotated[bool, typer.Option("--short", help="Without the slow steps.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the steps and their promises, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the report to standard output, as JSON.")] = False,
    patience: Annotated[
        float, typer.Option(min=0.5, metavar="SECONDS", help="How long a step waits for anything that is due.")
    ] = 5.0,
) -> None:
    """Prove an SDK: drive its test program against a scripted server on a breaking path.

    COMMAND is started once; it is told what to do in lines of JSON on its standard input, and says in lines of JSON on
    its standard output what happened (docs/conformance.md). Each step checks one promise, and that every message
    arrives once and in order.

    Exit status: 0 every step passed or was skipped, 1 a step failed, 2 the driver can't be run as given.
    """
    from rich.console import Console

    from gatelink.conformance import report as reports
    from gatelink.conformance import run as runs
    from gatelink.conformance.driver import DriverFailed
    from gatelink.ops import process

    console = Console(stderr=json, highlight=False)
    try:
        chosen = runs.select([name.strip() for name in steps.split(",") if name.strip()], short, transport)
        if listed:
            for step in chosen:
                console.print(f"[bold]{step.name}[/]{' (slow)' if step.slow else ''}: {step.promise}", soft_wrap=True)
            raise typer.Exit(PASSED)
        if not command:
            raise ConfigError("give the driver's command behind --: gatelink conform -- node driver.js")
        with console.status("the driver starts") as status:

            def on_verdict(verdict: reports.Verdict) -> None:
                status.update(f"{verdict.step} {verdict.outcome}")

            running = runs.run(
                command, chosen, transport=transport, sealed=sealed, patience=patience, on_verdict=on_verdict
            )
            report = process.run(running)
    except (DriverFailed, ConfigError) as error:
        print(f"gatelink: {error}", file=sys.stderr)
        raise typer.Exit(NOT_RUN) from None
    console.print(reports.table(report))
    if json:
        sys.stdout.write(report.json().decode() + "\n")
    raise typer.Exit(PASSED if report.held else FAILED)
