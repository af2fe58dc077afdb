"""The messages. After a change, `make page` tells the page of it."""

from typing import Annotated

from msgspec import Meta, Struct

from gatelink import message
from gatelink.wire.codecs import U64

CHAT = 21
"""The type of the servers that handle them: ids from 21000 to 21999."""


@message(21001)
class Say(Struct):
    """Player: a line for everybody."""

    text: Annotated[str, Meta(min_length=1, max_length=200)]


@message(21002)
class Said(Struct):
    """Server: a player's line."""

    uid: U64
    text: str
