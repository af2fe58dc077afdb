"""Requests with answers, in both directions: to a server, and to a service behind a gateway."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatelink import (
    Catalog,
    CatalogError,
    Handlers,
    LocalError,
    Peer,
    Refuse,
    RequestCode,
    RequestFailed,
    Server,
    Session,
    StaticTokens,
    WireOptions,
    connect,
)
from gatelink.wire.control import Features
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, Frame, encode_frame, tagged
from tests.e2e.asks import ASKS, CATALOG, Add, Double, Note, Repeat, Sum, Text, Where, behind_a_gateway, code_of, direct
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, closing, token_of, until


@pytest.fixture(params=[direct, behind_a_gateway], ids=["direct", "behind a gateway"])
def where(request: pytest.FixtureRequest) -> Where:
    make: Where = request.param
    return make


async def test_the_handler_s_result_is_the_answer(where: Where) -> None:
    async with where() as place:

        @place.at.on(Add)
        def add(peer: Peer, message: Add) -> Sum:
            return Sum(message.a + message.b)

        @place.at.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            await asyncio.sleep(0)
            return Sum(2 * message.n)

        client = await place.client()
        assert await client.request(Add(1, 2)) == Sum(3)
        assert await client.request(Double(4)) == Sum(8)
        asked = [client.request(Add(n, n)) for n in range(60)]
        assert await asyncio.gather(*asked) == [Sum(2 * n) for n in range(60)]


async def test_every_failure_has_its_code_and_no_details_of_an_exception(where: Where) -> None:
    async with where() as place:

        @place.at.on(Add)
        async def add(peer: Peer, message: Add) -> Sum:
            match message.a:
                case 1:
                    raise Refuse(4_000_000_000, "voll — später")
                case 2:
                    raise ValueError("secret")
                case 3:
                    return None  # type: ignore[return-value]
                case 4:
                    return Note(1)  # type: ignore[return-value]
                case _:
                    await asyncio.Event().wait()
                    return Sum(0)

        client = await place.client()
        with pytest.raises(RequestFailed) as refused:
            await client.request(Add(1, 0))
        assert (refused.value.code, refused.value.detail) == (RequestCode.REFUSED, 4_000_000_000)
        assert refused.value.reason == "voll — später"
        for a, code in ((2, RequestCode.FAILED), (3, RequestCode.NO_ANSWER), (4, RequestCode.FAILED)):
            with pytest.raises(RequestFailed) as failed:
                await client.request(Add(a, 0))
            assert (failed.value.code, failed.value.detail, failed.value.reason) == (code, 0, "")
        assert await code_of(client.request(Double(1))) is RequestCode.NO_HANDLER
        assert await code_of(client.request(Add(5, 0), timeout=0.1)) is RequestCode.TIMEOUT
        with pytest.raises(LocalError, match="Note has no answer"):
            await client.request(Note(1))
        waiting = asyncio.create_task(client.request(Add(6, 0)))
        await asyncio.sleep(0)
        client.close()
        assert await code_of(waiting) is RequestCode.CLOSED
        assert await code_of(client.request(Add(1, 1))) is RequestCode.CLOSED


async def test_a_peer_that_does_not_speak_requests_is_not_asked(where: Where) -> None:
    async with where() as place:
        asked = asyncio.get_running_loop().create_future()

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            asked.set_result(await code_of(peer.request(Add(1, 2))))

        plain = await connect(
            f"tcp://127.0.0.1:{place.port}", uid=9, token=token_of(9).decode(), catalog=CATALOG, base_protocol=True
        )
        place.clients.append(plain)
        assert await code_of(plain.request(Add(1, 2))) is RequestCode.UNSUPPORTED
        plain.send(Note(1))
        assert await asyncio.wait_for(asked, 10) is RequestCode.UNSUPPORTED


async def test_a_handler_asks_its_own_session_while_ten_thousand_messages_wait_behind(where: Where) -> None:
    """The answer comes, or the request fails: nothing waits for ever, and the messages keep their order."""
    async with where() as place:
        handlers = Handlers(CATALOG)

        @handlers.on(Double)
        def double(session: Session, message: Double) -> Sum:
            return Sum(2 * message.n)

        @place.at.on(Add)
        async def add(peer: Peer, message: Add) -> Sum:
            answer: Sum = await peer.request(Double(message.a))
            return answer

        client = await place.client(handlers)
        assert await client.request(Add(21, 0)) == Sum(42)
        asking = asyncio.create_task(client.request(Add(1, 0)))
        await asyncio.sleep(0)
        for n in range(500):
            client.send(Note(n))
        assert await asking == Sum(2), "fewer than a window: the answer is read"
        asking = asyncio.create_task(client.request(Add(1, 0)))
        await asyncio.sleep(0)
        for n in range(500, 10_500):
            client.send(Note(n))
        assert await code_of(asking) is RequestCode.FAILED, "its own request failed with 5, in the handler"
        await until(lambda: len(place.notes) == 10_500)
        assert place.notes == list(range(10_500))


def test_a_handler_that_says_it_returns_something_else_is_refused_at_start() -> None:
    handlers = Handlers(CATALOG)
    with pytest.raises(CatalogError, match="Add is answered with Sum"):

        @handlers.on(Add)
        def wrong(session: Session, message: Add) -> Note:
            return Note(1)

    with pytest.raises(CatalogError, match="has one handler"):
        handlers.on(Add, also=True)(lambda session, message: Sum(1))


async def test_a_request_over_the_rate_of_its_type_fails_with_its_code(where: Where) -> None:
    async with where() as place:

        @place.at.on(Add, rate=0.01)
        def add(peer: Peer, message: Add) -> Sum:
            return Sum(message.a)

        client = await place.client()
        assert await client.request(Add(1, 0)) == Sum(1)
        assert await code_of(client.request(Add(2, 0))) is RequestCode.RATE


async def test_the_default_handler_and_a_table_of_the_session_s_own_answer_too() -> None:
    async with direct() as place:
        place.front.default(lambda session, message: Sum(message.n + 1))

        @place.front.on(Add)
        def add(session: Session, message: Add) -> Sum:
            session.handlers = own
            return Sum(0)

        own = Handlers(CATALOG)
        own.on(Double)(lambda session, message: Sum(2 * message.n))
        client = await place.client()
        assert await client.request(Double(10)) == Sum(11)
        first, second = await asyncio.gather(client.request(Add(1, 2)), client.request(Double(10)))
        assert (first, second) == (Sum(0), Sum(20))


async def test_a_message_that_is_no_request_has_no_answer(where: Where) -> None:
    """Its class is not declared as a request here: a peer that still asks with it is told so."""
    async with where() as place:
        client = await place.raw()
        client.send(tagged(encode_frame(42_002, CATALOG.encode(Note(1))[1]), 3, REQUEST))
        id, flags, body = await client.frame()
        assert (id, flags, int.from_bytes(body[:4], "little")) == (42_002, FAILED, 3)
        assert int.from_bytes(body[4:6], "little") == RequestCode.NO_ANSWER
        assert place.notes == [1], "it was handled"


@pytest.mark.parametrize(
    "wire",
    [WireOptions(compress_over=10), WireOptions(scramble=True), WireOptions(compress_over=10, scramble=True)],
    ids=["compressed", "scrambled", "both"],
)
async def test_requests_and_answers_have_the_form_of_other_messages(where: Where, wire: WireOptions) -> None:
    async with where(wire=wire, front={"wire": wire}) as place:

        @place.at.on(Repeat)
        async def repeat(peer: Peer, message: Repeat) -> Text:
            return await peer.request(Repeat(message.text))

        handlers = Handlers(CATALOG)
        handlers.on(Repeat)(lambda session, message: Text(message.text))
        client = await place.client(handlers, wire=wire)
        assert await client.request(Repeat("hello " * 500)) == Text("hello " * 500)


class Meddling:
    """A codec that sends something on the session while it encodes an answer."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.sent = 0

    def bind(self, cls: type) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return self.encode, lambda body: cls()

    def encode(self, message: Any) -> bytes:
        if self.session is not None:
            self.sent += 1
            self.session.send(Note(self.sent), key=self.sent)
        return b"told"


@pytest.mark.parametrize("features", [ASKS, ASKS | Features.RESUME], ids=["without resume", "with resume"])
async def test_a_codec_that_sends_while_it_encodes_an_answer_mixes_up_nothing(features: Features) -> None:
    catalog, codec = Catalog(), Meddling()
    catalog.message(42_002)(Note)

    @catalog.message(42_100, codec=codec)
    class Told:
        pass

    @catalog.message(42_101, answer=Told)
    class Tell(bytes):
        pass

    async with Server(TCP, catalog=catalog, tokens=StaticTokens(), resume_plain=True) as server:

        @server.on(Tell)
        def tell(session: Session, message: Tell) -> Told:
            return Told()

        async with closing(ExtendedClient.logged_in(server, 7, features=features)) as client:

            async def message() -> Frame:
                while not (frame := await client.frame())[0]:
                    pass  # a control record
                return frame

            client.send(encode_frame(42_101, (1).to_bytes(4, "little"), REQUEST))
            assert (await message())[0] == 42_100  # now there is an encoder
            codec.session = server.sessions.get(7)
            for tag in range(2, 5):
                client.send(encode_frame(42_101, tag.to_bytes(4, "little"), REQUEST))
                frames = [await message(), await message()]
                assert {id for id, _, _ in frames} == {42_002, 42_100}
                assert (42_100, ANSWER, tag.to_bytes(4, "little") + b"told") in frames
            client.send(b"".join(encode_frame(42_101, tag.to_bytes(4, "little"), REQUEST) for tag in range(5, 9)))
            answers = [frame for frame in [await message() for _ in range(8)] if frame[0] == 42_100]
            assert [int.from_bytes(body[:4], "little") for _, _, body in answers] == [5, 6, 7, 8]
            assert server.stats.requests_served["answered"] == 8
        await server.stop(0)
