"""The login services of a cluster: each writes an entry into the engine, which `gatelink top` shows.

A login service can't write the registry, because it must not be able to forge a server. So its entries are beside the
counts of tries, which it writes anyway.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import Engine, EngineError
from gatelink.cluster.follow import follow
from gatelink.cluster.registry import EXPIRY, KEEPALIVE
from gatelink.ops.lag import LoopLag
from gatelink.ops.usage import Usage
from gatelink.version import __version__

PREFIX = "logins.at"


class LoginServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One login service.

    url: where it listens. trouble: why no login can succeed there, "" if one can. logins: how many succeeded per second
    since the entry before. lag, cpu, memory: as in a server's `Load`. instance: differs for each process.
    started_at, updated_at: the engine's unix seconds.
    """

    url: str
    trouble: str = ""
    logins: float = 0.0
    lag: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    version: str = ""
    instance: str
    started_at: float
    updated_at: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LoginServiceInfo).decode


@asynccontextmanager
async def keep_entry(
    engine: Engine,
    url: str,
    logins: Callable[[], int],
    trouble: Callable[[], str],
    lag: LoopLag,
    keepalive: float = KEEPALIVE,
) -> AsyncIterator[None]:
    """Keep an entry of this login service in the engine during the block. An engine that is away is tried again.

    logins: returns how many logins succeeded since the start. trouble: as in `LoginServiceInfo`. keepalive: seconds
    between two writes.
    """
    instance, started_at = secrets.token_hex(8), engine.now()
    key, usage, before = f"{PREFIX}.{instance}", Usage(), logins()

    async def write(passed: float) -> None:
        nonlocal before
        now, before = logins() - before, logins()
        cores, memory = usage()
        info = LoginServiceInfo(
            url=url,
            trouble=trouble(),
            logins=round(now / passed, 1) if passed else 0.0,
            lag=round(lag.within(passed), 4) if passed else 0.0,
            cpu=cores,
            memory=memory,
            version=__version__,
            instance=instance,
            started_at=started_at,
            updated_at=engine.now(),
        )
        with suppress(EngineError):
            await engine.put(key, _encode(info), EXPIRY)

    async def keep() -> None:
        await write(0.0)
        while True:
            await asyncio.sleep(keepalive)
            await write(keepalive)

    lag.start()
    keeping = tasks.live(keep, "login service entry")
    try:
        yield
    finally:
        await tasks.cancel_and_wait(keeping)
        with suppress(EngineError):
            await engine.delete(key)


class LoginServices:
    """The login services of the cluster. infos: by their keys, kept current between `start` and `close`."""

    def __init__(self, engine: Engine) -> None:
        self.infos: dict[str, LoginServiceInfo] = {}
        self._engine = engine
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when all entries are known. Raises EngineUnavailable."""
        self._watching = await follow(
            self._engine, PREFIX, lambda: list(self.infos), self._changed, "login services watch"
        )

    async def close(self) -> None:
        await tasks.cancel_and_wait(self._watching)

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.infos.pop(key, None)
            return
        try:
            self.infos[key] = _decode(value)
        except msgspec.MsgspecError:
            pass  # of a version that this one can't read
