"""PING, PONG and other control records of a session that speaks the extension."""

from time import time
from typing import Any

import pytest

from gatelink.config import ACK_FRAMES
from gatelink.errors import CloseCode
from gatelink.session.extension import PONGS_PER_SECOND
from gatelink.session.states import SessionState
from gatelink.wire import control
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.control import Features
from gatelink.wire.frames import CONTROL
from tests.fakes import (
    state_of,
    turn,
)
from tests.unit.session.support import Desk, say

# -- PING and PONG --


async def test_each_ping_is_answered_once_with_its_own_time() -> None:
    desk = Desk()
    desk.hear(control.Ping(11, 0), control.Ping(12, 0))
    desk.hear(control.Ping(13, 0))
    pongs: list[Any] = desk.records
    assert [pong.sent_at for pong in pongs] == [11, 12, 13]
    assert all(pong.server_time > 1_600_000_000_000 for pong in pongs)


async def test_a_server_tells_its_time_in_unix_milliseconds() -> None:
    desk = Desk()
    before = time() * 1_000
    desk.hear(control.Ping(11, 0))
    (pong,) = desk.records
    assert isinstance(pong, control.Pong) and int(before) <= pong.server_time <= time() * 1_000


async def test_a_client_tells_no_time() -> None:
    desk = Desk(accepting=False)
    desk.hear(control.Ping(11, 0))
    assert desk.records == [control.Pong(11, 0, 0)]


async def test_at_most_four_pings_a_second_are_answered() -> None:
    desk = Desk()
    for n in range(1, 21):
        desk.hear(*[control.Ping(n, 0)] * 3)
    assert len(desk.records) == PONGS_PER_SECOND
    await desk.pass_time(1.1)
    for n in range(1, 21):
        desk.hear(control.Ping(n, 0))
    assert len(desk.records) == 2 * PONGS_PER_SECOND


async def test_pings_of_a_peer_that_does_not_read_pile_nothing_up() -> None:
    desk = Desk()
    desk.stream.writable = False
    for n in range(1, 50):
        desk.hear(control.Ping(n, 0))
        await desk.pass_time(0.3)
    assert desk.stream.log == [], "neither PONGs nor PINGs of ours"
    desk.stream.unblock()
    assert len(desk.records) <= PONGS_PER_SECOND


async def test_a_ping_goes_out_every_interval_and_its_answer_measures_the_round_trip() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (ping,) = desk.records
    assert isinstance(ping, control.Ping) and ping.sent_at and desk.it.rtt is None
    desk.hear(control.Pong(ping.sent_at, 0, 0))
    rtt: Any = desk.it.rtt
    assert 0 < rtt < 20
    assert HEARTBEAT not in desk.ids


async def test_an_answer_to_nothing_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    desk.hear(control.Pong(0, 0, 0), control.Pong(12_345, 0, 0))
    assert desk.it.rtt is None


async def test_a_second_answer_to_an_earlier_ping_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (first,) = desk.records
    assert isinstance(first, control.Ping)
    desk.hear(control.Pong(first.sent_at, 0, 0))
    await desk.pass_time(10.3)
    desk.hear(control.Pong(first.sent_at, 0, 0))
    assert sum(desk.stats.rtt.counts) == 1


async def test_a_late_answer_of_the_old_connection_measures_nothing() -> None:
    desk = Desk()
    await desk.pass_time(10.3)
    (ping,) = desk.records
    assert isinstance(ping, control.Ping)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    desk.hear(control.Pong(ping.sent_at, 0, 0))
    assert desk.it.rtt is None


async def test_an_answer_that_was_due_is_not_given_on_the_next_connection() -> None:
    desk = Desk()
    desk.stream.writable = False
    desk.hear(control.Ping(11, 0))
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    assert desk.records == []
    desk.hear(*[say()] * ACK_FRAMES)
    assert desk.records == [control.Ack(ACK_FRAMES)]


async def test_a_goaway_that_did_not_leave_is_not_said_on_the_next_connection() -> None:
    desk = Desk()
    desk.stream.writable = False
    assert desk.it.go_away(5)
    desk.it.resume_on(desk.new_stream(), 0, b"")
    await turn()
    desk.hear(*[say()] * ACK_FRAMES)
    assert desk.records == [control.Ack(ACK_FRAMES)]


async def test_without_the_ping_feature_heartbeats_are_the_base_ones() -> None:
    desk = Desk(Features.RESUME)
    await desk.pass_time(10.3)
    assert desk.ids == [HEARTBEAT] and desk.records == []


async def test_a_silent_peer_s_session_is_detached_after_the_heartbeat_timeout() -> None:
    desk = Desk()
    await desk.pass_time(61)
    assert state_of(desk.it) is SessionState.DETACHED and desk.stream.is_dropped
    assert desk.owner.calls == ["detached heartbeat-timeout"]


# -- control records --


@pytest.mark.parametrize(
    "record",
    [
        control.Hello(),
        control.Resume(bytes(16), 0, 1, bytes(32)),
        control.Resumed(0, bytes(32)),
        control.Ticket(bytes(16), bytes(32), 9, ""),
        control.GoAway(0),
    ],
    ids=lambda record: type(record).__name__,
)
async def test_a_server_hears_no_such_record_after_verification(record: control.Control) -> None:
    desk = Desk()
    desk.hear(say(), record, say())
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
    assert desk.handlers.received.count(say()) == 1, "what came before it is handled, what came after is not"


async def test_a_ticket_without_the_feature_is_a_protocol_error() -> None:
    desk = Desk(Features.PING, accepting=False)
    desk.hear(control.Ticket(bytes(16), bytes(32), 9, ""))
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR


async def test_records_of_types_to_come_are_ignored() -> None:
    desk = Desk()
    desk.hear((0, CONTROL, b"\x80"), (0, CONTROL, b"\xffanything"), say())
    assert state_of(desk.it) is SessionState.OPEN and desk.extension.received == 1


@pytest.mark.parametrize("payload", [b"\x0b", b"\x7f", b"\x06", b"\x08" + bytes(9), b"\x09\xa0\x0f\x05\x00abc"])
async def test_a_malformed_or_unknown_record_is_a_protocol_error(payload: bytes) -> None:
    desk = Desk()
    desk.hear((0, CONTROL, payload))
    assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
    assert desk.records == [control.Close(CloseCode.PROTOCOL_ERROR, "")], "the details are for our log"
