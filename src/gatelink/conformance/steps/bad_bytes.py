"""Servers that break the protocol: the session ends with a defined error, and the client does not dial for ever."""

from collections.abc import Callable, Mapping

from gatelink.conformance.bench import Bench
from gatelink.conformance.connection import ScriptedConnection
from gatelink.conformance.judge import Unmet
from gatelink.conformance.messages import Count, catalog
from gatelink.conformance.player import Player
from gatelink.conformance.server import verified
from gatelink.conformance.step import step
from gatelink.errors import CloseCode
from gatelink.wire.body import compress
from gatelink.wire.control import Ack, Features, Hello, Lost, Pong, Resumed, control_frame, encode_control
from gatelink.wire.frames import ANSWER, COMPRESSED, REQUEST, SEALED, encode_control_frame, encode_frame

_COUNT = catalog.by_type[Count].id
_GIB = b"\x80\x80\x80\x80\x04"
"""A snappy block that declares a GiB: the varint of 2**30."""

Case = Callable[[Player], bytes]


def _raw(flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes((flags,)) + payload


async def _all_end(bench: Bench, cases: Mapping[str, bytes | Case], needs: int = 0) -> None:
    """In a session of its own for each case, the bytes end it with 4007 or 4008, and nothing behind them counts."""
    players: dict[str, Player] = {}
    for name in cases:
        players[name] = await bench.login(needs=needs)
        await bench.exchange(players[name], count=2)
    for name, case in cases.items():
        player = players[name]
        before = player.scripted.counted
        data = case(player) if callable(case) else case
        player.connection.write(data + player.scripted.count_frame("behind the wrong bytes"))
        player.scripted.counted = before
    dials = bench.server.dials
    for name, player in players.items():
        closed = await bench.ended(player, f"after {name}")
        if closed.code not in (CloseCode.PROTOCOL_ERROR, CloseCode.FRAME_TOO_LARGE):
            raise Unmet(f"closed with {closed.code} after {name}, not with 4007 or 4008")
        if player.delivered != player.scripted.counted:
            raise Unmet(f"a message came that stood behind {name}")
        await player.connection.over(f"the end of the connection after {name}")
    if bench.server.dials > dials:
        raise Unmet("the client dialled again after bytes that are wrong")
    await bench.no_dial("after bytes that are wrong", 0.2)


@step()
async def bad_frames(bench: Bench) -> None:
    """Frames with unknown flags, without an id or a type, cut short, or with an id of the framework."""
    cases: dict[str, bytes | Case] = {
        "flags 0x20": _raw(0x20, b"\x01\x02\x03"),
        "flags 0x81": _raw(0x81, b"\x08" + bytes(8)),
        "message id 0": _raw(0, b"\0\0"),
        "a message of length 1": _raw(0, b"\x01"),
        "a control record of length 0": _raw(0x80, b""),
        "a plain or sealed frame where it has no place": _raw(SEALED, bytes(20)),
    }
    await _all_end(bench, cases)


@step()
async def bad_tags(bench: Bench) -> None:
    """A REQUEST or an ANSWER that is too short, of the framework, or with a tag that is in use."""
    cases: dict[str, bytes | Case] = {
        "a REQUEST without a tag": _raw(REQUEST, b"\x64\x2b\x01"),
        "an ANSWER with the id of HeartBeat": encode_frame(4, bytes(4), ANSWER),
        "a FAILED that is too short": _raw(0x18, b"\x64\x2b" + bytes(8)),
    }
    await _all_end(bench, cases, Features.REQUESTS)


@step()
async def bad_records(bench: Bench) -> None:
    """Control records of unknown types, with bytes missing or left over, or that have no place in a session."""
    cases: dict[str, bytes | Case] = {
        "a control record of type 15": encode_control_frame(b"\x0f"),
        "a control record of type 127": encode_control_frame(b"\x7f\0"),
        "an ACK with a byte too many": encode_control_frame(encode_control(Ack(0)) + b"\0"),
        "an ACK with a byte too few": encode_control_frame(encode_control(Ack(0))[:-1]),
        "HELLO in a session": control_frame(Hello()),
        "RESUMED in a session": control_frame(Resumed(0, bytes(32))),
        "a CLOSE whose text is shorter than it says": encode_control_frame(b"\x09\xa0\x0f\x05\0abc"),
    }
    await _all_end(bench, cases)


@step()
async def bad_counts(bench: Bench) -> None:
    """Acknowledgements of messages that were never sent, or fewer than before."""
    cases: dict[str, bytes | Case] = {
        "an ACK above what was sent": lambda player: control_frame(Ack(player.sent + 1)),
        "an ACK of 2**64 - 1": control_frame(Ack(2**64 - 1)),
        "an ACK below the last one": control_frame(Ack(0)),
        "a PONG with a count above what was sent": lambda player: control_frame(Pong(0, player.sent + 1, 0)),
    }
    await _all_end(bench, cases)


@step()
async def bad_bodies(bench: Bench) -> None:
    """Bodies that do not decode, or that would be huge when decompressed."""
    kind, body = catalog.encode(Count(0, "x" * 50))
    cases: dict[str, bytes | Case] = {
        "a body of no MessagePack": encode_frame(kind.id, b"\xc1"),
        "a body cut short": encode_frame(kind.id, body[:-1]),
        "a body with a byte too many": encode_frame(kind.id, body + b"\0"),
        "a text in place of a number": encode_frame(kind.id, b"\x81\xa6number\xa1x"),
        "a text that is no UTF-8": encode_frame(kind.id, b"\x82\xa6number\x00\xa4text\xa1\xff"),
        "a body without its number": encode_frame(kind.id, b"\x80"),
        "a corrupt snappy block": encode_frame(kind.id, compress(body)[:-3], COMPRESSED),
        "a snappy block that declares a GiB": encode_frame(kind.id, _GIB + b"\0x", COMPRESSED),
        "an empty snappy block": encode_frame(kind.id, b"", COMPRESSED),
    }
    await _all_end(bench, cases)


@step()
async def bad_losses(bench: Bench) -> None:
    """LOST with a smaller number than the one before."""
    bad = control_frame(Lost(9, 2, 2)) + control_frame(Lost(9, 1, 2))
    await _all_end(bench, {"LOST with a smaller number": bad}, Features.LOSSES)


@step(slow=True)
async def bad_login_answers(bench: Bench) -> None:
    """Wrong answers to HELLO and to the login: no session begins, and after its attempts the client gives up."""

    def greeted(connection: ScriptedConnection, data: bytes) -> bytes:
        return control_frame(connection.hello.answer(connection.hello.features)) + data

    cases: dict[str, Callable[[ScriptedConnection, int], bytes]] = {
        "an HTTP answer": lambda connection, uid: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "a message": lambda connection, uid: encode_frame(_COUNT, b"\x81\xa6number\x00"),
        "HELLO of version 0": lambda connection, uid: encode_control_frame(b"\x01\x00" + bytes(9)),
        "HELLO of a higher version": lambda connection, uid: control_frame(Hello(9, connection.hello.features)),
        "HELLO with features that were not offered": lambda connection, uid: control_frame(Hello(1, 2**63 | 3)),
        "a login of another user": lambda connection, uid: greeted(connection, verified(uid + 2)),
        "a login cut short": lambda connection, uid: greeted(connection, encode_frame(2, bytes(5))),
        "a message before the login's answer": lambda connection, uid: greeted(
            connection, encode_frame(_COUNT, b"\x81\xa6number\x00")
        ),
        "RESUMED to a login": lambda connection, uid: greeted(connection, control_frame(Resumed(0, bytes(32)))),
    }
    if bench.sealed:  # what is inside of the handshake can't be wrong in these ways
        cases = {name: case for name, case in cases.items() if name in ("an HTTP answer", "a message")}
    for name, case in cases.items():
        await _gives_up(bench, name, case)
    await bench.no_dial("after it gave up")


async def _gives_up(bench: Bench, name: str, case: Callable[[ScriptedConnection, int], bytes]) -> None:
    """A client that gets this answer at each attempt ends its session after three of them."""
    player = bench.connect(attempts=3)
    before = bench.server.dials
    while player.closed is None:
        await bench.until(lambda: bench.server.waiting or player.closed, f"`closed` after {name}")
        if bench.server.waiting:
            connection = bench.server.waiting.popleft()
            record = await connection.control("HELLO or HANDSHAKE")
            if isinstance(record, Hello):
                connection.hello = record
            connection.write(case(connection, player.uid))
        if bench.server.dials - before > 6:
            raise Unmet(f"more than 6 connections after {name}; 3 attempts were allowed")
    if player.connected:
        raise Unmet(f"the driver said `connected` after {name}")


@step(only="ws")
async def bad_web(bench: Bench) -> None:
    """At a frame that RFC 6455 forbids a server, the client leaves the connection, and the frame does not count."""
    cases = {
        "a text message": b"\x81\x02hi",
        "a masked frame": b"\x82\x82\1\2\3\4\1\2",
        "a reserved bit": b"\xc2\x01x",
        "an unknown opcode": b"\x83\x01x",
        "a continuation of nothing": b"\x80\x01x",
        "a ping in fragments": b"\x09\x01x",
    }
    for name, data in cases.items():
        await _leaves(bench, name, data)


async def _leaves(bench: Bench, name: str, data: bytes) -> None:
    """The client leaves the connection that brings these bytes: its session ends, or resumes as after a break."""
    player = await bench.login()
    player.connection.write_raw(data)
    await player.connection.over(f"the end of the connection after {name}")
    await bench.until(
        lambda: player.closed or bench.server.waiting, f"the end of the session, or a resume, after {name}"
    )
    if player.closed is None:
        await bench.resume(player)
        await bench.exchange(player)
