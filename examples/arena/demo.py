"""`make demo`: the arena as a cluster of processes, and strict robots that check everything.

With --kill, a room, a lobby, a gateway and nats-server are killed while the robots play. Then only messages that the
killed process had may be lost, and all players must be back soon.

Exit status: 0 no errors; 1 errors, or a process did not start or end as it should.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from examples.arena.players import Player, World, live
from examples.arena.processes import cluster, victim
from examples.demo import DemoError, allow_files
from gatelink.login.client import LoginFailed

ENTERING = 60.0  # s that the robots may take until they are all in a room
LOGGING_IN = 50  # robots that log in at a time
TELL_EVERY = 4.0  # s between two lines of progress
BACK_SOON = {"room": 5.0, "lobby": 5.0, "nats-server": 5.0, "gateway": 10.0}
"""The kills, in order, and the seconds within which all players must be back."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="robots (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they play (%(default)s)")
    parser.add_argument("--rooms", type=int, default=0, help="rooms; by default one for 10 robots")
    parser.add_argument("--kill", action="store_true", help="kill a server of each kind while they play")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), help="seed of the robots' choices")
    options = parser.parse_args()
    try:
        allow_files(options.count)
        return uvloop.run(demo(options))
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


async def demo(options: argparse.Namespace) -> int:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # the cluster ends with it
    print("arena: starting nats-server, a login service, 2 gateways, 2 lobbies and 2 rooms", flush=True)
    with tempfile.TemporaryDirectory(prefix="gatelink-arena-") as folder:
        async with cluster(Path(folder)) as (login_url, up):
            print(f"arena: login at {login_url}, seed {options.seed}", flush=True)
            world = World(login_url, options.rooms or max(1, options.count // 10), secrets.token_hex(8))
            players = [Player(world, number, options.seed) for number in range(options.count)]
            playing = [asyncio.create_task(start(player, number)) for number, player in enumerate(players)]
            try:
                await entered(players, playing)
                print(f"{len(players)} robots are in their rooms", flush=True)
                if options.kill:
                    for kind in BACK_SOON:
                        await play(options.seconds / 5, world)
                        await kill(kind, up, world, players)
                await play(options.seconds / (5 if options.kill else 1), world)
                print("the robots leave", flush=True)
            finally:
                world.ending = True
                await asyncio.wait(playing, timeout=60)
                for task in playing:
                    task.cancel()
                await world.login.close()
        return say(world, options.count)


async def start(player: Player, number: int) -> None:
    await asyncio.sleep(number / LOGGING_IN)
    await live(player)


async def entered(players: list[Player], playing: "list[asyncio.Task[None]]") -> None:
    """Wait until every robot is in a room."""
    deadline = time.monotonic() + ENTERING + len(players) / LOGGING_IN
    tell = time.monotonic() + TELL_EVERY
    while missing := sum(player.visit is None and player.session is None for player in players):
        if time.monotonic() > tell:
            tell += TELL_EVERY
            print(f"{len(players) - missing} of {len(players)} robots are in their rooms", flush=True)
        if time.monotonic() > deadline or any(task.done() for task in playing):
            errors = players[0].world.verdict.errors
            raise DemoError(f"not every robot got into a room: {errors or 'no time left'}")
        await asyncio.sleep(0.1)


async def play(seconds: float, world: World) -> None:
    """Let the robots play, and print their progress every few seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, TELL_EVERY))
        if (left := end - time.monotonic()) > 0.1:
            verdict = world.verdict
            print(f"{left:.0f} s more; so far {verdict.sent:,} sent, {verdict.heard:,} received", flush=True)


async def kill(kind: str, up: int, world: World, players: list[Player]) -> None:
    """Kill one process of the cluster, and wait until all its players are in a room again."""
    pid = victim(kind, up)
    world.deaths += 1
    world.killed_at = time.monotonic()
    world.returns.clear()
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    if kind == "nats-server":
        await back(world, players, began)
        took = await login_again(world, began)
    else:
        await asyncio.sleep(1.0)  # a death is noticed first
        took = await back(world, players, began)
    hurt = len(world.returns)
    longest = max(world.returns, default=0.0)
    print(
        f"killed a {kind}: {hurt} robots lost their room, the last was back after {max(longest, took):.1f} s",
        flush=True,
    )
    if max(longest, took) > BACK_SOON[kind]:
        world.verdict.error(f"not all players were back {BACK_SOON[kind]:g} s after a {kind} was killed")


async def back(world: World, players: list[Player], began: float) -> float:
    """Wait until no player misses its room. Returns how long that took if it took too long, else 0."""
    while any(player.lost_at is not None for player in players):
        if time.monotonic() - began > 30:
            world.verdict.error("players did not come back")
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return 0.0


async def login_again(world: World, began: float) -> float:
    """Wait until a login works, which needs the engine. It is not a robot's: a login ends the user's older token."""
    while time.monotonic() - began < 30:
        try:
            await world.login.register("witness", world.password)
            break
        except LoginFailed as error:
            if error.code == "name-taken":  # the answer to an attempt before was lost
                break
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def say(world: World, count: int) -> int:
    """Print the results of the robots. Returns the exit status."""
    verdict = world.verdict
    lines = [
        f"robots {count}, logins {world.logins} over HTTP, second logins {world.second_logins}, "
        f"changes of room {world.switches}",
        f"steps and words {verdict.sent:,}: told to their own player {verdict.told:,}, to others {verdict.heard:,}",
        f"shouts {world.shouts:,}, received {world.shouts_heard:,} times",
    ]
    if world.deaths:
        lines.append(f"lost with a killed process {verdict.died:,}, refused by the next room {verdict.untaken:,}")
    for what, times in sorted(verdict.errors.items()):
        lines.append(f"ERROR {times} x {what}")
    lost = sum(times for what, times in verdict.errors.items() if "missing" in what or what == "lost")
    twice = sum(times for what, times in verdict.errors.items() if "twice" in what)
    lines.append(f"verdict: lost {lost}, twice or out of order {twice}, errors {sum(verdict.errors.values())}")
    print("\n".join(lines))
    held = not verdict.errors and verdict.told > 0
    print("Everything held." if held else "It did not hold.")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
