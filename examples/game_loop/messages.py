"""What players and the world say to each other."""

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(13001)
class Steer(Struct):
    """Where I want to go: a direction, each part -1, 0 or 1."""

    dx: int
    dy: int


@catalog.message(13002)
class Position(Struct):
    """Where a player is now."""

    uid: int
    x: float
    y: float


@catalog.message(13003)
class Gone(Struct):
    """A player has left."""

    uid: int
