"""Where each player is: (uid, slot) -> gateway and epoch, written by compare-and-set.

See docs/protocol.md, "Newer logins win".

An epoch grows with every login of a key and with every login on a gateway, so that it names the session, too: it is
the session's sid on links. It is at least the unix time in microseconds: an engine that lost everything cannot make an
older login look newer.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import Conflict, Engine, EngineUnavailable, Entry, Revision
from gatelink.logger import Logger

log = Logger("gatelink.directory")

PREFIX = "players"
TTL = 3_600.0
"""Seconds that an entry lives; gateways renew it (renewals.py) before a third of that is over."""

MAX_WAITING = 20_000
"""Ends of sessions that wait to be written; over it, entries are left to expire."""

WORKERS = 8
RETRY = 1.0
"""Seconds before a failed call is tried again."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a player's session is: the id of its gateway, and its epoch, which is also its sid there.

    is_over: the session is closed, and a backlog waits there for the next login.
    """

    gateway: int
    epoch: int
    is_over: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Place).decode


class Directory:
    """The cluster's directory, as one gateway writes it. clock: unix seconds."""

    def __init__(self, engine: Engine, gateway: int, clock: Callable[[], float] = time.time) -> None:
        self.gateway = gateway
        self.ttl = TTL
        """Seconds that an entry lives after each write."""
        self.skipped = 0
        """Ends that were not written: too many waited while the engine could not be reached. They expire."""
        self._engine = engine
        self._clock = clock
        self._last = 0
        self._ends: asyncio.Queue[tuple[int, int, int, float]] = asyncio.Queue(MAX_WAITING)
        self._workers: list[asyncio.Task[None]] = []

    async def take_epoch(self, uid: int, slot: int) -> tuple[int, Place | None]:
        """Make a login on this gateway the newest of `(uid, slot)`: its epoch, and the place of the login before.

        Raises EngineUnavailable.
        """
        key = _key(uid, slot)
        while True:
            entry = await self._engine.get(key)
            before = _decode(entry.value) if entry is not None else None
            epoch = self._next_epoch(before)
            try:
                await self._write(key, Place(self.gateway, epoch), self.ttl, entry)
            except Conflict:
                continue  # another login of the same player at the same time
            return epoch, before

    async def find(self, uid: int, slot: int = 0) -> Place | None:
        """The place of a player's newest login, unless it is closed. Raises EngineUnavailable."""
        entry = await self._engine.get(_key(uid, slot))
        place = _decode(entry.value) if entry is not None else None
        return None if place is None or place.is_over else place

    async def renew(self, uid: int, slot: int, epoch: int) -> bool:
        """Keep a session's entry alive; write it again if the engine lost it.

        Returns False, and writes nothing, if there is a newer login.

        Raises Conflict if the entry is changing: a newer login came first, or this one was closed;
        EngineUnavailable.
        """
        key = _key(uid, slot)
        entry = await self._engine.get(key)
        if entry is not None and _decode(entry.value).epoch > epoch:
            return False
        await self._write(key, Place(self.gateway, epoch), self.ttl, entry)
        return True

    def ended(self, uid: int, slot: int, epoch: int, keep: float = 0.0) -> None:
        """A session is closed: delete its entry soon, or `keep` seconds later if a backlog waits for the player."""
        if not self._workers:
            self._workers = [tasks.live(self._write_ends, "directory ends") for _ in range(WORKERS)]
        try:
            self._ends.put_nowait((uid, slot, epoch, keep))
        except asyncio.QueueFull:
            self.skipped += 1

    async def close(self, seconds: float = 1.0) -> None:
        """Write the ends that wait, for up to `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ends.join()
        except TimeoutError:
            self.skipped += self._ends.qsize()
        finally:
            workers, self._workers = self._workers, []
            await tasks.cancel_and_wait(*workers)

    def _next_epoch(self, before: Place | None) -> int:
        self._last = max(self._last + 1, int(self._clock() * 1_000_000), before.epoch + 1 if before is not None else 0)
        return self._last

    async def _write(self, key: str, place: Place, ttl: float, entry: Entry | None) -> Revision:
        if entry is None:
            return await self._engine.create(key, _encode(place), ttl)
        return await self._engine.update(key, _encode(place), ttl, entry.revision)

    async def _write_ends(self) -> None:
        while True:
            uid, slot, epoch, keep = await self._ends.get()
            try:
                while not await self._try_to_end(_key(uid, slot), epoch, keep):  # noqa: ASYNC110 - it is a retry
                    await asyncio.sleep(RETRY)
            except Conflict:
                pass  # a newer login came first
            except Exception as error:
                log.error("the end of a session was not written", uid=uid, exc_info=error)
            finally:
                self._ends.task_done()

    async def _try_to_end(self, key: str, epoch: int, keep: float) -> bool:
        """False while the engine cannot be reached."""
        try:
            await self._write_end(key, epoch, keep)
        except EngineUnavailable:
            return False
        return True

    async def _write_end(self, key: str, epoch: int, keep: float) -> None:
        entry = await self._engine.get(key)
        if entry is None or (place := _decode(entry.value)).epoch != epoch:
            return
        if keep:
            over = msgspec.structs.replace(place, is_over=True)
            await self._engine.update(key, _encode(over), keep, entry.revision)
        else:
            await self._engine.delete(key, entry.revision)


def _key(uid: int, slot: int) -> str:
    return f"{PREFIX}.{uid}.{slot}"
