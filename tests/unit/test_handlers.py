"""Every message reaches its handler, in order and one at a time for each session, whatever the handlers do."""

import asyncio
import functools
import gc
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from gatelink.cluster.player import Player
from gatelink.config import Limits, WireOptions
from gatelink.errors import BodyError, CatalogError, CloseCode, ConfigError
from gatelink.handlers import Handlers
from gatelink.handling.fallback import RawFrame
from gatelink.handling.routes import TIME_BUCKETS, Route
from gatelink.net.connection import deliver
from gatelink.session.interfaces import Peer
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.body import BodyCoder, compress
from gatelink.wire.control import Lost
from gatelink.wire.frames import COMPRESSED, CONTROL, SCRAMBLED, Frame, FrameDecoder, encode_frame
from gatelink.wire.messages import Catalog
from tests.fakes import CATALOG, COUNT, SAY, Bench, Count, Say, settle, state_of, turn
from tests.handling import BAD, Seen, count, opened, say
from tests.processes import ended, python

# -- registration --


@pytest.mark.parametrize("what", [Say, SAY, "Say"])
async def test_a_handler_is_registered_by_type_id_or_name(what: type | int | str) -> None:
    handlers = Handlers(CATALOG)
    heard: list[Say] = []

    @handlers.on(what)
    def on_say(session: Session, message: Say) -> None:
        heard.append(message)

    session, _ = opened(Bench(), handlers)
    session.receive([say("a")])
    assert heard == [Say("a")]
    assert callable(on_say), "the decorator gives the function back"


@pytest.mark.parametrize("what", [int, 12_345, "Sya"])
def test_a_message_that_is_not_registered_can_have_no_handler(what: type | int | str) -> None:
    with pytest.raises(CatalogError):
        Handlers(CATALOG).on(what)


def test_a_type_checker_sees_a_handler_that_takes_another_message() -> None:
    def counts(session: Session, message: Count) -> None: ...

    handlers = Handlers(CATALOG)
    with pytest.raises(CatalogError, match="Say is called with .* `message`, the message, is annotated as Count"):
        handlers.on(Say)(counts)  # type: ignore[arg-type]  # mypy fails if nothing is wrong here
    handlers.on(Count)(counts)
    assert handlers.routes.keys() == {COUNT}


class Takes:
    """Handlers that can't be called as they would be, and how they are registered."""

    def one(session: Any) -> None: ...
    def two(session: Any, message: Any) -> None: ...
    def three(session: Any, message: Any, more: Any) -> None: ...
    def keyword(session: Any, message: Any, *, more: Any) -> None: ...
    async def waits(session: Any, frame: Any) -> None: ...


@pytest.mark.parametrize(
    ("register", "handler", "words"),
    [
        (lambda table: table.on(Say), Takes.one, r"Say is called with \(session, message\); Takes.one\(session"),
        (lambda table: table.on(Say), Takes.three, "three"),
        (lambda table: table.on(Say), Takes.keyword, "keyword"),
        (lambda table: table.on(Say), 5, "5, which can't be called"),
        (lambda table: table.default, Takes.one, "default"),
        (lambda table: table.on_closed, Takes.two, r"on_closed is called with \(session\)"),
        (lambda table: table.on_forward, Takes.one, r"on_forward is called with \(session, frame\)"),
        (lambda table: table.on_forward, Takes.waits, "plain function"),
        (lambda table: table.on, Takes.two, "of which message"),
    ],
)
def test_a_handler_that_could_never_be_called_is_found_at_start(register: Any, handler: Any, words: str) -> None:
    table = Handlers(CATALOG)
    with pytest.raises(CatalogError, match=words):
        register(table)(handler)
    assert not table.routes
    several: list[Any] = [Takes.two, lambda *both: None, functools.partial(Takes.three, more=1), print]
    for fits in several:
        Handlers(CATALOG).on(Say)(fits)


REGISTRATIONS: dict[str, tuple[Callable[[Handlers], Callable[[Any], Any]], str]] = {
    "Say": (lambda table: table.on(Say), "session, message"),
    "default": (lambda table: table.default, "session, message"),
    "around": (lambda table: table.around, "session, message, call_next"),
    "on_forward": (lambda table: table.on_forward, "session, frame"),
    "on_lost": (lambda table: table.on_lost, "session, lost"),
    "on_verified": (lambda table: table.on_verified, "session"),
    "on_closed": (lambda table: table.on_closed, "session"),
    "on_suspended": (lambda table: table.on_suspended, "session"),
    "on_resumed": (lambda table: table.on_resumed, "session"),
    "on_renewed": (lambda table: table.on_renewed, "session"),
    "on_expiring": (lambda table: table.on_expiring, "session"),
    "on_restarted": (lambda table: table.on_restarted, "session"),
}


@pytest.mark.parametrize("name", REGISTRATIONS)
def test_a_decorator_gives_its_function_back_and_says_how_a_wrong_one_would_be_called(name: str) -> None:
    register, arguments = REGISTRATIONS[name]

    def fits(*given: Any) -> None: ...

    def wrong() -> None: ...

    assert register(Handlers(CATALOG))(fits) is fits
    with pytest.raises(CatalogError, match=re.escape(f"the handler of {name} is called with ({arguments}); ")):
        register(Handlers(CATALOG))(wrong)


class Annotated:
    """Handlers that take what they are called with in another place, or something else."""

    @staticmethod
    def swapped(message: Say, session: Session) -> None: ...

    @staticmethod
    def message_first(message: Say, session: Any) -> None: ...

    @staticmethod
    def session_last(message: Any, session: Session) -> None: ...

    @staticmethod
    def peer_last(message: Any, session: Peer) -> None: ...

    @staticmethod
    def player_last(message: Any, session: Player) -> None: ...

    @staticmethod
    def other(session: Session, message: Count) -> None: ...

    @staticmethod
    async def waits(message: Say, session: Session) -> None: ...

    @staticmethod
    def in_quotes(message: "Say", session: "Session") -> None: ...

    @staticmethod
    def one(message: Say) -> None: ...

    @staticmethod
    def hook(message: Say, session: Session, call_next: Any) -> None: ...

    @staticmethod
    def frame(frame: RawFrame, session: Session) -> None: ...

    @staticmethod
    def lost(lost: Lost, session: Session) -> None: ...

    # These could work.
    @staticmethod
    def bare(session, message): ...  # type: ignore[no-untyped-def]
    @staticmethod
    def fits(session: Session, message: Say) -> None: ...

    @staticmethod
    def base(session: Peer, message: Struct) -> None: ...

    @staticmethod
    def any(session: Any, message: object) -> None: ...

    @staticmethod
    def several(session: Player, message: Say | Count) -> None: ...

    @staticmethod
    def unknown(session: "Nowhere", message: "Say") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("register", "handler", "words"),
    [
        (lambda table: table.on(Say), Annotated.swapped, "`message`, the session, is annotated as Say"),
        (lambda table: table.on(Say), Annotated.message_first, "`message`, the session, is annotated as Say"),
        (lambda table: table.on(Say), Annotated.session_last, "`session`, the message, is annotated as Session"),
        (lambda table: table.on(Say), Annotated.peer_last, "`session`, the message, is annotated as Peer"),
        (lambda table: table.on(Say), Annotated.player_last, "`session`, the message, is annotated as Player"),
        (lambda table: table.on(Say), Annotated.other, "`message`, the message, is annotated as Count"),
        (lambda table: table.on(Say), Annotated.waits, "`message`, the session"),
        (lambda table: table.on(Say), Annotated.in_quotes, "`message`, the session"),
        (lambda table: table.default, Annotated.swapped, "default is called with .* `message`, the session"),
        (lambda table: table.default, Annotated.session_last, "`session`, the message"),
        (lambda table: table.around, Annotated.hook, "around is called with .* `message`, the session"),
        (lambda table: table.on_verified, Annotated.one, "on_verified is called with .* `message`, the session"),
        (lambda table: table.on_forward, Annotated.frame, "on_forward is called with .* `frame`, the session"),
        (lambda table: table.on_lost, Annotated.lost, "on_lost is called with .* `lost`, the session"),
    ],
)
def test_a_handler_whose_annotations_say_that_it_would_fail_is_found_at_start(
    register: Any, handler: Any, words: str
) -> None:
    table = Handlers(CATALOG)
    with pytest.raises(CatalogError, match=words):
        register(table)(handler)
    assert not table.routes and table.forward is None and table.default_handler is None


def test_a_handler_whose_annotations_do_not_say_so_is_taken() -> None:
    several: list[Any] = [
        Annotated.bare,
        Annotated.fits,
        Annotated.base,
        Annotated.any,
        Annotated.several,
        Annotated.unknown,
        functools.partial(Annotated.swapped),
    ]
    for fits in several:
        Handlers(CATALOG).on(Say)(fits)


def test_one_message_has_one_handler() -> None:
    handlers = Handlers(CATALOG)
    handlers.on("Say")(print)
    with pytest.raises(CatalogError, match="Say has a handler already"):
        handlers.on("Say")(print)
    handlers.default(print)
    with pytest.raises(CatalogError, match="default handler already"):
        handlers.default(print)
    handlers.on_forward(print)
    with pytest.raises(CatalogError, match="forward handler already"):
        handlers.on_forward(print)
    handlers.on_lost(print)
    with pytest.raises(CatalogError, match="lost has a handler already"):
        handlers.on_lost(print)


class RoomJoin(Struct): ...


class HTTPPing(Struct): ...


class Move3D(Struct): ...


async def test_an_objects_methods_are_registered_by_their_names() -> None:
    catalog = Catalog()
    for id, cls in enumerate((RoomJoin, HTTPPing, Move3D, Say), 11_001):
        catalog.add(id, cls)
    heard: list[str] = []

    class Room:
        limit = 5

        def on_room_join(self, session: Session, message: RoomJoin) -> None:
            heard.append("room join")

        async def on_http_ping(self, session: Session, message: HTTPPing) -> None:
            heard.append("ping")

        def on_move3_d(self, session: Session, message: Move3D) -> None:
            heard.append("move")

        def Say(self, session: Session, message: Say) -> None:  # noqa: N802
            heard.append("say")

        def helper(self) -> None: ...

    handlers = Handlers(catalog)
    handlers.register(Room())
    session, _ = opened(Bench(catalog=catalog), handlers)
    session.receive(
        [
            (id, 0, catalog.by_id[id].encode(cls()))
            for id, cls in zip(range(11_001, 11_004), (RoomJoin, HTTPPing, Move3D), strict=True)
        ]
    )
    session.receive([(11_004, 0, catalog.by_id[11_004].encode(Say("")))])
    await settle()
    assert heard == ["room join", "ping", "move", "say"]
    with pytest.raises(CatalogError, match="already"):
        handlers.register(Room())


def test_a_typing_error_in_a_methods_name_is_found_at_start() -> None:
    class Room:
        def on_sya(self, session: Session, message: Say) -> None: ...

    with pytest.raises(CatalogError, match=r"Room.on_sya names no message .*, and no event .*\(on_verified"):
        Handlers(CATALOG).register(Room())


def test_a_class_in_place_of_its_object_is_found_at_start() -> None:
    class Room:
        def on_say(self, message: Say) -> None: ...  # as a function it would fit: (session, message)

    with pytest.raises(CatalogError, match=r"Room is a class: write Room\(\)"):
        Handlers(CATALOG).register(Room)


# -- what has no handler of its own --


async def test_the_default_takes_known_messages_that_have_no_handler() -> None:
    heard: list[Any] = []
    handlers = Handlers(CATALOG)
    handlers.on(Say)(lambda session, message: heard.append("say"))
    handlers.default(lambda session, message: heard.append(message))
    bench = Bench()
    session, _ = opened(bench, handlers)
    session.receive([say(""), count(5), (HEARTBEAT, 0, b""), (12_345, 0, b"unknown"), count(6)])
    assert heard == ["say", Count(5), Count(6)]
    assert bench.stats.unhandled == 1


@pytest.mark.parametrize("flags", [0, COMPRESSED, SCRAMBLED, COMPRESSED | SCRAMBLED])
async def test_what_is_forwarded_is_the_frame_byte_for_byte(flags: int) -> None:
    forwarded: list[RawFrame] = []
    handlers = Handlers(CATALOG)
    handlers.on(Say)(lambda session, message: None)
    handlers.on_forward(lambda session, frame: forwarded.append(frame))
    session, _ = opened(Bench(), handlers)
    session.receive([say("mine"), (12_345, flags, b"not even\xff decoded"), count(5)])
    assert forwarded[0] == (12_345, flags, b"not even\xff decoded")
    assert forwarded[0].encode() == encode_frame(12_345, b"not even\xff decoded", flags)
    assert forwarded[1].id == COUNT and len(forwarded) == 2


async def test_what_nothing_handles_is_counted_and_dropped_and_in_the_log_the_first_time() -> None:
    bench = Bench()
    session, _ = opened(bench, Handlers(CATALOG))
    with capture_logs() as logs:
        for _ in range(2):
            session.receive([say("a"), (12_345, 0, b""), (HEARTBEAT, 0, b"")])
    assert [(line["event"], line["message"], line["id"]) for line in logs] == [
        ("no handler for a message", "Say", SAY),
        ("no handler for a message", "other", 12_345),
    ]
    assert bench.stats.unhandled == 4
    assert bench.stats.unrouted_of("Say").messages == 2
    assert bench.stats.unrouted_of("Say").bytes == 2 * len(encode_frame(*say("a")[::2]))
    assert state_of(session) is SessionState.OPEN


async def test_what_nothing_handles_is_the_same_behind_an_async_handler() -> None:
    bench = Bench()
    seen = Seen()
    session, _ = opened(bench, seen.handlers)
    with capture_logs():
        session.receive([count(1), (12_345, 0, b""), say("a"), (HEARTBEAT, 0, b"")])
        await settle()
    assert bench.stats.unhandled == 1 and bench.stats.unrouted_of("other").messages == 1
    assert seen.notes == ["verified", 1, -1, "a"]


@pytest.mark.parametrize(
    "frame", [(1, 0, b""), (24, 0, b""), (150, 0, b""), (0, CONTROL, b"\x06"), (60_000, 0, b""), (65_535, 0, b"")]
)
async def test_what_a_client_may_not_send_ends_its_session_and_the_rest_of_the_burst(frame: Frame) -> None:
    seen, bench = Seen(), Bench()
    forwarded: list[RawFrame] = []
    seen.handlers.on_forward(lambda session, frame: forwarded.append(frame))
    session, _ = opened(bench, seen.handlers)
    session.receive([say("a"), frame, say("b")])
    assert session.close_code is CloseCode.PROTOCOL_ERROR
    await settle()
    assert seen.notes == ["verified", "a", "closed"]
    assert bench.stats.unhandled == 0 and forwarded == []


async def test_a_forward_handler_that_raises_is_counted() -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)

    @handlers.on_forward
    def fail(session: Session, frame: RawFrame) -> None:
        raise LookupError

    session, _ = opened(bench, handlers)
    with capture_logs():
        session.receive([(12_345, 0, b"")])
    assert bench.stats.handler_errors == {"forward": 1} and state_of(session) is SessionState.OPEN


# -- plain functions --


async def test_plain_functions_are_called_where_the_frames_were_read() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([say(text) for text in "abc"])
    assert seen.notes == ["verified", "a", "b", "c"]
    assert session.inbox is None


@pytest.mark.parametrize(
    "options", [WireOptions(compress_over=1), WireOptions(scramble=True), WireOptions(compress_over=1, scramble=True)]
)
async def test_a_body_is_opened_as_its_flags_say(options: WireOptions) -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    flags, body = BodyCoder(options).close(CATALOG.by_id[SAY], say("a" * 100)[2])
    assert flags
    session.receive([(SAY, flags, body)])
    assert seen.notes == ["verified", "a" * 100]


@pytest.mark.parametrize("kind", [Say, Count])
async def test_a_handler_that_raises_is_logged_and_counted_and_the_next_message_handled(kind: type) -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)
    heard: list[Any] = []

    def fail(session: Session, message: Any) -> None:
        heard.append(message)
        raise LookupError("mine")

    async def fail_later(session: Session, message: Any) -> None:
        await turn()
        fail(session, message)

    handlers.on(kind)(fail if kind is Say else fail_later)
    session, _ = opened(bench, handlers, address="10.0.0.1")
    frame = say("a") if kind is Say else count(1)
    with capture_logs() as logs:
        session.receive([frame, frame])
        await settle()
    assert len(heard) == 2 and state_of(session) is SessionState.OPEN
    assert bench.stats.handler_errors == {kind.__name__: 2}
    assert [(log["message"], log["uid"], type(log["exc_info"])) for log in logs] == [(kind.__name__, 7, LookupError)]


async def test_a_handler_that_keeps_failing_is_logged_once_a_second() -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)
    handlers.on(Say)(lambda session, message: 1 / 0)
    session, _ = opened(bench, handlers)
    with capture_logs() as logs:
        for _ in range(3):
            session.receive([say("a")] * 10)
            await bench.pass_time(1.2)
    assert len(logs) == 3 and bench.stats.handler_errors["Say"] == 30


async def test_writing_to_a_peer_that_has_just_left_is_nobodys_failure() -> None:
    bench = Bench()
    handlers = Handlers(CATALOG)

    @handlers.on(Count)
    async def answer(session: Session, message: Count) -> None:
        session.kick()
        session.send(message)

    session, _ = opened(bench, handlers)
    session.receive([count(1)])
    await settle()
    assert not bench.stats.handler_errors


async def test_a_plain_function_that_raises_cancelled_error_fails_like_any_other() -> None:
    handlers = Handlers(CATALOG)
    bench = Bench()

    @handlers.on(Say)
    def wait(session: Session, message: Say) -> None:
        raise asyncio.CancelledError  # as `future.result()` of a cancelled future does

    session, _ = opened(bench, handlers)
    handlers.ticking = True
    with capture_logs():
        session.receive([say("a"), say("b")])
        handlers.tick()
        handlers.ticking = False
        session.receive([say("c")])
    assert bench.stats.handler_errors == {"Say": 3}


def test_the_time_of_a_call_falls_in_one_bucket() -> None:
    route = Route("Say", print, bytes)
    for bound in TIME_BUCKETS:
        route.handled(10, bound)
        route.handled(10, bound * 1.001)
    assert route.buckets == [0, 2, 2, 2, 2, 2, 2, 1], "the first is what is left of the count"
    assert (route.count, route.bytes) == (14, 14 * 16)


async def test_what_is_handled_is_counted_by_message() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([say("a"), say("b"), count(1), say("c")])
    await settle()
    routes = seen.handlers.routes
    assert [(routes[id].name, routes[id].count) for id in (SAY, COUNT)] == [("Say", 3), ("Count", 1)]
    assert routes[SAY].bytes == sum(len(encode_frame(*say(text)[::2])) for text in "abc")
    assert routes[COUNT].bytes == len(encode_frame(*count(1)[::2]))
    assert all(routes[id].seconds > 0 for id in (SAY, COUNT))


# -- bodies that cannot be read --


@pytest.mark.parametrize("before", [say("a"), count(5)])
async def test_a_body_that_does_not_decode_closes_with_4007_and_ends_the_burst(before: Frame) -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([before, BAD, say("never")])
    await settle()
    assert session.close_code is CloseCode.PROTOCOL_ERROR
    assert session.close_reason == "Say does not decode: DecodeError"
    assert seen.notes == ["verified", *(["a"] if before[0] == SAY else [5, -5]), "closed"]


async def test_a_body_that_does_not_decode_behind_an_async_handler_calls_no_handler() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([count(1), say("once"), BAD, say("never")])
    await settle()
    assert seen.notes == ["verified", 1, -1, "once", "closed"]
    assert session.close_code is CloseCode.PROTOCOL_ERROR


async def test_the_reason_of_a_body_that_does_not_decode_names_the_field_and_not_its_value() -> None:
    seen = Seen()
    session, _ = opened(Bench(), seen.handlers)
    session.receive([(SAY, 0, msgspec.msgpack.encode({"text": 4_711}))])
    await settle()
    assert session.close_reason == "Say does not decode: ValidationError: Expected `str`, got `int` at text"


async def test_a_block_that_would_decompress_to_more_than_a_frame_closes_with_4008() -> None:
    bench = Bench(Limits(max_frame=1_000))
    session, _ = opened(bench, Seen().handlers)
    session.receive([(SAY, COMPRESSED, compress(bytes(5_000)))])
    assert session.close_code is CloseCode.FRAME_TOO_LARGE
    session, _ = opened(bench, Seen().handlers)
    session.receive([(SAY, COMPRESSED, b"\xff\xff\xff")])
    assert session.close_code is BodyError.code


# -- tables --


async def test_a_session_can_have_a_table_of_its_own() -> None:
    bench = Bench()
    shared, own = Seen(), Seen()
    (first, _), (second, _), (third, _) = (opened(bench, shared.handlers, uid=uid) for uid in range(3))
    second.handlers = own.handlers
    for session in (first, second, third):
        session.receive([say(str(session.uid))])
    assert shared.notes == ["verified"] * 3 + ["0", "2"]
    assert own.notes == ["1"]


OWN_TABLES = 2_000
A_TABLE = 20_000
"""Bytes: what a session's own table may take. There may be one for each of ten thousand sessions."""

MANY_TABLES = f"""
import gc
from pathlib import Path
from gatelink.handlers import Handlers
from gatelink.wire.messages import Catalog
from tests.fakes import CATALOG

class Player:
    def on_say(self, session, message): ...
    def on_count(self, session, message): ...

def table():
    handlers = Handlers(CATALOG)
    handlers.register(Player())
    return handlers

def memory():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096

for _ in range(10):
    table()
before = memory()
tables = [table() for _ in range({OWN_TABLES})]
print(memory() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much memory a process has")
async def test_a_sessions_own_table_takes_little_memory() -> None:
    async with python("-c", MANY_TABLES) as process:
        status, out, err = await ended(process)
    assert status == 0, err
    assert int(out) < OWN_TABLES * A_TABLE


async def test_each_id_has_the_route_that_it_was_given_last_wherever_it_lies() -> None:
    """Ids of one page of the compiled core's table and of others, set, replaced and deleted one by one."""
    bench, handlers, heard = Bench(), Handlers(CATALOG), list[str]()
    ids = [25, 99, 200, 255, 256, 257, 511, 512, 32_767, 59_903, 59_904, 59_999]
    session, _ = opened(bench, handlers)

    def set_route(id: int, name: str) -> None:
        handlers.routes[id] = Route(name, lambda session, body: heard.append(name), bytes)

    def called() -> list[str]:
        """The routes that were called, of one message with each id."""
        heard.clear()
        for id in ids:
            deliver(FrameDecoder(1_000), encode_frame(id, b"x"), 1, session, None)
        return heard

    for id in ids:
        set_route(id, f"{id}")
    names = [f"{id}" for id in ids]
    assert called() == names
    for at in range(0, len(ids), 2):
        names[at] += " anew"
        set_route(ids[at], names[at])
    assert called() == names
    for id in ids:
        del handlers.routes[id], names[0]
        assert called() == names


async def test_a_handler_may_take_all_routes_away_and_fail_to_register_others() -> None:
    class Wrong:
        def on_sya(self, session: Session, message: Say) -> None: ...

    bench, handlers = Bench(), Handlers(CATALOG)

    @handlers.on(Say)
    def say_no_more(session: Session, message: Say) -> None:
        handlers.routes.clear()
        with pytest.raises(CatalogError):
            handlers.register(Wrong())

    session, _ = opened(bench, handlers)
    data = b"".join(encode_frame(id, body) for id, _, body in [say("one"), say("two"), say("three")])
    deliver(FrameDecoder(1_000), data, len(data), session, None)
    await settle()
    assert bench.context.stats.unhandled == 2


async def test_a_table_without_routes_fails_in_python() -> None:
    handlers = Handlers(CATALOG)
    session, _ = opened(Bench(), handlers)
    data = encode_frame(SAY, say("one")[2])
    with pytest.raises((TypeError, AttributeError)):  # the compiled core raises at once, pure Python at the message
        handlers.routes = None  # type: ignore[assignment]
        deliver(FrameDecoder(1_000), data, len(data), session, None)


async def test_a_table_whose_class_does_not_call_its_base_has_no_routes() -> None:
    class Forgetful(Handlers):
        def __init__(self) -> None:
            self.fallback, self.default_handler = Handlers(CATALOG).fallback, None

    session, _ = opened(Bench(), Handlers(CATALOG))
    session.handlers = Forgetful()
    data = encode_frame(SAY, say("one")[2])
    with pytest.raises(AttributeError):
        deliver(FrameDecoder(1_000), data, len(data), session, None)


async def test_routes_that_are_initialised_again_keep_what_they_have() -> None:
    handlers, heard = Handlers(CATALOG), list[str]()
    handlers.on(Say)(lambda session, message: heard.append(message.text))
    session, _ = opened(Bench(), handlers)
    handlers.routes.__init__()  # type: ignore[misc]
    gc.collect()
    data = encode_frame(SAY, say("one")[2])
    deliver(FrameDecoder(1_000), data, len(data), session, None)
    assert heard == ["one"] and list(handlers.routes) == [SAY]


# -- the rate of a message type --


async def test_messages_over_the_rate_of_their_type_are_dropped_undecoded_and_counted_and_no_others() -> None:
    bench = Bench()
    heard: list[Any] = []
    handlers = Handlers(CATALOG)
    handlers.on(Say, rate=2)(lambda session, message: heard.append(message.text))
    handlers.on(Count)(lambda session, message: heard.append(message.n))
    (one, _), (other, _) = opened(bench, handlers), opened(bench, handlers, uid=8)
    one.receive([say("a"), count(1), say("b"), say("c"), BAD, count(2)])
    assert heard == ["a", 1, "b", 2] and one.close_code is None
    assert bench.stats.rate_dropped == {"Say": 2}
    other.receive([say("d")])
    assert heard[4:] == ["d"], "each session has its own"
    bench.clock.advance(0.5)  # brings one; a stall brings it, too
    one.receive([say("e"), say("f")])
    assert heard[5:] == ["e"]
    bench.clock.advance(100)
    one.receive([say(str(n)) for n in range(5)])
    assert heard[6:] == ["0", "1"], "no more than the messages of a second are saved up"


async def test_a_rate_below_one_a_second_lets_one_through_at_once() -> None:
    bench = Bench()
    heard: list[Say] = []
    handlers = Handlers(CATALOG)
    handlers.on(Say, rate=0.1)(lambda session, message: heard.append(message))
    session, _ = opened(bench, handlers)
    for seconds, expected in ((0, 1), (9, 1), (1.1, 2)):
        bench.clock.advance(seconds)
        session.receive([say("x")])
        assert len(heard) == expected


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_a_rate_of_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="give messages a second, above 0"):
        Handlers(CATALOG).on(Say, rate=rate)
