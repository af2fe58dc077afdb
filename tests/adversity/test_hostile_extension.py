"""Whatever a peer does with the extension has a defined end, gives nothing away, and costs the others nothing."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gatelink import Backoff, CloseCode, Handlers, Limits, Listen, ServerKey, Session, SessionClosed, connect
from gatelink.session.extension import PONGS_PER_SECOND, Strength
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy
from gatelink.wire.control import Ack, Close, Hello, Ping, Pong, Resume, Resumed, Ticket, control_frame
from gatelink.wire.frames import encode_control_frame
from gatelink.wire.handshake import Initiator
from gatelink.wire.resume import NO_HANDSHAKE, client_mac, resume
from tests.e2e.extension import BOTH, ExtendedClient, closed
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    leave,
    make_certificate,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.fakes import extension_of
from tests.limits import with_window
from tests.support import MS

KEY = ServerKey.generate()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def broken(server: EchoServer, *, acknowledged: int = 2) -> AsyncIterator[tuple[Session, Ticket]]:
    """A sealed session of uid 7 that lost its connection, with 5 messages sent of which 2 are acknowledged.

    At the end its owner comes back, and all is as it was.
    """
    client = await ExtendedClient.logged_in(server, 7, KEY.public)
    session = server.session(7)
    assert session.extension is not None
    client.send(*[frame_of(Note(n)) for n in range(3)])
    for n in range(5):
        session.send(Echo(n))
    assert [await client.message() for _ in range(5)] == [Echo(n) for n in range(5)]
    client.say(Ack(acknowledged))
    await until(lambda: session.outbox.kept == 3)  # type: ignore[attr-defined]
    client.reset()
    await until(lambda: session.state is SessionState.DETACHED)
    yield session, client.ticket
    back = await ExtendedClient.extended(server, KEY.public)
    back.resume(client.ticket, received=3, attempt=1)
    assert await back.resumed(client.ticket, attempt=1) == 3
    assert [await back.message() for _ in range(2)] == [Echo(3), Echo(4)]
    assert server.notes == [(7, n) for n in range(3)]
    await back.echo(5)
    await back.close()


# -- RESUME by a peer that may not --

Forgery = Callable[[Ticket, bytes, Session], Resume]


def honest(ticket: Ticket, handshake_hash: bytes, received: int = 3, attempt: int = 1) -> Resume:
    return resume(ticket.resume_key, handshake_hash, ticket.session_id, received, attempt)


FORGERIES: dict[str, Forgery] = {
    "unknown id": lambda t, h, s: resume(t.resume_key, h, bytes(16), 3, 1),
    "wrong key": lambda t, h, s: resume(bytes(32), h, t.session_id, 3, 1),
    "no mac": lambda t, h, s: Resume(t.session_id, 3, 1, bytes(32)),
    "mac without the last bit": lambda t, h, s: Resume(t.session_id, 3, 1, last_bit_flipped(honest(t, h).mac)),
    "mac of another count": lambda t, h, s: Resume(t.session_id, 4, 1, honest(t, h).mac),
    "mac of another attempt": lambda t, h, s: Resume(t.session_id, 3, 9, honest(t, h).mac),
    "mac of another connection": lambda t, h, s: honest(t, bytes(range(32))),
    "mac of a connection without handshake": lambda t, h, s: honest(t, NO_HANDSHAKE),
    "attempt 0": lambda t, h, s: honest(t, h, attempt=0),
    "more than was sent": lambda t, h, s: honest(t, h, received=6),
    "absurdly more": lambda t, h, s: honest(t, h, received=2**64 - 1),
    "less than was acknowledged": lambda t, h, s: honest(t, h, received=1),
}


def last_bit_flipped(mac: bytes) -> bytes:
    return mac[:-1] + bytes([mac[-1] ^ 1])


def state_of(session: Session) -> tuple[Any, ...]:
    window: Any = session.outbox
    return (
        session.state,
        extension_of(session).attempt,
        extension_of(session).received,
        window.sent,
        window.kept,
        window.count,
        session.ticket,
    )


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_a_resume_that_proves_nothing_is_refused_alike_and_changes_nothing(forgery: Forgery) -> None:
    async with serving(keys=[KEY]) as server, neighbour(server), broken(server) as (session, ticket):
        before = state_of(session)
        client = await ExtendedClient.extended(server, KEY.public)
        client.say(forgery(ticket, client.handshake_hash, session))
        assert await client.end() == [closed(CloseCode.RESUME_REFUSED)]
        assert state_of(session) == before
        assert server.stats.refused == {"resume-refused": 1}
        await client.close()


async def test_a_resume_that_was_used_is_of_no_more_use() -> None:
    """An attacker who recorded it must count on, and so must the owner of the key."""
    async with serving(resume_plain=True) as server:
        client = await ExtendedClient.logged_in(server, 7)
        session = server.session(7)
        assert session.extension is not None
        used = honest(client.ticket, NO_HANDSHAKE, received=0, attempt=5)
        client.reset()
        second = await ExtendedClient.extended(server)
        second.say(used)
        await second.resumed(client.ticket, 5)
        for attempt in (used, honest(client.ticket, NO_HANDSHAKE, 0, 4), honest(client.ticket, NO_HANDSHAKE, 0, 5)):
            third = await ExtendedClient.extended(server)
            third.say(attempt)
            assert await third.end() == [closed(CloseCode.RESUME_REFUSED)]
            await third.close()
        assert session.state is SessionState.OPEN and extension_of(session).attempt == 5
        await second.echo(1)
        await second.close()


async def test_a_recorded_resume_is_of_no_use_on_another_sealed_connection() -> None:
    async with serving(keys=[KEY]) as server, broken(server) as (session, ticket):
        client = await ExtendedClient.extended(server, KEY.public)
        recorded = honest(ticket, client.handshake_hash)
        await client.close()  # the path broke before it arrived
        thief = await ExtendedClient.extended(server, KEY.public)
        thief.say(recorded)
        assert await thief.end() == [closed(CloseCode.RESUME_REFUSED)]
        assert extension_of(session).attempt == 0
        await thief.close()


@pytest.mark.parametrize("strength", list(Strength), ids=lambda strength: strength.name)
async def test_a_ticket_is_used_only_on_a_connection_at_least_as_strong(
    strength: Strength, certificate: tuple[str, str, ssl.SSLContext]
) -> None:
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate[0], key=certificate[1])
    async with serving(TCP, tls, keys=[KEY], resume_plain=True) as server:
        plain_at, tls_at = server.endpoints
        ways: dict[Strength, dict[str, Any]] = {
            Strength.PLAIN: {"server": plain_at},
            Strength.TLS: {"server": tls_at, "tls": certificate[2]},
            Strength.SEALED: {"server": plain_at, "key": KEY.public},
        }
        first = await ExtendedClient.logged_in(uid=7, **ways[strength])
        session = server.session(7)
        assert session.extension is not None and extension_of(session).strength is strength
        first.reset()
        for attempt, way in enumerate(ways, 1):
            client = await ExtendedClient.extended(**ways[way])
            client.say(honest(first.ticket, client.handshake_hash, 0, attempt))
            if way < strength:
                assert await client.end() == [closed(CloseCode.RESUME_REFUSED)]
            else:
                await client.resumed(first.ticket, attempt)
                await client.echo(1)
                client.say(Ack(0))
                session.outbox.acknowledge(1)  # type: ignore[attr-defined]
                break
            await client.close()
        await client.close()


async def test_no_ticket_is_given_and_none_is_taken_where_resume_was_not_agreed_on() -> None:
    async with serving(keys=[KEY]) as server, broken(server) as (session, ticket):
        for key, features in ((None, BOTH), (KEY.public, 2)):
            client = await ExtendedClient.extended(server, key, features=features)
            client.say(honest(ticket, client.handshake_hash))
            assert await client.end() == [closed(CloseCode.RESUME_REFUSED)]
            await client.close()
        assert extension_of(session).attempt == 0


async def test_the_ticket_of_a_session_that_ended_is_worth_nothing() -> None:
    async with serving(keys=[KEY]) as server:
        ends: tuple[Callable[[Session], None], ...] = (
            lambda session: session.kick(),
            lambda session: session.close(CloseCode.GOING_AWAY),
            lambda session: session.abort(),
        )
        for end in ends:
            client = await ExtendedClient.logged_in(server, 7, KEY.public)
            end(server.session(7))
            again = await ExtendedClient.extended(server, KEY.public)
            again.resume(client.ticket)
            assert await again.end() == [closed(CloseCode.RESUME_REFUSED)]
            for one in (client, again):
                await one.close()
        assert not server.sessions._tickets


async def test_a_later_login_makes_the_older_ticket_worthless_and_is_not_touched_by_it() -> None:
    async with serving(keys=[KEY]) as server:
        older = await ExtendedClient.logged_in(server, 7, KEY.public)
        older.reset()
        newer = await ExtendedClient.logged_in(server, 7, KEY.public)
        assert newer.ticket.session_id != older.ticket.session_id
        late = await ExtendedClient.extended(server, KEY.public)
        late.resume(older.ticket)
        assert await late.end() == [closed(CloseCode.RESUME_REFUSED)]
        await newer.echo(1)
        for one in (newer, late):
            await one.close()


async def test_a_resume_without_hello_is_closed_without_a_word() -> None:
    async with serving(keys=[KEY]) as server, broken(server) as (_, ticket), closing(RawClient.open(server)) as client:
        client.send(control_frame(honest(ticket, NO_HANDSHAKE)))
        assert await client.reader.read() == b""


async def test_a_second_resume_on_a_connection_is_a_protocol_error() -> None:
    async with serving(keys=[KEY]) as server:
        first = await ExtendedClient.logged_in(server, 7, KEY.public)
        first.reset()
        client = await ExtendedClient.extended(server, KEY.public)
        client.resume(first.ticket, attempt=1)
        await client.resumed(first.ticket, 1)
        client.resume(first.ticket, attempt=2)
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.ended == [(7, CloseCode.PROTOCOL_ERROR)]
        await client.close()


async def test_many_resumes_one_after_the_other_leave_nothing_behind() -> None:
    async with serving(keys=[KEY]) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        session, ticket, held = server.session(7), client.ticket, [client]
        for attempt in range(1, 101):
            client = await ExtendedClient.extended(server, KEY.public)
            client.resume(ticket, received=attempt - 1, attempt=attempt)
            await client.resumed(ticket, attempt)
            await client.echo(attempt)
            held.append(client)
        assert server.session(7) is session
        await until(lambda: len(server.connections) == 1)
        assert not server.logins and not server.sessions._detached and len(server.context.wheel) < 5
        for one in held:
            await one.close()


# -- before verification --


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_client_that_shakes_hands_and_says_nothing_more_is_closed_at_the_deadline(sealed: bool) -> None:
    async with serving(keys=[KEY], limits=Limits(verify_timeout=1_500 * MS)) as server:
        client = await ExtendedClient.extended(server, KEY.public if sealed else None)
        assert await client.end() == [closed(CloseCode.VERIFY_TIMEOUT)]
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


async def test_a_handshake_that_trickles_in_does_not_move_the_deadline() -> None:
    async with serving(keys=[KEY], limits=Limits(verify_timeout=300 * MS)) as server:
        client = await RawClient.open(server)
        for byte in Initiator(KEY.public, Hello()).frame[:-1]:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(5 * MS)
            if server.stats.refused:
                break
        assert await client.rest() == []
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


async def test_a_flood_of_handshakes_costs_the_others_nothing_but_time() -> None:
    async with serving(keys=[KEY]) as server, neighbour(server):
        clients = [await RawClient.open(server) for _ in range(100)]
        for n, client in enumerate(clients):
            frame = bytearray(Initiator(KEY.public, Hello(slot=n % 4)).frame)
            frame[-1] ^= n % 2  # every second one is broken
            client.send(bytes(frame))
        await until(lambda: server.stats.refused["wrong-first-message"] == 50)
        assert len(server.logins) == 50
        for client in clients:
            await client.close()
        await until(lambda: not server.logins)


async def test_any_control_records_before_verification_end_in_silence() -> None:
    rng = random.Random(7)
    async with serving(keys=[KEY], limits=Limits(verify_timeout=1_000 * MS)) as server, neighbour(server):
        for n in range(150):
            client = await RawClient.open(server)
            if n % 2:
                client.send(control_frame(Hello(features=BOTH)))
            for _ in range(rng.randrange(1, 4)):
                client.send(
                    encode_control_frame(
                        bytes([rng.choice([1, 2, 3, 4, 5, 8, 9, 10, 99])]) + rng.randbytes(rng.randrange(90))
                    )
                )
            if n % 30:
                client.writer.write_eof()
            said = await client.rest()
            assert len(said) <= 2  # at most HELLO, and CLOSE for a RESUME
            await client.close()
        assert server.stats.verified == 1, "the neighbour"


# -- after it --


async def test_any_control_records_after_verification_are_taken_or_end_the_session() -> None:
    rng = random.Random(11)
    async with serving(resume_plain=True) as server, neighbour(server):
        for n in range(150):
            client = await ExtendedClient.logged_in(server, 7)
            for _ in range(20):
                client.send(
                    encode_control_frame(bytes([rng.randrange(256)]) + rng.randbytes(rng.choice([0, 8, 16, 24, 30])))
                )
            client.say(Hello())  # ends it for certain
            said = await client.end()
            assert said[-1:] in ([], [closed(CloseCode.PROTOCOL_ERROR)]), n
            await until(lambda n=n: len(server.ended) == n + 1)  # type: ignore[misc]
            await client.close()


async def test_a_flood_of_pings_is_answered_four_times_a_second() -> None:
    async with serving() as server, neighbour(server):
        client = await ExtendedClient.logged_in(server, 7)
        start = asyncio.get_running_loop().time()
        for n in range(1, 50):
            client.say(*[Ping(n, 0)] * 200)
            await asyncio.sleep(MS)
        client.send(frame_of(Echo(1)))
        pongs = 0
        while isinstance(record := await client.frame(), tuple) and record[0] == 0:
            pongs += 1
        seconds = asyncio.get_running_loop().time() - start
        assert 1 <= pongs <= PONGS_PER_SECOND * (seconds + 1)
        await client.close()


async def test_a_client_that_never_acknowledges_is_held_within_the_window_and_the_queue() -> None:
    limits = with_window(Limits(max_outbox_bytes=50_000), size=20_000)
    async with serving(keys=[KEY], limits=limits) as server, neighbour(server):
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        reading = asyncio.create_task(client.rest())  # it takes everything, and says nothing
        session = server.session(7)
        most = 0
        with pytest.raises(SessionClosed, match="4006"):
            for _ in range(200):
                session.send(Blob(bytes(900)))
                most = max(most, session.outbox.held_bytes)
                await asyncio.sleep(0)
        assert 65_000 < most <= 70_000
        assert len(await reading) == 20_000 // 906, "no more than the window"
        await client.close()


@pytest.mark.parametrize("counts", [(1,), (2**64 - 1,), (0, 5)], ids=str)
async def test_a_client_that_acknowledges_unsent_messages_is_closed(counts: tuple[int, ...]) -> None:
    async with serving(keys=[KEY]) as server, neighbour(server):
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        client.say(*map(Ack, counts))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        await client.close()


async def test_a_peer_that_takes_a_count_back_is_closed() -> None:
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client:
        await client.echo(1)
        client.say(Pong(1, 1, 0), Ack(0))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]


# -- between RESUME and RESUMED --

BEHIND = {
    "message": frame_of(Note(1)),
    "messages": frame_of(Note(1)) * 3,
    "more messages than a turn takes": frame_of(Note(1)) * 40,
    "as many as a record holds": frame_of(Note(1)) * 80,
    "part of a message": frame_of(Note(1))[:-1],
    "a byte": b"\x01",
    "heartbeat": bytes([2, 0, 0, 0, 4, 0]),
    "ping": control_frame(Ping(1, 0)),
    "ack": control_frame(Ack(0)),
    "ignored record": encode_control_frame(b"\xc8"),
    "login request": verify_request(7),
    "close and message": control_frame(Close(4000, "")) + frame_of(Note(1)),
    "message and close": frame_of(Note(1)) + control_frame(Close(4000, "")),
    "wrong flags": b"\x02\x00\x00\x77",
    "half a close": control_frame(Close(4000, ""))[:-1],
    "no close": encode_control_frame(b"\x09"),
}


@pytest.mark.parametrize("records", [1, 2], ids=["one record", "two records"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_what_comes_behind_a_resume_is_a_protocol_error_and_changes_nothing(behind: bytes, records: int) -> None:
    """Nobody has told the client yet that it is back, so it may only say that it leaves."""
    async with serving(keys=[KEY]) as server, neighbour(server), broken(server) as (session, ticket):
        before = state_of(session)
        client = await ExtendedClient.extended(server, KEY.public)
        assert client.stream is not None
        record = control_frame(honest(ticket, client.handshake_hash))
        seal = client.stream.seal
        client.writer.write(seal(record + behind) if records == 1 else seal(record) + seal(behind))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert state_of(session) == before and server.notes == [(7, n) for n in range(3)]
        await client.close()


async def test_what_is_not_whole_or_not_sealed_behind_a_resume_is_the_same() -> None:
    async with serving(keys=[KEY]) as server, broken(server) as (session, ticket):
        before = state_of(session)
        for unfinished in (b"\x20", bytes([17, 0, 0, 4, 0]), frame_of(Note(1)), bytes([20, 0, 0, 4]) + bytes(20)):
            client = await ExtendedClient.extended(server, KEY.public)
            assert client.stream is not None
            client.writer.write(client.stream.seal(control_frame(honest(ticket, client.handshake_hash))) + unfinished)
            assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
            await client.close()
        assert state_of(session) == before


@pytest.mark.parametrize("behind", [frame_of(Note(1)), frame_of(Note(1)) * 40, b"\x02"], ids=["one", "many", "part"])
@pytest.mark.parametrize("over", ["plain", "tls"])
async def test_so_it_is_without_sealing(over: str, behind: bytes, certificate: tuple[str, str, ssl.SSLContext]) -> None:
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate[0], key=certificate[1])
    async with serving(tls if over == "tls" else TCP, resume_plain=True) as server:
        how: dict[str, Any] = {"tls": certificate[2]} if over == "tls" else {}
        first = await ExtendedClient.logged_in(server, 7, **how)
        session = server.session(7)
        first.reset()
        await until(lambda: session.state is SessionState.DETACHED)
        client = await ExtendedClient.extended(server, **how)
        client.send(control_frame(honest(first.ticket, NO_HANDSHAKE, 0)) + behind)
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert session.state is SessionState.DETACHED and extension_of(session).attempt == 0 and not server.notes
        again = await ExtendedClient.extended(server, **how)
        again.resume(first.ticket)
        assert await again.resumed(first.ticket) == 0
        await again.echo(1)
        for one in (client, again):
            await one.close()


async def test_what_comes_behind_a_resume_does_not_cut_the_connection_that_the_session_has() -> None:
    async with serving(keys=[KEY]) as server:
        first = await ExtendedClient.logged_in(server, 7, KEY.public)
        client = await ExtendedClient.extended(server, KEY.public)
        client.send(control_frame(honest(first.ticket, client.handshake_hash, 0)) + frame_of(Note(1)))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        await first.echo(1)
        assert server.notes == []
        for one in (first, client):
            await one.close()


async def test_a_close_right_behind_a_resume_ends_the_session_with_its_code() -> None:
    async with serving(keys=[KEY]) as server:
        first = await ExtendedClient.logged_in(server, 7, KEY.public)
        first.reset()
        client = await ExtendedClient.extended(server, KEY.public)
        client.send(
            control_frame(honest(first.ticket, client.handshake_hash, 0)),
            control_frame(Close(CloseCode.NORMAL, "changed its mind")),
        )
        await until(lambda: server.ended == [(7, CloseCode.NORMAL)])
        for one in (first, client):
            await one.close()


async def test_many_resumes_fill_no_inbox_while_a_handler_lags() -> None:
    """Seen: each brought the messages of one read more, past the inbox's limit and past every rate."""
    limits = Limits(max_inbox=4, exempt=(), message_rate=1, message_burst=10)
    async with serving(keys=[KEY], limits=limits) as server:
        go = asyncio.Event()

        @server.instead(Blob)
        async def blob(session: Session, message: Blob) -> None:
            await go.wait()

        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        client.send(frame_of(Blob(b"")))
        session, ticket = server.session(7), client.ticket
        await until(lambda: extension_of(session).received == 1)
        for attempt in range(1, 5):  # four failures; the next would ban the address
            client.reset()
            client = await ExtendedClient.extended(server, KEY.public)
            client.send(control_frame(honest(ticket, client.handshake_hash, 0, attempt)) + frame_of(Note(attempt)) * 60)
            assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert extension_of(session).received == 1
        go.set()
        await client.close()
        assert server.notes == []


# -- a hostile server, or somebody in the path --


@pytest.mark.parametrize(
    "answer",
    [
        control_frame(Resumed(0, bytes(32))),
        verify_succeeded(7),
        verify_succeeded(7) + frame_of(Echo(99)),
        control_frame(Ticket(bytes(16), bytes(32), 60, "")),
        control_frame(Hello(features=BOTH)),
        frame_of(Echo(99)),
        b"\xff" * 100,
    ],
    ids=["wrong mac", "success", "success and more", "ticket", "hello again", "message", "garbage"],
)
async def test_a_client_resumes_only_with_a_server_that_knows_its_ticket(answer: bytes) -> None:
    """The impostor stands in a plain path, and says HELLO as the server does."""
    asked = asyncio.Event()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # the proxy cuts it
            await reader.read(1_000)
            writer.write(control_frame(Hello(features=BOTH)))
            await reader.read(1_000)
            writer.write(answer)
            asked.set()
            await reader.read()
        writer.close()

    handlers = Handlers(CATALOG)
    heard: list[int] = []
    handlers.on(Echo)(lambda session, message: heard.append(message.n))
    false_server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    async with (
        serving(resume_plain=True) as server,
        ChaosProxy((server.endpoint.host, server.endpoint.port)) as proxy,
    ):
        true_target = proxy._target
        session = await connect(
            f"tcp://127.0.0.1:{proxy.address[1]}",
            uid=7,
            token=token_of(7).decode(),
            handlers=handlers,
            catalog=CATALOG,
            resume=True,
            reconnect=Backoff(first=5 * MS, most=20 * MS, attempts=500),
        )
        proxy._target = false_server.sockets[0].getsockname()
        proxy.cut_all()
        await asked.wait()
        session.send(Echo(1))
        for _ in range(20):
            assert session.state is SessionState.DETACHED
            await asyncio.sleep(MS)
        proxy._target = true_target
        proxy.cut_all()
        await until(lambda: heard)
        assert heard == [1] and session.state is SessionState.OPEN
        await leave(session)
    false_server.close()
    await false_server.wait_closed()


async def test_macs_are_bound_to_their_label() -> None:
    """A server's proof is not a client's, so that nobody can be made to produce the other."""
    async with serving(resume_plain=True) as server:
        client = await ExtendedClient.logged_in(server, 7)
        ticket = client.ticket
        client.reset()
        again = await ExtendedClient.extended(server)
        again.resume(ticket, attempt=1)
        answer = await again.control()
        assert isinstance(answer, Resumed)
        assert answer.mac != client_mac(ticket.resume_key, NO_HANDSHAKE, ticket.session_id, answer.received, 1)
        await again.close()
        thief = await ExtendedClient.extended(server)
        thief.say(Resume(ticket.session_id, answer.received, 1, answer.mac))
        assert await thief.end() == [closed(CloseCode.RESUME_REFUSED)]
        await thief.close()


async def test_tickets_are_each_their_own() -> None:
    async with serving(keys=[KEY]) as server:
        clients = [await ExtendedClient.logged_in(server, uid, KEY.public) for uid in range(1, 21)]
        assert len({client.ticket.session_id for client in clients}) == 20
        assert len({client.ticket.resume_key for client in clients}) == 20
        key = clients[0].ticket.resume_key
        assert repr(key)[2:-1] not in repr(clients[0].ticket) and key.hex() not in repr(clients[0].ticket)
        for client in clients:
            await client.close()
