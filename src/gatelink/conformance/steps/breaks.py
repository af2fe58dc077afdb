"""Breaks: between any two bytes, at any moment, any number of them. Nothing is lost, and nothing comes twice."""

import random

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.player import Player
from gatelink.conformance.step import step
from gatelink.testing.faults import Direction, Fault, HalfClose, Reset, Split, Stall

BREAKS = 100
"""Of `random-breaks`."""


async def _goes_on(bench: Bench, player: Player) -> None:
    await bench.resume(player)
    await bench.exchange(player)


@step()
async def break_by_reset(bench: Bench) -> None:
    """The connection is reset between two messages."""
    player = await bench.login()
    await bench.exchange(player)
    player.connection.abort()
    await _goes_on(bench, player)


@step()
async def break_by_end(bench: Bench) -> None:
    """The stream ends without a CLOSE."""
    player = await bench.login()
    await bench.exchange(player)
    player.connection.end()
    await _goes_on(bench, player)


@step()
async def break_in_frame_down(bench: Bench) -> None:
    """A message to the client is cut anywhere inside: its part is forgotten, and it comes whole."""
    player = await bench.login()
    size = len(player.scripted.count_frame("cut in the middle"))
    player.scripted.counted -= 1
    for part in (1, 3, 4, 6, size // 2, size - 1):
        player.scripted.send_counts(2)
        player.scripted.send_part(player.scripted.count_frame("cut in the middle"), part)
        player.connection.end() if part % 2 else player.connection.abort()
        await _goes_on(bench, player)


@step()
async def break_in_record_down(bench: Bench) -> None:
    """A write is cut inside the header or the body of its WebSocket message, or of its sealed record."""
    player = await bench.login()
    session = player.scripted
    for first in (1, 3, 9):
        frame = session.count_frame("cut in the middle")
        session.sent.append(frame)
        player.connection.write(frame, first)
        player.connection.end()
        await _goes_on(bench, player)


@step()
async def break_in_frame_up(bench: Bench) -> None:
    """A message of the client is cut anywhere inside: it is sent again, whole."""
    player = await bench.login()
    for part in (1, 5, 300, 1_000):
        player.connection.break_after(part)
        bench.send(player, 3, "x" * 500)
        await _goes_on(bench, player)


@step()
async def break_between_up(bench: Bench) -> None:
    """A break loses some of the client's messages, which were in flight."""
    player = await bench.login()
    session = player.scripted
    for _ in range(3):
        await bench.exchange(player)
        bench.send(player, 10)
        player.connection.break_after(0)
        await bench.resume(player)
        await bench.settled(player)
        if session.received != len(session.frames):
            raise Unmet("a message is missing")


@step()
async def break_before_hello(bench: Bench) -> None:
    """The new connections break at once, before HELLO is answered: the client goes on trying."""
    player = await bench.login()
    await bench.exchange(player)
    player.connection.abort()
    for _ in range(3):
        connection = await bench.server.accept("to resume")
        connection.abort()
    connection = await bench.server.accept("to resume")
    await connection.frame("HELLO or HANDSHAKE")
    connection.end()
    await _goes_on(bench, player)


@step()
async def break_before_resumed(bench: Bench) -> None:
    """The connection breaks behind RESUME, whose attempt is stored: the next one has a higher attempt."""
    player = await bench.login()
    await bench.exchange(player)
    player.connection.abort()
    for _ in range(3):
        connection = await bench.server.accept("to resume")
        await bench.server.greet(connection)
        await bench.server.read_resume(connection)
        connection.abort()
    await _goes_on(bench, player)


@step(slow=True)
async def break_in_resumed(bench: Bench) -> None:
    """The connection breaks inside of RESUMED: the client has not resumed, and tries again."""
    player = await bench.login()
    await bench.exchange(player)
    player.scripted.acknowledges = False
    bench.send(player, 5)
    await bench.until(lambda: player.scripted.count_due == player.sent, "five messages")
    player.scripted.received -= 3
    player.connection.abort()
    player.scripted.acknowledges = True
    for part in (2, 20, 44):
        connection = await bench.server.accept("to resume")
        await bench.server.greet(connection)
        _, record = await bench.server.read_resume(connection)
        connection.write(player.scripted.resumed_frame(connection, record)[:part])
        await bench.no_frames(connection, "before RESUMED was whole", 0.1)
        connection.end()
    await _goes_on(bench, player)


@step()
async def break_after_resumed(bench: Bench) -> None:
    """The connection breaks again right behind RESUMED, in the middle of what is sent again."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    await bench.exchange(player, count=10)
    session.received -= 10
    player.connection.abort()
    for bytes_more in (30, 90):
        connection = await bench.server.accept("to resume")
        await bench.server.greet(connection)
        _, record = await bench.server.read_resume(connection)
        connection.break_after(bytes_more)
        bench.server.go_on(connection, player, record)
        await connection.over("the break")
    session.acknowledges = True
    await _goes_on(bench, player)


@step()
async def break_twice(bench: Bench) -> None:
    """Two breaks in a row, both with messages on their way in both directions."""
    player = await bench.login()
    for _ in range(2):
        bench.send(player, 10)
        player.scripted.send_counts(10)
        player.connection.abort()
        bench.send(player, 10)
        player.scripted.send_counts(10)
        await bench.resume(player)
        player.connection.abort()
        await _goes_on(bench, player)


@step()
async def sent_while_away(bench: Bench) -> None:
    """Messages that are sent without a connection wait, and come in order behind those that were lost."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    await bench.exchange(player, count=10)
    session.received -= 5
    player.connection.abort()
    await bench.broken(player)
    bench.send(player, 200)
    session.send_counts(200)
    session.acknowledges = True
    await bench.resume(player)
    await bench.settled(player)
    if session.received != len(session.frames):
        raise Unmet("a message is missing")


@step()
async def half_close(bench: Bench) -> None:
    """Only the server's direction ends; the client leaves, and resumes."""
    player = await bench.login()
    await bench.exchange(player)
    bench.proxy.half_close("down")
    await bench.broken(player)
    await _goes_on(bench, player)


@step(slow=True)
async def stall(bench: Bench) -> None:
    """The path delivers nothing for a second, and then everything: nothing is lost."""
    player = await bench.login()
    bench.proxy.pause()
    bench.send(player, 100)
    player.scripted.send_counts(100)
    await bench.judge.never(lambda: player.delivered, "a message through a path that stands still", 1.0)
    bench.proxy.resume()
    await bench.settled(player)


async def _moves(bench: Bench, player: Player, sent: int) -> None:
    """Some of the messages arrive, though the path breaks all the time."""
    await bench.until(
        lambda: player.scripted.count_due > sent or bench.proxy.breaks >= BREAKS, "any progress", player, seconds=20
    )


@step(slow=True, seconds=120)
async def random_breaks(bench: Bench) -> None:
    """A hundred breaks at random bytes, with stalls and small pieces, while messages go both ways."""

    def faults(number: int) -> list[Fault]:
        draw = random.Random(number)
        first: list[Fault] = [Split(size=draw.choice((1, 7, 300)))] if number % 3 == 0 else []
        direction: Direction = "up" if draw.random() < 0.5 else "down"
        kind = HalfClose if number % 5 == 0 else Reset
        last: Fault = kind(direction=direction, after_bytes=draw.randrange(1, 3_000))
        return [*first, Stall(seconds=0.05, after_bytes=draw.randrange(1, 3_000)), last] if number <= BREAKS + 1 else []

    player = await bench.login()  # whole, else the client has no ticket
    bench.faults = faults
    bench.server.serve()
    player.connection.abort()
    while bench.proxy.breaks < BREAKS:
        sent = player.sent
        bench.send(player, 20, "some words")
        player.scripted.send_counts(20, "some words")
        await _moves(bench, player, sent)
    bench.faults = lambda number: []
    await bench.settled(player, seconds=60)
