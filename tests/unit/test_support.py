"""The loop that async tests run on fails those that leave something behind."""

import asyncio

import pytest
import uvloop

from tests.support import run_watched


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
