"""Which servers the group has, where they are, and how busy: each keeps its own entry alive, everyone watches all.

A server that takes an id which another still holds is the newer one, and wins, as with logins. An entry that vanishes
says only that the engine has not heard of its server; whether it is dead, its links know better (links.py).
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial

import msgspec
import structlog

from gatelink import tasks
from gatelink.cluster.engine import Conflict, Engine, EngineUnavailable, Revision
from gatelink.errors import ConfigError
from gatelink.rate_limited_logger import RateLimitedLogger

log = structlog.get_logger("gatelink.registry")
quiet = RateLimitedLogger(log)

PREFIX = "servers"
KEEPALIVE = 5.0
"""Seconds between two writes of a server's entry."""

EXPIRY = 15.0
"""Seconds after its last write at which an entry expires."""


class State(Enum):
    UP = "up"
    DRAINING = "draining"
    """It finishes what it has and takes nothing new."""


class Load(msgspec.Struct, frozen=True, order=True):
    """How busy a server is. Of two, the one with fewer sessions is less; then by messages, then by lag."""

    sessions: int = 0
    messages: float = 0.0  # per second, since the last keepalive
    lag: float = 0.0  # seconds that the loop was late, at most, since the last keepalive


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One server of the group, as it tells of itself.

    type: 1..255; name: the same in words. inner: where servers connect to it. outer: where clients connect.
    public_key: for clients' sealed connections, hex. wants_login_events: whether it hears of each session at login, not
    only at the session's first message. instance: which run of that id it is. started_at, told_at: unix seconds of its
    start and of its last keepalive.
    """

    id: int
    type: int
    name: str
    inner: str = ""
    outer: tuple[str, ...] = ()
    public_key: str = ""
    wants_login_events: bool = False
    version: str = ""
    state: State = State.UP
    load: Load = Load()
    admin: str = ""
    instance: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    started_at: float = msgspec.field(default_factory=time.time)
    told_at: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.type <= 255:
            raise ConfigError(f"server type {self.type} of {self.name!r}; types are 1 to 255")
        if not 1 <= self.id < 1 << 64:
            raise ConfigError(f"server id {self.id} of {self.name!r}; ids are 1 to 2**64 - 1")


OnChange = Callable[[ServerInfo | None, ServerInfo | None], None]
"""`(before, now)`: None before for one that came, None now for one that went."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ServerInfo).decode


def _read(value: bytes) -> ServerInfo | None:
    """An entry; None for one that this version does not understand, which is as good as none."""
    try:
        return _decode(value)
    except (msgspec.MsgspecError, ConfigError) as error:
        quiet.error("an entry of the registry is not understood", error=str(error))
        return None


class Registry:
    """The servers of the group, kept current. `me` is this server's own entry, once it has registered.

    on_change: told of each server that comes, changes or goes. replaced: called when another took this one's id.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_change: OnChange | None = None,
        replaced: Callable[[], None] | None = None,
        keepalive: float = KEEPALIVE,
        expiry: float = EXPIRY,
    ) -> None:
        self.servers: dict[int, ServerInfo] = {}
        self.me: ServerInfo | None = None
        self.load: Callable[[], Load] = Load
        """Asked before each keepalive."""
        self._engine = engine
        self._on_change = on_change
        self._replaced = replaced
        self._keepalive = keepalive
        self._expiry = expiry
        self._revision: Revision | None = None
        self._is_doubtful = False  # the engine was away: what it has of ours need not be what we wrote
        self._is_replaced = False
        self._checking: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it knows everyone who is there. Raises EngineUnavailable."""
        ready = asyncio.get_running_loop().create_future()
        self._watching = tasks.live(partial(self._watch, ready), "registry watch")
        await ready

    async def register(self, me: ServerInfo) -> None:
        """Tells everyone of this server, and goes on telling. Raises EngineUnavailable."""
        self.me = me = msgspec.structs.replace(me, told_at=time.time())
        self._is_replaced = False
        self._revision = await self._engine.put(self._key(me), _encode(me), self._expiry)
        self._keeping = tasks.live(self._keep_alive, "registry keepalive")
        self._engine.when_back.add(self._engine_is_back)

    async def close(self) -> None:
        """Stops; the entry is gone unless the engine is away or another server has it."""
        self._engine.when_back.discard(self._engine_is_back)
        tasks = [task for task in (self._watching, self._keeping, self._checking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watching = self._keeping = self._checking = None
        if self.me is not None and self._revision is not None:
            try:
                await self._engine.delete(self._key(self.me), self._revision)
            except (Conflict, EngineUnavailable):
                pass  # it is another's, or it will expire
            self._revision = None

    async def set_state(self, state: State) -> None:
        """Tells everyone at once. Raises EngineUnavailable; the next keepalive tells it then."""
        if self.me is not None:
            self.me = msgspec.structs.replace(self.me, state=state)
            await self._write()

    def type_of(self, id: int) -> int | None:
        """The type of the server with an id; None if there is none, and before this one has registered.

        Who comes that early may have the address of the run before in mind.
        """
        if self._revision is None:
            return None
        info = self.servers.get(id)
        return info.type if info is not None else None

    @property
    def own(self) -> ServerInfo:
        """This server's own entry. Raises ConfigError before it has registered."""
        if self.me is None:
            raise ConfigError("this server is not a member of its cluster yet; that comes with `start`")
        return self.me

    def of_type(self, type: int) -> list[ServerInfo]:
        """The servers of a type that are up, in order of their ids."""
        found = [info for info in self.servers.values() if info.type == type and info.state is State.UP]
        return sorted(found, key=lambda info: info.id)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keepalive)
            assert self.me is not None
            self.me = msgspec.structs.replace(self.me, load=self.load(), told_at=time.time())
            try:
                await self._write()
            except EngineUnavailable as error:
                log.warning("not registered", id=self.me.id, error=str(error))
            except Exception as error:
                log.error("not registered", id=self.me.id, exc_info=error)

    async def _check(self) -> None:
        """Our entry is gone, or another's, or was that before and is only heard of now; a write of ours tells."""
        with suppress(EngineUnavailable):  # the next keepalive finds out
            await self._write()

    def _engine_is_back(self) -> None:
        self._is_doubtful = True
        self._check_soon()

    async def _write(self) -> None:
        """Writes the entry anew; one that a newer server has written is left alone."""
        async with self._writing:
            if self._is_replaced:
                return
            assert self.me is not None
            key = self._key(self.me)
            try:
                if (
                    self._is_doubtful
                ):  # a bucket that was made again may have our revision by chance, in another's entry
                    await self._settle(key)
                elif self._revision is not None:
                    self._revision = await self._engine.update(key, _encode(self.me), self._expiry, self._revision)
                else:
                    self._revision = await self._engine.create(key, _encode(self.me), self._expiry)
            except Conflict:
                with suppress(Conflict):  # it changes at this very moment; the next keepalive finds out
                    await self._settle(key)
            self._is_doubtful = False

    async def _settle(self, key: str) -> None:
        """The entry is not what we wrote last: it expired, a write of ours went unanswered, or it is another's."""
        assert self.me is not None
        entry = await self._engine.get(key)
        if entry is None:
            self._revision = await self._engine.create(key, _encode(self.me), self._expiry)
            return
        found = _read(entry.value)
        if found is not None and (found.instance == self.me.instance or found.started_at < self.me.started_at):
            # Ours, or an earlier run's, which a copy of the bucket has brought back.
            self._revision = await self._engine.update(key, _encode(self.me), self._expiry, entry.revision)
            return
        self._revision = None
        self._is_replaced = True
        newer = found.inner if found is not None else ""
        log.error("replaced by a newer server of the same id", id=self.me.id, newer=newer)
        if self._replaced is not None:
            self._replaced()
        if self._keeping is not None:
            self._keeping.cancel()

    async def _watch(self, ready: "asyncio.Future[None]") -> None:
        try:
            async with self._engine.watch(PREFIX) as watch:
                for id in list(self.servers):
                    if f"{PREFIX}.{id}" not in watch.entries:  # it went while nothing was watched
                        self._forget(str(id))
                for key, value in list(watch.entries.items()):
                    self._hear(key, value)
                if not ready.done():
                    ready.set_result(None)
                async for change in watch:
                    self._hear(change.key, change.value)
        except Exception as error:
            if ready.done():
                raise  # it is watched again after a pause
            ready.set_exception(error)

    def _hear(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._forget(key.rpartition(".")[2])
        elif (info := _read(value)) is not None:
            self._see(info)

    def _see(self, info: ServerInfo) -> None:
        before = self.servers.get(info.id)
        self.servers[info.id] = info
        self._tell(before, info)
        if self.me is not None and info.id == self.me.id and info.instance != self.me.instance:
            self._check_soon()

    def _forget(self, id: str) -> None:
        before = self.servers.pop(int(id), None) if id.isdecimal() else None
        if before is not None:
            self._tell(before, None)
        if self.me is not None and id == str(self.me.id):  # the engine was away for longer than an entry lives
            self._check_soon()

    def _check_soon(self) -> None:
        if self._revision is not None and (self._checking is None or self._checking.done()):
            self._checking = tasks.keep(self._check(), "registry check")

    def _tell(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if self._on_change is not None:
            try:
                self._on_change(before, now)
            except Exception as error:
                log.error("a change of the registry was not taken", exc_info=error)

    @staticmethod
    def _key(info: ServerInfo) -> str:
        return f"{PREFIX}.{info.id}"
