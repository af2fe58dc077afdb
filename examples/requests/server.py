"""Requests with answers: rooms with two places, and logins that their clients renew.

gatelink serve examples.requests.server:server
"""

from collections import defaultdict
from enum import IntEnum

from msgspec import Struct

from gatelink import Catalog, CloseExpired, MemoryTokens, Refuse, Request, Server, Session

catalog = Catalog()


class Why(IntEnum):
    """The numbers of this game's refusals."""

    FULL = 1
    UNWANTED = 2


@catalog.message(25001)
class Joined(Struct):
    players: list[int]


@catalog.message(25002)
class Join(Struct, Request[Joined]):
    room: str


@catalog.message(25003)
class Answered(Struct):
    yes: bool


@catalog.message(25004)
class MayJoin(Struct, Request[Answered]):
    """The server asks a player in the room."""

    uid: int


tokens = MemoryTokens()
server = Server(
    "tcp://127.0.0.1:7000", tokens=tokens, catalog=catalog, expiry=CloseExpired(warn=60)
)
rooms: dict[str, list[Session]] = defaultdict(list)


@server.on(Join)
async def join(session: Session, message: Join) -> Joined:
    room = rooms[message.room]
    for other in list(room):
        answer = await other.request(MayJoin(session.uid), timeout=5)
        if not answer.yes:
            raise Refuse(Why.UNWANTED, "somebody there says no")
    if len(room) >= 2:  # now, after the last `await`: others have joined meanwhile
        raise Refuse(Why.FULL, f"{message.room} has two players")
    room.append(session)
    return Joined([each.uid for each in room])


@server.on_closed
def leave(session: Session) -> None:
    for room in rooms.values():
        if session in room:
            room.remove(session)
