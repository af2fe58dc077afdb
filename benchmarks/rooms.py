"""What a player costs on a gateway and on a service, and how long a room's message takes to all its players.

    python -m benchmarks.rooms [--sessions 4000] [--settle 12] [--players 1000] [--shouts 200]

A real nats-server, two gateways, one service; players on bare sockets. The method is in benchmarks/README.md.
"""

import argparse
import selectors
import socket
import sys
import time
from contextlib import ExitStack
from statistics import median, quantiles
from typing import NamedTuple

from benchmarks.forward import engine, service, until_joined
from benchmarks.harness import (
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
from benchmarks.rawclient import FIRST_UID, FrameCounter, connect, frame

SHOUT, HEARD, SIT = 20_002, 20_003, 20_004
ANSWER = 10.0  # s that all answers to one message may take
BODY = bytes(64)


class Memory(NamedTuple):
    """Bytes for each player, in the resident sets of both processes."""

    gateway: float
    service: float


class FanOut(NamedTuple):
    """The results of the shouts in the full room."""

    times: list[float]  # s from the shout to its last receiver
    gateway_us: float  # us of both gateways' processor time for each delivery
    service_us: float  # us of the service's for each shout


def run(sessions: int, settle: float, players: int, shouts: int) -> tuple[Memory, FanOut]:
    server_core, load_core = cores()
    allow_files(max(sessions, players) + 200)
    command = f"{sys.executable} -m benchmarks.member gateway --engine {{url}} --id {{id}} --port {{{{port}}}}"
    with engine(load_core) as url, service(url, server_core) as service_pid, ExitStack() as stack:
        gateways = [stack.enter_context(serving(command.format(url=url, id=id), server_core)) for id in (1, 2)]
        for gateway in gateways:
            until_joined(gateway, load_core)
        return memory(gateways[0], service_pid, sessions, settle), fan_out(gateways, service_pid, players, shouts)


def memory(gateway: tuple[int, int], service_pid: int, sessions: int, settle: float) -> Memory:
    pid, port = gateway
    with ExitStack() as stack:
        seat(stack.enter_context(connect(port, FIRST_UID)))
        wait_until_idle(pid)
        before = rss_bytes(pid), rss_bytes(service_pid)
        for uid in range(FIRST_UID + 1, FIRST_UID + 1 + sessions):
            seat(stack.enter_context(connect(port, uid)))
        time.sleep(settle)
        after = rss_bytes(pid), rss_bytes(service_pid)
    return Memory(*((now - then) / sessions for then, now in zip(before, after, strict=True)))


def seat(player: socket.socket) -> None:
    """Bind a player to the service and put it into the room."""
    player.settimeout(ANSWER)
    player.sendall(frame(SIT))
    read_until(player, SIT)


def read_until(player: socket.socket, message_id: int) -> None:
    counter = FrameCounter(message_id)
    while not counter.feed(data := player.recv(65_536)):
        if not data:
            raise BenchmarkError("the gateway closed a player's connection")


def fan_out(gateways: list[tuple[int, int]], service_pid: int, players: int, shouts: int) -> FanOut:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        sockets = []
        for number in range(players):
            player = stack.enter_context(connect(gateways[number % 2][1], FIRST_UID + 1_000_000 + number))
            seat(player)
            player.setblocking(False)
            selector.register(player, selectors.EVENT_READ, FrameCounter(HEARD))
            sockets.append(player)
        before = [cpu_seconds(pid) for pid, _ in gateways], cpu_seconds(service_pid)
        times = [shout(selector, sockets[number % players], players) for number in range(shouts)]
        gateways_used = sum(cpu_seconds(pid) - used for (pid, _), used in zip(gateways, before[0], strict=True))
        service_used = cpu_seconds(service_pid) - before[1]
    return FanOut(times, gateways_used * 1e6 / (shouts * players), service_used * 1e6 / shouts)


def shout(selector: selectors.BaseSelector, player: socket.socket, players: int) -> float:
    """Seconds until all players have a shout of `player`. Raises BenchmarkError if one gets it twice or never."""
    began = time.perf_counter()
    player.send(frame(SHOUT, BODY))
    heard = 0
    while heard < players:
        ready = selector.select(ANSWER)
        if not ready:
            raise BenchmarkError(f"only {heard} of {players} heard a shout within {ANSWER:g} s")
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            heard += key.data.feed(key.fileobj.recv(65_536))
    if heard > players:
        raise BenchmarkError(f"{players} players heard a shout {heard} times")
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rooms", description="Players and rooms of a cluster.")
    parser.add_argument("--sessions", type=int, default=4_000, help="idle players, for memory (4000)")
    parser.add_argument("--settle", type=float, default=12.0, help="seconds before the second look (12)")
    parser.add_argument("--players", type=int, default=1_000, help="players in the room, on two gateways (1000)")
    parser.add_argument("--shouts", type=int, default=200, help="messages to the room (200)")
    options = parser.parse_args()

    def benchmark() -> None:
        each, heard = run(options.sessions, options.settle, options.players, options.shouts)
        print(describe_environment())
        print(
            f"{options.sessions:,} idle players, one message each: {each.gateway:,.0f} bytes on the gateway, "
            f"{each.service:,.0f} on the service"
        )
        p99 = quantiles(heard.times, n=100)[98] if len(heard.times) > 1 else heard.times[0]
        print(
            f"a message to a room of {options.players:,} on two gateways, the gateways and the service on one core: "
            f"heard by the last after p50 {median(heard.times) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms "
            f"({options.shouts} messages); {heard.gateway_us:.2f} us of the gateways' CPU for each delivery, "
            f"{heard.service_us:.0f} us of the service's for each message"
        )

    return guarded(benchmark, 180 + options.settle)


if __name__ == "__main__":
    sys.exit(main())
