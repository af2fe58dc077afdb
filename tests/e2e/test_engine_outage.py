"""NATS goes away: killed under load, cut off, silent. Calls end at their deadlines, and everything heals by itself."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from structlog.testing import capture_logs

from gatelink import tasks
from gatelink.cluster.engine import Change, Engine, EngineUnavailable, NoResponder, Revision, Watch
from gatelink.cluster.engines import follower as watching
from gatelink.cluster.engines import nats
from gatelink.cluster.engines.bucket import Message
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.follower import Follower
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.engines.nats_client import NatsConnection
from tests.e2e.engines import TIMEOUT, fresh_bucket, path_to, within
from tests.e2e.support import until
from tests.support import MS, run_watched

LONG = 600.0  # s
HEALED = 15_000 * MS  # the longest that anything may take to heal here
SHORT = 0.3  # s; the deadline of calls that are to miss it


@contextlib.contextmanager
def in_haste(engine: NatsEngine) -> Iterator[None]:
    """Calls of `engine` have the deadline SHORT. Those that are to be in time have TIMEOUT."""
    before = engine._timeout, engine._patience
    engine._timeout = engine._patience = SHORT
    try:
        yield
    finally:
        engine._timeout, engine._patience = before


async def echo(data: bytes) -> bytes:
    return data


async def told(watch: Watch, until_key: str) -> dict[str, bytes | None]:
    """What the reader is told up to a change of `until_key`, by key."""
    seen: dict[str, bytes | None] = {}
    async with asyncio.timeout(HEALED):
        async for change in watch:
            assert change.key not in seen, "a change is told once"
            seen[change.key] = change.value
            if change.key == until_key:
                break
    return seen


class Writer:
    """Writes keys of its own, one call after the other, and knows what each may be: unanswered, old or new."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.may_be: dict[str, set[bytes | None]] = {f"load.{number}.{n}": {None} for n in range(10)}
        self.outcomes: Counter[str] = Counter()
        self._engine = engine
        self._revisions: dict[str, Revision] = {}
        self._n = 0

    async def run(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            key = list(self.may_be)[self._n % len(self.may_be)]
            await self._write(key)
            self._n += 1
            await asyncio.sleep(0)

    async def _write(self, key: str) -> None:
        value = None if self._n % 7 == 0 else b"%d" % self._n
        revision = self._revisions.pop(key, None)
        try:
            if value is None:
                await self._engine.delete(key)
            elif revision is not None:
                self._revisions[key] = await self._engine.update(key, value, LONG, revision)
            else:
                self._revisions[key] = await self._engine.put(key, value, LONG)
        except EngineUnavailable:
            self.outcomes["unavailable"] += 1
            self.may_be[key] = self.may_be[key] | {value}
        else:
            self.outcomes["done"] += 1
            self.may_be[key] = {value}


async def test_nothing_that_was_acknowledged_is_lost_and_all_heals_when_nats_is_killed_under_load() -> None:
    with capture_logs() as logs:
        async with (
            NatsServer() as server,
            NatsEngine(server.url, timeout=1.0) as one,
            NatsEngine(server.url, timeout=1.0) as other,
            other.watch("load") as watch,
        ):
            heard: list[bytes] = []
            await other.subscribe("event", heard.append)
            await other.serve("echo", echo)
            writers = [Writer(one, number) for number in range(10)]
            is_over = False
            writing = asyncio.gather(*(writer.run(lambda: is_over) for writer in writers))
            for _ in range(3):
                done = sum(writer.outcomes["done"] for writer in writers)
                await until(lambda goal=done + 200: sum(w.outcomes["done"] for w in writers) > goal)  # type: ignore[misc]
                os.kill(server.pid, signal.SIGKILL)  # and go on writing while it dies
                await until(lambda: not one.is_available and not other.is_available)
                server.kill()
                await server.start()
                await until(lambda: one.is_available and other.is_available)
            is_over = True
            await writing

            there = {}
            for writer in writers:
                for key, may_be in writer.may_be.items():
                    entry = await one.get(key)
                    assert (entry.value if entry is not None else None) in may_be
                    if entry is not None:
                        there[key] = entry.value
            async with asyncio.timeout(HEALED):
                await until(lambda: dict(watch.entries) == there)
                await one.publish("event", b"after")
                await until(lambda: b"after" in heard)
                assert await one.request("echo", b"again", HEALED) == b"again"
            assert one.stats.losses == other.stats.losses == 3
    said = Counter(line["event"] for line in logs)
    assert said["the engine is away"] == said["the engine is back"] == 6
    assert said.total() < 30, said


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_whatever_breaks_under_load_calls_raise_nothing_but_unavailable_and_watches_nothing(
    nats_server: NatsServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The transports of the two loops fail in ways of their own, some in the task that happens to write."""

    async def main() -> None:
        bucket = fresh_bucket()
        async with (
            path_to(nats_server) as path,
            NatsEngine(within(nats_server.url, path), bucket=bucket, timeout=TIMEOUT) as engine,
        ):
            outcomes: Counter[type[Exception] | None] = Counter()
            is_over = False

            async def write(n: int) -> None:
                while not is_over:
                    try:
                        await engine.put(f"k.{n}", b"\x00" * 20_000, LONG)
                        await engine.publish("s", b"\x00" * 20_000)
                    except Exception as error:
                        outcomes[type(error)] += 1
                    else:
                        outcomes[None] += 1
                    await asyncio.sleep(0)

            async with engine.watch("k") as watch:
                writing = asyncio.gather(*(write(n) for n in range(50)))
                for _ in range(4):
                    await until(lambda goal=outcomes[None] + 50: outcomes[None] > goal)  # type: ignore[misc]
                    path.cut_all()
                    await until(lambda: not engine.is_available)
                is_over = True
                await writing
                assert set(outcomes) == {None, EngineUnavailable}
                await until(lambda: len(watch.entries) == 50)

    with capture_logs() as logs:
        run_watched(main(), new_loop)
    said = {line["event"] for line in logs}
    assert {"the engine is away"} < said <= {"the engine is away", "the engine is back", "a watch begins again"}


async def test_while_nats_is_away_calls_fail_at_their_deadline_and_nothing_spins() -> None:
    async with NatsServer() as server, NatsEngine(server.url, timeout=TIMEOUT) as engine, engine.watch("a") as watch:
        heard: list[bytes] = []
        await engine.put("a.k", b"1", LONG)
        await engine.subscribe("s", heard.append)
        server.kill()
        await until(lambda: not engine.is_available)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: engine.get("a.k"),
            lambda: engine.put("a.k", b"2", LONG),
            lambda: engine.create("a.k", b"2", LONG),
            lambda: engine.update("a.k", b"2", LONG, Revision(1)),
            lambda: engine.delete("a.k"),
            lambda: engine.watch("a").__aenter__(),
            lambda: engine.publish("s", b"2"),
            lambda: engine.subscribe("s", heard.append),
            lambda: engine.serve("s", echo),
            lambda: engine.request("s", b"2", SHORT),
        ]

        async def fails(call: Callable[[], Awaitable[object]]) -> None:
            started = time.monotonic()
            with pytest.raises(EngineUnavailable):
                await call()
            assert SHORT * 0.9 < time.monotonic() - started < HEALED

        with in_haste(engine):
            await asyncio.gather(*(fails(call) for call in calls))
        burnt = time.thread_time()
        await asyncio.sleep(1)  # a second of the outage, whose processor time counts
        assert time.thread_time() - burnt < 0.3
        assert dict(watch.entries) == {"a.k": b"1"}, "what was known stays known"

        await server.start()
        await until(lambda: engine.is_available)
        entry = await engine.get("a.k")
        assert entry is not None and entry.value == b"1", "what failed is not done later"
        await engine.publish("s", b"3")
        await until(lambda: heard)
        assert heard == [b"3"], "what failed is neither published later nor subscribed"
        with pytest.raises(NoResponder):
            await engine.request("s", b"", TIMEOUT)


async def test_a_watch_tells_what_changed_while_it_was_cut_off(nats_server: NatsServer) -> None:
    bucket = fresh_bucket()
    async with (
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as there,
        path_to(nats_server) as path,
        NatsEngine(within(nats_server.url, path), bucket=bucket, timeout=TIMEOUT) as cut_off,
        there.watch("a") as witness,
    ):
        for key in ("a.same", "a.changed", "a.deleted", "a.expired"):
            await there.put(key, b"before", LONG)
        async with cut_off.watch("a") as watch:
            assert len(watch.entries) == 4
            path.drop()
            path.cut_all()
            await until(lambda: not cut_off.is_available)
            await there.put("a.expired", b"before", 1)
            await there.put("a.changed", b"after", LONG)
            await there.delete("a.deleted")
            await there.put("a.new", b"after", LONG)
            await there.put("a.passing", b"", LONG)
            await there.delete("a.passing")
            await until(lambda: "a.expired" not in witness.entries)
            assert len(watch.entries) == 4
            path.restore()
            path.cut_all()
            await until(lambda: watch.entries == witness.entries)
            await there.put("a.end", b"", LONG)
            assert await told(watch, "a.end") == {
                "a.changed": b"after",
                "a.deleted": None,
                "a.expired": None,
                "a.new": b"after",
                "a.end": b"",
            }


async def test_a_connection_that_has_gone_silent_is_noticed_and_replaced(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.2)
    monkeypatch.setattr(nats, "ALIVE_TIMEOUT", 1.0)
    async with path_to(nats_server) as path:
        url = within(nats_server.url, path)
        async with NatsEngine(url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
            path.drop()
            with in_haste(engine), pytest.raises(EngineUnavailable):
                await engine.put("k", b"1", LONG)
            path.restore()  # for new connections; the one there is stays dead
            await until(lambda: engine.stats.losses)
            await until(lambda: engine.is_available)
            await engine.put("k", b"2", LONG)


@pytest.mark.parametrize("unanswered", ["$JS.API.STREAM.INFO.", "$JS.API.STREAM.CREATE.", "$JS.API.CONSUMER.CREATE."])
async def test_what_a_cluster_without_a_leader_leaves_unanswered_is_asked_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT", 0.2)
    monkeypatch.setattr(nats, "ASK_INTERVAL", 0.2)
    ask = NatsConnection.ask
    asked = 0

    async def first_in_vain(
        self: NatsConnection, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Message:
        nonlocal asked
        if subject.startswith(unanswered):
            asked += 1
            if asked == 1:
                await asyncio.Event().wait()
        return await ask(self, subject, data, headers)

    monkeypatch.setattr(NatsConnection, "ask", first_in_vain)
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine, engine.watch("a"):
        assert asked > 1


async def test_a_call_for_a_key_waits_for_an_election_as_long_as_its_engine_has_patience(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a leader of all of JetStream, NATS answers at once, with an error."""
    ask = NatsConnection.ask
    error = {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}
    refused = 0

    async def without_leader(
        self: NatsConnection, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Message:
        nonlocal refused
        if subject.endswith(".k"):
            refused += 1
            return Message(subject, "", json.dumps({"error": error}).encode(), {})
        return await ask(self, subject, data, headers)

    bucket = fresh_bucket()
    async with (
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine,
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT, patience=TIMEOUT) as patient,
    ):
        patient._timeout = SHORT
        monkeypatch.setattr(NatsConnection, "ask", without_leader)
        waiting = asyncio.create_task(patient.put("k", b"1", LONG))
        with in_haste(engine), pytest.raises(EngineUnavailable, match=f"no answer within {SHORT:g} s"):
            await engine.put("k", b"2", LONG)
        await until(lambda: refused > 2)
        monkeypatch.setattr(NatsConnection, "ask", ask)
        await waiting
        entry = await engine.get("k")
        assert entry is not None and entry.value == b"1"


async def test_a_watch_that_missed_a_message_begins_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing: list[str] = []
    take = Follower._take

    async def lose(self: Follower, message: Message) -> None:
        if not losing or not message.subject.endswith(losing[0]):
            await take(self, message)
        else:
            losing.clear()

    monkeypatch.setattr(Follower, "_take", lose)
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        async with engine.watch("a") as watch:
            await engine.put("a.1", b"1", LONG)
            await until(lambda: watch.entries)
            losing.append("a.1")
            await engine.delete("a.1")
            await engine.put("a.2", b"2", LONG)
            await until(lambda: dict(watch.entries) == {"a.2": b"2"})
            assert engine.stats.resyncs >= 1
            assert await told(watch, "a.2") == {"a.2": b"2"}, "a.1 came and went unread"


@pytest.fixture
def soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch finds within a second that its consumer says nothing."""
    monkeypatch.setattr(watching, "HEARTBEAT", 0.2)
    monkeypatch.setattr(watching, "SILENCE", 1.0)


async def test_a_watch_leaves_a_nats_server_that_does_not_catch_up_with_the_others(
    nats_server: NatsServer, soon_silent: None
) -> None:
    """In a cluster of three one was killed, and could not catch up for 40 s. Living keys expired in watches there."""
    with capture_logs() as logs:
        async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
            async with engine.watch("a"):
                engine._bucket.newest += 1_000  # what others acknowledged
                await until(lambda: engine.stats.resyncs >= 2)
    assert any("is behind the others" in str(line.get("cause")) for line in logs)


async def test_a_watch_goes_on_while_only_keys_of_other_prefixes_are_written(
    nats_server: NatsServer, soon_silent: None
) -> None:
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        async with engine.watch("a"):
            (follower,) = engine._followers
            while follower._received < 3 * watching.BEHIND:
                await engine.put("b", b"", LONG)
            assert engine.stats.resyncs == 0


async def consumer_of(engine: NatsEngine, bucket: str) -> str:
    """The name of the one consumer of a bucket."""
    listed = await engine._ask(f"$JS.API.CONSUMER.NAMES.KV_{bucket}")
    (name,) = json.loads(listed.data)["consumers"]
    return f"KV_{bucket}.{name}"


async def test_a_watch_whose_consumer_is_gone_begins_again(nats_server: NatsServer, soon_silent: None) -> None:
    bucket = fresh_bucket()
    async with NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine, engine.watch("a") as watch:
        await engine._ask(f"$JS.API.CONSUMER.DELETE.{await consumer_of(engine, bucket)}")
        await engine.put("a.1", b"1", LONG)
        await until(lambda: watch.entries)
        assert [change async for change in one_of(watch)] == [Change("a.1", b"1")]


async def test_a_watch_whose_consumer_an_operator_paused_begins_again(
    nats_server: NatsServer, soon_silent: None
) -> None:
    bucket = fresh_bucket()
    async with NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as engine, engine.watch("a") as watch:
        until_when = json.dumps({"pause_until": "2100-01-01T00:00:00Z"}).encode()
        paused = await engine._ask(f"$JS.API.CONSUMER.PAUSE.{await consumer_of(engine, bucket)}", until_when)
        assert json.loads(paused.data)["paused"]
        await engine.put("a.1", b"1", LONG)
        await until(lambda: watch.entries)
        assert [change async for change in one_of(watch)] == [Change("a.1", b"1")]


async def one_of(watch: Watch) -> AsyncIterator[Change]:
    async for change in watch:
        yield change
        return


async def test_a_process_that_sends_more_than_the_network_takes_waits_and_is_told_at_the_deadline(
    nats_server: NatsServer,
) -> None:
    bucket = fresh_bucket()
    megabyte = b"\x00" * 1_000_000
    async with (
        path_to(nats_server) as path,
        NatsEngine(within(nats_server.url, path), bucket=bucket, timeout=TIMEOUT) as engine,
        NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) as other,
    ):
        heard: list[int] = []
        await other.subscribe("s", lambda data: heard.append(len(data)))
        path.pause()
        sent = 0
        with in_haste(engine), pytest.raises(EngineUnavailable):
            while sent < 100:
                await engine.publish("s", megabyte)
                sent += 1
        assert 1 <= sent < 50  # what the sockets' buffers took
        assert engine._connection is not None and engine._connection._client.pending_data_size < 3_000_000
        path.resume()
        await until(lambda: len(heard) == sent)
        await engine.publish("s", b"")
        await until(lambda: heard[-1] == 0)


async def test_processes_that_connect_again_do_not_come_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts grow, and no two are the same."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float, result: None = None) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    engine = NatsEngine("nats://127.0.0.1:1", timeout=SHORT)
    monkeypatch.setattr(asyncio, "sleep", noted)
    with pytest.raises(EngineUnavailable):
        await engine.start()
    assert len(set(pauses)) == len(pauses) > 8
    assert pauses[0] < 0.1 < 1 <= max(pauses) <= 3


async def test_an_engine_that_is_closed_while_its_server_is_silent_leaves_nothing(nats_server: NatsServer) -> None:
    async with path_to(nats_server) as path:
        engine = NatsEngine(within(nats_server.url, path), bucket=fresh_bucket(), timeout=TIMEOUT)
        await engine.start()
        connection = engine._connection
        assert connection is not None
        path.pause()
        engine._look.set()
        await until(lambda: connection._answers, "it asks whether the connection lives")
        engine._timeout = 100 * MS
        await engine.close()
        path.resume()


async def test_a_connection_is_read_on_when_a_wait_for_its_pong_is_cancelled(nats_server: NatsServer) -> None:
    """A subscription that ends waits for one, and may be cancelled or run into its deadline."""
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        connection = engine._connection
        assert connection is not None
        waiting = asyncio.create_task(connection._client.flush())
        while not connection._client._pongs:  # noqa: ASYNC110 - a poll would come too late
            await asyncio.sleep(0)
        await tasks.cancel_and_wait(waiting)
        await connection.round_trip()
        await engine.put("k", b"1", 60.0)
        assert engine._connection is connection and not connection.lost


@pytest.mark.parametrize("where", ["publish", "subscribe", "drain"])
async def test_a_task_ends_though_nats_py_takes_its_cancellation(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Its `_flush_pending` takes it, and so may `asyncio.wait_for` of Python 3.11. A stop would wait for ever."""
    of = Subscription if where == "drain" else Client
    work = getattr(of, where)
    held = asyncio.Event()

    async def taking(*args: Any, **options: Any) -> Any:
        held.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await work(*args, **options)

    async def receive(message: Message) -> None: ...

    async def forever(connection: NatsConnection) -> None:
        while True:
            await connection.send("a", b"")
            stop = await connection.listen("a", receive)
            await stop()

    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        connection = engine._connection
        assert connection is not None
        with monkeypatch.context() as patch:
            patch.setattr(of, where, taking)
            task = asyncio.create_task(forever(connection))
            await held.wait()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task}, timeout=HEALED)
        assert task.cancelled()
        await tasks.cancel_and_wait(task)
