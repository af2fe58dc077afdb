"""Logging in over real sockets (docs/protocol.md, "Base messages", "Newer logins win")."""

import asyncio
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink import CloseCode, Duplicate, Identity, Limits, MemoryTokens, SessionClosed, VerifyError
from gatelink.logger import RateLimitedLogger
from gatelink.net import login
from gatelink.wire.base import DUPLICATE_LOGIN
from gatelink.wire.body import compress
from gatelink.wire.control import Hello, control_frame
from gatelink.wire.frames import COMPRESSED, encode_control_frame, encode_frame
from tests.e2e.support import (
    DUPLICATE_LOGIN_FRAME,
    VERIFY_FAILED_FRAME,
    AnyToken,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.support import MS

VECTORS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "base.jsonl").read_text("utf-8").splitlines()
]
REQUESTS = [vector for vector in VECTORS if vector["name"] == "ClientVertifyReq"]


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda v: f"{v['fields']['UID']}-{v['flags']}-{v['note']}")
async def test_the_original_clients_requests_are_understood(vector: dict[str, Any]) -> None:
    uid, source = vector["fields"]["UID"], vector["fields"]["Source"]
    async with serving(tokens=AnyToken(), id=0x0102030405060708) as server, closing(RawClient.open(server)) as client:
        client.send(bytes.fromhex(vector["frame"]))
        if source:  # a client that says it is a server is not believed
            assert await client.rest() == []
            assert server.stats.refused == {"wrong-first-message": 1}
        else:
            answer = verify_succeeded(uid, source_id=0x0102030405060708)
            assert await client.reader.readexactly(len(answer)) == answer
            assert server.session(uid).source == 0


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["name"] == "ClientVertifySucceedRet" and not v["flags"]])
async def test_the_answer_has_the_originals_bytes(vector: dict[str, Any]) -> None:
    fields = vector["fields"]
    async with serving(tokens=AnyToken(), id=fields["SourceID"]) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(fields["UID"]))
        expected = bytes.fromhex(vector["frame"])
        seen = await client.reader.readexactly(len(expected))
        assert seen[:-1] == expected[:-1] and seen[-1] == 0  # a new session is type 0


async def test_a_wrong_token_gets_the_failure_message_and_then_the_end() -> None:
    async with serving() as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(verify_request(7, b"wrong"), frame_of(Note(1)))
        assert await client.reader.read() == VERIFY_FAILED_FRAME == bytes.fromhex("020000000300")
        assert server.stats.refused == {"verify-failed": 1}
        assert server.sessions.get(7) is None and server.notes == []
        await client.close()


async def test_a_refused_peer_that_does_not_leave_is_cut_off() -> None:
    async with serving(limits=Limits(close_timeout=200 * MS)) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7, b"wrong"))
        await until(lambda: server.stats.refused["verify-failed"])
        await until(lambda: not server._admission.connections)


async def test_a_token_of_another_uid_is_refused() -> None:
    class Confused:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            return Identity(uid + 1)

    async with serving(tokens=Confused()) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7))
        assert await client.reader.read() == VERIFY_FAILED_FRAME
        assert len(server.sessions) == 0


async def test_issued_tokens_let_in_with_their_logins() -> None:
    tokens = MemoryTokens()
    async with serving(tokens=tokens) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7, tokens.issue(7, {"name": "Ann"}).encode()))
        assert (await client.frame())[0] == 2
        assert server.session(7).claims == {"name": "Ann"}


async def test_tokens_that_answer_too_late_refuse_and_touch_nobody_else() -> None:
    class Slow:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            if uid == 7:
                await asyncio.Event().wait()
            return Identity(uid)

    async with serving(tokens=Slow(), limits=Limits(token_timeout=100 * MS)) as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(verify_request(7))
        assert await client.rest() == []
        assert server.stats.refused == {"tokens-unavailable": 1}
        await client.close()


@pytest.mark.parametrize("failure", [RuntimeError("database"), KeyError(1), TimeoutError(), OSError("gone")], ids=repr)
async def test_tokens_that_fail_refuse_without_a_word_and_touch_nobody_else(failure: Exception) -> None:
    class Failing:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            if uid == 7:
                raise failure
            return Identity(uid)

    async with serving(tokens=Failing()) as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(verify_request(7))
        assert await client.rest() == []
        assert server.stats.refused == {"tokens-unavailable": 1}
        assert len(server.logins) == 0
        await client.close()


async def test_a_check_that_was_cancelled_inside_is_a_backend_that_failed() -> None:
    """As when a connection pool that closes cancels what it was asked."""

    class Cancelled:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            raise asyncio.CancelledError

    async with serving(tokens=Cancelled()) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7))
        assert await client.rest() == []
        assert server.stats.refused == {"tokens-unavailable": 1}


@pytest.mark.parametrize("failure", [VerifyError("wrong"), OSError("gone"), TimeoutError()], ids=repr)
async def test_a_flood_of_failing_logins_writes_one_line_a_second(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            raise failure

    monkeypatch.setattr(login, "quiet", RateLimitedLogger(login.log, clock=lambda: 0.0))
    async with serving(tokens=Failing()) as server:
        with capture_logs() as lines:
            for uid in range(1, 21):
                client = await RawClient.open(server)
                client.send(verify_request(uid))
                await client.rest()
                await client.close()
        assert server.stats.refused.total() == 20
    assert len(lines) == 1 and lines[0]["uid"] == 1


async def test_a_check_that_outlives_its_cancellation_lets_nobody_in() -> None:
    """The peer has left; a session of the same user must not notice what its late login leads to."""
    asked = asyncio.Event()
    gone = asyncio.Event()

    class Stubborn:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            if token == b"late":
                asked.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    gone.set()
            return Identity(uid)

    async with serving(tokens=Stubborn()) as server, neighbour(server, 7):
        client = await RawClient.open(server)
        client.send(verify_request(7, b"late"))
        await asked.wait()
        await client.close()
        await gone.wait()
        await until(lambda: not server.logins)
        assert len(server.logins) == 0 and server.stats.verified == 1


async def test_what_follows_the_request_at_once_is_handled_in_order_after_it() -> None:
    class Gated:
        gate = asyncio.Event()

        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            await self.gate.wait()
            return Identity(uid)

    tokens = Gated()
    async with serving(tokens=tokens) as server, closing(RawClient.open(server)) as client:
        client.send(verify_request(7), frame_of(Echo(1)), frame_of(Echo(2)))
        await until(lambda: [connection.buffered for connection in server.connections] not in ([], [0]))
        client.send(frame_of(Echo(3))[:5])
        await asyncio.sleep(0)
        tokens.gate.set()
        await client.frame()
        client.send(frame_of(Echo(3))[5:])
        assert [(await client.message()).n for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "first",
    [
        control_frame(Hello(features=1)) + encode_control_frame(b"\xc8") * 4,
        control_frame(Hello(features=1)) + encode_control_frame(b"\xc8" + bytes(1_000)) * 3,
    ],
    ids=["frames", "bytes"],
)
async def test_a_client_that_sends_more_than_the_unverified_may_is_refused(first: bytes) -> None:
    """A control record of a type that is ignored is no login request."""
    async with serving() as server, closing(RawClient.open(server)) as client:
        client.send(first)
        await client.rest()
        assert server.stats.refused == {"unverified-limit": 1}


async def test_a_token_of_a_thousand_bytes_is_taken_and_one_more_is_not() -> None:
    async with serving(tokens=AnyToken()) as server:
        client = await RawClient.open(server)
        client.send(verify_request(7, b"\xff" * 1_000))
        assert (await client.frame())[0] == 2
        await client.close()
        client = await RawClient.open(server)
        client.send(verify_request(8, b"t" * 1_001))
        assert await client.rest() == []
        await client.close()
        client = await RawClient.open(server)
        request = verify_request(9, b"t" * 1_001)
        client.send(encode_frame(1, compress(request[6:]), COMPRESSED))
        assert await client.rest() == []
        await client.close()
        assert server.stats.refused == {"wrong-first-message": 2}


# -- the deadline --


@pytest.mark.parametrize("drip", [b"", verify_request(7)[:40]], ids=["silence", "a byte now and then"])
async def test_the_deadline_is_absolute(drip: bytes) -> None:
    async with serving(limits=Limits(verify_timeout=1_500 * MS)) as server, neighbour(server):
        client = await RawClient.open(server)
        ending = asyncio.create_task(client.rest())
        for byte in drip:
            client.send(bytes([byte]))
            await asyncio.sleep(50 * MS)
            if ending.done():
                break
        assert await ending == []
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


async def test_the_deadline_holds_while_the_token_is_checked() -> None:
    class Slow:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            await asyncio.Event().wait()
            raise AssertionError

    async with serving(tokens=Slow(), limits=Limits(verify_timeout=200 * MS)) as server:
        client = await RawClient.open(server)
        client.send(verify_request(7))
        assert await client.rest() == []
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


# -- newer logins --


async def test_a_newer_login_replaces_the_older_which_first_gets_what_was_queued() -> None:
    async with serving() as server:
        older = await RawClient.verified(server, 7)
        session = server.session(7)
        session.data = "older"
        newer = await RawClient.open(server)
        for n in range(3):
            session.send(Echo(n))
        newer.send(verify_request(7))
        assert (await newer.frame())[0] == 2
        assert server.session(7) is not session and session.close_code is CloseCode.REPLACED
        frames = await older.rest()
        assert [id for id, _, _ in frames] == [11_001, 11_001, 11_001, DUPLICATE_LOGIN]
        with pytest.raises(SessionClosed):
            session.send(Echo(9))
        await newer.echo(1)
        await older.close()
        await session.wait_closed()
        await newer.echo(2)
        assert server.ended == [(7, CloseCode.REPLACED)] and len(server.sessions) == 1
        await newer.close()


async def test_the_notice_of_a_newer_login_has_the_originals_bytes() -> None:
    async with serving() as server:
        older = await RawClient.verified(server, 7)
        newer = await RawClient.verified(server, 7)
        assert await older.reader.read() == DUPLICATE_LOGIN_FRAME == bytes.fromhex("020000001800")
        await older.close()
        await newer.close()


@pytest.mark.parametrize("last_words", [frame_of(Note(1)), b"\xff" * 100, None], ids=["message", "garbage", "reset"])
async def test_nothing_late_of_the_older_login_touches_the_newer(last_words: bytes | None) -> None:
    async with serving() as server:
        older = await RawClient.verified(server, 7)
        newer = await RawClient.verified(server, 7)
        session = server.session(7)
        if last_words is None:
            older.reset()
        else:
            older.send(last_words)
            await older.close()
        await until(lambda: len(server._admission.connections) == 1)
        await newer.echo(1)
        assert server.session(7) is session and server.notes == []
        await newer.close()


async def test_the_older_session_stays_when_the_newer_login_is_not_verified() -> None:
    async with serving() as server, neighbour(server, 7):
        for token in (b"wrong", b"", b"x" * 1_000):
            client = await RawClient.open(server)
            client.send(verify_request(7, token))
            await client.rest()
            await client.close()
        assert server.stats.refused == {"verify-failed": 3}


def _all_are_through(server: EchoServer, connections: int) -> bool:
    return server.stats.accepted >= connections and not server.logins


@pytest.mark.open_files(3_000)
async def test_thousands_of_interleaved_logins_of_one_user_leave_one_session() -> None:
    class Jittery:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            await asyncio.sleep(random.random() * 5 * MS)
            if token != token_of(uid):
                raise VerifyError("no")
            return Identity(uid)

    async with serving(tokens=Jittery()) as server:

        async def log_in(n: int) -> None:
            client = await RawClient.open(server)
            client.send(verify_request(7, b"wrong" if n % 10 == 0 else None), frame_of(Note(n)))
            if n % 3 == 0:
                client.reset()
            else:
                await client.rest()
            await client.close()

        logins = []
        for round in range(1, 21):
            logins += [asyncio.create_task(log_in(n)) for n in range(100)]
            await until(partial(_all_are_through, server, 100 * round))
        final = await RawClient.verified(server, 7)
        await asyncio.gather(*logins)  # every other one has ended
        session = server.session(7)
        await final.echo(1)
        await until(lambda: len(server._admission.connections) == 1)
        assert len(server.sessions) == 1 and server.session(7) is session
        assert server.sessions._logins == {} and server.sessions._closing == set()
        assert len(server.logins) == 0
        assert server.stats.verified == len(server.ended) + 1
        await final.close()


async def test_a_server_can_refuse_the_newer_login_instead() -> None:
    async with serving(duplicate=Duplicate.REFUSE_NEW) as server, neighbour(server, 7):
        newer = await RawClient.open(server)
        newer.send(verify_request(7))
        assert await newer.reader.read() == VERIFY_FAILED_FRAME
        await newer.close()
        other = await RawClient.verified(server, 8)
        await other.close()
    async with serving(duplicate=Duplicate.REFUSE_NEW) as server:
        for _ in range(2):  # once it has left, it may come again
            client = await RawClient.verified(server, 7)
            await client.close()
            await until(lambda: not len(server.sessions))


# -- the window in which a base client may be back --


async def broken_with_queue(server: EchoServer, uid: int) -> None:
    """A session of `uid` breaks while it has three messages queued and unsent."""
    client = await RawClient.verified(server, uid)
    session = server.session(uid)
    ended = len(server.ended)
    client.reset()
    while session.close_code is None:  # sends in every turn, so that some are queued when the loop notices the break
        assert len(server.ended) == ended
        session.outbox.drain()
        for n in range(3):
            session.send_frame(frame_of(Echo(n)))
        session._flush_scheduled = True  # a busy loop: not flushed yet
        await asyncio.sleep(0)


async def test_what_was_queued_when_it_broke_follows_the_answer_of_the_next_login() -> None:
    async with serving() as server:
        await broken_with_queue(server, 7)
        client = await RawClient.open(server)
        client.send(verify_request(7), frame_of(Echo(3)))
        answer = verify_succeeded(7, back=True)
        assert await client.reader.readexactly(len(answer)) == answer
        assert [(await client.message()).n for _ in range(4)] == [0, 1, 2, 3]
        await client.close()


async def test_what_was_queued_belongs_to_its_user_alone_and_is_given_once() -> None:
    async with serving() as server:
        await broken_with_queue(server, 7)
        other = await RawClient.open(server)
        other.send(verify_request(8))
        answer = verify_succeeded(8, back=False)
        assert await other.reader.readexactly(len(answer)) == answer
        await other.echo(9)
        first = await RawClient.verified(server, 7)
        assert [(await first.message()).n for _ in range(3)] == [0, 1, 2]
        second = await RawClient.verified(server, 7)
        await second.echo(9)
        for client in (other, first, second):
            await client.close()


async def test_after_the_window_a_login_is_new_and_nothing_waits() -> None:
    async with serving(limits=Limits(backlog_window=200 * MS)) as server:
        await broken_with_queue(server, 7)
        await until(lambda: server.stats.backlogs_dropped == 3)
        client = await RawClient.open(server)
        client.send(verify_request(7))
        answer = verify_succeeded(7, back=False)
        assert await client.reader.readexactly(len(answer)) == answer
        await client.echo(9)
        await client.close()


async def test_a_client_that_was_kicked_or_closed_by_us_is_new_when_it_comes_again() -> None:
    async with serving() as server:
        client = await RawClient.verified(server, 7)
        server.session(7).kick()
        await client.rest()
        await client.close()
        client = await RawClient.open(server)
        client.send(verify_request(7))
        answer = verify_succeeded(7, back=False)
        assert await client.reader.readexactly(len(answer)) == answer
        await client.close()


async def test_the_oldest_backlog_makes_room_for_a_newer() -> None:
    async with serving(limits=Limits(max_backlogs=2)) as server:
        for uid in (1, 2, 3):
            await broken_with_queue(server, uid)
        clients = [await RawClient.open(server) for _ in range(3)]
        backs = []
        for uid, client in enumerate(clients, 1):
            client.send(verify_request(uid))
            backs.append((await client.frame())[2][-1])
        assert backs == [0, 1, 1] and server.stats.backlogs_dropped == 3
        for client in clients:
            await client.close()
