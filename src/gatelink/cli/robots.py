"""`gatelink robots`: load-test a server with robots of the user's own scenario."""

import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from gatelink.cli.loading import load_class
from gatelink.errors import ConfigError, counted, needing

if TYPE_CHECKING:
    from gatelink.robots import LoadTest
    from gatelink.robots.bounds import Bound

LINE_EVERY = 5  # s between lines where there is no terminal


def robots(
    scenario: Annotated[
        str, typer.Argument(metavar="MODULE:SCENARIO", help="A subclass of gatelink.robots.Robot.", show_default=False)
    ],
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The server, as tcp://, tls://, ws:// or wss://host:port, or unix:///path. Several share the robots. "
            "\\[default: tcp://127.0.0.1:7000]",
        ),
    ] = None,
    login: Annotated[
        str, typer.Option(metavar="URL", help="A login service, in place of addresses: each robot is a guest there.")
    ] = "",
    server_key: Annotated[
        str, typer.Option(metavar="HEX", help="The servers' public key: the robots' connections are sealed.")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="Robots; each has its own session.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the run, with the ramp.")] = 20.0,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds over which the robots start, evenly.")] = 2.0,
    seed: Annotated[int, typer.Option(help="With the same seed, robots draw the same random numbers.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with plots of throughput and latency.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Show this earlier report beside the new one, on the same scales."),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOUND",
            help="Fail if a latency is longer: p99=50ms for each one, say.p95=20ms for one. Figures: p50, p95, p99, "
            "longest; units: us, ms, s. Repeatable.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write only the summary to standard output, as JSON.")] = False,
) -> None:
    """Load-test a server with robots that check its answers.

    A scenario is a class with a run(): it connects, sends, expects, measures, and reports errors (docs/robots.md). A
    terminal shows a live table; elsewhere there is a line every five seconds. Ctrl-C ends the run early, with its
    summary.

    Exit status: 0 nothing failed, 1 a robot reported an error or a bound was not kept, 78 the command can't be run as
    given.
    """
    from gatelink.net.endpoints import parse_endpoint
    from gatelink.ops import logs, process
    from gatelink.robots import LoadTest, Options, Robot
    from gatelink.robots.bounds import Bound
    from gatelink.robots.record import Record, read
    from gatelink.wire.keys import key_from_hex

    kind = load_class(scenario, Robot)
    addresses = address or ([] if login else ["tcp://127.0.0.1:7000"])
    for each in addresses:
        parse_endpoint(each)
    if login and address:
        raise ConfigError("give either --address or --login; the login service names the addresses")
    if login:
        with needing("client", "--login"):
            from gatelink.login.client import LoginClient
        LoginClient(login)  # raises ConfigError for what is no URL
    options: Options = {"login": login} if login else {"address": addresses}
    if server_key:
        options["server_key"] = key_from_hex("--server-key", server_key)
    bounds = [Bound.parse(each) for each in fail_over or ()]
    if beside is not None and report is None:
        raise ConfigError(f"--beside {beside} needs --report FILE.html, the page that shows both")
    earlier = read(beside) if beside is not None else None
    if report is not None and not report.absolute().parent.is_dir():
        raise ConfigError(f"--report {report}: there is no directory {report.absolute().parent}")
    _allow_files(count)
    run = LoadTest(kind, count=count, seconds=seconds, ramp=ramp, seed=seed, **options)
    hangs_up = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL  # nohup has it ignored
    started = datetime.now().astimezone()

    async def watch() -> bool:
        """Run it, and write the report: nothing runs after a robot that does not end. Returns whether it held."""
        over = await _watch(run, json, bounds, hangs_up)
        if report is not None:
            from gatelink.robots.report import report as page

            where = f"the cluster of {urlsplit(login).hostname}" if login else ", ".join(addresses)
            run_of = f"{counted(count, 'robot')} for {seconds:g} s (ramp {ramp:g} s)"
            what = f"{run_of} against {where}, {started:%Y-%m-%d %H:%M:%S %Z}"
            record = Record.of(run.tally, title=f"Robots: {scenario}", what=what, ended=run.ended, exceeded=over)
            report.write_text(page(record, earlier), encoding="utf-8")
        held = run.tally.held and not over
        process.ends_with(0 if held else 1)
        return held

    logs.configure(level="warning")
    if not process.run(watch()):
        raise typer.Exit(1)


async def _watch(run: "LoadTest", json: bool, bounds: "Sequence[Bound]", hangs_up: bool) -> list[str]:
    """Run the load test, and show its progress and its summary. Returns the bounds that were not kept, in words.

    hangs_up: end the run when the terminal is closed.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from gatelink.ops import process
    from gatelink.robots import display
    from gatelink.robots.bounds import exceeded
    from gatelink.robots.load_test import ENDING

    tally = run.tally
    console = Console(stderr=json, highlight=False)
    signals_seen = 0

    def set_deadline() -> None:
        nonlocal signals_seen
        signals_seen += 1
        process.stop_within(ENDING if signals_seen == 1 else 0.0)

    def table() -> Table:
        return display.live(tally, len(run.robots), run.seconds)

    def on_second() -> None:
        if round(tally.elapsed) % LINE_EVERY == 0:
            console.print(display.line(tally), soft_wrap=True)

    ends = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]
    with process.signals(dict.fromkeys(ends, run.stop), at_once=set_deadline):
        if console.is_terminal:
            with Live(table(), console=console, auto_refresh=False, transient=True) as live:
                await run.run(lambda: live.update(table(), refresh=True))
        else:
            await run.run(on_second)
    console.print(display.summary(tally, len(run.robots)))
    if run.ended:
        console.print(run.ended, markup=False, soft_wrap=True)
    over = exceeded(bounds, tally.latencies)
    for line in over:
        console.print(f"over {line}", style="red", markup=False, soft_wrap=True)
    if tally.errors:
        console.print(display.errors(tally), style="red", markup=False, soft_wrap=True)
    if json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(tally.summary()).decode() + "\n")
    return over


def _allow_files(count: int) -> None:
    """Allow this process a socket for each of `count` robots. Raises ConfigError over the hard limit."""
    from gatelink.ops import process

    needed, allowed = process.allow_files(count)
    if allowed < needed:
        robots = counted(count, "robot")
        raise ConfigError(f"{robots} would need {needed} open files, and {allowed} are allowed; raise ulimit -Hn")
