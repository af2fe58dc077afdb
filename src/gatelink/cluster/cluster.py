"""A process's membership in a group: it registers, links itself to the others, and talks with them.

@service.on_post(RoomOpened)                        # posted by another server, over the link
def room_opened(link, message): ...                 # link.uid is the id of that server

@service.on_call(WhereIs)                           # asked by another server, through the engine
async def where_is(request): return Found(...)

service.cluster.post("lobby", RoomOpened(7))
answer = await service.cluster.call("lobby", WhereIs(uid), timeout=1.0)
"""

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from time import perf_counter
from typing import Any, TypeVar

import msgspec
import structlog

from gatelink.calls import invoke, invoke_plain
from gatelink.cluster.directory import Directory, Place
from gatelink.cluster.engine import CallRefused, Engine, Subscription
from gatelink.cluster.links import Link, Links, Role
from gatelink.cluster.registry import Load, OnChange, Registry, ServerInfo, State
from gatelink.errors import CatalogError, ConfigError, LocalError, SessionClosed
from gatelink.handlers import Fallback, Handlers, Route, check_handler
from gatelink.net.client import connect_server
from gatelink.net.dialer import Backoff
from gatelink.net.frontend import Frontend
from gatelink.ops.lag import LoopLag
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.interfaces import MessageSource
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.wire.frames import Frame, encode_frame
from gatelink.wire.keys import ClusterKey
from gatelink.wire.messages import Catalog

log = structlog.get_logger("gatelink.cluster")
quiet = RateLimitedLogger(log)

_M = TypeVar("_M")
_R = TypeVar("_R")
_E = TypeVar("_E", bound=Callable[[Any], None])

REDIAL = Backoff(first=0.1, most=1.0, attempts=1_000_000)
"""How a link that broke is dialled; when the other process is gone is not for it to say."""

DIAL_SECONDS = 3.0
_NAME = re.compile(r"[a-z0-9_-]{1,32}")


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to be a member.

    engine: started before the member, and closed after it. keys: of the group, the newest first.
    id: the member's own among all servers of the group.
    inner: where it listens for other servers. advertise: how they reach it, if not under the address it listens on.
    types: names of the server types that the group is configured to have, for `Cluster.servers`.
    """

    engine: Engine
    keys: Sequence[ClusterKey]
    id: int
    inner: str = "tcp://127.0.0.1:0"
    advertise: str = ""
    types: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigError("a member of a group needs the group's key; `gatelink keys new --cluster` makes one")


class NotLinked(LocalError):
    """There is no link to the server that a message is for, or no server of that type."""


class Cluster:
    """The group as one of its servers sees it.

    `registry` knows all servers, `links` reaches them. role: what stands on the links. side: the server's inner side,
    which the links that it dials share with those that it accepts; called once the server has started.
    """

    def __init__(
        self,
        member: Membership,
        role: Role,
        catalog: Catalog,
        side: Callable[[], Frontend],
        replaced: Callable[[], None],
        load: "LoadMeter",
    ) -> None:
        self.registry = Registry(member.engine, on_change=self._changed, replaced=replaced)
        self.registry.load = load
        self._load = load
        self.links = Links(self.registry, role, self._dial)
        self.engine = member.engine
        self._directory = Directory(member.engine, member.id)
        self._member = member
        self._catalog = catalog
        self._side = side
        self._types = set(member.types)  # names of the types that there are, or were
        self._on_change: list[OnChange] = []
        self._subscriptions: list[Subscription] = []

    @property
    def me(self) -> ServerInfo:
        """This server's own entry. Raises ConfigError before it has registered."""
        return self.registry.own

    @property
    def trouble(self) -> str:
        """Why the group does not work as a whole; "" if it does."""
        return "" if self.engine.is_available else "the engine is away, or its bucket cannot be used"

    def on_change(self, call: OnChange) -> OnChange:
        """Decorator: `call(before, now)` for each server that comes, changes or goes."""
        self._on_change.append(call)
        return call

    def servers(self, name: str) -> list[ServerInfo]:
        """The servers of a type, given by its name, that are up and reached from here just now, this one included.

        Raises LocalError for a name that is neither in the configuration (`Membership.types`) nor was ever registered
        while this server runs: it is misspelt, or there was none yet. A type of which none is up gives an empty list.
        """
        if name not in self._types:
            known = ", ".join(sorted(self._types)) or "none"
            raise LocalError(f"no server of type {name!r} was ever here; known types: {known}")
        return [
            info
            for info in self.registry.servers.values()
            if info.name == name and info.state is State.UP and (info.id == self.me.id or self.links.is_open(info.id))
        ]

    # -- life --

    async def join(self, me: ServerInfo, talk: "Talk") -> None:
        """Registers, and dials whom it must. Raises ConfigError for a name that cannot be, EngineUnavailable."""
        if not _NAME.fullmatch(me.name):
            raise ConfigError(f"a server's name {me.name!r}; it has up to 32 of a-z, 0-9, _ and -")
        self._types.add(me.name)
        await self.registry.register(me)
        self._load.start()
        self.links.open()
        for subject in (f"call.{self.me.name}", f"call.server.{self.me.id}"):
            self._subscriptions.append(await self.engine.serve(subject, talk.answer))
        for topic, heard in talk.topics.items():
            self._subscriptions.append(await self.engine.subscribe(f"events.{topic}", heard))

    async def close(self) -> None:
        """Leaves: the links end after what is queued on them."""
        subscriptions, self._subscriptions = self._subscriptions, []
        await gather_all(
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
        side = self._side()
        session = await connect_server(
            info.inner,
            side.context,
            id=me.id,
            type=me.type,
            peer_id=info.id,
            cluster_key=self._member.keys[0],
            handlers=self.links,
            reconnect=REDIAL,
            timeout=DIAL_SECONDS,
        )
        side.memory_guard.add(session)
        return session

    async def find(self, uid: int, slot: int = 0) -> Place | None:
        """Where a user's newest login is: the id of its gateway, and its epoch. Raises EngineUnavailable."""
        return await self._directory.find(uid, slot)

    # -- to other servers --

    def post(self, to: int | str, message: Any) -> None:
        """Sends `message` to a server, given by its id, or to one of a type, given by its name; in order per server.

        Raises NotLinked; OutboxFull when more waits for that server than may.
        """
        link = self.links.get(to) if isinstance(to, int) else self._any(to)
        if link is None:
            raise NotLinked(f"no link to server {to!r}")
        try:
            link.push(self._frame(message))
        except SessionClosed:
            raise NotLinked(f"the link to server {to!r} is lost") from None

    def broadcast(self, name: str, message: Any) -> int:
        """Sends `message` to every server of a type; to how many.

        Raises OutboxFull when more waits for one of them than may, once all others have been sent it.
        """
        frame = self._frame(message)
        told = 0
        full: OutboxFull | None = None
        for link in self.links:
            if link.info.name == name:
                try:
                    link.push(frame)
                    told += 1
                except SessionClosed:
                    pass
                except OutboxFull as error:
                    full = error
        if full is not None:
            raise full
        return told

    async def call(self, to: int | str, request: Any, timeout: float) -> Any:  # noqa: ASYNC109 - goes with the request
        """Asks a server, by its id, or one of a type, by its name; its answer, a message of the catalog.

        Raises NoResponder if nobody answers there; RequestFailed if the handler raised, with its `code` and `reason`
        if that was CallRefused; CallTimeout if it did not answer within `timeout` seconds; EngineUnavailable.
        """
        subject = f"call.server.{to}" if isinstance(to, int) else f"call.{to}"
        return decode(self._catalog, await self.engine.request(subject, encode(self._catalog, request), timeout))

    async def publish(self, topic: str, message: Any) -> None:
        """Tells every server that subscribed to `topic`; who is away misses it. Raises EngineUnavailable."""
        await self.engine.publish(f"events.{topic}", encode(self._catalog, message))

    def _any(self, name: str) -> Link | None:
        """The least loaded of those that are up, one whose link is broken only if there is no other."""
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
    """What can't be handled of what other servers post is dropped and counted: one sender must not end the link."""

    def __init__(self) -> None:
        self.malformed_posts = 0
        self.unhandled_posts = 0

    def unrouted(self, table: Handlers, session: MessageSource, frame: Frame) -> None:
        """Counts a post that nothing here handles."""
        self.unhandled_posts += 1
        quiet.error("nothing here handles a post", server=session.uid, id=frame[0])

    def malformed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """Counts a post that does not decode."""
        self.malformed_posts += 1
        quiet.error("post dropped", server=session.uid, message=route.name, error=type(error).__name__)


class Talk:
    """What a server does with what other servers say; registered before it starts.

    `posts` is the table of posted messages, whose handlers get the link's session and the message.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.post_fallback = PostFallback()
        self.posts = Handlers(catalog, self.post_fallback)
        self.topics: dict[str, Callable[[bytes], None]] = {}
        self._catalog = catalog
        self._calls: dict[type, Callable[[Any], Any]] = {}

    def on_call(self, request: type[_M]) -> Callable[[Callable[[_M], _R]], Callable[[_M], _R]]:
        """Decorator: `handler(request)` answers a call with a message; plain or async. Raises CatalogError."""
        self._catalog.of_type(request)

        def register(handler: Callable[[_M], _R]) -> Callable[[_M], _R]:
            if request in self._calls:
                raise CatalogError(f"calls with {request.__name__} have a handler already")
            check_handler(handler, f"calls with {request.__name__}", "request")
            self._calls[request] = handler
            return handler

        return register

    def on_event(self, topic: str) -> Callable[[_E], _E]:
        """Decorator: `handler(message)`, a plain function, for what is published under `topic`. Raises CatalogError."""

        def register(handler: _E) -> _E:
            check_handler(handler, f"topic {topic!r}", "message", asynchronous=False)
            if topic in self.topics:
                raise CatalogError(f"the topic {topic!r} has a handler already")
            self.topics[topic] = lambda data: invoke_plain(handler, invoke_plain(decode, self._catalog, data))
            return handler

        return register

    async def answer(self, data: bytes) -> bytes:
        """Answers one call."""
        request = invoke_plain(decode, self._catalog, data)
        handler = self._calls.get(type(request))
        if handler is None:
            raise CallRefused(0, f"nothing there answers {type(request).__name__}")
        return invoke_plain(encode, self._catalog, await invoke(handler, request))


def encode(catalog: Catalog, message: Any) -> bytes:
    """A message as the engine carries it: id u16, body."""
    kind, body = catalog.encode(message)
    return kind.id.to_bytes(2, "little") + body


def decode(catalog: Catalog, data: bytes) -> Any:
    """The message that `encode` made. Raises CatalogError, and what its codec raises."""
    return catalog.find(int.from_bytes(data[:2], "little")).decode(data[2:])


class LoadMeter:
    """What a server tells of its load. count: messages since its start. sessions: at this moment. lag: of its loop.

    Of the lag it tells the longest since last time.
    """

    def __init__(self, sessions: Callable[[], int], count: Callable[[], int], lag: LoopLag) -> None:
        self._sessions = sessions
        self._count = count
        self._lag = lag
        self._last = (perf_counter(), 0)

    def start(self) -> None:
        """Begins to measure; the server ends it."""
        self._lag.start()

    def __call__(self) -> Load:
        now, count = perf_counter(), self._count()
        since, before = self._last
        self._last = now, count
        passed = now - since
        return Load(
            self._sessions(), round((count - before) / max(passed, 0.001), 1), round(self._lag.within(passed), 4)
        )


async def stopped(task: "asyncio.Task[Any] | None") -> None:
    """Cancels a task and waits for its end."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def gather_all(*ends: Coroutine[Any, Any, None]) -> None:
    """Awaits them together: some wait for an engine, some for a peer, and a cancellation cuts off all of them.

    Each has begun by then, however early that comes: what it has to end without waiting is at its end.
    """
    tasks = [asyncio.create_task(end) for end in ends]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # a task that is cancelled before its first step never takes it
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    for task in tasks:
        task.result()
