"""How a server stops: what was queued arrives, handlers end, nothing is left; and how a signal does it."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatelink import CloseCode, ConfigError, Limits, Listen, Session
from gatelink.config import LOOPBACK
from gatelink.net.endpoints import Endpoint
from tests.e2e.support import (
    TCP,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    make_certificate,
    open_sockets,
    until,
    verify_request,
)
from tests.processes import Process, ended, python
from tests.support import MS


async def test_stop_delivers_what_is_queued_and_closes_every_session_with_4011() -> None:
    server = EchoServer(limits=Limits(write_high_water=4_096))
    await server.start()
    clients = [await RawClient.verified(server, uid) for uid in range(1, 21)]
    for n in range(100):
        server.sessions.broadcast(Echo(n, "x" * 1_000))
    stopping = asyncio.create_task(server.stop())
    for client in clients:
        assert [id for id, _, _ in await client.rest()] == [11_001] * 100
        await client.close()
    await stopping
    assert sorted(server.ended) == [(uid, CloseCode.GOING_AWAY) for uid in range(1, 21)]
    assert not server.is_running and server.endpoints == []


async def test_a_running_handler_ends_within_the_grace_and_its_answer_arrives() -> None:
    server = EchoServer()
    gate = asyncio.Event()

    @server.instead(Note)
    async def wait(session: Session, message: Note) -> None:
        await gate.wait()
        session.send(Echo(message.n))

    await server.start()
    client = await RawClient.verified(server, 7)
    client.send(frame_of(Note(1)), frame_of(Note(2)))
    await until(lambda: server.context.tasks)
    stopping = asyncio.create_task(server.stop(grace=10.0))
    await until(lambda: not server.is_running)
    gate.set()
    assert [await client.message(), await client.message()] == [Echo(1), Echo(2)]
    assert await client.rest() == []
    await client.close()
    await stopping


async def test_a_handler_that_takes_longer_than_the_grace_is_cancelled() -> None:
    server = EchoServer()
    cancelled = asyncio.Event()

    @server.instead(Note)
    async def wait(session: Session, message: Note) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await server.start()
    client = await RawClient.verified(server, 7)
    client.send(frame_of(Note(1)))
    await until(lambda: server.context.tasks)
    await server.stop(grace=50 * MS)
    assert cancelled.is_set() and server.ended == [(7, CloseCode.GOING_AWAY)]
    await client.close()


async def test_a_handler_may_stop_the_server() -> None:
    server = EchoServer()

    @server.instead(Note)
    async def shut_down(session: Session, message: Note) -> None:
        await server.stop(100 * MS)
        server.notes.append((session.uid, message.n))

    await server.start()
    client = await RawClient.verified(server, 7)
    client.send(frame_of(Note(1)))
    await client.rest()
    await client.close()
    await until(lambda: server.notes == [(7, 1)])
    assert not server.is_running and server.ended == [(7, CloseCode.GOING_AWAY)]
    await server.start()
    await server.stop()


async def test_nobody_gets_in_while_it_stops() -> None:
    server = EchoServer()
    await server.start()
    endpoint = server.endpoint
    client = await RawClient.verified(server, 7)  # doesn't close, so that stopping takes its time
    stopping = asyncio.create_task(server.stop(500 * MS))
    await until(lambda: not server.is_running)
    with pytest.raises(OSError):
        await RawClient.verified(endpoint, 8)
    await stopping
    await client.close()
    assert server.stats.verified == 1


async def test_messages_after_the_stop_began_are_not_handled() -> None:
    server = EchoServer()
    await server.start()
    client = await RawClient.verified(server, 7)
    await client.echo(1)
    stopping = asyncio.create_task(server.stop(200 * MS))
    await until(lambda: not server.is_running)
    client.send(frame_of(Note(1)))
    assert await client.rest() == []
    await client.close()
    await stopping
    assert server.notes == []


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "proxied"])
async def test_nothing_is_left_whatever_state_its_connections_were_in(scheme: str, tmp_path: Path) -> None:
    class Never:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> object:
            if uid == 1:
                await asyncio.Event().wait()
            from gatelink import Identity

            return Identity(uid)

    context = None
    listen: str | Listen = TCP
    if scheme == "unix":
        listen = f"unix://{tmp_path}/gate.sock"
    elif scheme == "tls":
        certificate, key, context = make_certificate(tmp_path)
        listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    elif scheme == "proxied":
        listen = Listen(endpoint=TCP, proxies=LOOPBACK)
    header = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" if scheme == "proxied" else b""

    async with asyncio.timeout(30):
        before = open_sockets()
        tasks = asyncio.all_tasks()
        server = EchoServer(listen, tokens=Never(), limits=Limits(write_high_water=4_096))
        for _ in range(2):
            await server.start()
            endpoint = server.endpoint
            clients = []
            if scheme != "unix":  # neither header nor handshake
                clients.append(await RawClient.open(Endpoint("tcp", endpoint.host, endpoint.port)))
            silent = await RawClient.open(endpoint, context)
            silent.send(header)
            checked = await RawClient.open(endpoint, context)  # its token is being checked
            checked.send(header, verify_request(1))
            idle = await RawClient.open(endpoint, context)
            idle.send(header, verify_request(2))
            await idle.frame()
            stuck = await RawClient.open(endpoint, context)  # doesn't read
            stuck.send(header, verify_request(3))
            await stuck.frame()
            for _ in range(500):
                server.session(3).send(Echo(0, "x" * 1_000))
            half = await RawClient.open(endpoint, context)
            half.send(header, verify_request(4), frame_of(Echo(1))[:7])
            await half.frame()
            await until(lambda: server.logins)
            clients += [silent, checked, idle, stuck, half]
            await server.stop(100 * MS)
            assert asyncio.all_tasks() == tasks
            assert len(server.context.wheel) == 0 and not server.logins and len(server.logins) == 0
            assert len(server.sessions) == 0
            for client in clients:
                await client.rest()
                await client.close()
            await until(lambda: open_sockets() == before, f"{before}")


async def test_stop_twice_at_once_and_again_is_one_stop() -> None:
    server = EchoServer()
    await server.stop()  # it does not run
    await server.start()
    client = await RawClient.verified(server, 7)
    await asyncio.gather(server.stop(200 * MS), server.stop(200 * MS), server.stop(0))
    await server.stop()
    assert server.ended == [(7, CloseCode.GOING_AWAY)]
    await client.close()


async def test_a_stop_that_was_cancelled_can_be_finished() -> None:
    server = EchoServer()
    await server.start()
    client = await RawClient.verified(server, 7)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50 * MS):
            await server.stop(60.0)
    await server.stop(0)
    await client.close()
    await server.start()
    client = await RawClient.verified(server, 7)
    await client.close()
    await server.stop()


async def test_it_starts_again_on_the_same_port_with_nobody_in_it() -> None:
    server = EchoServer()
    await server.start()
    server.listen = (str(server.endpoint),)
    for _ in range(5):
        client = await RawClient.verified(server, 7)
        await client.echo(1)
        await server.stop(0)
        await server.start()
        assert len(server.sessions) == 0
        await client.rest()
        await client.close()
    await server.stop()


async def test_a_running_server_is_not_started_twice() -> None:
    async with EchoServer() as server:
        with pytest.raises(ConfigError, match="running already"):
            await server.start()
        with pytest.raises(ConfigError, match="running already"):
            await server.serve()
        client = await RawClient.verified(server, 7)
        await client.close()


async def test_serve_stops_when_it_is_cancelled() -> None:
    server = EchoServer()
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.endpoints)
    client = await RawClient.verified(server, 7)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_running and server.ended == [(7, CloseCode.GOING_AWAY)]
    await client.close()


async def test_a_served_process_does_not_look_for_garbage_in_what_it_imported() -> None:
    server = EchoServer()
    gc.unfreeze()
    serving = asyncio.create_task(server.serve())
    await until(gc.get_freeze_count)
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())
    serving.cancel()
    await asyncio.wait([serving])


PROGRAM = """
import asyncio
from gatelink import Limits, Server, StaticTokens
from tests.e2e.support import CATALOG, Note

server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=CATALOG, limits=Limits(close_timeout=600))

@server.on(Note)
async def hang(session, message):
    session.send(message)
    await asyncio.Event().wait()

@server.on_verified
def verified(session):
    print("verified", flush=True)

start = server.start
async def started():
    await start()
    print(server.endpoints[0].port, flush=True)
server.start = started
server.run()
"""


@contextlib.asynccontextmanager
async def program() -> AsyncIterator[tuple[Process, Endpoint]]:
    """It runs in a process, and listens there."""
    async with python("-c", PROGRAM) as process:
        assert process.stdout is not None
        while not (line := await process.stdout.readline()).strip().isdigit():
            assert line, "the program ended"
        yield process, Endpoint("tcp", "127.0.0.1", int(line))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_a_process_which_exits_0_and_closes_its_clients(number: signal.Signals) -> None:
    async with program() as (process, endpoint):
        client = await RawClient.verified(endpoint, 7)
        process.send_signal(number)
        assert await client.rest() == []
        await client.close()
        assert (await ended(process))[0] == 0


async def test_a_second_signal_waits_for_no_handler() -> None:
    async with program() as (process, endpoint):
        hung = [await RawClient.verified(endpoint, uid) for uid in (1, 2)]
        for client in hung:
            client.send(frame_of(Note(1)))
            assert await client.message() == Note(1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(OSError):
            while True:
                _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
                writer.close()
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 0
        for client in hung:
            await client.rest()
            await client.close()


HANGING = """
import asyncio, sys
from gatelink import Limits, Server, StaticTokens

server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), limits=Limits(close_timeout=600))

@server.on_start
async def begin():
    if sys.argv[1] == "on_start":
        print("hangs", flush=True)
        await asyncio.Event().wait()
    asyncio.get_running_loop().call_later(0, lambda: print("starts", flush=True))

@server.on_stop
async def note():
    print("on_stop", flush=True)

@server.on_stop
async def end():
    if sys.argv[1] == "on_stop":
        print("hangs", flush=True)
        await asyncio.Event().wait()

server.run()
"""


@pytest.mark.parametrize("where", ["on_start", "on_stop"])
async def test_signals_stop_a_process_whose_hook_hangs_and_its_on_stop_runs_once(where: str) -> None:
    async with python("-c", HANGING, where) as process:
        assert process.stdout is not None
        said: list[bytes] = []
        while not said or said[-1] != b"hangs\n":
            said.append(await process.stdout.readline())
            assert said[-1], "the program ended"
            if said == [b"starts\n"]:
                process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # the first one, if the start hangs
        status, rest, _ = await ended(process)
    assert status == 0
    assert (b"".join(said).decode() + rest).count("on_stop\n") == 1


async def test_a_token_check_that_cleans_up_ends_before_on_stop() -> None:
    asked = asyncio.Event()
    seen: list[str] = []

    class Slow:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> object:
            try:
                asked.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(50 * MS)
                seen.append("checked")
            raise AssertionError

    server = EchoServer(tokens=Slow())

    @server.on_stop
    async def end() -> None:
        seen.append("on_stop")

    await server.start()
    client = await RawClient.open(server)
    client.send(verify_request(7))
    await asked.wait()
    await server.stop()
    assert seen == ["checked", "on_stop"]
    await client.close()


async def test_a_handler_that_goes_on_when_cancelled_is_reported_once_and_cannot_hold_the_stop() -> None:
    server = EchoServer()
    gate = asyncio.Event()
    reports: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    @server.instead(Note)
    async def stubborn(session: Session, message: Note) -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    await server.start()
    client = await RawClient.verified(server, 7)
    client.send(frame_of(Note(1)))
    await until(lambda: server.context.tasks)
    (task,) = server.context.tasks
    await server.stop(50 * MS)
    assert len(reports) == 1 and "does not end" in reports[0]
    gate.set()
    await asyncio.wait([task])
    await client.close()


@pytest.mark.parametrize("while_it_starts", [False, True])
async def test_serve_returns_when_the_program_itself_stops_its_server(while_it_starts: bool) -> None:
    server = EchoServer(TCP, TCP)
    starts = asyncio.Event()

    @server.on_start
    async def starting() -> None:
        starts.set()
        await asyncio.sleep(0)

    serving = asyncio.create_task(server.serve())
    await starts.wait()
    if not while_it_starts:
        await until(lambda: len(server.endpoints) == 2)
    await server.stop()
    await serving
    assert not server.is_running and not server.endpoints and not server.connections
