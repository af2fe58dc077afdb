"""Requests with resume: exactly once over breaks, in tick mode, with lagging handlers on either side."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from gatelink import Backoff, ConnectError, Handlers, Peer, RequestCode, RequestFailed, Session
from gatelink.testing import ChaosProxy, Fault, HalfClose, Reset, Split
from tests.e2e.asks import CATALOG, Add, Double, Note, Place, Sum, Where, behind_a_gateway, direct
from tests.e2e.support import until
from tests.support import MS

SOON = Backoff(first=5 * MS, most=20 * MS, attempts=500)
RESUMES = {"resume_plain": True}
AT_ONCE = 32


@pytest.fixture(params=[direct, behind_a_gateway], ids=["direct", "behind a gateway"])
def where(request: pytest.FixtureRequest) -> Where:
    make: Where = request.param
    return make


async def many(peer: Any, count: int) -> list[int]:
    """So many requests, some at a time; the answers in the order of the requests."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> int:
        async with places:
            answer: Sum = await peer.request(Double(n), timeout=60_000 * MS)
            return answer.n

    return list(await asyncio.gather(*map(one, range(count))))


async def through(proxy: ChaosProxy, place: Place, handlers: Handlers) -> Session:
    """A client that resumes through the proxy; where connections break at once, it tries again."""
    place.port = proxy.address[1]
    for _ in range(50):
        try:
            return await place.client(handlers, resume=True, reconnect=SOON)
        except ConnectError:
            continue
    raise AssertionError("no connection lived long enough to log in")


SCRIPTS: dict[str, tuple[Fault, ...]] = {
    "resets": (Reset(mean_bytes=6_000),),
    "half-closes up": (HalfClose(mean_bytes=5_000, direction="up"),),
    "small pieces and resets": (Split(size=7), Reset(mean_bytes=5_000)),
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_each_request_is_handled_and_answered_once_in_both_directions(
    where: Where, script: tuple[Fault, ...]
) -> None:
    async with where(front=RESUMES) as place:
        endpoint = place.front.endpoints[0]
        served: Counter[int] = Counter()
        asked: Counter[int] = Counter()
        backwards: list[asyncio.Task[list[int]]] = []

        @place.at.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            served[message.n] += 1
            await asyncio.sleep(0)
            return Sum(2 * message.n)

        @place.at.on(Note, also=True)
        def note(peer: Peer, message: Note) -> None:
            backwards.append(asyncio.create_task(many(peer, 500)))

        handlers = Handlers(CATALOG)

        @handlers.on(Double)
        def back(session: Session, message: Double) -> Sum:
            asked[message.n] += 1
            return Sum(-message.n)

        async with ChaosProxy(("127.0.0.1", endpoint.port), script) as proxy:
            client = await through(proxy, place, handlers)
            client.send(Note(1))
            assert await many(client, 1_000) == [2 * n for n in range(1_000)]
            (answers,) = await asyncio.gather(*backwards)
            assert answers == [-n for n in range(500)]
            assert proxy.breaks > 3
            assert set(served.values()) == set(asked.values()) == {1}
            assert client.requests is not None and not client.requests.asked and not client.requests.serving
            client.abort()


async def test_a_deadline_that_passes_while_there_is_no_connection_fails_only_the_caller(where: Where) -> None:
    async with where(front=RESUMES) as place:
        endpoint = place.front.endpoints[0]
        place.at.on(Double)(lambda peer, message: Sum(message.n))
        async with ChaosProxy(("127.0.0.1", endpoint.port)) as proxy:
            client = await through(proxy, place, Handlers(CATALOG))
            assert (await client.request(Double(1))).n == 1
            proxy.pause()
            proxy.cut_all()
            with pytest.raises(RequestFailed) as failed:
                await client.request(Double(2), timeout=300 * MS)
            assert failed.value.code is RequestCode.TIMEOUT
            proxy.resume()
            assert (await client.request(Double(3))).n == 3
            assert client.requests is not None and not client.requests.asked, "the late answer made room"
            client.abort()


async def test_a_handler_asks_its_own_session_in_tick_mode(where: Where) -> None:
    async with where(tick_hz=50) as place:

        @place.at.on(Add)
        async def add(peer: Peer, message: Add) -> Sum:
            answer: Sum = await peer.request(Double(message.a))
            return Sum(answer.n + message.b)

        handlers = Handlers(CATALOG)
        handlers.on(Double)(lambda session, message: Sum(2 * message.n))
        client = await place.client(handlers)
        asking = [asyncio.create_task(client.request(Add(n, 1))) for n in range(5)]
        for n in range(300):
            client.send(Note(n))
        assert [(await each).n for each in asking] == [2 * n + 1 for n in range(5)]
        await until(lambda: place.notes == list(range(300)))


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_clients_handler_asks_while_the_server_sends_thousands_of_messages(where: Where, resumes: bool) -> None:
    """The answer comes or the request fails, and the messages keep their order: on the client's side, too."""
    async with where(front=RESUMES) as place:
        got: list[int] = []
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        place.at.on(Double)(lambda peer, message: Sum(2 * message.n))

        @place.at.on(Add)
        async def add(peer: Peer, message: Add) -> Sum:
            peer.send(Note(-1))
            for n in range(message.a):
                peer.send(Note(n))
                if n % 500 == 499:
                    await peer.drain()
            return Sum(message.a)

        handlers = Handlers(CATALOG)

        @handlers.on(Note)
        async def note(session: Session, message: Note) -> None:
            if message.n >= 0:
                got.append(message.n)
                return
            try:
                outcome.set_result(await session.request(Double(4), timeout=20_000 * MS))
            except RequestFailed as failed:
                outcome.set_result(failed.code)

        client = await place.client(handlers, resume=resumes)
        assert (await client.request(Add(100, 0))).n == 100
        assert await outcome == Sum(8)
        await until(lambda: got == list(range(100)))
        got.clear()
        outcome = asyncio.get_running_loop().create_future()
        flood = asyncio.create_task(client.request(Add(10_000, 0), timeout=60_000 * MS))
        assert await outcome in (Sum(8), RequestCode.TOO_MANY)
        await until(lambda: len(got) == 10_000)
        assert got == list(range(10_000))
        try:
            assert (await flood).n == 10_000
        except RequestFailed as failed:
            assert failed.code is RequestCode.TOO_MANY
        client.abort()


async def test_a_handler_of_an_event_asks_its_own_session() -> None:
    async with direct() as place:
        heard: list[Any] = []

        @place.at.on_verified
        async def verified(session: Session) -> None:
            heard.append(await session.request(Double(2)))

        @place.at.on_closed
        async def closed(session: Session) -> None:
            try:
                await session.request(Double(2))
            except RequestFailed as failed:
                heard.append(failed.code)

        handlers = Handlers(CATALOG)
        handlers.on(Double)(lambda session, message: Sum(2 * message.n))
        client = await place.client(handlers)
        await until(lambda: heard == [Sum(4)])
        client.close()
        await until(lambda: heard[1:] == [RequestCode.CLOSED])
