"""The driver of Python's `connect` with one planted fault: python -m tests.conformance.faulty NAME

Each fault patches one thing of the SDK. `FAULTS` names the steps of `gatelink conform` that must find it.
"""

import asyncio
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

os.environ["GATELINK_NATIVE"] = "0"  # the faults are planted in the pure classes

from examples.conformance import driver  # noqa: E402
from gatelink.conformance.messages import UNKNOWN_ID, catalog
from gatelink.errors import CloseCode
from gatelink.net import dialer
from gatelink.net.connection import Connection
from gatelink.net.dialer import Backoff, Dialer
from gatelink.net.states import DialState
from gatelink.session import extension, session
from gatelink.session.extension import Extension
from gatelink.session.outbox import SendWindow
from gatelink.session.renewal import Renewal
from gatelink.session.requests import Requests
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.timers import Wheel
from gatelink.wire.base import FIRST_APPLICATION_ID
from gatelink.wire.control import Ack, Control, GoAway, Pong, control_frame


class Fault(NamedTuple):
    """plant: patches the SDK. what: in words. steps: those that find it; the first one is run in `make test`."""

    plant: Callable[[], None]
    what: str
    steps: tuple[str, ...]


FAULTS: dict[str, Fault] = {}


def fault(what: str, *steps: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(plant: Callable[[], None]) -> Callable[[], None]:
        FAULTS[plant.__name__.replace("_", "-")] = Fault(plant, what, steps)
        return plant

    return register


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what `make` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


# -- what is sent again --


@fault("the first message that is sent again leaves twice", "lost-messages")
def sent_twice() -> None:
    patch(SendWindow, "unacknowledged", lambda kept: lambda self: b"".join([*list(self._kept)[:1], *self._kept]))


@fault("everything that is kept is sent again, whatever count RESUMED has", "lost-acks")
def count_ignored() -> None:
    patch(Extension, "resume", lambda resume: lambda self, received: self.window.unacknowledged())


@fault("what was sent is not kept for a break", "window-kept")
def window_not_kept() -> None:
    patch(SendWindow, "unacknowledged", lambda kept: lambda self: b"")


@fault("messages are sent again in another order", "lost-messages")
def out_of_order() -> None:
    patch(SendWindow, "unacknowledged", lambda kept: lambda self: b"".join(reversed(self._kept)))


@fault("the window has no end: everything is sent at once", "window-frames")
def window_endless() -> None:
    def wrap(init: Any) -> Any:
        return lambda self, frames, size, *window: init(self, frames, size, 1 << 30, 1 << 40)

    patch(SendWindow, "__init__", wrap)


@fault("what is sent without a connection is dropped", "sent-while-away")
def dropped_while_away() -> None:
    def wrap(send: Any) -> Any:
        return lambda self, message, **how: None if self.state is SessionState.DETACHED else send(self, message, **how)

    patch(Session, "send", wrap)


# -- what is received --


@fault("a message is acknowledged when its first bytes are there", "ack-not-ahead")
def ack_ahead() -> None:
    def waiting(self: Session, buffered: int) -> None:
        if buffered > 6 and self.extension is not None:
            self.send_control(Ack(self.extension.received + 1))

    patch(Session, "waiting", lambda nothing: waiting)


@fault("a message with an unknown id is not counted as received", "unknown-message")
def unknown_uncounted() -> None:
    def wrap(receive: Any) -> Any:
        def counted(self: Extension, frames: Any, now: float) -> Any:
            return receive(self, [frame for frame in frames if frame[0] != UNKNOWN_ID], now)

        return counted

    patch(Extension, "receive", wrap)


@fault("the first bytes of a message stay when its connection breaks", "break-in-frame-down")
def part_kept() -> None:
    last: list[Any] = []

    def wrap(make: Any) -> Any:
        def made(self: Dialer) -> Any:
            connection = make(self)
            if isinstance(connection, Connection):
                if last:
                    connection._decoder.put_back(last.pop().take_rest())
                last.append(connection._decoder)
            return connection

        return made

    patch(Dialer, "_make", wrap)


@fault("a u64 passes through a double", "types-msgpack")
def u64_through_double() -> None:
    for id, kind in list(catalog.by_id.items()):
        if id >= FIRST_APPLICATION_ID:
            catalog.by_id[id] = dataclasses.replace(kind, decode=_rounded(kind.decode))


@fault("the user's id passes through a double", "first-login")
def uid_through_double() -> None:
    patch(
        driver, "connect", lambda connect: lambda address, *, uid, **how: connect(address, uid=int(float(uid)), **how)
    )


def _rounded(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def rounded(body: bytes) -> Any:
        message = decode(body)
        for name in getattr(message, "__struct_fields__", ()):
            value = getattr(message, name)
            if type(value) is int and abs(value) > 1 << 53:
                message = msgspec.structs.replace(message, **{name: min(int(float(value)), (1 << 64) - 1)})
        return message

    return rounded


@fault("acknowledgements never come", "ack-in-time")
def no_acks() -> None:
    patch(Extension, "take_ack", lambda take: lambda self: b"")


# -- resume --


@fault("the attempt is not raised", "break-before-resumed")
def attempt_not_raised() -> None:
    def wrap(resume: Any) -> Any:
        return lambda key, hash, id, received, attempt: resume(key, hash, id, received, 1)

    patch(dialer, "resume", wrap)
    patch(
        dialer, "verify_resumed", lambda verify: lambda record, key, hash, id, attempt: verify(record, key, hash, id, 1)
    )


@fault("the proof in RESUMED is not checked", "wrong-mac")
def mac_unchecked() -> None:
    patch(dialer, "verify_resumed", lambda verify: lambda *proof: True)


@fault("messages are sent again before RESUMED", "waits-for-resumed")
def sends_before_resumed() -> None:
    def wrap(log_in: Any) -> Any:
        def logged_in(self: Dialer, connection: Connection) -> None:
            log_in(self, connection)
            if self.state is DialState.RESUMED and self._session is not None and self._session.extension is not None:
                window = self._session.extension.window
                connection.write(window.unacknowledged() if window is not None else b"")

        return logged_in

    patch(Dialer, "_log_in", wrap)


@fault("there is no delay between two attempts", "delays-grow")
def no_delays() -> None:
    def delays(self: Backoff, doubled: int = 0) -> Iterator[float]:
        yield from [0.0] * self.attempts

    patch(Backoff, "delays", lambda true: delays)


@fault("an address is followed to any transport", "unsafe-address")
def any_address() -> None:
    from gatelink.net.endpoints import parse_endpoint
    from gatelink.net.target import Target

    def follow(self: Target, session: Session) -> None:
        if session.ticket is not None and session.ticket.address.startswith(("tcp:", "ws:")):
            self.endpoint = parse_endpoint(session.ticket.address)

    patch(Target, "follow", lambda true: follow)


# -- control records --


@fault("GOAWAY is ignored", "goaway-in-time")
def goaway_ignored() -> None:
    def wrap(decode: Any) -> Any:
        def decoded(payload: bytes) -> Control | None:
            record: Control | None = decode(payload)
            return None if isinstance(record, GoAway) else record

        return decoded

    patch(extension, "decode_control", wrap)


@fault("after a kick the client dials again", "kick")
def kick_ignored() -> None:
    patch(session, "DETACHING", lambda codes: codes | {CloseCode.KICKED})


@fault("a PONG has no count", "ping-answered")
def pong_without_count() -> None:
    patch(Extension, "_pong", lambda pong: lambda self, sent_at: control_frame(Pong(sent_at, 0, 0)))


@fault("a silent server is never taken for dead", "dead-path")
def no_heartbeat() -> None:
    def wrap(check: Any) -> Any:
        def checked(self: Session, stream: Any, now: float) -> None:
            self.last_heard = now
            check(self, stream, now)

        return checked

    patch(Session, "_check_heartbeat", wrap)


@fault("bytes that break the protocol are passed over", "bad-records")
def bad_bytes_ignored() -> None:
    patch(Session, "broken", lambda broken: lambda self, error: None)


@fault("a RENEW that was lost is not sent again", "renews-over-break")
def renewal_forgotten() -> None:
    patch(Renewal, "attached", lambda attached: lambda self, asker: None)


@fault("an answer goes to the request that waits longest", "request-answered")
def answers_by_order() -> None:
    def wrap(answered: Any) -> Any:
        def by_order(self: Requests, peer: Any, id: int, flags: int, body: bytes, tag: int) -> None:
            answered(self, peer, id, flags, body, next(iter(self.asked), tag))

        return by_order

    patch(Requests, "_answered", wrap)


@fault("deadlines are read from the wall clock", "wall-clock")
def wall_clock() -> None:
    def wrap(init: Any) -> Any:
        def made(self: Wheel, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] | None = None) -> None:
            init(self, loop, lambda: time.time())

        return made

    patch(Wheel, "__init__", wrap)


if __name__ == "__main__":
    FAULTS[sys.argv[1]].plant()
    asyncio.run(driver.main())
