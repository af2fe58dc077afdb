"""The cluster as one of its servers sees it: registry, links, and messages between servers.

@service.on_post(RoomOpened)                        # posted by another server, over its link
def room_opened(link, message): ...                 # link.uid is the id of that server

@service.on_call(WhereIs)                           # called by another server, through the engine
async def where_is(request): return Found(...)

service.cluster.post("lobby", RoomOpened(7))
answer = await service.cluster.call("lobby", WhereIs(uid), timeout=1.0)
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from gatelink import tasks
from gatelink.calls import invoke_plain
from gatelink.cluster.cluster_handlers import ClusterHandlers, decode, encode
from gatelink.cluster.directory import Place, find_place
from gatelink.cluster.engine import NoResponder, Subscription
from gatelink.cluster.group_counts import GroupCount, count_members
from gatelink.cluster.kicks import ClusterUsers, Kicked, check_user
from gatelink.cluster.links import GATEWAY, Link, Links
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import LoadMeter, OnChange, Registry, ServerInfo, State
from gatelink.errors import ConfigError, LocalError, RequestCode, RequestFailed, SessionClosed
from gatelink.logger import Logger
from gatelink.net.client import connect_server
from gatelink.net.dialer import Backoff
from gatelink.net.frontend import Frontend
from gatelink.net.user_kicks import UserSession
from gatelink.session.groups import check_name
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.wire.frames import encode_frame
from gatelink.wire.messages import Catalog

log = Logger("gatelink.cluster")

REDIAL = Backoff(first=0.1, most=1.0, attempts=1_000_000)
"""How a detached link is dialled again, without end: `Links` closes it when the other process is gone."""

DIAL_SECONDS = 3.0
_NAME = re.compile(r"[a-z0-9_-]{1,32}")


class NotLinked(LocalError):
    """There is no link to the server that a message is addressed to, or to any server of that type."""


class Cluster:
    """The cluster as one of its servers sees it.

    `registry` knows all servers, `links` reaches them. frontend: returns the server's frontend for servers, which
    dialled and accepted links share. clients: returns the one for clients. Both are called once the server has started.
    on_replaced: called when another server takes its id.
    """

    def __init__(
        self,
        member: Membership,
        catalog: Catalog,
        frontend: Callable[[], Frontend],
        clients: Callable[[], Frontend],
        on_replaced: Callable[[], None],
        load: LoadMeter,
    ) -> None:
        self.engine = engine = member.authentic_engine
        self.registry = Registry(engine, load, on_change=self._changed, on_replaced=on_replaced)
        self.links = Links(self.registry, self._dial)
        self.standstills = 0
        """Times that this process stood still for so long that it gave way."""
        self._load = load
        self._users = ClusterUsers(engine, self.registry)
        self._member = member
        self._catalog = catalog
        self._frontend = frontend
        self._clients = clients
        self._types = set(member.types)  # names of the types that are or were registered, too
        self._on_change: list[OnChange] = []
        self._subscriptions: list[Subscription] = []

    @property
    def me(self) -> ServerInfo:
        """This server's own entry. Raises ConfigError before it has registered."""
        return self.registry.own

    @property
    def trouble(self) -> str:
        """Why this server can't take new players just now, for people; "" if it can."""
        if not self.engine.is_available:
            return f"the engine cannot be used: {self.engine.trouble}"
        return self.registry.trouble

    def on_change(self, call: OnChange) -> OnChange:
        """Decorator: `call(before, now)` for each server that registers, changes or leaves."""
        self._on_change.append(call)
        return call

    def servers(self, name: str) -> list[ServerInfo]:
        """The servers of a type that are up and linked just now, this one included; none is an empty list.

        name: of the type. Raises LocalError for a name that is neither configured (`Membership.types`) nor was
        registered since this server started: it is misspelt, or no such server came yet.
        """
        self._check_type(name)
        return [
            info
            for info in self.registry.servers.values()
            if info.name == name and info.state is State.UP and (info.id == self.me.id or self.links.is_open(info.id))
        ]

    def _check_type(self, name: str) -> None:
        """Raise LocalError for a type's name that is neither configured nor was registered."""
        if name not in self._types:
            known = ", ".join(sorted(self._types)) or "none"
            raise LocalError(f"no server of type {name!r} was registered so far; known types: {known}")

    # -- life --

    async def join(self, me: ServerInfo, handlers: ClusterHandlers) -> None:
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
        await tasks.gather_all(self.registry.close(), self.links.close(), self.stop_serving())

    async def stop_serving(self) -> None:
        """Answer no calls and get no events any more."""
        subscriptions, self._subscriptions = self._subscriptions, []
        if subscriptions:
            await tasks.gather_all(*(subscription.close() for subscription in subscriptions))

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

    def _changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        if now is not None:
            self._types.add(now.name)
        self.links.registry_changed(before, now)
        for call in self._on_change:
            try:
                invoke_plain(call, before, now)
            except Exception as error:
                log.error("on_change failed", function=repr(call), exc_info=error)

    # -- users and groups --

    async def find(self, uid: int, slot: int = 0) -> Place | None:
        """Find the gateway and the epoch of a user's newest login. Raises EngineUnavailable."""
        return await find_place(self.engine, uid, slot)

    async def sessions(self, uid: int) -> list[UserSession]:
        """The sessions of a user at all gateways, by gateway and slot.

        A gateway that does not answer within 2 s is taken to have the sessions that the directory says. Raises
        LocalError for a wrong uid, EngineUnavailable.
        """
        return await self._users.sessions(uid)

    async def kick(self, uid: int, slot: int | None = None, reason: str = "") -> Kicked:
        """End a user's sessions at all gateways with 4009 kicked, or only the sessions of one slot.

        With them end their tickets. Without a slot, the user's tokens end too, if the gateways' `Tokens` can do that. A
        login after this is allowed: to ban a user, refuse the token. If the engine is away, the kick is kept, and
        carried out when it is back (`Kicked.is_kept`).

        Raises LocalError for a wrong uid or slot, and if 20,000 kicks wait.
        """
        check_user(uid, slot)
        kick = self._clients().kicks.kick(uid, slot, reason)
        if kick is None:
            raise LocalError("too many kicks wait for the engine; only the sessions at this server were ended")
        is_done = await asyncio.shield(kick.tried)
        kicked = await self._users.kicked(kick) if kick.last_at else Kicked(())
        mine = [UserSession(self.me.id, each.slot, each.verified_at) for each in kick.ended]
        return Kicked((*mine, *kicked.ended), kicked.unanswered, is_kept=not is_done)

    async def count(self, group: str) -> GroupCount:
        """The number of sessions in a broadcast group at all gateways, asked within 2 s.

        In a service, `group` is a group of its type. On a gateway it is a group that its own handlers use, or
        `type/name` for one of a service. Raises LocalError for a name that is no text, empty or too long.
        """
        check_name(group)
        name = group if self.me.type == GATEWAY else f"{self.me.type}/{group}"
        return await count_members(self.engine, self.registry, name)

    # -- to other servers --

    def post(self, to: int | str, message: Any) -> None:
        """Send `message` to one server, in order. to: the server's id, or a type's name for any server of the type.

        Raises NotLinked; OutboxFull when too much waits for that server; MessageTooLarge.
        """
        link = self.links.get(to) if isinstance(to, int) else self._any(to)
        if link is None:
            raise NotLinked(f"no link to {_server(to)}")
        try:
            link.push(self._frame(message))
        except SessionClosed:
            raise NotLinked(f"the link to {_server(to)} is closed") from None

    def broadcast(self, name: str, message: Any) -> int:
        """Send `message` to every other server of a type, and return their number.

        Raises OutboxFull when too much waits for one of them; the others have the message by then. Raises LocalError
        for an unknown type, as `servers`.
        """
        self._check_type(name)
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

        Raises RequestFailed if there is no answer; its `code` says why: SERVER_LOST if no server answers such calls,
        NO_HANDLER, REFUSED, FAILED, or TIMEOUT, after `timeout` seconds. Raises EngineUnavailable; CatalogError for an
        answer that this catalog does not have, and what its codec raises.
        """
        subject = f"call.server.{to}" if isinstance(to, int) else f"call.{to}"
        try:
            answer = await self.engine.request(subject, encode(self._catalog, request), timeout)
        except NoResponder:
            whom = f"no server {to}" if isinstance(to, int) else f"no server of type {to!r}"
            raise RequestFailed(RequestCode.SERVER_LOST, reason=f"{whom} answers calls") from None
        return decode(self._catalog, answer)

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


def _server(to: int | str) -> str:
    """A server, by its id or the name of its type, in words."""
    return f"server {to}" if isinstance(to, int) else f"a server of type {to!r}"
