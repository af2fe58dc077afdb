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


server = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    keys=[KEY],
    limits=Limits(handshake_rate=ANY_HANDSHAKES, handshake_burst=ANY_HANDSHAKES),
)


@server.on(Echo)
def echo(session: Session, message: Echo) -> None:
    session.send(message)


@server.on(Shout)
def shout(session: Session, message: Shout) -> None:
    server.sessions.broadcast(Received(message))
