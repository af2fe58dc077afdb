"""The loop that async tests run on fails those that leave something behind."""

import asyncio
import gc
import socket
import struct
import time

import pytest
import uvloop

from tests.support import MS, run_watched


async def test_an_async_test_runs_on_uvloop_and_gets_its_fixtures(tmp_path: object) -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    assert tmp_path is not None


def test_what_the_test_raises_is_raised() -> None:
    async def fails() -> None:
        raise LookupError("seen")

    with pytest.raises(LookupError, match="seen"):
        run_watched(fails())


def test_an_exception_in_a_callback_fails_the_test() -> None:
    async def breaks() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(done.set_result, None)
        await done

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_watched(breaks())


def test_a_task_whose_exception_nobody_took_fails_the_test() -> None:
    async def fails() -> None:
        raise LookupError("never taken")

    async def forgets() -> None:
        await asyncio.wait([asyncio.create_task(fails())], timeout=5)

    with pytest.raises(AssertionError, match="never taken"):
        run_watched(forgets())


def test_a_task_left_running_fails_the_test() -> None:
    async def endless() -> None:
        await asyncio.get_running_loop().create_future()

    async def leaks() -> None:
        kept.append(asyncio.create_task(endless(), name="leaked"))

    kept: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match="1 tasks are left running.*leaked"):
        run_watched(leaks())


async def test_a_task_that_is_ending_is_not_left_running() -> None:
    async def brief() -> None:
        await asyncio.sleep(0)

    asyncio.get_running_loop().create_task(brief())


async def test_a_task_that_is_ending_is_not_left_running_though_the_process_stands_still_meanwhile() -> None:
    async def brief() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - as on a busy machine
        for _ in range(10):
            await asyncio.sleep(MS)

    asyncio.get_running_loop().create_task(brief())


async def test_a_reset_that_the_test_caught_is_no_failure_whatever_the_collector_finalizes_first() -> None:
    loop = asyncio.get_running_loop()

    class OlderThanItsFuture(asyncio.StreamReaderProtocol):
        def __init__(self, reader: asyncio.StreamReader) -> None:
            super().__init__(reader)
            gc.collect(0)  # the protocol goes to an older generation: its future is finalized first
            self._closed = loop.create_future()

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    reader = asyncio.StreamReader()
    gc.disable()
    try:
        transport, protocol = await loop.create_connection(
            lambda: OlderThanItsFuture(reader), *server.sockets[0].getsockname()
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    finally:
        gc.enable()
    server.close()
