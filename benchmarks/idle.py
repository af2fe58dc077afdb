"""Memory of an idle verified session: the server's resident set before and after many of them.

python -m benchmarks.idle [--sessions 8000] [--settle 12] [--server-command 'COMMAND {port}']
"""

import argparse
import sys
import time
from contextlib import ExitStack

from benchmarks.harness import (
    SERVER_COMMAND,
    allow_files,
    cores,
    describe_environment,
    guarded,
    rss_bytes,
    serving,
    wait_until_idle,
)
from benchmarks.rawclient import FIRST_UID, connect


def run(command: str, sessions: int, settle: float) -> tuple[int, int]:
    """The server's resident bytes with one verified session, and with `sessions` more after `settle` seconds."""
    server_core, _ = cores()
    allow_files(sessions + 100)
    with serving(command, server_core) as (pid, port), ExitStack() as clients:
        clients.enter_context(connect(port, FIRST_UID))  # what the first session loads is not the others' cost
        wait_until_idle(pid)
        before = rss_bytes(pid)
        for uid in range(FIRST_UID + 1, FIRST_UID + 1 + sessions):
            clients.enter_context(connect(port, uid))
        time.sleep(settle)
        return before, rss_bytes(pid)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description="Memory of an idle session.")
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
        before, after = run(options.server_command, options.sessions, options.settle)
        print(describe_environment())
        print(
            f"{options.sessions:,} idle verified sessions: {(after - before) / options.sessions:,.0f} bytes each "
            f"(resident {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB {options.settle:g} s after)"
        )

    return guarded(benchmark, 120 + options.settle)


if __name__ == "__main__":
    sys.exit(main())
