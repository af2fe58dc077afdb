"""Clocks that jump, and a process that stands still."""

import signal

from gatelink.conformance import contract
from gatelink.conformance.bench import Bench, Skipped
from gatelink.conformance.player import Player
from gatelink.conformance.step import step

DAY = 86_400.0


async def _stays(bench: Bench, player: Player) -> None:
    """The session stays open, and its heartbeat goes on."""
    pings = len(player.scripted.pings)
    await bench.judge.never(lambda: player.suspended, "the client left when its clock was set", 0.6)
    await bench.until(lambda: len(player.scripted.pings) > pings, "a PING after the clock was set", player)


@step(slow=True)
async def wall_clock(bench: Bench) -> None:
    """Somebody sets the clock a day forward, then three days back: the session goes on, and resumes."""
    if "clock" not in bench.driver.ready.can:
        raise Skipped("the driver can't move its clock")
    player = await bench.login(heartbeat=(0.3, 2.0))
    try:
        for seconds in (DAY, -3 * DAY):
            bench.driver.tell(contract.Clock(seconds))
            await _stays(bench, player)
            await bench.exchange(player)
        bench.driver.tell(contract.Clock(DAY))
        player.connection.abort()
        await bench.resume(player)
        await bench.exchange(player)
    finally:
        bench.driver.tell(contract.Clock(DAY))


@step(slow=True)
async def process_stopped(bench: Bench) -> None:
    """The driver's process stands still for longer than its heartbeat's timeout: all that came meanwhile counts."""
    player = await bench.login(heartbeat=(0.3, 1.2))
    await bench.exchange(player)
    bench.server.serve()
    bench.driver.signal(signal.SIGSTOP)
    try:
        bench.send(player, 20)
        player.scripted.send_counts(20)
        await bench.judge.never(lambda: player.delivered > 5, "an event of a process that stands still", 2.0)
    finally:
        bench.driver.signal(signal.SIGCONT)
    await bench.settled(player)


@step(slow=True)
async def process_stopped_and_cut(bench: Bench) -> None:
    """Its connection breaks while the process stands still: it resumes."""
    player = await bench.login()
    await bench.exchange(player)
    bench.driver.signal(signal.SIGSTOP)
    try:
        player.scripted.send_counts(20)
        player.connection.abort()
        await bench.judge.never(lambda: player.delivered > 5, "an event of a process that stands still", 0.3)
    finally:
        bench.driver.signal(signal.SIGCONT)
    await bench.resume(player)
    await bench.settled(player)
