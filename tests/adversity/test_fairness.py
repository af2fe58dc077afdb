"""What one peer costs the others, and what it leaves behind: sends that leave, heavy bodies, pauses, second logins."""

import asyncio
import socket
import time

import msgspec
import pytest

from gatelink import Catalog, CloseCode, Handlers, Limits, Server, Session, StaticTokens, connect
from gatelink.session.session import HEARTBEAT_FRAME
from gatelink.session.timers import STALL
from gatelink.wire.control import Ack, Close, Features, control_frame
from gatelink.wire.frames import encode_frame
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import RawClient, leave, until, verify_request
from tests.support import MS
from tests.twins import turns_of


class Work(msgspec.Struct):
    n: int = 0


def make(limits: Limits | None = None) -> Server:
    catalog = Catalog()
    catalog.add(11_000, Work)
    return Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=catalog, limits=limits)


async def log_in(server: Server, uid: int = 7, handlers: Handlers | None = None) -> Session:
    return await connect(
        str(server.endpoints[0]), uid=uid, token=f"{uid:032d}", catalog=server.catalog, handlers=handlers
    )


async def test_a_client_that_sends_and_leaves_keeps_its_place_until_its_handlers_have_ended() -> None:
    gate = asyncio.Event()
    server = make(Limits(exempt=(), max_per_address=3))

    @server.on(Work)
    async def work(session: Session, message: Work) -> None:
        await gate.wait()

    async with server:
        for uid in range(3):
            session = await log_in(server, uid)
            for n in range(20):
                session.send(Work(n))
            await leave(session)
        await until(lambda: not server.connections)
        assert len(server.context.tasks) == 3
        with pytest.raises(ConnectionError):
            reader, writer = await asyncio.open_connection(*address(server))
            try:
                assert await reader.read() == b""  # refused, or reset
                raise ConnectionResetError
            finally:
                writer.close()
        assert server.stats.refused["address-full"] == 1
        gate.set()
        await until(lambda: not server.context.tasks)
        again = await log_in(server)
        await leave(again)


@pytest.mark.parametrize("how", ["says that it goes away", "says no more"])
async def test_so_does_a_client_that_says_that_it_goes_or_says_no_more(how: str) -> None:
    gate = asyncio.Event()
    server = make(Limits(exempt=(), max_per_address=1, heartbeat_interval=100 * MS, heartbeat_timeout=1_500 * MS))

    @server.on(Work)
    async def work(session: Session, message: Work) -> None:
        await gate.wait()

    async with server:
        client = await ExtendedClient.logged_in(server, 7, features=Features.PING)
        session = server.sessions.get(7)
        assert session is not None
        kind, body = server.catalog.encode(Work())
        client.send(encode_frame(kind.id, body))
        await until(lambda: server.context.tasks)
        if how == "says that it goes away":
            client.say(Close(CloseCode.GOING_AWAY))
        await until(lambda: not server.connections)
        assert session.close_code is not None and server.context.tasks
        other = await RawClient.open(server)
        assert await other.rest() == []
        assert server.stats.refused["address-full"] == 1
        gate.set()
        await until(lambda: not server.context.tasks)
        again = await RawClient.verified(server, 7)
        for each in (client, other, again):
            await each.close()


def address(server: Server) -> tuple[str, int]:
    return server.endpoints[0].host, server.endpoints[0].port


@pytest.mark.parametrize("between", [b"", control_frame(Ack(0))], ids=["alone", "among acknowledgements"])
async def test_a_burst_that_takes_long_is_handled_in_turns_with_the_others_and_in_order(between: bytes) -> None:
    server = make()
    seen: list[tuple[int, int]] = []
    both = asyncio.Event()

    @server.on(Work)
    def work(session: Session, message: Work) -> None:
        if session.uid == 1:
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
        seen.append((session.uid, message.n))
        if len(seen) == 101:
            both.set()

    async with server:
        heavy, light = await ExtendedClient.logged_in(server, 1), await log_in(server, 2)
        with turns_of(0.005):
            heavy.send(*(encode_frame(11_000, server.catalog.encode(Work(n))[1]) + between for n in range(100)))
            light.send(Work(0))
            await both.wait()
        assert seen.index((2, 0)) < 90, "the light one waited for all of the heavy one's"
        assert [n for uid, n in seen if uid == 1] == list(range(100))
        await leave(light)
        await heavy.close()


@pytest.mark.parametrize("slow", [False, True], ids=["plain", "async"])
async def test_the_end_of_a_replaced_login_is_told_before_the_begin_of_the_newer_one(slow: bool) -> None:
    server = make()
    told: list[str] = []

    @server.on_verified
    def verified(session: Session) -> None:
        told.append(f"verified {session.epoch}")

    @server.on_closed
    async def closed(session: Session) -> None:
        if slow:
            await asyncio.sleep(0.05)
        told.append(f"closed {session.epoch}")

    async with server:
        first = await log_in(server)
        older = server.sessions.get(7)
        assert older is not None
        second = await log_in(server)
        newer = server.sessions.get(7)
        assert newer is not None and newer is not older
        await until(lambda: len(told) == 3)
        assert told == [f"verified {older.epoch}", f"closed {older.epoch}", f"verified {newer.epoch}"]
        await first.wait_closed()
        await leave(second)


async def test_a_pause_of_the_process_ends_nobody_whose_heartbeats_are_waiting() -> None:
    server = make(Limits(heartbeat_interval=0.2, heartbeat_timeout=STALL + 0.3))
    peer = socket.socket()

    @server.on(Work)
    def work(session: Session, message: Work) -> None:
        peer.sendall(HEARTBEAT_FRAME)  # it beats, and the server is held up before it reads that
        time.sleep(STALL + 0.6)  # block the loop on purpose: so the process looks as if it had been paused

    async with server:
        with peer:
            peer.connect(address(server))
            peer.sendall(verify_request(7))
            await until(lambda: server.sessions.get(7))
            session = server.sessions.get(7)
            assert session is not None
            heard = session.last_heard
            other = await log_in(server, 8)
            other.send(Work())
            await until(lambda: session.last_heard > heard or session.close_code is not None)
            assert session.close_code is None
            await leave(other)
