"""What players and servers of the arena say: 12xxx is the lobby's, 13xxx the rooms'."""

from msgspec import Struct

from gatelink import message

LOBBY, ROOM = 12, 13
"""Server types: the thousands of the messages that they handle."""


@message(12001)
class Enter(Struct):
    """Player: I want to be in this room."""

    room: str


@message(12002)
class Entered(Struct):
    """Lobby: your room has a place for you; say Join there. `server` has it, 0 in one process."""

    room: str
    server: int


@message(12003)
class Shout(Struct):
    """Player: tell everybody."""

    number: int
    text: str


@message(12004)
class Shouted(Struct):
    """Lobby: somebody told everybody."""

    uid: int
    number: int
    text: str


@message(13001)
class Join(Struct):
    """Player, to the room's server: here I am."""

    room: str


@message(13002)
class Joined(Struct):
    """Room: you are in, with so many others."""

    room: str
    others: int


@message(13003)
class Move(Struct):
    """Player: my step number `number` in this visit, which is my `visit`-th, is to (x, y)."""

    visit: int
    number: int
    x: int
    y: int


@message(13004)
class Moved(Struct):
    """Room, to all who are in it: a player's step."""

    uid: int
    number: int
    x: int
    y: int


@message(13005)
class Chat(Struct):
    """Player, to all in the room; numbered together with the steps."""

    visit: int
    number: int
    text: str


@message(13006)
class Chatted(Struct):
    """Room, to all who are in it: what a player said."""

    uid: int
    number: int
    text: str


@message(13007)
class NotHere(Struct):
    """Room: you are in no room of mine, so that step or word was not taken. Ask the lobby again."""

    visit: int
    number: int


@message(13008)
class Part(Struct):
    """Player: I leave my room."""


@message(13009)
class Parted(Struct):
    """Room: you are out; everything that you said before is told."""
