"""What the handler of a request returns or raises is the answer; a request without a handler gets one, too."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from gatelink.errors import Refuse, RequestCode
from gatelink.handlers import Handlers
from gatelink.net.connection import deliver
from gatelink.session.requests import Requests, open_failure, tag_of
from gatelink.session.session import Session
from gatelink.wire.control import Features
from gatelink.wire.frames import ALL_FLAGS, ANSWER, FAILED, REQUEST, Frame, FrameDecoder, encode_frame
from gatelink.wire.messages import Catalog
from tests.fakes import Bench, FakeOwner, FakeStream, extended_session, settle

CATALOG = Catalog()


@CATALOG.message(11_001)
class Sum(Struct):
    n: int


@CATALOG.message(11_002, answer=Sum)
class Double(Struct):
    n: int


@CATALOG.message(11_003)
class Note(Struct):
    n: int


SUM, DOUBLE, NOTE = 11_001, 11_002, 11_003


def request(n: int) -> Frame:
    """A request whose tag is its number."""
    return DOUBLE, REQUEST, n.to_bytes(4, "little") + CATALOG.by_id[DOUBLE].encode(Double(n))


def note(n: int) -> Frame:
    return NOTE, 0, CATALOG.by_id[NOTE].encode(Note(n))


class House:
    """A server's end of one session that agreed on requests."""

    def __init__(self, catalog: Catalog = CATALOG) -> None:
        self.bench = Bench(catalog=catalog)
        self.handlers = Handlers(catalog)
        self.stream = FakeStream()
        self.session = extended_session(
            self.bench.context, FakeOwner(), self.handlers, self.stream, uid=7, features=Features.REQUESTS
        )
        self.stream.receiver = self.session
        self.session.open()

    def sent(self) -> list[Any]:
        """What was sent since the last call: answers as (tag, number), failures as (tag, code, detail, reason)."""
        sent: list[Any] = []
        for _, flags, body in self.frames():
            if flags == FAILED:
                sent.append((tag_of(body), *open_failure(body)))
            elif flags == ANSWER:
                sent.append((tag_of(body), CATALOG.by_id[SUM].decode(body[4:]).n))
            else:
                sent.append(flags)
        return sent

    def frames(self) -> list[Frame]:
        """The frames that were sent since the last call."""
        decoder = FrameDecoder(1_000)
        decoder.allowed = ALL_FLAGS
        frames = decoder.feed(b"".join(self.stream.writes))
        self.stream.log.clear()
        return frames


def double(session: Session, message: Double) -> Sum:
    return Sum(2 * message.n)


async def double_later(session: Session, message: Double) -> Sum:
    await asyncio.sleep(0)
    return Sum(2 * message.n)


async def double_much_later(session: Session, message: Double) -> Awaitable[Sum]:
    return double_later(session, message)


async def around(session: Session, message: Any, call_next: Callable[..., Any]) -> Any:
    return await call_next(session, message)


DOUBLING = [double, double_later, double_much_later]


@pytest.mark.parametrize("hooks", [(), (around,), (around, lambda session, message, call: call(session, message))])
@pytest.mark.parametrize("handler", DOUBLING)
async def test_what_a_handler_returns_is_the_answer_with_hooks_around_it_or_not(
    handler: Callable[..., Any], hooks: tuple[Callable[..., Any], ...]
) -> None:
    house = House()
    house.handlers.on(Double)(handler)
    for hook in hooks:
        house.handlers.around(hook)
    house.session.receive([request(1), request(2)])
    await settle()
    assert house.sent() == [(1, 2), (2, 4)] and not house.bench.stats.handler_errors


def raising(error: BaseException, is_async: bool) -> Callable[..., Any]:
    def plain(session: Session, message: Double) -> Sum:
        raise error

    async def later(session: Session, message: Double) -> Sum:
        await asyncio.sleep(0)
        raise error

    return later if is_async else plain


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_refusal_goes_to_the_peer_and_is_no_failure_of_the_handler(is_async: bool) -> None:
    house = House()
    house.handlers.on(Double)(raising(Refuse(5, "no"), is_async))
    with capture_logs() as lines:
        house.session.receive([request(1)])
        await settle()
    assert house.sent() == [(1, RequestCode.REFUSED, 5, "no")] and not house.bench.stats.handler_errors and not lines


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit("secret")])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_fails_tells_the_peer_nothing_but_that(is_async: bool, error: BaseException) -> None:
    house = House()
    house.handlers.on(Double)(raising(error, is_async))
    with capture_logs() as lines:
        house.session.receive([request(1)])
        await settle()
    assert house.sent() == [(1, RequestCode.FAILED, 0, "")] and house.bench.stats.handler_errors == {"Double": 1}
    assert error in (lines[0]["exc_info"], lines[0]["exc_info"].__cause__), "the log has it"


@pytest.mark.parametrize(
    "wrong",
    [ValueError("secret"), SystemExit("secret"), "no bytes", bytes(2_000_000)],
    ids=lambda wrong: type(wrong).__name__,
)
async def test_an_answer_that_its_codec_cannot_encode_fails_its_request_alone_and_is_encoded_once(wrong: Any) -> None:
    encoded: list[int] = []

    class Own:
        def bind(self, cls: type) -> tuple[Any, Any]:
            def encode(message: Any) -> Any:
                encoded.append(message.n)
                if message.n != 2:
                    return bytes([message.n])
                if isinstance(wrong, BaseException):
                    raise wrong
                return wrong

            return encode, lambda body: cls(body[0])

    catalog = Catalog()
    catalog.add(SUM, own := type("Sum", (Struct,), {"__annotations__": {"n": int}}), codec=Own())
    catalog.add(DOUBLE, Double, answer=own)
    house = House(catalog)
    house.handlers.on(Double)(lambda session, message: own(message.n))
    data = b"".join(encode_frame(id, body, flags) for id, flags, body in map(request, range(1, 4)))
    with capture_logs():
        for _ in range(2):  # the first read makes the encoder
            decoder = FrameDecoder(1_000)
            decoder.allowed = ALL_FLAGS
            deliver(decoder, data, len(data), house.session, None)
    sent = [(flags, tag_of(body)) for _, flags, body in house.frames()]
    assert sent == [(ANSWER, 1), (FAILED, 2), (ANSWER, 3)] * 2 and encoded == [1, 2, 3] * 2
    assert house.bench.stats.handler_errors == {"Double": 2}
    assert house.bench.stats.requests_served == {"answered": 4, "failed": 2}


@pytest.mark.parametrize("is_straight", [True, False])
async def test_no_message_of_a_read_is_handled_if_the_codec_of_an_answer_in_it_ends_the_session(
    is_straight: bool,
) -> None:
    class Closing:
        def bind(self, cls: type) -> tuple[Any, Any]:
            def decode(body: bytes) -> Any:
                house.session.close()
                return cls()

            return lambda message: b"", decode

    catalog = Catalog()
    catalog.add(NOTE, Note)
    catalog.add(SUM, own := type("Sum", (Struct,), {}), codec=Closing())
    catalog.add(DOUBLE, Double, answer=own)
    house, heard = House(catalog), list[int]()
    house.handlers.on(Note)(lambda session, message: heard.append(message.n))
    asked = asyncio.create_task(house.session.request(Double(1)))
    await settle()
    assert house.session.requests is not None
    (tag,) = house.session.requests.asked
    frames = [note(1), (SUM, ANSWER, tag.to_bytes(4, "little")), note(2)]
    if is_straight:
        data = b"".join(encode_frame(id, body, flags) for id, flags, body in frames)
        decoder = FrameDecoder(1_000)
        decoder.allowed = ALL_FLAGS
        deliver(decoder, data, len(data), house.session, None)
    else:
        house.session.receive(frames)
    assert isinstance(await asked, own) and heard == []


@pytest.mark.parametrize("end", ["return", "raise", "exit"])
async def test_an_answer_goes_only_where_its_request_came_from(end: str) -> None:
    """The peer has begun anew while the handler ran, and uses the tag again."""
    house, go_on = House(), asyncio.Event()

    @house.handlers.on(Double)
    async def wait(session: Session, message: Double) -> Sum:
        await go_on.wait()
        if end == "raise":
            raise Refuse(1)
        if end == "exit":
            sys.exit(1)
        return Sum(1)

    with capture_logs():
        house.session.receive([request(1)])
        await settle()
        extension = house.session.extension
        assert extension is not None and extension.requests is not None
        extension.requests.close()
        extension.requests = Requests()
        extension.requests.serving[1] = (DOUBLE, 0)
        go_on.set()
        await settle()
    assert house.sent() == []


@pytest.mark.parametrize("hook", [False, True])
async def test_a_request_without_a_handler_fails_and_a_message_goes_to_the_forward_hook(hook: bool) -> None:
    house = House()
    raw: list[int] = []
    if hook:
        house.handlers.on_forward(lambda session, frame: raw.append(frame.id))
    with capture_logs() as lines:
        house.session.receive([request(1), note(2), request(3)])
    assert house.sent() == [(1, RequestCode.NO_HANDLER, 0, ""), (3, RequestCode.NO_HANDLER, 0, "")]
    assert raw == ([NOTE] if hook else []) and house.bench.stats.unhandled == len(lines) == (0 if hook else 1)


async def test_a_request_over_the_rate_of_its_type_fails_and_a_message_is_dropped() -> None:
    house = House()
    heard: list[int] = []
    house.handlers.on(Double, rate=1)(double)
    house.handlers.on(Note, rate=2)(lambda session, message: heard.append(message.n))
    house.session.receive([request(1), request(2), note(1), note(2), note(3)])
    assert house.sent() == [(2, RequestCode.RATE, 0, ""), (1, 2)] and heard == [1, 2]
    assert house.bench.stats.rate_dropped == {"Double": 1, "Note": 1}


@pytest.mark.parametrize("has_handler", [True, False], ids=["over its rate", "without a handler"])
async def test_a_dropped_message_fails_no_request_whatever_its_bytes_are(has_handler: bool) -> None:
    """Its body begins as the tag of a request that is being handled."""
    house, go_on = House(), asyncio.Event()

    @house.handlers.on(Double)
    async def wait(session: Session, message: Double) -> Sum:
        await go_on.wait()
        return Sum(message.n)

    if has_handler:
        house.handlers.on(Note, rate=1)(lambda session, message: None)
    tag = tag_of(note(3)[2])
    house.session.receive([request(tag)])
    await settle()
    with capture_logs():
        house.session.receive([note(3), note(3)])
    go_on.set()
    await settle()
    assert house.sent() == [(tag, tag)]
