"""One message to everybody: how many deliveries a second reach the receivers.

    python -m benchmarks.broadcast [--receivers 5000] [--in-flight 4] [--seconds 3] [--server-command 'COMMAND {port}']

Message 20002 asks the server to send its 64 bytes of body to every session, as one message 20003 each. A few
broadcasts are kept in flight, so that the server always has work. The receivers are `receivers.c`.
"""

import argparse
import re
import subprocess
import sys
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
    guarded,
    pinned,
    serving,
    user_seconds,
)
from gatelink import _native

REPORT = re.compile(r"deliveries/s=(\d+) load_cpu=([\d.]+)")
BUSY = 0.9


class Result(NamedTuple):
    """What the receivers saw."""

    rate: float  # deliveries per second
    cpu_us: float  # us of the server's processor time per delivery
    user_us: float  # of these, outside the kernel
    load_cpu: float  # share of the receivers' core


def run(command: str, count: int, in_flight: int, seconds: float) -> Result:
    """Broadcast to `count` receivers for `seconds`."""
    server_core, load_core = cores()
    allow_files(count + 100)
    with serving(command, server_core) as (pid, port):
        arguments = [HOST, port, count, in_flight, seconds]
        receivers = subprocess.Popen(
            pinned(load_core, built("receivers"), *map(str, arguments)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert receivers.stdout is not None
            said = receivers.stdout.readline()
            used, user = cpu_seconds(pid), user_seconds(pid)
            said += receivers.stdout.readline()
            used, user = cpu_seconds(pid) - used, user_seconds(pid) - user
            receivers.wait(10)
        finally:
            receivers.kill()
            receivers.wait()
        seen = REPORT.search(said)
        if receivers.returncode or not seen:
            raise BenchmarkError(f"receivers failed: {said}")
        rate, load_cpu = map(float, seen.groups())
        each = 1e6 / max(1.0, rate * seconds)
        return Result(rate, used * each, user * each, load_cpu)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broadcast", description="One message to everybody.")
    parser.add_argument("--receivers", type=int, default=5_000, help="how many (5000)")
    parser.add_argument("--in-flight", type=int, default=4, help="broadcasts that are not delivered to everybody (4)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure (3)")
    parser.add_argument("--server-command", default=SERVER_COMMAND, help="the server to measure; {port} is its port")
    options = parser.parse_args()

    def benchmark() -> None:
        result = run(options.server_command, options.receivers, options.in_flight, options.seconds)
        print(f"{describe_environment()}; core: {_native.description()}")
        print(
            f"broadcast to {options.receivers:,} receivers, {options.in_flight} in flight: "
            f"{result.rate:,.0f} deliveries/s, {result.cpu_us:.2f} us of server CPU each, {result.user_us:.2f} of it "
            f"user; the receivers' core was {result.load_cpu:.0%} busy{'*' if result.load_cpu > BUSY else ''}"
        )

    return guarded(benchmark, 180 + options.seconds)


if __name__ == "__main__":
    sys.exit(main())
