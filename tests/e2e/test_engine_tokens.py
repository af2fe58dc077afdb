"""Tokens that are entries of the engine: what they promise besides, and how a server lets in with them."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gatelink.auth.engine_tokens import MAX_CLAIMS, MAX_TOKENS, EngineTokens
from gatelink.cluster.engine import Conflict, EngineUnavailable
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import ConfigError
from tests.e2e.engines import NewEngine
from tests.e2e.support import RawClient, closing, serving, until, verify_request
from tests.e2e.tokens import Clock, is_refused, opened, refusal, round_trips, verify


class TestEngineTokens:
    async def test_a_check_is_one_round_trip_and_a_first_use_two(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        async with engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            counts = []
            for _ in range(3):
                before = round_trips(engine)
                await verify(tokens, token)
                counts.append(round_trips(engine) - before)
            before = round_trips(engine)
            await refusal(tokens, token, 8)
            await refusal(tokens, b"unknown")
            assert (counts, round_trips(engine) - before) == ([2, 1, 1], 2)

    async def test_of_servers_that_race_for_a_single_use_token_exactly_one_wins(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(new_engine()) for _ in range(4)]
            servers = [EngineTokens(engine, single_use=True) for engine in engines]
            for _ in range(10):
                token = await servers[0].issue(7)
                results = await asyncio.gather(*(is_refused(server, token) for server in servers * 3))
                assert results.count(False) == 1
                assert "used-up" in await refusal(servers[1], token)

    async def test_servers_that_race_for_the_first_use_of_another_token_all_win(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(new_engine()) for _ in range(4)]
            servers = [EngineTokens(engine) for engine in engines]
            for _ in range(10):
                token = await servers[0].issue(7)
                assert not any(await asyncio.gather(*(is_refused(server, token) for server in servers)))

    async def test_a_token_not_used_in_time_expires_though_its_lifetime_goes_on(self, new_engine: NewEngine) -> None:
        clock = Clock()
        async with new_engine() as engine:
            tokens = EngineTokens(engine, clock=clock)
            token, used = await tokens.issue(7), await tokens.issue(7)
            await verify(tokens, used)
            await refusal(tokens, token, 8)  # another uid's try is no first use
            clock.ahead = 30
            assert "first_use 30 s" in await refusal(tokens, token)
            await verify(tokens, used)

    async def test_the_engine_forgets_what_was_not_used_in_time(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine, first_use=0.5, lifetime=0.5)
            token = await tokens.issue(7)
            await until(lambda: not engine._rows)
            assert "unknown" in await refusal(tokens, token)

    async def test_what_the_engine_keeps_lets_nobody_in(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            await verify(tokens, token)
            kept = repr(engine._rows)
            assert token not in kept
            for text in re.findall(r"[A-Za-z0-9_-]{20,}", kept):
                await refusal(tokens, text)

    async def test_a_user_has_so_many_tokens_and_a_newer_one_ends_the_oldest(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            tokens = EngineTokens(engine)
            issued = [await tokens.issue(7) for _ in range(MAX_TOKENS + 2)]
            results = [await is_refused(tokens, token) for token in issued]
            assert results == [True] * 2 + [False] * MAX_TOKENS

    async def test_what_ends_tokens_and_fails_midway_can_be_tried_again(self) -> None:
        class Failing(MemoryEngine):
            fails = False

            async def delete(self, key: str, revision: Any = None) -> None:
                if self.fails:
                    raise EngineUnavailable("gone")
                await super().delete(key, revision)

        async with Failing() as engine:
            tokens = EngineTokens(engine)
            issued = [await tokens.issue(7) for _ in range(MAX_TOKENS)]
            engine.fails = True
            for only in (False, True):
                with pytest.raises(EngineUnavailable):
                    await tokens.issue(7, only=only)
            engine.fails = False
            await tokens.revoke_user(7)
            assert all([await is_refused(tokens, token) for token in issued])

    async def test_a_made_up_token_that_is_revoked_leaves_nothing_in_the_engine(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            for _ in range(3):
                await tokens.revoke(secrets.token_urlsafe(32))
            assert engine.stats.calls["delete"] == 0
            await tokens.revoke(token)
            assert await is_refused(tokens, token)

    async def test_nothing_of_a_user_is_left_when_all_is_revoked(self) -> None:
        async with MemoryEngine() as engine:
            tokens = EngineTokens(engine)
            for _ in range(3):
                await tokens.issue(7)
            await tokens.revoke_user(7)
            assert [*engine._rows] == ["revocations.7.tokens"], "for the servers, which end the user's sessions"

    async def test_logins_at_the_same_time_can_all_be_ended(self, new_engine: NewEngine) -> None:
        async with AsyncExitStack() as stack:
            servers = [EngineTokens(await stack.enter_async_context(new_engine())) for _ in range(4)]
            issued = await asyncio.gather(*(server.issue(7) for server in servers * 3))
            for token in issued:
                await verify(servers[0], token)
            await servers[1].revoke_user(7)
            assert all([await is_refused(servers[0], token) for token in issued])

    async def test_a_token_revoked_while_it_is_used_first_stays_revoked(self) -> None:
        """The revocation comes between the look-up and the write that marks the first use."""

        class Slow(MemoryEngine):
            async def get(self, key: str) -> Any:
                found = await super().get(key)
                await self.delete(key)
                return found

        async with Slow() as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            await refusal(tokens, token)
            assert not [key for key in engine._rows if key.startswith("tokens.")]

    async def test_a_first_use_that_can_not_be_marked_lets_nobody_in(self) -> None:
        class Odd(MemoryEngine):
            async def update(self, *_: Any) -> Any:
                raise Conflict("another write came first")

        async with Odd() as engine:
            tokens = EngineTokens(engine)
            assert "changed while it was checked" in await refusal(tokens, await tokens.issue(7))

    async def test_without_the_engine_every_call_says_so(self) -> None:
        engine = MemoryEngine()
        tokens = EngineTokens(engine)
        async with engine:
            token = await tokens.issue(7)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: tokens.issue(7),
            lambda: verify(tokens, token),
            lambda: tokens.revoke(token),
            lambda: tokens.revoke_user(7),
        ]
        for call in calls:
            with pytest.raises(EngineUnavailable):
                await call()

    async def test_tokens_outlive_a_crash_of_the_engine(self) -> None:
        async with NatsServer() as server, NatsEngine(server.url, timeout=2.0) as engine:
            tokens = EngineTokens(engine)
            token = await tokens.issue(7)
            server.kill()
            with pytest.raises(EngineUnavailable):
                await verify(tokens, token)
            await server.start()
            await until(lambda: engine.is_available)
            await verify(tokens, token)

    async def test_too_many_claims_are_refused_where_they_are_given(self) -> None:
        async with MemoryEngine() as engine:
            with pytest.raises(ValueError, match=f"may have {MAX_CLAIMS}"):
                await EngineTokens(engine).issue(7, {"text": "a" * MAX_CLAIMS})
            assert not engine._rows

    @pytest.mark.parametrize("wrong", [{"first_use": 0}, {"first_use": 31, "lifetime": 30}])
    def test_times_that_cannot_work_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="first_use"):
            EngineTokens(MemoryEngine(), **wrong)  # type: ignore[arg-type]


class TestALogin:
    """A server with tokens that others issue."""

    async def test_it_takes_a_token_of_the_engine(self, new_engine: NewEngine) -> None:
        async with opened(new_engine(), "engine") as login, opened(new_engine(), "engine") as tokens:
            async with serving(tokens=tokens) as server, closing(RawClient.open(server)) as client:
                client.send(verify_request(7, (await login.issue(7, {"name": "Ann"})).encode()))
                assert (await client.frame())[0] == 2
                assert server.session(7).claims == {"name": "Ann"}

    async def test_without_the_engine_it_is_refused_and_sessions_go_on(self) -> None:
        engine = MemoryEngine()
        tokens = EngineTokens(engine)
        async with engine:
            first, second = await tokens.issue(7), await tokens.issue(8)
            async with serving(tokens=tokens) as server:
                inside = await RawClient.open(server)
                inside.send(verify_request(7, first.encode()))
                await inside.frame()
                await engine.close()
                late = await RawClient.open(server)
                late.send(verify_request(8, second.encode()))
                assert await late.rest() == []
                assert server.stats.refused == {"tokens-unavailable": 1}
                await inside.echo(1)
                assert sum(server.stats.token_seconds.counts) == 2
                await inside.close()
                await late.close()
