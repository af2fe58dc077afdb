"""A key that other processes write all the time: every call that must write it gives up in the end, and says so."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatelink.auth import revocations
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.cluster import engine as engines
from gatelink.cluster.directory import Directory
from gatelink.cluster.engine import Conflict, Engine, EngineUnavailable, Entry, Revision
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.epochs import Epochs
from gatelink.cluster.kicks import write_record
from gatelink.login.limits import LoginLimits
from gatelink.login.throttle import Throttle
from gatelink.net.user_kicks import UserKick


class Contested(MemoryEngine):
    """Another process writes each key that begins with `lost` just before this one does."""

    lost = ""

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        self._check(key)
        return await super().create(key, value, ttl)

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        self._check(key)
        return await super().update(key, value, ttl, revision)

    def _check(self, key: str) -> None:
        if key.startswith(self.lost):
            raise Conflict(f"{key}: another write came first")


async def take_epoch(engine: Engine) -> None:
    await Directory(engine, 1).take_epoch(7, 0)


async def issue(engine: Engine) -> None:
    await EngineTokens(engine).issue(7)


async def revoke_signed(engine: Engine) -> None:
    await SignedTokens(engine, keys=[Ed25519PrivateKey.generate()]).revoke_user(7)


async def revoke_signed_up_to(engine: Engine) -> None:
    await SignedTokens(engine, keys=[Ed25519PrivateKey.generate()]).revoke_user_up_to(7, 1.0)


async def announce(engine: Engine) -> None:
    await revocations.announce(engine, 7)


async def kick(engine: Engine) -> None:
    await write_record(engine, UserKick(7, None, "", ends_tokens=True, cluster_wide=True, until=0.0))


async def begin_again(engine: Engine) -> None:
    await Epochs(engine, 1).begin_again()


async def count_a_login(engine: Engine) -> None:
    await Throttle(engine, LoginLimits()).note("network", "192.0.2.0/24")


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (take_epoch, "players."),
        (issue, "user-tokens."),
        (revoke_signed, ""),
        (revoke_signed_up_to, ""),
        (announce, "revocations."),
        (kick, "kicks."),
        (begin_again, ""),
        (count_a_login, "logins."),
    ],
)
async def test_a_call_gives_up_when_other_writes_always_come_first(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Engine], Awaitable[None]], key: str
) -> None:
    monkeypatch.setattr(engines, "CONFLICT_PAUSE", 0.0)
    async with Contested() as engine, asyncio.timeout(10):
        engine.lost = key
        with pytest.raises(EngineUnavailable, match="by other processes came first"):
            await call(engine)


async def test_as_many_logins_of_one_user_as_conflicts_are_allowed_all_get_their_epochs() -> None:
    """Each reads before any writes, so all but one meet a conflict in each round."""

    class Slow(MemoryEngine):
        async def get(self, key: str) -> Entry | None:
            found = await super().get(key)
            await asyncio.sleep(0)
            return found

    async with Slow() as engine:
        directory = Directory(engine, 1)
        taken = await asyncio.gather(*(directory.take_epoch(7, 0) for _ in range(engines.MAX_CONFLICTS)))
        assert len({epoch for epoch, _ in taken}) == engines.MAX_CONFLICTS
