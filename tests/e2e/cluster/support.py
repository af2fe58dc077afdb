"""Clusters in one process: gateways and services on one engine, over real sockets and links; and how one dies."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec

from examples.demo import reserved_ports
from gatelink import LINK_LIMITS, Catalog, CloseCode, Handlers, Limits, Server, Session, StaticTokens, connect
from gatelink.cluster.engine import Engine
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.links import Link
from gatelink.cluster.membership import Membership
from gatelink.cluster.player import Player
from gatelink.cluster.service import Service
from gatelink.handlers import VERIFIED
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy
from gatelink.wire.envelope import sid_and_count
from gatelink.wire.frames import Frame
from gatelink.wire.keys import ClusterKey
from tests.e2e.support import TCP, leave, token_of, until
from tests.support import MS

CATALOG = Catalog()
KEY = ClusterKey.generate()
LOBBY, ROOM = 12, 13  # the server types of the messages below


@CATALOG.message(12_001)
class Say(msgspec.Struct):
    """Noted by the lobby."""

    n: int
    text: str = ""


@CATALOG.message(12_002)
class Ask(msgspec.Struct):
    """Comes back from the lobby as it was sent."""

    n: int


@CATALOG.message(13_001)
class Move(msgspec.Struct):
    """Noted by a room."""

    n: int
    text: str = ""


@CATALOG.message(13_002)
class Post(msgspec.Struct):
    """From one server to another."""

    n: int


_Handler = TypeVar("_Handler", bound=Callable[[Any, Any], Any])


class Recorder(Service):
    """A service that notes what it hears, in order.

    greet: it has a handler of `on_verified`, and so hears of players at login.
    """

    def __init__(self, name: str, type: int, greet: bool = True, **options: Any) -> None:
        super().__init__(name, type=type, catalog=CATALOG, **options)
        self.heard: list[tuple[Any, ...]] = []
        self.posts: list[tuple[int, int]] = []
        for kind in (Say.__name__, Move.__name__):
            self.on(kind)(lambda session, message: self.heard.append((session.uid, message.n)))
        self.on(Ask)(lambda session, message: session.send(message))
        self.cluster_handlers.posts.on(Post)(lambda link, message: self.posts.append((link.uid, message.n)))
        if greet:
            self.on_verified(lambda session: self.heard.append((session.uid, "verified")))
        self.on_closed(lambda session: self.heard.append((session.uid, "closed")))

    def of(self, uid: int) -> list[Any]:
        """What it heard of one player."""
        return [what for whose, what in self.heard if whose == uid]

    def numbers(self, uid: int) -> list[int]:
        return [what for what in self.of(uid) if isinstance(what, int)]

    def player(self, uid: int) -> Player:
        found = self.players.get(uid)
        assert found is not None, f"uid {uid} is not a player of {self.name} {self.id}"
        return found

    def instead(self, what: type) -> Callable[[_Handler], _Handler]:
        """Decorator: handles `what` in place of the handler that it has here."""
        del self.handlers.routes[CATALOG.find(what).id]
        return self.on(CATALOG.find(what).id)


_Member = TypeVar("_Member", bound="Gateway | Service")


class Town:
    """The servers of one cluster."""

    def __init__(self, engine: Engine, stack: AsyncExitStack) -> None:
        self.engine = engine
        self.servers: list[Gateway | Service] = []
        self._stack = stack

    def member(self, id: int, **options: Any) -> Membership:
        wanted: dict[str, Any] = {"engine": self.engine, "keys": (KEY,), "id": id} | options
        return Membership(**wanted)

    async def gateway(self, id: int, member: Mapping[str, Any] | None = None, **options: Any) -> Gateway:
        wanted: dict[str, Any] = {"tokens": StaticTokens(), "catalog": CATALOG} | options
        return await self.start(Gateway(TCP, member=self.member(id, **(member or {})), **wanted))

    async def lobby(self, id: int, **options: Any) -> Recorder:
        return await self.start(Recorder("lobby", LOBBY, member=self.member(id), **options))

    async def room(self, id: int, **options: Any) -> Recorder:
        return await self.start(Recorder("room", ROOM, member=self.member(id), **options))

    async def start(self, server: _Member) -> _Member:
        await server.start()
        self.servers.append(server)
        self._stack.push_async_callback(server.stop, 0)
        await self.settled()
        return server

    async def settled(self) -> None:
        """Every two servers are linked."""
        ids = {server.cluster.me.id: server for server in self.servers if server.is_running}

        def linked() -> bool:
            return all(
                (found := server.cluster.links.get(other)) is not None and found.session.state is SessionState.OPEN
                for id, server in ids.items()
                for other in ids
                if id != other
            )

        await until(linked, "every two servers are linked")

    async def kill(self, server: Gateway | Service) -> None:
        """What is left of a process after SIGKILL: nothing, but for its entries in the engine."""
        self.servers.remove(server)
        await kill(server)


@asynccontextmanager
async def cluster(engine: Engine | None = None) -> AsyncIterator[Town]:
    """A cluster without servers yet; those that it gets are stopped at the end, the last first."""
    async with engine or MemoryEngine() as running, AsyncExitStack() as stack:
        yield Town(running, stack)


@asynccontextmanager
async def gateway_and_lobby(engine: Engine | None = None) -> AsyncIterator[tuple[Town, Gateway, Recorder]]:
    """A cluster of gateway 1 and lobby 20."""
    async with cluster(engine) as town:
        yield town, await town.gateway(1), await town.lobby(20)


async def kill(server: Gateway | Service) -> None:
    """Aborts all transports and listeners without a word, and lets the entries expire."""
    links, registry = server.cluster.links, server.cluster.registry
    links._closing = True
    links.receiver = Nobody()
    for link in links:
        link._receiver = links.receiver
    registry._revision = None
    registry._is_replaced = True
    await registry.close()
    for subscription in [
        *server.cluster._subscriptions,
        *([server.arbiter._serving] if isinstance(server, Gateway) else []),
    ]:
        if subscription is not None:
            await subscription.close()
    server.cluster._subscriptions.clear()
    if isinstance(server, Gateway) and server._kicks is not None:
        await server._kicks.close()
    if isinstance(server, Gateway):
        server.arbiter._serving = None
        server.sessions.arbiter = None
        for task in (server.arbiter._renewing, server.arbiter._settling):
            if task is not None:
                task.cancel()
    for side in (server._inner, server._clients):
        assert side is not None
        for listener in side.listeners:
            listener.close()
        for connection in list(side.admission.connections):
            if not isinstance(connection.receiver, Session):
                connection.drop()
    for task in links._dialling.values():
        task.cancel()
    theirs = list(server.sessions) if isinstance(server, Gateway) else []
    for session in [*(link.session for link in links), *server.links, *theirs]:
        if session._stream is not None:
            session._stream.drop()
            session._stream = None
        if session.state is SessionState.OPEN:
            session._detach(CloseCode.GOING_AWAY, "killed")
        session.close()
    await server.stop(0)


class Nobody:
    """Stands on the links of a process that is no more."""

    def link_opened(self, link: Link) -> None: ...

    def link_detached(self, link: Link) -> None: ...

    def link_attached(self, link: Link) -> None: ...

    def link_closed(self, link: Link) -> None: ...

    def receive_envelopes(self, link: Link, frames: list[Frame]) -> None: ...


class Client:
    """A player, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.handlers = Handlers(CATALOG)
        kinds: tuple[type[Say | Ask | Move], ...] = (Say, Ask, Move)
        for kind in kinds:
            self.handlers.on(kind)(lambda _, message: self.heard.append(message.n))
        self.session: Session

    def say(self, *numbers: int) -> None:
        for n in numbers:
            self.session.send(Say(n))

    def move(self, *numbers: int) -> None:
        for n in numbers:
            self.session.send(Move(n))

    async def ask(self, n: int) -> None:
        """One message to the lobby and back."""
        self.session.send(Ask(n))
        await until(lambda: n in self.heard, f"the answer {n}")


@asynccontextmanager
async def player(gateway: Server, uid: int, **options: Any) -> AsyncIterator[Client]:
    """A player who has logged in there."""
    client = Client()
    client.session = await log_in(gateway, uid, handlers=client.handlers, **options)
    try:
        yield client
    finally:
        await leave(client.session)


async def log_in(gateway: Server, uid: int, **options: Any) -> Session:
    endpoint = str(gateway.endpoints[0])
    wanted: dict[str, Any] = {"catalog": CATALOG, "limits": WIDE, "token": token_of(uid).decode()} | options
    return await connect(endpoint, uid=uid, **wanted)


WIDE = Limits(max_outbox_frames=100_000)
QUICK_LINKS = msgspec.structs.replace(LINK_LIMITS, heartbeat_interval=200 * MS, heartbeat_timeout=2_000 * MS)
"""Limits of links that notice soon that the other end is silent."""


@asynccontextmanager
async def between(target: Service) -> AsyncIterator[ChaosProxy]:
    """A proxy in front of where a service will listen for its links: set `member` to advertise it before it starts."""
    with reserved_ports() as port:
        async with ChaosProxy(("127.0.0.1", port)) as proxy:
            assert target.member is not None
            target.member = msgspec.structs.replace(
                target.member, inner=f"tcp://127.0.0.1:{port}", advertise=f"tcp://127.0.0.1:{proxy.address[1]}"
            )
            yield proxy


def wants_login_events(service: Service) -> bool:
    return VERIFIED in service.handlers.routes


def waiting(link: Link) -> int:
    """Frames of players that stand in a gateway's link: not sent, or not acknowledged."""
    return sum(count for _, count in map(sid_and_count, link.session.outbox.frames()))


async def settle() -> None:
    """Lets the loop turn a few times."""
    for _ in range(20):
        await asyncio.sleep(0)
