"""`gatelink robots`: load-test a server with robots of the user's own scenario."""

import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.loading import load_class
from gatelink.errors import ConfigError

if TYPE_CHECKING:
    from gatelink.robots import LoadTest

LINE_EVERY = 5  # s between lines where there is no terminal


def robots(
    scenario: Annotated[
        str, typer.Argument(metavar="MODULE:SCENARIO", help="A subclass of gatelink.robots.Robot.", show_default=False)
    ],
    address: Annotated[
        str, typer.Option(metavar="URL", help="The server: tcp://host:port, tls://host:port or unix:///path.")
    ] = "tcp://127.0.0.1:7000",
    count: Annotated[int, typer.Option(min=1, help="Robots; each has its own session.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the run, with the ramp.")] = 20.0,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds over which the robots start, evenly.")] = 2.0,
    seed: Annotated[int, typer.Option(help="With the same seed, robots draw the same random numbers.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with plots of throughput and latency.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write only the summary to standard output, as JSON.")] = False,
) -> None:
    """Load-test a server with robots that check its answers.

    A scenario is a class with a run(): it connects, sends, expects, measures, and reports errors (docs/robots.md). A
    terminal shows a live table; elsewhere there is a line every five seconds. Ctrl-C ends the run early, with its
    summary.

    Exit status: 0 nothing failed, 1 a robot reported an error, 78 the command can't be run as given.
    """
    from gatelink.net.endpoints import parse_endpoint
    from gatelink.ops import process
    from gatelink.robots import LoadTest, Robot

    kind = load_class(scenario, Robot)
    parse_endpoint(address)
    if report is not None and not report.absolute().parent.is_dir():
        raise ConfigError(f"--report {report}: there is no directory {report.absolute().parent}")
    _allow_files(count)
    run = LoadTest(kind, address=address, count=count, seconds=seconds, ramp=ramp, seed=seed)
    started = datetime.now().astimezone()
    process.run(_watch(run, json))
    if report is not None:
        from gatelink.robots.report import report as page

        what = f"{count} robots for {seconds:g} s (ramp {ramp:g} s) against {address}, {started:%Y-%m-%d %H:%M:%S %Z}"
        report.write_text(page(run.tally, title=f"Robots: {scenario}", what=what), encoding="utf-8")
    if not run.tally.held:
        raise typer.Exit(1)


async def _watch(run: "LoadTest", json: bool) -> None:
    """Run the load test. Shows its progress, and its summary at the end."""
    import asyncio

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from gatelink.robots import display

    tally = run.tally
    console = Console(stderr=json, highlight=False)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    if console.is_terminal:

        def table() -> Table:
            return display.live(tally, len(run.robots), run.seconds)

        with Live(table(), console=console, auto_refresh=False, transient=True) as live:
            await run.run(lambda: live.update(table(), refresh=True))
    else:

        def on_second() -> None:
            if round(tally.elapsed) % LINE_EVERY == 0:
                console.print(display.line(tally), soft_wrap=True)

        await run.run(on_second)
    console.print(display.summary(tally, len(run.robots)))
    if tally.errors:
        console.print(display.errors(tally), style="red", markup=False, soft_wrap=True)
    if json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(tally.summary()).decode() + "\n")


def _allow_files(count: int) -> None:
    """Allow this process a socket for each of `count` robots. Raises ConfigError over the hard limit."""
    from gatelink.ops import process

    needed, allowed = process.allow_files(count)
    if allowed < needed:
        raise ConfigError(f"{count} robots need {needed} open files, and {allowed} are allowed; raise ulimit -Hn")
