"""Requests on the compiled core's sockets: the same as over a transport, and on the straight path.

A listener with an accept hook has transports (docs/native.md), so one server has both kinds of stream.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink import Limits, Listen, Refuse, RequestCode, Server, Session, StaticTokens, _native
from gatelink.session.requests import failed_frame
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_control_frame, encode_frame
from tests.e2e.any_bytes import Conversation, pieces_of
from tests.e2e.asks import ASKS, CATALOG, Add, Double, Note, Repeat, Sum, Text, answering, asking, direct
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, until
from tests.support import run_watched

pytestmark = pytest.mark.skipif(_native.core is None, reason="the compiled core does not run")

LIMITS = Limits(max_frame=2_000, turn_frames=8, turn_bytes=1_500, write_high_water=4_000, base_linger=0.001)
HOOKED = Listen(endpoint=TCP, accept=lambda connection: None)
"""A listener whose connections have transports."""

TRIES = 5
"""How often a conversation may differ: where a handler is interrupted for 5 ms, its session's turn is over, and what
follows is handled after the end of the stream. A real difference is there every time."""


async def conversation(server: Server, endpoint: int, uid: int, pieces: list[bytes]) -> bytes | None:
    """What the server sends to a client that sends these pieces and ends; None if it reset the connection."""
    client = await ExtendedClient.logged_in(server.endpoints[endpoint], uid, features=ASKS)
    came: bytes | None = b""
    try:
        for piece in pieces:
            client.send(piece)
            await asyncio.sleep(0)
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's, if the server has closed already
            client.writer.write_eof()
        try:
            while data := await client.reader.read(65_536):
                came = (came or b"") + data
        except ConnectionError:
            came = None
    finally:
        await client.close()
    await until(lambda: not server.connections)
    return came


def counted(server: Server) -> dict[str, int]:
    """The counters of messages, requests and ends."""
    routes = server.handlers.routes.values()
    return {
        **{f"{route.name} in": route.count for route in routes},
        **{f"{route.name} bytes in": route.bytes for route in routes},
        **{f"{name} out": traffic.messages for name, traffic in server.stats.sent.items()},
        **{f"{name} bytes out": traffic.bytes for name, traffic in server.stats.sent.items()},
        **{f"{name} errors": count for name, count in server.stats.handler_errors.items()},
        **{code.label: count for code, count in server.stats.closed.items()},
        **{f"served: {how}": count for how, count in server.stats.requests_served.items()},
        "stray": server.stats.stray_answers,
        "unhandled": server.stats.unhandled,
    }


def has_ended(heard: Callable[[int], list[Any]], uid: int) -> bool:
    """Whether `on_closed` was called, which may be later than the end of the connection."""
    return any(isinstance(each, tuple) for each in heard(uid))


async def compare(server: Server, heard: Callable[[int], list[Any]], conversations: list[Conversation]) -> None:
    """Has each conversation over both kinds of stream. heard: what the handlers had of a uid."""
    uid = 0
    for stream in conversations:
        pieces = pieces_of(stream)
        for _ in range(TRIES):
            seen = []
            for endpoint in (0, 1):
                uid += 1
                before = counted(server)
                came = await conversation(server, endpoint, uid, pieces)
                await until(partial(has_ended, heard, uid))
                after = counted(server)
                counts = {name: after[name] - before.get(name, 0) for name in after}
                seen.append([heard(uid), came, counts])
            native, transport = seen
            if native[1] is None or transport[1] is None:  # the kernel drops some then
                native[1] = transport[1] = None
            if native == transport:
                break
        assert native == transport


UNNUMBERED = 0  # each gets a tag of its own, as whether another one is answered already depends on the time
asked = st.one_of(
    st.builds(lambda how, n: asking(Add(how, n), UNNUMBERED), st.integers(0, 4), st.integers(0, 9)),
    st.integers(0, 9).map(lambda n: bytes_of(Note(n))),
    st.integers(0, 9).map(lambda n: asking(Double(n), UNNUMBERED)),
)
calmly_odd = st.one_of(
    st.sampled_from([5, 7]).map(lambda how: asking(Add(how, 0), UNNUMBERED)),
    st.integers(0, 5).map(lambda tag: answering(Sum(1), tag)),
    st.integers(0, 5).map(lambda tag: failed_frame(42_000, tag, RequestCode.FAILED, 1, "why")),
    st.just(encode_frame(42_002, b"\xff\xff\0\0\x81\xa1n\1", REQUEST)),  # no request here
    st.just(encode_frame(42_009, b"\xff\xff\0\0", REQUEST)),  # no handler
)
ends_it = st.one_of(
    st.just(asking(Add(6, 0), UNNUMBERED)),
    st.just(b"".join(asking(Repeat("wait"), 1_000 + n) for n in range(70))),  # more than may wait
    st.just(2 * asking(Repeat("wait"), 0xFFFFFFFF)),  # a tag that is in use
    st.just(encode_frame(42_000, bytes(12) + b"\5", FAILED)),  # a reason that ends too soon
    st.just(encode_frame(42_000, bytes(9), FAILED)),
    st.just(encode_frame(42_001, bytes(3), REQUEST)),
    st.just(encode_frame(42_001, b"\xfe\xff\0\0no msgpack", REQUEST)),
    st.just(encode_frame(4, bytes(4), REQUEST)),
    st.just(encode_frame(104, bytes(4), ANSWER)),
    st.just(encode_frame(42_001, b"\xfd\xff\0\0\0", REQUEST | 1)),  # no snappy block
    st.just(encode_frame(42_001, bytes(5), 0x0C)),
    st.just(encode_control_frame(b"\1")),
)


def numbered(stream: Conversation) -> Conversation:
    """The same with a tag of its own in each request that has none."""
    good, odd, more, lacks, sizes = stream
    frames = [
        frame[:6] + (100 + n).to_bytes(4, "little") + frame[10:]
        if frame[3] == REQUEST and frame[6:10] == bytes(4)
        else frame
        for n, frame in enumerate([*good, *odd, *more])
    ]
    return frames[: len(good)], frames[len(good) :], [], lacks, sizes


@settings(max_examples=25)
@given(
    conversations=st.lists(
        st.tuples(
            st.lists(asked, max_size=20),
            st.lists(calmly_odd, max_size=3) | st.lists(ends_it, max_size=2),
            st.lists(asked, max_size=6),
            st.integers(0, 12),
            st.lists(st.integers(1, 200), max_size=6),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_requests_have_the_same_effect_over_both_streams(conversations: list[Conversation]) -> None:
    """The same calls of handlers, the same answers, failures and ends, and the same counts."""

    async def main() -> None:
        server = Server(TCP, HOOKED, catalog=CATALOG, tokens=StaticTokens(), limits=LIMITS)
        heard: list[tuple[int, Any]] = []

        @server.on(Add)
        def add(session: Session, message: Add) -> Any:
            heard.append((session.uid, message))
            match message.a:
                case 1:
                    raise Refuse(message.b, "no")
                case 2:
                    raise ValueError(message.b)
                case 3:
                    return None
                case 4:
                    return Note(1)
                case 5:
                    return later(message)
                case 6:
                    session.close()
                case 7:
                    del server.handlers.routes[42_003]
                    server.on(Double)(double)
            return Sum(message.a + message.b)

        async def later(message: Add) -> Sum:
            await asyncio.sleep(0)
            return Sum(message.b)

        @server.on(Double)
        def double(session: Session, message: Double) -> Sum:
            heard.append((session.uid, message))
            session.send(Note(message.n))
            return Sum(2 * message.n)

        @server.on(Repeat)
        async def repeat(session: Session, message: Repeat) -> Text:
            await session.wait_closed()
            return Text("")

        server.on(Note)(lambda session, message: heard.append((session.uid, message)))
        server.on_closed(lambda session: heard.append((session.uid, (session.close_code, session.close_reason))))
        async with server:
            streams = [numbered(stream) for stream in conversations]
            await compare(server, lambda of: [each for uid, each in heard if uid == of], streams)
            await server.stop(0)

    run_watched(main())


async def test_requests_with_plain_handlers_take_the_straight_path() -> None:
    async with direct() as place:
        place.at.on(Add)(lambda session, message: Sum(message.a + message.b))
        client = await place.raw()
        client.send(asking(Add(1, 1), 1))
        await client.frame()  # now there is an encoder
        straight, listed = counts = _native.core.frame_counts()  # type: ignore[union-attr]
        client.send(*(asking(Add(n, n), n) for n in range(10)), answering(Sum(1), 1))
        for n in range(10):
            id, flags, body = await client.frame()
            assert (id, flags, int.from_bytes(body[:4], "little")) == (42_000, ANSWER, n)
        assert _native.core.frame_counts() == (straight + 11, listed), counts  # type: ignore[union-attr]
        assert place.front.stats.requests_served["answered"] == 11 and place.front.stats.stray_answers == 1


def bytes_of(message: Any) -> bytes:
    kind, body = CATALOG.encode(message)
    return encode_frame(kind.id, body)
