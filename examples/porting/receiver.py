"""Your own receiver: methods with the names of the messages; a second one beside it.

gatelink serve examples.porting.receiver:server
"""

from examples.porting.messages import Chat, catalog
from gatelink import Server, Session, StaticTokens

server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=catalog)


class Room:
    """Handles the players' words."""

    def on_chat(self, session: Session, message: Chat) -> None:
        server.sessions.broadcast(message)

    def on_closed(self, session: Session) -> None:
        session.data.append("left")


class Log:
    """Receives the same messages, after the room."""

    def on_verified(self, session: Session) -> None:
        session.data = ["came"]

    def on_chat(self, session: Session, message: Chat) -> None:
        session.data.append(message.text)


server.register(Room())
server.register(Log(), also=True)
