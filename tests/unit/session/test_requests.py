"""The requests of a session: their types, their bytes, and a model of two sides that ask each other."""

import asyncio
import gc
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Struct

from gatelink import Catalog, CloseCode, Limits, LocalError, Refuse, Request, RequestCode, RequestFailed
from gatelink.cluster.player import Player
from gatelink.config import ACK_FRAMES
from gatelink.errors import BodyError, MessageTooLarge, ProtocolError, SessionClosed
from gatelink.session.loop_context import LoopContext
from gatelink.session.requests import MOST, Requests, ask, failed_frame, open_failure, tag_of
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from gatelink.session.timers import Wheel
from gatelink.testing import FakeClock
from gatelink.wire.control import MAX_REASON, Ack, Features, control_frame, cut_text
from gatelink.wire.frames import ALL_FLAGS, ANSWER, FAILED, REQUEST, Frame, FrameDecoder, encode_frame, tagged
from tests.fakes import Bench, FakeHandlers, FakeOwner, FakeStream, extended_session, settle
from tests.limits import with_window

CATALOG = Catalog()


@CATALOG.message(21_001)
class Sum(Struct):
    n: int


@CATALOG.message(21_002)
class Add(Struct, Request[Sum]):
    n: int


@CATALOG.message(21_003, answer=Sum)
class Double(Struct):
    n: int


if TYPE_CHECKING:

    async def types(session: Session, player: Player) -> None:
        """What mypy sees: the test of it is that mypy finds nothing wrong here."""
        assert_type(await session.request(Add(1)), Sum)
        assert_type(await player.request(Add(1), timeout=3), Sum)
        assert_type(await session.request(Double(1)), Any)  # the type checker does not see what `answer=` says
        reply = await session.request(Add(1))
        reply.text  # type: ignore[attr-defined]  # mypy fails if nothing is wrong here  # noqa: B018


# -- bytes --

IDS = st.integers(5, 59_999)
TAGS = st.integers(0, 2**32 - 1)


@given(IDS, st.binary(max_size=300), st.integers(0, 3), TAGS, st.sampled_from([REQUEST, ANSWER]))
def test_a_tagged_frame_is_its_message_and_its_tag(id: int, body: bytes, flags: int, tag: int, kind: int) -> None:
    decoder = FrameDecoder(1_000)
    decoder.allowed = ALL_FLAGS
    ((found_id, found_flags, found),) = decoder.feed(tagged(encode_frame(id, body, flags), tag, kind))
    assert (found_id, found_flags, tag_of(found), found[4:]) == (id, flags | kind, tag, body)
    base = FrameDecoder(1_000)
    assert base.feed(tagged(encode_frame(id, body, flags), tag, kind)) == [] and base.error is not None


@given(
    IDS,
    TAGS,
    st.sampled_from([code for code in RequestCode if code < 256]),
    st.integers(0, 2**32 - 1),
    st.text(st.characters(), max_size=200),
)
def test_a_failure_says_its_code_detail_and_reason(
    id: int, tag: int, code: RequestCode, detail: int, reason: str
) -> None:
    decoder = FrameDecoder(1_000)
    decoder.allowed = ALL_FLAGS
    ((found_id, flags, body),) = decoder.feed(failed_frame(id, tag, code, detail, reason))
    assert (found_id, flags, tag_of(body)) == (id, FAILED, tag)
    found_code, found_detail, found = open_failure(body)
    assert (found_code, found_detail) == (code, detail)
    assert len(cut_text(reason, MAX_REASON)) <= MAX_REASON
    if reason.isprintable() and len(reason.encode()) <= MAX_REASON:
        assert found == reason


def test_a_lone_surrogate_in_a_reason_does_not_keep_the_failure_back() -> None:
    assert open_failure(failed_frame(11_001, 1, RequestCode.REFUSED, 1, "a\ud800b")[6:])[2] == "a?b"


@pytest.mark.parametrize("number", [0, 99, *(code for code in RequestCode if code >= RequestCode.TIMEOUT), 65_535])
def test_a_code_of_a_newer_version_or_one_that_is_never_sent_counts_as_failed(number: int) -> None:
    assert open_failure(struct.pack("<IHIH", 1, number, 2, 0)) == (RequestCode.FAILED, 2, "")


@pytest.mark.parametrize("wrong", [("7",), (1.5,), (-1,), (2**32,), (1, None), (1, b"no")])
def test_a_refusal_that_can_not_be_sent_is_an_error_where_it_is_raised(wrong: Any) -> None:
    with pytest.raises(LocalError):
        Refuse(*wrong)


# -- one side --


async def test_a_request_that_is_not_sent_leaves_nothing_behind() -> None:
    """The peer reads nothing, and the request does not fit any more: the session ends, and nobody forgets an error."""
    bench = Bench(Limits(max_outbox_frames=2), catalog=CATALOG)
    stream = FakeStream()
    session = extended_session(
        bench.context,
        FakeOwner(),
        SimpleNamespace(closed=lambda *_: None),
        stream,
        uid=7,
        features=Features.REQUESTS,
    )
    stream.writable = False
    waiting = [asyncio.create_task(session.request(Add(n))) for n in range(2)]
    await settle()
    with pytest.raises(RequestFailed) as failed:
        await session.request(Add(3))
    assert failed.value.code is RequestCode.CLOSED
    for each in waiting:
        with pytest.raises(RequestFailed):
            await each
    unseen: list[Any] = []
    bench.loop.set_exception_handler(lambda _, context: unseen.append(context))
    gc.collect()
    assert not unseen and bench.stats.requests_asked == {"closed": 3}


async def test_what_can_not_be_encoded_is_no_request() -> None:
    bench = Bench(catalog=CATALOG)
    session = extended_session(
        bench.context,
        FakeOwner(),
        SimpleNamespace(),
        FakeStream(),
        uid=7,
        features=Features.REQUESTS,
    )
    with pytest.raises(Exception, match="Add"):
        await session.request(Add("x"))  # type: ignore[arg-type]
    for timeout in (0, -1, float("nan")):
        with pytest.raises(LocalError, match="seconds above 0"):
            await session.request(Add(1), timeout=timeout)
    assert session.requests is not None and not session.requests.asked and not bench.stats.requests_asked


async def test_a_request_that_got_no_answer_keeps_no_acknowledgements_going_while_handlers_lag() -> None:
    """The client never answers. When the handlers lag later, it has to stop at its window, as any other client."""
    bench = Bench(with_window(Limits(), ACK_FRAMES), catalog=CATALOG)
    stream = FakeStream()
    session = extended_session(
        bench.context, FakeOwner(), FakeHandlers(), stream, uid=7, features=Features.RESUME | Features.REQUESTS
    )
    waiting = asyncio.create_task(session.request(Add(1), timeout=1.0))
    await settle()
    await bench.pass_time(1.3)
    with pytest.raises(RequestFailed, match="timeout"):
        await waiting
    stream.log.clear()
    session.pause(Pause.INBOX)
    session.receive([(21_001, 0, b"")] * ACK_FRAMES)
    assert stream.log == []
    session.resume(Pause.INBOX)
    await settle()
    assert stream.log == [control_frame(Ack(ACK_FRAMES))]


# -- what becomes of a request --


def pair() -> tuple["Side", "Side", FakeClock]:
    """One that asks, one that is asked, and their clock."""
    loop, clock = asyncio.get_running_loop(), FakeClock()
    return Side(loop, clock), Side(loop, clock), clock


def arrive(at: "Side", frames: list[bytes]) -> list[int]:
    """Gives `frames` to a side. The tags of the requests that it is to handle."""
    assert at.requests is not None
    taken = at.decoder.feed(b"".join(frames))
    frames.clear()
    return [tag_of(frame[2]) for frame in taken if at.requests.take(at, frame)]


async def test_each_request_is_counted_on_both_sides_by_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("gatelink.session.requests.perf_counter", lambda: now)
    here, there, clock = pair()
    asking = [asyncio.create_task(ask(here, Add(n), 5.0)) for n in range(7)]
    await settle()
    tags = arrive(there, here.out)
    now += 2.5
    assert there.requests is not None and here.requests is not None and here.requests.waiting == here.expected == 7
    there.requests.answer(there, tags[0], Sum(1))
    there.requests.answer(there, tags[1], None)
    there.requests.refuse(there, tags[2], RequestCode.REFUSED, 9, "no")
    with pytest.raises(TypeError, match="returned a Add; it is answered with Sum"):
        there.requests.answer(there, tags[3], Add(1))
    there.requests.refuse(there, tags[3], RequestCode.REFUSED)
    assert arrive(here, there.out) == []
    asking[4].cancel()
    await settle()
    there.requests.answer(there, tags[4], Sum(1))
    assert arrive(here, there.out) == [] and here.requests.waiting == 2
    clock.advance(6)
    here.context.wheel.run_due()
    await settle()
    here.requests.close()
    here.requests = None
    asking.append(asyncio.create_task(ask(here, Add(1), 5.0)))
    results = await asyncio.gather(*asking, return_exceptions=True)
    failures = [(each.code, each.detail, each.reason) for each in results if isinstance(each, RequestFailed)]
    assert results[0] == Sum(1) and isinstance(results[4], asyncio.CancelledError)
    assert failures == [
        (RequestCode.NO_ANSWER, 0, ""),
        (RequestCode.REFUSED, 9, "no"),
        (RequestCode.FAILED, 0, ""),
        (RequestCode.TIMEOUT, 0, ""),
        (RequestCode.TIMEOUT, 0, ""),
        (RequestCode.UNSUPPORTED, 0, "the other side does not speak requests"),
    ]
    asked, served = here.context.stats, there.context.stats
    assert asked.requests_asked.pop("timeout") == 2
    once = ("answered", "no-answer", "refused", "failed", "cancelled", "unsupported")
    assert asked.requests_asked == dict.fromkeys(once, 1)
    assert served.requests_served == {"answered": 2, "no-answer": 1, "refused": 1, "failed": 1}
    assert sum(asked.request_seconds.counts) == 7 and asked.request_seconds.sum == 7 * 2.5
    assert not len(here.context.wheel) and asked.stray_answers == 0
    assert asked.sent["Add"].messages == 7 and served.sent["Sum"].messages == 2
    assert asked.sent["Add"].bytes == 7 * len(frame_with_tag(here, Add(1)))


def frame_with_tag(side: "Side", message: Any) -> bytes:
    kind = side.context.catalog.of_type(type(message))
    return tagged(encode_frame(kind.id, kind.encode(message)), 0, REQUEST)


async def test_the_65th_request_of_a_session_is_refused_on_both_sides_until_one_is_answered() -> None:
    here, there, _ = pair()
    assert here.requests is not None and there.requests is not None
    asking = [asyncio.create_task(ask(here, Add(n), 5.0)) for n in range(64)]
    await settle()
    with pytest.raises(RequestFailed) as failed:
        await ask(here, Add(1), 5.0)
    assert failed.value.code is RequestCode.TOO_MANY and "64 requests" in failed.value.reason
    tags = arrive(there, here.out)
    assert len(tags) == len(set(tags)) == 64
    one_more = tagged(encode_frame(21_002, b""), 0x777_0000, REQUEST)
    assert arrive(there, [one_more]) == []
    assert there.out == [failed_frame(21_002, 0x777_0000, RequestCode.TOO_MANY)]
    assert there.context.stats.requests_served == {"too-many": 1}
    there.out.clear()
    there.requests.answer(there, tags[0], Sum(1))
    arrive(here, there.out)
    asking.append(asyncio.create_task(ask(here, Add(1), 5.0)))
    await settle()
    assert arrive(there, here.out) != []
    here.requests.close()
    there.requests.close()
    await asyncio.gather(*asking, return_exceptions=True)
    assert there.requests.serving == {} and here.requests.waiting == 0


@pytest.mark.parametrize("id", [21_001, 21_999], ids=["no request", "no message"])
async def test_what_is_sent_as_a_request_and_is_none_has_no_answer(id: int) -> None:
    _, there, _ = pair()
    (tag,) = arrive(there, [tagged(encode_frame(id, b""), 5, REQUEST)])
    assert there.requests is not None
    there.requests.answer(there, tag, Sum(1))
    assert there.out == [failed_frame(id, 5, RequestCode.NO_ANSWER)]


async def test_an_ended_session_asks_nothing_and_what_it_served_has_no_answer() -> None:
    here, there, _ = pair()
    asking = asyncio.create_task(ask(here, Add(1), 5.0))
    await settle()
    (tag,) = arrive(there, here.out)
    there.close_code = CloseCode.KICKED
    assert there.requests is not None
    there.requests.answer(there, tag, Sum(1))
    assert there.out == []
    for code in (RequestCode.CLOSED, RequestCode.SERVER_LOST):
        assert here.requests is not None
        here.requests.give_up(code)
    here.close_code = CloseCode.KICKED
    for waiting in (asking, ask(here, Add(1), 5.0)):
        with pytest.raises(RequestFailed) as failed:
            await waiting
        assert failed.value.code is RequestCode.CLOSED
    assert failed.value.reason == "the session has ended: kicked" and here.out == []


async def test_a_wrong_answer_fails_its_request_alone_and_one_that_does_not_decode_is_the_peers_fault() -> None:
    here, there, _ = pair()
    asking = [asyncio.create_task(ask(here, Add(n), 5.0)) for n in range(3)]
    await settle()
    tags = arrive(there, here.out)
    assert arrive(here, [tagged(encode_frame(21_002, b""), tags[0], ANSWER)]) == []
    with pytest.raises(BodyError, match="an answer Sum does not decode"):
        arrive(here, [tagged(encode_frame(21_001, b"\xc1"), tags[1], ANSWER)])
    with pytest.raises(ProtocolError, match="^(?!an answer)"):  # the fault is in the compression, not in the answer
        arrive(here, [tagged(encode_frame(21_001, b"\xff", 1), tags[2], ANSWER)])
    for task, reason in zip(
        asking, ("message 21002, not Sum", "it does not decode", "it does not decode"), strict=True
    ):
        with pytest.raises(RequestFailed) as failed:
            await task
        assert (failed.value.code, failed.value.reason) == (RequestCode.WRONG_ANSWER, reason)


async def test_a_message_that_declares_no_answer_is_no_request() -> None:
    here, _, _ = pair()
    with pytest.raises(LocalError, match="Sum has no answer"):
        await ask(here, Sum(1), 5.0)
    assert here.out == [] and not here.context.stats.requests_asked


async def test_a_request_that_is_too_large_only_with_its_tag_is_not_sent() -> None:
    here, _, _ = pair()
    here.context.max_message = len(frame_with_tag(here, Add(1))) - 1
    with pytest.raises(MessageTooLarge):
        await ask(here, Add(1), 5.0)
    assert here.requests is not None and not here.requests.asked and here.out == []
    here.context.max_message += 1
    waiting = asyncio.create_task(ask(here, Add(1), 5.0))
    await settle()
    assert len(here.out) == 1 and here.context.stats.sent["Add"].messages == 1
    here.requests.close()
    with pytest.raises(RequestFailed):
        await waiting


@pytest.mark.parametrize("type, generation, first", [(0, 0, b"\0\0"), (3, 0x105, b"\3\5"), (255, 255, b"\xff\xff")])
def test_the_tags_of_a_side_begin_with_its_type_and_the_number_of_its_binding(
    type: int, generation: int, first: bytes
) -> None:
    requests = Requests(type, generation)
    tags = {requests.next_tag().to_bytes(4, "little") for _ in range(1 << 16)}
    assert len(tags) == 1 << 16 and {tag[:2] for tag in tags} == {first}
    assert Requests().next_tag() & 0xFFFF == 0, "no service asks"


def test_the_answers_to_a_service_behind_this_side_are_forwarded_and_nothing_is_taken_behind_a_wrong_frame() -> None:
    requests, forwarded = Requests(), list[Frame]()
    peer: Any = SimpleNamespace(context=SimpleNamespace(stats=SimpleNamespace(stray_answers=0)))
    message, asked = (21_001, 0, b""), (21_002, REQUEST, b"\3\0\0\0")
    theirs, mine = (21_001, ANSWER, b"\3\0\0\0"), (21_001, ANSWER, b"\0\1\0\0")
    failed = (21_001, FAILED, b"\4" + bytes(13))
    frames: list[Frame] = [message, theirs, mine, asked, failed]
    assert requests.take_all(peer, frames, forwarded.append) == ([message, asked], None)
    assert (
        forwarded == [theirs, failed] and requests.serving == {3: (21_002, 0)} and peer.context.stats.stray_answers == 1
    )
    for wrong in ((3, ANSWER, b"\3\0\0\0"), (150, REQUEST, b"\1\0\0\0")):
        taken, error = requests.take_all(peer, [message, wrong, message], forwarded.append)
        assert taken == [message] and isinstance(error, ProtocolError) and len(forwarded) == 2
    requests.take_all(peer, [theirs])
    assert peer.context.stats.stray_answers == 2, "without a service behind it, the answer is its own"


@pytest.mark.parametrize("size, said", [(2, 3), (3, 2), (124, 124), (123, 123)])
def test_the_reason_of_a_failure_has_the_length_that_it_says_and_at_most_123_bytes(size: int, said: int) -> None:
    body = struct.pack("<IHIH", 1, RequestCode.REFUSED, 2, said) + b"x" * size
    if size == said == 123:
        assert open_failure(body) == (RequestCode.REFUSED, 2, "x" * 123)
    else:
        with pytest.raises(ProtocolError, match=f"{size} bytes of a reason of {said}"):
            open_failure(body)


# -- a model of two sides --


class Side:
    """One side, as its requests see it; `out` are the frames on their way to the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: FakeClock) -> None:
        self.context = LoopContext(loop, CATALOG, Limits())
        self.context.wheel = Wheel(loop, clock)
        self.requests: Requests | None = Requests()
        self.close_code: CloseCode | None = None
        self.out: list[bytes] = []
        self.decoder = FrameDecoder(1_000)
        self.decoder.allowed = ALL_FLAGS
        self.asked: list[tuple[int, asyncio.Task[Any]]] = []
        self.expected = 0
        self.to_serve: list[tuple[Requests, int, int]] = []  # the tag and the number of each request

    def send_frame(self, frame: bytes) -> None:
        if self.close_code is not None:
            raise SessionClosed(self.close_code, "")
        self.out.append(frame)

    def expect_answers(self) -> None:
        self.expected += 1


SIDES = st.sampled_from([0, 1])


class Asking(RuleBasedStateMachine):
    """Two sides that ask each other; answers in any order, callers that give up, breaks, counters that wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.sides = [Side(self.loop, self.clock) for _ in range(2)]
        self.number = 0
        self.strays = 0

    def run_loop(self) -> None:
        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(side=SIDES, count=st.sampled_from([1, 2, 5, 70]), timeout=st.sampled_from([1.0, 3.0, float("inf")]))
    def someone_asks(self, side: int, count: int, timeout: float) -> None:
        it = self.sides[side]
        for _ in range(count):
            self.number += 1
            it.asked.append((self.number, self.loop.create_task(ask(it, Add(self.number), timeout))))
        self.run_loop()

    @rule(side=SIDES, at=st.integers(0, 200))
    def a_caller_gives_up(self, side: int, at: int) -> None:
        waiting = [task for _, task in self.sides[side].asked if not task.done()]
        if waiting:
            waiting[at % len(waiting)].cancel()
            self.run_loop()

    @rule(side=SIDES, count=st.sampled_from([1, 3, 1_000]))
    def frames_arrive(self, side: int, count: int) -> None:
        here, there = self.sides[side], self.sides[1 - side]
        arrived, here.out[:] = here.out[:count], here.out[count:]
        requests = there.requests
        assert requests is not None
        for frame in there.decoder.feed(b"".join(arrived)):
            if requests.take(there, frame):
                there.to_serve.append((requests, tag_of(frame[2]), CATALOG.by_id[frame[0]].decode(frame[2][4:]).n))
        self.run_loop()

    @rule(side=SIDES, at=st.integers(0, 200), how=st.sampled_from(["answer", "answer", "refuse", "nothing", "wrong"]))
    def a_request_is_served(self, side: int, at: int, how: str) -> None:
        it = self.sides[side]
        if not it.to_serve:
            return
        requests, tag, number = it.to_serve.pop(at % len(it.to_serve))
        if how == "answer":
            requests.answer(it, tag, Sum(number))
        elif how == "nothing":
            requests.answer(it, tag, None)
        elif how == "refuse":
            requests.refuse(it, tag, RequestCode.REFUSED, number, "no")
        elif tag in requests.serving:
            with pytest.raises(TypeError):
                requests.answer(it, tag, Add(number))
        requests.answer(it, tag, Sum(-1))  # a second one is none

    @rule(seconds=st.sampled_from([0.5, 1.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for it in self.sides:
            it.context.wheel.run_due()
        self.run_loop()

    @rule(side=SIDES)
    def a_counter_is_about_to_wrap(self, side: int) -> None:
        requests = self.sides[side].requests
        assert requests is not None
        requests._count = 0xFFFE

    @rule(side=SIDES, counter=st.integers(0, 0xFFFF))
    def an_answer_to_nothing_comes(self, side: int, counter: int) -> None:
        it = self.sides[side]
        requests = it.requests
        assert requests is not None
        if counter << 16 not in requests.asked:
            before = it.context.stats.stray_answers
            assert not requests.take(it, (21_001, ANSWER, (counter << 16).to_bytes(4, "little") + b"\xc1"))
            assert it.context.stats.stray_answers == before + 1
            self.strays += 1

    @rule(side=SIDES)
    def a_tag_is_used_twice(self, side: int) -> None:
        it = self.sides[side]
        requests = it.requests
        assert requests is not None
        for tag in requests.serving:
            with pytest.raises(ProtocolError, match="which another one has"):
                requests.take(it, (21_002, REQUEST, tag.to_bytes(4, "little")))
            return

    @rule()
    def both_begin_anew(self) -> None:
        """A break without resume: another session, with requests of its own."""
        for it in self.sides:
            assert it.requests is not None
            it.requests.close()
            it.requests = Requests()
            it.out.clear()
        self.run_loop()

    @invariant()
    def each_answer_is_that_of_its_request(self) -> None:
        for it in self.sides:
            for number, task in [each for each in it.asked if each[1].done()]:
                it.asked.remove((number, task))
                if task.cancelled():
                    continue
                error = task.exception()
                if error is None:
                    assert task.result() == Sum(number)
                else:
                    assert isinstance(error, RequestFailed)
                    assert error.code is not RequestCode.REFUSED or error.detail == number

    @invariant()
    def no_more_wait_than_may(self) -> None:
        for here, there in (self.sides, self.sides[::-1]):
            assert here.requests is not None and there.requests is not None
            assert len(here.requests.asked) <= MOST and len(there.requests.serving) <= MOST
            live = sum(not task.done() for _, task in here.asked)
            assert live <= len(here.requests.asked)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """A request of this session is on its way, is served, or its answer is on its way."""
        for at, here in enumerate(self.sides):
            there = self.sides[1 - at]
            assert here.requests is not None and there.requests is not None
            tags = set(there.requests.serving)
            tags |= {tag_of(frame[6:]) for frame in here.out if frame[3] < ANSWER}
            tags |= {tag_of(frame[6:]) for frame in there.out if frame[3] >= ANSWER}
            assert set(here.requests.asked) == tags

    def teardown(self) -> None:
        for _ in range(3):
            for side in (0, 1):
                self.frames_arrive(side, 1_000)
                while self.sides[side].to_serve:
                    self.a_request_is_served(side, 0, "answer")
        self.run_loop()
        self.each_answer_is_that_of_its_request()
        for it in self.sides:
            assert it.requests is not None and not it.requests.asked and not it.requests.serving
            assert not it.asked and not len(it.context.wheel)
        self.loop.close()


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
