"""Messages arrive exactly once and in order, over any number of breaks: two sessions, a wire that a test cuts."""

import asyncio
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from gatelink.config import Limits
from gatelink.errors import CloseCode, PeerError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.outbox import Full
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import FrameReceiver, Pause
from gatelink.wire.control import Features
from gatelink.wire.frames import FrameDecoder
from gatelink.wire.messages import Catalog
from tests.fakes import extended_session, extension_of
from tests.limits import with_window

BOTH = Features.RESUME | Features.PING
LIMITS = with_window(Limits(max_outbox_frames=12, max_outbox_bytes=2_000), 8, 400)


class Number(msgspec.Struct):
    n: int
    padding: str = ""


class Owner:
    """Keeps every broken session, as a dialer does with a ticketed one."""

    accepting = False

    def detached(self, session: Session, code: CloseCode) -> bool:
        return True

    def closed(self, session: Session) -> None: ...

    def renew(self, session: Session, token: str) -> None: ...

    def expiring(self, session: Session) -> None: ...

    def released(self, session: Session) -> None: ...


class Wire:
    """One direction of one connection: bytes written and not yet delivered."""

    writable = True
    held_bytes = 0
    unsent = 0

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.decoder = FrameDecoder(100_000)
        self.dropped = False

    def write(self, data: bytes) -> None:
        self.bytes += data

    def deliver(self, count: int, sink: FrameReceiver) -> None:
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


class Frontend:
    """One session with what it sent and what its handler got."""

    def __init__(self, loop: asyncio.AbstractEventLoop, accepting: bool) -> None:
        catalog = Catalog()
        catalog.add(11_000, Number)
        self.handlers = Handlers(catalog)
        self.got: list[int] = []
        self.handlers.on(Number)(lambda session, message: self.got.append(message.n))
        self.context = LoopContext(loop, catalog, LIMITS)
        self.manager = SessionManager(self.context)
        self.owner = self.manager if accepting else Owner()
        self.out = Wire()
        self.session = self.log_in()
        self.sent = 0  # messages that `send` took
        self.dropped: set[int] = set()

    def log_in(self) -> Session:
        """A session of uid 1, which is the manager's if this side accepts."""
        epoch = self.context.loop.run_until_complete(self.manager.claim(1))
        session = extended_session(self.context, self.owner, self.handlers, self.out, uid=1, epoch=epoch, features=BOTH)
        if self.owner is self.manager:
            self.manager.install(session)
            self.manager.issue_ticket(session)
        return session

    @property
    def said(self) -> list[int]:
        """The messages that the other side should get."""
        return [n for n in range(self.sent) if n not in self.dropped]


class ResumeMachine(RuleBasedStateMachine):
    """Sends, deliveries of any number of bytes, breaks noticed by either side first, and resumes, in any order.

    It is over when a side closes, or when the user logs in a second time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server, self.client = Frontend(self.loop, True), Frontend(self.loop, False)
        extension_of(self.client.session).ticket = self.server.session.ticket
        self.connected = True
        self.over = False

    def teardown(self) -> None:
        if not self.over:
            self.hear_all()
        self.server.context.wheel.close()
        self.client.context.wheel.close()
        self.loop.close()

    def hear_all(self) -> None:
        """At the latest over one more connection, both sides have heard everything."""
        self.reconnect()
        for _ in range(200):
            self.turn()
            for side, other in self.directions:
                side.out.deliver(len(side.out.bytes), other.session)
            for side in (self.server, self.client):
                extension_of(side.session).ack_due = True
                side.session.on_deadline(side.context.wheel.now)
            if not any(side.out.bytes or side.session.outbox.count for side in (self.server, self.client)):
                break
        for side, other in self.directions:
            assert other.got == side.said

    @property
    def directions(self) -> tuple[tuple[Frontend, Frontend], tuple[Frontend, Frontend]]:
        return (self.server, self.client), (self.client, self.server)

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def reconnect(self) -> None:
        """As a client's RESUME and a server's RESUMED do."""
        client, server = self.client, self.server
        if client.session.state is SessionState.OPEN:
            client.session.lost(None)
        client.out, server.out = Wire(), Wire()
        assert extension_of(server.session).can_resume_from(extension_of(client.session).received)
        received = extension_of(server.session).received
        server.manager.resumed(server.session)
        server.session.resume_on(server.out, extension_of(client.session).received, b"")
        client.session.resume_on(client.out, received, b"")
        self.connected = True

    @precondition(lambda self: not self.over)
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

    def queued(self, side: Frontend) -> list[int]:
        decode = side.context.catalog.by_type[Number].decode
        window: Any = side.session.outbox
        return [decode(frame[6:]).n for frame in list(window.frames())[window.kept :]]

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
            side.session.on_deadline(side.context.wheel.now)

    @precondition(lambda self: self.connected and not self.over)
    @rule(server_notices=booleans(), client_notices=booleans())
    def cut(self, server_notices: bool, client_notices: bool) -> None:
        self.connected = False
        if server_notices:
            self.server.session.lost(ConnectionResetError())
        if client_notices:
            self.client.session.lost(None)

    @precondition(lambda self: not self.connected and not self.over)
    @rule()
    def come_back(self) -> None:
        self.reconnect()

    @precondition(lambda self: self.connected and not self.over)
    @rule(server=booleans(), count=integers(0, 6))
    def close(self, server: bool, count: int) -> None:
        """Its last words arrive, however full its window is, and then the code."""
        self.over = True
        side, other = (self.server, self.client) if server else (self.client, self.server)
        for _ in range(min(count, LIMITS.max_outbox_frames - 1 - side.session.outbox.count)):
            side.session.send(Number(side.sent))
            side.sent += 1
        side.session.close(CloseCode.NORMAL, "goodbye")
        self.turn()
        side.out.deliver(len(side.out.bytes), other.session)
        assert other.got == side.said
        assert (other.session.close_code, other.session.close_reason) == (CloseCode.NORMAL, "goodbye")
        assert self.is_forgotten()

    @precondition(lambda self: not self.connected and not self.over)
    @rule()
    def kick(self) -> None:
        """Whether the server knows yet that the connection broke or not, the ticket is worth nothing now."""
        self.over = True
        self.server.session.kick()
        assert self.is_forgotten()

    @precondition(lambda self: not self.over)
    @rule()
    def second_login(self) -> None:
        """The newer one wins, and nothing that is late from the older one touches it."""
        self.over = True
        older, out = self.server.session, self.server.out
        got = list(self.server.got)
        self.server.out = Wire()
        newer = self.server.log_in()
        assert older.close_code is CloseCode.REPLACED and newer.outbox.count == 0
        assert self.is_forgotten()
        self.turn()
        out.deliver(len(out.bytes), self.client.session)
        self.client.out.deliver(len(self.client.out.bytes), older)
        older.lost(ConnectionResetError())
        assert self.server.got == got, "the older session is heard no more"
        assert self.server.manager.get(1) is newer and newer.close_code is None

    def is_forgotten(self) -> bool:
        assert self.client.session.ticket is not None
        return self.server.manager.by_ticket(self.client.session.ticket.session_id) is None

    @invariant()
    def nothing_is_repeated_or_reordered(self) -> None:
        for side, other in ((self.server, self.client), (self.client, self.server)):
            assert other.got == sorted(set(other.got)), "repeated or out of order"
            assert other.got == side.said[: len(other.got)], "lost"

    @invariant()
    def retention_is_within_the_window(self) -> None:
        for side in (self.server, self.client):
            window: Any = side.session.outbox
            assert self.over or window.kept <= LIMITS.window_frames
            assert self.over or window.kept_bytes <= LIMITS.window_bytes or window.kept == 1


TestResume = ResumeMachine.TestCase
TestResume.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_counts_that_can_not_be_are_the_peers_fault() -> None:
    loop = asyncio.new_event_loop()
    try:
        side = Frontend(loop, True)
        for n in range(3):
            side.session.send(Number(n))
        side.session.flush()
        assert not extension_of(side.session).can_resume_from(4)
        side.session.outbox.acknowledge(2)  # type: ignore[attr-defined]
        assert not extension_of(side.session).can_resume_from(1)
        for wrong in (1, 4):
            try:
                side.session.outbox.acknowledge(wrong)  # type: ignore[attr-defined]
            except PeerError as error:
                assert "3 sent" in str(error)
            else:
                raise AssertionError(f"{wrong} was believed")
    finally:
        loop.close()
