"""Tasks that nobody awaits: a loop lives through any error, work is kept until it is done, and no error is silent."""

import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from gatelink import tasks
from tests.e2e.support import until


@pytest.fixture(autouse=True)
def gather_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.0)


@pytest.mark.parametrize("error", [ValueError("odd"), asyncio.CancelledError(), SystemExit(2), RecursionError()])
async def test_a_loop_begins_again_after_any_error(error: BaseException) -> None:
    begun = 0
    second = asyncio.Event()

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise error
        second.set()
        await asyncio.Event().wait()

    before = tasks.failures["loop"]
    with capture_logs() as lines:
        task = tasks.live(loop, "loop")
        await second.wait()
    assert tasks.failures["loop"] == before + 1
    assert all(line["task"] == "loop" for line in lines)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_is_cancelled_ends_even_between_two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 1_000.0)
    failed = asyncio.Event()

    async def loop() -> None:
        failed.set()
        raise ValueError("odd")

    task = tasks.live(loop, "loop")
    await failed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_returns_is_over() -> None:
    async def loop() -> None: ...

    await tasks.live(loop, "loop")


async def test_the_pauses_grow_to_a_longest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 1.0)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", record)
    enough = 8

    async def loop() -> None:
        if len(pauses) < enough:
            raise ValueError("odd")

    await tasks.live(loop, "loop")
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]


async def test_work_is_referenced_until_it_is_done() -> None:
    done: list[int] = []
    step = asyncio.Event()

    async def work() -> None:
        own = asyncio.get_running_loop().create_future()  # nobody else has it: the task and it are a cycle
        asyncio.get_running_loop().call_soon(step.set)
        asyncio.get_running_loop().call_later(0, own.set_result, None)
        await own
        done.append(1)

    tasks.keep(work(), "work")
    await step.wait()
    gc.collect()
    await until(lambda: bool(done))


async def test_an_error_that_ends_kept_work_is_logged_and_counted() -> None:
    async def work() -> None:
        raise ValueError("odd")

    before = tasks.failures["work"]
    with capture_logs() as lines:
        await asyncio.wait([tasks.keep(work(), "work")])
        await asyncio.sleep(0)
    assert tasks.failures["work"] == before + 1
    assert [(line["event"], line["task"]) for line in lines] == [("a task failed", "work")]
