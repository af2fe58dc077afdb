"""What deployed clients must find, in one process and through a gateway: both worlds behind one name."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from gatelink import Catalog, Handlers, Server, Session, StaticTokens
from gatelink.cluster.engine import Engine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.service import Service
from gatelink.testing import BaseClient
from gatelink.wire.codecs import I32
from tests.e2e.cluster.support import Town, cluster
from tests.e2e.support import TCP, token_of

CATALOG = Catalog()
LOBBY = 12
WORLDS = ("one process", "gateway")


@CATALOG.message(12_001, codec="binary")
class Say(msgspec.Struct):
    """Comes back, and is noted."""

    n: I32
    text: bytes = b""


SAY = 12_001


def say(n: int, text: bytes = b"") -> bytes:
    """The body of a `Say`, in the old layout."""
    return struct.pack("<iH", n, len(text)) + text


class World:
    """front: what clients connect to. back: whose handlers they reach, the same server in one process."""

    def __init__(self, front: Server, back: Server, town: Town | None = None) -> None:
        self.front = front
        self.back = back
        self.town = town
        self.heard: list[tuple[int, int]] = []  # (uid, n)
        self.opened: list[tuple[int, bool]] = []  # (uid, returned)

    @property
    def endpoint(self) -> str:
        return str(self.front.endpoints[0])

    def session(self, uid: int) -> Session:
        """The session that handlers see."""
        found = self.back.sessions.get(uid)
        assert found is not None, f"uid {uid} is not here"
        return found

    def numbers(self, uid: int) -> list[int]:
        return [n for whose, n in self.heard if whose == uid]

    async def client(self, uid: int, token: bytes | None = None, **form: Any) -> BaseClient:
        """A client that is logged in."""
        client = BaseClient(uid, token_of(uid) if token is None else token, **form)
        await client.open(self.endpoint)
        await client.verified()
        return client


@asynccontextmanager
async def world(
    name: str, services: dict[str, Any] | None = None, engine: Engine | None = None, **options: Any
) -> AsyncIterator[World]:
    """One of `WORLDS`. options: of what clients connect to. services: of the service behind a gateway.

    engine: of their cluster, not started; None: one in memory.
    """
    options = {"tokens": StaticTokens()} | options
    if name == "one process":
        server = Server(TCP, catalog=CATALOG, **options)
        found = World(server, server)
        _handle(found, server.handlers)
        async with server:
            yield found
        return
    async with cluster(engine) as town:
        lobby = Service("lobby", type=LOBBY, catalog=CATALOG, member=town.member(12_001), **(services or {}))
        gateway = Gateway(TCP, member=town.member(1), catalog=CATALOG, **options)
        found = World(gateway, lobby, town)
        _handle(found, lobby.handlers)
        await town.start(lobby)
        await town.start(gateway)
        yield found


def _handle(found: World, handlers: Handlers) -> None:
    def heard(session: Session, message: Say) -> None:
        found.heard.append((session.uid, message.n))
        session.send(message)

    handlers.on(Say)(heard)
    handlers.on_verified(lambda session: found.opened.append((session.uid, session.returned)))
