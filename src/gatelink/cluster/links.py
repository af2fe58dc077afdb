"""The links of one server: one resumable, sealed session with every other server of the cluster that it talks to.

Gateways talk to services and to each other, services to all.

Of two servers the one with the lower id dials. A detached link attaches again by itself and loses nothing. It is closed
only when the other process counts as dead: another process registered with its id, its address refuses connections, or
its registry entry expired (not a gateway's). The next link to that server is a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec

from gatelink import tasks
from gatelink._native import compiled
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.registry import Registry, ServerInfo, State
from gatelink.config import Limits
from gatelink.errors import CloseCode, ConnectError, GatelinkError, LocalError, MessageTooLarge, SessionClosed, counted
from gatelink.logger import Logger
from gatelink.net.endpoints import Endpoint, parse_endpoint
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.control import Features, Lost
from gatelink.wire.envelope import PUSH_HEAD, Run, event, push_to_one
from gatelink.wire.frames import HEADER_SIZE, Frame

log = Logger("gatelink.links")

PROBE_SECONDS = 0.25
"""Seconds between two probes of the address behind a detached link."""

LONGEST_PAUSE = 2.0
"""Seconds between two attempts to link a server, at most."""

_TAKEN = (CloseCode.REPLACED, CloseCode.RESUME_REFUSED)
"""Codes with which a link ends when another process has taken this server's id."""

_REQUESTS = int(Features.REQUESTS)  # the `&` of a Flag takes half a microsecond

REFUSALS = 3
"""Refused probes in a row after which the other process counts as dead."""

PACK_BYTES = 65_536
"""Bytes of envelopes that `push_to` gathers before it queues them."""

GATEWAY = 1
"""The server type of gateways."""


class LinkReceiver(Protocol):
    """The receiver of the frames of one server's links: a gateway's `PlayerRouter`, or a service's `Players`."""

    def link_opened(self, link: "Link") -> None:
        """Called for a new link. Only its `Run` event has been queued."""

    def link_detached(self, link: "Link") -> None:
        """Called when a link has lost its connection. It may get another."""

    def link_attached(self, link: "Link") -> None:
        """Called when a detached link has a connection again. It goes on where it stopped."""

    def link_closed(self, link: "Link") -> None:
        """Called when a link is closed. Its unacknowledged frames are still in the outbox of `link.session`."""

    def receive_envelopes(self, link: "Link", frames: list[Frame]) -> None:
        """Called with frames that arrived together: envelopes, and messages between servers."""


@compiled
class LinkPath:
    """The path of players' messages through a link, in both directions. Its only subclass is `Link`.

    held_bytes: of the envelopes that `pack` will make of the gathered frames.
    """

    __slots__ = ("_flush_scheduled", "_largest", "_pack_bytes", "_pushes", "_receiver", "held_bytes", "session")

    def __init__(self, session: Session, receiver: LinkReceiver, largest: int, pack_bytes: int) -> None:
        """largest: bytes of a whole envelope that the other end takes. pack_bytes: the most that `push_to` gathers."""
        self.session = session
        self.held_bytes = 0
        self._receiver = receiver
        self._largest = largest
        self._pack_bytes = pack_bytes
        self._flush_scheduled = False
        self._pushes: dict[int, list[bytes]] = {}  # sid -> frames of this turn that are not queued yet

    # -- the rest of the link, where its path ends --

    def _too_large(self, size: int) -> MessageTooLarge:
        """The error for an envelope of `size` bytes."""
        raise NotImplementedError

    def _check_room(self, size: int, count: int) -> bool:
        """Whether so many more envelopes, of `size` bytes together, crowd the link. Raises OutboxFull."""
        raise NotImplementedError

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
        crowded = self._check_room(size, 1)
        self.session.send_frame(envelope)
        return crowded

    def push_to(self, sid: int, frame: bytes) -> None:
        """Queue a whole frame for the player of `sid`. A player's frames of one turn share a PushFrame if they fit.

        Envelopes that are queued later are sent later. Raises OutboxFull and MessageTooLarge, as `push` does. A closed
        link drops the frame.
        """
        frames = self._pushes.get(sid)
        size = len(frame) if frames is not None else len(frame) + PUSH_HEAD
        if self.held_bytes + size > self._pack_bytes:
            self.pack()
            frames = None
            size = len(frame) + PUSH_HEAD
            if size > self._largest:
                raise self._too_large(size)
        if frames is not None:
            frames.append(frame)
        else:
            self._check_room(self.held_bytes + size, len(self._pushes) + 1)
            if not self._flush_scheduled:
                self.session.context.schedule_flush(self)
                self._flush_scheduled = True
            self._pushes[sid] = [frame]
        self.held_bytes += size

    def pack(self) -> None:
        """Queue the frames that `push_to` gathered, in one envelope for each player."""
        if not self._pushes:
            return
        pushes, self._pushes = self._pushes, {}
        self.held_bytes = 0
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


class Link(LinkPath):
    """The session with one process of another server."""

    __slots__ = (
        "_low_bytes",
        "_low_frames",
        "_relieved",
        "undelivered",
        "before_close",
        "held",
        "info",
        "instance",
    )

    def __init__(self, info: ServerInfo, session: Session, receiver: LinkReceiver) -> None:
        largest = session.context.limits.max_frame + HEADER_SIZE  # the other end takes no more
        super().__init__(session, receiver, largest, min(PACK_BYTES, largest, session.outbox.max_bytes // 8))
        self.info = info
        self.before_close: Callable[[], None] | None = None
        """Called before this server closes the link in order; may still send."""
        self.undelivered: list[bytes] = []
        """Envelopes that were queued when `Links.drop` ended the link."""
        self.held: asyncio.Event | None = None
        """Set at a service while the gateway may have given up this link: its players' messages wait for the event."""
        self.instance = info.instance  # from its entry, until the other end sends its own
        self._low_bytes = session.outbox.max_bytes // 8  # an eighth of the room; the link is crowded above a quarter
        self._low_frames = session.outbox.max_frames // 8
        self._relieved: list[Callable[[], None]] = []

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
    def limits(self) -> Limits:
        """The limits of links (`link_limits`), which are not those of clients."""
        return self.session.context.limits

    @property
    def was_given_up(self) -> bool:
        """Whether the other end of this closed link may have gone on without this server."""
        return self.held is not None or self.session.close_code in _TAKEN

    @property
    def silent(self) -> float:
        """Seconds since the last frame from the other end."""
        session = self.session
        return session.context.wheel.clock() - session.last_heard

    @property
    def is_well(self) -> bool:
        """Whether the other end takes players, and sent a frame within half of the heartbeat timeout."""
        session = self.session
        is_open = session.state is SessionState.OPEN and self.info.state is State.UP
        return is_open and self.silent <= self.limits.heartbeat_timeout / 2

    @property
    def takes_reports(self) -> bool:
        """Whether the other end knows NewerLogin, Handled and KickUser. An older version does not."""
        extension = self.session.extension
        return extension is not None and bool(extension.features & Features.LINK_REPORTS)

    @property
    def max_envelope(self) -> int:
        """Bytes of the largest whole envelope that the other end takes."""
        return self._largest

    def forward(self, frames: list[Frame]) -> bool:
        """Pass received frames to the link's receiver, and queue what it sent (session.interfaces.Forwarder)."""
        self._receiver.receive_envelopes(self, frames)
        self.pack()
        return True

    def forward_answer(self, frame: Frame) -> None:
        """Do nothing: a link has no requests of its own, as servers ask each other with calls."""

    @property
    def speaks_requests(self) -> bool:
        """Whether the other end knows requests, and the SessionOpened that goes with them."""
        extension = self.session.extension
        return extension is not None and extension.features & _REQUESTS > 0

    def is_to(self, info: ServerInfo) -> bool:
        """Whether the other end is the process that wrote the registry entry `info`."""
        return info.instance == self.instance

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(f"{size} bytes with their envelope; a link takes {self._largest}")

    def _check_room(self, size: int, count: int) -> bool:
        """Whether `count` more envelopes, of `size` bytes together, crowd the link: over a quarter of its room is used.

        Raises OutboxFull above three quarters; the last quarter is kept for `send_event`.
        """
        outbox = self.session.outbox
        bytes = (outbox.bytes + size) * 4
        frames = (outbox.count + count) * 4
        if bytes <= outbox.max_bytes and frames <= outbox.max_frames:
            return False
        if frames > 4 and (bytes > outbox.max_bytes * 3 or frames > outbox.max_frames * 3):  # one envelope always fits
            raise OutboxFull(f"{counted(outbox.count, 'frame')}, {outbox.bytes} bytes wait for server {self.id}")
        return True

    def send_event(self, message: msgspec.Struct) -> None:
        """Queue an event, which may use all of the room. If no room is left, the link is closed."""
        self.send_whole(event(message))

    def send_whole(self, envelope: bytes) -> None:
        """As `send_event`, for a whole envelope."""
        self.pack()
        try:
            self.session.send_frame(envelope)
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
    receiver: of the frames of all links. Must be set before the server listens. on_change: called when a link opens,
    detaches, attaches or closes.
    """

    def __init__(self, registry: Registry, dial: Callable[[ServerInfo], Awaitable[Session]]) -> None:
        self.receiver: LinkReceiver
        self.on_change: Callable[[], None] = lambda: None
        self._registry = registry
        self._dial = dial
        self._links: dict[int, Link] = {}
        self._by_session: dict[Session, Link] = {}  # not in `session.data`, which belongs to the handlers
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self._probing: dict[Link, asyncio.Task[None]] = {}
        self._dead: dict[int, str] = {}  # instances whose address refused connections, by id
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

    def may_live(self, id: int) -> bool:
        """Whether a server is linked, or registered and not known to be dead."""
        info = self._registry.servers.get(id)
        return id in self._links or (info is not None and self._dead.get(id) != info.instance)

    # -- from the registry --

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Dial a new server. Close a detached link whose entry expired or now belongs to another process."""
        for id in {info.id for info in (before, now) if info is not None}:
            if now is None or self._dead.get(id) != now.instance:
                self._dead.pop(id, None)
            link = self._links.get(id)
            if link is None:
                continue
            if now is not None and link.is_to(now):
                link.info = now
            elif link.session.state is SessionState.DETACHED and (now is not None or link.type != GATEWAY):
                # A gateway without an entry may only stand still, and lose nothing if it wakes within the window.
                self._close(link, "another process has its id" if now is not None else "its entry expired")
        if now is not None:
            self._dial_if_ours(now)

    def open(self) -> None:
        """Dial the servers with higher ids; called when this server has registered."""
        for info in self._registry.servers.values():
            self._dial_if_ours(info)

    def _dial_if_ours(self, info: ServerInfo) -> None:
        me = self._registry.me
        if me is not None and info.inner and info.id > me.id and info.id not in self._dialling and not self._closing:
            self._dialling[info.id] = tasks.live(partial(self._keep_dialled, info.id), "link dialling")

    async def _keep_dialled(self, id: int) -> None:
        """Dial a server until it is linked, and again when that link is closed, as long as it is registered."""
        wait = PROBE_SECONDS
        while not self._closing and (info := self._registry.servers.get(id)) is not None:
            try:
                session = await self._dial(info)
            except ConnectError as error:
                is_long = wait == LONGEST_PAUSE  # else it has most likely just died, or starts
                say = log.info if is_long else log.debug
                say("not linked", server=id, name=info.name, error=str(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_PAUSE)
                continue
            wait = PROBE_SECONDS
            await session.wait_closed()
            await asyncio.sleep(0)  # let `_link_closed` run first
            if session.close_code in _TAKEN and not await self._is_named(session.close_code):
                break
        self._dialling.pop(id, None)

    async def _is_named(self, code: CloseCode) -> bool:
        """Whether the registry has this process under its id. If another process has it, this server stops."""
        while not self._closing:
            try:
                return await self._registry.is_current()
            except EngineUnavailable:
                if code is CloseCode.RESUME_REFUSED:
                    return True  # most likely the other end has forgotten the session
                await asyncio.sleep(LONGEST_PAUSE)
        return False

    def set_instance(self, link: Link, instance: str) -> None:
        """Store the instance that the other end sent. That process may be newer than our copy of its registry entry."""
        link.instance = instance
        info = self._registry.servers.get(link.id)
        if info is not None and link.is_to(info):
            link.info = info

    # -- from the links' sessions (session.interfaces.Dispatcher) --

    def opened(self, session: Session) -> None:
        """Make the link of a new session."""
        info = self._registry.servers.get(session.uid)
        if self._closing:
            session.close(CloseCode.GOING_AWAY, "this server stops")
            return
        if info is None:  # its entry expired while it was verified
            session.close(CloseCode.VERIFY_FAILED, "not registered")
            return
        link = Link(info, session, self.receiver)
        session.forwarder = link
        self._by_session[session] = link
        self._links[link.id] = link
        log.debug("linked", server=link.id, name=info.name)
        link.send_event(Run(self._registry.own.instance))
        self.receiver.link_opened(link)
        self.on_change()

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        """Pass received frames to the link's receiver."""
        standstill = session.context.standstill
        if standstill is not None and standstill.check() and session.close_code is not None:
            return  # the other end has gone on without this process
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
            self.receiver.link_detached(link)
            self.on_change()

    def resumed(self, session: Session) -> None:
        """Stop the probes of a link that is attached again, and tell its receiver."""
        link = self._by_session.get(session)
        if link is not None:
            self._end_probe(link)
            self.receiver.link_attached(link)
            log.info("link attached", server=link.id, name=link.info.name)
            self.on_change()

    def renewed(self, session: Session) -> None:
        """Never called: servers show no tokens."""

    def lost(self, session: Session, lost: Lost) -> None:
        """Never called: losses between servers are counted for their players."""

    def expiring(self, session: Session) -> None:
        """Never called: a link's login does not expire."""

    def closed(self, session: Session, handle_rest: bool) -> None:
        """Remove a closed link in the next turn of the loop, as its receiver may be using it now."""
        session.context.loop.call_soon(self._link_closed, session)

    def _link_closed(self, session: Session) -> None:
        link = self._by_session.pop(session, None)
        if link is not None:
            session.forwarder = None
            self._end_probe(link)
            if self._links.get(link.id) is link:
                del self._links[link.id]
            code = session.close_code.label if session.close_code is not None else ""
            frames = sum(1 for _ in session.outbox.frames())  # those not acknowledged, and those not sent
            (log.info if frames else log.debug)(
                "link closed",
                server=link.id,
                name=link.info.name,
                code=code,
                reason=session.close_reason,
                frames=frames,
            )
            self.receiver.link_closed(link)
            link.relieve()
            self.on_change()
        session.last_handler.ended()

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
                self._dead[link.id] = link.instance
                self._close(link, "its address refuses connections")
                return
            await asyncio.sleep(PROBE_SECONDS)

    def give_up(self, link: Link, why: str) -> None:
        """Close a detached link, even if the other process may live."""
        if link.session.state is SessionState.DETACHED:
            self._close(link, why)

    def _close(self, link: Link, why: str) -> None:
        link.session.close(CloseCode.GOING_AWAY, why)

    def _end_probe(self, link: Link) -> None:
        probe = self._probing.pop(link, None)
        if probe is not None and probe is not asyncio.current_task():
            probe.cancel()

    def before_close(self) -> None:
        """Call `Link.before_close` of each link."""
        for link in self:
            if link.before_close is not None:
                link.before_close()

    def excuse_silence(self) -> None:
        """Count the silence of all links from now on: this process stood still, and read nothing."""
        for link in self:
            link.session.last_heard = link.session.context.wheel.read_clock()

    def drop(self, reason: str) -> None:
        """End every link at once. Queued envelopes are not sent, and frames that still arrive are not handled."""
        for link in self:
            session = link.session
            link.undelivered = session.outbox.drain()
            session.context.stats.dropped += len(link.undelivered)
            if session.extension is not None:
                session.extension.disown()
            session.close(CloseCode.NORMAL, reason)

    def give_way(self) -> None:
        """Stop dialling and accepting links, and close every link after delivering its queue."""
        self._closing = True
        for task in (*self._dialling.values(), *self._probing.values()):
            task.cancel()
        self.before_close()
        for link in self:
            link.session.close(CloseCode.NORMAL, "this server stops")

    async def close(self) -> None:
        """As `give_way`; wait for the end of the links. If cancelled, abort them."""
        self.give_way()
        try:
            await tasks.cancel_and_wait(*self._dialling.values(), *self._probing.values())
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
