"""What robots and lobbies say to each other: numbered messages, both ways."""

from msgspec import Struct

from gatelink import Catalog

CATALOG = Catalog()
LOBBY = 41
"""The type of the service."""

JOURNAL = "GATELINK_RIG_JOURNAL"
"""The environment variable that names a lobby's file of events."""


@CATALOG.message(LOBBY * 1_000 + 1)
class Up(Struct):
    """A robot's message. `login` numbers the logins of its user, `number` the messages of that session, from 0."""

    login: int
    number: int


@CATALOG.message(LOBBY * 1_000 + 2)
class Down(Struct):
    """The answer of the lobby that handled message `number` of that session."""

    login: int
    number: int
