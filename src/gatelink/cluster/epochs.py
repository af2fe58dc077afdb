"""The epochs of logins: numbers that only grow in the whole cluster, in spite of wrong clocks and losses of the engine.

Each gateway has a key in the engine, its counter. Each write of the counter has a revision, and its epochs are the
cluster's base plus that revision. Revisions grow with every write, as long as the engine keeps its contents. When the
engine may have lost some, each gateway that notices raises the base.
"""

import asyncio
from collections.abc import Callable

from gatelink import tasks
from gatelink.cluster.engine import (
    Conflict,
    Conflicts,
    Engine,
    EngineError,
    EngineUnavailable,
    Entry,
    Revision,
    write_over,
)
from gatelink.logger import Logger

log = Logger("gatelink.directory")

PREFIX = "epochs"
BASE_KEY = f"{PREFIX}.base"
BASE_TTL = 3_650 * 86_400.0
"""Seconds: ten years, as the base must not expire, and the engine wants a time to live for each write."""

COUNTER_TTL = 86_400.0
"""Seconds without a login after which a gateway's counter expires. The gateway's next login raises the base."""

AT_ONCE = 256
"""Logins that share one write of a gateway's counter, and so the epochs of one revision."""

BLOCK = 1 << 32
"""A base is a multiple of this. The epochs of 16 million writes fill a block, and go on into the next one."""

MAX_BASE = (1 << 64) - 2 * BLOCK


class Epochs:
    """Gives the epochs of one gateway's logins.

    clock: unix seconds, by default the engine's. A new base is at least that many blocks.
    """

    def __init__(self, engine: Engine, gateway: int, clock: Callable[[], float] | None = None) -> None:
        self._engine = engine
        self._counter = f"{PREFIX}.{gateway}"
        self._clock = clock or engine.now
        self._base = 0
        self._revision: Revision | None = None  # of the counter's last write
        self._highest = 0  # of the epochs that were given here
        self._lock = asyncio.Lock()  # one change of the base and the counter at a time
        self._waiting: list[asyncio.Future[int]] = []
        self._giving: asyncio.Task[None] | None = None

    async def next(self) -> int:
        """An epoch above all that were given before this call, at any gateway. Raises EngineUnavailable."""
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        if self._giving is None:
            self._giving = tasks.keep(self._give(), "epochs")
        return await waiting

    async def begin_again(self, above: int = 0) -> None:
        """Raise the base above `above` and all epochs that were given here. Raises EngineError.

        Call it when the engine may have lost writes. Each gateway does, so a loss costs a write for each of them.
        """
        async with self._lock:
            await self._begin_again(above)

    async def _begin_again(self, above: int = 0) -> None:
        above = max(above, self._highest)
        conflicts = Conflicts(BASE_KEY)
        while True:
            entry = await self._engine.get(BASE_KEY)
            # Not even a base that another gateway raised is taken as it is: it may be of an earlier loss, and back now.
            highest = max(_base_of(entry), above, self._base)
            # Two blocks up: another gateway's epochs may be in the next block already. The clock is for a gateway that
            # knows none of the last ones: the bucket is new, or was lost twice.
            base = max(highest // BLOCK + 2, int(self._clock())) * BLOCK
            _require_room(base)
            value = base.to_bytes(8, "little")
            try:
                await write_over(self._engine, entry, BASE_KEY, value, BASE_TTL)
            except Conflict:  # another gateway began at the same time
                await conflicts.another()
                continue
            self._base = base
            break
        self._revision = None

    async def _give(self) -> None:
        """Write the counter for the logins that wait, until none waits."""
        while self._waiting:
            waiting, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                async with self._lock:
                    first = await self._take()
            except Exception as error:
                if not isinstance(error, EngineError):
                    log.error("no epoch was given", exc_info=error)
                for each in waiting:
                    if not each.done():
                        each.set_exception(EngineUnavailable(f"no epoch for a login: {error}"))
                continue
            self._highest = first + len(waiting) - 1
            for number, each in enumerate(waiting):
                if not each.done():
                    each.set_result(first + number)
        self._giving = None

    async def _take(self) -> int:
        """Write the counter once: the first of the AT_ONCE epochs of its new revision. Raises EngineError."""
        conflicts = Conflicts(self._counter)
        while True:
            entry = await self._engine.get(BASE_KEY)
            found = _base_of(entry)
            if not found or found < self._base:
                await self._begin_again()
            elif found > self._base:  # another gateway began again
                self._base, self._revision = found, None
            if self._revision is None:
                self._revision = await self._engine.put(self._counter, b"", COUNTER_TTL)
                continue  # the base may have been lost just before
            try:
                revision = await self._engine.update(self._counter, b"", COUNTER_TTL, self._revision)
            except Conflict:  # the engine lost the last write, or another process has this gateway's id
                await self._begin_again()
                await conflicts.another()
                continue
            self._revision = revision
            first = self._base + revision * AT_ONCE
            if first > self._highest:
                return first
            await self._begin_again()


def _base_of(entry: Entry | None) -> int:
    """The base that an entry holds; 0 without one. Raises EngineError."""
    base = int.from_bytes(entry.value, "little") if entry is not None else 0
    _require_room(base)
    return base


def _require_room(base: int) -> None:
    if base > MAX_BASE:
        raise EngineError(f"no epochs are left: the key {BASE_KEY} of the engine's bucket has {base}; delete it")
