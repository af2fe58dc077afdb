"""Whatever a peer sends has a defined end, and costs the others nothing.

Before it is verified a peer is refused, counted by reason and closed without a word; after that its session ends with a
code. In every case a neighbour's messages come back all the while, in order, in the same session.
"""

import asyncio
import socket
import struct
import tracemalloc

import pytest

from gatelink import CloseCode, Limits
from gatelink.wire.body import compress
from gatelink.wire.frames import COMPRESSED, CONTROL, SCRAMBLED, SEALED, encode_control_frame, encode_frame
from tests.e2e.support import (
    CATALOG,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    neighbour,
    serving,
    until,
    verify_request,
)
from tests.support import MS

UID = 7
BOMB = b"\x80\x80\x80\x80\x08" + b"\x00" * 64  # a snappy block that declares 2 GiB
REAL_BOMB = compress(bytes(8 * 1_048_576))  # one that keeps its word
LYING_BOMB = b"\x10" + REAL_BOMB[4:]  # one that declares 16 bytes and holds more


def header(length: int, flags: int = 0) -> bytes:
    return (length | flags << 24).to_bytes(4, "little")


REQUEST = verify_request(UID)

UNVERIFIED = {
    "zero length": (header(0), "wrong-first-message"),
    "length 1": (header(1) + b"\x01", "wrong-first-message"),
    "over-long length": (header(1_025), "frame-too-large"),
    "greatest length": (header(0xFFFFFF), "frame-too-large"),
    "id 0": (encode_frame(0, b"x"), "wrong-first-message"),
    "sealed": (header(40, SEALED), "wrong-first-message"),
    "control": (encode_control_frame(b"\x01hello"), "wrong-first-message"),
    "empty control": (header(0, CONTROL), "wrong-first-message"),
    "application message": (frame_of(Note(1)), "wrong-first-message"),
    "heartbeat": (encode_frame(4, b""), "wrong-first-message"),
    "answer": (encode_frame(2, bytes(18)), "wrong-first-message"),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "wrong-first-message"),
    "tls": (bytes.fromhex("16030100c8010000c40303"), "frame-too-large"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong-first-message"),
    "empty request": (encode_frame(1, b""), "wrong-first-message"),
    "truncated request": (encode_frame(1, REQUEST[6:-1]), "wrong-first-message"),
    "request that is not snappy": (encode_frame(1, REQUEST[6:], COMPRESSED), "wrong-first-message"),
    "request of no snappy at all": (encode_frame(1, b"", COMPRESSED), "wrong-first-message"),
    "scrambled by another key": (encode_frame(1, REQUEST[6:], SCRAMBLED), "wrong-first-message"),
    "declared bomb": (encode_frame(1, BOMB, COMPRESSED), "frame-too-large"),
    "lying bomb": (encode_frame(1, LYING_BOMB[:900], COMPRESSED), "wrong-first-message"),
    "source of a server": (verify_request(UID, source=1), "wrong-first-message"),
    "source 255": (verify_request(UID, source=255), "wrong-first-message"),
} | {
    f"flags {flags:#04x}": (header(2, flags) + b"\x01\x00", "wrong-first-message")
    for flags in (5, 8, 0x10, 0x40, 0x81, 0xFF)
}

VERIFIED = (
    {
        "zero length": (header(0), CloseCode.PROTOCOL_ERROR),
        "length 1": (header(1), CloseCode.PROTOCOL_ERROR),
        "over-long length": (header(102_401), CloseCode.FRAME_TOO_LARGE),
        "greatest length": (header(0xFFFFFF), CloseCode.FRAME_TOO_LARGE),
        "over-long compressed": (header(102_401, COMPRESSED), CloseCode.FRAME_TOO_LARGE),
        "over-long control": (header(102_401, CONTROL), CloseCode.FRAME_TOO_LARGE),
        "id 0": (encode_frame(0, b"x"), CloseCode.PROTOCOL_ERROR),
        "sealed": (header(40, SEALED) + bytes(40), CloseCode.PROTOCOL_ERROR),
        "control": (encode_control_frame(b"\x01hello"), CloseCode.PROTOCOL_ERROR),
        "second request": (REQUEST, CloseCode.PROTOCOL_ERROR),
        "request for another": (verify_request(UID + 1), CloseCode.PROTOCOL_ERROR),
        "succeeded": (encode_frame(2, bytes(18)), CloseCode.PROTOCOL_ERROR),
        "failed": (encode_frame(3, b""), CloseCode.PROTOCOL_ERROR),
        "heartbeat bomb": (encode_frame(4, BOMB, COMPRESSED), CloseCode.FRAME_TOO_LARGE),
        "truncated body": (encode_frame(11_001, b"\x92\x01"), CloseCode.PROTOCOL_ERROR),
        "empty body": (encode_frame(11_001, b""), CloseCode.PROTOCOL_ERROR),
        "trailing bytes": (encode_frame(11_001, CATALOG.encode(Echo(1))[1] + b"\xc0"), CloseCode.PROTOCOL_ERROR),
        "wrong types": (encode_frame(11_001, b"\x81\xa1n\xa1x"), CloseCode.PROTOCOL_ERROR),
        "deeply nested": (encode_frame(11_001, b"\x91" * 100_000), CloseCode.PROTOCOL_ERROR),
        "huge array declared": (encode_frame(11_001, b"\xdd\xff\xff\xff\xff"), CloseCode.PROTOCOL_ERROR),
        "not snappy": (encode_frame(11_002, b"\xff\xff\xff", COMPRESSED), CloseCode.PROTOCOL_ERROR),
        "no snappy at all": (encode_frame(11_002, b"", COMPRESSED), CloseCode.PROTOCOL_ERROR),
        "declared bomb": (encode_frame(11_002, BOMB, COMPRESSED), CloseCode.FRAME_TOO_LARGE),
        "lying bomb": (encode_frame(11_002, LYING_BOMB[:90_000], COMPRESSED), CloseCode.PROTOCOL_ERROR),
        "sealed in the middle": (frame_of(Echo(1)) + header(2, SEALED), CloseCode.PROTOCOL_ERROR),
    }
    | {
        f"flags {flags:#04x}": (header(2, flags) + b"\xf9\x2a", CloseCode.PROTOCOL_ERROR)
        for flags in (5, 8, 0x10, 0x40, 0x81, 0xFF)
    }
    | {
        f"framework id {id}": (encode_frame(id, b""), CloseCode.PROTOCOL_ERROR)
        for id in (1, 24, 100, 109, 150, 199, 60_000, 65_535)
    }
)


@pytest.mark.parametrize("first", UNVERIFIED)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytes"])
async def test_what_is_no_request_is_closed_without_a_word(first: str, whole: bool) -> None:
    data, reason = UNVERIFIED[first]
    async with serving() as server, neighbour(server):
        client = await RawClient.open(server)
        await _send(client, data, whole)
        assert await client.rest_bytes() == b""
        assert server.stats.refused == {reason: 1}
        assert len(server.logins) == 0 and server.sessions.get(UID) is None
        await client.close()


@pytest.mark.parametrize("garbage", [header(0), header(0, 0xFF), encode_frame(0, b"")])
@pytest.mark.parametrize("token", [None, b"wrong"], ids=["verified", "refused"])
async def test_garbage_right_behind_a_request_is_looked_at_after_the_answer(
    garbage: bytes, token: bytes | None
) -> None:
    """It is no failure of the login, and nobody else's matter."""
    async with serving() as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(verify_request(UID, token), garbage)
        answered = [id for id, _, _ in await client.rest()]
        if token is None:
            assert answered == [2] and server.ended == [(UID, CloseCode.PROTOCOL_ERROR)]
            assert server.stats.refused == {}
        else:
            assert answered == [3] and server.stats.refused == {"verify-failed": 1}
        await client.close()


@pytest.mark.parametrize("bad", VERIFIED)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytes"])
async def test_what_the_protocol_does_not_allow_ends_the_session_with_its_code(bad: str, whole: bool) -> None:
    data, code = VERIFIED[bad]
    if not whole and len(data) > 1_000:
        data = data[:500] if code is CloseCode.FRAME_TOO_LARGE else data
        whole = code is not CloseCode.FRAME_TOO_LARGE
    async with serving() as server, neighbour(server):
        client = await RawClient.verified(server, UID)
        client.send(frame_of(Echo(1)))
        assert await client.message() == Echo(1)
        await _send(client, data, whole)
        await client.rest()
        assert server.ended == [(UID, code)] and server.stats.closed == {code: 1}
        await client.close()


async def _send(client: RawClient, data: bytes, whole: bool) -> None:
    if whole:
        client.send(data)
        return
    for byte in data:
        if client.reader.at_eof():
            break
        client.send(bytes([byte]))
        await asyncio.sleep(0)


async def test_good_messages_before_a_bad_one_are_handled_and_answered() -> None:
    async with serving() as server, closing(RawClient.verified(server, UID)) as client:
        client.send(frame_of(Echo(1)), frame_of(Note(2)), header(0), frame_of(Note(3)))
        assert [id for id, _, _ in await client.rest()] == [11_001]
        assert server.notes == [(UID, 2)]
        assert server.ended == [(UID, CloseCode.PROTOCOL_ERROR)]


async def test_a_real_snappy_bomb_is_found_by_its_declared_size() -> None:
    """8 MiB of zeros compress to about 400 KiB, more than a frame holds: with a larger frame limit it would pass."""
    async with serving(limits=Limits(max_frame=1_048_576)) as server, neighbour(server):
        client = await RawClient.verified(server, UID)
        assert len(REAL_BOMB) < 1_048_576
        client.send(encode_frame(11_002, REAL_BOMB, COMPRESSED))
        assert await client.rest() == []
        assert server.ended == [(UID, CloseCode.FRAME_TOO_LARGE)]
        await client.close()


async def test_a_declared_length_allocates_nothing() -> None:
    """A hundred peers declare the most that a verified one may, and send a few bytes of it."""
    async with serving() as server:
        clients = [await RawClient.verified(server, uid) for uid in range(1, 101)]
        tracemalloc.start()
        for client in clients:
            client.send(header(102_400) + b"\xf9\x2a" + b"x" * 10)
        await until(lambda: all(c.buffered == 16 for c in server._admission.connections))
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_048_576, f"{peak} bytes, {current} at the end"
        for client in clients:
            await client.close()


async def test_unhandled_application_messages_are_counted_and_nothing_else() -> None:
    async with serving() as server, closing(RawClient.verified(server, UID)) as client:
        client.send(encode_frame(11_999, b"?"), encode_frame(59_999, b"?", 3))
        await client.echo(1)
        assert server.stats.unhandled == 2


# -- silence, drips and breaks --


async def test_half_a_request_then_silence_ends_at_the_deadline() -> None:
    async with serving(limits=Limits(verify_timeout=1_500 * MS)) as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(REQUEST[:20])
        assert await client.rest() == []
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


async def test_half_a_frame_then_silence_ends_with_the_heartbeat_timeout() -> None:
    limits = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=1_500 * MS)
    async with serving(limits=limits) as server, neighbour(server):
        client = await RawClient.verified(server, UID)
        client.send(frame_of(Blob(b"x" * 1_000))[:500])
        assert await client.rest() == []
        assert server.ended == [(UID, CloseCode.HEARTBEAT_TIMEOUT)]
        await client.close()


async def test_connect_and_leave_is_counted() -> None:
    async with serving() as server, neighbour(server):
        for _ in range(50):
            client = await RawClient.open(server)
            await client.close()
        await until(lambda: server.stats.refused == {"left-unverified": 50})
        assert len(server.logins) == 0


@pytest.mark.parametrize("verified", [False, True])
async def test_a_reset_in_mid_frame_ends_that_peer(verified: bool) -> None:
    async with serving() as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(REQUEST if verified else REQUEST[:10])
        if verified:
            await client.frame()
            client.send(frame_of(Blob(b"x" * 1_000))[:500])
        await until(lambda: len(server._admission.connections) == 2)
        client.reset()
        if verified:
            await until(lambda: server.ended == [(UID, CloseCode.GOING_AWAY)])
        else:
            await until(lambda: server.stats.refused == {"left-unverified": 1})
        assert len(server.logins) == 0


async def test_a_peer_that_ends_its_stream_and_goes_on_reading_gets_what_was_written() -> None:
    async with serving() as server, closing(RawClient.verified(server, UID)) as client:
        client.send(*(frame_of(Echo(n)) for n in range(100)))  # handled in one turn: after the end nobody is answered
        client.writer.write_eof()
        answered = [CATALOG.by_id[id].decode(body).n for id, _, body in await client.rest()]
        assert answered == list(range(100))
        assert server.ended == [(UID, CloseCode.NORMAL)]


async def test_urgent_bytes_are_no_way_around() -> None:
    server = EchoServer()
    async with server, neighbour(server):
        client = await RawClient.verified(server, UID)
        plain = client.writer.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(plain.fileno())) as own:
            own.setblocking(True)
            own.send(frame_of(Echo(1))[:4])
            own.send(b"!", socket.MSG_OOB)
            own.send(frame_of(Echo(1))[4:])
        assert await client.message() == Echo(1)
        await client.close()


def test_the_bombs_are_what_their_names_say() -> None:
    assert struct.unpack("<I", REQUEST[:3] + b"\0")[0] == len(REQUEST) - 4
    assert len(REAL_BOMB) > 102_400 and len(LYING_BOMB) > 90_000
