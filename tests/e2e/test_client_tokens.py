"""A function that gives a fresh token for each login of a client."""

import asyncio
import time
from typing import Any

import pytest

from gatelink import (
    ConnectError,
    GatelinkError,
    MemoryTokens,
    ServerKey,
)
from tests.e2e.dialling import SOON, Seen, dial
from tests.e2e.support import (
    leave,
    serving,
    token_of,
    until,
)
from tests.support import MS


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_token_can_be_a_function_that_gives_a_fresh_one_for_each_login(is_async: bool) -> None:
    seen, tokens, asked = Seen(), MemoryTokens(single_use=True), 0

    def give() -> str:
        nonlocal asked
        asked += 1
        return tokens.issue(7)

    async def give_later() -> str:
        await asyncio.sleep(0)
        return give()

    async with serving(tokens=tokens) as server:
        session = await dial(server.endpoint, seen, token=give_later if is_async else give, reconnect=SOON)
        for round in range(1, 4):
            server.session(7).abort()
            await until(lambda round=round: seen.events[1:] == ["suspended", "resumed"] * round)  # type: ignore[misc]
        assert asked == 4
        await leave(session)


async def test_a_resume_asks_for_no_token() -> None:
    seen, asked = Seen(), 0

    def give() -> str:
        nonlocal asked
        asked += 1
        return token_of(7).decode()

    key = ServerKey.generate()
    async with serving(keys=[key]) as server:
        session = await dial(server.endpoint, seen, token=give, reconnect=SOON, resume=True, server_key=key.public)
        next(iter(server._admission.connections)).transport.abort()
        await until(lambda: seen.events == ["verified", "suspended", "resumed"])
        assert asked == 1
        await leave(session)


class Refused(GatelinkError): ...


@pytest.mark.parametrize(
    "raised, words",
    [
        (Refused("the login said 403"), "Refused: the login said 403"),
        (ValueError("hunter2"), "ValueError"),
        (SystemExit(1), "SystemExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_a_token_function_that_fails_is_a_failed_attempt(raised: BaseException, words: str) -> None:
    seen, fails, asked = Seen(), True, 0

    def give() -> str:
        nonlocal asked
        asked += 1
        if fails:
            raise raised
        return token_of(7).decode()

    async with serving() as server:
        with pytest.raises(ConnectError, match=f"no token.*{words}") as caught:
            await dial(server.endpoint, token=give)
        assert "hunter2" not in str(caught.value) and caught.value.__cause__ is raised
        assert server.stats.accepted == 0, "nothing was dialled"
        fails = False
        session = await dial(server.endpoint, seen, token=give, reconnect=SOON)
        fails, asked = True, 0
        server.session(7).abort()
        await until(lambda: asked >= 3)
        fails = False
        await until(lambda: seen.events == ["verified", "suspended", "resumed"])
        await leave(session)


@pytest.mark.parametrize("given", [None, b"secret", 7, "secret" * 20_000])
async def test_a_token_function_that_gives_no_token_is_a_failed_attempt_that_shows_nothing_of_it(given: Any) -> None:
    with pytest.raises(ConnectError, match="must give a str") as caught:
        await dial("tcp://127.0.0.1:1", token=lambda: given)
    assert "secret" not in str(caught.value)


async def test_a_token_function_has_the_time_of_the_dial_and_can_be_cancelled() -> None:
    ended = asyncio.Event()

    async def never() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    with pytest.raises(ConnectError, match="not verified within"):
        await dial("tcp://127.0.0.1:1", token=never, timeout=20 * MS)
    assert ended.is_set()
    dialling = asyncio.create_task(dial("tcp://127.0.0.1:1", token=never))
    await asyncio.sleep(0)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling


async def test_the_end_of_its_token_is_on_the_session() -> None:
    tokens = MemoryTokens(lifetime=3_600)
    issued = time.time()
    async with serving(tokens=tokens) as server:
        session = await dial(server.endpoint, token=lambda: tokens.issue(7))
        expires_at = server.session(7).expires_at
        assert expires_at is not None and issued + 3_600 <= expires_at <= time.time() + 3_600
        assert session.expires_at is None
        await leave(session)
    async with serving() as server:
        session = await dial(server.endpoint)
        assert server.session(7).expires_at is None
        await leave(session)
