"""One call that queues the same frames for many sessions."""

from typing import Any

import pytest

from gatelink.config import Limits
from gatelink.errors import CloseCode, MessageTooLarge
from gatelink.session.outbox import Full
from gatelink.wire.frames import encode_frame
from tests.fakes import Bench, FakeHandlers, FakeStream, settle
from tests.twins import twins

FRAMES = [encode_frame(11_001, b"a"), encode_frame(11_002, b"bc", 1)]


def several(count: int, limits: Limits | None = None) -> tuple[Bench, list[Any], list[FakeStream]]:
    bench = Bench(limits)
    made = [bench.session(FakeHandlers(), uid=uid) for uid in range(1, count + 1)]
    return bench, [session for session, _ in made], [stream for _, stream in made]


@twins("send_to_all")
async def test_all_get_all_frames_in_order_with_one_write_each(send_to_all: Any) -> None:
    _, sessions, streams = several(5)
    sessions[1].send_frame(FRAMES[1])  # one that is to be flushed already
    assert send_to_all(sessions, FRAMES) == 5
    assert send_to_all(iter(sessions[:2]), FRAMES[:1]) == 2
    await settle()
    both = b"".join(FRAMES)
    expected = [both + FRAMES[0], FRAMES[1] + both + FRAMES[0], both, both, both]
    assert [stream.log for stream in streams] == [[data] for data in expected]
    assert [session.outbox.sent for session in sessions] == [3, 4, 2, 2, 2]


@twins("send_to_all")
async def test_sessions_that_have_ended_are_passed_over(send_to_all: Any) -> None:
    _, sessions, _ = several(3)
    sessions[1].close()
    assert send_to_all(sessions, FRAMES) == 2
    assert send_to_all([sessions[1]], FRAMES[:1], 7) == 0
    assert send_to_all([], FRAMES) == 0


@twins("send_to_all")
async def test_a_full_outbox_ends_its_session_alone_and_policies_are_kept(send_to_all: Any) -> None:
    _, sessions, streams = several(3, Limits(max_outbox_frames=2))
    streams[1].writable = False
    assert send_to_all(sessions, FRAMES) == 3
    assert send_to_all(sessions[1:2], FRAMES[:1], 0, Full.DROP_NEWEST) == 1
    assert sessions[1].outbox.dropped == 1 and list(sessions[1].outbox.frames()) == FRAMES
    assert send_to_all(sessions, FRAMES) == 2
    assert [session.close_code for session in sessions] == [None, CloseCode.SLOW_CONSUMER, None]
    await settle()
    assert b"".join(each for each in streams[0].log if isinstance(each, bytes)) == b"".join(FRAMES * 2)


@twins("send_to_all")
async def test_a_key_replaces_what_waits(send_to_all: Any) -> None:
    _, sessions, _ = several(2)
    for body in (b"old", b"new"):
        assert send_to_all(sessions, [encode_frame(11_001, body)], (1 << 64) - 1) == 2
    for session in sessions:
        assert list(session.outbox.frames()) == [encode_frame(11_001, b"new")]


@twins("send_to_all")
async def test_each_of_several_frames_has_the_key_and_the_policy(send_to_all: Any) -> None:
    _, sessions, streams = several(2, Limits(max_outbox_frames=1))
    for stream in streams:
        stream.writable = False
    assert send_to_all(sessions, FRAMES, 7) == 2
    assert [list(session.outbox.frames()) for session in sessions] == [FRAMES[1:]] * 2, "the second replaced the first"
    assert send_to_all(sessions, FRAMES, 0, Full.DROP_NEWEST) == 2
    assert [list(session.outbox.frames()) for session in sessions] == [FRAMES[1:]] * 2
    assert [session.outbox.dropped for session in sessions] == [3, 3] and sessions[0].close_code is None


@twins("send_to_all")
async def test_a_frame_that_no_outbox_takes_raises_and_those_before_it_leave(send_to_all: Any) -> None:
    _, sessions, streams = several(2, Limits(max_outbox_bytes=2_000))
    sessions[1].outbox.max_bytes = 100
    with pytest.raises(MessageTooLarge):
        send_to_all(sessions, [encode_frame(11_001, bytes(500))])
    await settle()
    assert [len(stream.log) for stream in streams] == [1, 0]
