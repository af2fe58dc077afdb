"""What was sent arrives exactly once and in order, over any number of breaks: two sessions, a wire that a test cuts."""

import asyncio
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from gatelink.config import Limits
from gatelink.errors import CloseCode, PeerError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.carrier import Pause, Sink
from gatelink.session.extended import ExtendedSession
from gatelink.session.hub import Hub
from gatelink.session.outbox import Full
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.control import Features
from gatelink.wire.frames import FrameDecoder
from gatelink.wire.messages import Catalog

LIMITS = Limits(window_frames=8, window_bytes=400, max_outbox_frames=12, max_outbox_bytes=2_000)


class Number(msgspec.Struct):
    n: int
    padding: str = ""


class Owner:
    """Keeps every broken session, as a manager or a dialer does with a ticketed one."""

    def __init__(self, accepting: bool) -> None:
        self.accepting = accepting

    def broke(self, session: Session, code: CloseCode) -> bool:
        return True

    def ended(self, session: Session) -> None: ...

    def gone(self, session: Session) -> None: ...


class Wire:
    """One direction of one connection: bytes written and not yet delivered."""

    writable = True

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.decoder = FrameDecoder(100_000)
        self.dropped = False

    def write(self, data: bytes) -> None:
        self.bytes += data

    def deliver(self, count: int, sink: Sink) -> None:
        data, self.bytes = bytes(self.bytes[:count]), self.bytes[count:]
        if frames := self.decoder.feed(data):
            sink.receive(frames)
        assert self.decoder.error is None

    def pause(self, why: Pause) -> None: ...

    def resume(self, why: Pause) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def drop(self) -> None:
        self.dropped = True


class Side:
    """One session with what it sent and what its handler got."""

    def __init__(self, loop: asyncio.AbstractEventLoop, accepting: bool) -> None:
        catalog = Catalog()
        catalog.add(11_000, Number)
        handlers = Handlers(catalog)
        self.got: list[int] = []
        handlers.on(Number)(lambda session, message: self.got.append(message.n))
        self.hub = Hub(loop, catalog, LIMITS)
        self.out = Wire()
        self.session = ExtendedSession(
            self.hub, Owner(accepting), handlers, self.out, uid=1, features=Features.RESUME | Features.PING
        )
        self.sent = 0  # messages that `send` took
        self.dropped: set[int] = set()


class ResumeMachine(RuleBasedStateMachine):
    """Sends, deliveries of any number of bytes, breaks noticed by either side first, and resumes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server, self.client = Side(self.loop, True), Side(self.loop, False)
        self.server.session.issue_ticket()
        self.client.session.ticket = self.server.session.ticket
        self.connected = True

    def teardown(self) -> None:
        self.reconnect()
        for _ in range(200):
            self.turn()
            for side, other in ((self.server, self.client), (self.client, self.server)):
                side.out.deliver(len(side.out.bytes), other.session)
            for side in (self.server, self.client):
                side.session._ack_due = True
                side.session.on_deadline(side.hub.wheel.now)
            if not any(side.out.bytes or side.session.outbox.count for side in (self.server, self.client)):
                break
        for side, other in ((self.server, self.client), (self.client, self.server)):
            assert other.got == [n for n in range(side.sent) if n not in side.dropped]
        self.server.hub.wheel.close()
        self.client.hub.wheel.close()
        self.loop.close()

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def reconnect(self) -> None:
        """As a client's RESUME and a server's RESUMED do."""
        client, server = self.client, self.server
        if client.session.state is SessionState.OPEN:
            client.session.lost(None)
        client.out, server.out = Wire(), Wire()
        assert server.session.can_resume_from(client.session.received)
        received = server.session.received
        server.session.resume_on(server.out, client.session.received, b"")
        client.session.resume_on(client.out, received, b"")
        self.connected = True

    @rule(server=booleans(), count=integers(1, 6), padding=sampled_from([0, 10, 150]), full=sampled_from(list(Full)))
    def send(self, server: bool, count: int, padding: int, full: Full) -> None:
        side = self.server if server else self.client
        for _ in range(count):
            if full is Full.CLOSE and side.session.outbox.count >= LIMITS.max_outbox_frames - 1:
                return  # it would end the session, as it should
            before = side.session.outbox.dropped
            numbers = self.queued(side)
            try:
                side.session.send(Number(side.sent, "x" * padding), full=full)
            except SessionClosed:
                raise AssertionError("a session with a full window ends only by policy") from None
            side.sent += 1
            if side.session.outbox.dropped > before:
                after = self.queued(side)
                side.dropped |= {n for n in [*numbers, side.sent - 1] if n not in after}

    def queued(self, side: Side) -> list[int]:
        decode = side.hub.catalog.by_type[Number].decode
        return [decode(frame[6:]).n for frame in side.session.outbox._frames if frame is not None]

    @rule()
    def run_loop(self) -> None:
        self.turn()

    @rule(server=booleans(), count=integers(1, 500))
    def deliver(self, server: bool, count: int) -> None:
        side, other = (self.server, self.client) if server else (self.client, self.server)
        if self.connected and other.session.state is SessionState.OPEN:
            side.out.deliver(count, other.session)

    @rule(server=booleans())
    def acknowledge_in_time(self, server: bool) -> None:
        side = self.server if server else self.client
        if side.session.state is SessionState.OPEN:
            side.session.on_deadline(side.hub.wheel.now)

    @precondition(lambda self: self.connected)
    @rule(server_notices=booleans(), client_notices=booleans())
    def cut(self, server_notices: bool, client_notices: bool) -> None:
        self.connected = False
        if server_notices:
            self.server.session.lost(ConnectionResetError())
        if client_notices:
            self.client.session.lost(None)

    @precondition(lambda self: not self.connected)
    @rule()
    def come_back(self) -> None:
        self.reconnect()

    @invariant()
    def nothing_is_repeated_or_reordered(self) -> None:
        for side, other in ((self.server, self.client), (self.client, self.server)):
            assert other.got == sorted(set(other.got)), "repeated or out of order"
            assert other.got == [n for n in range(side.sent) if n not in side.dropped][: len(other.got)], "lost"

    @invariant()
    def retention_is_within_the_window(self) -> None:
        for side in (self.server, self.client):
            window: Any = side.session.outbox
            assert window.kept <= LIMITS.window_frames
            assert window.kept_bytes <= LIMITS.window_bytes or window.kept == 1


TestResume = ResumeMachine.TestCase
TestResume.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_counts_that_can_not_be_are_the_peers_fault() -> None:
    loop = asyncio.new_event_loop()
    try:
        side = Side(loop, True)
        side.session.issue_ticket()
        for n in range(3):
            side.session.send(Number(n))
        side.session.flush()
        assert not side.session.can_resume_from(4)
        side.session.outbox.acknowledge(2)  # type: ignore[attr-defined]
        assert not side.session.can_resume_from(1)
        for wrong in (1, 4):
            try:
                side.session.outbox.acknowledge(wrong)  # type: ignore[attr-defined]
            except PeerError as error:
                assert "3 sent" in str(error)
            else:
                raise AssertionError(f"{wrong} was believed")
    finally:
        loop.close()
