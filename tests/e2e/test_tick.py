"""Tick mode over real sockets: messages wait for the tick, keep their order, and nobody's async handler holds it up."""

import asyncio
import time
from collections.abc import Callable
from math import inf, nan

import pytest

from gatelink import CatalogError, CloseCode, ConfigError, Limits, Server, Service, Session
from tests.e2e.support import Echo, EchoServer, Note, RawClient, closing, frame_of, until, verify_request
from tests.support import MS


async def test_messages_are_handled_in_the_tick_and_then_on_tick_is_called() -> None:
    server = EchoServer(tick_hz=50)
    seen: list[str] = []
    server.on_tick(lambda seconds: seen.append("tick"))
    server.instead(Note)(lambda session, message: seen.append(f"note {message.n}"))
    async with server:
        client = await RawClient.open(server)
        client.send(verify_request(7), *(frame_of(Note(n)) for n in range(3)))
        await client.frame()
        await client.echo(1)
        await client.close()
    at = seen.index("note 0")
    assert seen[at : at + 4] == ["note 0", "note 1", "note 2", "tick"]


async def test_messages_of_many_ticks_stay_in_order() -> None:
    async with EchoServer(tick_hz=200) as server, closing(RawClient.verified(server, 7)) as client:
        for n in range(100):
            client.send(frame_of(Note(n)), frame_of(Note(n + 1_000)))
            await asyncio.sleep(MS)
        await client.echo(1)
        assert server.notes == [(7, n + more) for n in range(100) for more in (0, 1_000)]
        assert 1 < server.stats.ticks


async def test_on_tick_hears_the_time_that_has_passed() -> None:
    server = EchoServer(tick_hz=100)
    passed: list[float] = []
    server.on_tick(passed.append)
    start = time.perf_counter()
    async with server:
        await until(lambda: len(passed) >= 10)
    assert all(seconds > 0 for seconds in passed)
    assert sum(passed) <= time.perf_counter() - start


async def test_a_tick_that_fails_or_takes_too_long_is_counted_and_the_next_one_comes() -> None:
    server = EchoServer(tick_hz=100)

    @server.on_tick
    def tick(seconds: float) -> None:
        if server.stats.ticks == 1:
            time.sleep(0.05)
        if server.stats.ticks == 2:
            raise RuntimeError("on purpose")

    async with server:
        client = await RawClient.verified(server, 7)
        await until(lambda: server.stats.ticks > 5)
        assert server.stats.tick_overruns >= 1 and server.stats.handler_errors == {"tick": 1}
        await client.echo(1)
        await client.close()


async def test_an_async_handler_holds_up_its_own_session_alone() -> None:
    server = EchoServer(tick_hz=100)
    gate = asyncio.Event()

    @server.instead(Note)
    async def wait(session: Session, message: Note) -> None:
        await gate.wait()
        server.notes.append((session.uid, message.n))

    async with server:
        held, free = await RawClient.verified(server, 1), await RawClient.verified(server, 2)
        held.send(frame_of(Note(1)), frame_of(Echo(2)), frame_of(Note(3)))
        await until(lambda: server.context.tasks)
        for n in range(3):
            await free.echo(n)
        assert server.notes == []
        gate.set()
        assert await held.message() == Echo(2)
        await until(lambda: server.notes == [(1, 1), (1, 3)])
        await held.close()
        await free.close()


async def test_a_flood_between_two_ticks_is_held_back_and_none_of_it_is_lost() -> None:
    async with EchoServer(tick_hz=20, limits=Limits(max_inbox=64)) as server:
        client = await RawClient.verified(server, 7)
        client.send(*(frame_of(Note(n)) for n in range(1_000)))
        most = 0
        while len(server.notes) < 1_000:
            session = server.session(7)
            most = max(most, len(session.inbox.items) if session.inbox else 0)
            await asyncio.sleep(MS)
        assert [n for _, n in server.notes] == list(range(1_000))
        assert server.stats.paused and most < 64 + 2 * server.limits.turn_frames
        await client.close()


async def test_what_came_before_the_end_of_the_stream_is_handled_then_closed_is_told() -> None:
    async with EchoServer(tick_hz=20) as server:
        client = await RawClient.verified(server, 7)
        client.send(frame_of(Note(1)), frame_of(Note(2)))
        await client.close()
        await until(lambda: server.ended)
        assert server.notes == [(7, 1), (7, 2)] and server.ended == [(7, CloseCode.NORMAL)]


async def test_what_had_arrived_is_handled_before_the_server_stops() -> None:
    async with EchoServer(tick_hz=1) as server:
        client = await RawClient.verified(server, 7)
        client.send(frame_of(Echo(1)))
        await until(lambda: server.session(7).inbox)
        stopping = asyncio.create_task(server.stop())
        assert await client.message() == Echo(1)
        assert await client.rest() == []
        await client.close()
        await stopping
        assert server.ended == [(7, CloseCode.GOING_AWAY)]


@pytest.mark.parametrize("make", [Server, lambda **options: Service("race", type=21, **options)])
def test_an_on_tick_that_would_never_be_called_is_refused(make: Callable[..., Server]) -> None:
    with pytest.raises(ConfigError, match="on_tick without ticks: give (Server|Service) tick_hz"):
        make().on_tick(lambda seconds: None)
    server = make(tick_hz=20)
    server.on_tick(lambda seconds: None)
    with pytest.raises(CatalogError, match="on_tick has a handler already"):
        server.on_tick(lambda seconds: None)


@pytest.mark.parametrize("tick_hz", [-1, inf, nan])
def test_a_number_of_ticks_that_is_none_is_refused(tick_hz: float) -> None:
    with pytest.raises(ConfigError, match="tick_hz is .*; give ticks a second"):
        Server(tick_hz=tick_hz)
