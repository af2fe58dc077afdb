"""Requests with answers beside a plain echo, direct and through a gateway; memory of a waiting request; renewals.

    python -m benchmarks.requests [--rounds 3] [--seconds 2]

The load is `loadgen.c`, so the rates are those of the server. The method is in benchmarks/README.md.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter

import uvloop

from benchmarks.echo import Never
from benchmarks.forward import engine, service, until_joined
from benchmarks.harness import (
    HOST,
    SERVER_COMMAND,
    allow_files,
    cores,
    describe_environment,
    guarded,
    rss_bytes,
    serving,
    wait_until_idle,
)
from benchmarks.run import BUSY, ECHO, POINTS, Sample, measure, medians
from gatelink import Handlers, Limits, RequestFailed, Session, _native, connect

WAITING_SESSIONS = 500
EACH = 64  # requests of a session that wait
LOGINS = 1_000
AT_ONCE = 50  # logins at a time


KINDS: dict[str, tuple[int, list[str]]] = {"echo": (ECHO, []), "plain": (20_006, ["ask"]), "async": (20_007, ["ask"])}
"""The id of the message that loadgen.c sends, and how."""


async def log_in(port: int, uid: int) -> Session:
    return await connect(
        f"tcp://{HOST}:{port}", uid=uid, token=f"{uid:032d}", handlers=Handlers(), timeout=60, limits=Limits()
    )


async def clients(port: int, count: int) -> list[Session]:
    found: list[Session] = []
    for first in range(0, count, AT_ONCE):
        uids = range(first + 1, min(first + AT_ONCE, count) + 1)
        found += await asyncio.gather(*(log_in(port, uid) for uid in uids))
    return found


async def memory(port: int, pid: int) -> float:
    """Bytes of the server's memory for each request that waits for its answer."""
    load = await clients(port, WAITING_SESSIONS)
    before = rss_bytes(pid)

    async def wait(session: Session) -> None:
        try:
            await session.request(Never(b"1234"), timeout=600)
        except RequestFailed:
            pass  # the session is aborted below

    waiting = [asyncio.ensure_future(wait(session)) for session in load for _ in range(EACH)]
    await asyncio.sleep(2)
    await asyncio.to_thread(wait_until_idle, pid)
    used = rss_bytes(pid) - before
    for session in load:
        session.abort()
    await asyncio.gather(*waiting)
    return used / len(waiting)


async def logins(port: int) -> tuple[float, float]:
    """Logins and renewals a second: each session logs in, then each renews once."""
    start = perf_counter()
    load = await clients(port, LOGINS)
    logged_in = LOGINS / (perf_counter() - start)
    start = perf_counter()
    for first in range(0, LOGINS, AT_ONCE):
        part = load[first : first + AT_ONCE]
        await asyncio.gather(*(each.renew(f"{each.uid:032d}", timeout=60) for each in part))
    renewed = LOGINS / (perf_counter() - start)
    for session in load:
        session.abort()
    return logged_in, renewed


def compare(server: tuple[int, int], rounds: int, seconds: float, others: Sequence[int] = ()) -> list[str]:
    """Each kind of round trip directly after the other, `rounds` times over. others: pids that work for the server."""
    _, load_core = cores()
    rows = ["| conns | depth | body | " + " | ".join(f"{kind}/s | p50 us | p99 us | CPU us" for kind in KINDS)]
    rows[0] += " | plain/echo | by CPU |"
    rows.append("|" + " ---: |" * (5 + 4 * len(KINDS)))
    for point in POINTS:
        found: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, (id, mode) in KINDS.items():
                found[kind].append(measure(server, point, seconds, load_core, *mode, id=id, others=others))
        cells = []
        for samples in found.values():
            rate, p50, p99, busy, cpu = medians(samples)
            cells.append(f"{rate:,.0f}{'*' if busy > BUSY else ''} | {p50:,.0f} | {p99:,.0f} | {cpu:.2f}")
        pairs = list(zip(found["echo"], found["plain"], strict=True))
        cells.append(f"{median(plain.rate / echo.rate for echo, plain in pairs):.2f}")
        cells.append(f"{median(echo.cpu_us / plain.cpu_us for echo, plain in pairs):.2f}")
        rows.append(f"| {point.conns:,} | {point.depth} | {point.body} | " + " | ".join(cells) + " |")
    return rows


def run(rounds: int, seconds: float) -> str:
    server_core, load_core = cores()
    allow_files(4_000)
    lines: list[str] = []
    with serving(SERVER_COMMAND, server_core) as server:
        lines += ["Direct:", "", *compare(server, rounds, seconds), ""]
        logged_in, renewed = uvloop.run(logins(server[1]))
        lines.append(f"{logged_in:,.0f} logins and {renewed:,.0f} renewals a second.")
    with serving(SERVER_COMMAND, server_core) as (pid, port):
        lines += [f"A waiting request: {uvloop.run(memory(port, pid)):,.0f} bytes at the server.", ""]
    with engine(load_core) as url, service(url, server_core) as service_pid:
        command = f"{sys.executable} -m benchmarks.member gateway --engine {url} --id 1 --port {{port}}"
        with serving(command, server_core) as gateway:
            until_joined(gateway, load_core)
            lines += ["Through a gateway:", "", *compare(gateway, rounds, seconds, [service_pid])]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description="Requests beside an echo.")
    parser.add_argument("--rounds", type=int, default=3, help="how often every point is measured (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement takes (2)")
    options = parser.parse_args()

    def benchmark() -> None:
        method = (
            f"core: {_native.description()}; medians of {options.rounds} rounds of {options.seconds:g} s; server and "
            f"load on a core each; *: the generator used over {BUSY:.0%} of its core, so compare CPU instead"
        )
        print(f"{describe_environment()}\n{method}\n\n{run(options.rounds, options.seconds)}")

    return guarded(benchmark, 120 + options.rounds * len(POINTS) * 6 * (options.seconds + 10))


if __name__ == "__main__":
    sys.exit(main())
