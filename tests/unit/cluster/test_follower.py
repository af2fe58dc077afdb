"""What a watch leaves at its connection (on a real NATS: tests/e2e/test_engine.py)."""

import asyncio
from types import SimpleNamespace
from typing import Any

from gatelink import tasks
from gatelink.cluster.engine import EngineStats
from gatelink.cluster.engines.bucket import KeyValueBucket
from gatelink.cluster.engines.follower import Follower
from gatelink.logger import Logger, RateLimitedLogger


async def test_a_watch_that_is_cancelled_while_it_subscribes_leaves_nothing_at_its_connection() -> None:
    subscribing = asyncio.Event()

    async def listen(subject: str, receive: Any) -> None:
        subscribing.set()
        await asyncio.Event().wait()

    connection: Any = SimpleNamespace(when_lost=set(), new_inbox=lambda: "inbox", listen=listen)

    async def connected() -> Any:
        return connection

    follower = Follower(KeyValueBucket("test", 1), "players.7", EngineStats(), RateLimitedLogger(Logger("test")))
    watching = asyncio.create_task(follower.run(connected))
    await subscribing.wait()
    await tasks.cancel_and_wait(watching)
    assert not connection.when_lost
