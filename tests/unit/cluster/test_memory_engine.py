"""What the engine in memory does where a loop that stands still makes a difference."""

import asyncio

import pytest

from gatelink.cluster.engines.memory import MemoryEngine


async def test_an_answer_that_came_in_time_is_given_though_the_loop_stood_still_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts: list[asyncio.Timeout] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        timeouts.append(asyncio.Timeout(asyncio.get_running_loop().time() + seconds))
        return timeouts[-1]

    async def answer(data: bytes) -> bytes:
        timeouts[0].reschedule(asyncio.get_running_loop().time())  # it strikes before `request` can go on
        return b"answer"

    async with MemoryEngine() as engine:
        serving = await engine.serve("subject", answer)
        monkeypatch.setattr(asyncio, "timeout", timeout)
        assert await engine.request("subject", b"", 10) == b"answer"
        await serving.close()
