"""The links of one server: one resumable, sealed session with every other server that it must talk to.

Of two servers the one with the lower id dials. A detached link attaches again by itself and loses nothing. It is closed
only when the other process counts as dead: another process registered with its id, its address refuses connections, or
its registry entry expired. The next link to that server is a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec

from gatelink import tasks
from gatelink.cluster.registry import Registry, ServerInfo
from gatelink.errors import CloseCode, ConnectError, GatelinkError, LocalError, MessageTooLarge, SessionClosed
from gatelink.logger import Logger
from gatelink.net.endpoints import Endpoint, parse_endpoint
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.envelope import PUSH_HEAD, Run, event, push_to_one
from gatelink.wire.frames import HEADER_SIZE, Frame

log = Logger("gatelink.links")

PROBE_SECONDS = 0.25
"""Seconds between two probes of the address behind a detached link."""

REFUSALS = 3
"""Refused probes in a row after which the other process counts as dead."""

PACK_BYTES = 65_536
"""Bytes of envelopes that `push_to` gathers before it queues them."""

GATEWAY = 1
"""The server type of gateways. Two gateways have no link."""


class LinkUser(Protocol):
    """The user of one server's links: a gateway's `PlayerRouter`, or a service's `Players`."""

    def link_opened(self, link: "Link") -> None:
        """Called for a new link. Only its `Run` event has been queued."""

    def link_attached(self, link: "Link") -> None:
        """Called when a detached link has a connection again. It goes on where it stopped."""

    def link_closed(self, link: "Link") -> None:
        """Called when a link is closed. Its unacknowledged frames are still in the outbox of `link.session`."""

    def envelopes(self, link: "Link", frames: list[Frame]) -> None:
        """Called with frames that arrived together: envelopes, and messages between servers."""


class Link:
    """The session with one process of another server."""

    __slots__ = (
        "_largest",
        "_low_bytes",
        "_low_frames",
        "_flush_scheduled",
        "_pack_bytes",
        "_pushed_bytes",
        "_pushes",
        "_relieved",
        "_user",
        "info",
        "instance",
        "session",
    )

    def __init__(self, info: ServerInfo, session: Session, user: LinkUser) -> None:
        self.info = info
        self._user = user
        self.instance = info.instance  # from its entry, until the other end sends its own
        self.session = session
        self._largest = session.context.limits.max_frame + HEADER_SIZE  # the other end takes no more
        self._low_bytes = session.outbox.max_bytes // 8  # an eighth of the room; the link is crowded above a quarter
        self._low_frames = session.outbox.max_frames // 8
        self._relieved: list[Callable[[], None]] = []
        self._flush_scheduled = False
        self._pushes: dict[int, list[bytes]] = {}  # sid -> frames of this turn that are not queued yet
        self._pushed_bytes = 0  # bytes of the envelopes that `pack` will make of `_pushes`
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
        """Hand received frames to the user of the link (session.interfaces.Forwarder)."""
        self._user.envelopes(self, frames)
        return True

    def is_to(self, info: ServerInfo) -> bool:
        """Whether the other end is the process that wrote the registry entry `info`."""
        return info.instance == self.instance

    def push(self, envelope: bytes) -> bool:
        """Queue a whole envelope. Returns True if more than a quarter of the outbox is used: the caller should pause.

        `when_relieved` tells the caller when to go on. Raises OutboxFull if more than three quarters would be used;
        MessageTooLarge; SessionClosed if the link is closed, maybe before `link_closed` is called.
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
        """Queue a whole frame for the player of `sid`. A player's frames of one turn share a PushFrame if they fit.

        Whatever is queued later is sent later. Raises OutboxFull and MessageTooLarge, as `push` does. A closed link
        drops the frame.
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
        """Queue the frames that `push_to` gathered, in one envelope for each player."""
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
        """Write what is queued; called at the end of a turn (session.loop_context.Flushable)."""
        self._flush_scheduled = False
        self.pack()
        self.session.flush()

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(f"{size} bytes with their envelope; a link takes {self._largest}")

    def _check_room(self, size: int) -> bool:
        """Whether the link is crowded with another envelope of `size` bytes: above a quarter of its room.

        Raises OutboxFull above three quarters; the last quarter is kept for `send_event`.
        """
        outbox = self.session.outbox
        bytes = (outbox.bytes + self._pushed_bytes + size) * 4
        frames = (outbox.count + len(self._pushes) + 1) * 4
        if bytes <= outbox.max_bytes and frames <= outbox.max_frames:
            return False
        if frames > 4 and (bytes > outbox.max_bytes * 3 or frames > outbox.max_frames * 3):  # one envelope always fits
            raise OutboxFull(f"{outbox.count} frames, {outbox.bytes} bytes wait for server {self.id}")
        return True

    def send_event(self, message: msgspec.Struct) -> None:
        """Queue an event, which may use all of the room. If there is none left, the link is closed."""
        self.pack()
        try:
            self.session.send_frame(event(message))
        except SessionClosed:
            pass

    async def drain(self) -> None:
        """Wait until everything queued is handed to the socket, or the link is closed."""
        self.pack()
        try:
            await self.session.drain()
        except SessionClosed:
            pass

    def when_relieved(self, call: Callable[[], None]) -> None:
        """Call `call` once, when at most an eighth of the room is used or the link is closed.

        It does not wait until the link is empty, as a busy link hardly ever is.
        """
        self._relieved.append(call)
        self.session.on_written = self._written

    def _written(self) -> None:
        outbox = self.session.outbox
        if outbox.bytes <= self._low_bytes and outbox.count <= self._low_frames:
            self.session.on_written = None
            self.session.context.loop.call_soon(self.relieve)  # not now: the session is in the middle of a write

    def relieve(self) -> None:
        """Run the callbacks of `when_relieved`."""
        calls, self._relieved = self._relieved, []
        for call in calls:
            call()


class Links:
    """All links of one server, and the dispatcher of their sessions.

    dial: opens the session with a server of a higher id. Raises ConnectError.
    user: the user of the links. Must be set before the server listens.
    """

    def __init__(self, registry: Registry, dial: Callable[[ServerInfo], Awaitable[Session]]) -> None:
        self.user: LinkUser
        self._registry = registry
        self._dial = dial
        self._links: dict[int, Link] = {}
        self._by_session: dict[Session, Link] = {}  # not in `session.data`, which belongs to the handlers
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self._probing: dict[Link, asyncio.Task[None]] = {}
        self._closing = False

    # -- links --

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, id: int) -> Link | None:
        """The link to a server, if there is one. It may be detached."""
        return self._links.get(id)

    def is_open(self, id: int) -> bool:
        """Whether there is a link to a server, and it is not detached."""
        link = self._links.get(id)
        return link is not None and link.session.state is SessionState.OPEN

    def of_type(self, type: int) -> list[Link]:
        """The links to the servers of a type, ordered by id."""
        return sorted((link for link in self._links.values() if link.type == type), key=lambda link: link.id)

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Dial a new server. Close a detached link whose entry expired or now belongs to another process."""
        for id in {info.id for info in (before, now) if info is not None}:
            link = self._links.get(id)
            if link is None:
                continue
            if now is not None and link.is_to(now):
                link.info = now
            elif link.session.state is SessionState.DETACHED:
                self._close(link, "another process has its id" if now is not None else "its entry expired")
        if now is not None:
            self._dial_if_ours(now)

    def open(self) -> None:
        """Dial the servers with higher ids; called when this server has registered."""
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
        """Dial a server until it is linked, and again when that link is closed, as long as it is registered."""
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
            await asyncio.sleep(0)  # let `_link_closed` run first
        self._dialling.pop(id, None)

    def set_instance(self, link: Link, instance: str) -> None:
        """Store the instance that the other end sent. That process may be newer than the entry that we have."""
        link.instance = instance
        info = self._registry.servers.get(link.id)
        if info is not None and link.is_to(info):
            link.info = info

    # -- from the links' sessions (session.interfaces.Dispatcher) --

    def opened(self, session: Session) -> None:
        """Make the link of a new session."""
        info = self._registry.servers.get(session.uid)
        if info is None:  # its entry expired while it was verified
            session.close(CloseCode.VERIFY_FAILED, "not registered")
            return
        link = Link(info, session, self.user)
        session.forwarder = link
        self._by_session[session] = link
        self._links[link.id] = link
        log.info("linked", server=link.id, name=info.name)
        link.send_event(Run(self._registry.own.instance))
        self.user.link_opened(link)

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        """Hand received frames to the user of the link."""
        if session.forwarder is not None:
            session.forwarder.forward(frames)

    def inject(self, session: Session, message: Any) -> None:
        """Raises LocalError: a link has no handlers of its own."""
        raise LocalError("a link takes no injected messages; `cluster.post` sends one to the other server")

    def suspended(self, session: Session) -> None:
        """Start to probe the server of a detached link."""
        link = self._by_session.get(session)
        if link is not None and not self._closing:
            self._probing[link] = tasks.keep(self._probe(link), "link probe")
            log.info("link detached", server=link.id, name=link.info.name)

    def resumed(self, session: Session) -> None:
        """Stop the probes of a link that is attached again, and tell its user."""
        link = self._by_session.get(session)
        if link is not None:
            self._end_probe(link)
            self.user.link_attached(link)
            log.info("link attached", server=link.id, name=link.info.name)

    def closed(self, session: Session, handle_rest: bool) -> None:
        """Remove a closed link in the next turn of the loop, as its user may be using it now."""
        session.context.loop.call_soon(self._link_closed, session)

    def _link_closed(self, session: Session) -> None:
        link = self._by_session.pop(session, None)
        if link is not None:
            session.forwarder = None
            self._end_probe(link)
            if self._links.get(link.id) is link:
                del self._links[link.id]
            code = session.close_code.label if session.close_code is not None else ""
            log.info(
                "link closed",
                server=link.id,
                name=link.info.name,
                code=code,
                reason=session.close_reason,
                frames=sum(1 for _ in session.outbox.frames()),  # those not acknowledged, and those not sent
            )
            self.user.link_closed(link)
            link.relieve()
        session.handlers_done()

    # -- probes of detached links --

    async def _probe(self, link: Link) -> None:
        try:
            endpoint = parse_endpoint(link.info.inner)
        except GatelinkError:
            return  # its entry has no address; the link is closed when the entry expires
        refused = 0
        while link.session.state is SessionState.DETACHED:
            now = self._registry.servers.get(link.id)
            if now is not None and not link.is_to(now):
                self._close(link, "another process has its id")
                return
            refused = refused + 1 if await _is_refused(endpoint) else 0
            if refused >= REFUSALS:
                self._close(link, "its address refuses connections")
                return
            await asyncio.sleep(PROBE_SECONDS)

    def _close(self, link: Link, why: str) -> None:
        link.session.close(CloseCode.GOING_AWAY, why)

    def _end_probe(self, link: Link) -> None:
        probe = self._probing.pop(link, None)
        if probe is not None and probe is not asyncio.current_task():
            probe.cancel()

    async def close(self) -> None:
        """Close every link after delivering its queue. If cancelled, abort the links."""
        self._closing = True
        try:
            await tasks.cancel_and_wait(*self._dialling.values(), *self._probing.values())
            for link in self:
                link.session.close(CloseCode.NORMAL, "this server stops")
            for link in self:
                await link.session.wait_closed()
        finally:
            for link in self:
                link.session.abort()


async def _is_refused(endpoint: Endpoint) -> bool:
    """Whether `endpoint` refuses a connection. A timeout is no refusal: the network may be at fault."""
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
