"""A server that connects to a server, and forwards the frames that it does not handle.

CLUSTER_KEY=cluster.key gatelink serve examples.porting.front:server
"""

import os

from examples.porting.messages import FRONT, SPACE, Enter, catalog, cluster_key
from gatelink import Catalog, Handlers, RawFrame, Server, Session, StaticTokens, connect

server = Server(
    "tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=Catalog(), id=FRONT
)
space_address = os.environ.get("SPACE", "tcp://127.0.0.1:7103")
answers = Handlers(catalog)
spaces: list[Session] = []


@server.on_start
async def dial() -> None:
    space = await connect(
        space_address,
        uid=FRONT,
        source=FRONT,
        cluster_key=cluster_key,
        peer_id=SPACE,
        handlers=answers,
        catalog=catalog,
        resume=True,
    )
    # the server that answered, and its type
    assert (space.uid, space.source) == (SPACE, SPACE)
    spaces.append(space)


@server.on_forward
def forward(session: Session, frame: RawFrame) -> None:
    spaces[0].send(Enter(session.uid))
    spaces[0].send_raw(frame.id, frame.body, frame.flags)


@answers.on(Enter)
def enter(space: Session, message: Enter) -> None:
    space.data = server.sessions.get(message.uid)


@answers.default
def back(space: Session, message: object) -> None:
    if space.data is not None:
        kind, body = catalog.encode(message)
        space.data.send_raw(kind.id, body)


@server.on_stop
async def leave() -> None:
    while spaces:
        space = spaces.pop()
        space.close()
        await space.wait_closed()
