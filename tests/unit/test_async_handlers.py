"""An `async def` handler is as any task: it times out, groups, has its context, and is cancelled at the end."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink.config import Limits
from gatelink.errors import SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.session import Session
from tests.fakes import CATALOG, Bench, Count, Say, settle, turn
from tests.handling import count, opened, say

# -- asyncio in handlers --


async def test_timeouts_task_groups_and_contextvars_work_in_a_handler_as_in_any_task() -> None:
    handlers = Handlers(CATALOG)
    notes: list[Any] = []
    who: ContextVar[int] = ContextVar("who")

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        who.set(message.n)
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            notes.append("timeout")
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(0, "child"))
        notes.append((child.result(), who.get()))

    bench = Bench()
    (first, _), (second, _) = opened(bench, handlers), opened(bench, handlers, uid=8)
    first.receive([count(1)])
    second.receive([count(2)])
    await bench.context.finish_tasks(5)
    assert notes.count("timeout") == 2 and ("child", 1) in notes and ("child", 2) in notes
    assert who.get(None) is None and not bench.stats.handler_errors


async def test_a_task_group_that_fails_is_its_handlers_failure() -> None:
    handlers = Handlers(CATALOG)

    async def fail() -> None:
        raise LookupError

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    bench = Bench()
    session, _ = opened(bench, handlers)
    with capture_logs():
        session.receive([count(1), count(2)])
        await bench.context.finish_tasks(5)
    assert bench.stats.handler_errors == {"Count": 2}


async def test_awaiting_what_was_cancelled_is_a_handlers_failure_and_the_next_message_is_handled() -> None:
    handlers = Handlers(CATALOG)
    heard: list[int] = []

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        heard.append(message.n)
        other = asyncio.ensure_future(asyncio.sleep(60))
        other.cancel()
        await other

    bench = Bench(Limits(max_inbox=2))
    session, stream = opened(bench, handlers)
    with capture_logs():
        session.receive([count(1), count(2), count(3)])
        await settle()
    assert heard == [1, 2, 3] and bench.stats.handler_errors == {"Count": 3}
    assert session.inbox is None and not stream.paused


class Callable_:
    def __init__(self, notes: list[int]) -> None:
        self.notes = notes

    async def __call__(self, session: Session, message: Count) -> None:
        await turn()
        self.notes.append(message.n)

    async def method(self, session: Session, message: Count) -> None:
        await self(session, message)


async def add_to(notes: list[int], session: Session, message: Count) -> None:
    await turn()
    notes.append(message.n)


MAKERS: dict[str, Callable[[list[int]], Callable[[Session, Count], Awaitable[None]]]] = {
    "partial": lambda notes: functools.partial(add_to, notes),
    "partial of a partial": lambda notes: functools.partial(functools.partial(add_to), notes),
    "object": Callable_,
    "partial of an object": lambda notes: functools.partial(Callable_(notes)),
    "method": lambda notes: Callable_(notes).method,
}


@pytest.mark.parametrize("kind", MAKERS)
async def test_every_kind_of_async_callable_is_awaited(kind: str) -> None:
    notes: list[int] = []
    handlers = Handlers(CATALOG)
    handlers.on(Count)(MAKERS[kind](notes))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([count(1), count(2)])
    await bench.context.finish_tasks(5)
    assert notes == [1, 2] and not bench.stats.handler_errors


@pytest.mark.parametrize("ticking", [False, True])
@pytest.mark.parametrize("by", ["itself", "another"])
async def test_a_handler_that_the_application_cancels_ends_alone_and_the_next_message_is_handled(
    by: str, ticking: bool
) -> None:
    handlers = Handlers(CATALOG)
    handlers.ticking = ticking
    notes: list[Any] = []
    running: list[asyncio.Task[None]] = []

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append(task)
        if by == "itself":
            task.cancel()
        await asyncio.get_running_loop().create_future()

    handlers.on(Say)(lambda session, message: notes.append(message.text))
    handlers.on_closed(lambda session: notes.append("closed"))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([count(1), say("next"), count(2), say("last")])
    for n in (0, 1):
        handlers.tick()
        await settle()
        if by == "another":
            running[n].cancel()
            await settle()
    handlers.tick()
    await settle()
    assert notes == ["next", "last"] and session.inbox is None and not bench.context.tasks
    session.close()
    await settle()
    handlers.tick()
    assert notes == ["next", "last", "closed"] and session.last_handler.has_ended


# -- the end --


async def test_handlers_that_do_not_end_in_time_are_cancelled_and_closed_is_told_all_the_same() -> None:
    handlers = Handlers(CATALOG)
    notes: list[str] = []

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise

    @handlers.on_closed
    async def on_closed(session: Session) -> None:
        notes.append("closed")

    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([count(1)])
    await settle()
    session.close()
    await settle()  # `closed` stands behind the handler that hangs
    await bench.context.finish_tasks(0)
    handlers.tick()
    await bench.context.finish_tasks(5)
    assert notes == ["cancelled", "closed"]
    assert session.inbox is None and not bench.context.tasks and not bench.stats.handler_errors


async def test_a_handler_may_wait_for_all_the_others() -> None:
    handlers = Handlers(CATALOG)
    notes: list[int] = []

    @handlers.on(Count)
    async def on_count(session: Session, message: Count) -> None:
        if message.n == 1:
            await session.context.finish_tasks(5)
        else:
            await settle()
        notes.append(message.n)

    bench = Bench()
    (first, _), (second, _) = opened(bench, handlers), opened(bench, handlers, uid=8)
    first.receive([count(1)])
    second.receive([count(2)])
    await asyncio.gather(*bench.context.tasks)
    assert notes == [2, 1]


async def test_sending_to_a_third_session_that_has_left_is_a_failure_of_the_handler() -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)
    session, _ = opened(bench, handlers)
    gone, _ = opened(bench, handlers, uid=8)
    gone.close()
    handlers.on(Say)(lambda session, message: gone.send(message))
    with capture_logs() as logs:
        session.receive([say("a")])
    assert bench.stats.handler_errors == {"Say": 1}
    assert isinstance(logs[0]["exc_info"], SessionClosed)
