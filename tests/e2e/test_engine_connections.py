"""A NatsEngine that is closed, or whose start failed, leaves no socket and no task, whatever it was at."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from gatelink.cluster.engines import nats
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.engines.nats_client import NatsConnection, place_of
from tests.e2e.engines import TIMEOUT, fresh_bucket, path_to, within
from tests.e2e.support import open_sockets, until
from tests.support import MS, run_watched


async def until_free(before: set[str]) -> None:
    """Until no socket is open that was not `before`, and no task runs but this one."""
    await until(lambda: open_sockets() <= before, "all sockets are closed")
    await until(lambda: len(asyncio.all_tasks()) == 1, "all tasks have ended")


async def several(turns: int) -> None:
    """Turns of the loop. Now and then one leaves the server time to answer."""
    for turn in range(turns):
        await asyncio.sleep(MS if turn % 5 == 4 else 0)


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("times", [1, 2])
def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(
    nats_server: NatsServer, new_loop: Callable[[], asyncio.AbstractEventLoop], times: int
) -> None:
    """The second cancellation meets the wait for what the first one cancelled."""

    async def test() -> None:
        bucket = fresh_bucket()
        async with NatsEngine(nats_server.url, bucket=bucket):
            pass  # the bucket is there
        before = open_sockets()
        cut_short = 0
        for turns in range(150):
            engine = NatsEngine(nats_server.url, bucket=bucket)
            starting = asyncio.create_task(engine.start())
            await several(turns)
            is_started = starting.done()
            for _ in range(times):
                starting.cancel()
                await asyncio.sleep(0)
            await asyncio.wait({starting})
            if starting.cancelled():
                cut_short += 1
            else:  # the cancellation came too late
                await engine.close()
            await until_free(before)
            if is_started:
                break
        assert cut_short >= 5  # each exchange with the server takes a turn or more: connect, INFO, PONG, bucket, mark

    run_watched(test(), new_loop)


async def test_a_close_that_is_cancelled_at_any_moment_leaves_nothing(nats_server: NatsServer) -> None:
    bucket = fresh_bucket()
    before = open_sockets()
    for turns in range(60):
        engine = NatsEngine(nats_server.url, bucket=bucket)
        await engine.start()
        closing = asyncio.create_task(engine.close())
        await several(turns)
        is_closed = closing.done()
        closing.cancel()
        await asyncio.wait({closing})
        await engine.close()
        await until_free(before)
        if is_closed:
            break
    assert turns >= 3


async def test_a_close_during_a_move_leaves_nothing(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both paths lead to the same server. The connection before is kept for OVERLAP, which is long here."""
    monkeypatch.setattr(nats, "HOME_INTERVAL", 0.01)
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.01)
    monkeypatch.setattr(nats, "OVERLAP", 60.0)
    async with path_to(nats_server) as one, path_to(nats_server) as other:
        before = open_sockets()
        urls = [within(nats_server.url, path) for path in (one, other)]
        engine = NatsEngine(urls, bucket=fresh_bucket(), timeout=TIMEOUT)
        await engine.start()
        assert engine._connection is not None
        engine._home = next(url for url in urls if place_of(url) != engine._connection.where)
        await until(lambda: engine._connection is not None and engine._connection.where == place_of(engine._home))
        await engine.close()
        await until_free(before)
        assert one.connections >= 1 and other.connections >= 1


async def test_a_move_that_fails_unexpectedly_leaves_nothing(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task begins again with the one connection that it had."""
    monkeypatch.setattr(nats, "HOME_INTERVAL", 0.01)
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.01)
    failed: list[NatsConnection] = []

    async def fail(engine: NatsEngine, before: NatsConnection, connection: NatsConnection) -> None:
        failed.append(connection)
        raise LookupError("unexpected")

    monkeypatch.setattr(NatsEngine, "_move", fail)
    async with path_to(nats_server) as one, path_to(nats_server) as other:
        urls = [within(nats_server.url, path) for path in (one, other)]
        async with NatsEngine(urls, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
            assert engine._connection is not None
            engine._home = next(url for url in urls if place_of(url) != engine._connection.where)
            await until(lambda: len(failed) >= 2)
            assert failed[0].lost == "closed"
            assert engine.is_available and engine._unclosed <= {engine._connection, *failed[1:]}
