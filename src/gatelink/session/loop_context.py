"""The state that all sessions of one event loop share: wheel, encoders, counters, and the sessions to flush."""

import asyncio
import struct
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol

from gatelink import _native
from gatelink._native import compiled
from gatelink.config import Limits, WireOptions
from gatelink.errors import LocalError, MessageTooLarge
from gatelink.session.ciphers import Ciphers
from gatelink.session.groups import Groups
from gatelink.session.running_handlers import RunningHandlers
from gatelink.session.standstill import Standstill
from gatelink.session.timers import Wheel
from gatelink.session.user import Users
from gatelink.stats import Stats, Traffic
from gatelink.wire.base import BASE_IDS, FRAMEWORK_IDS
from gatelink.wire.body import BodyCoder
from gatelink.wire.frames import HEAD_SIZE, HEADER_SIZE, MAX_LENGTH, REQUEST, TAG_SIZE, encode_frame
from gatelink.wire.messages import Catalog, MessageType

FLUSH_AT_ONCE = 256
"""Sessions flushed in one turn of the loop: a broadcast to thousands must not delay all other work."""

LAST_WORDS = 2.0
"""Seconds that a cancelled handler may take to clean up."""

_pack_head = struct.Struct("<IH").pack


@compiled
class Encoder:
    """Makes the frames of one message type, and counts its sent messages.

    frame: the whole frame of a message; raises MessageTooLarge, and what the message's codec raises.
    """

    __slots__ = ("frame", "kind", "traffic")

    def __init__(self, kind: MessageType, coder: BodyCoder | None, traffic: Traffic, max_message: int) -> None:
        self.kind = kind
        self.traffic = traffic
        self.frame: Callable[[Any], bytes] = _frame_maker(kind, coder, max_message)


def _frame_maker(kind: MessageType, coder: BodyCoder | None, max_message: int) -> Callable[[Any], bytes]:
    id = kind.id
    encode = kind.encode
    most = max_message - HEADER_SIZE
    is_body = encode is bytes  # a raw message is its body: no need to copy it

    def frame(message: Any) -> bytes:
        body = message if is_body else encode(message)
        size = len(body) + 2
        if size > most:
            raise too_large(kind.name, size + HEADER_SIZE, max_message)
        if coder is None:
            return _pack_head(size, id) + body
        flags, body = coder.close(kind, body)
        return encode_frame(id, body, flags)

    return frame


def too_large(name: str, size: int, max_message: int) -> MessageTooLarge:
    """The error of `send`. size: bytes of the whole frame, before it is compressed."""
    return MessageTooLarge(f'{name} of {size} bytes; one message has at most {max_message} (limits.md, "One message")')


class Flushable(Protocol):
    """A session or a link: it gathers bytes during a turn of the loop, and writes them at the end of the turn."""

    def flush(self) -> None:
        """Write the gathered bytes."""


class LoopContext:
    """The state that all sessions of one event loop share. A `Server` has two: for clients and for servers.

    The sessions that `connect()` dials with the same settings share one.

    between_servers: its sessions are links, which may send the ids from 100 to 199.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        catalog: Catalog,
        limits: Limits,
        options: WireOptions | None = None,
        stats: Stats | None = None,
        between_servers: bool = False,
    ) -> None:
        self.loop = loop
        self.catalog = catalog
        self.limits = limits
        self.options = options or WireOptions()
        self.stats = stats or Stats()
        self.wheel = Wheel(loop)
        self.groups = Groups()
        self.between_servers = between_servers
        self.max_message = min(limits.max_outbox_bytes, MAX_LENGTH + HEADER_SIZE)
        """Bytes of the largest whole frame that may be sent."""
        self._reserved = BASE_IDS if between_servers else FRAMEWORK_IDS
        self.coder = BodyCoder(self.options)
        self.encoders: dict[type, Encoder] = {}
        self.tasks: set[asyncio.Task[None]] = set()  # handlers and login checks that are running
        self.is_cancelling = False  # `finish_tasks` cancels them: the server stops
        self.standstill: Standstill | None = None
        """In a member of a cluster: asked before anything is handled after a wait."""
        self.running = RunningHandlers(lambda: self.wheel, limits)
        self.users = Users(lambda: self.wheel, limits)
        self.ciphers = Ciphers(lambda: self.wheel)
        self.reactor: Any = _native.core.Reactor(loop) if _native.core is not None else None
        """The sockets that the compiled core reads; None without it."""
        self._flush_scheduled: list[Flushable] = []
        self._thread = get_ident()

    def encoder(self, cls: type) -> Encoder:
        """The encoder of a message type. Raises CatalogError if the type is not registered; as `check_sendable`."""
        found = self.encoders.get(cls)
        if found is None:
            kind = self.catalog.of_type(cls)
            self.check_sendable(kind.id)
            plain = not self.options.scramble and not self.options.compress_over
            found = Encoder(kind, None if plain else self.coder, self.stats.sent_of(kind.name), self.max_message)
            self.encoders[cls] = found
        return found

    def beat_interval(self, uid: int) -> float:
        """Seconds between the heartbeats of a user's sessions: up to a tenth less than the limit, depending on the uid.

        With one interval for all, sessions that a stall delayed together would send heartbeats together from then on.
        """
        return self.limits.heartbeat_interval * (1 - uid % 101 / 1_010)

    def check_sendable(self, id: int) -> None:
        """Raises LocalError for a message that the framework alone sends: it is not counted as others are."""
        if id in self._reserved:
            raise LocalError(
                f"message {id} ({self.name_of(id)}) is the framework's; sent by an application it would shift the "
                "counts that resume rests on. Applications have 11000 to 59999"
            )

    def check_size(self, id: int, frame: bytes) -> None:
        """Raises MessageTooLarge for a frame that was not made by an `Encoder`."""
        if len(frame) > self.max_message:
            raise too_large(self.name_of(id), len(frame), self.max_message)

    def in_form(self, frame: bytes) -> bytes:
        """The plain frame of a base message, scrambled if `options` say so: the original scrambles these, too."""
        if not self.options.scramble or self.between_servers:
            return frame
        id = int.from_bytes(frame[4:6], "little")
        flags, body = self.coder.close(self.catalog.by_id[id], frame[HEAD_SIZE:])
        return encode_frame(id, body, flags)

    def traffic_of(self, id: int) -> Traffic:
        """The counter of messages sent under a raw id."""
        return self.stats.sent_of(self.name_of(id))

    def name_of(self, id: int) -> str:
        """The name of a message id in metrics: its registered name, else `other`, so that labels are bounded."""
        kind = self.catalog.by_id.get(id)
        return kind.name if kind is not None else "other"

    def open_body(self, flags: int, body: bytes) -> bytes:
        """A received body without its flags, and without the tag of a request. Raises FrameTooLarge or BodyError."""
        if flags >= REQUEST:
            flags &= REQUEST - 1
            body = body[TAG_SIZE:]
        return self.coder.open(flags, body, self.limits.max_frame)

    def track(self, task: "asyncio.Task[None]") -> None:
        """Have `finish_tasks` wait for a task that has just begun."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def finish_tasks(self, seconds: float, last_words: float = LAST_WORDS) -> None:
        """Wait up to `seconds` for what is in `tasks`, then cancel it, and give it `last_words` seconds."""
        await asyncio.sleep(0)  # a task that has not started can't clean up
        running = self.tasks - {asyncio.current_task()}  # a handler may stop the server
        if running:
            _, late = await asyncio.wait(running, timeout=max(0.0, seconds))
            self.is_cancelling = True
            for task in late:
                task.cancel()
            if late:
                _, late = await asyncio.wait(late, timeout=last_words)
            for task in late:  # the task caught its cancellation and goes on; it can't be stopped
                self.tasks.discard(task)
                self.loop.call_exception_handler({"message": f"a task does not end: {task!r}", "task": task})

    def schedule_flush(self, session: Flushable) -> None:
        """Flush `session` in the next turn of the loop, once, together with all others that were scheduled.

        Raises LocalError in another thread than the loop's. The thread is checked once a turn, since that costs time.
        """
        if not self._flush_scheduled:
            if get_ident() != self._thread:
                raise LocalError(
                    "a session was used in another thread than its loop's; write "
                    "loop.call_soon_threadsafe(session.send, message) there"
                )
            self.loop.call_soon(self._flush_scheduled_ones)
        self._flush_scheduled.append(session)

    def schedule_flushes(self, sessions: list[Flushable]) -> None:
        """As `schedule_flush`, for several."""
        self.schedule_flush(sessions[0])
        self._flush_scheduled += sessions[1:]

    def _flush_scheduled_ones(self) -> None:
        sessions = self._flush_scheduled[:FLUSH_AT_ONCE]
        del self._flush_scheduled[:FLUSH_AT_ONCE]
        if self._flush_scheduled:
            self.loop.call_soon(self._flush_scheduled_ones)
        done = 0
        try:
            for session in sessions:
                try:
                    session.flush()
                except Exception as error:  # one failing flush must not block the other sessions
                    self.loop.call_exception_handler({"message": f"flush of {session!r} failed", "exception": error})
                done += 1
        except BaseException:  # as KeyboardInterrupt
            if left := sessions[done:]:
                self.schedule_flushes(left)
            raise
