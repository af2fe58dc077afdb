"""A login with the same token, while the older session is there, is back and gets its queue (docs/protocol.md)."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from gatelink import CloseCode, Limits, Session
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.login_arbiter import MAX_BACKLOG
from gatelink.session.outbox import Full
from gatelink.testing import BaseClient
from tests.e2e.base_clients import CATALOG, SAY, WORLDS, Say, World, world
from tests.e2e.engines import NewEngine
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, AnyToken, RawClient, serving, token_of, until, verify_request
from tests.support import MS

WIDE = Limits(max_outbox_bytes=1 << 25, max_outbox_frames=50_000, max_frame=100_000)
DUPLICATE = 24


def numbers(client: BaseClient) -> list[int]:
    """The numbers of the `Say` that its code has heard."""
    return [struct.unpack_from("<i", heard.body)[0] for heard in client.events if heard.id == SAY]


@asynccontextmanager
async def stuck(there: World, uid: int = 7, token: bytes = b"first", count: int = 12_000) -> AsyncIterator[BaseClient]:
    """A client that reads nothing any more and does not know that it is lost; `count` messages are sent to it."""
    client = await there.client(uid, token)
    client.stop_reading()
    front = there.front.sessions.get(uid)
    assert front is not None
    stream: Any = front._stream
    kernel = stream.transport.get_extra_info("socket")
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # or a kernel with much memory may take everything
    for n in range(count):
        front.send(Say(n, b"x" * 500))
    # On a slow machine the server may have found out by now that nobody reads.
    await until(lambda: front.close_code is not None or (front.outbox.sent and not stream.writable))
    assert front.close_code is not None or front.outbox.count, "all of it went into the kernel: send more"
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def both(name: str, limits: Limits = WIDE) -> AsyncIterator[World]:
    async with world(name, tokens=AnyToken(), limits=limits) as there:
        yield there


@pytest.mark.parametrize("name", WORLDS)
async def test_with_the_same_token_what_the_kernel_has_not_taken_follows_in_order(name: str) -> None:
    async with both(name) as there, stuck(there) as older, BaseClient(7, b"first") as newer:
        await newer.open(there.endpoint)
        assert (await newer.verified()).type == 1
        await newer.until(lambda: numbers(newer)[-1:] == [11_999])
        moved = numbers(newer)
        assert moved == list(range(moved[0], 12_000)) and len(moved) > 1_000
        older.go_on_reading()
        await older.closed()
        heard = numbers(older)
        assert heard == list(range(len(heard)))
        assert moved[0] - len(heard) in (0, 1), "one that was partly written counts as sent; nothing else is missing"
        assert there.front.sessions.get(7) is not None and there.front.stats.backlogs_dropped == 0


@pytest.mark.parametrize("name", WORLDS)
async def test_with_the_same_token_a_living_session_that_owes_nothing_gets_its_notice(name: str) -> None:
    async with both(name) as there:
        older, newer = await there.client(7, b"first"), BaseClient(7, b"first")
        await newer.open(there.endpoint)
        assert (await newer.verified()).type == 1
        await older.closed()
        assert [heard.id for heard in older.events] == [2, DUPLICATE, 0]
        await older.close()
        await newer.close()


@pytest.mark.parametrize("name", WORLDS)
async def test_with_another_token_the_login_is_new_and_the_older_session_gets_its_queue(name: str) -> None:
    async with both(name) as there, stuck(there) as older, BaseClient(7, b"second") as newer:
        await newer.open(there.endpoint)
        assert (await newer.verified()).type == 0
        older.go_on_reading()
        await older.message(DUPLICATE)
        assert numbers(older) == list(range(12_000)) and numbers(newer) == []


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("token", [b"first", b"second"])
@pytest.mark.parametrize("frames", [50_000, 11_500], ids=["with room in the queue", "over a full queue"])
async def test_what_a_broken_session_left_follows_the_same_token_only(name: str, token: bytes, frames: int) -> None:
    """The server notices by itself that nobody is there: what its transport still held is not lost either."""
    limits = Limits(
        max_outbox_bytes=1 << 25,
        max_outbox_frames=frames,
        write_high_water=1 << 20,  # more than the kernel takes at once
        heartbeat_interval=500 * MS,
        heartbeat_timeout=3_000 * MS,
    )  # long enough to queue all messages on a busy machine
    async with both(name, limits) as there, stuck(there) as older, BaseClient(7, token) as newer:
        front = there.front.sessions.get(7)
        assert front is not None
        await front.wait_closed()
        assert front.close_code is CloseCode.HEARTBEAT_TIMEOUT
        older.go_on_reading()
        await older.closed()
        heard = len(numbers(older))
        await newer.open(there.endpoint)
        if token == b"first":
            assert (await newer.verified()).type == 1
            await newer.until(lambda: numbers(newer)[-1:] == [11_999])
            moved = numbers(newer)
            assert moved == list(range(moved[0], 12_000)) and moved[0] - heard in (0, 1)
        else:
            assert (await newer.verified()).type == 0
            assert there.front.stats.backlogs_dropped > 1_000 and numbers(newer) == []


@pytest.mark.parametrize("name", WORLDS)
async def test_applications_hear_which_was_told(name: str) -> None:
    async with both(name) as there:
        tokens = [b"first", b"first", b"second", b"second", b"first"]
        for at, token in enumerate(tokens):
            async with BaseClient(7, token) as client:
                await client.open(there.endpoint)
                answer = await client.verified()
                assert answer.type == int(at > 0 and token == tokens[at - 1])
                await until(lambda at=at: len(there.opened) == at + 1)  # type: ignore[misc]
        assert there.opened == [(7, False), (7, True), (7, False), (7, True), (7, False)]


@asynccontextmanager
async def two_gateways(new_engine: NewEngine, limits: Limits = WIDE) -> AsyncIterator[tuple[World, Gateway]]:
    """A gateway, and another of the same cluster that has an engine client of its own, as another process does."""
    engine, own = new_engine(), new_engine()
    async with world("gateway", engine=engine, tokens=AnyToken(), limits=limits) as there, AsyncExitStack() as stack:
        if own is not engine:
            await stack.enter_async_context(own)
        assert there.town is not None
        member = there.town.member(2, engine=own)
        other = await stack.enter_async_context(
            Gateway(TCP, member=member, catalog=CATALOG, tokens=AnyToken(), limits=limits)
        )
        await until(lambda: len(other.cluster.links) == 2, "the lobby and the other gateway")
        yield there, other


async def fill(front: Session) -> None:
    """Send until the kernel is full, and the outbox is empty."""
    n = 1_000_000
    while front._stream is not None and front._stream.writable:
        front.send(Say(n, b"x" * 50_000))
        n += 1
        await asyncio.sleep(0)
    front.outbox.drain()


@pytest.mark.parametrize("waiting", [100, 900], ids=["within", "over"])
@pytest.mark.parametrize("token", [b"first", b"second"])
async def test_it_follows_to_another_gateway_within_the_bound(
    waiting: int, token: bytes, new_engine: NewEngine
) -> None:
    """900 messages of 500 bytes are over the bound: they are dropped and counted, and the login is told type 1."""
    async with two_gateways(new_engine) as (there, other):
        older = await there.client(7, b"first")
        older.stop_reading()
        front = there.front.sessions.get(7)
        assert front is not None
        await fill(front)
        for n in range(waiting):
            front.send(Say(n, b"x" * 500))
        async with BaseClient(7, token) as newer:
            await newer.open(str(other.endpoints[0]))
            assert (await newer.verified()).type == int(token == b"first")
            if token == b"first" and waiting * 500 < MAX_BACKLOG:
                await newer.until(lambda: numbers(newer)[-1:] == [waiting - 1])
                assert [n for n in numbers(newer) if n < waiting][-waiting:] == list(range(waiting))
            else:
                await until(lambda: front.close_code is CloseCode.REPLACED)
                assert numbers(newer) == []
                assert (there.front.stats.backlogs_dropped >= waiting) is (token == b"first")
        await older.close()


@pytest.mark.parametrize("token", [b"first", b"second"])
async def test_what_a_broken_session_left_follows_the_same_token_to_another_gateway(
    token: bytes, new_engine: NewEngine
) -> None:
    limits = msgspec.structs.replace(WIDE, heartbeat_interval=500 * MS, heartbeat_timeout=2_000 * MS)
    async with two_gateways(new_engine, limits) as (there, other):
        older = await there.client(7, b"first")
        older.stop_reading()
        front = there.front.sessions.get(7)
        assert front is not None
        await fill(front)
        for n in range(100):
            front.send(Say(n, b"x" * 500))
        await front.wait_closed()
        assert front.close_code is CloseCode.HEARTBEAT_TIMEOUT
        async with BaseClient(7, token) as newer:
            await newer.open(str(other.endpoints[0]))
            assert (await newer.verified()).type == int(token == b"first")
            await until(lambda: there.opened == [(7, False), (7, token == b"first")])
            if token == b"first":
                await newer.until(lambda: numbers(newer)[-1:] == [99])
            else:
                await until(lambda: there.front.stats.backlogs_dropped >= 100)
            newer.send(SAY, b"\0" * 6)
            await newer.until(lambda: numbers(newer)[-1:] == [0])
            moved = [n for n in numbers(newer)[:-1] if n < 1_000_000]
            assert moved == (list(range(100)) if token == b"first" else [])
        await older.close()


async def test_new_messages_come_behind_those_that_follow_though_the_queue_was_full() -> None:
    """The older session's queue was within its limit, so all of it is let in; the limit holds from then on."""
    limits = Limits(max_outbox_bytes=1 << 20, max_outbox_frames=50_000)
    async with both("one process", limits) as there:
        older = await there.client(7, b"first")
        older.stop_reading()
        front = there.front.sessions.get(7)
        assert front is not None
        n = 0
        for _ in range(40):
            for _ in range(200):
                front.send(Say(n, b"x" * 1_000), full=Full.DROP_NEWEST)
                n += 1
            await asyncio.sleep(0)
        async with BaseClient(7, b"first") as newer:
            await newer.open(there.endpoint)
            await newer.verified()
            session = there.session(7)
            await until(lambda: not session.outbox.count)
            session.send(Say(-1))
            await newer.until(lambda: numbers(newer)[-1:] == [-1])
            moved = numbers(newer)[:-1]
            assert moved == sorted(set(moved)) and len(moved) > 500
        await older.close()


async def test_a_ticketed_session_leaves_nothing_to_a_base_login_of_the_same_token() -> None:
    async with serving(resume_plain=True) as server:
        older = await ExtendedClient.logged_in(server, 7)
        newer = await RawClient.open(server)
        newer.send(verify_request(7))
        assert (await newer.frame())[2][-1] == 0 and server.session(7).returned is False
        await older.end()
        await older.close()
        await newer.close()


async def test_no_token_is_kept() -> None:
    token = token_of(7)
    async with world("one process") as there, BaseClient(7, token) as client:
        await client.open(there.endpoint)
        await client.verified()
        session = there.session(7)
        kept = [getattr(session, name) for cls in type(session).__mro__ for name in getattr(cls, "__slots__", ())]
        assert session.proof and token not in [session.proof, *kept]
        assert there.front.sessions.proofs_of(token)[0] == session.proof
        async with world("one process") as elsewhere:
            assert elsewhere.front.sessions.proofs_of(token)[0] != session.proof
