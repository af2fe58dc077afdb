"""The login: its request, and what the client makes of the answer."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.errors import CloseCode
from gatelink.wire.base import VERIFY_FAILED
from gatelink.wire.control import Features, Hello, encode_control
from gatelink.wire.frames import encode_control_frame, encode_frame


@step()
async def first_login(bench: Bench) -> None:
    """HELLO comes first, then ClientVertifyReq with the user's id, a u64, and the token. Messages go both ways."""
    player = await bench.login(tokens=["a token with ümlaut"])
    if player.scripted.token != "a token with ümlaut":
        raise Unmet(f"the login's token is {player.scripted.token!r}")
    await bench.exchange(player)


@step()
async def login_slot(bench: Bench) -> None:
    """HELLO has the number of the user's device."""
    player = bench.connect(slot=3)
    await bench.let_in(player)
    if player.scripted.slot != 3:
        raise Unmet(f"HELLO has slot {player.scripted.slot}, not 3")


@step(slow=True)
async def login_waits(bench: Bench) -> None:
    """The client sends nothing before HELLO is answered, and no message before the login is."""
    player = bench.connect()
    connection = await bench.server.accept("for the login")
    await bench.judge.never(lambda: len(connection.frames) > 1, "more than HELLO came before its answer", 0.2)
    await bench.server.greet(connection)
    request = await bench.server.read_login(connection)
    await bench.no_frames(connection, "between the login and its answer", 0.2)
    await bench.judge.never(lambda: player.connected, "`connected` before the login's answer", 0.01)
    bench.server.let_in(connection, request)
    await bench.connected(player)


@step(slow=True)
async def login_refused(bench: Bench) -> None:
    """A refused token ends the session with 4001; the client does not dial again."""
    player = bench.connect()
    connection = await bench.server.accept("for the login")
    await bench.server.greet(connection)
    await bench.server.read_login(connection)
    connection.write(encode_frame(VERIFY_FAILED, b""))
    connection.end()
    await bench.closed(player, CloseCode.VERIFY_FAILED)
    await bench.no_dial("after its token was refused")


@step()
async def unknown_extras(bench: Bench) -> None:
    """Keys of HELLO and control records that the client does not know are ignored."""
    if bench.sealed:  # the answer is a part of the handshake
        player = await bench.login()
    else:
        player = bench.connect()
        connection = await bench.server.accept("for the login")
        record = await connection.control("HELLO")
        if not isinstance(record, Hello):
            raise Unmet(f"HELLO was due, and {type(record).__name__} came")
        connection.hello, connection.agreed = record, record.answer(Features.RESUME | Features.PING)
        payload = encode_control(connection.agreed)
        connection.write(encode_control_frame(payload[:-1] + b"\x01" + b"\xc8\x03\x00new"))
        bench.server.let_in(connection, await bench.server.read_login(connection))
        await bench.connected(player)
    for kind in (128, 200, 255):
        player.connection.write(encode_control_frame(bytes((kind, 1, 2, 3))))
    await bench.exchange(player)
    await bench.judge.never(lambda: player.suspended, "the client left because of an unknown record", 0.2)
