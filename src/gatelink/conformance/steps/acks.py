"""Acknowledgements: neither late nor early; and the window of what is not acknowledged."""

from gatelink.config import ACK_FRAMES, ACK_SECONDS
from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.wire.control import Ack

WINDOW_FRAMES = 1_024
WINDOW_BYTES = 262_144
"""What a side keeps by default (docs/protocol.md, "Retention is a send window"), and a server's rates let through."""


@step(slow=True)
async def ack_in_time(bench: Bench) -> None:
    """One message is acknowledged after a second, by whatever record has the count."""
    player = await bench.login()
    player.scripted.send_counts(1)
    await bench.until(lambda: player.scripted.acknowledged == 1, "an ACK", player, seconds=2 * ACK_SECONDS + 1)


@step()
async def ack_after_64(bench: Bench) -> None:
    """A sender that keeps to a window of 64 messages need not wait a second for each window."""
    player = await bench.login()
    session = player.scripted
    for _ in range(20):
        session.send_counts(ACK_FRAMES)
        await bench.until(lambda: session.acknowledged == len(session.sent), "an ACK after 64 messages")
        if (late := len(session.acks)) > 40:
            raise Unmet(f"{late} ACKs for 20 times 64 messages")
    await bench.settled(player)


@step(slow=True)
async def ack_not_ahead(bench: Bench) -> None:
    """A message of which only a part has arrived is not acknowledged."""
    player = await bench.login()
    session = player.scripted
    session.send_counts(3)
    await bench.settled(player)  # the part comes alone, and not in one read with them
    frame = session.count_frame("only the beginning of it arrives")
    session.send_part(frame, len(frame) - 1)
    await bench.until(lambda: session.acknowledged == 3, "an ACK of the three whole messages", player)
    await bench.judge.never(lambda: player.delivered > 3, "a message of which the last byte is missing came", 0.3)
    session.send_rest(len(frame) - 1)
    await bench.until(lambda: session.acknowledged == 4, "an ACK of the fourth", player)


@step()
async def lost_acks(bench: Bench) -> None:
    """The server's acknowledgements were lost: RESUMED has the count, and nothing comes twice."""
    player = await bench.login()
    player.scripted.acknowledges = False
    await bench.exchange(player, count=20)
    player.connection.abort()
    await bench.resume(player)
    await bench.exchange(player, count=20)


@step()
async def lost_messages(bench: Bench) -> None:
    """Messages that the server did not receive are sent again unchanged, and before anything newer."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    await bench.exchange(player, count=20)
    session.received -= 7
    player.connection.abort()
    await bench.broken(player)
    bench.send(player, 5)
    session.acknowledges = True
    await bench.resume(player)
    await bench.until(lambda: session.received == 25, "seven messages again, and five new ones")
    await bench.exchange(player)


@step(slow=True)
async def window_frames(bench: Bench) -> None:
    """At most 1,024 messages are sent and not acknowledged; the others wait, and come later."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    bench.send(player, 3_000)
    await bench.until(lambda: session.received >= 64, "the first messages")
    await bench.judge.never(
        lambda: session.received > WINDOW_FRAMES, f"more than {WINDOW_FRAMES} messages came without an ACK", 0.4
    )
    session.acknowledges = True
    session.say(Ack(session.received))
    await bench.settled(player)


@step(slow=True)
async def window_bytes(bench: Bench) -> None:
    """At most 256 KiB are sent and not acknowledged."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    bench.send(player, 150, "x" * 5_000)
    await bench.until(lambda: session.received >= 6, "the first messages")
    await bench.judge.never(
        lambda: sum(map(len, session.frames)) > WINDOW_BYTES, f"more than {WINDOW_BYTES} bytes came without an ACK", 0.4
    )
    session.acknowledges = True
    session.say(Ack(session.received))
    await bench.settled(player)


@step()
async def window_kept(bench: Bench) -> None:
    """Everything that is not acknowledged is kept: after a break in which all of it was lost, it all comes again."""
    player = await bench.login()
    session = player.scripted
    session.acknowledges = False
    await bench.exchange(player, count=600)
    session.received = 0
    player.connection.abort()
    session.acknowledges = True
    await bench.resume(player)
    await bench.until(lambda: session.received == 600, "600 messages again")
    await bench.exchange(player)
