"""What the arena's robots say when they give up."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from examples.arena.ledger import Verdict
from examples.arena.players import Player, live
from gatelink import CloseCode, SessionClosed


async def _expires() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def _times_out() -> None:
    raise TimeoutError


async def _is_closed() -> None:
    raise SessionClosed(CloseCode.NORMAL, "hung up")


@pytest.mark.parametrize(
    "run, name", [(_expires, "TimeoutError"), (_times_out, "TimeoutError"), (_is_closed, "SessionClosed: ")]
)
async def test_a_robot_that_gives_up_names_its_error_and_the_place(
    run: Callable[[], Awaitable[None]], name: str
) -> None:
    async def disconnect() -> None:
        pass

    world = SimpleNamespace(verdict=Verdict())
    player: Any = SimpleNamespace(world=world, run=run, disconnect=disconnect)
    await live(cast(Player, player))
    (said,) = world.verdict.errors
    assert said.startswith(f"a robot gave up: {name}") and "(test_arena_players.py:" in said
