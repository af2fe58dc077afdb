"""What moderators and players hear and say."""

from msgspec import Struct

from gatelink import Catalog

catalog = Catalog()


@catalog.message(15001)
class Welcome(Struct):
    name: str


@catalog.message(15002)
class Ban(Struct):
    """From a moderator: this user is out, and stays out."""

    uid: int


@catalog.message(15003)
class Banned(Struct):
    """To the moderator: it is done."""

    uid: int
    sessions: int  # that were open
