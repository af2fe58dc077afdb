"""Deployed clients hear the last message before the end of their connection (docs/protocol.md, "Base messages").

Their code hears the end from the reader, at once, and messages in the next frame. So the server waits in between.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gatelink import CloseCode, Limits, Listen
from gatelink.testing import BaseClient
from tests.e2e.base_clients import SAY, WORLDS, Say, World, world
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import (
    AnyToken,
    Echo,
    RawClient,
    closing,
    make_certificate,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.support import MS

LAST, FAILED, DUPLICATE, END = 99, 3, 24, 0
FOREVER = 1_000.0
TIMES = 20  # as a race may come out right by chance
LINGER = 0.7  # s; both sides are one process here, which may stand still for longer than the default


async def last_words(there: World, how: str, uid: int) -> list[int]:
    """The ids that a client has heard behind the answer to its login, when the session has ended."""
    async with await there.client(uid) as client:
        client.send(SAY, b"\0" * 6)
        await client.message(SAY)
        session = there.session(uid)
        session.send(Say(LAST))
        if how == "close":
            session.close(CloseCode.NORMAL)
        elif how == "kick":
            session.kick("out")
        else:
            session.send(Say(LAST, b"x" * 50_000))
            session.close()
        await client.closed()
        return [heard.id for heard in client.events[2:]]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("how", ["close", "kick", "large"])
async def test_the_last_message_is_handled_before_the_end_is_heard(name: str, how: str) -> None:
    async with world(name, limits=Limits(base_linger=LINGER)) as there:
        for heard in await asyncio.gather(*(last_words(there, how, uid) for uid in range(1, TIMES + 1))):
            assert heard == [SAY] * (len(heard) - 1) + [END] and len(heard) == (3 if how == "large" else 2)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("token", [b"first", b"second"], ids=["same token", "another token"])
async def test_the_notice_of_a_newer_login_is_handled_before_the_end_is_heard(name: str, token: bytes) -> None:
    async with world(name, tokens=AnyToken()) as there:

        async def replaced(uid: int) -> list[int]:
            async with await there.client(uid, b"first") as older, await there.client(uid, token):
                await older.closed()
                return [heard.id for heard in older.events]

        heard = await asyncio.gather(*map(replaced, range(1, TIMES + 1)))
        assert heard == [[2, DUPLICATE, END]] * TIMES


@pytest.mark.parametrize("name", WORLDS)
async def test_a_refusal_is_handled_before_the_end_is_heard(name: str) -> None:
    async with world(name, limits=Limits(max_unverified_per_address=TIMES, base_linger=LINGER)) as there:

        async def refused(uid: int) -> list[int]:
            async with BaseClient(uid, b"wrong") as client:
                await client.open(there.endpoint)
                await client.closed()
                return [heard.id for heard in client.events]

        heard = await asyncio.gather(*map(refused, range(1, TIMES + 1)))
        assert heard == [[FAILED, END]] * TIMES


@pytest.mark.parametrize("name", WORLDS)
async def test_a_connection_that_is_kept_open_counts_and_holds_nothing_else_up(name: str) -> None:
    """The newer login is answered and heard, and the handlers have heard the end of the older one."""
    limits = Limits(base_linger=FOREVER)
    async with world(name, limits=limits) as there:
        older = await there.client(7)
        older.send(SAY, b"\0" * 6)
        await older.message(SAY)
        newer = await there.client(7)
        newer.send(SAY, b"\0" * 6)
        await newer.message(SAY)
        await older.message(DUPLICATE)
        assert END not in [heard.id for heard in older.events]
        assert len(there.front.connections) == 2 and len(there.front.sessions) == 1
        older.send(SAY, b"\1" * 6)  # nobody hears it
        newer.send(SAY, b"\0" * 6)
        await until(lambda: len(there.heard) == 3)
        assert there.numbers(7) == [0, 0, 0]
        await older.close()
        await until(lambda: len(there.front.connections) == 1)
        await newer.close()


@pytest.mark.parametrize("grace", [0, 300 * MS])
@pytest.mark.parametrize("ending", ["closed", "replaced", "refused", "open"])
async def test_a_stop_cuts_what_is_kept_open_at_its_deadline(grace: float, ending: str) -> None:
    async with world("one process", limits=Limits(base_linger=FOREVER)) as there:
        client = BaseClient(7, b"wrong" if ending == "refused" else token_of(7))
        await client.open(there.endpoint)
        await client.message(FAILED if ending == "refused" else 2)
        if ending == "closed":
            there.session(7).close()
        elif ending == "replaced":
            newer = await there.client(7)
            await client.message(DUPLICATE)
            await newer.close()
        await there.front.stop(grace)
        assert not there.front.connections
        await client.closed()
        await client.close()


async def test_one_that_never_leaves_is_cut_off_and_its_place_is_free() -> None:
    limits = Limits(base_linger=50 * MS, close_timeout=100 * MS, max_connections=2)
    async with world("one process", limits=limits) as there:
        client = await there.client(7)
        client.stop_reading()
        there.session(7).close()
        await until(lambda: not there.front.connections)
        await client.close()


async def test_a_client_with_the_extension_is_told_why_and_does_not_wait() -> None:
    async with serving(limits=Limits(base_linger=FOREVER)) as server:
        client = await ExtendedClient.logged_in(server, 7)
        server.session(7).send(Echo(1))
        server.session(7).kick()
        await client.end()
        wrong = await ExtendedClient.extended(server)
        wrong.send(b"\xff" * 50)
        await wrong.end()
        await client.close()
        await wrong.close()


@pytest.mark.parametrize("name", WORLDS)
async def test_a_stop_with_time_lets_each_client_hear_its_last_message_first(name: str) -> None:
    async with world(name, limits=Limits(base_linger=LINGER)) as there, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await there.client(uid)) for uid in range(1, TIMES + 1)]
        for uid in range(1, TIMES + 1):
            session = there.front.sessions.get(uid)
            assert session is not None
            session.send(Say(LAST))
        await there.front.stop(5)
        for client in clients:
            await client.closed()
            assert [heard.id for heard in client.events] == [2, SAY, END]


async def test_over_tls_the_end_comes_after_the_last_message_too(tmp_path: Path) -> None:
    """TLS has no half-open streams: the server closes at once when the time has passed."""
    certificate, key, context = make_certificate(tmp_path)
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(listen, limits=Limits(base_linger=FOREVER)) as server:
        async with closing(RawClient.open(server, context)) as client:
            client.send(verify_request(7))
            await client.frame()
            server.session(7).send(Echo(5))
            server.session(7).close()
            assert (await client.message()).n == 5
            assert not client.reader.at_eof() and len(server.connections) == 1 and len(server.sessions) == 0
