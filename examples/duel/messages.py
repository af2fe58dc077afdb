"""The messages of the duel. All ids belong to servers of type 43."""

from enum import IntEnum

from msgspec import Struct

from gatelink import Request, message

DUEL = 43


class Why(IntEnum):
    """What the number of a refusal says."""

    NOT_HERE = 1
    BUSY = 2
    DECLINED = 3
    NO_MATCH = 4
    NOT_YOUR_TURN = 5
    TAKEN = 6


@message(43_001)
class Board(Struct):
    """A match as it stands.

    cells: nine of `X`, `O` and `.`; X began. next: the uid to move, 0 when it is over.
    winner: a uid; 0 in a draw, and before the end. seconds: what is left of the turn.
    away: players without connection.
    """

    match: int
    cells: str
    x: int
    o: int
    next: int
    winner: int
    seconds: float
    away: list[int]


@message(43_002)
class Invite(Struct, Request[Board]):
    """To the server: a match with that user.

    Answered once the user has accepted. X is the one who invites.
    """

    uid: int


@message(43_003)
class Accepted(Struct):
    pass


@message(43_004)
class Challenge(Struct, Request[Accepted]):
    """From the server: that user wants a match.

    A client refuses with `Refuse(Why.DECLINED)`.
    """

    uid: int


@message(43_005)
class Play(Struct, Request[Board]):
    """A move: 0 to 8."""

    cell: int


@message(43_006)
class Watch(Struct, Request[Board]):
    """Be sent the boards of a match, as its players are."""

    match: int


@message(43_007)
class Row(Struct):
    uid: int
    wins: int
    played: int


@message(43_008)
class Leaders(Struct):
    rows: list[Row]


@message(43_009)
class Top(Struct, Request[Leaders]):
    """The best players."""

    most: int = 10
