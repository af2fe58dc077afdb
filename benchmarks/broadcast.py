"""One message to everybody: how many deliveries a second reach the receivers.

    python -m benchmarks.broadcast [--receivers 5000] [--seconds 3] [--server-command 'COMMAND {port}']

Message 20002 asks the server to send its 64 bytes of body to every session, as one message 20003 each. A few
broadcasts are kept in flight, so that the server always has work.
"""

import argparse
import os
import select
import socket
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.harness import (
    SERVER_COMMAND,
    BenchmarkError,
    allow_files,
    cores,
    cpu_seconds,
    describe_environment,
    guarded,
    serving,
)
from benchmarks.rawclient import FIRST_UID, FrameCounter, connect, frame

ASK, DELIVERED = 20_002, 20_003
REQUEST = frame(ASK, b"x" * 64)
IN_FLIGHT = 4  # broadcasts
STALLED = 10.0  # s without a delivery
BUSY = 0.9


class Result(NamedTuple):
    """What the receivers saw."""

    rate: float  # deliveries per second
    cpu_us: float  # us of the server's processor time per delivery
    load_cpu: float  # share of the receivers' core


class Receivers:
    """Verified connections in one epoll; the first of them also asks for the broadcasts."""

    def __init__(self, clients: list[socket.socket]) -> None:
        self.deliveries = 0
        self._asked = 0
        self._asker = clients[0]
        self._poll = select.epoll()
        self._clients = {client.fileno(): (client, FrameCounter(DELIVERED)) for client in clients}
        for number, (client, _) in self._clients.items():
            client.setblocking(False)
            self._poll.register(number, select.EPOLLIN)

    def ask_until(self, in_flight: int) -> None:
        """Ask for broadcasts until `in_flight` of them are not delivered to everybody."""
        while self._asked - self.deliveries // len(self._clients) < in_flight:
            self._asker.send(REQUEST)
            self._asked += 1

    def receive(self) -> None:
        """Take what has arrived, waiting for something to. Raises BenchmarkError when nothing does for 10 s."""
        ready = self._poll.poll(STALLED)
        if not ready:
            raise BenchmarkError(f"nothing delivered for {STALLED:.0f} s, after {self.deliveries} deliveries")
        for number, _ in ready:
            client, counter = self._clients[number]
            data = client.recv(65_536)
            if not data:
                raise BenchmarkError(f"the server closed a receiver after {self.deliveries} deliveries")
            self.deliveries += counter.feed(data)


def run(command: str, count: int, seconds: float) -> Result:
    """Broadcast to `count` receivers for `seconds`."""
    server_core, load_core = cores()
    allow_files(count + 100)
    with serving(command, server_core) as (pid, port), ExitStack() as stack:
        os.sched_setaffinity(0, {load_core})
        receivers = Receivers([stack.enter_context(connect(port, FIRST_UID + number)) for number in range(count)])
        receivers.ask_until(1)
        while receivers.deliveries < count:  # the first one only warms up
            receivers.receive()
        used, own, started = cpu_seconds(pid), time.process_time(), time.monotonic()
        while time.monotonic() - started < seconds:
            receivers.ask_until(IN_FLIGHT)
            receivers.receive()
        elapsed, deliveries = time.monotonic() - started, receivers.deliveries - count
        used, own = cpu_seconds(pid) - used, time.process_time() - own
        return Result(deliveries / elapsed, used * 1e6 / deliveries, own / elapsed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broadcast", description="One message to everybody.")
    parser.add_argument("--receivers", type=int, default=5_000, help="how many (5000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure (3)")
    parser.add_argument("--server-command", default=SERVER_COMMAND, help="the server to measure; {port} is its port")
    options = parser.parse_args()

    def benchmark() -> None:
        result = run(options.server_command, options.receivers, options.seconds)
        print(describe_environment())
        print(
            f"broadcast to {options.receivers:,} receivers: {result.rate:,.0f} deliveries/s, "
            f"{result.cpu_us:.2f} us of server CPU each; "
            f"the receivers' core was {result.load_cpu:.0%} busy{'*' if result.load_cpu > BUSY else ''}"
        )

    return guarded(benchmark, 180 + options.seconds)


if __name__ == "__main__":
    sys.exit(main())
