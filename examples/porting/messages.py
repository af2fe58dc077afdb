"""What the examples of this folder say, in the layout that deployed clients know."""

import os

from msgspec import Struct

from gatelink import Catalog, ClusterKey
from gatelink.keys import load_cluster_key
from gatelink.wire.codecs import U64

FRONT, SPACE = 1, 2  # server ids, and here their types, too
catalog = Catalog()
cluster_key = load_cluster_key(os.environ["GROUP_KEY"]) if "GROUP_KEY" in os.environ else ClusterKey.generate()


@catalog.message(12_001, codec="binary")
class Chat(Struct):
    """To everybody, and from them."""

    text: str


@catalog.message(13_001, codec="binary")
class Walk(Struct):
    """How far to go; comes back as where the player is."""

    steps: U64


@catalog.message(13_002, codec="binary")
class Enter(Struct):
    """A server says whose player it brings."""

    uid: U64
