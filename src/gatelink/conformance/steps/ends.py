"""How sessions end: with a code, after the last message, once, and without another dial where the code says so."""

from gatelink.conformance import contract
from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.errors import CloseCode
from gatelink.wire.base import DUPLICATE_LOGIN
from gatelink.wire.control import Close
from gatelink.wire.frames import encode_frame


@step()
async def kick(bench: Bench) -> None:
    """A kick ends the session with 4009 and its reason, after the messages before it. The client dials no more."""
    player = await bench.login()
    await bench.exchange(player)
    player.scripted.send_counts(50)
    player.connection.say(Close(CloseCode.KICKED, "cheating, müde"))
    player.connection.end()
    await bench.closed(player, CloseCode.KICKED, "cheating, müde")
    if player.delivered != player.scripted.counted:
        raise Unmet(f"{player.delivered} of {player.scripted.counted} messages before the CLOSE came before `closed`")
    await bench.no_dial("after a kick")


@step(slow=True)
async def newer_login(bench: Bench) -> None:
    """A newer login of the user ends the session with 4003. The client does not dial again: it would end that one."""
    player = await bench.login()
    await bench.exchange(player)
    player.connection.write(encode_frame(DUPLICATE_LOGIN, b""))
    player.connection.say(Close(CloseCode.REPLACED))
    player.connection.end()
    await bench.closed(player, CloseCode.REPLACED)
    await bench.no_dial("after a newer login")


@step(slow=True)
async def final_codes(bench: Bench) -> None:
    """After any code but 4004, 4006 and 4011 nothing dials; a code of a newer version counts as 4000."""
    codes = {code: code for code in (4000, 4001, 4005, 4007, 4008, 4010, 4013, 4014)} | {4999: 4000}
    for number, code in codes.items():
        player = await bench.login()
        player.connection.say(Close(number, "the end"))
        player.connection.end()
        await bench.closed(player, code, "the end")
    await bench.no_dial("after a code that ends the session")


@step()
async def passing_codes(bench: Bench) -> None:
    """CLOSE with 4004, 4006 or 4011 ends the connection alone: the client resumes."""
    player = await bench.login()
    for code in (CloseCode.HEARTBEAT_TIMEOUT, CloseCode.SLOW_CONSUMER, CloseCode.GOING_AWAY):
        bench.send(player, 5)
        player.scripted.send_counts(5)
        player.connection.say(Close(code))
        player.connection.end()
        await bench.resume(player)
        await bench.exchange(player)


@step()
async def client_closes(bench: Bench) -> None:
    """A client that closes first sends what is queued, then CLOSE 4000 as the last thing, and the end."""
    player = await bench.login()
    await bench.exchange(player)
    bench.send(player, 200)
    connection = player.connection
    bench.driver.tell(contract.Close(player.number))
    await bench.until(lambda: player.scripted.close is not None, "CLOSE of the client")
    close = player.scripted.close
    if close is not None and close.code != CloseCode.NORMAL:
        raise Unmet(f"CLOSE has code {close.code}, not 4000")
    if player.scripted.count_due != player.sent:
        raise Unmet(f"{player.scripted.count_due} of {player.sent} messages came before CLOSE")
    await connection.over("the end of the stream behind CLOSE")
    await bench.closed(player, CloseCode.NORMAL)
    await bench.no_dial("after it was closed")


@step(slow=True)
async def client_closes_while_away(bench: Bench) -> None:
    """A session that is closed without a connection has ended: the client dials no more."""
    player = await bench.login()
    player.connection.abort()
    connection = await bench.server.accept("to resume")
    bench.driver.tell(contract.Close(player.number))
    await bench.ended(player, "when it closes without a connection")
    connection.abort()
    await bench.no_dial("after it was closed")


@step(slow=True, only="ws")
async def web_close(bench: Bench) -> None:
    """Behind CLOSE, the server closes the WebSocket with the same code; one that only breaks is resumed."""
    player = await bench.login()
    player.connection.close_web(1001)  # a proxy that is restarted
    await bench.resume(player)
    await bench.exchange(player)
    player.connection.say(Close(CloseCode.KICKED, "out"))
    player.connection.close_web(CloseCode.KICKED)
    await bench.closed(player, CloseCode.KICKED, "out")
    await bench.no_dial("after a kick")


@step(only="ws")
async def web_fragments(bench: Bench) -> None:
    """A frame may come in several WebSocket messages or fragments, with a ping between, and several in one."""
    player = await bench.login()
    session = player.scripted
    frame = session.count_frame("in three fragments")
    session.sent.append(frame)
    thirds = frame[:5], frame[5:11], frame[11:]
    ping = b"\x89\x02hi"
    if bench.sealed:  # a record is one message here; the kit fragments only plain bytes
        session.sent.pop()
        session.counted -= 1
    else:
        for first, part in zip((b"\x02", b"\x00", b"\x80"), thirds, strict=True):
            player.connection.write_raw(first + bytes((len(part),)) + part + ping)
        session.written = len(session.sent)
    for size in (1, 4, 7):
        frame = session.count_frame("in several messages")
        session.send_part(frame, size)
        session.send_rest(size)
    session.send_counts(3)
    await bench.exchange(player)
