"""The messages of the examples in this folder, in the layout of deployed clients."""

import os

from msgspec import Struct

from gatelink import Catalog, ClusterKey
from gatelink.keys import load_cluster_key
from gatelink.wire.codecs import U64

FRONT, SPACE = 1, 2  # server ids, and here their types, too
catalog = Catalog()
cluster_key = (
    load_cluster_key(os.environ["CLUSTER_KEY"])
    if "CLUSTER_KEY" in os.environ
    else ClusterKey.generate()
)


@catalog.message(12_001, codec="binary")
class Chat(Struct):
    """From a player, and to all players."""

    text: str


@catalog.message(13_001, codec="binary")
class Walk(Struct):
    """From a player: how far to go. To a player: its place."""

    steps: U64


@catalog.message(13_002, codec="binary")
class Enter(Struct):
    """From a server: the player of this session."""

    uid: U64
