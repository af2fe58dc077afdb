"""A handler object for each session, and an injected message before all others.

gatelink serve examples.porting.each:server
"""

from examples.porting.messages import Chat, Walk, catalog
from gatelink import Handlers, Server, Session, StaticTokens

server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=catalog)


class Player:
    """The receiver of one session: all its messages are from that session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.at = 0
        session.handlers = handlers = Handlers(catalog)
        handlers.register(self)

    def on_walk(self, session: Session, message: Walk) -> None:
        self.at += message.steps
        self.session.send(Walk(self.at))

    def on_chat(self, session: Session, message: Chat) -> None:
        if message.text == "run":
            self.session.inject(Walk(10))  # as if the client had sent it

    def on_closed(self, session: Session) -> None:
        self.session.data = None


@server.on_verified
def enter(session: Session) -> None:
    session.data = Player(session)
