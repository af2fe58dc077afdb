"""Heartbeats: PING and PONG, and paths that died without a word."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.wire.control import Ping

QUICK = 0.3, 1.2
"""Seconds: a PING after the first, and the end of the connection after the second."""


@step()
async def ping_answered(bench: Bench) -> None:
    """A PING is answered with its own number, the true count and no time."""
    player = await bench.login()
    await bench.exchange(player, count=7)
    session = player.scripted
    for sent_at in (1, 2**64 - 1):
        session.say(Ping(sent_at, session.received))
        await bench.until(lambda: session.pongs, "a PONG", player)
        pong = session.pongs.pop()
        if pong.sent_at != sent_at or pong.received != len(session.sent):
            raise Unmet(f"PONG {pong.sent_at}, received {pong.received}; not {sent_at}, {len(session.sent)}")


@step(slow=True)
async def ping_flood(bench: Bench) -> None:
    """Two hundred PINGs at once are answered with 4 PONGs a second."""
    player = await bench.login()
    session = player.scripted
    session.say(*(Ping(number, session.received) for number in range(1, 201)))
    await bench.judge.never(lambda: len(session.pongs) > 12, "more than 12 PONGs for PINGs at once", 0.5)
    if not session.pongs:
        raise Unmet("no PONG at all")
    await bench.exchange(player)


@step(slow=True)
async def ping_when_silent(bench: Bench) -> None:
    """The client sends PINGs to a silent server; answered, the connection stays."""
    player = await bench.login(heartbeat=QUICK)
    await bench.until(lambda: len(player.scripted.pings) >= 3, "three PINGs to a silent server")
    await bench.judge.never(lambda: player.suspended, "the client left a server that answers its PINGs", 1.5)
    await bench.exchange(player)


@step(slow=True)
async def dead_path(bench: Bench) -> None:
    """A path that dies without a word is noticed by the heartbeat, in its time; the client resumes on another one."""
    player = await bench.login(heartbeat=QUICK)
    await bench.exchange(player)
    bench.proxy.drop()
    bench.send(player, 5)
    player.scripted.send_counts(5)
    await bench.broken(player, " when its heartbeat is not answered")
    bench.proxy.restore()
    await bench.resume(player)
    await bench.settled(player)


@step(slow=True)
async def half_a_frame(bench: Bench) -> None:
    """A server that stops in the middle of a message is dead, too: its PONGs do not come."""
    player = await bench.login(heartbeat=QUICK)
    session = player.scripted
    session.answers_pings = False
    frame = session.count_frame("never whole on this connection")
    session.send_part(frame, 9)
    await bench.broken(player, " when its heartbeat is not answered")
    session.answers_pings = True
    await bench.resume(player)
    await bench.exchange(player)
