"""The messages of players and the world."""

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(13001)
class Steer(Struct):
    """A player's direction: each part -1, 0 or 1."""

    dx: int
    dy: int


@catalog.message(13002)
class Position(Struct):
    """The place of a player."""

    uid: int
    x: float
    y: float


@catalog.message(13003)
class Gone(Struct):
    """A player has left."""

    uid: int
