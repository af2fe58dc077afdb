"""A backend: it knows its players by the session of the server that forwards them.

Its type is SPACE.

CLUSTER_KEY=cluster.key gatelink serve examples.porting.space:server
"""

from examples.porting.messages import SPACE, Enter, Walk, catalog, cluster_key
from gatelink import Handlers, Listen, Server, Session

inner = Handlers(catalog)
listen = Listen(endpoint="tcp://127.0.0.1:7103", inner=True, handlers=inner)
server = Server(listen, catalog=catalog, id=SPACE, source=SPACE, cluster_key=cluster_key)


@inner.on(Enter)
def enter(front: Session, message: Enter) -> None:
    front.data = message.uid


@inner.on(Walk)
def walk(front: Session, message: Walk) -> None:
    front.send(Enter(front.data))
    front.send(Walk(message.steps * 2))
