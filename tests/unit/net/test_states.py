"""The tables of a login check and of a dialer: each event, in each state, does what the table says or is refused."""

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import booleans, lists, sampled_from

from gatelink.auth.tokens import Identity
from gatelink.config import Limits
from gatelink.errors import CloseCode, ConnectError, VerifyError
from gatelink.net.acceptor import Acceptor
from gatelink.net.admission import Admission
from gatelink.net.connection import Connection
from gatelink.net.dialer import Backoff, Dialer, Offer
from gatelink.net.endpoints import parse_endpoint
from gatelink.net.handshake_queue import HandshakeQueue
from gatelink.net.listen import Listen
from gatelink.net.login import Login, LoginChecks, LoginRules
from gatelink.net.states import DIAL, LOGIN, DialEvent, DialState, LoginEvent, LoginState
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.session.states import step
from gatelink.wire.base import (
    DUPLICATE_LOGIN,
    VERIFY_FAILED,
    VERIFY_REQUEST,
    VERIFY_SUCCEEDED,
    ClientVerifyRequest,
    ClientVerifySucceeded,
)
from gatelink.wire.control import Features, Handshake, Hello, Resume, Ticket, close_frame, control_frame, decode_control
from gatelink.wire.frames import CONTROL, MAX_LENGTH, Frame, FrameDecoder, encode_control_frame, encode_frame
from gatelink.wire.handshake import Initiator, Responder, Sealing
from gatelink.wire.keys import ServerKey
from gatelink.wire.resume import NO_HANDSHAKE, resume, resumed
from gatelink.wire.secure import SecureStream
from tests.fakes import CATALOG, SAY, FakeHandlers, FakeStream, extended_session, settle
from tests.memory import Stream, WarpLoop

KEY = ServerKey.generate()
BOTH = Features.PING | Features.RESUME
HELLO = Hello(features=BOTH, slot=0)
IGNORED = encode_control_frame(bytes([200]))
TABLES = [pytest.param(LOGIN, LoginState, LoginEvent, id="login"), pytest.param(DIAL, DialState, DialEvent, id="dial")]


@pytest.mark.parametrize("table, states, events", TABLES)
def test_every_event_in_every_state_is_in_the_table_or_raises(
    table: dict[Any, Any], states: type[Enum], events: type[Enum]
) -> None:
    for state, event in product(states, events):
        if (state, event) in table:
            assert step(table, state, event) is table[state, event]
        else:
            with pytest.raises(RuntimeError, match=f"{event} cannot happen in {state}"):
                step(table, state, event)


@pytest.mark.parametrize(
    "table, first, ends",
    [(LOGIN, LoginState.FIRST_FRAME, {LoginState.VERIFIED, LoginState.REFUSED}), (DIAL, DialState.IDLE, set())],
)
def test_every_state_can_be_reached_and_left_unless_it_is_an_end(
    table: dict[Any, Any], first: Enum, ends: set[Enum]
) -> None:
    assert set(table.values()) | {first} == set(type(first))
    assert set(type(first)) - {state for state, _ in table} == ends


class Peer(asyncio.Protocol):
    """The other end: reads what comes, opened by `secure` if that is set."""

    def __init__(self) -> None:
        self.secure: SecureStream | None = None
        self.frames: list[Frame] = []
        self._decoder = FrameDecoder(MAX_LENGTH, 1_000, 1 << 30)
        self.transport: Stream

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.frames += self._decoder.feed(data if self.secure is None else self.secure.feed(data))

    def send(self, frame: bytes) -> None:
        self.transport.write(frame if self.secure is None else self.secure.seal(frame))


def run(walk: Callable[[WarpLoop], Coroutine[Any, Any, None]]) -> None:
    loop = WarpLoop()
    asyncio.set_event_loop(loop)
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    try:
        loop.run_until_complete(walk(loop))
        loop.run_until_complete(settle())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(settle())
        loop.close()
        asyncio.set_event_loop(None)
    assert not reports


# -- the login check --


class LoginAct(Enum):
    HELLO = 1
    HANDSHAKE = 2
    REQUEST = 3
    RESUME = 4
    WRONG_RESUME = 5
    MESSAGE = 6
    IGNORED = 7
    LEAVE = 8
    TURN = 9
    TOKEN_GOOD = 10
    TOKEN_BAD = 11
    DEADLINE = 12
    STOP = 13
    REVOKED = 14


A = LoginAct
FRAMES = {A.HELLO, A.HANDSHAKE, A.REQUEST, A.RESUME, A.WRONG_RESUME, A.MESSAGE, A.IGNORED}
EVENTS = {A.HELLO: LoginEvent.HELLO, A.HANDSHAKE: LoginEvent.HANDSHAKE, A.REQUEST: LoginEvent.REQUEST}


class Patient(HandshakeQueue):
    """A queue whose turns the test gives."""

    begin: Callable[[], None] | None = None

    def enter(self, connection: Connection, begin: Callable[[], None]) -> None:
        self.begin = begin


class LoginWalk:
    """A connection to a listener without sockets, and what its login check must be like."""

    def __init__(self, loop: WarpLoop) -> None:
        self.loop = loop
        self.context = LoopContext(loop, CATALOG, Limits(max_unverified_frames=1_000))
        self.admission = Admission(self.context)
        self.queue = self.admission.handshakes = Patient(self.context)
        self.sessions = SessionManager(self.context)
        rules = LoginRules(tokens=self, responder=Responder([KEY]), id=1, source=0, resume_plain=True)
        self.checks = LoginChecks(self.context, rules, self.admission, self.sessions)
        self.answer: asyncio.Future[bool] | None = None
        self.state = LoginState.FIRST_FRAME  # that the check must have
        self.pending = False  # a frame waits behind a HANDSHAKE
        self.initiator: Initiator | None = None
        self.hash = NO_HANDSHAKE

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        self.answer = self.loop.create_future()
        if not await self.answer:
            raise VerifyError("not this one")
        return Identity(uid)

    async def begin(self) -> None:
        epoch = await self.sessions.claim(8)
        stream = FakeStream()
        self.old = extended_session(
            self.context, self.sessions, FakeHandlers(), stream, uid=8, epoch=epoch, features=BOTH
        )
        stream.receiver = self.old
        self.sessions.install(self.old)
        self.sessions.issue_ticket(self.old)
        self.old.open()
        stream.lose()
        acceptor = Acceptor(Listen(endpoint="tcp://127.0.0.1:1"), self.context, self.admission, self.welcome)
        self.peer = Peer()
        self.loop.accept = acceptor.protocol
        await self.loop.create_connection(lambda: self.peer)

    def welcome(self, connection: Connection, until: float) -> None:
        self.login = Login(self.checks, FakeHandlers(), "", connection, until)

    def frame(self, act: LoginAct) -> bytes:
        match act:
            case A.HELLO:
                return control_frame(HELLO)
            case A.HANDSHAKE:
                initiator = Initiator(KEY.public, HELLO)
                if self.state is LoginState.FIRST_FRAME:
                    self.initiator = initiator
                return initiator.frame
            case A.REQUEST:
                body = CATALOG.by_id[VERIFY_REQUEST].encode(ClientVerifyRequest(source=0, uid=7, token="x"))
                return encode_frame(VERIFY_REQUEST, body)
            case A.RESUME | A.WRONG_RESUME:
                ticket = self.old.ticket
                key = ticket.resume_key if ticket is not None and act is A.RESUME else bytes(32)
                id = ticket.session_id if ticket is not None else bytes(16)
                return control_frame(resume(key, self.hash, id, 0, 1))
            case A.MESSAGE:
                return encode_frame(SAY, b"")
            case _:
                return IGNORED

    def after(self, act: LoginAct) -> LoginState:
        """The state after `act`, by the table and by what docs/protocol.md says of frames that are not in it."""
        state, events = self.state, LoginEvent
        if state in (LoginState.VERIFIED, LoginState.REFUSED):
            return state
        if act in (A.LEAVE, A.DEADLINE, A.STOP):
            return LOGIN[state, events.REFUSE]
        if act in FRAMES:
            if state in (LoginState.QUEUED, LoginState.CHECKING):
                self.pending = True
                return state
            if (state, EVENTS.get(act)) in LOGIN:
                return LOGIN[state, EVENTS[act]]
            if act is A.RESUME and state is LoginState.AGREED:
                return LOGIN[state, events.RESUME]
            is_ignored = act is A.IGNORED and state is LoginState.AGREED
            return state if is_ignored else LOGIN[state, events.REFUSE]
        if act is A.TURN and state is LoginState.QUEUED:
            return LOGIN[state, events.REFUSE if self.pending else events.TURN]
        if act is A.REVOKED and state is LoginState.CHECKING:
            return LOGIN[state, events.REFUSE]
        if act in (A.TOKEN_GOOD, A.TOKEN_BAD) and state is LoginState.CHECKING:
            return LOGIN[state, events.TOKEN if act is A.TOKEN_GOOD else events.REFUSE]
        return state

    async def do(self, act: LoginAct) -> None:
        frame = self.frame(act) if act in FRAMES else b""
        was, self.state = self.state, self.after(act)
        match act:
            case A.LEAVE:
                self.peer.transport.abort()
            case A.TURN:
                if self.queue.begin is not None:
                    self.queue.begin()
                    self.queue.begin = None
            case A.TOKEN_GOOD | A.TOKEN_BAD:
                if self.answer is not None and not self.answer.done():
                    self.answer.set_result(act is A.TOKEN_GOOD)
            case A.DEADLINE:
                if self.login.is_open:
                    self.login.on_deadline(0)
            case A.STOP:
                self.checks.refuse_all()
            case A.REVOKED:
                self.checks.refuse_user(7)
            case _:
                self.peer.send(frame)
        await settle()
        assert self.login.state is self.state, (was, act)
        assert (self.login in self.checks.running) is self.login.is_open
        assert self.login.is_open is (self.state not in (LoginState.VERIFIED, LoginState.REFUSED))
        if was is LoginState.QUEUED and self.state is LoginState.AGREED:
            assert self.initiator is not None
            sealing = self.initiator.finish(self.peer.frames[-1][2])
            self.peer.secure, self.hash = sealing.stream, sealing.handshake_hash


@settings(deadline=None)
@given(lists(sampled_from(LoginAct), max_size=8))
@example([A.HANDSHAKE, A.TURN, A.RESUME])
@example([A.HELLO, A.REQUEST, A.HELLO, A.TOKEN_GOOD, A.DEADLINE])
@example([A.HANDSHAKE, A.REQUEST, A.TURN])
def test_a_login_check_follows_its_table_whatever_comes(acts: list[LoginAct]) -> None:
    async def walk(loop: WarpLoop) -> None:
        it = LoginWalk(loop)
        await it.begin()
        for act in acts:
            await it.do(act)
        bound = {session.uid for session in it.sessions if session.state.name == "OPEN"}
        assert len(bound) <= (it.state is LoginState.VERIFIED)
        it.context.wheel.close()

    run(walk)


# -- the dialer --


class DialAct(Enum):
    HELLO = 1
    HANDSHAKE = 2
    SUCCEEDED = 3
    FAILED = 4
    DUPLICATE = 5
    TICKET = 6
    RESUMED = 7
    WRONG_RESUMED = 8
    CLOSE = 9
    MESSAGE = 10
    IGNORED = 11
    CUT = 12
    DIAL_AGAIN = 13


B = DialAct
TICKET = Ticket(bytes(16), bytes(range(32)), 60, "")


class DialWalk:
    """A dialer that calls a server which says what the test likes, and what the dialer must be like."""

    def __init__(self, loop: WarpLoop, offer: Offer | None) -> None:
        self.loop = loop
        self.offer = offer
        self.context = LoopContext(loop, CATALOG, Limits())
        self.context.reactor = None  # the sockets are the loop's
        request = ClientVerifyRequest(source=0, uid=7, token="x")
        backoff = Backoff(first=0.01, most=0.01, attempts=100)
        endpoint = parse_endpoint("tcp://127.0.0.1:1")
        self.dialer = Dialer(self.context, endpoint, request, FakeHandlers(), 1e3, backoff, None, offer)
        self.loop.accept = self.accept
        self.state = DialState.IDLE
        self.session: Session | None = None
        self.hash = NO_HANDSHAKE

    def accept(self) -> Peer:
        self.peer = Peer()
        self.hash = NO_HANDSHAKE
        return self.peer

    @property
    def first(self) -> DialState:
        """The state of a new connection."""
        if self.offer is None:
            return DIAL[DialState.CONNECTING, DialEvent.SEND_REQUEST]
        sends = DialEvent.SEND_HELLO if self.offer.key is None else DialEvent.SEND_HANDSHAKE
        return DIAL[DialState.CONNECTING, sends]

    async def begin(self) -> None:
        self.dialling = self.loop.create_task(self.dialer.dial())
        await settle()
        self.state = self.first
        assert self.dialer.state is self.state

    def answer(self) -> Sealing | None:
        """The server's answer to the dialer's HANDSHAKE."""
        record = next((decode_control(body) for _, flags, body in self.peer.frames if flags & CONTROL), None)
        return Responder([KEY]).respond(record, BOTH) if isinstance(record, Handshake) else None

    def frame(self, act: DialAct) -> bytes:
        match act:
            case B.HELLO:
                return control_frame(HELLO)
            case B.SUCCEEDED:
                answer = ClientVerifySucceeded(source=0, uid=7, source_id=1, type=0)
                return encode_frame(VERIFY_SUCCEEDED, CATALOG.by_id[VERIFY_SUCCEEDED].encode(answer))
            case B.FAILED:
                return encode_frame(VERIFY_FAILED, b"")
            case B.DUPLICATE:
                return encode_frame(DUPLICATE_LOGIN, b"")
            case B.TICKET:
                return control_frame(TICKET)
            case B.RESUMED | B.WRONG_RESUMED:
                records = [decode_control(body) for _, flags, body in self.peer.frames if flags & CONTROL]
                attempt = next((record.attempt for record in records if isinstance(record, Resume)), 1)
                key = TICKET.resume_key if act is B.RESUMED else bytes(32)
                return control_frame(resumed(key, self.hash, TICKET.session_id, 0, attempt))
            case B.CLOSE:
                return close_frame(CloseCode.GOING_AWAY)
            case B.MESSAGE:
                return encode_frame(SAY, b"")
            case _:
                return IGNORED

    def after(self, act: DialAct) -> DialState:
        """The state after `act`: what is due takes the table's step, and all else fails the attempt."""
        state, event = self.state, DialEvent
        has_ticket = self.session is not None and self.offer is not None
        log_in = event.SEND_RESUME if has_ticket else event.SEND_REQUEST
        due = {
            (DialState.HELLO, B.HELLO): log_in,
            (DialState.HANDSHAKE, B.HANDSHAKE): log_in,
            (DialState.VERDICT, B.SUCCEEDED): event.BIND if self.offer is None else event.VERIFIED,
            (DialState.TICKET, B.TICKET): event.BIND,
            (DialState.RESUMED, B.RESUMED): event.BIND,
        }
        if act is B.IGNORED and state is not DialState.HANDSHAKE:
            return state
        return DIAL[state, due.get((state, act), event.FAIL)]

    async def do(self, act: DialAct) -> None:
        was = self.state
        if was is DialState.IDLE:
            if act is B.DIAL_AGAIN and self.session is not None and self.session.close_code is None:
                await asyncio.sleep(0.02)
                self.state = self.first
        elif was is DialState.BOUND:
            if act is B.CUT:
                self.peer.transport.abort()
                self.state = DIAL[was, DialEvent.DETACH]
        elif act is not B.DIAL_AGAIN:
            sealing = self.answer() if act is B.HANDSHAKE else None
            frame = self.frame(act) if sealing is None else sealing.answer
            if act is B.HANDSHAKE and sealing is None:
                frame = Initiator(KEY.public, HELLO).frame
            self.state = self.after(act)
            if act is B.CUT:
                self.peer.transport.abort()
            else:
                self.peer.send(frame)
            if sealing is not None and was is DialState.HANDSHAKE:
                self.peer.secure, self.hash = sealing.stream, sealing.handshake_hash
        await settle()
        assert self.dialer.state is self.state, (was, act)
        if self.state is DialState.BOUND and self.session is None:
            self.session = await self.dialling
        if self.state is DialState.IDLE and self.session is None:
            with pytest.raises(ConnectError):
                await self.dialling


OFFERS = {"base": None, "hello": Offer(HELLO), "sealed": Offer(HELLO, KEY.public)}
ALL_WELL = {
    "base": [B.SUCCEEDED],
    "hello": [B.HELLO, B.SUCCEEDED, B.TICKET],
    "sealed": [B.HANDSHAKE, B.SUCCEEDED, B.TICKET],
}


@settings(deadline=None)
@given(sampled_from(sorted(OFFERS)), booleans(), lists(sampled_from(DialAct), max_size=8))
@example("hello", True, [B.CUT, B.DIAL_AGAIN, B.HELLO, B.IGNORED, B.RESUMED])
@example("sealed", True, [B.CUT, B.DIAL_AGAIN, B.HANDSHAKE, B.RESUMED, B.CUT, B.DIAL_AGAIN])
@example("sealed", True, [B.CUT, B.DIAL_AGAIN, B.HANDSHAKE, B.WRONG_RESUMED, B.DIAL_AGAIN])
def test_a_dialer_follows_its_table_whatever_comes(how: str, verified: bool, acts: list[DialAct]) -> None:
    async def walk(loop: WarpLoop) -> None:
        it = DialWalk(loop, OFFERS[how])
        await it.begin()
        for act in (ALL_WELL[how] if verified else []) + acts:
            await it.do(act)
            if it.state is DialState.IDLE and it.session is None:
                return
        if it.session is not None:
            it.session.abort()
        it.dialling.cancel()
        await settle()
        it.context.wheel.close()

    run(walk)
