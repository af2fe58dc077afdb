"""The worth of a signed token at each time; the engine and all servers live by one clock, which the test moves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatelink.auth.signed_tokens import MAX_LIFETIME, MAX_SKEW, SignedTokens
from gatelink.auth.tokens import Identity
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import VerifyError
from gatelink.testing import FakeClock
from tests.fakes import settle

KEY = Ed25519PrivateKey.generate()


class World:
    """One server that issues and checks, on an engine of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock(1_700_000_017.25)
        self.engine = MemoryEngine(self.clock)
        self.tokens = SignedTokens(self.engine, clock=self.clock, keys=[KEY])

    async def issued(self, ahead: float) -> str:
        """A token of another server, whose clock is `ahead` by seconds."""
        async with SignedTokens(self.engine, clock=lambda: self.clock() + ahead, keys=[KEY]) as other:
            return await other.issue(7)

    async def verify(self, token: str, uid: int = 7) -> Identity:
        return await self.tokens.verify(token.encode(), uid, 0, "192.0.2.1")

    async def refusal(self, token: str) -> str:
        with pytest.raises(VerifyError) as refused:
            await self.verify(token)
        return str(refused.value)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.engine.get("anything")  # looks at the clock: what is due goes
        await settle()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    it = World()
    async with it.engine, it.tokens:
        yield it


async def test_a_token_is_good_up_to_its_end_and_not_at_it() -> None:
    async with world() as it:
        end = it.clock() + MAX_LIFETIME
        token = await it.tokens.issue(7, {"role": "admin"})
        await it.pass_time(MAX_LIFETIME - 0.01)
        assert await it.verify(token) == Identity(7, {"role": "admin"}, end)
        it.clock.advance(end - it.clock())
        assert await it.refusal(token) == "expired token of uid 7"


async def test_a_revocation_up_to_a_moment_ends_the_tokens_issued_by_then() -> None:
    async with world() as it:
        older = await it.tokens.issue(7)
        moment = it.clock()
        await it.pass_time(1)
        newer = await it.tokens.issue(7)
        await it.tokens.revoke_user_up_to(7, moment)
        await settle()
        assert await it.refusal(older) == "revoked token of uid 7"
        await it.verify(newer)
        await it.tokens.revoke_user(7)
        await it.tokens.revoke_user_up_to(7, moment)
        await settle()
        assert await it.refusal(newer) == "revoked token of uid 7", "an earlier moment takes nothing back"


@pytest.mark.parametrize("of_user", [False, True])
@pytest.mark.parametrize("after", [0.0, 30.0, MAX_LIFETIME - 0.5])
async def test_a_token_that_was_revoked_stays_so_until_its_end(of_user: bool, after: float) -> None:
    async with world() as it:
        token, other = await it.tokens.issue(7), await it.tokens.issue(8)
        await it.pass_time(after)
        await (it.tokens.revoke_user(7) if of_user else it.tokens.revoke(token))
        await settle()
        left = MAX_LIFETIME - after
        for _ in range(9):
            assert await it.refusal(token) == "revoked token of uid 7"
            await it.verify(other, 8)
            await it.pass_time(left / 10)
        assert await it.refusal(token) == "revoked token of uid 7"
        await it.pass_time(left)
        assert await it.refusal(token) == "expired token of uid 7"


async def test_a_token_of_a_server_whose_clock_is_a_little_ahead_is_good_and_of_one_far_ahead_is_not() -> None:
    async with world() as it:
        await it.verify(await it.issued(MAX_SKEW - 0.1))
        refusal = await it.refusal(await it.issued(MAX_SKEW + 0.1))
        assert refusal == f"token of uid 7 is valid for longer than {MAX_LIFETIME:g} s"


def of_tokens(it: World) -> list[str]:
    """The keys in the engine, but for those that end sessions."""
    return [key for key in it.engine._rows if not key.startswith("revocations.")]


async def test_what_keeps_a_revoked_token_out_is_gone_after_its_end() -> None:
    async with world() as it:
        await it.tokens.revoke(await it.tokens.issue(7))
        await it.tokens.revoke_user(7)
        assert len(of_tokens(it)) == 2
        await it.pass_time(MAX_LIFETIME + MAX_SKEW + 0.1)
        assert not of_tokens(it)
