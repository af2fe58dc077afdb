"""The bank keeps the accounts. Players can't reach it: it listens only for servers.

CLUSTER_KEY=cluster.key gatelink serve examples.linked_servers.bank:server
"""

from collections import Counter

from examples.linked_servers.messages import BANK, Balance, Deposit, catalog, cluster_key
from gatelink import Handlers, Listen, Server, Session

accounts: Counter[int] = Counter()
inner = Handlers(catalog)
listen = Listen(endpoint="tcp://127.0.0.1:7102", inner=True, handlers=inner)
server = Server(listen, catalog=catalog, id=BANK, cluster_key=cluster_key)


@inner.on(Deposit)
def deposit(front: Session, message: Deposit) -> None:
    accounts[message.uid] += message.coins
    front.send(Balance(message.uid, accounts[message.uid]))
