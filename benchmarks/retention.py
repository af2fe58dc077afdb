"""Memory of a session by what it can do: plain, sealed, resumable; idle, with a full window, and without a connection.

    python -m benchmarks.retention [--sessions 2000] [--full 200] [--settle 12]

Each state is measured at a server of its own, as in `benchmarks.idle`. The method is in benchmarks/README.md.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.echo import KEY
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
from benchmarks.rawclient import FIRST_UID, connect, frame
from benchmarks.sealedclient import SealedClient
from gatelink.config import Limits
from gatelink.wire.control import Features

ECHO = 20_001
BURST = 64  # messages that are echoed at a time
WINDOW_FRAMES, WINDOW_BYTES = Limits().window_frames, Limits().window_bytes
MESSAGE = frame(ECHO, bytes(WINDOW_BYTES // WINDOW_FRAMES - 6))  # so large that both limits are met together
LONGEST = 110.0  # s for one state: detached sessions end after 120


class State(NamedTuple):
    """What the sessions are like when memory is looked at."""

    name: str
    features: int | None  # of a sealed one's HELLO; None: a base session, plain
    is_full: bool = False
    is_detached: bool = False


RESUMABLE = int(Features.RESUME | Features.PING)
STATES = (
    State("plain, idle", None),
    State("sealed, idle", int(Features.PING)),
    State("sealed and resumable, idle", RESUMABLE),
    State("sealed and resumable, window full", RESUMABLE, is_full=True),
    State("detached, nothing kept", RESUMABLE, is_detached=True),
    State("detached, window full", RESUMABLE, is_full=True, is_detached=True),
)


def run(state: State, sessions: int, settle: float) -> float:
    """Bytes by which the server grows for each of `sessions` in `state`, after `settle` seconds."""
    server_core, _ = cores()
    with serving(SERVER_COMMAND, server_core) as (pid, port), ExitStack() as clients:
        begin(state, port, FIRST_UID, clients)  # what the first session loads is not the others' cost
        wait_until_idle(pid)
        before = rss_bytes(pid)
        for uid in range(FIRST_UID + 1, FIRST_UID + 1 + sessions):
            begin(state, port, uid, clients)
        time.sleep(settle)
        return (rss_bytes(pid) - before) / sessions


def begin(state: State, port: int, uid: int, clients: ExitStack) -> None:
    """A session of `uid` in `state`; unless that is detached, its connection lives as long as `clients`."""
    if state.features is None:
        clients.enter_context(connect(port, uid))
        return
    client = SealedClient(port, uid, KEY.public, state.features)
    with ExitStack() as own:
        own.enter_context(client)
        if state.is_full:
            for _ in range(WINDOW_FRAMES // BURST):
                client.send(MESSAGE * BURST)
                client.receive(ECHO, BURST)
        if not state.is_detached:
            clients.push(own.pop_all())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description="Memory of resumable sessions.")
    parser.add_argument("--sessions", type=int, default=2_000, help="how many that keep nothing (2000)")
    parser.add_argument("--full", type=int, default=200, help="how many with a full window (200)")
    parser.add_argument(
        "--settle",
        type=float,
        default=12.0,
        help="seconds before the second look (12: over one heartbeat interval, under the heartbeat timeout)",
    )
    options = parser.parse_args()

    def benchmark() -> None:
        allow_files(options.sessions + 100)
        rows = ["| session | sessions | bytes each |", "| --- | ---: | ---: |"]
        for state in STATES:
            print(state.name, file=sys.stderr)
            sessions = options.full if state.is_full else options.sessions
            rows.append(f"| {state.name} | {sessions:,} | {run(state, sessions, options.settle):,.0f} |")
        print(describe_environment())
        print(
            f"growth of the server's resident memory {options.settle:g} s after the last session; a full window is "
            f"{WINDOW_FRAMES:,} messages, {WINDOW_BYTES:,} bytes\n"
        )
        print("\n".join(rows))

    return guarded(benchmark, len(STATES) * LONGEST)


if __name__ == "__main__":
    sys.exit(main())
