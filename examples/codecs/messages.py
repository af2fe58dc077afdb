"""One message for each codec.

The last two need more: protobuf, and a codec of your own.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from examples.codecs.inventory_pb import Inventory
from gatelink import Catalog
from gatelink.wire.codecs import F32, U8, U64, Decode, Encode

catalog = Catalog()  # not the default catalog, which `gatelink.message` fills


@catalog.message(14001)
class Chat(Struct):
    """MessagePack, the default of a Struct: fields may be added with a default."""

    text: str
    tags: list[str] = []


@catalog.message(14002, codec="json")
class Profile(Struct):
    """JSON: for clients that know no other format."""

    name: str
    level: int


@catalog.message(14003, codec="binary")
class Shot(Struct):
    """The base protocol's layout, little-endian and without padding: here 17 bytes."""

    target: U64
    weapon: U8
    x: F32
    y: F32


@catalog.message(14004)
class Voice(bytes):
    """Raw, the default of a subclass of bytes: you define the body."""


catalog.add(14005, Inventory)  # protobuf, the default of generated classes


class Dataclasses:
    """A codec of your own: `bind` gives the two functions for one class.

    An error of `decode` is the peer's fault.
    """

    def bind(self, cls: type) -> tuple[Encode, Decode]:
        return msgspec.json.encode, msgspec.json.Decoder[Any](cls).decode


@catalog.message(14006, codec=Dataclasses())
@dataclass
class Spell:
    name: str
    cost: int
