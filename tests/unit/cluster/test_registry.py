"""The registry: an entry that is lost is written again, whatever else happens to it or stands beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from gatelink import tasks
from gatelink.cluster.engine import Conflict, EngineUnavailable, Revision
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.view import View
from gatelink.cluster.registry import Registry, ServerInfo, State
from tests.e2e.support import until

SOON = 0.01
NEVER = 60.0


@asynccontextmanager
async def registry(engine: MemoryEngine, id: int, **options: Any) -> AsyncIterator[Registry]:
    one = Registry(engine, **options)
    await one.start()
    await one.register(ServerInfo(id=id, type=12, name="lobby"))
    try:
        yield one
    finally:
        await one.close()


class Busy(MemoryEngine):
    """Another write always comes first while `busy`."""

    busy = False

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        if self.busy:
            raise Conflict("another came first")
        return await super().create(key, value, ttl)

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        if self.busy:
            raise Conflict("another came first")
        return await super().update(key, value, ttl, revision)


async def test_an_entry_that_is_lost_is_made_anew_at_once() -> None:
    """As after an engine that was away for longer than an entry lives."""
    async with MemoryEngine() as engine, registry(engine, 20, keepalive=NEVER) as one:
        await until(lambda: 20 in one.servers)
        await engine.delete("servers.20")
        async with asyncio.timeout(30):
            while await engine.get("servers.20") is None:  # noqa: ASYNC110 - an engine tells of no event here
                await asyncio.sleep(0)


async def test_a_server_that_could_not_write_its_entry_goes_on_trying() -> None:
    async with Busy() as engine, registry(engine, 20, keepalive=SOON) as one, registry(engine, 21) as other:
        engine.busy = True
        failed = engine.stats.calls["get"]
        await until(lambda: engine.stats.calls["get"] > failed + 1, "it tried twice")
        await one.set_state(State.DRAINING)  # a stop is not to fail for it
        engine.busy = False
        await until(lambda: other.servers[20].state is State.DRAINING)


@pytest.mark.parametrize(
    "junk", [b"", b"\xc1", msgspec.msgpack.encode({"id": 0, "type": 12, "name": "of a later version"})]
)
async def test_an_entry_that_is_not_understood_hides_no_other(junk: bytes) -> None:
    async with MemoryEngine() as engine:
        await engine.put("servers.30", junk, NEVER)
        async with registry(engine, 20) as one:
            await engine.put("servers.31", junk, NEVER)
            await engine.put("servers.no-id", junk, NEVER)
            await engine.delete("servers.no-id")
            async with registry(engine, 21):
                await until(lambda: set(one.servers) == {20, 21})
                await engine.put("servers.21", junk, NEVER)
                await engine.delete("servers.30")
                await asyncio.sleep(SOON)  # that nothing changes has no event
                assert set(one.servers) == {20, 21}, "what was known of it stays"


class Breaking(MemoryEngine):
    """A watch of it ends with an error once its view ends; a new one fails while `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[View] = []
        self.away = False

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[View]:
        if self.away:
            raise EngineUnavailable("away")
        async with super().watch(prefix) as view:
            self.views.append(view)
            yield view
            raise ValueError("not foreseen")


async def test_a_watch_that_fails_begins_again_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", SOON)
    changes: list[tuple[int | None, int | None]] = []

    def on_change(before: ServerInfo | None, now: ServerInfo | None) -> None:
        changes.append((before.id if before else None, now.id if now else None))

    async with Breaking() as engine, registry(engine, 20, keepalive=NEVER, on_change=on_change) as one:
        async with registry(engine, 21, keepalive=NEVER):
            await until(lambda: set(one.servers) == {20, 21})
            engine.away = True
            engine.views[0].end()
            before = tasks.failures["registry watch"]
            await until(lambda: tasks.failures["registry watch"] > before + 1, "it failed, and the next one too")
        async with registry_without_watch(engine, 22):
            engine.away = False
            await until(lambda: set(one.servers) == {20, 22}, "21 has gone and 22 come while nothing was watched")
            assert (21, None) in changes


async def test_an_entry_of_an_earlier_run_that_a_copy_brings_back_does_not_replace_the_server_that_runs() -> None:
    async with MemoryEngine() as engine:
        old = ServerInfo(id=20, type=12, name="lobby", started_at=1_000.0)
        replaced: list[None] = []
        async with registry(engine, 20, keepalive=NEVER, on_replaced=lambda: replaced.append(None)) as one:
            assert one.me is not None
            await until(lambda: 20 in one.servers)
            await engine.put("servers.20", msgspec.msgpack.encode(old), NEVER)
            await until(lambda: engine._rows["servers.20"].value == msgspec.msgpack.encode(one.me), "it writes its own")
            await until(lambda: one.servers[20] == one.me)
            assert not replaced
            newer = msgspec.structs.replace(old, started_at=one.me.started_at + 1.0)
            await engine.put("servers.20", msgspec.msgpack.encode(newer), NEVER)
            await until(lambda: bool(replaced))
            entry = await engine.get("servers.20")
            assert entry is not None and b"lobby" in entry.value and entry.value == msgspec.msgpack.encode(newer)


async def test_when_the_engine_is_back_an_entry_is_looked_at_before_it_is_written() -> None:
    """In a bucket that was made again, another server's entry may have the revision of ours by chance."""
    async with MemoryEngine() as engine:
        replaced: list[None] = []
        async with registry(engine, 20, keepalive=NEVER, on_replaced=lambda: replaced.append(None)) as one:
            assert one.me is not None
            await until(lambda: 20 in one.servers)
            newer = msgspec.structs.replace(one.me, instance="another", started_at=one.me.started_at + 1.0)
            ours = engine._rows["servers.20"]
            engine._rows["servers.20"] = ours._replace(value=msgspec.msgpack.encode(newer))  # no watch is told
            for tell in list(engine.when_back):
                tell()
            await until(lambda: bool(replaced))
            assert engine._rows["servers.20"].value == msgspec.msgpack.encode(newer)
        assert not engine.when_back


@asynccontextmanager
async def registry_without_watch(engine: MemoryEngine, id: int) -> AsyncIterator[None]:
    one = Registry(engine, keepalive=NEVER)
    await one.register(ServerInfo(id=id, type=12, name="lobby"))
    try:
        yield
    finally:
        await one.close()


def test_an_entry_has_the_names_that_every_version_reads() -> None:
    """Servers of two versions share a registry while a cluster is updated."""
    info = ServerInfo(id=20, type=12, name="lobby", wants_login_events=True, updated_at=7.5)
    entry = msgspec.msgpack.decode(msgspec.msgpack.encode(info))
    assert entry["greets"] is True and entry["told_at"] == 7.5
    assert set(entry) == {
        *("id", "type", "name", "inner", "outer", "public_key", "greets", "version", "state", "load", "admin"),
        *("instance", "started_at", "told_at", "wants_presence"),
    }
