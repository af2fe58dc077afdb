"""Several handlers of one message, a table of a session's own, and messages of one's own in front of the handlers."""

import asyncio
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from gatelink.config import Limits
from gatelink.errors import CatalogError, CloseCode, ConfigError, LocalError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.session import Session
from tests.fakes import CATALOG, Bench, Count, Say, settle
from tests.handling import Seen, count, opened, say

# -- several handlers of one message --


async def test_handlers_are_called_in_the_order_in_which_they_were_registered_with_one_object() -> None:
    handlers, heard = Handlers(CATALOG), list[Any]()

    def hear(name: str, session: Session, message: Say) -> None:
        heard.append((name, message))

    for name in "abc":
        handlers.on(Say, also=True)(partial(hear, name))
    session, _ = opened(Bench(), handlers)
    session.receive([say("x"), say("y")])
    assert [(name, message.text) for name, message in heard] == [(n, text) for text in "xy" for n in "abc"]
    assert heard[0][1] is heard[1][1] is heard[2][1]
    assert handlers.routes[CATALOG.find(Say).id].count == 2, "messages are counted, not calls"


async def test_async_and_plain_handlers_of_a_message_keep_their_order_too() -> None:
    handlers, heard, gate = Handlers(CATALOG), list[str](), asyncio.Event()

    @handlers.on(Say)
    def first(session: Session, message: Say) -> None:
        heard.append(f"first {message.text}")

    @handlers.on(Say, also=True)
    async def second(session: Session, message: Say) -> None:
        heard.append(f"second {message.text}")
        await gate.wait()

    @handlers.on(Say, also=True)
    def third(session: Session, message: Say) -> None:
        heard.append(f"third {message.text}")

    session, _ = opened(Bench(), handlers)
    session.receive([say("a"), say("b")])
    await settle()
    assert heard == ["first a", "second a"]
    gate.set()
    await settle()
    assert heard == [f"{which} {text}" for text in "ab" for which in ("first", "second", "third")]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_fails_keeps_the_message_from_no_other(is_async: bool) -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    def fails(session: Session, message: Say) -> None:
        raise RuntimeError("at this one")

    async def fails_later(session: Session, message: Say) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("at this one")

    handlers.on(Say)(fails_later if is_async else fails)
    handlers.on(Say, also=True)(lambda session, message: heard.append(message.text))
    bench = Bench()
    session, _ = opened(bench, handlers)
    with capture_logs() as logs:
        session.receive([say("a"), say("b")])
        await settle()
    assert heard == ["a", "b"] and bench.context.stats.handler_errors == {"Say": 2}
    assert [line["event"] for line in logs] == ["handler failed"], "one line a second"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_calls_exit_keeps_the_message_from_no_other(is_async: bool) -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    def exits(session: Session, message: Say) -> None:
        sys.exit(1)

    async def exits_later(session: Session, message: Say) -> None:
        await asyncio.sleep(0)
        sys.exit(1)

    handlers.on(Say)(exits_later if is_async else exits)
    handlers.on(Say, also=True)(lambda session, message: heard.append(message.text))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([say("a")])
    await settle()
    assert heard == ["a"] and bench.context.stats.handler_errors == {"Say": 1}


async def test_of_several_handlers_one_that_returns_a_generator_fails() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    def steps() -> Iterator[None]:
        yield

    async def steps_later() -> Iterator[None]:
        return steps()

    handlers.on(Say, also=True)(lambda session, message: steps())
    handlers.on(Say, also=True)(lambda session, message: steps_later())
    handlers.on(Say, also=True)(lambda session, message: heard.append(message.text))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([say("a")])
    await settle()
    assert heard == ["a"] and bench.context.stats.handler_errors == {"Say": 2}


async def test_of_several_handlers_one_that_times_out_is_the_last() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    @handlers.on(Say)
    async def hangs(session: Session, message: Say) -> None:
        await asyncio.Event().wait()

    handlers.on(Say, also=True)(lambda session, message: heard.append(message.text))
    bench = Bench(Limits(handler_timeout=5.0))
    session, _ = opened(bench, handlers)
    session.receive([say("a")])
    await settle()
    await bench.pass_time(7)
    await settle()
    assert heard == [] and bench.context.stats.handler_errors == {"Say": 1}


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_ends_the_session_is_the_last(is_async: bool) -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    async def close_later(session: Session, message: Say) -> None:
        await asyncio.sleep(0)
        session.close()

    handlers.on(Say)(close_later if is_async else lambda session, message: session.close())
    for _ in range(2):
        handlers.on(Say, also=True)(lambda session, message: heard.append(message.text))
    session, _ = opened(Bench(), handlers)
    session.receive([say("a")])
    await settle()
    assert heard == [] and session.close_code is CloseCode.NORMAL


async def test_of_several_async_handlers_each_begins_when_the_one_before_it_has_ended() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    async def hear(name: str, session: Session, message: Say) -> None:
        heard.append(name)
        await asyncio.sleep(0)
        heard.append(f"end of {name}")

    for name in "abc":
        handlers.on(Say, also=True)(partial(hear, name))
    session, _ = opened(Bench(), handlers)
    session.receive([say("x")])
    await settle()
    assert heard == [f"{what}{name}" for name in "abc" for what in ("", "end of ")]


def test_a_second_handler_must_be_asked_for() -> None:
    handlers = Handlers(CATALOG)
    handlers.on(Say, also=True)(lambda session, message: None)
    with pytest.raises(CatalogError, match="also=True"):
        handlers.on(Say)(lambda session, message: None)


def test_a_message_has_one_rate() -> None:
    handlers = Handlers(CATALOG)
    handlers.on(Say, rate=5)(lambda session, message: None)
    handlers.on(Say, also=True)(lambda session, message: None)
    handlers.on(Say, also=True, rate=5)(lambda session, message: None)
    with pytest.raises(ConfigError, match="which has 5"):
        handlers.on(Say, also=True, rate=6)(lambda session, message: None)
    assert handlers.rates == {CATALOG.find(Say).id: 5}


async def test_objects_are_registered_beside_each_other_with_their_events() -> None:
    class Receiver:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_verified(self, session: Session) -> None:
            heard.append(f"{self.name} verified")

        def on_say(self, session: Session, message: Say) -> None:
            heard.append(f"{self.name} {message.text}")

        def on_closed(self, session: Session) -> None:
            heard.append(f"{self.name} closed")

    handlers, heard = Handlers(CATALOG), list[str]()
    handlers.register(Receiver("one"))
    with pytest.raises(CatalogError):
        handlers.register(Receiver("two"))
    handlers.register(Receiver("two"), also=True)
    session, _ = opened(Bench(), handlers)
    session.receive([say("a")])
    session.close()
    await settle()
    assert heard == [f"{name} {what}" for what in ("verified", "a", "closed") for name in ("one", "two")]


# -- a table of a session's own --


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_session_has_the_table_that_on_verified_gave_it(is_async: bool) -> None:
    common, own = Handlers(CATALOG), Seen()
    heard: list[str] = []

    def give(session: Session) -> None:
        session.handlers = own.handlers

    async def give_later(session: Session) -> None:
        await asyncio.sleep(0)
        session.handlers = own.handlers

    common.on_verified(give_later if is_async else give)
    common.on(Say)(lambda session, message: heard.append(message.text))
    session, _ = opened(Bench(), common)
    session.receive([say("a"), count(1), say("b")])
    await settle()
    session.close()
    await settle()
    assert own.notes == ["a", 1, -1, "b", "closed"] and heard == []


async def test_a_table_that_a_handler_gives_has_what_comes_behind_in_the_same_read() -> None:
    common, own = Handlers(CATALOG), Seen()
    common.on(Say)(lambda session, message: setattr(session, "handlers", own.handlers))
    session, _ = opened(Bench(), common)
    session.receive([say("a"), say("b"), count(1), say("c")])
    await settle()
    assert own.notes == ["b", 1, -1, "c"]


# -- messages of one's own --


async def test_a_message_of_ones_own_comes_after_what_was_received_and_alone() -> None:
    seen = Seen()
    seen.gate.clear()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([count(1), say("a")])
    await settle()
    session.inject(Say("own"))
    session.inject(Count(2))
    await settle()
    session.receive([say("b")])
    await settle()
    assert seen.notes == ["verified", 1]
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, "a", "own", 2, -2, "b"]


async def test_a_handler_may_inject_and_is_through_before_its_message_is_handled() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    @handlers.on(Say)
    def on_say(session: Session, message: Say) -> None:
        heard.append(message.text)
        if message.text == "a":
            session.inject(Say("own"))
            heard.append("through")

    session, _ = opened(Bench(), handlers)
    session.receive([say("a"), say("b")])
    await settle()
    session.receive([say("c")])
    assert heard == ["a", "through", "b", "own", "c"]


async def test_no_rate_holds_for_messages_of_ones_own_and_they_cost_the_peer_none_of_its() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()
    handlers.on(Say, rate=1)(lambda session, message: heard.append(message.text))
    session, _ = opened(Bench(), handlers)
    for n in range(5):
        session.inject(Say(f"own {n}"))
    await settle()
    session.receive([say("a"), say("b")])
    assert heard == [*(f"own {n}" for n in range(5)), "a"]


async def test_in_tick_mode_they_wait_for_the_tick() -> None:
    seen = Seen()
    seen.handlers.ticking = True
    session, _ = opened(Bench(), seen.handlers)
    session.inject(Say("own"))
    await settle()
    assert seen.notes == []
    seen.handlers.tick()
    assert seen.notes == ["verified", "own"]


async def test_what_is_injected_is_bounded_and_ends_with_the_session() -> None:
    seen = Seen()
    seen.gate.clear()
    session, _ = opened(Bench(Limits(max_inbox=4)), seen.handlers)
    session.inject(Count(1))
    await settle()
    for n in range(8):
        session.inject(Say(str(n)))
        if n == 5:
            await settle()  # some wait in the inbox, some to get there
    with pytest.raises(LocalError, match="8 messages wait"):
        session.inject(Say("one more"))
    session.close()
    with pytest.raises(SessionClosed):
        session.inject(Say("late"))
    seen.gate.set()
    await settle()
    assert seen.notes == ["verified", 1, -1, "closed"]


async def test_what_is_no_message_of_the_catalog_is_refused_at_once() -> None:
    class Unknown(Struct):
        n: int

    session, _ = opened(Bench(), Seen().handlers)
    with pytest.raises(CatalogError):
        session.inject(Unknown(1))


# -- several handlers of one event, and what each object keeps of a session --


async def test_two_objects_with_a_handler_of_one_event_are_both_called_and_keep_their_own_data() -> None:
    heard: list[Any] = []

    class Lobby:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_verified(self, session: Session) -> None:
            session.data_of[self] = self.name

        def on_closed(self, session: Session) -> None:
            heard.append(session.data_of[self])

    handlers = Handlers(CATALOG)
    for name in "ab":
        handlers.register(Lobby(name))
    session, _ = opened(Bench(), handlers)
    session.close()
    await settle()
    assert heard == ["a", "b"] and session.data is None


# -- what runs around each handler --


async def test_without_a_hook_the_handler_itself_is_called() -> None:
    handlers = Handlers(CATALOG)
    handlers.on("Say")(print)
    assert handlers.routes[CATALOG.find(Say).id].call is print


@pytest.mark.parametrize("order", ["the hooks first", "the handlers first"])
async def test_hooks_run_around_each_handler_the_first_one_outermost(order: str) -> None:
    handlers, heard = Handlers(CATALOG), list[Any]()

    def hooks() -> None:
        @handlers.around
        async def outer(session: Session, message: Any, call: Any) -> Any:
            heard.append("outer")
            result = await call(session, message)
            heard.append("outer ends")
            return result

        @handlers.around
        def inner(session: Session, message: Any, call_next: Any) -> Any:
            heard.append("inner")
            return call_next(session, message)

    def these() -> None:
        handlers.on(Say)(lambda session, message: heard.append(message.text))

        @handlers.default
        async def other(session: Session, message: Any) -> None:
            await asyncio.sleep(0)
            heard.append("other")

        handlers.on_verified(lambda _: heard.append("verified"))

    for register in (hooks, these) if order == "the hooks first" else (these, hooks):
        register()
    session, _ = opened(Bench(), handlers)
    session.receive([say("x"), count(1)])
    await settle()
    around = ["outer", "inner"]
    assert heard == ["verified", *around, "x", "outer ends", *around, "other", "outer ends"]


async def test_a_hook_that_fails_or_does_not_go_on_keeps_the_handler_from_running() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()

    @handlers.around
    def only_short(session: Session, message: Say, call_next: Any) -> Any:
        if message.text == "boom":
            raise ValueError
        return call_next(session, message) if len(message.text) < 3 else None

    handlers.on(Say)(lambda session, message: heard.append(message.text))
    bench = Bench()
    session, _ = opened(bench, handlers)
    with capture_logs():
        session.receive([say("a"), say("boom"), say("long"), say("b")])
    assert heard == ["a", "b"] and bench.context.stats.handler_errors == {"Say": 1}


async def test_a_hook_that_comes_later_runs_around_the_default_handler_too() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()
    handlers.default(lambda session, message: heard.append("default"))
    session, _ = opened(Bench(), handlers)
    session.receive([say("a")])

    @handlers.around
    def hook(session: Session, message: Say, call_next: Any) -> Any:
        heard.append("hook")
        return call_next(session, message)

    session.receive([say("b")])
    assert heard == ["default", "hook", "default"]
