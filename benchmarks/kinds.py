"""What kinds of handlers and sends cost: each on the compiled core and on pure Python, and with a user's rates on.

    python -m benchmarks.kinds [--rounds 5] [--seconds 1]

In each round a kind is measured on one core directly after the other. The method is in benchmarks/README.md.
"""

import argparse
import sys
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

from benchmarks.harness import (
    SERVER_COMMAND,
    BenchmarkError,
    allow_files,
    cores,
    describe_environment,
    guarded,
    serving,
)
from benchmarks.run import ECHO, Point, Sample, measure
from gatelink import _native

METERED_COMMAND = SERVER_COMMAND.replace("echo:server", "echo:metered")


class Kind(NamedTuple):
    """One kind of round trip. body: bytes of its message."""

    name: str
    id: int
    body: int = 64
    mode: tuple[str, ...] = ()
    is_metered: bool = False


KINDS = (
    Kind("echo, plain handler", ECHO),
    Kind("the same, the user's rates on", ECHO, is_metered=True),
    Kind("echo, async handler", 20_009),
    Kind("echo of a Struct with 3 fields", 20_010, body=24),
    Kind("echo, sent with a key", 20_011),
    Kind("to everybody in a room of one, with a key", 20_012),
    Kind("request, plain handler", 20_006, mode=("ask",)),
    Kind("request, async handler", 20_007, mode=("ask",)),
)
LOADS = ((100, 1), (100, 16))  # connections, and messages that each keeps in flight
CORES = {"compiled": "1", "pure": "0"}  # GATELINK_NATIVE


def run(rounds: int, seconds: float) -> str:
    """A Markdown table: us of the server's processor time for each round trip, the least of the rounds."""
    server_core, load_core = cores()
    allow_files(400)
    if _native.core is None:
        raise BenchmarkError(f"there is no compiled core to compare with: {_native.why_not}")
    with ExitStack() as stack:
        servers = {
            (core, is_metered): stack.enter_context(serving(f"env {_native.VARIABLE}={wanted} {command}", server_core))
            for core, wanted in CORES.items()
            for is_metered, command in ((False, SERVER_COMMAND), (True, METERED_COMMAND))
        }
        seen: dict[tuple[Kind, int, str], list[Sample]] = {}
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for conns, depth in LOADS:
                for kind in KINDS:
                    for core in CORES:
                        point = Point(conns, depth, kind.body)
                        server = servers[core, kind.is_metered]
                        sample = measure(server, point, seconds, load_core, *kind.mode, id=kind.id)
                        seen.setdefault((kind, depth, core), []).append(sample)
    rows = [
        "| round trip | "
        + " | ".join(f"{conns}, {depth}: compiled | pure | compiled/pure" for conns, depth in LOADS)
        + " |",
        "| --- |" + " ---: |" * (3 * len(LOADS)),
    ]
    for kind in KINDS:
        cells = [kind.name]
        for _, depth in LOADS:
            compiled, pure = (seen[kind, depth, core] for core in CORES)
            least, least_pure = (min(sample.cpu_us for sample in samples) for samples in (compiled, pure))
            share = median(one.cpu_us / other.cpu_us for one, other in zip(compiled, pure, strict=True))
            cells += [f"{least:.2f}", f"{least_pure:.2f}", f"{share:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description="What kinds of round trips cost.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each measurement takes (1)")
    options = parser.parse_args()

    def benchmark() -> None:
        table = run(options.rounds, options.seconds)
        print(describe_environment())
        print(f"us of the server's CPU, the least of {options.rounds} rounds; compiled/pure: the median of ratios")
        print(f"\n{table}")

    measurements = options.rounds * len(KINDS) * len(LOADS) * len(CORES)
    return guarded(benchmark, 60 + measurements * (options.seconds + 20))


if __name__ == "__main__":
    sys.exit(main())
