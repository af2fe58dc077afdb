"""The messages of moderators and players."""

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(15001)
class Welcome(Struct):
    name: str


@catalog.message(15002)
class Ban(Struct):
    """From a moderator: ban this user."""

    uid: int


@catalog.message(15003)
class Banned(Struct):
    """To the moderator: the user is banned."""

    uid: int
    sessions: int  # that were open
