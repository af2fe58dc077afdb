"""The messages of the arena: 41xxx are the lobby's, 42xxx the rooms'."""

from msgspec import Struct

from gatelink import Request, message
from gatelink.wire.codecs import U64

LOBBY, ROOM = 41, 42
"""Server types: the thousands of the messages that they handle."""


@message(41002)
class Entered(Struct):
    """Lobby: your room has a place for you; say Join there.

    `server` has it, 0 in one process.
    """

    room: str
    server: int


@message(41001)
class Enter(Struct, Request[Entered]):
    """Player: I want to be in this room."""

    room: str


@message(41003)
class Shout(Struct):
    """Player: a text for all players."""

    number: int
    text: str


@message(41004)
class Shouted(Struct):
    """Lobby: a player's shout."""

    uid: U64
    number: int
    text: str


@message(42002)
class Joined(Struct):
    """Room: you are in, with this many others."""

    room: str
    others: int


@message(42001)
class Join(Struct, Request[Joined]):
    """Player, to the room's server: here I am."""

    room: str


@message(42003)
class Move(Struct):
    """Player: in my `visit`-th visit my step number `number` is to (x, y)."""

    visit: int
    number: int
    x: int
    y: int


@message(42004)
class Moved(Struct):
    """Room, to all players in it: a player's step."""

    uid: U64
    number: int
    x: int
    y: int


@message(42005)
class Chat(Struct):
    """Player, to all in the room; numbered together with the steps."""

    visit: int
    number: int
    text: str


@message(42006)
class Chatted(Struct):
    """Room, to all players in it: a player's words."""

    uid: U64
    number: int
    text: str


@message(42007)
class NotHere(Struct):
    """Room: you are in no room of this server, so your step or word was refused.

    Ask the lobby again.
    """

    visit: int
    number: int


@message(42009)
class Parted(Struct):
    """Room: you are out, and all that you sent before has been sent to the others."""


@message(42008)
class Part(Struct, Request[Parted]):
    """Player: I leave my room."""
