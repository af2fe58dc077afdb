"""Tokens a server process can check a second, what a check costs, and what live tokens take in nats-server.

    python -m benchmarks.tokens [--tokens 100000] [--rounds 3] [--checks 5000] [--settle 10]

The method is in benchmarks/README.md.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness import BenchmarkError, cores, cpu_seconds, guarded, rss_bytes
from benchmarks.natsside import describe_environment_and_load, nats_server
from benchmarks.rawclient import FIRST_UID
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.auth.tokens import Tokens
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import GatelinkError
from gatelink.robots.tally import LatencyHistogram

AT_ONCE = 64
LIFETIME = 43_200.0  # s, and all of it for the first use: nothing expires while it is measured
ENOUGH = 3_600.0  # s for all of it
CLAIMS = {"name": "a player's name"}

Token = tuple[bytes, int]  # and whose


class Sample(NamedTuple):
    """One measurement, or the medians of several. Times are us."""

    rate: float  # per second
    cpu: float  # processor time of this process for each
    nats_cpu: float  # of nats-server
    p50: float
    p99: float


class Memory(NamedTuple):
    """nats-server before and after the tokens were issued, in bytes, and how that went."""

    rss_before: int
    rss_issued: int
    rss_settled: int
    disk: int
    issuing: Sample


async def timed(
    work: Callable[[Token], Awaitable[object]], tokens: Iterable[Token], at_once: int, nats_pid: int
) -> Sample:
    """`work` for each of `tokens`, so many at once."""
    seen, waiting = LatencyHistogram(), iter(tokens)

    async def one_after_the_other() -> None:
        for token in waiting:
            began = time.perf_counter()
            await work(token)
            seen.add(time.perf_counter() - began)

    own, nats, started = time.process_time(), cpu_seconds(nats_pid), time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_the_other())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    elapsed = time.perf_counter() - started
    own, nats = time.process_time() - own, cpu_seconds(nats_pid) - nats
    count = max(1, seen.count)
    percentiles = (seen.percentile(percent) * 1e6 for percent in (50, 99))
    return Sample(count / elapsed, own * 1e6 / count, nats * 1e6 / count, *percentiles)


def checking(tokens: Tokens) -> Callable[[Token], Awaitable[object]]:
    return lambda token: tokens.verify(token[0], token[1], 0, "127.0.0.1")


async def fill(engine: NatsEngine, folder: Path, count: int, settle: float, pid: int) -> tuple[list[Token], Memory]:
    """Issue `count` tokens, of a user each. They are the load of the measurements that follow, too."""
    tokens = EngineTokens(engine, lifetime=LIFETIME, first_use=LIFETIME)
    issued: list[Token] = []

    async def issue(token: Token) -> None:
        issued.append(((await tokens.issue(token[1], CLAIMS)).encode(), token[1]))

    await issue((b"", FIRST_UID - 1))  # what the first loads is not the others' cost
    before = rss_bytes(pid)
    issuing = await timed(issue, ((b"", FIRST_UID + number) for number in range(count)), AT_ONCE, pid)
    full = rss_bytes(pid)
    await asyncio.sleep(settle)
    return issued, Memory(before, full, rss_bytes(pid), disk_bytes(folder), issuing)


def disk_bytes(folder: Path) -> int:
    """What the files below `folder` take of their disk."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


async def measure(
    engine: NatsEngine, issued: list[Token], rounds: int, checks: int, pid: int
) -> dict[str, list[Sample]]:
    """Every kind of check directly after the other, `rounds` times over."""
    seen: dict[str, list[Sample]] = {}
    by_engine = checking(EngineTokens(engine, lifetime=LIFETIME, first_use=LIFETIME))
    async with SignedTokens(engine, keys=[Ed25519PrivateKey.generate()]) as signed:
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for at_once in (1, AT_ONCE):
                part = [issued.pop() for _ in range(checks)]
                for use in ("first", "later"):
                    sample = await timed(by_engine, part, at_once, pid)
                    seen.setdefault(f"engine, {use} use, {at_once} at once", []).append(sample)
            tokens: list[Token] = []

            async def issue(token: Token, tokens: list[Token] = tokens) -> None:
                tokens.append(((await signed.issue(token[1], CLAIMS)).encode(), token[1]))

            users = ((b"", FIRST_UID + user) for user in range(checks))
            seen.setdefault("signed, issue", []).append(await timed(issue, users, 1, pid))
            seen.setdefault("signed, any use", []).append(await timed(checking(signed), tokens, 1, pid))
    return seen


async def run(count: int, rounds: int, checks: int, settle: float) -> tuple[Memory, dict[str, list[Sample]]]:
    """This process is the server, on its core; nats-server is on the other."""
    server_core, load_core = cores()
    with tempfile.TemporaryDirectory(prefix="gatelink-tokens-") as name:
        folder = Path(name) / "nats"
        async with nats_server(load_core, folder) as nats:
            os.sched_setaffinity(0, {server_core})
            try:
                async with NatsEngine(nats.url, timeout=10.0) as engine:
                    issued, memory = await fill(engine, folder, count, settle, nats.pid)
                    return memory, await measure(engine, issued, rounds, checks, nats.pid)
            except GatelinkError as error:
                raise BenchmarkError(f"{type(error).__name__}: {error}") from None


def table(seen: dict[str, list[Sample]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| tokens | per second | least-most | server CPU us | a core's | nats-server CPU us | p50 us | p99 us |",
        "| --- |" + " ---: |" * 7,
    ]
    for what, samples in seen.items():
        rate, cpu, nats_cpu, p50, p99 = (median(values) for values in zip(*samples, strict=True))
        rates = [sample.rate for sample in samples]
        rows.append(
            f"| {what} | {rate:,.0f} | {min(rates):,.0f}-{max(rates):,.0f} | {cpu:,.0f} | {1e6 / cpu:,.0f} "
            f"| {nats_cpu:,.0f} | {p50:,.0f} | {p99:,.0f} |"
        )
    return "\n".join(rows)


def describe(memory: Memory, count: int, settle: float) -> str:
    before, at_end, settled = (f"{size / 2**20:.1f} MiB" for size in memory[:3])
    issuing = memory.issuing
    return (
        f"{count:,} live tokens take {(memory.rss_settled - memory.rss_before) / count:,.0f} bytes of nats-server's "
        f"memory each (resident {before} before, {at_end} at their end, {settled} {settle:g} s later), "
        f"and {memory.disk / count:,.0f} bytes of disk\n"
        f"issuing them, {AT_ONCE} at once: {count / issuing.rate:.1f} s, {issuing.rate:,.0f}/s, {issuing.cpu:,.0f} us "
        f"of CPU each here and {issuing.nats_cpu:,.0f} us of nats-server's; p50 {issuing.p50:,.0f} us, "
        f"p99 {issuing.p99:,.0f} us"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens", description="Tokens checked a second.")
    parser.add_argument("--tokens", type=int, default=100_000, help="how many are live (100000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each check is measured (3)")
    parser.add_argument("--checks", type=int, default=5_000, help="how many a measurement takes (5000)")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds before the second look at memory (10)")
    options = parser.parse_args()
    if options.tokens < 2 * options.rounds * options.checks:
        parser.error(f"--tokens must be at least {2 * options.rounds * options.checks}: each is first used once")

    def benchmark() -> None:
        server_core, load_core = cores()  # before this process holds itself to one
        memory, seen = uvloop.run(run(options.tokens, options.rounds, options.checks, options.settle))
        print(describe_environment_and_load())
        print(
            f"medians of {options.rounds} interleaved rounds of {options.checks:,}, among {options.tokens:,} live "
            f"tokens; server on core {server_core}, nats-server on core {load_core}\n\n{table(seen)}\n\n"
            f"{describe(memory, options.tokens, options.settle)}"
        )

    return guarded(benchmark, ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
