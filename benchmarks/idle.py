"""An idle verified session: its memory, and the processor time of its heartbeats.

python -m benchmarks.idle [--sessions 8000] [--settle 12] [--server-command 'COMMAND {port}']
"""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.harness import (
    SERVER_COMMAND,
    allow_files,
    cores,
    cpu_seconds,
    describe_environment,
    guarded,
    rss_bytes,
    serving,
    wait_until_idle,
)
from benchmarks.rawclient import FIRST_UID, connect, frame
from gatelink import Limits, _native
from gatelink.wire.base import HEARTBEAT


class Result(NamedTuple):
    """What many idle sessions take of the server."""

    before: int  # bytes of its resident set with one session
    after: int  # the same with all of them
    cpu: float  # s, while each side of each session sent one heartbeat


def run(command: str, sessions: int, settle: float) -> Result:
    """Connect, wait, and have each client send a heartbeat within `settle` seconds."""
    server_core, _ = cores()
    allow_files(sessions + 100)
    with serving(command, server_core) as (pid, port), ExitStack() as stack:
        stack.enter_context(connect(port, FIRST_UID))  # what the first session loads is not the others' cost
        wait_until_idle(pid)
        before = rss_bytes(pid)
        uids = range(FIRST_UID + 1, FIRST_UID + 1 + sessions)
        clients = [stack.enter_context(connect(port, uid)) for uid in uids]
        cpu, start = cpu_seconds(pid), time.monotonic()
        for number, client in enumerate(clients):
            client.send(frame(HEARTBEAT))
            if number % 100 == 0:
                time.sleep(max(0.0, start + settle * number / sessions - time.monotonic()))
        time.sleep(max(0.0, start + settle - time.monotonic()))
        return Result(before, rss_bytes(pid), cpu_seconds(pid) - cpu)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description="What an idle session costs.")
    parser.add_argument("--sessions", type=int, default=8_000, help="how many (8000)")
    parser.add_argument(
        "--settle",
        type=float,
        default=12.0,
        help="seconds before the second look (12: over one heartbeat interval, under the heartbeat timeout)",
    )
    parser.add_argument("--server-command", default=SERVER_COMMAND, help="the server to measure; {port} is its port")
    options = parser.parse_args()

    def benchmark() -> None:
        before, after, cpu = run(options.server_command, options.sessions, options.settle)
        each = cpu * 1e6 / options.sessions
        print(f"{describe_environment()}; core: {_native.description()}")
        print(
            f"{options.sessions:,} idle verified sessions: {(after - before) / options.sessions:,.0f} bytes each "
            f"(resident {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB {options.settle:g} s after)\n"
            f"a heartbeat each way: {each:.1f} us of server CPU, {each / Limits().heartbeat_interval:.2f} us a second"
        )

    return guarded(benchmark, 120 + options.settle)


if __name__ == "__main__":
    sys.exit(main())
