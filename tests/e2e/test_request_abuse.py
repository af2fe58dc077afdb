"""Bad requests, answers and renewals, as bytes: each has a defined end, and costs nobody else anything."""

import asyncio
import struct
from typing import Any

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    CloseExpired,
    Handlers,
    Peer,
    RequestCode,
    RequestFailed,
    Session,
    connect,
)
from gatelink.session.renewal import MOST_EARLY
from gatelink.session.requests import MOST, failed_frame, tag_of
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy
from gatelink.wire.base import VERIFY_REQUEST
from gatelink.wire.control import Close, Expiring, Features, Renew, Renewed, control_frame
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_control_frame, encode_frame
from tests.e2e.asks import (
    ASKS,
    CATALOG,
    Add,
    Double,
    Note,
    Place,
    Shown,
    Sum,
    Where,
    answering,
    asking,
    behind_a_gateway,
    direct,
)
from tests.e2e.extension import BOTH, closed
from tests.e2e.support import RawClient, until, verify_request


@pytest.fixture(params=[direct, behind_a_gateway], ids=["direct", "behind a gateway"])
def where(request: pytest.FixtureRequest) -> Where:
    make: Where = request.param
    return make


def add(place: Place) -> None:
    """Answers Add at once; a Double is answered when `place.go` is set."""
    place.at.on(Add)(lambda peer, message: Sum(message.a + message.b))


async def fine(place: Place, uid: int = 99) -> None:
    """Somebody else is served."""
    other = await place.client(uid=uid)
    assert await other.request(Add(1, 2)) == Sum(3)
    other.abort()


def noting(n: int) -> bytes:
    """The whole frame of a Note, which is no request."""
    return encode_frame(42_002, CATALOG.encode(Note(n))[1])


def failure(frame: Any) -> tuple[int, int]:
    """The tag and code of a FAILED frame."""
    id, flags, body = frame
    assert flags == FAILED, frame
    tag, code = struct.unpack_from("<IH", body)
    return tag, code


# -- frames that end the session with 4007 --

TAGGED = {
    "a tag that is in use": asking(Double(1), 5) + asking(Double(1), 5),
    "a heartbeat as a request": encode_frame(24, bytes(4), REQUEST),
    "a login as a request": encode_frame(VERIFY_REQUEST, bytes(4), REQUEST),
    "an answer with the framework's id": encode_frame(1, bytes(4), ANSWER),
    "an answer to a service with the framework's id": encode_frame(1, b"\x2a\x01\0\0", ANSWER),
    "a failure of a framework message": encode_frame(2, bytes(12), FAILED),
    "a request that is too short for a tag": encode_frame(42_001, b"abc", REQUEST),
    "an answer that is too short for a tag": encode_frame(42_000, b"", ANSWER),
    "a failure that is too short": encode_frame(42_001, bytes(11), FAILED),
    "a failure to a service that is too short": encode_frame(42_001, b"\x2a\x01" + bytes(9), FAILED),
    "a failure whose reason is longer than it says": encode_frame(42_001, bytes(12) + b"a", FAILED),
    "a failure whose reason is too long": encode_frame(42_001, struct.pack("<IHIH", 0, 3, 0, 124) + b"a" * 124, FAILED),
    "a request that does not decode": encode_frame(42_001, bytes(4) + b"\xc1", REQUEST),
    "a request of an unknown id": encode_frame(60_001, bytes(4), REQUEST),
    "a compressed failure": encode_frame(42_001, bytes(12), FAILED | 1),
    "flags between the known ones": encode_frame(42_001, bytes(12), 0x0C),
    "RENEWED from a client": control_frame(Renewed(0, 0)),
    "EXPIRING from a client": control_frame(Expiring(60)),
    "a RENEW that is cut short": encode_control_frame(b"\x0b\x05\0ab"),
}


@pytest.mark.parametrize("data", TAGGED.values(), ids=TAGGED)
async def test_what_is_no_request_or_answer_ends_only_that_session(where: Where, data: bytes) -> None:
    async with where() as place:
        add(place)
        place.at.on(Double)(lambda peer, message: asyncio.Event().wait())
        client = await place.raw()
        client.send(data)
        end = await client.end()
        assert end[-1] == closed(CloseCode.PROTOCOL_ERROR), end
        await fine(place)


NOT_AGREED = {
    "a request": asking(Add(1, 2), 0),
    "an answer": answering(Sum(1), 0),
    "an answer to a service": answering(Sum(1), 0x012A),
    "a failure": failed_frame(42_001, 0, RequestCode.FAILED),
    "RENEW": control_frame(Renew("x")),
}


@pytest.mark.parametrize("data", NOT_AGREED.values(), ids=NOT_AGREED)
async def test_a_peer_that_did_not_agree_may_not_ask(where: Where, data: bytes) -> None:
    async with where() as place:
        add(place)
        client = await place.raw(features=Features.PING)
        client.send(data)
        assert (await client.end())[-1] == closed(CloseCode.PROTOCOL_ERROR)
        plain = await RawClient.verified(place.front, 8)
        plain.send(data)
        await plain.rest()
        await plain.close()
        await fine(place)


@pytest.mark.parametrize("data", [asking(Add(1, 2), 0), control_frame(Renew("x")), answering(Sum(1), 0)])
async def test_nothing_is_asked_before_the_login(data: bytes) -> None:
    async with direct() as place:
        add(place)
        client = await place.raw(log_in=False)
        client.send(data)
        end = await client.end()
        assert end == [] or end[-1] == closed(CloseCode.PROTOCOL_ERROR), end
        assert not place.front.stats.renewals
        await fine(place)


# -- frames that are dropped and counted --


async def test_answers_to_nothing_and_second_answers_are_dropped_and_counted(where: Where) -> None:
    async with where() as place:
        add(place)
        asked: list[Any] = []

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            asked.append(await peer.request(Double(message.n)))

        client = await place.raw()
        client.send(noting(4))
        _, flags, body = await client.frame()
        tag = tag_of(body)
        assert flags == REQUEST
        strays = [
            answering(Sum(1), tag ^ 0x10000),  # another counter
            failed_frame(42_003, tag ^ 0x10000, RequestCode.FAILED),
            answering(Sum(1), tag ^ 0x0100),  # an older binding, or another generation
            answering(Sum(1), tag ^ 0x07),  # another service
            answering(Sum(1), 0xFFFF_FFFF),
        ]
        client.send(*strays, answering(Sum(8), tag), answering(Sum(9), tag))
        await until(lambda: asked == [Sum(8)])
        stats = {place.at.context.stats, place.front.context.stats}
        await until(lambda: sum(each.stray_answers for each in stats) == 6)
        client.send(asking(Add(2, 3), 1))
        id_, flags, body = await client.frame()
        assert (id_, flags, tag_of(body)) == (42_000, ANSWER, 1), "the session goes on"
        await fine(place)


async def test_an_answer_of_another_type_fails_the_request_and_one_that_does_not_decode_the_session(
    where: Where,
) -> None:
    async with where() as place:
        add(place)
        codes: list[RequestCode] = []

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            try:
                await peer.request(Double(message.n))
            except RequestFailed as failed:
                codes.append(failed.code)

        client = await place.raw()
        client.send(noting(4))
        client.send(answering(Note(1), tag_of((await client.frame())[2])))
        client.send(noting(4))
        tag = (await client.frame())[2][:4]
        client.send(encode_frame(42_000, tag + b"\xc1", ANSWER))
        assert (await client.end())[-1] == closed(CloseCode.PROTOCOL_ERROR)
        await until(lambda: len(codes) == 2)
        assert codes == [RequestCode.WRONG_ANSWER, RequestCode.WRONG_ANSWER]
        await fine(place)


async def test_of_thousands_of_requests_at_once_all_over_the_bound_fail(where: Where) -> None:
    async with where() as place:
        go = asyncio.Event()
        add(place)

        @place.at.on(Double)
        async def double(peer: Peer, message: Double) -> Sum:
            await go.wait()
            return Sum(2 * message.n)

        client = await place.raw()
        for start in range(0, 5_000, 500):
            client.send(*[asking(Double(n), n) for n in range(start, start + 500)])
        refused = [failure(await client.frame()) for _ in range(5_000 - MOST)]
        assert refused == [(tag, RequestCode.TOO_MANY) for tag in range(MOST, 5_000)]
        await fine(place)
        go.set()
        answered = [await client.frame() for _ in range(MOST)]
        assert [(flags, tag_of(body)) for _, flags, body in answered] == [(ANSWER, tag) for tag in range(MOST)]
        client.send(asking(Add(1, 1), 70_000))
        assert tag_of((await client.frame())[2]) == 70_000, "there is room again"


async def test_a_peer_that_never_answers_is_asked_no_more_than_the_bound(where: Where) -> None:
    async with where() as place:
        add(place)
        codes: list[RequestCode] = []

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            async def one() -> None:
                try:
                    await peer.request(Double(1), timeout=0.1)
                except RequestFailed as failed:
                    codes.append(failed.code)

            await asyncio.gather(*(one() for _ in range(100)))

        client = await place.raw()
        client.send(noting(4))
        asked = [await client.frame() for _ in range(MOST)]
        await until(lambda: len(codes) == 100)
        assert codes.count(RequestCode.TIMEOUT) == MOST and codes.count(RequestCode.TOO_MANY) == 100 - MOST
        client.send(noting(4))
        await until(lambda: len(codes) == 200)
        assert codes.count(RequestCode.TIMEOUT) == MOST, "a request that timed out still waits"
        client.send(*[answering(Sum(1), tag_of(body)) for _, _, body in asked])
        client.send(noting(4))
        again = [await client.frame() for _ in range(MOST)]
        assert {tag_of(body) for _, _, body in again}.isdisjoint({tag_of(body) for _, _, body in asked})


async def test_a_flood_while_a_handler_asks_again_and_again_fills_no_memory(where: Where) -> None:
    """Each request of the handler gives no further window of room: what is held stays bounded."""
    async with where() as place:
        add(place)
        codes: list[RequestCode] = []
        most = 0

        @place.at.on(Note, also=True)
        async def note(peer: Peer, message: Note) -> None:
            nonlocal most
            if message.n:
                return
            for _ in range(40):
                try:
                    await peer.request(Double(1), timeout=20)
                except RequestFailed as failed:
                    codes.append(failed.code)
                inbox = peer.inbox  # type: ignore[attr-defined]
                most = max(most, len(inbox.items))
                await asyncio.sleep(0.002)

        client = await place.raw()
        note_frame = noting(1)
        client.send(noting(0))
        flood = asyncio.create_task(_write(client, note_frame * 1_000, 100))
        await until(lambda: len(codes) == 40)
        assert set(codes) == {RequestCode.TOO_MANY}
        limits = place.at.limits
        assert most <= limits.max_inbox + 2 * limits.window_frames + 4 * limits.turn_frames
        flood.cancel()
        await fine(place)
        client.reset()


async def _write(client: RawClient, data: bytes, times: int) -> None:
    for _ in range(times):
        client.writer.write(data)
        await client.writer.drain()


# -- renewal --


async def test_renewals_too_soon_are_refused_unchecked_and_many_of_them_end_the_session() -> None:
    tokens = Shown()
    async with direct(tokens=tokens) as place:
        client = await place.raw(log_in=False)
        client.send(verify_request(7, b"7:one:100"))
        await client.frame()
        client.say(Renew("7:two:1000"), *[Renew(f"7:more{n}:1000") for n in range(MOST_EARLY + 1)])
        end = await client.end()
        assert end.count(Renewed(1, 0)) >= MOST_EARLY - 1 and end[-1] == Close(
            CloseCode.RATE_LIMITED, "too many renewals"
        )
        assert tokens.shown == ["7:one:100", "7:two:1000"]
        assert place.front.stats.renewals["too-soon"] == MOST_EARLY


async def test_a_renewal_with_another_users_token_changes_nothing() -> None:
    tokens = Shown()
    async with direct(tokens=tokens) as place:
        client = await place.raw(log_in=False)
        client.send(verify_request(7, b"7:one:100"))
        await client.frame()
        client.say(Renew("8:eve:1000"))
        assert await client.control() == Renewed(1, 0)
        there = place.front.sessions.get(7)
        assert there is not None and there.claims == {"name": "one"}
        await client.close()


async def test_a_token_that_expires_while_the_session_is_detached_ends_its_ticket() -> None:
    rule = CloseExpired(warn=0.1)
    async with direct(tokens=Shown(), expiry=rule, resume_plain=True) as place:
        client = await place.raw(features=ASKS | Features.RESUME, log_in=False)
        client.send(verify_request(7, b"7:one:0.5"))
        await client.frame()
        ticket = await client.control()
        client.writer.transport.abort()
        await until(lambda: place.front.stats.closed[CloseCode.TOKEN_EXPIRED] == 1)
        again = await place.raw(features=ASKS | Features.RESUME, log_in=False)
        again.resume(ticket)  # type: ignore[arg-type]
        assert (await again.end())[-1] == closed(CloseCode.RESUME_REFUSED)


@pytest.mark.parametrize("lacks", [Features.REQUESTS, Features.RENEWAL])
async def test_a_resume_that_lacks_a_feature_is_refused_and_one_that_has_more_gains_none(lacks: Features) -> None:
    async with direct(resume_plain=True) as place:
        add(place)
        client = await place.raw(features=ASKS | Features.RESUME)
        client.writer.transport.abort()
        again = await place.raw(features=(ASKS | Features.RESUME) & ~lacks, log_in=False)
        again.resume(client.ticket)
        assert (await again.end())[-1] == closed(CloseCode.RESUME_REFUSED)
        whole = await place.raw(features=ASKS | Features.RESUME, log_in=False)
        whole.resume(client.ticket)
        await whole.resumed(client.ticket)
        whole.send(asking(Add(1, 2), 0))
        assert (await whole.frame())[:2] == (42_000, ANSWER)

        less = await place.raw(8, BOTH)
        less.writer.transport.abort()
        more = await place.raw(features=ASKS | Features.RESUME, log_in=False)
        more.resume(less.ticket)
        await more.resumed(less.ticket)
        more.send(asking(Add(1, 2), 0))
        assert (await more.end())[-1] == closed(CloseCode.PROTOCOL_ERROR)
        await fine(place)


async def test_a_renewal_that_broke_off_is_not_checked_twice() -> None:
    """A token may be good for one use: the client that shows it again after a break gets its answer."""
    tokens = Shown(once=True)
    async with direct(tokens=tokens, resume_plain=True) as place:
        client = await place.raw(features=ASKS | Features.RESUME, log_in=False)
        client.send(verify_request(7, b"7:one:100"))
        await client.frame()
        ticket = await client.control()
        tokens.gate.clear()
        client.say(Renew("7:two:1000"))
        await until(lambda: len(tokens.shown) == 2)
        client.writer.transport.abort()
        for attempt in (1, 2):  # first while it is being checked, then after that
            again = await place.raw(features=ASKS | Features.RESUME, log_in=False)
            again.resume(ticket, attempt=attempt)  # type: ignore[arg-type]
            await again.resumed(ticket, attempt)  # type: ignore[arg-type]
            again.say(Renew("7:two:1000"))
            tokens.gate.set()
            answer = await again.control()
            assert isinstance(answer, Renewed) and answer.result == 0 and answer.expires_in > 900
            again.writer.transport.abort()
            await until(lambda: place.front.sessions.get(7).state is SessionState.DETACHED)  # type: ignore[union-attr]
        assert tokens.shown == ["7:one:100", "7:two:1000"]


# -- what a client may meet --


async def test_a_client_that_logs_in_anew_without_resume_fails_what_it_asked_and_mixes_no_tags() -> None:
    """Without a ticket the next connection is a new session at the server, whose tags begin at 0."""
    async with direct() as place:
        go = asyncio.Event()

        @place.at.on(Add)
        async def slow(peer: Peer, message: Add) -> Sum:
            await go.wait()
            return Sum(message.a)

        answers: list[Any] = []

        @place.at.on_verified
        async def verified(session: Session) -> None:
            answers.append(await session.request(Double(session.epoch)))

        handlers = Handlers(CATALOG)
        first = asyncio.Event()

        @handlers.on(Double)
        async def double(session: Session, message: Double) -> Sum:
            if not answers and not first.is_set():
                first.set()
                await go.wait()
                return Sum(-1)
            return Sum(message.n)

        endpoint = place.front.endpoints[0]
        async with ChaosProxy(("127.0.0.1", endpoint.port)) as proxy:
            client = await connect(
                f"tcp://127.0.0.1:{proxy.address[1]}",
                uid=7,
                token=f"{7:032d}",
                slot=0,
                catalog=CATALOG,
                handlers=handlers,
                reconnect=Backoff(first=0.01),
            )
            await first.wait()
            asked = [asyncio.create_task(client.request(Add(n, 0))) for n in range(MOST)]
            await asyncio.sleep(0)
            proxy.cut_all()
            for each in asked:
                with pytest.raises(RequestFailed) as failed:
                    await each
                assert failed.value.code is RequestCode.CLOSED
            await until(lambda: client.state.name == "OPEN")
            go.set()
            assert await client.request(Add(5, 0)) == Sum(5), "all places are free again"
            await until(lambda: bool(answers))
            assert answers == [Sum(place.front.sessions.get(7).epoch)]  # type: ignore[union-attr]
            client.abort()


async def test_what_a_session_had_to_answer_goes_to_no_other_session() -> None:
    """The next login of the user gets the messages that were queued, and none of the requests and answers."""
    async with direct() as place:
        add(place)
        client = await place.raw(features=ASKS)
        there = place.front.sessions.get(7)
        assert there is not None
        stream = there._stream
        assert stream is not None
        stream.writable = False
        there.send(Note(1))
        asking_task = asyncio.create_task(there.request(Double(1)))
        await asyncio.sleep(0)
        there.send(Note(2))
        there._drop_connection(CloseCode.GOING_AWAY, "cut")
        with pytest.raises(RequestFailed):
            await asking_task
        await client.close()
        plain = await RawClient.verified(place.front, 7)
        assert [(id, flags) for id, flags, _ in [await plain.frame() for _ in range(2)]] == [(42_002, 0)] * 2
        await plain.close()
