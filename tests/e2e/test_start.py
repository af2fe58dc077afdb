"""What an application does before the first session and after the last."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink import Catalog, CatalogError, ConfigError, Server, StaticTokens, connect

TOKEN = f"{7:032d}"


async def test_on_start_runs_before_anything_listens_and_on_stop_when_everybody_is_gone() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    seen: list[str] = []

    @server.on_start
    async def begin() -> None:
        await asyncio.sleep(0)
        seen.append(f"{len(server.endpoints)} endpoints")

    @server.on_closed
    async def closed(session: object) -> None:
        await asyncio.sleep(0)
        seen.append("closed")

    @server.on_stop
    async def end() -> None:
        await asyncio.sleep(0)
        seen.append(f"{len(server.sessions)} sessions")

    async with server:
        session = await connect(str(server.endpoints[0]), uid=7, token=TOKEN, catalog=server.catalog)
    await session.wait_closed()
    assert seen == ["0 endpoints", "closed", "0 sessions"]


async def test_a_start_that_fails_is_raised_and_stops_what_was_started() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    stopped: list[bool] = []

    @server.on_start
    async def begin() -> None:
        raise ConfigError("no database")

    @server.on_stop
    async def end() -> None:
        stopped.append(True)

    with pytest.raises(ConfigError, match="no database"):
        await server.start()
    assert stopped == [True]
    assert not server.is_running


async def test_an_on_stop_that_fails_keeps_no_other_from_running() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    stopped: list[bool] = []

    @server.on_stop
    async def fail() -> None:
        raise RuntimeError("the database is gone")

    @server.on_stop
    async def end() -> None:
        stopped.append(True)

    async with server:
        pass
    assert stopped == [True]


async def test_on_stop_runs_again_after_each_start() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    stopped: list[bool] = []

    @server.on_stop
    async def end() -> None:
        stopped.append(True)

    for _ in range(2):
        await server.start()
        await server.stop()
    assert stopped == [True, True]


async def test_an_on_stop_that_hangs_is_cancelled_when_the_grace_is_over_and_keeps_no_other_from_running() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    seen: list[str] = []

    @server.on_stop
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    @server.on_stop
    async def end() -> None:
        await asyncio.sleep(0)
        seen.append("ended")

    await server.start()
    with capture_logs() as lines:
        await server.stop(0)
    assert seen == ["cancelled", "ended"]
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["on_stop failed"]


async def test_a_stop_that_is_cancelled_in_an_on_stop_calls_none_twice() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    seen: list[str] = []
    reached = asyncio.Event()

    @server.on_stop
    async def begin() -> None:
        seen.append("first")

    @server.on_stop
    async def hang() -> None:
        seen.append("second")
        reached.set()
        await asyncio.Event().wait()

    @server.on_stop
    async def end() -> None:
        seen.append("third")

    await server.start()
    stopping = asyncio.create_task(server.stop())
    await reached.wait()
    stopping.cancel()
    await asyncio.wait([stopping])
    await server.stop(0)
    assert seen == ["first", "second", "third"]


async def test_a_text_in_place_of_the_list_of_endpoints_is_refused_with_what_to_write() -> None:
    server = Server(tokens=StaticTokens(), catalog=Catalog())
    server.listen = "tcp://127.0.0.1:0"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r'set a tuple of endpoints: \("tcp://127.0.0.1:0",\)'):
        await server.start()
    assert not server.is_running


async def test_what_needs_a_start_says_so_before_it() -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=Catalog())
    with pytest.raises(ConfigError, match="has not been started"):
        _ = server.sessions


def test_what_could_not_be_awaited_or_called_later_is_refused_at_once() -> None:
    server = Server(catalog=Catalog(), tick_hz=1)

    def plain() -> None: ...

    async def waits(seconds: float) -> None: ...

    cases: list[tuple[Any, Any, str]] = [
        (server.on_start, plain, "on_start is awaited: write it as `async def`"),
        (server.on_stop, waits, r"on_stop is called with \(\); .*waits\(seconds"),
        (server.on_tick, waits, "on_tick must be a plain function"),
        (server.on_tick, plain, r"on_tick is called with \(seconds\)"),
    ]
    for register, handler, words in cases:
        with pytest.raises(CatalogError, match=words):
            register(handler)
