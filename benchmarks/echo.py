"""The server under test, plain or sealed: an echo in ordinary user code, and a broadcast to everybody."""

from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from gatelink import Limits, Server, ServerKey, Session, StaticTokens, message
from gatelink.wire.codecs import F64

KEY = ServerKey.from_hex("01" * 32)  # for benchmarks: known to everybody
ANY_HANDSHAKES = 1_000_000  # a second: the load logs in all at once, and how fast that goes is measured


@message(20001)
class Echo(bytes):
    """Any bytes, sent back as they came."""


@message(20002)
class Shout(bytes):
    """Sent to everybody as a `Received`."""


@message(20003)
class Received(bytes):
    """What somebody shouted."""


@message(20005)
class Answered(bytes):
    """The answer to each request."""


@message(20006, answer=Answered)
class AskPlain(bytes):
    """Answered by a plain handler with what it holds."""


@message(20007, answer=Answered)
class AskLater(bytes):
    """The same, by an async handler."""


@message(20008, answer=Answered)
class Never(bytes):
    """Not answered before the session ends."""


@message(20009)
class EchoLater(bytes):
    """Sent back by an async handler."""


@message(20010, codec="binary")
class Place(Struct):
    """Sent back: three fields of eight bytes."""

    x: F64
    y: F64
    z: F64


@message(20011)
class Keyed(bytes):
    """Sent back under a key that nothing else has."""


@message(20012)
class KeyedShout(bytes):
    """Sent to everybody in the sender's own room, under such a key."""


LIMITS = Limits(handshake_rate=ANY_HANDSHAKES, handshake_burst=ANY_HANDSHAKES)
server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens(), keys=[KEY], limits=LIMITS)

metered = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    limits=replace(LIMITS, exempt=(), message_rate=1e9, message_burst=10**9, byte_rate=1e12, byte_burst=10**12),
)
"""The same echo, with the rates of users on. They are so high that nobody meets them."""

keys = count(1)


def send_back(session: Session, message: Echo | Place) -> None:
    session.send(message)


server.on(Echo)(send_back)
metered.on(Echo)(send_back)
server.on(Place)(send_back)


@server.on(EchoLater)
async def send_back_later(session: Session, message: EchoLater) -> None:
    session.send(message)


@server.on(Keyed)
def send_back_keyed(session: Session, message: Keyed) -> None:
    session.send(message, key=next(keys))


@server.on(KeyedShout)
def shout_keyed(session: Session, message: KeyedShout) -> None:
    group = f"room {session.uid}"
    session.join(group)  # does nothing but the first time
    server.broadcast_to(group, message, key=next(keys))


def answer(session: Session, message: AskPlain) -> Answered:
    return Answered(message)


async def answer_later(session: Session, message: AskLater) -> Answered:
    return Answered(message)


server.on(AskPlain)(answer)
server.on(AskLater)(answer_later)


@server.on(Never)
async def never(session: Session, message: Never) -> Answered:
    await session.wait_closed()
    return Answered()


@server.on(Shout)
def shout(session: Session, message: Shout) -> None:
    server.sessions.broadcast(Received(message))
