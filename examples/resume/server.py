"""Sealed connections, and sessions that survive their breaks: it sends every number back.

gatelink serve examples.resume.server:server
"""

from msgspec import Struct

from gatelink import Catalog, Server, ServerKey, Session, StaticTokens

catalog = Catalog()


@catalog.message(18001)
class Number(Struct):
    n: int


# a game stores its key: key.to_hex() is the secret, ServerKey.from_hex reads it
key = ServerKey.generate()
server = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    catalog=catalog,
    keys=[key],
    sealed_only=True,
)


@server.on(Number)
def number(session: Session, message: Number) -> None:
    session.send(message)
