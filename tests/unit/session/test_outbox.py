"""The outbox against the simplest thing that could be one: a list of (key, frame)."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatelink._native import pure
from gatelink.errors import CloseCode, MessageTooLarge
from gatelink.session.outbox import Full, Outbox, OutboxFull
from tests.twins import core, frame, twins

MAX_FRAMES = 5
MAX_BYTES = 60


@dataclass
class Model:
    """What the docstrings of `Outbox` say, with nothing clever in it."""

    max_frames: int
    max_bytes: int
    queue: list[tuple[int, bytes]] = field(default_factory=list)
    dropped: int = 0
    sent: int = 0

    @property
    def size(self) -> int:
        return sum(len(frame) for _, frame in self.queue)

    def has_room(self, size: int, without: tuple[int, bytes] | None = None) -> bool:
        rest = [len(frame) for key, frame in self.queue if (key, frame) != without]
        return len(rest) < self.max_frames and sum(rest) + size <= self.max_bytes

    def push(self, frame: bytes, full: Full, key: int) -> bool:
        """Whether it was not refused with OutboxFull or MessageTooLarge."""
        if len(frame) > self.max_bytes:
            return False
        old = next((entry for entry in self.queue if key and entry[0] == key), None)
        fits = self.has_room(len(frame), old)
        if not fits and full is Full.CLOSE:
            return False
        if not fits and full is Full.DROP_NEWEST:
            self.dropped += 1
            return True
        if old is not None:
            at = self.queue.index(old)
            self.dropped += 1
            if fits and all(other for other, _ in self.queue[at:]):
                self.queue[at] = (key, frame)
                return True
            del self.queue[at]
        while not self.has_room(len(frame)):
            del self.queue[0]
            self.dropped += 1
        self.queue.append((key, frame))
        return True

    def take(self, max_bytes: int) -> bytes:
        taken = b""
        while self.queue and (not taken or len(taken) + len(self.queue[0][1]) <= max_bytes):
            taken += self.queue.pop(0)[1]
            self.sent += 1
        return taken


def numbered(number: int, size: int) -> bytes:
    """A frame of `size` bytes, at least 6, that differs from those before it."""
    return frame(number.to_bytes(2, "little") + bytes(size - 6))


class Pair:
    """An outbox and its model, to which the same happens."""

    def __init__(self, outbox_class: type[Outbox], max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self.outbox = outbox_class(max_frames, max_bytes)
        self.model = Model(max_frames, max_bytes)
        self.pushed = 0
        self.refused = 0
        self.drained = 0

    def push(self, size: int, full: Full, key: int) -> None:
        self.pushed += 1
        pushed = numbered(self.pushed, size)
        taken = self.model.push(pushed, full, key)
        try:
            self.outbox.push(pushed, full, key)
        except MessageTooLarge:
            assert not taken and size > self.model.max_bytes
            self.refused += 1
        except OutboxFull:
            assert not taken and size <= self.model.max_bytes
            self.refused += 1
        else:
            assert taken

    def extend(self, sizes: list[int]) -> None:
        """As the frames of a broadcast come: those that fit before the first that does not are queued."""
        frames = [numbered(self.pushed + at, size) for at, size in enumerate(sizes, 1)]
        self.pushed += len(frames)
        fitted = 0
        while fitted < len(frames) and self.model.push(frames[fitted], Full.CLOSE, 0):
            fitted += 1
        self.refused += len(frames) - fitted
        try:
            self.outbox.extend(frames)
        except OutboxFull:
            assert fitted < len(frames)
        else:
            assert fitted == len(frames)

    def take(self, max_bytes: int) -> None:
        assert self.outbox.take(max_bytes) == self.model.take(max_bytes)

    def drain(self) -> None:
        frames = self.outbox.drain()
        assert frames == [frame for _, frame in self.model.queue]
        self.drained += len(frames)
        self.model.queue.clear()

    def check(self) -> None:
        outbox, model = self.outbox, self.model
        assert list(outbox.frames()) == [frame for _, frame in model.queue]
        assert (outbox.count, outbox.bytes, outbox.held_bytes) == (len(model.queue), model.size, model.size)
        assert (outbox.sent, outbox.dropped) == (model.sent, model.dropped)
        assert outbox.sent + outbox.dropped + outbox.count + self.refused + self.drained == self.pushed
        assert outbox.count <= outbox.max_frames
        assert outbox.bytes <= outbox.max_bytes
        assert_bounded_inside(outbox)


class OutboxMachine(RuleBasedStateMachine):
    outbox_class: type[Outbox] = pure["Outbox"]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(self.outbox_class)

    @rule(size=st.integers(6, 25) | st.integers(6, MAX_BYTES + 20), full=st.sampled_from(Full), key=st.integers(0, 4))
    def push(self, size: int, full: Full, key: int) -> None:
        self.pair.push(size, full, key)

    @rule(sizes=st.lists(st.integers(6, 25), max_size=MAX_FRAMES + 1))
    def extend(self, sizes: list[int]) -> None:
        self.pair.extend(sizes)

    @rule(max_bytes=st.integers(1, 2 * MAX_BYTES))
    def take(self, max_bytes: int) -> None:
        self.pair.take(max_bytes)

    @rule()
    def drain(self) -> None:
        self.pair.drain()

    @invariant()
    def they_are_the_same(self) -> None:
        self.pair.check()


def assert_bounded_inside(outbox: Outbox) -> None:
    if isinstance(outbox, pure["Outbox"]):  # which the compiled one uses for what has a key
        assert len(outbox._frames) <= 2 * outbox.max_frames + 1
        assert len(outbox._keys or ()) <= 2 * outbox.max_frames + 1


class NativeOutboxMachine(OutboxMachine):
    if core is not None:
        outbox_class = core.Outbox


OFTEN = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOutboxIsTheModel = OutboxMachine.TestCase
TestNativeOutboxIsTheModel = NativeOutboxMachine.TestCase
TestOutboxIsTheModel.settings = TestNativeOutboxIsTheModel.settings = OFTEN


@twins("Outbox")
def test_places_left_empty_between_frames_without_a_key_are_cleared_away(Outbox: Any) -> None:
    pair = Pair(Outbox, max_frames=40, max_bytes=10_000)
    for _ in range(20):
        for key in (*range(1, 21), 7, 3):  # the last two in place, if nothing was mixed up
            pair.push(10, Full.CLOSE, key)
            pair.check()
        pair.push(10, Full.CLOSE, 0)
        pair.check()
    for key in (7, 3):
        pair.push(10, Full.CLOSE, key)
    for _ in range(41):
        pair.take(10)
        pair.check()
    assert pair.outbox.sent == 40 and pair.refused == 0


def frames_of(data: bytes) -> list[bytes]:
    """The payloads of the frames of two bytes that `take` joined."""
    return [data[at + 4 : at + 6] for at in range(0, len(data), 6)]


@twins("Outbox")
def test_frames_without_a_key_leave_in_the_order_they_came(Outbox: Any) -> None:
    outbox = Outbox(100, 1_000)
    for at in range(50):
        outbox.push(frame(b"%02d" % at))
    assert frames_of(outbox.take(120) + outbox.take(1_000)) == [b"%02d" % at for at in range(50)]
    assert outbox.take(1_000) == b""
    assert (outbox.sent, outbox.count, outbox.bytes, outbox.dropped) == (50, 0, 0, 0)


@twins("Outbox")
def test_the_latest_of_a_key_takes_the_place_of_the_earlier_one(Outbox: Any) -> None:
    outbox = Outbox(100, 1_000)
    for payload, key in ((b"--", 0), (b"a1", 1), (b"b1", 2), (b"a2", 1), (b"b2", 2), (b"a3", 1)):
        outbox.push(frame(payload), key=key)
    assert frames_of(outbox.take(1_000)) == [b"--", b"a3", b"b2"]
    assert (outbox.sent, outbox.dropped) == (3, 3)


@twins("Outbox")
def test_the_latest_of_a_key_never_overtakes_a_frame_without_one(Outbox: Any) -> None:
    outbox = Outbox(100, 1_000)
    for payload, key in ((b"a1", 1), (b"--", 0), (b"a2", 1), (b"a3", 1)):
        outbox.push(frame(payload), key=key)
    assert frames_of(outbox.take(1_000)) == [b"--", b"a3"]


@twins("Outbox")
def test_a_key_whose_frame_was_sent_replaces_nothing(Outbox: Any) -> None:
    outbox = Outbox(100, 1_000)
    outbox.push(frame(b"a1"), key=1)
    outbox.push(frame(b"b1"), key=2)
    assert frames_of(outbox.take(2)) == [b"a1"]
    outbox.push(frame(b"a2"), key=1)
    assert frames_of(outbox.take(1_000)) == [b"b1", b"a2"]
    assert (outbox.sent, outbox.dropped) == (3, 0)


@twins("Outbox")
@pytest.mark.parametrize("full", Full)
@pytest.mark.parametrize("key", [0, 1])
@pytest.mark.parametrize("waiting", [0, 1])
def test_a_frame_over_the_limit_is_refused_whatever_is_queued_and_what_is_queued_stays(
    Outbox: Any, full: Full, key: int, waiting: int
) -> None:
    outbox = Outbox(10, 100)
    for _ in range(waiting):
        outbox.push(frame(b"a1"), key=key)
    with pytest.raises(MessageTooLarge, match="a frame of 101 bytes; one message has at most 100"):
        outbox.push(frame(bytes(97)), full, key)
    assert (outbox.count, outbox.dropped) == (waiting, 0)
    assert frames_of(outbox.take(1_000)) == [b"a1"] * waiting
    outbox.push(frame(bytes(96)), full, key)
    assert outbox.take(50) == frame(bytes(96))


@twins("Outbox")
@pytest.mark.parametrize("max_frames, max_bytes", [(3, 1_000), (100, 18)])
def test_a_full_queue_refuses_drops_the_oldest_or_drops_the_newest(
    Outbox: Any, max_frames: int, max_bytes: int
) -> None:
    def filled() -> Any:
        outbox = Outbox(max_frames, max_bytes)
        for payload in (b"a1", b"a2", b"a3"):
            outbox.push(frame(payload))
        return outbox

    refusing = filled()
    with pytest.raises(OutboxFull, match="3 frames, 18 bytes are queued") as raised:
        refusing.push(frame(b"a4"), Full.CLOSE)
    assert raised.value.code is CloseCode.SLOW_CONSUMER
    assert (frames_of(refusing.take(1_000)), refusing.dropped) == ([b"a1", b"a2", b"a3"], 0)

    oldest = filled()
    oldest.push(frame(b"a4"), Full.DROP_OLDEST)
    assert (frames_of(oldest.take(1_000)), oldest.dropped) == ([b"a2", b"a3", b"a4"], 1)

    newest = filled()
    newest.push(frame(b"a4"), Full.DROP_NEWEST)
    assert (frames_of(newest.take(1_000)), newest.dropped) == ([b"a1", b"a2", b"a3"], 1)


@twins("Outbox")
def test_a_key_is_not_lost_when_its_newer_value_is_dropped_or_refused(Outbox: Any) -> None:
    outbox = Outbox(10, 18)
    outbox.push(frame(b"--------"))
    outbox.push(frame(b"a1"), key=1)
    outbox.push(frame(b"a2" * 2), Full.DROP_NEWEST, key=1)
    with pytest.raises(OutboxFull):
        outbox.push(frame(b"a3" * 2), Full.CLOSE, key=1)
    assert (outbox.take(1_000), outbox.dropped) == (frame(b"--------") + frame(b"a1"), 1)


@twins("Outbox")
def test_a_keyed_frame_replaces_its_like_in_a_full_queue(Outbox: Any) -> None:
    outbox = Outbox(3, 1_000)
    for payload, key in ((b"a1", 1), (b"b1", 2), (b"--", 0), (b"b2", 2)):
        outbox.push(frame(payload), Full.CLOSE, key)
    assert frames_of(outbox.take(1_000)) == [b"a1", b"--", b"b2"]


@twins("Outbox")
def test_drain_takes_all_unsent(Outbox: Any) -> None:
    outbox = Outbox(10, 1_000)
    for payload, key in ((b"a1", 1), (b"--", 0), (b"a2", 1)):
        outbox.push(frame(payload), key=key)
    assert outbox.drain() == [frame(b"--"), frame(b"a2")]
    assert (outbox.count, outbox.bytes, outbox.sent, outbox.take(10)) == (0, 0, 0, b"")


@twins("Outbox")
def test_what_it_keeps_stays_bounded_over_100_000_operations(Outbox: Any) -> None:
    outbox = Outbox(16, 400)
    dice = random.Random(1)
    for at in range(100_000):
        key = at if dice.random() < 0.5 else dice.choice([0, 0, 1, 2, 3])  # half of the keys come once and never again
        outbox.push(frame(bytes(dice.randrange(2, 36))), dice.choice([Full.DROP_OLDEST, Full.DROP_NEWEST]), key)
        if dice.random() < 0.2:
            outbox.take(dice.randrange(1, 100))
        assert_bounded_inside(outbox)
    assert outbox.sent > 10_000 and outbox.dropped > 10_000
    assert outbox.sent + outbox.dropped + outbox.count == 100_000
