"""The servers of the cluster, their addresses and load: each server keeps its own entry alive and watches all.

If two servers have the same id, the newer one wins, as with logins. An entry that expires says only that its server
did not reach the engine. Its links find out whether the server is dead (links.py).
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from time import perf_counter

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import Conflict, Engine, EngineUnavailable, Revision
from gatelink.cluster.follow import follow
from gatelink.errors import ConfigError
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.ops.lag import LoopLag
from gatelink.ops.usage import Usage

log = Logger("gatelink.registry")
quiet = RateLimitedLogger(log)

PREFIX = "servers"
KEEPALIVE = 5.0
"""Seconds between two writes of a server's entry."""

EXPIRY = 15.0
"""Seconds after its last write at which an entry expires."""

STALE = 2 * EXPIRY
"""Seconds after its last keepalive at which an entry is ignored: only an attacker could keep it there so long."""


class State(Enum):
    UP = "up"
    DRAINING = "draining"
    """It finishes its work and takes no new players."""


class Load(msgspec.Struct, frozen=True, order=True):
    """How busy a server is; ordered by sessions, then by messages, then by lag."""

    sessions: int = 0
    messages: float = 0.0  # per second, since the last keepalive
    lag: float = 0.0  # the loop's longest block since the last keepalive, in seconds
    cpu: float = 0.0  # cores that the process used since the last keepalive
    memory: int = 0  # resident bytes


class LoadMeter:
    """Measures the load that a server reports with each keepalive.

    sessions: returns their number. messages: returns how many there were since the start. lag: of the server's loop.
    """

    def __init__(self, sessions: Callable[[], int], messages: Callable[[], int], lag: LoopLag) -> None:
        self._sessions = sessions
        self._messages = messages
        self._lag = lag
        self._usage = Usage()
        self._last = (perf_counter(), 0)

    def start(self) -> None:
        """Begin to measure; the server stops it."""
        self._lag.start()

    def __call__(self) -> Load:
        """The load since the last call."""
        now, messages = perf_counter(), self._messages()
        since, before = self._last
        self._last = now, messages
        passed = now - since
        rate = round((messages - before) / max(passed, 0.001), 1)
        return Load(self._sessions(), rate, round(self._lag.within(passed), 4), *self._usage())


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One server of the cluster: its entry in the registry.

    type: 1..255. name: of the type. inner: where servers connect to it. outer: where clients connect.
    public_key: for clients' sealed connections, hex. wants_login_events: whether it gets each session at its login, not
    only with its first message. wants_presence: whether it gets each break and return of a player's connection.
    lacks: of a gateway, the server types that its routes need and that it has no link to; a login sends no player
    there. instance: differs for each process that had the id. started_at, updated_at: the engine's unix seconds at its
    start and at its last keepalive.
    """

    id: int
    type: int
    name: str
    inner: str = ""
    outer: tuple[str, ...] = ()
    public_key: str = ""
    wants_login_events: bool = msgspec.field(default=False, name="greets")  # as it was first written
    wants_presence: bool = False
    version: str = ""
    lacks: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET  # only gateways write it
    state: State = State.UP
    load: Load = Load()
    admin: str = ""
    instance: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    started_at: float = msgspec.field(default_factory=time.time)
    updated_at: float = msgspec.field(default=0.0, name="told_at")

    def __post_init__(self) -> None:
        if not 1 <= self.type <= 255:
            raise ConfigError(f"server type {self.type} of {self.name!r}; types are 1 to 255")
        if not 1 <= self.id < 1 << 64:
            raise ConfigError(f"server id {self.id} of {self.name!r}; ids are 1 to 2**64 - 1")


OnChange = Callable[[ServerInfo | None, ServerInfo | None], None]
"""`(before, now)`: `before` is None for a new server, `now` is None for one that left."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ServerInfo).decode


def _read(value: bytes) -> ServerInfo | None:
    """The server of an entry; None for one that this version cannot read."""
    try:
        return _decode(value)
    except (msgspec.MsgspecError, ConfigError) as error:
        quiet.error("an entry of the registry cannot be read", error=str(error))
        return None


class Registry:
    """The servers of the cluster, kept current. `me` is this server's own entry, once it has registered.

    load: called before each keepalive. on_change: called with each server that registers, changes or leaves.
    on_replaced: called when another server took this one's id.
    """

    def __init__(
        self,
        engine: Engine,
        load: Callable[[], Load] = Load,
        *,
        on_change: OnChange | None = None,
        on_replaced: Callable[[], None] | None = None,
        keepalive: float = KEEPALIVE,
        expiry: float = EXPIRY,
    ) -> None:
        self.servers: dict[int, ServerInfo] = {}
        self.me: ServerInfo | None = None
        self._load = load
        self._engine = engine
        self._on_change = on_change
        self._on_replaced = on_replaced
        self._keepalive = keepalive
        self._expiry = expiry
        self._revision: Revision | None = None
        self._kept_at = 0.0  # the time (perf_counter) of the last write that was acknowledged
        self._must_compare = False  # the engine was lost: it may hold another entry than the one written last
        self._is_replaced = False
        self._is_closed = False
        self._checking: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when all registered servers are known. Raises EngineUnavailable."""
        self._watching = await follow(self._engine, PREFIX, self._known, self._changed, "registry watch")

    async def register(self, me: ServerInfo) -> None:
        """Write this server's entry, and keep it alive. Raises EngineUnavailable."""
        self.me = me = msgspec.structs.replace(me, updated_at=self._engine.now())
        self._is_replaced = self._is_closed = False
        self._revision = await self._engine.put(self._key(me), _encode(me), self._expiry)
        self._kept_at = perf_counter()
        self._keeping = tasks.live(self._keep_alive, "registry keepalive")
        self._engine.when_back.add(self._engine_is_back)

    async def close(self) -> None:
        """Stop, and delete the entry unless the engine is unavailable or another server owns it."""
        self._is_closed = True
        self._engine.when_back.discard(self._engine_is_back)
        await tasks.cancel_and_wait(self._watching, self._keeping, self._checking)
        self._watching = self._keeping = self._checking = None
        if self.me is not None and self._revision is not None:
            try:
                await self._engine.delete(self._key(self.me), self._revision)
            except (Conflict, EngineUnavailable):
                pass  # another server owns it, or it will expire
            self._revision = None

    async def is_current(self) -> bool:
        """Ask the engine whether this process is still the server with its id. Raises EngineUnavailable."""
        self._must_compare = True
        await self._write()
        return not self._is_replaced

    async def set_state(self, state: State) -> None:
        """Write the state at once. Raises EngineUnavailable; then the next keepalive writes it."""
        if self.me is not None:
            self.me = msgspec.structs.replace(self.me, state=state)
            await self._write()

    def set_lacks(self, lacks: tuple[int, ...]) -> None:
        """Write soon which types of server a gateway lacks; if the engine is away, the next keepalive writes it."""
        if self.me is not None and self.me.lacks != lacks:
            self.me = msgspec.structs.replace(self.me, lacks=lacks)
            self._check_soon()

    @property
    def trouble(self) -> str:
        """Why the others may not know this server just now, for people; "" if they do."""
        if self._is_replaced:
            return "another server has this one's id"
        if self._revision is None or self.me is None:
            return "not registered in the cluster"
        if (seconds := perf_counter() - self._kept_at) > self._expiry:
            return f"not registered in the cluster: its entry was last written {seconds:.0f} s ago"
        return "draining: it takes no new players" if self.me.state is State.DRAINING else ""

    def type_of(self, id: int) -> int | None:
        """The type of the server with an id; None if no server has the id, and before this server has registered.

        A server that connects that early may look for the process that had this address before.
        """
        if self._revision is None:
            return None
        info = self.servers.get(id)
        return info.type if info is not None else None

    @property
    def own(self) -> ServerInfo:
        """This server's own entry. Raises ConfigError before it has registered."""
        if self.me is None:
            raise ConfigError("this server has not joined its cluster yet; `start` it first")
        return self.me

    def of_type(self, type: int) -> list[ServerInfo]:
        """The servers of a type that are up, ordered by id."""
        found = [info for info in self.servers.values() if info.type == type and info.state is State.UP]
        return sorted(found, key=lambda info: info.id)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keepalive)
            assert self.me is not None
            self.me = msgspec.structs.replace(self.me, load=self._load(), updated_at=self._engine.now())
            try:
                await self._write()
            except EngineUnavailable as error:
                log.warning("not registered", id=self.me.id, error=str(error))
            except Exception as error:
                log.error("not registered", id=self.me.id, exc_info=error)

    async def _check(self) -> None:
        """Write our entry: it changed, or a watched change says that it may have expired or be another server's."""
        written = None
        with suppress(EngineUnavailable):  # the next keepalive writes it
            while written is not self.me:  # `me` may change while it is written
                written = self.me
                await self._write()

    def _engine_is_back(self) -> None:
        self._must_compare = True
        self._check_soon()

    async def _write(self) -> None:
        """Write our entry, unless a newer server owns it."""
        async with self._writing:
            if self._is_replaced:
                return
            assert self.me is not None
            key = self._key(self.me)
            before = self._revision
            try:
                if self._must_compare:  # in a new bucket another server's entry may have our revision by chance
                    await self._settle(key)
                elif self._revision is not None:
                    self._revision = await self._engine.update(key, _encode(self.me), self._expiry, self._revision)
                else:
                    self._revision = await self._engine.create(key, _encode(self.me), self._expiry)
            except Conflict:
                with suppress(Conflict):  # the entry is changing just now; the next keepalive writes it
                    await self._settle(key)
            if self._revision != before:
                self._kept_at = perf_counter()
            self._must_compare = False

    async def _settle(self, key: str) -> None:
        """Write our entry over one that is not the one written last, or stop if a newer server wrote it."""
        assert self.me is not None
        entry = await self._engine.get(key)
        if entry is None:
            self._revision = await self._engine.create(key, _encode(self.me), self._expiry)
            return
        found = _read(entry.value)
        if found is not None and (found.instance == self.me.instance or found.started_at < self.me.started_at):
            # Ours after an unanswered write, or an earlier process's, restored with a copy of the bucket.
            self._revision = await self._engine.update(key, _encode(self.me), self._expiry, entry.revision)
            return
        self._revision = None
        self._is_replaced = True
        if self._on_replaced is not None:
            self._on_replaced()
        if self._keeping is not None:
            self._keeping.cancel()
        newer = found.inner if found is not None else ""
        log.error("replaced by a newer server of the same id", id=self.me.id, newer=newer)

    def _known(self) -> list[str]:
        return [f"{PREFIX}.{id}" for id in self.servers]

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._forget(key.rpartition(".")[2])
        elif (info := _read(value)) is not None:
            before = self.servers.get(info.id)
            if f"{PREFIX}.{info.id}" != key:
                quiet.error("an entry of the registry is under another server's key", key=key, id=info.id)
            elif before is None or info.updated_at >= before.updated_at:  # else an older entry was written again
                self._set(info)
            elif self.me is not None and info.id == self.me.id:
                self._check_soon()

    def _set(self, info: ServerInfo) -> None:
        before = self.servers.get(info.id)
        self.servers[info.id] = info
        self._report(before, info)
        if self.me is not None and info.id == self.me.id and info.instance != self.me.instance:
            self._check_soon()

    def _forget(self, id: str) -> None:
        before = self.servers.pop(int(id), None) if id.isdecimal() else None
        if before is not None:
            self._report(before, None)
        if self.me is not None and id == str(self.me.id):  # the engine was lost for longer than EXPIRY
            self._check_soon()

    def _check_soon(self) -> None:
        is_idle = self._checking is None or self._checking.done()
        if self._revision is not None and is_idle and not self._is_closed:
            self._checking = tasks.keep(self._check(), "registry check")

    def _report(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if self._on_change is not None:
            try:
                self._on_change(before, now)
            except Exception as error:
                log.error("on_change of the registry failed", exc_info=error)

    @staticmethod
    def _key(info: ServerInfo) -> str:
        return f"{PREFIX}.{info.id}"
