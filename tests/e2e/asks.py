"""What tests of requests share: the messages, and a server, or a service behind a gateway, that answers them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest

from gatelink import (
    Catalog,
    Gateway,
    Handlers,
    Identity,
    Membership,
    Request,
    RequestCode,
    RequestFailed,
    Server,
    Service,
    Session,
    StaticTokens,
    VerifyError,
    connect,
)
from gatelink.testing import MemoryEngine
from gatelink.wire.control import Features
from gatelink.wire.frames import ANSWER, REQUEST, encode_frame, tagged
from gatelink.wire.keys import ClusterKey
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, token_of

ASKS = Features.PING | Features.REQUESTS | Features.RENEWAL
CATALOG = Catalog()


@CATALOG.message(42_000)
class Sum(msgspec.Struct):
    n: int


@CATALOG.message(42_001)
class Add(msgspec.Struct, Request[Sum]):
    a: int
    b: int


@CATALOG.message(42_002)
class Note(msgspec.Struct):
    n: int


@CATALOG.message(42_003, answer=Sum)
class Double(msgspec.Struct):
    n: int


@CATALOG.message(42_004)
class Text(msgspec.Struct):
    text: str


@CATALOG.message(42_005)
class Repeat(msgspec.Struct, Request[Text]):
    text: str


class Place:
    """Where requests of a client are answered: a server, or a service behind a gateway."""

    def __init__(self, at: Server | Service, port: int, gateway: Gateway | None = None) -> None:
        self.at = at
        self.port = port
        self.clients: list[Session] = []
        self.notes: list[int] = []
        self.gateway = gateway
        self.opened: list[ExtendedClient] = []  # closed at the end

    @property
    def front(self) -> Server:
        """The server that holds the clients' connections."""
        front = self.gateway or self.at
        assert isinstance(front, Server)
        return front

    async def client(self, handlers: Handlers | None = None, uid: int = 7, **options: Any) -> Session:
        session = await connect(
            f"tcp://127.0.0.1:{self.port}",
            uid=uid,
            token=token_of(uid).decode(),
            catalog=CATALOG,
            handlers=handlers or Handlers(CATALOG),
            **{"slot": 0} | options,
        )
        self.clients.append(session)
        return session

    async def raw(self, uid: int = 7, features: int = ASKS, log_in: bool = True) -> ExtendedClient:
        """A client of bytes, after its login or after its HELLO."""
        if log_in:
            client = await ExtendedClient.logged_in(self.front, uid, features=features)
        else:
            client = await ExtendedClient.extended(self.front, features=features)
        self.opened.append(client)
        return client

    async def close(self) -> None:
        """Close the clients of bytes."""
        for client in self.opened:
            await client.close()


@asynccontextmanager
async def direct(front: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Place]:
    async with Server(TCP, catalog=CATALOG, **{"tokens": StaticTokens()} | options | (front or {})) as server:
        place = Place(server, server.endpoints[0].port)
        server.on(Note)(lambda peer, note: place.notes.append(note.n))
        yield place
        await place.close()


@asynccontextmanager
async def behind_a_gateway(front: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Place]:
    keys = (ClusterKey.generate(),)
    async with MemoryEngine() as engine:
        service = Service(
            "sums", type=42, catalog=CATALOG, member=Membership(engine=engine, keys=keys, id=42_001), **options
        )
        member = Membership(engine=engine, keys=keys, id=1)
        gateway = Gateway(TCP, catalog=CATALOG, member=member, **{"tokens": StaticTokens()} | (front or {}))
        async with service, gateway:
            place = Place(service, gateway.endpoints[0].port, gateway)
            service.on(Note)(lambda peer, note: place.notes.append(note.n))
            yield place
            await place.close()


Where = Callable[..., AbstractAsyncContextManager[Place]]
"""`direct` or `behind_a_gateway`."""


class Shown:
    """Tokens `uid:name:seconds`: the client that shows one is that user, with the claim `name`, for so many seconds.

    once: each is good for one use. gate: a check waits while it is clear.
    """

    def __init__(self, once: bool = False) -> None:
        self.shown: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._once = once

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        is_used = self._once and token.decode() in self.shown
        self.shown.append(token.decode())
        await self.gate.wait()
        whose, name, seconds = token.decode().split(":")
        if name == "bad" or is_used:
            raise VerifyError("a bad token")
        return Identity(int(whose), {"name": name}, time.time() + float(seconds))


def asking(message: Any, tag: int) -> bytes:
    """The whole frame of a request."""
    kind, body = CATALOG.encode(message)
    return tagged(encode_frame(kind.id, body), tag, REQUEST)


def answering(message: Any, tag: int) -> bytes:
    """The whole frame of an answer."""
    kind, body = CATALOG.encode(message)
    return tagged(encode_frame(kind.id, body), tag, ANSWER)


async def code_of(asked: Any) -> RequestCode:
    """Why a request failed."""
    with pytest.raises(RequestFailed) as raised:
        await asked
    return raised.value.code
