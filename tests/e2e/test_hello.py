"""HELLO over real sockets (docs/protocol.md, "HELLO"): which side begins, what is agreed, and which device it is."""

import asyncio
from typing import Any

import pytest

from gatelink import CloseCode, ConfigError, ConnectError, Handlers, Limits, ServerKey, connect
from gatelink.session.session import Session
from gatelink.wire.base import DUPLICATE_LOGIN, HEARTBEAT, VERIFY_FAILED
from gatelink.wire.control import Close, Features, Hello, Ping, Pong, Ticket, control_frame
from gatelink.wire.frames import CONTROL, encode_control_frame, encode_frame
from tests.e2e.extension import BOTH, ExtendedClient, closed
from tests.e2e.support import (
    CATALOG,
    DUPLICATE_LOGIN_FRAME,
    HEARTBEAT_FRAME,
    Echo,
    EchoServer,
    RawClient,
    closing,
    frame_of,
    leave,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.fakes import extension_of
from tests.support import MS


async def dial(server: EchoServer, **how: Any) -> Session:
    how.setdefault("handlers", Handlers(CATALOG))
    return await connect(str(server.endpoint), uid=7, token=token_of(7).decode(), catalog=CATALOG, **how)


# -- what is agreed --


async def test_hello_is_answered_before_anything_else() -> None:
    async with serving() as server, closing(RawClient.open(server)) as client:
        client.send(control_frame(Hello(features=Features.PING)), verify_request(7))
        expected = control_frame(Hello(features=Features.PING)) + verify_succeeded(7)
        assert await client.reader.readexactly(len(expected)) == expected


@pytest.mark.parametrize(
    "features, agreed", [(0, 0), (2, 2), (1, 0), (3, 2), (1 << 63 | 0xFF, 46)], ids=["none", "ping", "1", "3", "all"]
)
async def test_the_features_are_the_intersection_and_resume_is_not_for_plain_connections(
    features: int, agreed: int
) -> None:
    async with serving() as server, closing(ExtendedClient.extended(server, features=features)) as client:
        assert client.agreed == Hello(1, agreed)


async def test_the_version_is_not_above_the_clients_nor_ours() -> None:
    async with serving() as server, closing(RawClient.open(server)) as client:
        client.send(control_frame(Hello(version=200)))
        assert await client.frame() == (0, CONTROL, control_frame(Hello(version=1))[4:])


async def test_unknown_keys_are_ignored() -> None:
    async with serving(limits=Limits(max_slots=8)) as server, closing(ExtendedClient.open(server)) as client:
        keys = b"\x03" + b"\x02\x03\x001.2" + b"\xc8\x02\x00zz" + b"\x01\x01\x00\x05"
        client.send(encode_control_frame(b"\x01\x01" + bytes(8) + keys), verify_request(7))
        assert await client.control() == Hello(1, 0)
        assert (await client.frame())[0] == 2
        assert server.sessions.get(7, 5) is not None


async def test_records_of_types_to_come_are_ignored_before_verification_too() -> None:
    async with serving() as server, closing(ExtendedClient.extended(server)) as client:
        client.send(encode_control_frame(b"\x80new"), verify_request(7))
        assert (await client.frame())[0] == 2


async def test_ignored_records_count_against_what_the_unverified_may_send() -> None:
    async with serving() as server, closing(ExtendedClient.extended(server)) as client:
        for _ in range(4):
            client.send(encode_control_frame(b"\x80"))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.stats.refused == {"unverified-limit": 1}


HELLO = control_frame(Hello(features=Features.PING))


@pytest.mark.parametrize(
    "data",
    [
        HELLO + HELLO,
        control_frame(Ping(1, 0)),
        encode_control_frame(b"\x80") + HELLO,
        HELLO + control_frame(Ping(1, 0)),
        HELLO + control_frame(Ticket(bytes(16), bytes(32), 1, "")),
        encode_control_frame(b"\x01\x00" + bytes(9)),
        encode_control_frame(b"\x01\x01" + bytes(8) + b"\x01\x01\x02\x00\x00\x00"),
        encode_control_frame(b"\x01\x01" + bytes(8) + b"\x02\x01\x01\x00\x00\x01\x01\x00\x00"),
        encode_control_frame(b"\x01\x01" + bytes(8) + b"\x00extra"),
    ],
    ids=["twice", "ping first", "another first", "ping", "ticket", "version 0", "slot of 2", "key twice", "longer"],
)
async def test_a_bad_beginning_is_closed_and_only_a_client_that_said_a_good_hello_is_told_why(data: bytes) -> None:
    async with serving() as server, neighbour(server):
        client = await ExtendedClient.open(server)
        client.send(data)
        answers = [Hello(features=Features.PING), closed(CloseCode.PROTOCOL_ERROR)] if data.startswith(HELLO) else []
        assert await client.end() == answers
        assert server.stats.refused == {"wrong-first-message": 1}
        await client.close()


@pytest.mark.parametrize("extended", [False, True])
async def test_a_hello_after_verification_is_a_protocol_error(extended: bool) -> None:
    async with serving() as server:
        client = await (ExtendedClient.logged_in if extended else ExtendedClient.verified)(server, 7)
        client.send(HELLO)
        assert await client.end() == ([closed(CloseCode.PROTOCOL_ERROR)] if extended else [])
        assert server.ended == [(7, CloseCode.PROTOCOL_ERROR)]
        await client.close()


# -- the peers that control records are for --


async def test_a_base_client_never_receives_a_control_record() -> None:
    limits = Limits(heartbeat_interval=50 * MS, heartbeat_timeout=10_000 * MS)
    async with serving(limits=limits, resume_plain=True) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7))
        seen = await client.reader.readexactly(len(verify_succeeded(7)))
        client.send(*[frame_of(Echo(n)) for n in range(200)])
        while seen.count(HEARTBEAT_FRAME) < 3:
            seen += await client.reader.read(65_536)
        newer = await RawClient.verified(server, 7)
        seen += await client.reader.read()
        assert seen.endswith(DUPLICATE_LOGIN_FRAME)
        expected = verify_succeeded(7) + b"".join(frame_of(Echo(n)) for n in range(200)) + DUPLICATE_LOGIN_FRAME
        assert seen.replace(HEARTBEAT_FRAME, b"") == expected
        newer.send(verify_request(8))
        last = await newer.reader.read()  # with the heartbeats of the second for which the older one stayed open
        assert last.replace(HEARTBEAT_FRAME, b"") == b"", "an error closes it without a word"
        await newer.close()


async def test_an_extended_peer_hears_that_its_token_was_refused() -> None:
    async with serving() as server, closing(ExtendedClient.extended(server)) as client:
        client.send(verify_request(7, b"wrong"))
        assert await client.end() == [(VERIFY_FAILED, 0, b""), closed(CloseCode.VERIFY_FAILED)]


async def test_close_reaches_the_client_with_its_code_and_words() -> None:
    async with serving() as server:
        session = await dial(server, slot=0)
        server.session(7).kick("no shouting")
        await session.wait_closed()
        assert (session.close_code, session.close_reason) == (CloseCode.KICKED, "no shouting")


async def test_close_reaches_the_server_with_its_code_and_after_what_was_said_before_it() -> None:
    async with serving() as server, closing(ExtendedClient.logged_in(server, 7)) as client:
        heard = []

        @server.instead(Echo)
        async def echo(session: Session, message: Echo) -> None:
            await asyncio.sleep(0)
            heard.append(message.n)

        client.send(*[frame_of(Echo(n)) for n in range(50)], control_frame(Close(4000, "bye")), frame_of(Echo(99)))
        await until(lambda: server.ended)
        assert heard == list(range(50))
        assert server.ended == [(7, CloseCode.NORMAL)]


async def test_many_frames_behind_a_close_are_not_heard() -> None:
    async with serving() as server, neighbour(server):
        client = await ExtendedClient.logged_in(server, 7)
        client.send(control_frame(Close(4000)), *[frame_of(Echo(n)) for n in range(5_000)])
        await client.rest()
        await until(lambda: server.ended)
        assert server.ended == [(7, CloseCode.NORMAL)]
        await client.close()


async def test_what_went_wrong_inside_is_for_the_log_not_for_the_peer() -> None:
    async with serving() as server, closing(ExtendedClient.logged_in(server, 7)) as client:
        client.send(encode_frame(11_001, b"\xc1"))  # no msgpack
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]


# -- PING --


async def test_a_ping_is_answered_and_heartbeats_are_ignored() -> None:
    async with serving() as server, closing(ExtendedClient.logged_in(server, 7)) as client:
        client.send(HEARTBEAT_FRAME, control_frame(Ping(0xDEADBEEF, 0)), HEARTBEAT_FRAME)
        pong = await client.control()
        assert isinstance(pong, Pong) and pong.sent_at == 0xDEADBEEF and pong.server_time
        await client.echo(1)


async def test_both_sides_measure_the_round_trip_and_send_no_heartbeat() -> None:
    limits = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=10_000 * MS)
    async with serving(limits=limits) as server:
        session = await dial(server, slot=0, limits=limits)
        other = server.session(7)
        assert session.extension is not None and other.extension is not None
        await until(lambda: session.rtt is not None and other.rtt is not None)
        assert session.rtt is not None and 0 < session.rtt < 10
        assert server.stats.unrouted_of("HeartBeat").messages == 0
        await leave(session)


async def test_without_the_ping_feature_the_heartbeats_are_the_base_ones() -> None:
    limits = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=10_000 * MS)
    async with serving(limits=limits) as server, closing(ExtendedClient.logged_in(server, 7, features=0)) as client:
        assert await client.reader.readexactly(6) == bytes.fromhex("020000000400")
        assert HEARTBEAT == 4


# -- which device it is --


async def test_two_devices_of_a_user_live_side_by_side_and_the_same_one_is_replaced() -> None:
    async with serving() as server:
        phone = await ExtendedClient.logged_in(server, 7, slot=1)
        desk = await ExtendedClient.logged_in(server, 7, slot=2)
        base = await RawClient.verified(server, 7)
        for client in (phone, desk, base):
            await client.echo(1)
        assert len(server.sessions) == 3

        newer = await ExtendedClient.logged_in(server, 7, slot=1)
        assert await phone.end() == [
            (DUPLICATE_LOGIN, 0, b""),
            Close(CloseCode.REPLACED, "a newer login of the same user"),
        ]
        for client in (newer, desk, base):
            await client.echo(2)
        assert server.ended == [(7, CloseCode.REPLACED)]
        for client in (phone, desk, base, newer):
            await client.close()


async def test_a_replaced_client_s_session_says_so() -> None:
    async with serving() as server:
        older, newer = await dial(server, slot=3), await dial(server, slot=3)
        await older.wait_closed()
        assert older.close_code is CloseCode.REPLACED and newer.close_code is None
        assert (newer.uid, newer.slot) == (7, 3)
        await leave(newer)


async def test_what_was_queued_for_a_device_without_a_ticket_waits_for_its_next_login() -> None:
    """As for a base session, which has none either."""
    async with serving() as server:
        client = await ExtendedClient.logged_in(server, 7, slot=1)
        session = server.sessions.get(7, 1)
        assert session is not None
        session._stream.writable = False  # type: ignore[union-attr]
        session.send(Echo(5))
        client.reset()
        await until(lambda: server.ended)
        again = await ExtendedClient.logged_in(server, 7, slot=1)
        assert await again.message() == Echo(5)
        await again.close()


# -- connect() --


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"slot": 256}, "slot is 256"),
        ({"slot": -1}, "slot is -1"),
        ({"server_key": b"short"}, "server_key has 5 bytes"),
        ({"server_key": "00" * 32}, r"server_key is a str; give 32 bytes: bytes\.fromhex"),
        ({"base_protocol": True, "slot": 1}, "base_protocol goes with neither"),
        ({"base_protocol": True, "resume": True}, "base_protocol goes with neither"),
        ({"base_protocol": True, "server_key": ServerKey.generate().public}, "base_protocol goes with neither"),
    ],
    ids=["slot 256", "slot -1", "key", "key in hex", "base slot", "base resume", "base key"],
)
async def test_a_key_or_slot_that_cannot_be_is_the_callers_fault(wrong: dict[str, Any], words: str) -> None:
    async with serving() as server:
        with pytest.raises(ConfigError, match=words):
            await dial(server, **wrong)


async def test_resume_where_the_server_does_not_offer_it_fails_and_says_what_to_do() -> None:
    """A session that only seems to lose nothing would be worse than none."""
    async with serving() as server:
        with pytest.raises(ConnectError, match="give server_key, or dial tls://") as caught:
            await dial(server, resume=True)
        assert caught.value.code is CloseCode.RESUME_REFUSED
        await until(lambda: not server.connections)


async def test_all_features_reach_the_session() -> None:
    async with serving(resume_plain=True) as server, closing(ExtendedClient.logged_in(server, 7)) as client:
        session = server.session(7)
        assert session is not None and extension_of(session).features == BOTH
        assert client.ticket == session.ticket and client.ticket.window == 120
