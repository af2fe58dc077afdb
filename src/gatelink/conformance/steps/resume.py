"""Resume itself: what comes before RESUMED, which answers count, and where RESUME goes."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.player import Player
from gatelink.conformance.server import verified
from gatelink.conformance.step import step
from gatelink.errors import CloseCode, counted
from gatelink.wire.control import Close, Resumed


async def _broken(bench: Bench) -> Player:
    """A session with messages that both sides still have to send again."""
    player = await bench.login()
    player.scripted.acknowledges = False
    await bench.exchange(player, count=10)
    player.scripted.received -= 5
    player.scripted.acknowledges = True
    player.connection.abort()
    return player


@step()
async def waits_for_resumed(bench: Bench) -> None:
    """Between RESUME and RESUMED the client sends nothing."""
    player = await _broken(bench)
    connection = await bench.server.accept("to resume")
    await bench.server.greet(connection)
    _, record = await bench.server.read_resume(connection)
    bench.send(player, 5)
    await bench.no_frames(connection, "between RESUME and RESUMED", 0.3)
    await bench.judge.never(lambda: player.resumed, "the driver said `resumed` before RESUMED", 0.01)
    bench.server.go_on(connection, player, record)
    await bench.settled(player)


@step()
async def wrong_mac(bench: Bench) -> None:
    """RESUMED with a wrong proof is no RESUMED: the client leaves that server, sends it nothing, and tries again."""
    player = await _broken(bench)
    connection = await bench.server.accept("to resume")
    await bench.server.greet(connection)
    await bench.server.read_resume(connection)
    connection.say(Resumed(player.scripted.received, bytes(32)))
    connection.write(player.scripted.count_frame())
    player.scripted.counted -= 1
    await connection.over("the client leaves a server with a wrong proof")
    if connection.frames and connection.frames[0][0]:
        raise Unmet("the client sent a message to a server with a wrong proof")
    await bench.resume(player)
    await bench.exchange(player)


@step()
async def wrong_count(bench: Bench) -> None:
    """RESUMED with a count that can't be is a broken server: the client leaves, and tries again."""
    player = await _broken(bench)
    for count in (len(player.scripted.frames) + 1, 2**64 - 1):
        connection = await bench.server.accept("to resume")
        await bench.server.greet(connection)
        _, record = await bench.server.read_resume(connection)
        connection.write(player.scripted.resumed_frame(connection, record, received=count))
        await connection.over(f"the client leaves a server that says it received {counted(count, 'message')}")
    await bench.resume(player)
    await bench.exchange(player)


@step(slow=True)
async def resume_refused(bench: Bench) -> None:
    """A server that does not know the session says 4012: the session ends with that, or the client begins another."""
    player = await _broken(bench)
    connection = await bench.server.accept("to resume")
    await bench.server.greet(connection)
    await bench.server.read_resume(connection)
    connection.say(Close(CloseCode.RESUME_REFUSED))
    connection.end()
    await bench.gone(player, CloseCode.RESUME_REFUSED, "after 4012")


@step()
async def no_new_session(bench: Bench) -> None:
    """A ClientVertifySucceedRet in place of RESUMED would be another session: the client does not take it."""
    player = await _broken(bench)
    connection = await bench.server.accept("to resume")
    await bench.server.greet(connection)
    await bench.server.read_resume(connection)
    connection.write(verified(player.uid))
    await connection.over("the client leaves a server that answers RESUME with a new session")
    await bench.resume(player)
    await bench.exchange(player)


@step()
async def closed_for_now(bench: Bench) -> None:
    """A CLOSE with 4010, 4011 or 4013 before RESUMED is not about the session: the client tries again."""
    player = await _broken(bench)
    for code in (CloseCode.SERVER_FULL, CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR):
        connection = await bench.server.accept("to resume")
        await bench.server.greet(connection)
        connection.say(Close(code))
        connection.end()
    await bench.resume(player)
    await bench.exchange(player)


@step()
async def ticket_address(bench: Bench) -> None:
    """RESUME goes to the address in the ticket, every time."""
    door = await bench.server.open_door()
    player = bench.connect()
    await bench.let_in(player, address=door)
    through_proxy = bench.proxy.connections
    for _ in range(2):
        await bench.exchange(player)
        player.connection.abort()
        await bench.resume(player, "to resume at the ticket's address")
    if bench.proxy.connections > through_proxy:
        raise Unmet("the client dialled its first address, and not that of the ticket")


@step()
async def unsafe_address(bench: Bench) -> None:
    """A ticket's address of another kind of transport, or that is none, counts as not given."""
    other = await bench.server.open_door("ws" if bench.server.transport == "tcp" else "tcp")
    for address in (other, "unix:///tmp/nothing", "no address"):
        player = bench.connect()
        await bench.let_in(player, address=address)
        through_proxy = bench.proxy.connections
        player.connection.abort()
        await bench.resume(player, f"to resume where it was, and not at {address}")
        if bench.proxy.connections == through_proxy:
            raise Unmet(f"the client followed its ticket to {address}")
        await bench.exchange(player)


@step(slow=True)
async def delays_grow(bench: Bench) -> None:
    """While every connection breaks at once, the client waits between its attempts."""
    player = await _broken(bench)
    before = bench.server.dials
    bench.server.refuses = True
    await bench.judge.never(lambda: bench.server.dials - before > 60, "more than 60 attempts in 1.5 s", 1.5)
    bench.server.refuses = False
    await bench.resume(player)
    await bench.exchange(player)


@step(slow=True)
async def attempts_end(bench: Bench) -> None:
    """After its attempts, or when the ticket's window is over, the session ends, and the client dials no more."""
    player = bench.connect(attempts=4)
    await bench.let_in(player, window=1)
    bench.server.refuses = True
    player.connection.abort()
    await bench.until(lambda: player.closed, "`closed` after four attempts, or after the ticket's second", seconds=10)
    await bench.no_dial("after its last attempt")
