"""The parts around a session, without sockets: a stream and an owner that take notes, and a clock that stands still."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from msgspec import Struct

from gatelink.config import Limits, WireOptions
from gatelink.errors import CloseCode
from gatelink.session.extension import Extension, Strength
from gatelink.session.interfaces import Dispatcher, Owner
from gatelink.session.loop_context import LoopContext
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import FrameReceiver, Pause, Stream
from gatelink.session.timers import TICK, Wheel
from gatelink.testing import FakeClock
from gatelink.wire.control import Lost
from gatelink.wire.frames import MAX_LENGTH, Frame, FrameDecoder
from gatelink.wire.messages import Catalog

CATALOG = Catalog()


@CATALOG.message(11_001)
class Say(Struct):
    text: str


@CATALOG.message(11_002)
class Count(Struct):
    n: int


SAY, COUNT = 11_001, 11_002
CLOSE = "close"


async def turn() -> None:
    """Lets the loop go round once: everything that is ready now is run."""
    await asyncio.sleep(0)


async def settle(turns: int = 10) -> None:
    """Lets everything happen that waits for nothing but so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


def state_of(session: Session) -> SessionState:
    """`session.state`, of which mypy would believe that it never changes."""
    return session.state


class FakeStream:
    """A byte stream that goes nowhere. `log` has what was written, and CLOSE where it was closed."""

    def __init__(self) -> None:
        self.receiver: FrameReceiver | None = None
        self.writable = True
        self.paused = Pause(0)
        self.log: list[bytes | str] = []
        self.is_aborted = False
        self.is_dropped = False
        self.is_lost = False
        self.held_bytes = 0
        self.unsent = 0
        self.room = inf  # bytes that it takes; it keeps the rest as `unsent`, and is not writable

    def write(self, data: bytes) -> None:
        assert not self.is_lost and CLOSE not in self.log, "written to after its end"
        self.log.append(bytes(data))
        self.room -= len(data)
        if self.room < 0:
            self.unsent = int(-self.room)
            self.writable = False

    def pause(self, why: Pause) -> None:
        self.paused |= why

    def resume(self, why: Pause) -> None:
        self.paused &= ~why

    def close(self) -> None:
        if CLOSE not in self.log:
            self.log.append(CLOSE)

    def abort(self) -> None:
        self.is_aborted = True
        asyncio.get_running_loop().call_soon(self.lose)

    def drop(self) -> None:
        self.is_dropped = self.is_lost = True

    # -- for tests --

    def lose(self, error: Exception | None = None) -> None:
        """End the stream, if it has not ended already."""
        if not self.is_lost:
            self.is_lost = True
            if self.receiver is not None:
                self.receiver.lost(error)

    def unblock(self) -> None:
        """The peer has read; there is room again."""
        self.writable = True
        assert self.receiver is not None
        self.receiver.writable()

    @property
    def writes(self) -> list[bytes]:
        return [entry for entry in self.log if isinstance(entry, bytes)]

    @property
    def frames(self) -> list[Frame]:
        """All that was written, decoded."""
        decoder = FrameDecoder(MAX_LENGTH, turn_frames=1_000_000, turn_bytes=1 << 40)
        return decoder.feed(b"".join(self.writes))


class FakeOwner:
    """The owner of a session. `keeps`: whether it keeps a detached session for a resume."""

    def __init__(self, accepting: bool = True) -> None:
        self.accepting = accepting
        self.keeps = False
        self.calls: list[str] = []

    def detached(self, session: Session, code: CloseCode) -> bool:
        self.calls.append(f"detached {code.label}")
        return self.keeps

    def closed(self, session: Session) -> None:
        self.calls.append("closed")

    def renew(self, session: Session, token: str) -> None: ...

    def expiring(self, session: Session) -> None: ...

    def released(self, session: Session) -> None:
        self.calls.append("released")


class FakeHandlers:
    """A dispatcher that notes what it receives. `then` is called with each frame."""

    def __init__(self, then: Callable[[Session, Frame], object] | None = None) -> None:
        self.then = then
        self.received: list[Any] = []

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        for frame in frames:
            self.received.append(frame)
            if self.then is not None:
                self.then(session, frame)

    def opened(self, session: Session) -> None:
        self.received.append("opened")

    def inject(self, session: Session, message: Any) -> None:
        self.received.append(message)

    def suspended(self, session: Session) -> None:
        self.received.append("suspended")

    def resumed(self, session: Session) -> None:
        self.received.append("resumed")

    def renewed(self, session: Session) -> None:
        self.received.append("renewed")

    def expiring(self, session: Session) -> None:
        self.received.append("expiring")

    def lost(self, session: Session, lost: Lost) -> None:
        self.received.append(lost)

    def closed(self, session: Session, handle_rest: bool) -> None:
        self.received.append("closed")


class Bench:
    """One loop's context, whose clock stands still, and sessions on it. To be made where a loop runs."""

    def __init__(
        self, limits: Limits | None = None, options: WireOptions | None = None, catalog: Catalog = CATALOG
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.context = LoopContext(self.loop, catalog, limits or Limits(), options)
        self.context.wheel = Wheel(self.loop, self.clock)
        self.stats = self.context.stats
        self.owner = FakeOwner()

    def session(
        self, handlers: Dispatcher[Session] | None = None, owner: Owner[Session] | None = None, **about: Any
    ) -> tuple[Session, FakeStream]:
        """A new session, not `open` yet, and the stream under it."""
        stream = FakeStream()
        about.setdefault("uid", 7)
        session = Session(self.context, owner or self.owner, handlers or FakeHandlers(), stream, **about)
        stream.receiver = session
        return session, stream

    async def pass_time(self, seconds: float) -> None:
        """Lets `seconds` pass, tick by tick."""
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)
            self.context.wheel.run_due()
            await turn()

    def jump(self, seconds: float) -> None:
        """Lets `seconds` pass at once."""
        self.clock.advance(seconds)
        self.context.wheel.run_due()


def extension_of(session: Session | None) -> Extension:
    """The extension's part of a session whose peer speaks it."""
    assert session is not None and session.extension is not None
    return session.extension


def extended_session(
    context: LoopContext,
    owner: Owner[Session],
    handlers: Dispatcher[Session],
    stream: Stream,
    *,
    features: int,
    strength: Strength = Strength.PLAIN,
    **about: Any,
) -> Session:
    """A session with a peer that speaks the extension, as a login or `connect` makes it."""
    extension = Extension(
        features, context.limits, accepting=owner.accepting, strength=strength, rtts=context.stats.rtt
    )
    return Session(context, owner, handlers, stream, extension=extension, **about)
