"""A forwarded echo: client -> gateway -> service -> gateway -> client, at the five points of `benchmarks.run`.

    python -m benchmarks.forward [--rounds 3] [--seconds 3] [--one-core] [--json FILE]

The gateway has a core to itself, the service shares the other with the load; with --one-core, gateway and service
share one and the load has the other. The method is in benchmarks/README.md.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import (
    ROOT,
    BenchmarkError,
    allow_files,
    cores,
    cpu_seconds,
    describe_environment,
    end,
    environment,
    guarded,
    pinned,
    serving,
    tail,
)
from benchmarks.run import POINTS, Point, Sample, measure, medians
from gatelink.cluster.engines.embedded import NatsServer

JOINING = 20.0  # s that the members may take to find each other


class Result(NamedTuple):
    """One point: medians over all rounds. Of `sample`, cpu_us is the gateway's processor time per message."""

    point: Point
    sample: Sample
    service_us: float  # us of the service's processor time per message


@contextmanager
def engine(core: int) -> Iterator[str]:
    """A nats-server, held to `core` while the block runs; its URL."""
    server = NatsServer()
    asyncio.run(server.start())
    subprocess.run(["taskset", "-a", "-p", "-c", str(core), str(server.pid)], check=True, capture_output=True)
    try:
        yield server.url
    finally:
        asyncio.run(server.stop())


@contextmanager
def service(engine_url: str, core: int) -> Iterator[int]:
    """The echoing service, on `core`; its pid."""
    command = [sys.executable, "-m", "benchmarks.member", "service", "--engine", engine_url, "--id", "20"]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(pinned(core, *command), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield child.pid
        except BenchmarkError as error:
            error.add_note(f"the service wrote:\n{tail(output)}")
            raise
        finally:
            end(child)


def until_joined(gateway: tuple[int, int], core: int) -> None:
    """Waits until an echo comes back: until then what is sent is held, and then lost."""
    deadline = time.monotonic() + JOINING
    while time.monotonic() < deadline:
        try:
            if measure(gateway, Point(1, 1, 64), 0.2, core).rate > 0:
                return
        except (BenchmarkError, ZeroDivisionError):
            pass
    raise BenchmarkError(f"no echo came back within {JOINING:.0f} s")


def run(rounds: int, seconds: float, one_core: bool) -> list[Result]:
    gateway_core, load_core = cores()
    service_core = gateway_core if one_core else load_core
    allow_files(max(point.conns for point in POINTS) + 100)
    seen: dict[Point, list[tuple[Sample, float]]] = {point: [] for point in POINTS}
    with engine(load_core) as url, service(url, service_core) as service_pid:
        command = f"{sys.executable} -m benchmarks.member gateway --engine {url} --id 1 --port {{port}}"
        with serving(command, gateway_core) as gateway:
            until_joined(gateway, load_core)
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}", file=sys.stderr)
                for point in POINTS:
                    before = cpu_seconds(service_pid)
                    sample = measure(gateway, point, seconds, load_core)
                    used = cpu_seconds(service_pid) - before
                    seen[point].append((sample, used * 1e6 / max(1.0, sample.rate * seconds)))
    return [
        Result(point, medians([sample for sample, _ in found]), sorted(us for _, us in found)[len(found) // 2])
        for point, found in seen.items()
    ]


def table(results: list[Result]) -> str:
    rows = [
        "| conns | depth | body | msgs/s | p50 us | p99 us | gateway CPU us/msg | service CPU us/msg |",
        "|" + " ---: |" * 8,
    ]
    for (conns, depth, body), sample, service_us in results:
        rows.append(
            f"| {conns:,} | {depth} | {body} | {sample.rate:,.0f} | {sample.p50:,.0f} | {sample.p99:,.0f} "
            f"| {sample.cpu_us:.2f} | {service_us:.2f} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description="A forwarded echo.")
    parser.add_argument("--rounds", type=int, default=3, help="how often every point is measured (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes (3)")
    parser.add_argument("--one-core", action="store_true", help="gateway and service share a core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()

    def benchmark() -> None:
        results = run(options.rounds, options.seconds, options.one_core)
        where = "gateway and service on one core" if options.one_core else "the gateway on a core of its own"
        method = f"medians of {options.rounds} rounds of {options.seconds:g} s; {where}, the load on the other core"
        print(f"{describe_environment()}\n{method}\n\n{table(results)}")
        if options.json:
            points = [
                {**result.point._asdict(), **result.sample._asdict(), "service_us": result.service_us}
                for result in results
            ]
            text = json.dumps({"environment": environment(), "method": method, "points": points}, indent=2)
            options.json.write_text(text + "\n")

    return guarded(benchmark, 90 + options.rounds * len(POINTS) * (options.seconds + 20))


if __name__ == "__main__":
    sys.exit(main())
