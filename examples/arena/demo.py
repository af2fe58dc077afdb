"""`make demo`: the arena as a cluster of processes, with strict robots that check it.

You can play, too: it prints the address of its page. With --stay it goes on until Ctrl-C.

With --kill, a room, a lobby, a gateway and nats-server are killed while the robots play.
Then only messages that the killed process had may be lost, and all players must be back
soon.

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
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from msgspec.structs import replace

from examples.arena.players import Player, World, live
from examples.arena.processes import cluster, victim
from examples.arena.show import GREEN, RED, Figures, Kill, Show
from examples.demo import DemoError, allow_files
from gatelink.login.client import LoginFailed
from gatelink.robots.record import Record
from gatelink.robots.report import report

ENTERING = 60.0  # s that the robots may take until they are all in a room
LOGGING_IN = 50  # robots that log in at a time
TELL_EVERY = 4.0  # s between two lines of progress
BACK_SOON = {"room": 5.0, "lobby": 5.0, "nats-server": 5.0, "gateway": 10.0}
"""The kills, in order, and the seconds within which all players must be back."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=500, help="robots (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long they play (%(default)s)"
    )
    parser.add_argument("--stay", action="store_true", help="play on until Ctrl-C")
    parser.add_argument(
        "--rooms", type=int, default=0, help="rooms; by default one for 10 robots"
    )
    parser.add_argument(
        "--kill", action="store_true", help="kill a server of each kind while they play"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a page with plots there"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 32),
        help="seed of the robots' choices",
    )
    options = parser.parse_args()
    try:
        if options.report is not None and not options.report.absolute().parent.is_dir():
            raise DemoError(
                f"--report {options.report}: "
                f"there is no directory {options.report.absolute().parent}"
            )
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
    # the cluster ends with it
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    show = Show()
    show.say("starting nats-server, a login service, 2 gateways, 2 lobbies and 2 rooms")

    def on_start(up: int) -> None:
        show.up = up

    with tempfile.TemporaryDirectory(prefix="gatelink-arena-") as folder:
        async with AsyncExitStack() as stack:
            screen = await stack.enter_async_context(AsyncExitStack())
            await screen.enter_async_context(show.live())
            at = await stack.enter_async_context(
                cluster(Path(folder), show.say, on_start)
            )
            # the picture stops before the cluster does
            stack.push_async_callback(screen.aclose)
            show.say(f"login at {at.login}, seed {options.seed}")
            show.invite(at.page)
            world = World(
                at.login,
                options.rooms or max(1, options.count // 10),
                secrets.token_hex(8),
            )
            await run(options, world, show)
    status = say(world, options.count, show)
    if options.report is not None:
        options.report.write_text(page(world, options, show), encoding="utf-8")  # noqa: ASYNC240 - all has ended
    return status


async def run(options: argparse.Namespace, world: World, show: Show) -> None:
    """Let the robots play, from their first login to the last one's end."""
    players = [Player(world, number, options.seed) for number in range(options.count)]
    show.figures = lambda: figures(world, players)
    world.tally.start()
    playing = [
        asyncio.create_task(start(player, number))
        for number, player in enumerate(players)
    ]
    ticking = asyncio.create_task(tick(world))
    try:
        await entered(players, playing, show)
        show.say(f"{len(players)} robots are in their rooms")
        if options.kill:
            for kind in BACK_SOON:
                await play(options.seconds / 5, world, show)
                await kill(kind, world, players, show)
        await play(options.seconds / (5 if options.kill else 1), world, show)
        if options.stay:
            await interrupted(show)
        show.say("the robots leave")
    finally:
        world.ending = True
        await asyncio.wait(playing, timeout=60)
        for task in (*playing, ticking):
            task.cancel()
        world.tally.end()
        await world.login.close()


async def tick(world: World) -> None:
    """End each second of the tally, for the report."""
    while True:
        await asyncio.sleep(1.0)
        world.tally.end_second()


def page(world: World, options: argparse.Namespace, show: Show) -> str:
    """The report of a demo that is over."""
    verdict = world.verdict
    counts = {
        "logins": world.logins,
        "second logins": world.second_logins,
        "changes of room": world.switches,
        "steps and words": verdict.sent,
        "told to their own player": verdict.told,
        "told to others": verdict.heard,
        "shouts received": world.shouts_heard,
    }
    if world.deaths:
        counts |= {
            "lost with a killed process": verdict.died,
            "refused by the next room": verdict.untaken,
        }
    record = Record.of(
        world.tally,
        title="Arena: the demo of gatelink",
        what=f"{options.count} robots on 2 gateways, 2 lobbies and 2 rooms, "
        f"seed {options.seed}",
        marks=[(kill.at, str(kill)) for kill in show.kills],
    )
    record = replace(
        record,
        all_errors=sum(verdict.errors.values()),
        errors=counted(verdict.errors),
        counts=counts,
    )
    return report(record)


def counted(errors: Mapping[str, int]) -> list[str]:
    """The errors, each with how often it came."""
    return [f"{times:,} x {what}" for what, times in sorted(errors.items())]


def figures(world: World, players: list[Player]) -> Figures:
    """What the robots have done so far."""
    verdict = world.verdict
    return Figures(
        robots=len(players),
        inside=sum(
            player.visit is not None and player.lost_at is None for player in players
        ),
        is_over=world.ending,
        sent=verdict.sent,
        told=verdict.told,
        heard=verdict.heard,
        lost=verdict.died,
        errors=sum(verdict.errors.values()) + world.tally.errors,
    )


async def start(player: Player, number: int) -> None:
    await asyncio.sleep(number / LOGGING_IN)
    await live(player)


async def entered(
    players: list[Player], playing: "list[asyncio.Task[None]]", show: Show
) -> None:
    """Wait until every robot is in a room."""
    deadline = time.monotonic() + ENTERING + len(players) / LOGGING_IN
    tell = time.monotonic() + TELL_EVERY
    while missing := sum(
        player.visit is None and player.session is None for player in players
    ):
        if time.monotonic() > tell:
            tell += TELL_EVERY
            show.say(
                f"{len(players) - missing} of {len(players)} robots are in their rooms"
            )
        if time.monotonic() > deadline or any(task.done() for task in playing):
            errors = counted(players[0].world.verdict.errors) or ["no time was left"]
            raise DemoError(
                f"{missing:,} of {len(players):,} robots got into no room: "
                f"{'; '.join(errors)}. On a busy machine take fewer robots: "
                "make demo DEMO_ARGS='--count 100'"
            )
        await asyncio.sleep(0.1)


async def play(seconds: float, world: World, show: Show) -> None:
    """Let the robots play, and show their progress every few seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, TELL_EVERY))
        if (left := end - time.monotonic()) > 0.1:
            verdict = world.verdict
            show.say(
                f"{left:.0f} s more; so far {verdict.sent:,} sent, "
                f"{verdict.heard:,} received"
            )


async def interrupted(show: Show) -> None:
    """Wait for Ctrl-C, which then ends the game and not the demo."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, done.set)
    show.say("the robots play until Ctrl-C")  # not before Ctrl-C is heard
    await done.wait()
    loop.remove_signal_handler(signal.SIGINT)


async def kill(kind: str, world: World, players: list[Player], show: Show) -> None:
    """Kill one process of the cluster, and wait until all its players are in a room."""
    assert show.up is not None
    pid = victim(kind, show.up)
    world.deaths += 1
    world.killed_at = time.monotonic()
    world.returns.clear()
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    killed = Kill(kind, world.tally.elapsed)
    show.killed(killed)
    if kind == "nats-server":
        await back(world, players, began)
        took = await login_again(world, began)
    else:
        await asyncio.sleep(1.0)  # a death is noticed first
        took = await back(world, players, began)
    killed.hurt = len(world.returns)
    killed.took = max([took, *world.returns])
    show.back(killed)
    if killed.took > BACK_SOON[kind]:
        world.verdict.error(
            f"not all players were back {BACK_SOON[kind]:g} s after a {kind} was killed"
        )


async def back(world: World, players: list[Player], began: float) -> float:
    """Wait until no player misses its room.

    Returns how long that took if it took too long, else 0.
    """
    while any(player.lost_at is not None for player in players):
        if time.monotonic() - began > 30:
            world.verdict.error("players did not come back")
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return 0.0


async def login_again(world: World, began: float) -> float:
    """Wait until a login works, which needs the engine.

    It is not a robot's: a login ends the user's older token.
    """
    while time.monotonic() - began < 30:
        try:
            await world.login.register("witness", world.password)
            break
        except LoginFailed as error:
            if error.code == "name-taken":  # the answer to an attempt before was lost
                break
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def say(world: World, count: int, show: Show) -> int:
    """Write the results of the robots. Returns the exit status."""
    verdict = world.verdict
    lines = [
        f"robots {count}, logins {world.logins} over HTTP, "
        f"second logins {world.second_logins}, changes of room {world.switches}",
        f"steps and words {verdict.sent:,}: told to their own player {verdict.told:,}, "
        f"to others {verdict.heard:,}",
        f"shouts {world.shouts:,}, received {world.shouts_heard:,} times",
    ]
    if world.deaths:
        lines.append(
            f"lost with a killed process {verdict.died:,}, "
            f"refused by the next room {verdict.untaken:,}"
        )
    for text, error in world.tally.error_texts.items():
        verdict.errors[text] = error.count
    lines += [f"ERROR {error}" for error in counted(verdict.errors)]
    lost = sum(
        times
        for what, times in verdict.errors.items()
        if "missing" in what or what == "lost"
    )
    twice = sum(times for what, times in verdict.errors.items() if "twice" in what)
    lines.append(
        f"verdict: lost {lost}, twice or out of order {twice}, "
        f"errors {sum(verdict.errors.values())}"
    )
    for line in lines:
        show.line(line, RED if line.startswith("ERROR") else "")
    held = not verdict.errors and verdict.told > 0
    show.line("Everything held." if held else "It did not hold.", GREEN if held else RED)
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
