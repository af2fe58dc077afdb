"""GOAWAY: the client leaves in time, goes where it is told, and loses nothing on the way."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.errors import CloseCode
from gatelink.wire.control import Close, GoAway


@step()
async def goaway_in_time(bench: Bench) -> None:
    """The client leaves within the time that GOAWAY gives, and resumes. Until then the session goes on."""
    player = await bench.login()
    await bench.exchange(player)
    bench.server.serve()  # the client may leave at any moment of that time
    old = player.connection
    old.say(GoAway(1_000))
    await bench.exchange(player)
    await bench.until(lambda: old.is_over, "the client leaves within the second that GOAWAY gave", seconds=2)
    await bench.until(lambda: player.resumed, "`resumed` of the driver", player)
    await bench.exchange(player)


@step()
async def goaway_now(bench: Bench) -> None:
    """With a time of 0 the client leaves at once."""
    player = await bench.login()
    bench.send(player, 20)
    player.scripted.send_counts(20)
    old = player.connection
    old.say(GoAway(0))
    await bench.until(lambda: old.is_over, "the client leaves at once", seconds=1)
    await bench.resume(player)
    await bench.settled(player)


@step(slow=True)
async def goaway_address(bench: Bench) -> None:
    """The client goes to the address that GOAWAY gives, and stays there."""
    player = await bench.login()
    await bench.exchange(player)
    door = await bench.server.open_door()
    through_proxy = bench.proxy.connections
    player.connection.say(GoAway(200, door))
    for _ in range(2):
        await bench.resume(player, "at GOAWAY's address")
        await bench.exchange(player)
        player.connection.abort()
    await bench.resume(player, "at GOAWAY's address")
    if bench.proxy.connections > through_proxy:
        raise Unmet("the client dialled its first address, and not that of GOAWAY")


@step()
async def goaway_unsafe_address(bench: Bench) -> None:
    """An address of another kind of transport counts as not given."""
    player = await bench.login()
    other = await bench.server.open_door("ws" if bench.server.transport == "tcp" else "tcp")
    through_proxy = bench.proxy.connections
    player.connection.say(GoAway(100, other))
    await bench.resume(player, f"where it was, and not at {other}")
    if bench.proxy.connections == through_proxy:
        raise Unmet(f"the client followed GOAWAY to {other}")
    await bench.exchange(player)


@step()
async def goaway_then_close(bench: Bench) -> None:
    """A server that stops says GOAWAY, and then CLOSE 4011 and the end; the client comes back."""
    player = await bench.login()
    bench.send(player, 10)
    player.scripted.send_counts(10)
    player.connection.say(GoAway(200), Close(CloseCode.GOING_AWAY, "the server stops"))
    player.connection.end()
    await bench.resume(player)
    await bench.settled(player)


@step(slow=True)
async def goaway_again(bench: Bench) -> None:
    """Servers that send the client away again and again are dialled with growing delays."""
    player = await bench.login()
    bench.server.on_welcome = lambda connection: connection.say(GoAway(0))
    bench.server.serve()
    before = bench.server.dials
    player.connection.say(GoAway(0))
    await bench.judge.never(lambda: bench.server.dials - before > 60, "more than 60 connections in 1.5 s", 1.5)
    bench.server.on_welcome = lambda connection: None
    if bench.server.dials == before:
        raise Unmet("the client did not dial again after GOAWAY(0)")
    await bench.exchange(player)
