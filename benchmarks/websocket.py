"""WebSocket beside TCP and beside a bare echo in one run, the memory of an idle session, and logins in a second.

    python -m benchmarks.websocket [--rounds 3] [--seconds 2] [--sessions 2000] [--logins 1000]

The generator sends each message as a WebSocket message of its own, as a browser does. The method is in
benchmarks/README.md.
"""

import argparse
import asyncio
import socket
import ssl
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.echo import server
from benchmarks.harness import (
    HOST,
    BenchmarkError,
    allow_files,
    cores,
    cpu_seconds,
    describe_environment,
    guarded,
    rss_bytes,
    serving,
    wait_until_idle,
)
from benchmarks.rawclient import FIRST_UID, VERIFY_SUCCEEDED, FrameCounter, verify_request
from benchmarks.run import POINTS, Point, Sample, measure, medians
from examples.listeners import certificate
from gatelink import Listen

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: gatelink.1\r\n\r\n"
)


def command(scheme: str, folder: Path) -> str:
    """The command of a server with one listener; `{port}` is its port."""
    if scheme == "wss":
        return f"{sys.executable} -m benchmarks.websocket --serve {folder} --port {{port}}"
    return f"{sys.executable} -m gatelink serve benchmarks.echo:server --listen {scheme}://{HOST}:{{port}}"


async def serve(folder: Path, port: int) -> None:
    """The echo on a wss:// listener, until this process ends."""
    pem, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    server.listen = (Listen(endpoint=f"wss://{HOST}:{port}", certificate=pem, key=key),)
    async with server:
        await asyncio.Event().wait()


def connect(port: int, uid: int, scheme: str, tls: ssl.SSLContext) -> socket.socket:
    """A verified connection. Raises BenchmarkError when it is refused."""
    client = socket.create_connection((HOST, port), timeout=10)
    if scheme == "wss":
        client = tls.wrap_socket(client, server_hostname=HOST)
    data = verify_request(uid)
    if scheme != "tcp":
        client.sendall(REQUEST)
        if not client.recv(4_096).startswith(b"HTTP/1.1 101 "):
            raise BenchmarkError("the request of a WebSocket was refused")
        data = bytes((0x82, 0x80 | len(data), 0, 0, 0, 0)) + data
    client.sendall(data)
    answer = client.recv(4_096)
    if not FrameCounter(VERIFY_SUCCEEDED).feed(answer if scheme == "tcp" else answer[2:]):
        raise BenchmarkError(f"client {uid} was not verified: {answer!r}")
    return client


def echo(rounds: int, seconds: float, folder: Path) -> None:
    server_core, load_core = cores()
    bare = f"{sys.executable} -m benchmarks.bare_websocket {{port}}"
    seen: dict[Point, list[tuple[Sample, Sample, Sample]]] = {point: [] for point in POINTS}
    with ExitStack() as servers:
        tcp, web, alone = (
            servers.enter_context(serving(line, server_core))
            for line in (command("tcp", folder), command("ws", folder), bare)
        )
        for _ in range(rounds):
            for point in POINTS:
                seen[point].append(
                    (
                        measure(tcp, point, seconds, load_core),
                        measure(web, point, seconds, load_core, "ws"),
                        measure(alone, point, seconds, load_core, "ws"),
                    )
                )
    print(
        "| conns | depth | body | TCP msgs/s | WebSocket | of TCP's | of a bare echo's "
        "| CPU us/msg: TCP | WebSocket | bare |"
    )
    print("|" + " ---: |" * 10)
    for point, rounds_seen in seen.items():
        tcp_all, web_all, bare_all = (medians([each[kind] for each in rounds_seen]) for kind in range(3))
        of_tcp = median(web.rate / tcp.rate for tcp, web, _ in rounds_seen)
        of_bare = median(web.rate / alone.rate for _, web, alone in rounds_seen)
        print(
            f"| {point.conns:,} | {point.depth} | {point.body} | {tcp_all.rate:,.0f} | {web_all.rate:,.0f} "
            f"| {of_tcp:.2f} | {of_bare:.2f} | {tcp_all.cpu_us:.1f} | {web_all.cpu_us:.1f} | {bare_all.cpu_us:.1f} |"
        )


def memory(scheme: str, sessions: int, folder: Path, tls: ssl.SSLContext) -> float:
    """Bytes of the server for each idle session."""
    with serving(command(scheme, folder), cores()[0]) as (pid, port), ExitStack() as clients:
        clients.enter_context(connect(port, FIRST_UID, scheme, tls))
        wait_until_idle(pid)
        before = rss_bytes(pid)
        for uid in range(FIRST_UID + 1, FIRST_UID + 1 + sessions):
            clients.enter_context(connect(port, uid, scheme, tls))
        time.sleep(2)
        return (rss_bytes(pid) - before) / sessions


def logins(scheme: str, count: int, folder: Path, tls: ssl.SSLContext) -> float:
    """Microseconds of the server's processor for a connection, its upgrade and its login."""
    with serving(command(scheme, folder), cores()[0]) as (pid, port):
        connect(port, FIRST_UID, scheme, tls).close()
        wait_until_idle(pid)
        before = cpu_seconds(pid)
        for uid in range(FIRST_UID + 1, FIRST_UID + 1 + count):
            connect(port, uid, scheme, tls).close()
        wait_until_idle(pid)
        return (cpu_seconds(pid) - before) / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.websocket", description="WebSocket beside TCP.")
    parser.add_argument("--rounds", type=int, default=3, help="of the echo (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (2)")
    parser.add_argument("--sessions", type=int, default=2_000, help="idle ones (2000)")
    parser.add_argument("--logins", type=int, default=1_000, help="one after another (1000)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(serve(options.serve, options.port))
        return 0

    def benchmark() -> None:
        print(describe_environment(), flush=True)
        allow_files(options.sessions + 1_100)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            certificate.make(folder)
            tls = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
            echo(options.rounds, options.seconds, folder)
            for scheme in ("tcp", "ws", "wss"):
                held = memory(scheme, options.sessions, folder, tls)
                cost = logins(scheme, options.logins, folder, tls)
                print(
                    f"{scheme}: an idle session holds {held:,.0f} bytes; connecting and logging in takes the server "
                    f"{cost:,.0f} us, {1e6 / cost:,.0f} a second",
                    flush=True,
                )

    measurements = options.rounds * len(POINTS) * 3
    return guarded(benchmark, 240 + measurements * (options.seconds + 20))


if __name__ == "__main__":
    sys.exit(main())
