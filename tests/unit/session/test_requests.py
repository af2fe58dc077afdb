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
from gatelink.errors import ProtocolError, SessionClosed
from gatelink.session.loop_context import LoopContext
from gatelink.session.requests import MOST, Requests, ask, failed_frame, open_failure, tag_of
from gatelink.session.session import Session
from gatelink.session.stream import Pause
from gatelink.session.timers import Wheel
from gatelink.testing import FakeClock
from gatelink.wire.control import MAX_REASON, Ack, Features, control_frame, cut_text
from gatelink.wire.frames import ALL_FLAGS, ANSWER, FAILED, REQUEST, FrameDecoder, encode_frame, tagged
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
        self.to_serve: list[tuple[Requests, int, int]] = []  # the tag and the number of each request

    def send_frame(self, frame: bytes) -> None:
        if self.close_code is not None:
            raise SessionClosed(self.close_code, "")
        self.out.append(frame)

    def expect_answers(self) -> None: ...


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
