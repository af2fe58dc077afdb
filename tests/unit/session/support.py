"""Benches that the tests of sessions, of the extension and of the manager share."""

from typing import Any

from gatelink.config import Limits
from gatelink.session.extension import Extension
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.session import Session
from gatelink.wire import control
from gatelink.wire.control import Features, decode_control, encode_control
from gatelink.wire.frames import CONTROL, Frame, encode_frame
from tests.fakes import (
    COUNT,
    SAY,
    Bench,
    FakeHandlers,
    FakeOwner,
    FakeStream,
    Say,
    extended_session,
    extension_of,
    turn,
)
from tests.limits import with_window

FAREWELL = encode_frame(24, b"")
INTERVAL, TIMEOUT, CLOSING = 10.0, 60.0, 5.0  # the defaults of Limits
BOTH = Features.RESUME | Features.PING
LIMITS = with_window(Limits(heartbeat_interval=10, heartbeat_timeout=60), 8)
WINDOW = 90.0  # `resume_window`, the default of Limits


def numbered(n: int) -> bytes:
    return encode_frame(COUNT, b"%06d" % n)


class Desk(Bench):
    """One extended session; by default an accepting, ticketed one whose owner keeps it when it breaks."""

    def __init__(
        self, features: int = BOTH, *, accepting: bool = True, keeps: bool = True, limits: Limits = LIMITS
    ) -> None:
        super().__init__(limits)
        self.owner = FakeOwner(accepting)
        self.owner.keeps = keeps
        self.handlers = FakeHandlers()
        self.stream = FakeStream()
        self.it = extended_session(self.context, self.owner, self.handlers, self.stream, uid=7, features=features)
        self.stream.receiver = self.it
        if features & Features.RESUME and accepting:
            self.extension.issue_ticket()
        elif features & Features.RESUME:
            self.hear(control.Ticket(bytes(16), bytes(32), 120, ""))
        self.it.open()

    @property
    def extension(self) -> Extension:
        return extension_of(self.it)

    def hear(self, *what: control.Control | Frame) -> None:
        """These arrive together."""
        self.it.receive([frame if isinstance(frame, tuple) else (0, CONTROL, encode_control(frame)) for frame in what])

    async def send(self, count: int) -> None:
        for n in range(count):
            self.it.send(Say(str(n)))
        await turn()
        await turn()

    @property
    def records(self) -> list[control.Control | None]:
        """The control records that were written."""
        return [decode_control(body) for id, flags, body in self.stream.frames if flags & CONTROL]

    @property
    def ids(self) -> list[int]:
        """The messages that were written."""
        return [id for id, flags, _ in self.stream.frames if not flags & CONTROL]

    def new_stream(self) -> FakeStream:
        self.stream = FakeStream()
        self.stream.receiver = self.it
        return self.stream


def say(text: bytes = b"") -> Frame:
    return (SAY, 0, text)


class House(Bench):
    """A bench with a manager, which owns the sessions."""

    def __init__(
        self, limits: Limits | None = None, duplicate: Duplicate = Duplicate.NEWER_WINS, **settings: Any
    ) -> None:
        super().__init__(limits, **settings)
        self.unix = 1_700_000_000.0
        self.manager = SessionManager(self.context, duplicate, clock=lambda: self.unix)

    def claimed(self, uid: int, epoch: int, **about: Any) -> tuple[Session, FakeStream]:
        """A session with what `claim` gave, not installed."""
        return self.session(owner=self.manager, uid=uid, epoch=epoch, **about)

    async def login(self, uid: int = 7, **about: Any) -> tuple[Session, FakeStream, list[bytes] | None]:
        """The whole of a login, as the login check does it."""
        epoch = await self.manager.claim(uid, about.get("slot", 0))
        session, stream = self.claimed(uid, epoch, **about)
        backlog = self.manager.install(session)
        session.open()
        return session, stream, backlog

    async def break_with(self, *frames: bytes, uid: int = 7) -> None:
        """A login whose connection breaks while `frames` are queued."""
        session, stream, _ = await self.login(uid)
        stream.writable = False
        for frame in frames:
            session.send_frame(frame)
        stream.lose(ConnectionResetError())


class Ticketed(House):
    """A house whose sessions have tickets."""

    async def ticketed(self, uid: int) -> tuple[Session, FakeStream]:
        stream = FakeStream()
        epoch = await self.manager.claim(uid)
        session = extended_session(
            self.context, self.manager, FakeHandlers(), stream, uid=uid, epoch=epoch, features=Features.RESUME
        )
        stream.receiver = session
        self.manager.install(session)
        self.manager.issue_ticket(session)
        session.open()
        return session, stream


def session_id(session: Session) -> bytes:
    assert session.ticket is not None
    return session.ticket.session_id
