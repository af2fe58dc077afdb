"""The server under test, plain or sealed: an echo in ordinary user code, and a broadcast to everybody."""

from gatelink import Limits, Server, ServerKey, Session, StaticTokens, message

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


server = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    keys=[KEY],
    limits=Limits(handshake_rate=ANY_HANDSHAKES, handshake_burst=ANY_HANDSHAKES),
)


@server.on(Echo)
def echo(session: Session, message: Echo) -> None:
    session.send(message)


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
