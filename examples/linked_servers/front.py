"""The server for players.

It has no accounts: it asks the bank, over a session like those of players.

CLUSTER_KEY=cluster.key gatelink serve examples.linked_servers.front:server
"""

import os

from examples.linked_servers.messages import (
    BANK,
    FRONT,
    Balance,
    Deposit,
    Paid,
    Pay,
    catalog,
    cluster_key,
)
from gatelink import Handlers, Server, Session, StaticTokens, connect

bank_address = os.environ.get("BANK", "tcp://127.0.0.1:7102")
answers = Handlers(catalog)
server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=catalog)
links: list[Session] = []


@server.on_start
async def call_bank() -> None:
    links.append(
        await connect(
            bank_address,
            uid=FRONT,
            source=FRONT,
            cluster_key=cluster_key,
            peer_id=BANK,
            handlers=answers,
            catalog=catalog,
            resume=True,
        )
    )


@server.on(Pay)
def pay(session: Session, message: Pay) -> None:
    links[0].send(Deposit(session.uid, message.coins))


@answers.on(Balance)
def balance(bank: Session, message: Balance) -> None:
    player = server.sessions.get(message.uid)
    if player is not None:
        player.send(Paid(message.coins))


@server.on_stop
async def leave_bank() -> None:
    while links:
        link = links.pop()
        link.close()
        await link.wait_closed()
