"""A server with metrics, and work for it: answers that take a moment, and some that fail.

gatelink serve examples.metrics.server:server
curl -s http://127.0.0.1:9100/metrics | grep ^gatelink_
"""

import asyncio

from msgspec import Struct

from gatelink import Catalog, Server, Session, StaticTokens

catalog = Catalog()


@catalog.message(17001)
class Ask(Struct):
    about: str


@catalog.message(17002)
class Answer(Struct):
    text: str


server = Server(
    "tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=catalog, admin="127.0.0.1:9100"
)


@server.on(Ask)
async def ask(session: Session, message: Ask) -> None:
    await asyncio.sleep(0.002)  # a database, say
    if not message.about:
        raise ValueError("nothing was asked")  # counted and logged; the session continues
    session.send(Answer(f"about {message.about} I know nothing"))
