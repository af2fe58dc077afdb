"""What sealing costs: the echo of `benchmarks.run` over sealed connections beside plain ones, on one server.

    python -m benchmarks.sealed [--rounds 5] [--seconds 2] [--wait poll] [--json FILE]

In every round each point is measured three times, one directly after the other: plain (a base session), sealed (Noise
NK), and sealed with resume (the server keeps what it sent, and both sides acknowledge). The method is in
benchmarks/README.md.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.echo import KEY
from benchmarks.harness import (
    HOST,
    LIBCRYPTO,
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
from benchmarks.run import BUSY, POINTS, REPORT, VERIFYING, Point, Sample, medians
from gatelink.wire.control import Features

AIMS = {1: 0.70, 16: 0.75}  # of the plain throughput, by the messages in a read
WAYS = {
    "plain": ("plain", 0),
    "sealed": (KEY.public.hex(), int(Features.PING)),
    "resumable": (KEY.public.hex(), int(Features.PING | Features.RESUME)),
}
"""The generator's KEY and FEATURES for each way to connect."""

Round = dict[str, Sample]  # by way


class Ratio(NamedTuple):
    """What is left of the plain connections' figure of the same round: median, least and most of the rounds."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f}-{self.most:.2f})"


def measure(server: tuple[int, int], point: Point, way: str, wait: str, seconds: float, core: int) -> Sample:
    """Load the server (pid, port) at `point`, connected in this `way`, for `seconds`; logging in is not in it."""
    pid, port = server
    key, features = WAYS[way]
    arguments = [key, features, wait, HOST, port, point.conns, point.depth, point.body, seconds]
    generator = subprocess.Popen(
        pinned(core, built("sealed_loadgen", LIBCRYPTO), *map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert generator.stdout is not None
        first = generator.stdout.readline()
        before = cpu_seconds(pid)
        rest = first + generator.stdout.readline()
        used = cpu_seconds(pid) - before
        rest += generator.stdout.read()
        generator.wait(10)
    finally:
        generator.kill()
        generator.wait()
    wait_until_idle(pid)
    seen, busy = REPORT.search(rest), re.search(r"busy=([\d.]+)", rest)
    if generator.returncode or not seen or not busy:
        raise BenchmarkError(f"sealed_loadgen failed at {point}, {way}: {rest}")
    rate, p50, p99 = map(float, seen.groups()[:3])
    return Sample(rate, p50, p99, float(busy[1]), used * 1e6 / (rate * seconds))


def run(wait: str, rounds: int, seconds: float) -> dict[Point, list[Round]]:
    """Every point in turn, all ways directly after each other, `rounds` times over."""
    server_core, load_core = cores()
    allow_files(max(point.conns for point in POINTS) + 100)
    seen: dict[Point, list[Round]] = {point: [] for point in POINTS}
    with serving(SERVER_COMMAND, server_core) as server:
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for point in POINTS:
                seen[point].append({way: measure(server, point, way, wait, seconds, load_core) for way in WAYS})
    return seen


def ratio(rounds: list[Round], way: str) -> Ratio:
    """By throughput."""
    return _spread([samples[way].rate / samples["plain"].rate for samples in rounds])


def cpu_ratio(rounds: list[Round], way: str) -> Ratio:
    """By the server's processor time for a message, which another load on the machine disturbs less."""
    return _spread([samples["plain"].cpu_us / max(samples[way].cpu_us, 1e-3) for samples in rounds])


def _spread(ratios: list[float]) -> Ratio:
    return Ratio(median(ratios), min(ratios), max(ratios))


def middle(rounds: list[Round], way: str) -> Sample:
    return medians([samples[way] for samples in rounds])


def method(wait: str, rounds: int, seconds: float) -> str:
    server_core, load_core = cores()
    return (
        f"medians of {rounds} interleaved rounds of {seconds:g} s, ratios of throughput with their least and most; "
        f"server on core {server_core}, load on core {load_core}, which {wait}s when it has nothing to read; "
        f"*: it had less than {1 - BUSY:.0%} of such time, so compare CPU instead"
    )


def table(seen: dict[Point, list[Round]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| conns | depth | body | plain msgs/s | sealed/plain | aim | by CPU | resumable/plain | by CPU "
        "| CPU us/msg plain | sealed | resumable | sealed p99/p50 | load busy |",
        "|" + " ---: |" * 14,
    ]
    for point, rounds in seen.items():
        plain, sealed, resumable = (middle(rounds, way) for way in WAYS)
        aim, reached = AIMS[point.depth], ratio(rounds, "sealed")
        busiest = max(plain.loadgen_cpu, sealed.loadgen_cpu, resumable.loadgen_cpu)
        cells = [
            f"{point.conns:,}",
            f"{point.depth}",
            f"{point.body}",
            f"{plain.rate:,.0f}",
            f"{reached}",
            f"{aim:.2f} {'reached' if reached.middle >= aim else '**missed**'}",
            f"{cpu_ratio(rounds, 'sealed')}",
            f"{ratio(rounds, 'resumable')}",
            f"{cpu_ratio(rounds, 'resumable')}",
            f"{plain.cpu_us:.2f}",
            f"{sealed.cpu_us:.2f}",
            f"{resumable.cpu_us:.2f}",
            f"{sealed.p99 / max(sealed.p50, 1):.2f}",
            f"{busiest:.2f}{'*' if busiest > BUSY else ''}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def report(seen: dict[Point, list[Round]], how: str) -> dict[str, object]:
    """The results as JSON has them: every round's samples."""
    return {
        "environment": environment(),
        "method": how,
        "points": [
            {
                **point._asdict(),
                **{f"{way}_ratio": ratio(seen[point], way)._asdict() for way in WAYS if way != "plain"},
                **{f"{way}_cpu_ratio": cpu_ratio(seen[point], way)._asdict() for way in WAYS if way != "plain"},
                "rounds": [{way: sample._asdict() for way, sample in samples.items()} for samples in seen[point]],
            }
            for point in seen
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sealed", description="Sealed beside plain.")
    parser.add_argument("--rounds", type=int, default=5, help="how often every point is measured (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement takes (2)")
    parser.add_argument("--wait", choices=("poll", "sleep"), default="poll", help="how the load waits (poll)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()

    def benchmark() -> None:
        seen = run(options.wait, options.rounds, options.seconds)
        how = method(options.wait, options.rounds, options.seconds)
        print(f"{describe_environment()}\n{how}\n\n{table(seen)}")
        if options.json:
            options.json.write_text(json.dumps(report(seen, how), indent=2) + "\n")

    measurements = options.rounds * len(POINTS) * len(WAYS)
    return guarded(benchmark, VERIFYING + measurements * (options.seconds + 20))


if __name__ == "__main__":
    sys.exit(main())
