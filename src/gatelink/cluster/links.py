"""The links of one server: one resumable, sealed session with every other server that it must talk to.

Of two servers the one with the lower id dials. A link that broke comes back by itself, with all that was sent; it is
*lost* only when the other process is known to be gone: it registered anew, nobody listens at its address any more, or
its entry expired. Whoever stands on the links (`Role`) is told once, and the next link to that server is a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from gatelink import tasks
from gatelink.cluster.registry import Registry, ServerInfo
from gatelink.errors import CloseCode, ConnectError, GatelinkError, LocalError, MessageTooLarge, SessionClosed
from gatelink.net.endpoints import Endpoint, parse_endpoint
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.envelope import PUSH_HEAD, Run, event, push_to_one
from gatelink.wire.frames import HEADER_SIZE, Frame

log = structlog.get_logger("gatelink.links")

PROBE_SECONDS = 0.25
"""How often the address of a server whose link broke is tried."""

REFUSALS = 3
"""After so many probes in a row that found nobody listening, the process is gone."""

PACK_BYTES = 65_536
"""Bytes of envelopes that gather in a turn, at the most, before they are queued."""

GATEWAY = 1
"""The server type of gateways, which need no links among themselves."""


class Role(Protocol):
    """What stands on the links: a gateway or a service."""

    def link_up(self, link: "Link") -> None:
        """A new link; nothing has been sent on it."""

    def link_resumed(self, link: "Link") -> None:
        """A link that was broken carries again, from where it was."""

    def link_lost(self, link: "Link") -> None:
        """The other process is gone. What it had not acknowledged is still in the outbox of `link.session`."""

    def envelopes(self, link: "Link", frames: list[Frame]) -> None:
        """Frames that arrived together: envelopes, and messages between servers."""


class Link:
    """The way to one run of another server."""

    __slots__ = (
        "_largest",
        "_low_bytes",
        "_low_frames",
        "_flush_scheduled",
        "_pack_bytes",
        "_pushed_bytes",
        "_pushes",
        "_relieved",
        "_role",
        "info",
        "instance",
        "session",
    )

    def __init__(self, info: ServerInfo, session: Session, role: Role) -> None:
        self.info = info
        self._role = role
        self.instance = info.instance  # of the process at the other end; its entry at that moment, until it has said so
        self.session = session
        self._largest = session.context.limits.max_frame + HEADER_SIZE  # for a larger one the other end would close it
        self._low_bytes = session.outbox.max_bytes // 8  # half of what crowds it
        self._low_frames = session.outbox.max_frames // 8
        self._relieved: list[Callable[[], None]] = []
        self._flush_scheduled = False  # its flush is due
        self._pushes: dict[int, list[bytes]] = {}  # by sid: what players were sent in this turn, and is not queued yet
        self._pushed_bytes = 0  # of the envelopes that these will be
        self._pack_bytes = min(PACK_BYTES, self._largest, session.outbox.max_bytes // 8)

    def __repr__(self) -> str:
        return f"<Link to {self.info.name} {self.id} {self.session.state.name}>"

    @property
    def id(self) -> int:
        """The other server's id."""
        return self.info.id

    @property
    def type(self) -> int:
        """The other server's type."""
        return self.info.type

    @property
    def max_envelope(self) -> int:
        """Bytes of the largest whole envelope that the other end takes."""
        return self._largest

    def forward(self, frames: list[Frame]) -> bool:
        """Hands what arrived to what stands on the link (session.interfaces.Forwarder)."""
        self._role.envelopes(self, frames)
        return True

    def is_to(self, info: ServerInfo) -> bool:
        """Whether the other end is the process of this entry."""
        return info.instance == self.instance

    def push(self, envelope: bytes) -> bool:
        """Queues a whole envelope; True when more than a quarter of the room is taken: the caller should stop.

        `when_relieved` tells when to go on, which is at half of that. Raises OutboxFull when the envelope does not fit
        in three quarters of the room; MessageTooLarge; SessionClosed when the link is lost, of which its role is about
        to hear.
        """
        size = len(envelope)
        if size > self._largest:
            raise self._too_large(size)
        if self._pushes:
            self.pack()
        crowded = self._check_room(size)
        self.session.send_frame(envelope)
        return crowded

    def push_to(self, sid: int, frame: bytes) -> None:
        """Queues a whole frame for a player of the gateway: all of one player's in this turn leave in one PushFrame.

        Whatever else is queued meanwhile comes behind it. Raises OutboxFull and MessageTooLarge as `push`; on a link
        that is lost the frame is dropped.
        """
        frames = self._pushes.get(sid)
        size = len(frame) if frames is not None else len(frame) + PUSH_HEAD
        if self._pushed_bytes + size > self._pack_bytes:
            self.pack()
            frames = None
            size = len(frame) + PUSH_HEAD
            if size > self._largest:
                raise self._too_large(size)
        if frames is not None:
            frames.append(frame)
        else:
            self._check_room(size)
            self._pushes[sid] = [frame]
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self.session.context.schedule_flush(self)
        self._pushed_bytes += size

    def pack(self) -> None:
        """Queues what `push_to` gathered, an envelope for each player."""
        if not self._pushes:
            return
        pushes, self._pushes = self._pushes, {}
        self._pushed_bytes = 0
        session = self.session
        try:
            session.send_frames([push_to_one(sid, frames) for sid, frames in pushes.items()])
        except SessionClosed:
            session.context.stats.dropped += sum(map(len, pushes.values()))

    def flush(self) -> None:
        """For the hub, at the end of a turn."""
        self._flush_scheduled = False
        self.pack()
        self.session.flush()

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(f"{size} bytes with their envelope; a link takes {self._largest}")

    def _check_room(self, size: int) -> bool:
        """Whether an envelope of `size` bytes crowds the link. Raises OutboxFull: the last quarter is for `tell`."""
        outbox = self.session.outbox
        bytes = (outbox.bytes + self._pushed_bytes + size) * 4
        frames = (outbox.count + len(self._pushes) + 1) * 4
        if bytes <= outbox.max_bytes and frames <= outbox.max_frames:
            return False
        if frames > 4 and (bytes > outbox.max_bytes * 3 or frames > outbox.max_frames * 3):  # one alone always fits
            raise OutboxFull(f"{outbox.count} frames, {outbox.bytes} bytes wait for server {self.id}")
        return True

    def send_event(self, message: msgspec.Struct) -> None:
        """Queues a rare envelope; there is always room for it, or the link ends."""
        self.pack()
        try:
            self.session.send_frame(event(message))
        except SessionClosed:
            pass

    async def drain(self) -> None:
        """Waits until all that is queued has been handed to the socket; returns also when the link is lost."""
        self.pack()
        try:
            await self.session.drain()
        except SessionClosed:
            pass

    def when_relieved(self, call: Callable[[], None]) -> None:
        """Calls `call` once no more than an eighth of the room is taken, or the link is lost.

        A link that is always in use is hardly ever empty, so players would wait for that without end.
        """
        self._relieved.append(call)
        self.session.on_written = self._written

    def _written(self) -> None:
        outbox = self.session.outbox
        if outbox.bytes <= self._low_bytes and outbox.count <= self._low_frames:
            self.session.on_written = None
            self.session.context.loop.call_soon(self.relieve)  # later: this is within a write of the session's

    def relieve(self) -> None:
        """Tells those who wait for room that there is some, or that the link is lost."""
        calls, self._relieved = self._relieved, []
        for call in calls:
            call()


class Links:
    """All links of one server, and the dispatcher of their sessions.

    dial: makes the session with a server whose id is above ours; raises ConnectError.
    """

    def __init__(self, registry: Registry, role: Role, dial: Callable[[ServerInfo], Awaitable[Session]]) -> None:
        self._registry = registry
        self._role = role
        self._dial = dial
        self._links: dict[int, Link] = {}
        self._by_session: dict[Session, Link] = {}  # not in `session.data`, which is the handlers'
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self._probing: dict[Link, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._closing = False

    # -- who is reached --

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, id: int) -> Link | None:
        """The link to a server; it may be broken just now and come back."""
        return self._links.get(id)

    def is_open(self, id: int) -> bool:
        """Whether there is a link to a server, and it is not broken."""
        link = self._links.get(id)
        return link is not None and link.session.state is SessionState.OPEN

    def of_type(self, type: int) -> list[Link]:
        """The links to the servers of a type, in order of their ids."""
        return sorted((link for link in self._links.values() if link.type == type), key=lambda link: link.id)

    async def settled(self, seconds: float) -> bool:
        """Waits up to `seconds` until every server of the registry that we need is linked; whether it is so."""
        try:
            async with asyncio.timeout(seconds):
                while any(self._needs(info) and info.id not in self._links for info in self._registry.servers.values()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Dials who is new. An entry that is gone ends a link that is broken, and lets one that works alone."""
        info = now or before
        assert info is not None
        link = self._links.get(info.id)
        if link is not None:
            if now is not None and link.is_to(now):
                link.info = now
            elif link.session.state is SessionState.DETACHED:
                self._give_up(link, "its process is another now" if now is not None else "its entry is gone")
        if now is not None:
            self._dial_if_ours(now)
        self._changed.set()

    def open(self) -> None:
        """This server has registered: dials those that it must."""
        for info in self._registry.servers.values():
            self._dial_if_ours(info)

    def _dial_if_ours(self, info: ServerInfo) -> None:
        me = self._registry.me
        if me is not None and self._needs(info) and info.id > me.id and info.id not in self._dialling:
            self._dialling[info.id] = tasks.live(partial(self._keep_dialled, info.id), "link dialling")

    def _needs(self, info: ServerInfo) -> bool:
        me = self._registry.me
        return me is not None and info.id != me.id and bool(info.inner) and not info.type == me.type == GATEWAY

    async def _keep_dialled(self, id: int) -> None:
        """Dials a server until it is linked, and again when that link is lost, as long as it is registered."""
        wait = PROBE_SECONDS
        while not self._closing and (info := self._registry.servers.get(id)) is not None:
            try:
                session = await self._dial(info)
            except ConnectError as error:
                log.info("not linked", server=id, name=info.name, error=str(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, 2.0)
                continue
            wait = PROBE_SECONDS
            await session.wait_closed()
            await asyncio.sleep(0)  # `closed` is told first
        self._dialling.pop(id, None)

    def is_run(self, link: Link, instance: str) -> None:
        """The other end says which process it is. It may be a newer one than its entry was of, when it was linked."""
        link.instance = instance
        info = self._registry.servers.get(link.id)
        if info is not None and link.is_to(info):
            link.info = info

    # -- from the links' sessions (session.interfaces.Dispatcher) --

    def opened(self, session: Session) -> None:
        """A server is linked."""
        info = self._registry.servers.get(session.uid)
        if info is None:  # its entry went while it was verified
            session.close(CloseCode.VERIFY_FAILED, "not registered")
            return
        link = Link(info, session, self._role)
        session.forwarder = link
        self._by_session[session] = link
        self._links[link.id] = link
        log.info("linked", server=link.id, name=info.name)
        link.send_event(Run(self._registry.own.instance))
        self._role.link_up(link)
        self._changed.set()

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        """Hands what arrived to the role."""
        if session.forwarder is not None:
            session.forwarder.forward(frames)

    def inject(self, session: Session, message: Any) -> None:
        """Raises LocalError: a link has no handlers of its own."""
        raise LocalError("a link takes no injected messages; `cluster.post` sends one to the other server")

    def suspended(self, session: Session) -> None:
        """A link is broken, and may come back."""
        link = self._by_session.get(session)
        if link is not None and not self._closing:
            log.info("link broken", server=link.id, name=link.info.name)
            self._probing[link] = tasks.keep(self._probe(link), "link probe")

    def resumed(self, session: Session) -> None:
        """A link carries again, from where it was."""
        link = self._by_session.get(session)
        if link is not None:
            log.info("link resumed", server=link.id, name=link.info.name)
            self._end_probe(link)
            self._role.link_resumed(link)

    def closed(self, session: Session, handle_rest: bool) -> None:
        """A link is lost. Not at once: its role may be in the middle of something."""
        session.context.loop.call_soon(self._lost, session)

    def _lost(self, session: Session) -> None:
        link = self._by_session.pop(session, None)
        if link is not None:
            session.forwarder = None
            self._end_probe(link)
            if self._links.get(link.id) is link:
                del self._links[link.id]
            code = session.close_code.label if session.close_code is not None else ""
            log.info(
                "link lost",
                server=link.id,
                name=link.info.name,
                code=code,
                reason=session.close_reason,
                frames=sum(1 for _ in session.outbox.frames()),  # not acknowledged, or not even sent
            )
            self._role.link_lost(link)
            link.relieve()
            self._changed.set()
        session.handlers_done()

    # -- whether a server whose link broke is still there --

    async def _probe(self, link: Link) -> None:
        try:
            endpoint = parse_endpoint(link.info.inner)
        except GatelinkError:
            return  # it told no address; the registry has the last word
        refused = 0
        while link.session.state is SessionState.DETACHED:
            now = self._registry.servers.get(link.id)
            if now is not None and not link.is_to(now):
                self._give_up(link, "its process is another now")
                return
            refused = refused + 1 if await _is_refused(endpoint) else 0
            if refused >= REFUSALS:
                self._give_up(link, "nobody listens at its address")
                return
            await asyncio.sleep(PROBE_SECONDS)

    def _give_up(self, link: Link, why: str) -> None:
        link.session.close(CloseCode.GOING_AWAY, why)

    def _end_probe(self, link: Link) -> None:
        probe = self._probing.pop(link, None)
        if probe is not None and probe is not asyncio.current_task():
            probe.cancel()

    async def close(self) -> None:
        """Ends the dialling and every link, after what is queued; at once if it is cancelled."""
        self._closing = True
        tasks = [*self._dialling.values(), *self._probing.values()]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            for link in self:
                link.session.close(CloseCode.NORMAL, "this server stops")
            for link in self:
                await link.session.wait_closed()
        finally:
            for link in self:
                link.session.abort()


async def _is_refused(endpoint: Endpoint) -> bool:
    """Whether the address answers that nobody listens there; a path that is silent tells nothing."""
    try:
        async with asyncio.timeout(2 * PROBE_SECONDS):
            if endpoint.scheme == "unix":
                _, writer = await asyncio.open_unix_connection(endpoint.path)
            else:
                _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
