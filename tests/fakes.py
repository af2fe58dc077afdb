"""What a session stands on, without sockets: a carrier and an owner that take notes, and a clock that stands still."""

import asyncio
from collections.abc import Callable
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


async def settle() -> None:
    """Lets everything happen that waits for nothing but the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def state_of(session: Session) -> SessionState:
    """`session.state`, of which mypy would believe that it never changes."""
    return session.state


class FakeCarrier:
    """A byte stream that goes nowhere. `log` has what was written, and CLOSE where it was closed."""

    def __init__(self) -> None:
        self.sink: FrameReceiver | None = None
        self.writable = True
        self.paused = Pause(0)
        self.log: list[bytes | str] = []
        self.is_aborted = False
        self.is_dropped = False
        self.is_over = False
        self.held_bytes = 0
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.is_over and CLOSE not in self.log, "written to after its end"
        self.log.append(bytes(data))

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
        self.is_dropped = self.is_over = True

    # -- for tests --

    def lose(self, error: Exception | None = None) -> None:
        """The stream is over, if it is not already."""
        if not self.is_over:
            self.is_over = True
            if self.sink is not None:
                self.sink.lost(error)

    def unblock(self) -> None:
        """The peer has read; there is room again."""
        self.writable = True
        assert self.sink is not None
        self.sink.writable()

    @property
    def writes(self) -> list[bytes]:
        return [entry for entry in self.log if isinstance(entry, bytes)]

    @property
    def frames(self) -> list[Frame]:
        """All that was written, decoded."""
        decoder = FrameDecoder(MAX_LENGTH, turn_frames=1_000_000, turn_bytes=1 << 40)
        return decoder.feed(b"".join(self.writes))


class FakeOwner:
    """Whoever installed the session. `keeps`: whether a broken one is kept, DETACHED."""

    def __init__(self, accepting: bool = True) -> None:
        self.accepting = accepting
        self.keeps = False
        self.calls: list[str] = []

    def detached(self, session: Session, code: CloseCode) -> bool:
        self.calls.append(f"detached {code.label}")
        return self.keeps

    def closed(self, session: Session) -> None:
        self.calls.append("closed")

    def released(self, session: Session) -> None:
        self.calls.append("released")


class FakeHandlers:
    """A dispatcher that notes what it hears. `then` is called with each frame."""

    def __init__(self, then: Callable[[Session, Frame], object] | None = None) -> None:
        self.then = then
        self.heard: list[Any] = []

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        for frame in frames:
            self.heard.append(frame)
            if self.then is not None:
                self.then(session, frame)

    def opened(self, session: Session) -> None:
        self.heard.append("opened")

    def inject(self, session: Session, message: Any) -> None:
        self.heard.append(message)

    def suspended(self, session: Session) -> None:
        self.heard.append("suspended")

    def resumed(self, session: Session) -> None:
        self.heard.append("resumed")

    def closed(self, session: Session, handle_rest: bool) -> None:
        self.heard.append("closed")


class Bench:
    """One hub, whose clock stands still, and sessions on it. To be made where a loop runs."""

    def __init__(
        self, limits: Limits | None = None, options: WireOptions | None = None, catalog: Catalog = CATALOG
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.hub = LoopContext(self.loop, catalog, limits or Limits(), options)
        self.hub.wheel = Wheel(self.loop, self.clock)
        self.stats = self.hub.stats
        self.owner = FakeOwner()

    def session(
        self, handlers: Dispatcher[Session] | None = None, owner: Owner[Session] | None = None, **about: Any
    ) -> tuple[Session, FakeCarrier]:
        """A new session, not `open` yet, and the carrier under it."""
        carrier = FakeCarrier()
        about.setdefault("uid", 7)
        session = Session(self.hub, owner or self.owner, handlers or FakeHandlers(), carrier, **about)
        carrier.sink = session
        return session, carrier

    async def pass_time(self, seconds: float) -> None:
        """Lets `seconds` pass, tick by tick."""
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)
            self.hub.wheel.run_due()
            await turn()

    def jump(self, seconds: float) -> None:
        """Lets `seconds` pass at once."""
        self.clock.advance(seconds)
        self.hub.wheel.run_due()


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
