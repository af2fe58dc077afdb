"""Logins a second that one `gatelink login` gives over HTTP, and what each costs it: guests, and passwords.

    python -m benchmarks.login [--rounds 3] [--seconds 4] [--users 256]

The method is in benchmarks/README.md.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from benchmarks.harness import HOST, BenchmarkError, cores, cpu_seconds, guarded, serving, wait_until_idle
from benchmarks.natsside import describe_environment_and_load, nats_server

AT_ONCE = (1, 32)
"""How many log in at the same time."""

ENOUGH = 60.0  # s for one measurement
BUSY = 0.9  # share of the load's core
PASSWORD = "correct horse battery staple"

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)

_CONFIG = """\
[engine]
url = "nats://{nats}"
user = "{user}"
password = "file:{folder}/nats-password"

[accounts]
url = "sqlite:///{folder}/{name}.db"
{argon2}

[cluster]
name = "{name}"

[login]
[[login.servers]]
name = "benchmark"
id = 1
addresses = ["tcp://127.0.0.1:7000"]
"""

SERVICES = {"standard": "", "weak": "argon2 = { time_cost = 1, memory_kib = 1024, parallelism = 1 }"}
"""The login services, and what [accounts] of each has besides: `weak` is the demos'."""


class Way(NamedTuple):
    """One kind of login: at which service, and the requests' path and bodies by number."""

    service: str
    path: str
    body: Callable[[int], dict[str, str]]
    is_new: bool = False  # every request has a number that had none before


def _user(number: int) -> dict[str, str]:
    return {"user": f"player{number}", "password": PASSWORD}


def _guest(number: int) -> dict[str, str]:
    return {"device_id": f"benchmark-device-{number:08}"}


WAYS = {
    "guest, known device": Way("standard", "/v1/guest", _guest),
    "guest, new device": Way("standard", "/v1/guest", _guest, is_new=True),
    "password, argon2id as by default": Way("standard", "/v1/login", _user),
    "password, argon2id as in the demos": Way("weak", "/v1/login", _user),
}


class Sample(NamedTuple):
    """One measurement, or the medians of several. Times are ms."""

    rate: float  # logins per second
    cpu: float  # the service's processor time per login
    nats_cpu: float  # that of nats-server
    p50: float
    p99: float
    load_cpu: float  # share of a core that the clients used
    both_cpu: float  # and nats-server with them


class Connection:
    """HTTP/1.1 on one connection that is kept, and no more of it than the load needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: dict[str, str]) -> None:
        """Raises BenchmarkError for an answer that is not 200 or 201."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        self._writer.write(head.encode() + b"\r\n\r\n" + data)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            content = await self._reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise BenchmarkError(f"POST {path}: no answer: {error}") from None
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise BenchmarkError(f"POST {path}: {answer[9:12].decode()} {content.decode(errors='replace')}")

    def close(self) -> None:
        self._writer.close()


async def ask(port: int, at_once: int, path: str, bodies: Iterator[dict[str, str]]) -> list[float]:
    """POST every one of `bodies`, so many at once, each on a connection that is kept; the seconds that each took."""
    took: list[float] = []

    async def one_after_the_other(connection: Connection) -> None:
        for body in bodies:
            began = time.perf_counter()
            await connection.post(path, body)
            took.append(time.perf_counter() - began)

    connections = [Connection(*await asyncio.open_connection(HOST, port)) for _ in range(at_once)]
    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(one_after_the_other(connection))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for connection in connections:
            connection.close()
    return took


class Load:
    """The users of the benchmark: those with accounts, and the next free numbers."""

    def __init__(self, servers: dict[str, tuple[int, int]], nats_pid: int, users: int, seconds: float) -> None:
        self._servers = servers  # pid and port
        self._nats_pid = nats_pid
        self._users = users
        self._seconds = seconds
        self._unused = count(users)

    async def prepare(self) -> None:
        """Make the accounts; so the services have loaded all that they load."""
        for way in WAYS.values():
            path = "/v1/register" if way.path == "/v1/login" else way.path
            if not way.is_new:
                await ask(self._servers[way.service][1], max(AT_ONCE), path, map(way.body, range(self._users)))

    async def measure(self, way: Way, at_once: int) -> Sample:
        pid, port = self._servers[way.service]
        before, own, nats = cpu_seconds(pid), time.process_time(), cpu_seconds(self._nats_pid)
        started = time.perf_counter()
        took = await ask(port, at_once, way.path, self._bodies(way, started + self._seconds))
        elapsed = time.perf_counter() - started
        used, own, nats = cpu_seconds(pid) - before, time.process_time() - own, cpu_seconds(self._nats_pid) - nats
        wait_until_idle(pid)
        took.sort()
        p50, p99 = (took[int((len(took) - 1) * share)] * 1e3 for share in (0.5, 0.99))
        each = 1e3 / len(took)
        return Sample(len(took) / elapsed, used * each, nats * each, p50, p99, own / elapsed, (own + nats) / elapsed)

    def _bodies(self, way: Way, until: float) -> Iterator[dict[str, str]]:
        """Of one user after the other, so that no two log in as the same at a time."""
        for number in count():
            if number and time.perf_counter() > until:
                return
            yield way.body(next(self._unused) if way.is_new else number % self._users)


async def run(rounds: int, seconds: float, users: int) -> dict[tuple[str, int], list[Sample]]:
    """Every way directly after the other, `rounds` times over, at services that run all the time."""
    server_core, load_core = cores()
    seen: dict[tuple[str, int], list[Sample]] = {(name, at_once): [] for name in WAYS for at_once in AT_ONCE}
    with tempfile.TemporaryDirectory(prefix="gatelink-login-") as folder:
        async with nats_server(load_core) as nats:
            with ExitStack() as stack:
                configure(Path(folder), nats.url)
                servers = {
                    name: stack.enter_context(
                        serving(
                            f"{sys.executable} -m gatelink login --dev --config {folder}/{name}.toml "
                            f"--listen http://{HOST}:{{port}}",
                            server_core,
                        )
                    )
                    for name in SERVICES
                }
                os.sched_setaffinity(0, {load_core})
                load = Load(servers, nats.pid, users, seconds)
                await load.prepare()
                for number in range(1, rounds + 1):
                    print(f"round {number} of {rounds}", file=sys.stderr)
                    for (name, at_once), samples in seen.items():
                        samples.append(await load.measure(WAYS[name], at_once))
    return seen


def configure(folder: Path, nats_url: str) -> None:
    """Write the services' configurations, and the password that they need."""
    url = urlsplit(nats_url)
    secret = folder / "nats-password"
    secret.touch(0o600)
    secret.write_text(url.password or "")
    for name, argon2 in SERVICES.items():
        text = _CONFIG.format(
            nats=f"{url.hostname}:{url.port}", user=url.username, folder=folder, name=name, argon2=argon2
        )
        (folder / f"{name}.toml").write_text(text)


def table(seen: dict[tuple[str, int], list[Sample]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| login | at once | logins/s | least-most | server CPU ms | a core's logins/s | nats-server CPU ms "
        "| p50 ms | p99 ms | load CPU |",
        "| --- |" + " ---: |" * 9,
    ]
    for (name, at_once), samples in seen.items():
        rate, cpu, nats_cpu, p50, p99, load_cpu, both = (median(values) for values in zip(*samples, strict=True))
        rates = [sample.rate for sample in samples]
        rows.append(
            f"| {name} | {at_once} | {rate:,.0f}{'*' if both > BUSY else ''} | {min(rates):,.0f}-{max(rates):,.0f} "
            f"| {cpu:.2f} | {1e3 / max(cpu, 0.01):,.0f} | {nats_cpu:.2f} | {p50:.1f} | {p99:.1f} | {load_cpu:.2f} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.login", description="Logins a second over HTTP.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a measurement takes (4)")
    parser.add_argument("--users", type=int, default=256, help="accounts of each kind that log in, in turn (256)")
    options = parser.parse_args()
    if options.users < max(AT_ONCE):
        parser.error(f"--users must be at least {max(AT_ONCE)}, so that nobody logs in twice at a time")

    def benchmark() -> None:
        server_core, load_core = cores()  # before this process holds itself to one
        seen = uvloop.run(run(options.rounds, options.seconds, options.users))
        print(describe_environment_and_load())
        print(
            f"medians of {options.rounds} interleaved rounds of {options.seconds:g} s, {options.users} users; "
            f"login service on core {server_core}, clients and nats-server on core {load_core}\n\n{table(seen)}"
        )

    return guarded(benchmark, 120 + (options.rounds + 1) * len(WAYS) * len(AT_ONCE) * ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
