"""Whatever an operator does to the bucket of a living cluster: it is noticed, healed, and health says the truth."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatelink import CloseCode, ConfigError, Membership, StaticTokens
from gatelink.cluster.directory import Place
from gatelink.cluster.engine import EngineError, Revision
from gatelink.cluster.engines import nats
from gatelink.cluster.engines.bucket import Message
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.gateway import Gateway
from tests.e2e.cluster.support import CATALOG, KEY, Ask, Recorder, Say, log_in, player
from tests.e2e.cluster.test_cluster_metrics import scrape, value
from tests.e2e.engines import TIMEOUT, fresh_bucket
from tests.e2e.support import TCP, leave, until
from tests.e2e.test_admin import request
from tests.support import MS

LONG = 600.0  # s
HEALED = 30_000 * MS

Harm = Callable[[NatsEngine, str], Awaitable[None]]
"""What an operator does to the bucket of that name."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket is looked at every 0.2 s."""
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.2)
    monkeypatch.setattr(nats, "RELIST_AFTER", 1.0)


async def api(engine: NatsEngine, verb: str, bucket: str, **options: object) -> dict[str, object]:
    """One request to the administration of streams, which must succeed."""
    answer = await engine._ask(f"$JS.API.STREAM.{verb}.KV_{bucket}", json.dumps(options).encode() if options else b"")
    found: dict[str, object] = json.loads(answer.data)
    assert "error" not in found, found
    return found


async def remove(engine: NatsEngine, bucket: str) -> None:
    await api(engine, "DELETE", bucket)


async def purge(engine: NatsEngine, bucket: str) -> None:
    await api(engine, "PURGE", bucket)


def make_again(**options: object) -> Harm:
    """Removes it, and makes one with those options and none of the cluster's, as `nats kv add` or a script may."""

    async def harm(engine: NatsEngine, bucket: str) -> None:
        await remove(engine, bucket)
        name = f"KV_{bucket}"
        answer = await engine._ask(
            f"$JS.API.STREAM.CREATE.{name}",
            json.dumps({"name": name, "subjects": [f"$KV.{bucket}.>"]} | options).encode(),
        )
        assert b'"error"' not in answer.data or b"already in use" in answer.data  # it may be made again by now

    return harm


def edit(**options: object) -> Harm:
    async def harm(engine: NatsEngine, bucket: str) -> None:
        config = (await api(engine, "INFO", bucket))["config"]
        assert isinstance(config, dict)
        await api(engine, "UPDATE", bucket, **(config | options))

    return harm


HARMS: dict[str, Harm] = {
    "removed": remove,
    "purged": purge,
    "made again, of a plain kind": make_again(),
    "made again, with a history": make_again(max_msgs_per_subject=5, allow_msg_ttl=True, discard="new"),
    "made again, with a life of its own": make_again(max_msgs_per_subject=1, max_age=3_600_000_000_000),
    "made again, in memory": make_again(storage="memory", max_msgs_per_subject=1),
    "made again, with a name for more": make_again(subjects=["$KV.mine.>"]),
    "edited, to have a history": edit(max_msgs_per_subject=10),
    "edited, to have a life of its own": edit(max_age=2_000_000_000, duplicate_window=1_000_000_000),
    "edited, to forget": edit(discard="old"),
    "edited, to be silent": edit(no_ack=True),
    "edited, to refuse a second write": edit(discard_new_per_subject=True),
    "made again, to forget what nobody reads": make_again(retention="interest"),
    "edited, to keep keys under other names": edit(subject_transform={"src": "$KV.>", "dest": "mine.>"}),
}

harms = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """`until` for what is asked of a server."""
    async with asyncio.timeout(HEALED):
        while not await check():  # noqa: ASYNC110 - a server tells of no event here
            await asyncio.sleep(0.05)


async def is_fit(engine: NatsEngine, bucket: str) -> bool:
    answer = await engine._ask(f"$JS.API.STREAM.INFO.KV_{bucket}")
    config = json.loads(answer.data).get("config")
    return config is not None and all(engine._bucket._needed(config).values())


@harms
async def test_a_bucket_is_made_again_or_mended_and_its_users_are_told(nats_server: NatsServer, harm: Harm) -> None:
    bucket = fresh_bucket()
    async with (
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine,
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as other,
        other.watch("a") as watch,
    ):
        told = 0

        def put_back() -> None:
            nonlocal told
            told += 1

        engine.when_back.add(put_back)
        kept = await engine.put("a.kept", b"1", LONG)
        assert engine.is_available
        await harm(engine, bucket)

        async def is_healed() -> bool:
            return await is_fit(other, bucket) and engine.is_available and other.is_available

        await eventually(is_healed)
        revision: Revision = await engine.put("a.new", b"2", LONG)
        assert await engine.update("a.new", b"3", LONG, revision)
        await engine.put("a.short", b"4", 1)
        if await other.get("a.kept") is None:  # it lost what it held: they were told, and the watch finds out
            await until(lambda: told >= 1)
            await until(lambda: "a.kept" not in watch.entries)
            assert engine.stats.contents_lost >= 1
        else:
            assert await engine.update("a.kept", b"5", LONG, kept)
        await until(lambda: dict(watch.entries).get("a.new") == b"3")

        async def has_expired() -> bool:
            return await other.get("a.short") is None

        await eventually(has_expired)
        await until(lambda: "a.short" not in watch.entries)


async def test_calls_that_come_while_the_bucket_is_gone_are_done_as_soon_as_it_is_there(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 3_600.0)  # it is the calls that notice
    bucket = fresh_bucket()
    async with NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: engine.get("k"),
            lambda: engine.put("k", b"1", LONG),
            lambda: engine.create("fresh", b"1", LONG),
            lambda: engine.delete("k"),
        ]
        for call in calls:
            await remove(engine, bucket)
            await call()
            await engine.put("k", b"1", LONG)


async def test_a_call_that_was_not_answered_is_no_loss_of_contents(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark may still have been written."""
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 3_600.0)
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        connection = engine._connection
        assert connection is not None
        bucket = engine._bucket
        assert await bucket.mark(connection.ask)

        async def unanswered(subject: str, data: bytes = b"", headers: object = None) -> Message:
            await connection.ask(subject, data, headers)  # type: ignore[arg-type]
            raise TimeoutError

        for _ in range(3):
            with pytest.raises(TimeoutError):
                await bucket.mark(unanswered)
        assert await bucket.mark(connection.ask) and await bucket.mark(connection.ask)


async def test_an_older_copy_of_the_bucket_is_known_for_one_though_the_server_was_only_away(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with NatsServer(folder) as server, NatsEngine(server.url, timeout=TIMEOUT) as engine:
        told: list[None] = []
        engine.when_back.add(lambda: told.append(None))
        await engine.put("k", b"before", LONG)
        server.kill()
        shutil.copytree(folder / "store", tmp_path / "backup")
        await server.start()
        await until(lambda: engine.is_available and told, "nothing was lost, but entries may have expired")
        lost = engine.stats.contents_lost
        assert not lost
        for n in range(5):
            await engine.put("k", b"after %d" % n, LONG)
        server.kill()
        await until(lambda: not engine.is_available)
        shutil.rmtree(folder / "store")
        shutil.copytree(tmp_path / "backup", folder / "store")
        del told[:]
        await server.start()
        await until(lambda: engine.is_available)
        entry = await engine.get("k")
        assert entry is not None and entry.value == b"before"
        await until(lambda: engine.stats.contents_lost == 1 and told)


@pytest.mark.parametrize(
    "limit", [{"max_msgs": 1}, {"max_bytes": 100}, {"max_msg_size": 10}, {"max_msg_size": 150}], ids=str
)
async def test_a_bucket_that_somebody_made_too_small_is_told_of_until_it_is_large_enough(
    nats_server: NatsServer, limit: dict[str, int]
) -> None:
    """A write that does not fit raises, nothing is forgotten, and the limit stays as it was set."""
    bucket = fresh_bucket()
    async with NatsEngine(nats_server.url, bucket=bucket, timeout=1_000 * MS) as engine:
        for n in range(3):
            await engine.put(f"k.{n}", b"1", LONG)
        await edit(**limit)(engine, bucket)
        await until(lambda: not engine.is_available)
        with pytest.raises(EngineError):
            await engine.put("k.4", b"1" * 200, LONG)
        await edit(**dict.fromkeys(limit, -1))(engine, bucket)
        await until(lambda: engine.is_available)
        await engine.put("k.4", b"1" * 200, LONG)
        assert await engine.get("k.0") is not None


@pytest.mark.parametrize("options", [{"retention": "workqueue"}, {"sealed": True}], ids=["work queue", "sealed"])
async def test_a_bucket_that_no_edit_mends_is_told_with_the_command_that_does(
    nats_server: NatsServer, options: dict[str, object]
) -> None:
    bucket = fresh_bucket()
    command = f"`nats stream rm KV_{bucket}`"
    async with NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine:
        harm = edit(**options) if "sealed" in options else make_again(**options)
        with capture_logs() as lines:
            await harm(engine, bucket)
            await until(lambda: not engine.is_available)
            with pytest.raises(EngineError, match=command):
                await engine.put("a.1", b"1", LONG)
        assert any(command in line.get("cause", "") for line in lines)
        with pytest.raises(ConfigError, match=command) as caught:
            await NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT).start()
        assert "stream edit" not in str(caught.value)
        await remove(engine, bucket)
        await until(lambda: engine.is_available)


class Village:
    """Two gateways and a lobby, each with an engine of its own on one bucket; the gateways have admin ports."""

    def __init__(self, bucket: str, operator: NatsEngine, gateways: list[Gateway], lobby: Recorder) -> None:
        self.bucket = bucket
        self.operator = operator
        self.gateways = gateways
        self.lobby = lobby
        self.servers: list[Gateway | Recorder] = [*gateways, lobby]

    def available(self) -> list[bool]:
        return [server.cluster.engine.is_available for server in self.servers]

    async def health(self) -> list[int]:
        admins = [gateway._admin for gateway in self.gateways]
        return [(await request(admin, "GET /healthz"))[0] for admin in admins if admin is not None]


@asynccontextmanager
async def village(url: str) -> AsyncIterator[Village]:
    bucket = fresh_bucket()
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(NatsEngine(url, bucket=bucket, timeout=5_000 * MS)) for _ in range(4)
        ]
        gateways = [
            Gateway(
                TCP,
                member=Membership(engine=engine, keys=(KEY,), id=id),
                tokens=StaticTokens(),
                catalog=CATALOG,
                admin="127.0.0.1:0",
            )
            for id, engine in ((1, engines[0]), (2, engines[1]))
        ]
        lobby = Recorder("lobby", 12, member=Membership(engine=engines[2], keys=(KEY,), id=20))
        for server in (*gateways, lobby):
            await server.start()
            stack.push_async_callback(server.stop, 0)
        await until(lambda: len(lobby.cluster.links) == 2)
        yield Village(bucket, engines[3], gateways, lobby)


@pytest.mark.parametrize("harm", [HARMS[name] for name in ("removed", "purged", "made again, of a plain kind")])
async def test_a_cluster_whose_bucket_is_lost_goes_on_and_puts_back_its_living_servers(
    nats_server: NatsServer, harm: Harm
) -> None:
    async with village(nats_server.url) as town, player(town.gateways[0], 7) as old, player(town.gateways[0], 9) as on:
        await old.ask(1)
        here = town.gateways[0].sessions.get(7)
        assert here is not None
        await harm(town.operator, town.bucket)

        async def are_back() -> bool:
            found = [await town.operator.get(f"servers.{id}") for id in (1, 2, 20)]
            place = await town.lobby.cluster.find(7)
            return None not in found and place == Place(1, here.epoch) and await town.health() == [200, 200]

        await eventually(are_back)
        await old.ask(2)
        assert await town.lobby.players.push(9, Say(100))
        await until(lambda: 100 in on.heard)
        async with player(town.gateways[1], 7) as new:  # another login, elsewhere: the older one ends first
            assert here.close_code is CloseCode.REPLACED
            await new.ask(3)
            async with player(town.gateways[1], 8) as fresh:
                await fresh.ask(4)
        assert all({1, 2, 20} <= set(server.cluster.registry.servers) for server in town.servers)
        assert not town.lobby.is_replaced and town.lobby.is_running


async def test_a_login_elsewhere_before_the_entries_are_back_still_ends_the_older_session(
    nats_server: NatsServer,
) -> None:
    async with village(nats_server.url) as town, player(town.gateways[0], 7) as old:
        await old.ask(1)
        here = town.gateways[0].sessions.get(7)
        assert here is not None
        town.gateways[0].cluster.engine.when_back.clear()  # this gateway is late
        await purge(town.operator, town.bucket)
        async with player(town.gateways[1], 7) as new:
            await new.ask(2)
            town.gateways[0].arbiter.renewals.all_are_due()
            await until(lambda: here.close_code is CloseCode.REPLACED)
            await new.ask(3)
            place = await town.lobby.cluster.find(7)
            assert place is not None and place.gateway == 2


async def test_health_and_metrics_say_so_while_the_bucket_takes_no_writes_and_logins_come_back_by_themselves(
    nats_server: NatsServer,
) -> None:
    async with village(nats_server.url) as town, player(town.gateways[0], 7) as old:
        await edit(sealed=True)(town.operator, town.bucket)  # which no edit can undo
        await until(lambda: not any(town.available()))
        assert await town.health() == [503, 503]
        assert value(await scrape(town.gateways[0]), "engine_available") == 0
        await old.ask(1)
        assert town.lobby.trouble
        await remove(town.operator, town.bucket)
        await until(lambda: all(town.available()))
        await until(lambda: not any(gateway.trouble for gateway in town.gateways), "the entries are checked")
        assert await town.health() == [200, 200] and not town.lobby.trouble
        assert value(await scrape(town.gateways[0]), "engine_available") == 1
        session = await log_in(town.gateways[1], 8)
        session.send(Ask(1))
        await leave(session)
