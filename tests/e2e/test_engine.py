"""What every engine promises; each test runs on the one in memory and on a real nats-server."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from gatelink.cluster.engine import (
    MAX_NAME,
    MAX_VALUE,
    Change,
    Conflict,
    Engine,
    EngineUnavailable,
    NoResponder,
    Revision,
    Watch,
)
from gatelink.cluster.engines.workers import MAX_SERVED
from gatelink.errors import RequestFailed
from tests.e2e.engines import NewEngine
from tests.e2e.support import until
from tests.support import MS

LONG = 600.0  # s; a ttl that does not end in a test
WAIT = 30_000 * MS

bad_names = pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "ä", "a/b", "a\r\nPUB x 0", "a\n", "x" * (MAX_NAME + 1)]
)


@asynccontextmanager
async def two(new_engine: NewEngine) -> AsyncIterator[tuple[Engine, Engine]]:
    """The engines of two servers of a cluster."""
    async with new_engine() as one, new_engine() as other:
        yield one, other


async def gone(watch: Watch, key: str) -> None:
    """Returns when the watch has seen `key` go."""
    async with asyncio.timeout(WAIT):
        async for change in watch:
            if change == Change(key, None):
                return


async def value_of(engine: Engine, key: str) -> bytes | None:
    entry = await engine.get(key)
    return entry.value if entry is not None else None


class TestKeys:
    async def test_what_one_server_puts_the_others_get(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            assert await other.get("a.b") is None
            revision = await one.put("a.b", b"1", LONG)
            entry = await other.get("a.b")
            assert entry is not None and (entry.key, entry.value, entry.revision) == ("a.b", b"1", revision)
            assert await other.put("a.b", b"2", LONG) != revision
            assert await value_of(one, "a.b") == b"2"

    async def test_an_empty_value_and_the_largest_are_values(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            for value in (b"", b"\x00" * MAX_VALUE):
                await engine.put("k", value, LONG)
                assert await value_of(engine, "k") == value

    async def test_create_makes_what_is_not_there_and_nothing_else(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            await engine.create("k", b"1", LONG)
            with pytest.raises(Conflict):
                await engine.create("k", b"2", LONG)
            assert await value_of(engine, "k") == b"1"

    async def test_a_deleted_key_can_be_created_again(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            for value in (b"1", b"2", b"3"):
                await engine.create("k", value, LONG)
                assert await value_of(engine, "k") == value
                await engine.delete("k")
                assert await engine.get("k") is None

    async def test_an_expired_key_can_be_created_again(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine, engine.watch("a") as watch:
            await engine.create("a.k", b"1", 1)
            await gone(watch, "a.k")
            await engine.create("a.k", b"2", LONG)
            assert await value_of(engine, "a.k") == b"2"

    async def test_update_replaces_the_write_that_it_names(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            first = await engine.create("k", b"1", LONG)
            second = await engine.update("k", b"2", LONG, first)
            with pytest.raises(Conflict):
                await engine.update("k", b"3", LONG, first)
            assert await value_of(engine, "k") == b"2"
            await engine.update("k", b"4", LONG, second)
            assert await value_of(engine, "k") == b"4"

    async def test_update_of_what_is_gone_is_a_conflict(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            revision = await engine.put("k", b"1", LONG)
            await engine.delete("k")
            with pytest.raises(Conflict):
                await engine.update("k", b"2", LONG, revision)
            with pytest.raises(Conflict):
                await engine.update("never", b"2", LONG, revision)
            assert await engine.get("k") is None

    async def test_delete_takes_away_only_the_write_that_it_names(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            await engine.delete("never")
            first = await engine.put("k", b"1", LONG)
            second = await engine.put("k", b"2", LONG)
            with pytest.raises(Conflict):
                await engine.delete("k", first)
            assert await value_of(engine, "k") == b"2"
            await engine.delete("k", second)
            assert await engine.get("k") is None
            with pytest.raises(Conflict):
                await engine.delete("k", second)

    async def test_of_several_writes_at_once_one_wins(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            before = await self._only_winner(one, other, lambda engine, n: engine.create("k", b"%d" % n, LONG))
            await self._only_winner(one, other, lambda engine, n: engine.update("k", b"%d" % n, LONG, before))

    async def _only_winner(
        self, one: Engine, other: Engine, write: Callable[[Engine, int], Awaitable[Revision]]
    ) -> Revision:
        """Writes the numbers to 20 at once; all but one conflict, and that one is what is there."""
        results = await asyncio.gather(*(write((one, other)[n % 2], n) for n in range(20)), return_exceptions=True)
        won = [(n, result) for n, result in enumerate(results) if not isinstance(result, Conflict)]
        assert len(won) == 1
        entry = await one.get("k")
        assert entry is not None and (entry.value, entry.revision) == (b"%d" % won[0][0], won[0][1])
        return entry.revision

    @bad_names
    async def test_a_bad_key_is_the_callers_error(self, new_engine: NewEngine, name: str) -> None:
        async with new_engine() as engine:
            bad: list[Callable[[], Awaitable[object]]] = [
                lambda: engine.get(name),
                lambda: engine.put(name, b"", LONG),
                lambda: engine.create(name, b"", LONG),
                lambda: engine.update(name, b"", LONG, Revision(1)),
                lambda: engine.delete(name),
                lambda: engine.watch(name).__aenter__(),
                lambda: engine.publish(name, b""),
                lambda: engine.subscribe(name, print),
                lambda: engine.request(name, b"", 1),
            ]
            for call in bad:
                with pytest.raises(ValueError, match="name|words"):
                    await call()

    @pytest.mark.parametrize("ttl", [0, -1, 0.999, float("nan"), float("inf"), 1e12])
    async def test_a_bad_ttl_is_the_callers_error(self, new_engine: NewEngine, ttl: float) -> None:
        async with new_engine() as engine:
            with pytest.raises(ValueError, match="ttl"):
                await engine.put("k", b"", ttl)

    async def test_too_large_a_value_is_the_callers_error(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            large = b"\x00" * (MAX_VALUE + 1)
            bad: list[Callable[[], Awaitable[object]]] = [
                lambda: engine.put("k", large, LONG),
                lambda: engine.publish("s", large),
                lambda: engine.request("s", large, 1),
            ]
            for call in bad:
                with pytest.raises(ValueError, match="bytes"):
                    await call()


class TestExpiry:
    """Times are measured by keys that expire before and after the one in question."""

    async def test_a_key_expires_and_not_before_its_time(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine, engine.watch("a") as watch:
            started = time.monotonic()
            await engine.put("a.k", b"1", 1)
            await gone(watch, "a.k")
            assert time.monotonic() - started > 0.99
            assert await engine.get("a.k") is None

    async def test_a_fraction_of_a_second_is_rounded_up(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine, engine.watch("a") as watch:
            started = time.monotonic()
            await engine.put("a.k", b"1", 1.01)
            await gone(watch, "a.k")
            assert time.monotonic() - started > 1.01

    async def test_each_write_sets_the_expiry_anew_shorter_or_longer(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine, engine.watch("k") as watch:
            shorter = await engine.put("k.shorter", b"1", LONG)
            await engine.update("k.shorter", b"2", 1, shorter)
            await engine.put("k.put", b"1", LONG)
            await engine.put("k.put", b"2", 1)
            longer = await engine.put("k.longer", b"1", 1)
            await engine.update("k.longer", b"2", LONG, longer)
            await engine.put("k.last", b"1", 2)
            seen = {}
            async with asyncio.timeout(WAIT):
                async for change in watch:
                    seen[change.key] = change.value
                    if change == Change("k.last", None):
                        break
            assert seen == {"k.shorter": None, "k.put": None, "k.longer": b"2", "k.last": None}
            assert await engine.get("k.shorter") is None and await engine.get("k.put") is None
            assert await value_of(engine, "k.longer") == b"2"

    async def test_an_update_of_what_has_expired_is_a_conflict(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine, engine.watch("a") as watch:
            revision = await engine.put("a.k", b"1", 1)
            await gone(watch, "a.k")
            with pytest.raises(Conflict):
                await engine.update("a.k", b"2", LONG, revision)


class TestWatch:
    async def test_entries_are_complete_at_once_and_by_words(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            for key in ("a", "a.b", "a.c.d", "ab", "b.a", "a.gone"):
                await one.put(key, key.encode(), LONG)
            await one.delete("a.gone")
            async with other.watch("a") as watch, other.watch("a.c") as below, other.watch("none") as empty:
                assert dict(watch.entries) == {"a.b": b"a.b", "a.c.d": b"a.c.d"}
                assert dict(below.entries) == {"a.c.d": b"a.c.d"}
                assert dict(empty.entries) == {}

    async def test_changes_come_in_order_and_are_in_entries_first(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other), other.watch("a") as watch:
            changes = aiter(watch)
            for key, value in (("a.1", b"1"), ("a.2", b"2"), ("a.1", b"3")):
                await one.put(key, value, LONG)
                assert await asyncio.wait_for(anext(changes), WAIT) == Change(key, value)
                assert watch.entries[key] == value
            await one.put("b", b"", LONG)
            await one.delete("a.1")
            assert await asyncio.wait_for(anext(changes), WAIT) == Change("a.1", None)
            assert dict(watch.entries) == {"a.2": b"2"}

    async def test_a_slow_reader_is_told_the_newest_of_each_key_once(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            await one.put("a.old", b"0", LONG)
            async with other.watch("a") as watch:
                for n in range(100):
                    await one.put("a.busy", b"%d" % n, LONG)
                await one.put("a.passing", b"", LONG)
                await one.delete("a.passing")
                await one.delete("a.old")
                await one.put("a.last", b"", LONG)
                await until(lambda: "a.last" in watch.entries)
                seen = []
                async with asyncio.timeout(WAIT):
                    async for change in watch:
                        seen.append(change)
                        if change.key == "a.last":
                            break
                assert seen == [Change("a.busy", b"99"), Change("a.old", None), Change("a.last", b"")]

    async def test_the_same_value_again_is_no_change(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other), other.watch("a") as watch:
            await one.put("a.1", b"1", LONG)
            changes = aiter(watch)
            assert await asyncio.wait_for(anext(changes), WAIT) == Change("a.1", b"1")
            await one.put("a.1", b"1", LONG)
            await one.put("a.2", b"2", LONG)
            assert await asyncio.wait_for(anext(changes), WAIT) == Change("a.2", b"2")

    async def test_a_watch_opened_amid_writes_misses_none(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):

            async def write(part: int) -> None:
                for n in range(100):
                    await one.put(f"a.{part}.{n}", b"%d" % n, LONG)

            writing = asyncio.gather(*(write(part) for part in range(3)))
            known: list[dict[str, bytes]] = []
            for _ in range(5):
                async with other.watch("a") as watch:
                    assert not known or known[-1].items() <= watch.entries.items()
                    known.append(dict(watch.entries))
            async with other.watch("a") as watch:
                await writing
                await until(lambda: len(watch.entries) == 300)

    async def test_it_ends_when_the_engine_is_closed(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        await engine.start()
        async with engine.watch("a") as watch:
            await engine.put("a.1", b"1", LONG)
            await until(lambda: watch.entries)
            await engine.close()
            assert [change async for change in watch] == [Change("a.1", b"1")]


class TestEvents:
    async def test_every_subscriber_hears_all_in_order(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            heard: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
            await one.subscribe("s", heard[0].append)
            await other.subscribe("s", heard[1].append)
            await other.subscribe("s.t", heard[2].append)
            sent = [b"%d" % n for n in range(1_000)]
            for data in sent:
                await one.publish("s", data)
            await until(lambda: len(heard[0]) == len(heard[1]) == len(sent))
            assert heard == (sent, sent, [])

    async def test_nothing_comes_after_close(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            closed: list[bytes] = []
            still: list[bytes] = []
            subscription = await other.subscribe("s", closed.append)
            await other.subscribe("s", still.append)
            await one.publish("s", b"1")
            await until(lambda: closed == still == [b"1"])
            await one.publish("s", b"2")
            await subscription.close()
            seen = len(closed)
            await one.publish("s", b"3")
            await until(lambda: still == [b"1", b"2", b"3"])
            assert len(closed) == seen
            await subscription.close()

    async def test_a_handler_that_raises_is_logged_and_called_again(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            heard: list[bytes] = []

            def handle(data: bytes) -> None:
                heard.append(data)
                raise RuntimeError("on purpose")

            with capture_logs() as logs:
                await engine.subscribe("s", handle)
                for _ in range(3):
                    await engine.publish("s", b"x")
                await until(lambda: len(heard) == 3)
            assert [(line["event"], line["subject"]) for line in logs] == [("an event's handler failed", "s")]


class TestRequests:
    async def test_the_answer_comes_back(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):

            async def double(data: bytes) -> bytes:
                return data * 2

            await other.serve("s", double)
            assert await asyncio.gather(*(one.request("s", b"%d" % n, WAIT) for n in range(50))) == [
                b"%d" % n * 2 for n in range(50)
            ]
            assert await one.request("s", b"", WAIT) == b""

    async def test_a_subject_that_nobody_serves_is_told_at_once(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            await engine.subscribe("s", print)  # to listen to events is not to serve
            with pytest.raises(NoResponder):
                await engine.request("s", b"", LONG)

    async def test_an_engine_that_closes_serves_no_more(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            serving = await other.serve("s", answer(b"yes"))
            assert await one.request("s", b"", WAIT) == b"yes"
            await serving.close()
            with pytest.raises(NoResponder):
                await one.request("s", b"", WAIT)
            await serving.close()

    async def test_what_is_under_way_when_serving_ends_is_answered(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            outcomes: Counter[bytes] = Counter()

            async def ask() -> None:
                while not outcomes[b"nobody"]:
                    try:
                        outcomes[await one.request("s", b"", WAIT)] += 1
                    except NoResponder:
                        outcomes[b"nobody"] += 1

            serving = await other.serve("s", answer(b"yes"))
            asking = asyncio.gather(*(ask() for _ in range(20)))
            await until(lambda: outcomes[b"yes"] > 100)
            await serving.close()
            await asking
            assert set(outcomes) == {b"yes", b"nobody"}

    async def test_each_request_goes_to_one_of_the_servers(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            await one.serve("s", answer(b"one"))
            await other.serve("s", answer(b"other"))
            answers = [await one.request("s", b"", WAIT) for _ in range(100)]
            assert set(answers) == {b"one", b"other"}

    @pytest.mark.parametrize("result", [RuntimeError("secret"), b"\x00" * (MAX_VALUE + 1)])
    async def test_a_handler_that_fails_fails_the_request_and_is_logged_where_it_is(
        self, new_engine: NewEngine, result: Exception | bytes
    ) -> None:
        async with two(new_engine) as (one, other):
            with capture_logs() as logs:
                await other.serve("s", answer(result))
                with pytest.raises(RequestFailed) as caught:
                    await one.request("s", b"", WAIT)
            assert "secret" not in str(caught.value)
            assert [(line["event"], line["subject"]) for line in logs] == [("a request failed", "s")]
            assert isinstance(logs[0]["exc_info"], RuntimeError if isinstance(result, Exception) else ValueError)

    async def test_without_an_answer_it_ends_at_its_deadline_and_so_does_its_handler(
        self, new_engine: NewEngine
    ) -> None:
        async with two(new_engine) as (one, other):
            cancelled = asyncio.Event()

            async def hang(data: bytes) -> bytes:
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
                return b""

            await other.serve("s", hang)
            started = time.monotonic()
            with capture_logs(), pytest.raises((EngineUnavailable, RequestFailed)):
                await one.request("s", b"", 0.2)
            assert time.monotonic() - started > 0.15
            await asyncio.wait_for(cancelled.wait(), WAIT)

    async def test_requests_are_served_side_by_side_up_to_a_limit(self, new_engine: NewEngine) -> None:
        async with two(new_engine) as (one, other):
            begun = 0
            go = asyncio.Event()

            async def wait(data: bytes) -> bytes:
                nonlocal begun
                begun += 1
                await go.wait()
                return b"done"

            await other.serve("s", wait)
            asking = [asyncio.create_task(one.request("s", b"", 60)) for _ in range(MAX_SERVED)]
            await until(lambda: begun == MAX_SERVED)
            with pytest.raises(RequestFailed, match="refused"):
                await one.request("s", b"", WAIT)
            go.set()
            assert await asyncio.gather(*asking) == [b"done"] * MAX_SERVED
            assert await one.request("s", b"", WAIT) == b"done"

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    async def test_a_bad_timeout_is_the_callers_error(self, new_engine: NewEngine, seconds: float) -> None:
        async with new_engine() as engine:
            with pytest.raises(ValueError, match="timeout"):
                await engine.request("s", b"", seconds)


class TestLife:
    async def test_a_closed_engine_is_unavailable(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        for _ in range(2):
            assert not is_available(engine)
            async with engine:
                assert is_available(engine)
                await engine.put("k", b"", LONG)
            assert not is_available(engine)
            for call in calls(engine):
                with pytest.raises(EngineUnavailable):
                    await call()
        await engine.close()

    async def test_close_ends_a_request_and_what_is_being_served(self, new_engine: NewEngine) -> None:
        engine = new_engine()
        await engine.start()
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hang(data: bytes) -> bytes:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return b""

        await engine.serve("s", hang)
        asking = asyncio.create_task(engine.request("s", b"", 60))
        await asyncio.wait_for(begun.wait(), WAIT)
        await engine.close()
        assert ended.is_set()
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(asking, WAIT)

    async def test_a_cancelled_call_leaves_the_engine_usable(self, new_engine: NewEngine) -> None:
        async with new_engine() as engine:
            for call in calls(engine):
                task = asyncio.ensure_future(call())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await engine.put("k", b"after", LONG)
            assert await value_of(engine, "k") == b"after"


def answer(result: Exception | bytes) -> Callable[[bytes], Awaitable[bytes]]:
    """A handler that gives, or raises, `result`."""

    async def handle(data: bytes) -> bytes:
        if isinstance(result, Exception):
            raise result
        return result

    return handle


def is_available(engine: Engine) -> bool:
    return engine.is_available


def calls(engine: Engine) -> list[Callable[[], Awaitable[object]]]:
    """Every call that needs the engine."""
    return [
        lambda: engine.get("k"),
        lambda: engine.put("k", b"", LONG),
        lambda: engine.create("k", b"", LONG),
        lambda: engine.update("k", b"", LONG, Revision(1)),
        lambda: engine.delete("k"),
        lambda: engine.watch("k").__aenter__(),
        lambda: engine.publish("s", b""),
        lambda: engine.subscribe("s", print),
        lambda: engine.serve("s", answer(b"")),
        lambda: engine.request("s", b"", 1),
    ]
