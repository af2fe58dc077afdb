"""The game's two parts.

They run in one process or as a cluster: `app` is a `Server` or a `Service`.

A player asks the lobby for a room and joins it. The room sends its steps and words to all
players in it.
"""

from hashlib import blake2b

from examples.arena.messages import (
    ROOM,
    Chat,
    Chatted,
    Enter,
    Entered,
    Join,
    Joined,
    Move,
    Moved,
    NotHere,
    Part,
    Parted,
    Shout,
    Shouted,
)
from gatelink import Server, Service, Session


class Lobby:
    """Finds the server of a room, and sends shouts to all players."""

    def __init__(self, app: Server) -> None:
        self.app = app

    def on_enter(self, session: Session, message: Enter) -> Entered:
        server = self.server_of(message.room)
        if server:
            session.bind(ROOM, server)
        return Entered(message.room, server)

    def on_shout(self, session: Session, message: Shout) -> None:
        self.app.broadcast(Shouted(session.uid, message.number, message.text))

    def server_of(self, room: str) -> int:
        """The server of a room, the same for all lobbies; 0 in one process."""
        if not isinstance(self.app, Service):
            return 0
        servers = [info.id for info in self.app.cluster.servers("room")]
        return max(
            servers, key=lambda id: blake2b(f"{room}/{id}".encode()).digest(), default=0
        )


class Room:
    """The rooms of one server.

    `session.data` is the name of the room that a player is in.
    """

    def __init__(self, app: Server) -> None:
        self.app = app
        self.players: dict[str, int] = {}

    def on_join(self, session: Session, message: Join) -> Joined:
        self.leave(session)
        others = self.players.get(message.room, 0)
        self.players[message.room] = others + 1
        session.data = message.room
        session.join(message.room)
        return Joined(message.room, others)

    def on_move(self, session: Session, message: Move) -> None:
        if session.data is None:
            session.send(NotHere(message.visit, message.number))
        else:
            self.app.broadcast_to(
                session.data, Moved(session.uid, message.number, message.x, message.y)
            )

    def on_chat(self, session: Session, message: Chat) -> None:
        if session.data is None:
            session.send(NotHere(message.visit, message.number))
        else:
            self.app.broadcast_to(
                session.data, Chatted(session.uid, message.number, message.text)
            )

    def on_part(self, session: Session, message: Part) -> Parted:
        self.leave(session)
        return Parted()

    def on_closed(self, session: Session) -> None:
        self.leave(session)

    def leave(self, session: Session) -> None:
        room, session.data = session.data, None
        if room is not None:
            session.leave(room)
            self.players[room] -= 1
            if not self.players[room]:
                del self.players[room]
