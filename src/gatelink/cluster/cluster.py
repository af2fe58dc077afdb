"""The cluster as one of its servers sees it: registry, links, and messages between servers.

@service.on_post(RoomOpened)                        # posted by another server, over its link
def room_opened(link, message): ...                 # link.uid is the id of that server

@service.on_call(WhereIs)                           # called by another server, through the engine
async def where_is(request): return Found(...)

service.cluster.post("lobby", RoomOpened(7))
answer = await service.cluster.call("lobby", WhereIs(uid), timeout=1.0)
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec

from gatelink import tasks
from gatelink.calls import invoke, invoke_plain
from gatelink.cluster.directory import Directory, Place
from gatelink.cluster.engine import CallRefused, Engine, Subscription
from gatelink.cluster.links import Link, Links
from gatelink.cluster.registry import LoadMeter, OnChange, Registry, ServerInfo, State
from gatelink.errors import CatalogError, ConfigError, LocalError, SessionClosed
from gatelink.handlers import Fallback, Handlers, Route, check_handler
from gatelink.logger import Logger
from gatelink.net.client import connect_server
from gatelink.net.dialer import Backoff
from gatelink.net.frontend import Frontend
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.interfaces import MessageSource
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.wire.frames import Frame, encode_frame
from gatelink.wire.keys import ClusterKey
from gatelink.wire.messages import Catalog

log = Logger("gatelink.cluster")
quiet = RateLimitedLogger(log)

_M = TypeVar("_M")
_R = TypeVar("_R")
_E = TypeVar("_E", bound=Callable[[Any], None])

REDIAL = Backoff(first=0.1, most=1.0, attempts=1_000_000)
"""How a detached link is dialled again, without end: `Links` closes it when the other process is gone."""

DIAL_SECONDS = 3.0
_NAME = re.compile(r"[a-z0-9_-]{1,32}")


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a server needs to join a cluster.

    engine: started before the server, and closed after it. keys: of the cluster, the newest first.
    id: the server's own among all servers of the cluster.
    inner: where it listens for other servers. advertise: how they reach it, if not under that address.
    types: names of the server types that the cluster is configured to have, for `Cluster.servers`.
    """

    engine: Engine
    keys: Sequence[ClusterKey]
    id: int
    inner: str = "tcp://127.0.0.1:0"
    advertise: str = ""
    types: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigError("a server of a cluster needs the cluster key; `gatelink keys new --cluster` makes one")


class NotLinked(LocalError):
    """There is no link to the server that a message is addressed to, or to any server of that type."""


class Cluster:
    """The cluster as one of its servers sees it.

    `registry` knows all servers, `links` reaches them. frontend: gives the server's frontend for servers, which dialled
    and accepted links share; called once the server has started. on_replaced: called when another server takes its id.
    """

    def __init__(
        self,
        member: Membership,
        catalog: Catalog,
        frontend: Callable[[], Frontend],
        on_replaced: Callable[[], None],
        load: LoadMeter,
    ) -> None:
        self.registry = Registry(member.engine, load, on_change=self._changed, on_replaced=on_replaced)
        self.links = Links(self.registry, self._dial)
        self.engine = member.engine
        self._load = load
        self._directory = Directory(member.engine, member.id)
        self._member = member
        self._catalog = catalog
        self._frontend = frontend
        self._types = set(member.types)  # names of the types that are or were registered, too
        self._on_change: list[OnChange] = []
        self._subscriptions: list[Subscription] = []

    @property
    def me(self) -> ServerInfo:
        """This server's own entry. Raises ConfigError before it has registered."""
        return self.registry.own

    @property
    def trouble(self) -> str:
        """Why logins and calls fail just now; "" if they do not."""
        return "" if self.engine.is_available else "the engine cannot be reached, or its bucket cannot be used"

    def on_change(self, call: OnChange) -> OnChange:
        """Decorator: `call(before, now)` for each server that registers, changes or leaves."""
        self._on_change.append(call)
        return call

    def servers(self, name: str) -> list[ServerInfo]:
        """The servers of a type that are up and linked just now, this one included; none is an empty list.

        name: of the type. Raises LocalError for a name that is neither configured (`Membership.types`) nor was
        registered since this server started: it is misspelt, or no such server came yet.
        """
        if name not in self._types:
            known = ", ".join(sorted(self._types)) or "none"
            raise LocalError(f"no server of type {name!r} was registered so far; known types: {known}")
        return [
            info
            for info in self.registry.servers.values()
            if info.name == name and info.state is State.UP and (info.id == self.me.id or self.links.is_open(info.id))
        ]

    # -- life --

    async def join(self, me: ServerInfo, handlers: "ClusterHandlers") -> None:
        """Register, and dial the servers with higher ids. Raises ConfigError for an invalid name, EngineUnavailable."""
        if not _NAME.fullmatch(me.name):
            raise ConfigError(f"server name {me.name!r}: a name has 1 to 32 of a-z, 0-9, _ and -")
        self._types.add(me.name)
        await self.registry.register(me)
        self._load.start()
        self.links.open()
        for subject in (f"call.{self.me.name}", f"call.server.{self.me.id}"):
            self._subscriptions.append(await self.engine.serve(subject, handlers.answer))
        for topic, receive in handlers.topics.items():
            self._subscriptions.append(await self.engine.subscribe(f"events.{topic}", receive))

    async def close(self) -> None:
        """Leave the cluster; the links close once what is queued on them is delivered."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await tasks.gather_all(
            self.registry.close(), self.links.close(), *(subscription.close() for subscription in subscriptions)
        )

    def _changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if now is not None:
            self._types.add(now.name)
        self.links.registry_changed(before, now)
        for call in self._on_change:
            try:
                invoke_plain(call, before, now)
            except Exception as error:
                log.error("on_change failed", function=repr(call), exc_info=error)

    async def _dial(self, info: ServerInfo) -> Session:
        me = self.me
        frontend = self._frontend()
        session = await connect_server(
            info.inner,
            frontend.context,
            id=me.id,
            type=me.type,
            peer_id=info.id,
            cluster_key=self._member.keys[0],
            handlers=self.links,
            reconnect=REDIAL,
            timeout=DIAL_SECONDS,
        )
        frontend.memory_guard.add(session)
        return session

    async def find(self, uid: int, slot: int = 0) -> Place | None:
        """Find the gateway and the epoch of a user's newest login. Raises EngineUnavailable."""
        return await self._directory.find(uid, slot)

    # -- to other servers --

    def post(self, to: int | str, message: Any) -> None:
        """Send `message` to one server, in order. to: the server's id, or a type's name for any server of the type.

        Raises NotLinked; OutboxFull when too much waits for that server.
        """
        link = self.links.get(to) if isinstance(to, int) else self._any(to)
        if link is None:
            raise NotLinked(f"no link to server {to!r}")
        try:
            link.push(self._frame(message))
        except SessionClosed:
            raise NotLinked(f"the link to server {to!r} is closed") from None

    def broadcast(self, name: str, message: Any) -> int:
        """Send `message` to every server of a type, and return their number.

        Raises OutboxFull when too much waits for one of them; the others have the message by then.
        """
        frame = self._frame(message)
        sent = 0
        full: OutboxFull | None = None
        for link in self.links:
            if link.info.name == name:
                try:
                    link.push(frame)
                    sent += 1
                except SessionClosed:
                    pass
                except OutboxFull as error:
                    full = error
        if full is not None:
            raise full
        return sent

    async def call(self, to: int | str, request: Any, timeout: float) -> Any:  # noqa: ASYNC109 - goes with the request
        """Send a request to one server, and return its answer, a message of the catalog. to: as for `post`.

        Raises NoResponder if no server answers such calls; RequestFailed if the handler raised, with the `code` and
        `reason` of a CallRefused; CallTimeout without an answer within `timeout` seconds; EngineUnavailable.
        """
        subject = f"call.server.{to}" if isinstance(to, int) else f"call.{to}"
        return decode(self._catalog, await self.engine.request(subject, encode(self._catalog, request), timeout))

    async def publish(self, topic: str, message: Any) -> None:
        """Send `message` to every subscriber of `topic` that the engine reaches now. Raises EngineUnavailable."""
        await self.engine.publish(f"events.{topic}", encode(self._catalog, message))

    def _any(self, name: str) -> Link | None:
        """The link to the least loaded server of a type that is up; a detached link only if there is no other."""
        links = [link for link in self.links if link.info.name == name and link.info.state is State.UP]
        return min(
            links,
            key=lambda link: (not self.links.is_open(link.id), link.info.load.sessions, link.id),
            default=None,
        )

    def _frame(self, message: Any) -> bytes:
        kind, body = self._catalog.encode(message)
        return encode_frame(kind.id, body)


class PostFallback(Fallback):
    """Drops and counts posts that cannot be handled: one bad post must not close the link."""

    def __init__(self) -> None:
        self.malformed_posts = 0
        self.unhandled_posts = 0

    def unrouted(self, table: Handlers, session: MessageSource, frame: Frame) -> None:
        """Counts a post that nothing here handles."""
        self.unhandled_posts += 1
        quiet.error("a post has no handler here", server=session.uid, id=frame[0])

    def malformed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """Counts a post that does not decode."""
        self.malformed_posts += 1
        quiet.error("post dropped", server=session.uid, message=route.name, error=type(error).__name__)


class ClusterHandlers:
    """A server's handlers of posts, calls and events from other servers; registered before it starts.

    `posts` is the table of posted messages, whose handlers get the link's session and the message.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.post_fallback = PostFallback()
        self.posts = Handlers(catalog, self.post_fallback)
        self.topics: dict[str, Callable[[bytes], None]] = {}
        self._catalog = catalog
        self._calls: dict[type, Callable[[Any], Any]] = {}

    def on_call(self, request: type[_M]) -> Callable[[Callable[[_M], _R]], Callable[[_M], _R]]:
        """Decorator: `handler(request)`, plain or async, returns the answer to a call. Raises CatalogError."""
        self._catalog.of_type(request)

        def register(handler: Callable[[_M], _R]) -> Callable[[_M], _R]:
            if request in self._calls:
                raise CatalogError(f"calls with {request.__name__} have a handler already")
            check_handler(handler, f"calls with {request.__name__}", "request")
            self._calls[request] = handler
            return handler

        return register

    def on_event(self, topic: str) -> Callable[[_E], _E]:
        """Decorator: `handler(message)`, a plain function, for messages published to `topic`. Raises CatalogError."""

        def register(handler: _E) -> _E:
            check_handler(handler, f"topic {topic!r}", "message", asynchronous=False)
            if topic in self.topics:
                raise CatalogError(f"the topic {topic!r} has a handler already")
            self.topics[topic] = lambda data: invoke_plain(handler, invoke_plain(decode, self._catalog, data))
            return handler

        return register

    async def answer(self, data: bytes) -> bytes:
        """Answer one call."""
        request = invoke_plain(decode, self._catalog, data)
        handler = self._calls.get(type(request))
        if handler is None:
            raise CallRefused(0, f"that server has no handler of {type(request).__name__}")
        return invoke_plain(encode, self._catalog, await invoke(handler, request))


def encode(catalog: Catalog, message: Any) -> bytes:
    """A message as the engine carries it: id u16, body."""
    kind, body = catalog.encode(message)
    return kind.id.to_bytes(2, "little") + body


def decode(catalog: Catalog, data: bytes) -> Any:
    """Decode what `encode` made. Raises CatalogError, and what the codec raises."""
    return catalog.find(int.from_bytes(data[:2], "little")).decode(data[2:])
