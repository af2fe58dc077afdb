"""The messages, and the key that proves that a peer is one of your servers.

`gatelink keys new --cluster --out cluster.key` makes one. All servers of the cluster have
it, and nobody else.
"""

import os

from msgspec import Struct

from gatelink import Catalog, ClusterKey
from gatelink.keys import load_cluster_key

catalog = Catalog()
FRONT, BANK = 1, 2  # the servers' types, and here their ids as well

cluster_key = (
    load_cluster_key(os.environ["CLUSTER_KEY"])
    if "CLUSTER_KEY" in os.environ
    else ClusterKey.generate()
)


@catalog.message(19001)
class Pay(Struct):
    """From a player."""

    coins: int


@catalog.message(19002)
class Paid(Struct):
    """To a player: the coins paid so far."""

    coins: int


@catalog.message(19101)
class Deposit(Struct):
    """From the front to the bank."""

    uid: int
    coins: int


@catalog.message(19102)
class Balance(Struct):
    """From the bank to the front."""

    uid: int
    coins: int
