"""Sent frames are kept until they are acknowledged, and never more than the window (docs/protocol.md, "Retention")."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, one_of, sampled_from, tuples

from gatelink.errors import ProtocolError
from gatelink.session.outbox import Full
from tests.twins import frame, twins

BIG = 1 << 30


def window(SendWindow: Any, frames: int = 4, size: int = 100, max_frames: int = 1_000) -> Any:
    return SendWindow(max_frames, BIG, frames, size)


def numbered(n: int, size: int = 10) -> bytes:
    """A frame of `size` bytes."""
    return frame(bytes([n]) * (size - 4))


def filled(SendWindow: Any, count: int, size: int = 10, **limits: int) -> Any:
    box = window(SendWindow, **limits)
    for n in range(count):
        box.push(numbered(n, size))
    return box


@twins("SendWindow")
def test_no_more_than_the_window_s_frames_leave(SendWindow: Any) -> None:
    box = filled(SendWindow, 6)
    assert box.take(BIG) == b"".join(numbered(n) for n in range(4))
    assert (box.sent, box.kept, box.kept_bytes, box.count) == (4, 4, 40, 2)
    assert box.take(BIG) == b""
    assert box.sent == 4


@twins("SendWindow")
def test_no_more_than_the_window_s_bytes_leave(SendWindow: Any) -> None:
    box = filled(SendWindow, 6, 40, frames=100)
    assert len(box.take(BIG)) == 80
    assert box.take(BIG) == b""
    assert (box.kept, box.kept_bytes, box.count) == (2, 80, 4)


@twins("SendWindow")
def test_what_is_acknowledged_makes_room(SendWindow: Any) -> None:
    box = filled(SendWindow, 6)
    box.take(BIG)
    box.acknowledge(3)
    assert (box.acknowledged, box.kept, box.kept_bytes) == (3, 1, 10)
    assert box.take(BIG) == numbered(4) + numbered(5)
    assert (box.sent, box.kept) == (6, 3)


@twins("SendWindow")
def test_a_frame_larger_than_the_window_leaves_when_nothing_else_is_kept(SendWindow: Any) -> None:
    box = window(SendWindow, size=100)
    box.push(frame(b"s"))
    box.push(frame(b"L" * 996))
    box.push(frame(b"t"))
    assert box.take(BIG) == frame(b"s")
    assert box.take(BIG) == b""
    box.acknowledge(1)
    assert box.take(BIG) == frame(b"L" * 996)
    assert box.take(BIG) == b""
    box.acknowledge(2)
    assert box.take(BIG) == frame(b"t")


@twins("SendWindow")
def test_a_stream_s_share_is_respected_within_the_window(SendWindow: Any) -> None:
    box = filled(SendWindow, 4)
    assert box.take(25) == numbered(0) + numbered(1)
    assert box.take(25) == numbered(2) + numbered(3)


@twins("SendWindow")
def test_a_frame_larger_than_the_stream_s_share_waits_for_no_acknowledgement_if_the_window_has_room(
    SendWindow: Any,
) -> None:
    box = window(SendWindow, size=100)
    for size in (10, 60, 60):
        box.push(numbered(0, size))
    assert [len(box.take(25)) for _ in range(3)] == [10, 60, 0]


@twins("SendWindow")
def test_frames_that_are_each_larger_than_the_stream_s_share_leave_one_at_a_time(SendWindow: Any) -> None:
    box = window(SendWindow, size=1_000)
    for size in (10, 60, 60):
        box.push(numbered(0, size))
    assert [len(box.take(25)) for _ in range(4)] == [10, 60, 60, 0]


@twins("SendWindow")
def test_what_is_sent_again_is_what_was_sent_and_not_acknowledged(SendWindow: Any) -> None:
    box = filled(SendWindow, 6)
    box.take(BIG)
    box.acknowledge(1)
    assert box.unacknowledged() == b"".join(numbered(n) for n in range(1, 4))
    assert box.unacknowledged() == b"".join(numbered(n) for n in range(1, 4)), "sending again keeps it"
    box.acknowledge(4)
    assert box.unacknowledged() == b""


@twins("SendWindow")
@pytest.mark.parametrize("received", [-1, 1, 5, 6, 1 << 63])
def test_a_count_that_can_not_be_is_the_peer_s_fault_and_changes_nothing(SendWindow: Any, received: int) -> None:
    box = filled(SendWindow, 6)
    box.take(BIG)
    box.acknowledge(2)
    with pytest.raises(ProtocolError, match="2 were acknowledged, 4 sent"):
        box.acknowledge(received)
    assert (box.acknowledged, box.kept, box.kept_bytes) == (2, 2, 20)


@twins("SendWindow")
def test_acknowledging_the_same_count_again_is_fine(SendWindow: Any) -> None:
    box = filled(SendWindow, 2)
    box.take(BIG)
    box.acknowledge(2)
    box.acknowledge(2)
    assert box.kept == 0


@twins("SendWindow")
def test_policy_touches_only_what_is_queued(SendWindow: Any) -> None:
    box = window(SendWindow, frames=2, max_frames=2)
    box.push(frame(b"0"), key=5)
    box.push(frame(b"1"))
    box.take(BIG)
    for n in b"abcdef":
        box.push(frame(bytes([n])), full=Full.DROP_OLDEST, key=5 * (n % 2))
    assert box.unacknowledged() == frame(b"0") + frame(b"1")
    assert (box.count, box.dropped) == (2, 4)


@twins("SendWindow")
def test_an_ended_session_s_window_holds_nothing_back(SendWindow: Any) -> None:
    box = filled(SendWindow, 50)
    box.take(BIG)
    box.lift()
    assert len(box.take(BIG)) == 460
    assert box.count == 0


@twins("SendWindow")
def test_what_it_keeps_is_what_was_sent_and_then_what_is_queued(SendWindow: Any) -> None:
    box = filled(SendWindow, 6)
    box.take(BIG)
    box.acknowledge(1)
    assert list(box.frames()) == [numbered(n) for n in range(1, 6)]


@twins("SendWindow")
def test_held_bytes_are_those_queued_and_those_kept(SendWindow: Any) -> None:
    box = filled(SendWindow, 6)
    assert box.held_bytes == 60
    box.take(BIG)
    assert box.held_bytes == 60
    box.acknowledge(4)
    assert box.held_bytes == 20


STEPS = lists(
    one_of(
        tuples(sampled_from(["push"]), integers(0, 60)),
        tuples(sampled_from(["take"]), integers(1, 200)),
        tuples(sampled_from(["acknowledge"]), integers(0, 5)),
    ),
    max_size=80,
)


@twins("SendWindow")
@given(steps=STEPS)
def test_any_use_keeps_exactly_what_is_between_sent_and_acknowledged(
    SendWindow: Any, steps: list[tuple[str, int]]
) -> None:
    box = window(SendWindow, frames=5, size=120)
    pushed: list[bytes] = []
    taken = b""
    for what, amount in steps:
        if what == "push":
            pushed.append(numbered(len(pushed), amount + 4))
            box.push(pushed[-1])
        elif what == "take":
            taken += box.take(amount)
        else:
            box.acknowledge(min(box.acknowledged + amount, box.sent))
        assert taken == b"".join(pushed[: box.sent])
        assert box.unacknowledged() == b"".join(pushed[box.acknowledged : box.sent])
        assert box.kept_bytes == len(box.unacknowledged()) and box.kept <= 5
        assert box.kept_bytes <= 120 or box.kept == 1
        assert box.count == len(pushed) - box.sent
