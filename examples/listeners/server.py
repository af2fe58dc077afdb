"""A server with three listeners: TLS, TCP for a balancer, a Unix socket for a web site.

export LISTENERS=$(mktemp -d); python -m examples.listeners.certificate $LISTENERS
gatelink serve examples.listeners.server:server

In another terminal, with the same LISTENERS, a client logs in over TLS:
python -m examples.listeners.client
"""

import os
from pathlib import Path

from examples.listeners.desk import Desk
from gatelink import Connection, Limits, Listen, MemoryTokens, Server, Session

folder = Path(os.environ["LISTENERS"])
tokens = MemoryTokens(first_use=30, lifetime=3_600)
banned = {"198.51.100.66"}


def is_welcome(connection: Connection) -> bool:
    return connection.address not in banned


def to_desk(connection: Connection) -> None:
    connection.hand_over(Desk(tokens))


server = Server(
    Listen(
        endpoint="tls://127.0.0.1:7443",
        certificate=str(folder / "certificate.pem"),
        key=str(folder / "key.pem"),
        accept=is_welcome,
    ),
    Listen(endpoint="tcp://127.0.0.1:7001", proxies=("127.0.0.0/8",), accept=is_welcome),
    Listen(endpoint=f"unix://{folder}/desk.sock", accept=to_desk),
    tokens=tokens,
    limits=Limits(max_connections=1_000, max_per_address=2),
)


@server.on_verified
def welcome(session: Session) -> None:
    print(f"{session.uid} connected from {session.address}")
