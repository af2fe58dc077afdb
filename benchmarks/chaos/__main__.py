"""Is anything lost, doubled or reordered over thousands of breaks, and how long does a resume take?

    python -m benchmarks.chaos [--sessions 1000] [--messages 1000] [--seconds 90] [--seed 1] [--websocket] [--short]

Server, proxy and clients have a process each. The method is in benchmarks/README.md.
"""

import argparse
import sys
import time
from typing import Any

from benchmarks.chaos.clients import BACKOFF
from benchmarks.chaos.talk import LIMITS
from benchmarks.children import Child
from benchmarks.harness import BenchmarkError, allow_files, cpu_seconds, describe_environment, guarded

BREAKS = 3.0  # that there must be, for each session on average
IN_RESUME = 0.3  # of them between RESUME sent and RESUMED taken
FINISHING = 60.0  # s that the last messages may take to arrive when all are sent
LOGGING_IN = 120.0  # s


def run(scheme: str, sessions: int, messages: int, seconds: float, seed: int) -> bool:
    """Whether everything arrived once and in order, in sessions that broke often enough; prints what was seen."""
    began = time.monotonic()
    with (
        Child("benchmarks.chaos.server") as server,
        Child("benchmarks.chaos.proxy") as proxy,
        Child("benchmarks.chaos.clients") as clients,
    ):
        where = server.ask("start", scheme=scheme)
        port = proxy.ask("start", port=where["port"], seed=seed, sessions=sessions, scheme=scheme)
        here = clients.ask("login", LOGGING_IN, scheme=scheme, port=port, key=where["key"], sessions=sessions)
        if here != sessions:
            raise BenchmarkError(f"{here} of {sessions} sessions were verified")
        logged_in = time.monotonic() - began
        load = {"messages": messages, "over": seconds, "seed": seed}
        server.ask("begin", **load)
        clients.ask("begin", **load)
        took = watch(server, proxy, clients, sessions * messages, seconds)
        up, down = server.ask("report", messages=messages), clients.ask("report", messages=messages)
        path = proxy.ask("report")
        cpu = {
            name: cpu_seconds(child.pid) for name, child in (("server", server), ("proxy", proxy), ("clients", clients))
        }
    print(
        f"{sessions:,} sealed sessions (logged in within {logged_in:.1f} s), {sessions * messages:,} messages each way "
        f"in {took:.1f} s, {path['bytes'] / 2**20:,.0f} MiB through the proxy; processor seconds: "
        + ", ".join(f"{name} {used:.0f}" for name, used in cpu.items())
    )
    return judge(sessions, up, down, path)


def watch(server: Child, proxy: Child, clients: Child, total: int, seconds: float) -> float:
    """Waits until all has arrived, showing how far it is; the seconds that took."""
    began = shown = time.monotonic()
    while True:
        time.sleep(0.2)
        there, here = server.ask("progress"), clients.ask("progress")
        now = time.monotonic()
        done = there["taken"] >= total and here["taken"] >= total
        if now - shown >= 2 or done:
            shown = now
            print(
                f"{now - began:6.1f} s  up {there['taken']:>9,}  down {here['taken']:>9,}  of {total:,}  "
                f"broken connections {proxy.ask('report')['breaks']:>6,}  resumed {here['resumed']:>6,}",
                file=sys.stderr,
            )
        if done:
            return now - began
        if there["ended"] or here["ended"]:
            raise BenchmarkError(f"sessions ended: at the server {there['ended']}, at the clients {here['ended']}")
        if now - began > seconds * 2 + FINISHING:
            raise BenchmarkError(
                f"after {now - began:.0f} s up {there['taken']:,} and down {here['taken']:,} of {total:,}"
            )


def judge(sessions: int, up: dict[str, Any], down: dict[str, Any], path: dict[str, Any]) -> bool:
    """Prints the figures and the verdict."""
    by = ", ".join(f"{name} {count:,}" for name, count in sorted(path["by"].items()))
    print(f"broken connections: {path['breaks']:,} of {path['connections']:,} ({by})")
    print(
        f"seen by clients: {down['breaks']:,} breaks of open sessions, {down['least']} to {down['most']} in each; "
        f"{down['in_resume']:,} more between RESUME sent and RESUMED taken; {down['resumed']:,} resumed"
    )
    wait = f"{BACKOFF.first * 1_000:.0f} ms"
    print(f"time to resume, from the break seen by the client, which waits a random part of {wait} before it dials:")
    for which, times in (("all", down["times"]), ("first attempt", down["undisturbed"])):
        print(
            f"  {which} ({times['count']:,}): p50 {times['p50'] * 1_000:.0f} ms, p99 {times['p99'] * 1_000:.0f} ms, "
            f"longest {times['longest'] * 1_000:.0f} ms"
        )
    for name, losses in (("up", up["losses"]), ("down", down["losses"])):
        print(f"{name}: " + ", ".join(f"{what} {count}" for what, count in losses.items()))
    verdicts = {
        "nothing lost, doubled, reordered or changed": not any([*up["losses"].values(), *down["losses"].values()]),
        "every session is the one that logged in": up["same"] == down["open"] == up["verified"] == sessions,
        "every session broke": down["least"] >= 1,
        f"at least {BREAKS * sessions:,.0f} connections broke": path["breaks"] >= BREAKS * sessions,
        f"at least {IN_RESUME * sessions:,.0f} of them in a resume": down["in_resume"] >= IN_RESUME * sessions,
    }
    for what, held in verdicts.items():
        print(f"{'held  ' if held else 'FAILED'} {what}")
    return all(verdicts.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="Resume under chaos.")
    parser.add_argument("--sessions", type=int, default=1_000, help="how many (1000)")
    parser.add_argument("--messages", type=int, default=1_000, help="that each of them sends each way (1000)")
    parser.add_argument("--seconds", type=float, default=90.0, help="over which they are spread (90)")
    parser.add_argument("--seed", type=int, default=1, help="of what breaks where (1)")
    parser.add_argument("--websocket", action="store_true", help="over WebSocket in place of TCP")
    parser.add_argument("--short", action="store_true", help="60 sessions of 600 messages in 10 s: for CI")
    options = parser.parse_args()
    if options.short:
        options.sessions, options.messages, options.seconds = 60, 600, 10.0
    held = False

    def benchmark() -> None:
        nonlocal held
        print(describe_environment(), flush=True)
        print(
            f"seed {options.seed}; limits heartbeat_interval {LIMITS.heartbeat_interval:g}, "
            f"heartbeat_timeout {LIMITS.heartbeat_timeout:g}, window_frames {LIMITS.window_frames}",
            flush=True,
        )
        allow_files(4 * options.sessions + 1_000)
        held = run(
            "ws" if options.websocket else "tcp", options.sessions, options.messages, options.seconds, options.seed
        )

    failed = guarded(benchmark, LOGGING_IN + 2 * options.seconds + FINISHING + 60)
    return failed or int(not held)


if __name__ == "__main__":
    sys.exit(main())
