"""Throughput, latency and processor time of an echo at five points, each beside the limit of this machine.

    python -m benchmarks.run [--rounds 5] [--seconds 3] [--json FILE] [--server-command 'COMMAND {port}']

The method is in benchmarks/README.md.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.harness import (
    HOST,
    SERVER_COMMAND,
    BenchmarkError,
    allow_files,
    built,
    cores,
    cpu_seconds,
    describe_environment,
    environment,
    guarded,
    pinned,
    serving,
    wait_until_idle,
)
from gatelink import _native

ECHO = 20_001  # the message that is echoed
BUSY = 0.9  # share of a core above which the generator, not the server, was measured
VERIFYING = 60.0  # s that the generator waits for all its connections to be verified
REPORT = re.compile(r"msgs/s=(\d+) p50=(\d+)us p99=(\d+)us .*loadgen_cpu=([\d.]+)")


class Point(NamedTuple):
    """One load: how many connections, how many messages each keeps in flight, bytes of body."""

    conns: int
    depth: int
    body: int


POINTS = (Point(1, 1, 64), Point(100, 1, 64), Point(1000, 1, 64), Point(100, 16, 64), Point(100, 16, 512))


class Sample(NamedTuple):
    """What one run of the generator saw, or the medians of several."""

    rate: float  # messages per second
    p50: float  # us for a batch of `depth` messages
    p99: float  # us
    loadgen_cpu: float  # share of a core
    cpu_us: float  # us of the server's processor time per message


class Result(NamedTuple):
    """One point: the medians over all rounds."""

    point: Point
    limit: Sample
    server: Sample
    ratio: float  # the median of the rounds' own ratios
    pure: Sample | None  # the server on pure Python, where `server` has the compiled core


def measure(
    server: tuple[int, int],
    point: Point,
    seconds: float,
    core: int,
    *mode: str,
    id: int = ECHO,
    others: Sequence[int] = (),
) -> Sample:
    """Load the server (pid, port) at `point` for `seconds`, from `core`.

    mode: `ws` or `ask`, as loadgen.c says. id: of the message. others: pids whose processor time counts, too.
    """
    pid, port = server
    arguments = [HOST, port, point.conns, point.depth, point.body, seconds, id, *mode]
    pids = (pid, *others)
    before = sum(map(cpu_seconds, pids))
    try:
        done = subprocess.run(
            pinned(core, built("loadgen"), *map(str, arguments)),
            capture_output=True,
            text=True,
            timeout=VERIFYING + seconds + 10,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"loadgen did not end at {point}") from None
    used = sum(map(cpu_seconds, pids)) - before
    wait_until_idle(pid)
    seen = REPORT.search(done.stdout)
    if done.returncode or not seen:
        raise BenchmarkError(f"loadgen failed at {point}: {done.stderr or done.stdout}")
    rate, p50, p99, loadgen_cpu = map(float, seen.groups())
    return Sample(rate, p50, p99, loadgen_cpu, used * 1e6 / (rate * seconds))


def medians(samples: list[Sample]) -> Sample:
    return Sample(*(median(values) for values in zip(*samples, strict=True)))


def run(command: str, rounds: int, seconds: float) -> list[Result]:
    """Every point in turn, limit and server directly after each other, `rounds` times over."""
    server_core, load_core = cores()
    allow_files(max(point.conns for point in POINTS) + 100)
    seen: dict[Point, list[tuple[Sample, ...]]] = {point: [] for point in POINTS}
    with ExitStack() as servers:
        commands = [(f"{built('limit')} {{port}}"), command]
        if _native.core is not None and command == SERVER_COMMAND:
            commands.append(f"env {_native.VARIABLE}=0 {command}")
        measured = [servers.enter_context(serving(each, server_core)) for each in commands]
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for point in POINTS:
                seen[point].append(tuple(measure(each, point, seconds, load_core) for each in measured))
    return [result_of(point, samples) for point, samples in seen.items()]


def result_of(point: Point, rounds: list[tuple[Sample, ...]]) -> Result:
    """The medians of all rounds, in each of which the limit, the server and maybe the pure server were measured."""
    limit, server, *pure = (medians([samples[at] for samples in rounds]) for at in range(len(rounds[0])))
    ratio = median(of_server.rate / of_limit.rate for of_limit, of_server, *_ in rounds)
    return Result(point, limit, server, ratio, pure[0] if pure else None)


def method(rounds: int, seconds: float) -> str:
    server_core, load_core = cores()
    return (
        f"core: {_native.description()}; medians of {rounds} interleaved rounds of {seconds:g} s; "
        f"server on core {server_core}, "
        f"load on core {load_core}; *: the generator used over {BUSY:.0%} of its core, so compare CPU instead"
    )


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| conns | depth | body | limit msgs/s | server msgs/s | ratio | p50 us | p99 us | p99/p50 | CPU us/msg "
        "| loadgen_cpu | limit CPU us/msg | pure ratio | pure CPU us/msg |",
        "|" + " ---: |" * 14,
    ]
    for (conns, depth, body), limit, server, ratio, pure in results:
        cells = [
            f"{conns:,}",
            f"{depth}",
            f"{body}",
            f"{limit.rate:,.0f}{'*' if limit.loadgen_cpu > BUSY else ''}",
            f"{server.rate:,.0f}",
            f"{ratio:.3f}",
            f"{server.p50:,.0f}",
            f"{server.p99:,.0f}",
            f"{server.p99 / max(server.p50, 1):.2f}",
            f"{server.cpu_us:.2f}",
            f"{server.loadgen_cpu:.2f}{'*' if server.loadgen_cpu > BUSY else ''}",
            f"{limit.cpu_us:.2f}",
            f"{pure.rate / limit.rate:.3f}" if pure is not None else "",
            f"{pure.cpu_us:.2f}" if pure is not None else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def report(results: list[Result], rounds: int, seconds: float) -> dict[str, object]:
    """The results as JSON has them."""
    return {
        "environment": environment(),
        "method": method(rounds, seconds),
        "points": [
            {
                **result.point._asdict(),
                "limit": result.limit._asdict(),
                "server": result.server._asdict(),
                "ratio": result.ratio,
                "pure": result.pure._asdict() if result.pure is not None else None,
            }
            for result in results
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="An echo beside the limit.")
    parser.add_argument("--rounds", type=int, default=5, help="how often every point is measured (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--server-command", default=SERVER_COMMAND, help="the server to measure; {port} is its port")
    options = parser.parse_args()

    def benchmark() -> None:
        results = run(options.server_command, options.rounds, options.seconds)
        print(f"{describe_environment()}\n{method(options.rounds, options.seconds)}\n\n{table(results)}")
        if options.json:
            options.json.write_text(json.dumps(report(results, options.rounds, options.seconds), indent=2) + "\n")

    measurements = options.rounds * len(POINTS) * 3
    return guarded(benchmark, 60 + measurements * (options.seconds + 20))


if __name__ == "__main__":
    sys.exit(main())
