"""The server under test: an echo in ordinary user code, and a broadcast to everybody."""

from gatelink import Server, Session, StaticTokens, message


@message(20001)
class Echo(bytes):
    """Any bytes, sent back as they came."""


@message(20002)
class Shout(bytes):
    """Sent to everybody as a `Heard`."""


@message(20003)
class Heard(bytes):
    """What somebody shouted."""


server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens())


@server.on(Echo)
def echo(session: Session, message: Echo) -> None:
    session.send(message)


@server.on(Shout)
def shout(session: Session, message: Shout) -> None:
    server.sessions.broadcast(Heard(message))
