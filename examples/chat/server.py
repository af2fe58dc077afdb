"""The chat server: all in a room see its lines in one order, numbered without a gap.

gatelink serve examples.chat.server:server
"""

from examples.chat.messages import ROOMS, JoinedRoom, JoinRoom, Leave, Line, Speak
from examples.chat.tokens import SecretTokens
from gatelink import Server, Session


class Room:
    """A room: its members, and the number of its next line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: set[Session] = set()
        self.next_number = 1


server = Server("tcp://127.0.0.1:7000", tokens=SecretTokens())
rooms = {name: Room(name) for name in ROOMS}


@server.on(JoinRoom)
def join(session: Session, message: JoinRoom) -> None:
    room = rooms.get(message.room)
    if room is None:
        session.kick(f"there is no such room; there are {', '.join(ROOMS)}")
        return
    leave(session)
    room.members.add(session)
    session.data = room
    session.send(JoinedRoom(room.name, room.next_number))


@server.on(Speak)
def say(session: Session, message: Speak) -> None:
    room = session.data
    if room is not None:
        line = Line(room.name, room.next_number, session.uid, message.text)
        room.next_number += 1
        server.sessions.broadcast(line, to=room.members)


@server.on(Leave)
def on_leave(session: Session, message: Leave) -> None:
    leave(session)


@server.on_closed
def leave(session: Session) -> None:
    if session.data is not None:
        session.data.members.discard(session)
        session.data = None
