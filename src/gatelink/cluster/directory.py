"""Where each player is: (uid, slot) -> gateway and epoch, written by compare-and-set.

See docs/protocol.md, "Newer logins win".

An epoch (epochs.py) is given once, so it names the session, too: it is the session's sid on links.
"""

import asyncio
from collections.abc import Callable

import msgspec

from gatelink import tasks
from gatelink.cluster.engine import Conflict, Conflicts, Engine, EngineUnavailable, write_over
from gatelink.cluster.epochs import Epochs
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
    """The cluster's directory, as one gateway writes it. clock: unix seconds, by default the engine's.

    `find_place` and `places_of` read it.

    epochs: gives the epochs of the gateway's logins.
    """

    def __init__(self, engine: Engine, gateway: int, clock: Callable[[], float] | None = None) -> None:
        self.gateway = gateway
        self.ttl = TTL
        """Seconds that an entry lives after each write."""
        self.skipped = 0
        """Ends that were not written: too many waited while the engine could not be reached. They expire."""
        self.epochs = Epochs(engine, gateway, clock)
        self._engine = engine
        self._ends: asyncio.Queue[tuple[int, int, int, float]] = asyncio.Queue(MAX_WAITING)
        self._workers: list[asyncio.Task[None]] = []

    async def take_epoch(self, uid: int, slot: int) -> tuple[int, Place | None]:
        """Make a login on this gateway the newest of `(uid, slot)`: its epoch, and the place of the login before.

        Raises EngineUnavailable.
        """
        key = _key(uid, slot)
        conflicts = Conflicts(key)
        epoch = await self.epochs.next()
        while True:
            entry = await self._engine.get(key)
            before = _place(key, entry.value) if entry is not None else None
            if before is not None and before.epoch >= epoch:  # a login at the same time, or one that the engine kept
                epoch = await self._epoch_above(before.epoch)
            try:
                await write_over(self._engine, entry, key, _encode(Place(self.gateway, epoch)), self.ttl)
            except Conflict:  # another login of the same player at the same time
                await conflicts.another()
            else:
                return epoch, before

    async def renew(self, uid: int, slot: int, epoch: int) -> tuple[bool, Place | None]:
        """Keep a session's entry alive; write it again if the engine lost it.

        Returns whether the login is the newest, and the place in the entry before, of this gateway or another one.
        Writes nothing if there is a newer login.

        Raises Conflict if the entry is changing: a newer login came first, or this one was closed;
        EngineUnavailable.
        """
        key = _key(uid, slot)
        entry = await self._engine.get(key)
        before = _place(key, entry.value) if entry is not None else None
        if before is not None and before.epoch > epoch:
            return False, before
        await write_over(self._engine, entry, key, _encode(Place(self.gateway, epoch)), self.ttl)
        return True, before

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

    async def _epoch_above(self, other: int) -> int:
        epoch = await self.epochs.next()
        if epoch <= other:  # of a base that the engine lost
            await self.epochs.begin_again(above=other)
            epoch = await self.epochs.next()
        return epoch

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
        if entry is None or (place := _place(key, entry.value)).epoch != epoch:
            return
        if keep:
            over = msgspec.structs.replace(place, is_over=True)
            await self._engine.update(key, _encode(over), keep, entry.revision)
        else:
            await self._engine.delete(key, entry.revision)


async def find_place(engine: Engine, uid: int, slot: int = 0) -> Place | None:
    """The place of a player's newest login, unless it is closed. Raises EngineUnavailable."""
    key = _key(uid, slot)
    entry = await engine.get(key)
    place = _place(key, entry.value) if entry is not None else None
    return None if place is None or place.is_over else place


async def places_of(engine: Engine, uid: int) -> dict[int, Place]:
    """The places of a user's newest logins, by slot, but for those that are closed. Raises EngineUnavailable."""
    async with engine.watch(f"{PREFIX}.{uid}") as watch:
        found = {int(key.rpartition(".")[2]): _place(key, value) for key, value in watch.entries.items()}
    return {slot: place for slot, place in found.items() if not place.is_over}


def _place(key: str, value: bytes) -> Place:
    """Decode an entry. Raises EngineUnavailable if it can't be read: then nobody knows where the player is."""
    try:
        return _decode(value)
    except msgspec.MsgspecError as error:
        raise EngineUnavailable(f"{key} can't be read; was it written by a newer version? {error}") from None


def _key(uid: int, slot: int) -> str:
    return f"{PREFIX}.{uid}.{slot}"
