"""Renews a gateway's entries in the directory. Each entry has a due time, well before it expires."""

import asyncio
import heapq
import random
import time
from collections.abc import Awaitable, Callable

from gatelink import tasks
from gatelink.cluster.directory import RETRY
from gatelink.cluster.engine import Conflict, EngineUnavailable
from gatelink.logger import Logger, RateLimitedLogger

quiet = RateLimitedLogger(Logger("gatelink.directory"))

AT_ONCE = 128
"""Renewals at a time. The slowest makes two calls of 2 s: even so, 38,400 entries are renewed in a third of the TTL."""

Key = tuple[int, int, int]
"""(uid, slot, epoch)"""


class Renewals:
    """The entries of one gateway that are kept alive.

    An entry is due between a sixth and a third of the TTL after its last write. The time is random, so that entries
    written together are not renewed together. After a failed renewal an entry is due again a second later. When the
    engine is back, call `all_are_due`.

    renew: writes one entry; returns False if a newer login replaced it.
    replaced: called with the (uid, slot, epoch) of such an entry.
    ttl: the seconds that an entry lives. clock: returns the time in seconds.
    """

    def __init__(
        self,
        renew: Callable[[int, int, int], Awaitable[bool]],
        replaced: Callable[[int, int, int], None],
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed = 0
        """The number of failed renewals. Each is tried again."""
        self._renew = renew
        self._replaced = replaced
        self._ttl = ttl
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._queue: list[tuple[float, Key]] = []  # a heap; an item is outdated unless `_due` has the same time
        self._under_way: dict[Key, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._round = 0  # calls of `all_are_due`
        self._unchecked: set[Key] = set()  # entries not renewed since `all_are_due`
        self.round_is_over = asyncio.Event()
        self.round_is_over.set()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, uid: int, slot: int, epoch: int, at_once: bool = False) -> None:
        """Keep an entry alive that has just been written. at_once: renew it now, as it may be lost already."""
        self._set((uid, slot, epoch), self._clock() if at_once else self._later())

    def discard(self, uid: int, slot: int, epoch: int) -> None:
        """Stop renewing an entry."""
        self._due.pop((uid, slot, epoch), None)
        self._is_checked((uid, slot, epoch))

    def all_are_due(self) -> None:
        """Renew every entry now, `AT_ONCE` at a time: the engine may have lost entries, or may have newer ones."""
        now = self._clock()
        self._round += 1
        self._due = dict.fromkeys(self._due, now)
        self._queue = [(now, key) for key in self._due]
        self._unchecked = set(self._due)
        if self._unchecked:
            self.round_is_over.clear()
        else:
            self.round_is_over.set()
        self.wake()

    def wake(self) -> None:
        """Make `run` check again what is due."""
        self._wake.set()

    async def run(self) -> None:
        """Renew entries as they fall due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                seconds = self._begin_due()
                try:
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await tasks.cancel_and_wait(*self._under_way.values())

    def _begin_due(self) -> float | None:
        """Begin the due renewals, up to AT_ONCE; return the seconds until the next, or None to wait for `wake`."""
        now = self._clock()
        queue = self._queue
        while queue:
            due, key = queue[0]
            if self._due.get(key) != due or key in self._under_way:
                heapq.heappop(queue)
                continue
            if due > now:
                return due - now
            if len(self._under_way) >= AT_ONCE:
                return None
            heapq.heappop(queue)
            self._under_way[key] = tasks.keep(self._try(key), "directory renewal of an entry")
        return None

    async def _try(self, key: Key) -> None:
        round = self._round
        due = self._clock() + RETRY
        try:
            if key in self._due:
                is_newest = await self._renew(*key)
                if self._round == round:  # else the engine may have lost what it had just then
                    self._is_checked(key)
                if is_newest:
                    due = self._later()
                elif self._due.pop(key, None) is not None:
                    self._is_checked(key)
                    self._replaced(*key)
        except Conflict:
            pass  # a newer login or a logout changed the entry meanwhile: the next renewal sees which
        except EngineUnavailable:
            self.failed += 1
        except Exception as error:
            self.failed += 1
            quiet.error("an entry of the directory was not renewed", uid=key[0], exc_info=error)
        finally:
            del self._under_way[key]
            due_now = self._due.get(key)
            if due_now is not None:  # else `discard` was called meanwhile
                self._set(key, due if self._round == round else due_now)
            self.wake()

    def _is_checked(self, key: Key) -> None:
        self._unchecked.discard(key)
        if not self._unchecked:
            self.round_is_over.set()

    def _set(self, key: Key, due: float) -> None:
        self._due[key] = due
        if len(self._queue) > 2 * len(self._due) + 64:
            self._queue = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._queue)
        else:
            heapq.heappush(self._queue, (due, key))
        if self._queue[0][1] == key:
            self.wake()

    def _later(self) -> float:
        return self._clock() + self._ttl * random.uniform(1 / 6, 1 / 3)
