"""Handlers that do not end: in the log after 10 s, counted, and cancelled after limits.handler_timeout."""

import asyncio
import functools
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.config import Limits
from gatelink.errors import CatalogError
from gatelink.handlers import Handlers
from gatelink.session.session import Session
from tests.fakes import CATALOG, Bench, Count, Say, settle
from tests.handling import count, opened, say


def hanging(handlers: Handlers, notes: list[Any]) -> None:
    """Count waits for ever; Say takes a note."""

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            notes.append("cancelled")

    handlers.on(Say)(lambda session, message: notes.append(message.text))


async def test_a_handler_that_runs_for_ten_seconds_is_told_once_with_message_and_uid() -> None:
    handlers = Handlers(CATALOG)
    hanging(handlers, [])
    bench = Bench()
    sessions = [opened(bench, handlers, uid=uid)[0] for uid in (7, 8)]
    for session in sessions:
        session.receive([count(1)])
    await settle()
    assert (bench.context.running.count(), bench.context.running.count(10)) == (2, 0)
    with capture_logs() as logs:
        for _ in range(30):
            await bench.pass_time(1)
    assert bench.context.running.count(10) == 2
    (line,) = [line for line in logs if line["event"] == "handler does not end"]
    assert (line["message"], line["uid"], line["sessions"]) == ("Count", 7, 2)
    await bench.context.finish_tasks(0)
    assert bench.context.running.count() == 0


async def test_over_its_time_a_handler_is_cancelled_and_the_next_message_is_handled() -> None:
    handlers = Handlers(CATALOG)
    notes: list[Any] = []
    hanging(handlers, notes)
    bench = Bench(Limits(handler_timeout=3))
    session, _ = opened(bench, handlers)
    with capture_logs() as logs:
        session.receive([count(1), say("next"), count(2), say("last")])
        for _ in range(20):
            await settle()
            await bench.pass_time(1)
        await settle()
    assert notes == ["cancelled", "next", "cancelled", "last"]
    assert bench.stats.handler_errors == {"Count": 2} and session.inbox is None
    assert isinstance(logs[0]["exc_info"], TimeoutError)


async def test_a_handler_that_catches_its_cancellation_has_failed_and_its_session_goes_on() -> None:
    handlers = Handlers(CATALOG)
    notes: list[Any] = []

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            notes.append("caught")

    handlers.on(Say)(lambda session, message: notes.append(message.text))
    bench = Bench(Limits(handler_timeout=3))
    session, _ = opened(bench, handlers)
    with capture_logs():
        session.receive([count(1), say("next")])
        for _ in range(6):
            await settle()
            await bench.pass_time(1)
        await settle()
    assert notes == ["caught", "next"] and bench.stats.handler_errors == {"Count": 1}


async def test_an_async_function_behind_a_plain_decorator_runs_in_its_turn() -> None:
    handlers = Handlers(CATALOG)
    notes: list[Any] = []

    async def on_count(session: Session, message: Count) -> None:
        await settle()
        notes.append(message.n)

    @functools.wraps(on_count)
    def decorated(session: Session, message: Count) -> Any:
        return on_count(session, message)

    handlers.on(Count)(decorated)
    handlers.on(Say)(lambda session, message: notes.append(message.text))
    handlers.on_closed(lambda session: on_count(session, Count(-1)))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([count(1), say("a"), count(2), say("b")])
    await bench.context.finish_tasks(5)
    session.close()
    await settle()
    await bench.context.finish_tasks(5)
    assert notes == [1, "a", 2, "b", -1] and not bench.stats.handler_errors


async def test_a_handler_with_a_yield_is_refused() -> None:
    handlers = Handlers(CATALOG)

    def generator(session: Session, message: Count) -> Any:
        yield

    async def asynchronous(session: Session, message: Count) -> Any:
        yield

    for handler in (generator, asynchronous, functools.partial(generator)):
        with pytest.raises(CatalogError, match="has a `yield`"):
            handlers.on(Count)(handler)


async def test_a_tick_handles_all_that_came_however_long_that_takes() -> None:
    handlers = Handlers(CATALOG)
    handlers.ticking = True
    notes: list[Any] = []

    @handlers.on(Count)
    def on_count(session: Session, message: Count) -> None:
        end = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < end:
            pass
        notes.append((session.uid, message.n))

    bench = Bench()
    sessions = [opened(bench, handlers, uid=uid)[0] for uid in (7, 8)]
    for session in sessions:
        session.receive([count(n) for n in range(10)])
    handlers.tick()
    assert notes == [(uid, n) for uid in (7, 8) for n in range(10)] and not bench.context.tasks
