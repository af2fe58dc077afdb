"""Tokens of each kind, on any engine, and how a test checks them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.auth.tokens import Identity, Tokens
from gatelink.cluster.engine import Engine
from gatelink.errors import VerifyError


class Clock:
    """The real time, and what a test adds to it: an engine's own expiry is not ours to move."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Issuing(Tokens, Protocol):
    """What the login service needs besides."""

    async def issue(
        self, uid: int, claims: dict[str, Any] | None = None, *, only: bool = False, slot: int = 0
    ) -> str: ...

    async def revoke(self, token: str) -> None: ...

    async def revoke_user(self, uid: int) -> None: ...


KEY = Ed25519PrivateKey.generate()
KINDS: dict[str, Callable[[Engine, Callable[[], float]], Issuing]] = {
    "engine": lambda engine, clock: EngineTokens(engine, lifetime=50.0, clock=clock),
    "signed": lambda engine, clock: SignedTokens(engine, lifetime=50.0, clock=clock, keys=[KEY]),
}


@asynccontextmanager
async def opened(engine: Engine, kind: str, clock: Callable[[], float] = time.time) -> AsyncIterator[Issuing]:
    """Tokens of a kind that live for 50 s, on `engine`, which is started and closed."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        tokens = KINDS[kind](engine, clock)
        if isinstance(tokens, SignedTokens):
            await stack.enter_async_context(tokens)
        yield tokens


async def verify(tokens: Tokens, token: str | bytes, uid: int = 7) -> Identity:
    return await tokens.verify(token.encode() if isinstance(token, str) else token, uid, 0, "192.0.2.1")


async def refusal(tokens: Tokens, token: str | bytes, uid: int = 7) -> str:
    with pytest.raises(VerifyError) as caught:
        await verify(tokens, token, uid)
    return str(caught.value)


async def is_refused(tokens: Tokens, token: str) -> bool:
    try:
        await verify(tokens, token)
    except VerifyError:
        return True
    return False


def round_trips(engine: Engine) -> int:
    calls: dict[str, int] = engine.stats.calls
    return sum(calls.values())
