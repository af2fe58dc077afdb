"""How code is called for what a session receives: in order, one at a time, in one task per burst at the most.

Per session, messages and events are handled in the order they came, one at a time; sessions do not wait for each
other. A plain function is called where the frames were read. From the first `async def` handler on, what a session
receives goes through its inbox, which one task drains in order and then ends. In tick mode everything goes through
the inboxes, and `tick` drains them.
"""

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from time import perf_counter
from typing import Any, NamedTuple, cast

import structlog

from gatelink.calls import contain, invoke_plain, is_async, refuse_unrun
from gatelink.errors import BodyError, LocalError, PeerError, SessionClosed
from gatelink.session.rates import TokenBucket
from gatelink.session.running import Running
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.codecs import what_is_wrong
from gatelink.wire.frames import Frame, encode_frame
from gatelink.wire.messages import Catalog

log = structlog.get_logger("gatelink.handlers")

TIME_BUCKETS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds, in seconds, of the handler time histogram; most calls end in the first, and cost one comparison."""

TURN_SECONDS = 0.005
"""How long one session's handlers may hold the loop before the others have their turn; one call may take longer."""

_OPEN = SessionState.OPEN
_FIRST_BUCKET = TIME_BUCKETS[0]
VERIFIED, CLOSED, SUSPENDED, RESUMED = -1, -2, -3, -4  # events stand in an inbox like messages, below every id


class RawFrame(NamedTuple):
    """A message as it came: still compressed or scrambled if its flags say so."""

    id: int
    flags: int
    body: bytes

    def encode(self) -> bytes:
        """The whole frame again, byte for byte."""
        return encode_frame(self.id, self.body, self.flags)


class Route:
    """One message type's handler, and what it has cost."""

    __slots__ = ("buckets", "bytes", "call", "count", "decode", "is_async", "logged", "name", "seconds")

    def __init__(self, name: str, call: Callable[..., Any], decode: Callable[[bytes], Any]) -> None:
        self.name = name
        self.call = call
        self.decode = decode
        self.is_async = is_async(call)
        self.count = 0  # messages handled
        self.bytes = 0  # of their frames
        self.logged = -inf  # when, by the hub's clock, the last failure that was logged; at most one a second is
        self.seconds = 0.0  # in decoding and handling
        self.buckets = [0] * (len(TIME_BUCKETS) + 1)  # calls by time; the first is not counted: it is the rest

    def handled(self, size: int, seconds: float) -> None:
        """Counts one call; `dispatch` does the same in line."""
        self.count += 1
        self.bytes += size + 6
        self.seconds += seconds
        if seconds > _FIRST_BUCKET:
            self.observe(seconds)

    def observe(self, seconds: float) -> None:
        """Counts a call that was not fast."""
        at = 1
        while at < len(TIME_BUCKETS) and seconds > TIME_BUCKETS[at]:
            at += 1
        self.buckets[at] += 1


class Inbox(Running):
    """What a session received and nobody has handled yet; and the task that handles it, once there is one."""

    __slots__ = ("bytes", "is_last", "items", "paused", "share")

    def __init__(self, uid: int) -> None:
        super().__init__(uid)
        self.items: deque[Frame] = deque()
        self.bytes = 0
        self.is_last = False  # the session has ended: nothing more comes in
        self.paused = False
        self.share = 0  # items that may be handled before the next tick


class Dispatch:
    """The way from frames to handlers. `Handlers` fills its `routes`; a session calls the rest (session.Dispatcher)."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.routes: dict[int, Route] = {}  # by message id; events have ids below 0
        self.rates: dict[int, float] = {}  # messages a second of one session, by the ids of those that have a rate
        self.ticking = False  # what arrives waits for `tick`
        self._default: Callable[..., Any] | None = None
        self._defaults: dict[int, Route] = {}  # the default handler, once for each message that came to it
        self._forward: Callable[[Session, RawFrame], None] | None = None
        self._injected: dict[Session, list[Frame]] = {}  # what `inject` was given in this turn of the loop
        self._waiting: dict[Session, None] = {}  # sessions with something for the next tick, in order of arrival

    def dispatch(self, session: Session, frames: list[Frame]) -> None:
        """Handles what one read brought. Never raises what a handler or a peer did wrong."""
        if self.rates:
            frames = self._within_rates(session, frames)
        if session.inbox is not None or self.ticking:
            self._queue(session, frames)
            return
        routes = self.routes
        start = perf_counter()
        until = start + TURN_SECONDS
        for index, (id, flags, body) in enumerate(frames):
            route = routes.get(id) or self._fallback(id)
            if route is None:
                self._unrouted(session, id, flags, body)
            elif route.is_async:
                self._queue(session, frames[index:])
                return
            else:
                try:
                    message = route.decode(session.hub.open_body(flags, body) if flags else body)
                except BaseException as error:
                    self._reject(session, route, contain(error))
                    return
                try:
                    result = route.call(session, message)
                except BaseException as error:
                    self._failed(session, route, contain(error))
                    result = None
                if result is not None and (rest := self._rest(session, route, result, len(body), start)) is not None:
                    self._queue(session, frames[index + 1 :], rest)
                    return
                now = perf_counter()
                elapsed = now - start
                start = now
                route.count += 1
                route.bytes += len(body) + 6
                route.seconds += elapsed
                if elapsed > _FIRST_BUCKET:
                    route.observe(elapsed)
                if now > until and index + 1 < len(frames) and session.state is _OPEN:
                    self._queue(session, frames[index + 1 :], asyncio.sleep(0))
                    return
            if session.handlers is not self and index + 1 < len(frames):  # it was given a table of its own
                session.handlers.dispatch(session, frames[index + 1 :])
                return
            if session.state is not _OPEN:
                return

    def inject(self, session: Session, message: Any) -> None:
        """Handles `message` as if the session's peer had sent it, after what has been received.

        It is not handled before this returns, and no rate holds for it. It is dropped if the session ends first. Raises
        SessionClosed for one that has ended; LocalError if twice limits.max_inbox messages wait for the handlers; what
        encoding raises.
        """
        if session.close_code is not None:
            raise SessionClosed(session.close_code, session.close_reason)
        kind, body = self.catalog.encode(message)
        inbox: Inbox | None = session.inbox
        injected = self._injected.get(session)
        most = 2 * session.hub.limits.max_inbox
        if len(injected or ()) + (len(inbox.items) if inbox is not None else 0) >= most:
            raise LocalError(f"{most} messages wait for the handlers of uid {session.uid}; inject fewer at a time")
        if injected is None:
            injected = self._injected[session] = []
            session.hub.loop.call_soon(self._take_injected, session)  # not at once: a handler may be running
        injected.append((kind.id, 0, body))

    def _take_injected(self, session: Session) -> None:
        frames = self._injected.pop(session)
        if session.close_code is None:
            handlers = session.handlers
            (handlers if isinstance(handlers, Dispatch) else self)._queue(session, frames)

    def opened(self, session: Session) -> None:
        self._emit(session, VERIFIED)

    def suspended(self, session: Session) -> None:
        self._emit(session, SUSPENDED)

    def resumed(self, session: Session) -> None:
        self._emit(session, RESUMED)

    def closed(self, session: Session, heard: bool) -> None:
        inbox: Inbox | None = session.inbox
        if inbox is not None and not heard:
            events = [item for item in inbox.items if item[0] < 0]
            inbox.items.clear()  # the same deque: it may be being drained
            inbox.items.extend(events)
            inbox.bytes = 0
        # Not at once: the handler that closed the session is still running.
        session.hub.loop.call_soon(self._emit_closed, session)

    def tick(self) -> None:
        """Handles everything that has arrived since the last tick."""
        waiting, self._waiting = self._waiting, {}
        for session in waiting:
            inbox: Inbox | None = session.inbox
            if inbox is not None and inbox.task is None:
                self._drain(session, inbox)

    def _emit_closed(self, session: Session) -> None:
        """The last that is heard of a session; then it says so to those who wait for that."""
        if CLOSED in self.routes:
            self._emit(session, CLOSED)
        if session.inbox is None:
            session.all_told()
        else:
            session.inbox.is_last = True

    def _emit(self, session: Session, event: int) -> None:
        if event in self.routes:
            frame = (event, 0, b"")
            if session.inbox is None and not self.ticking and not self.routes[event].is_async:
                rest = self._handle_now(session, frame)
                if rest is not None:
                    self._queue(session, [], rest)
            else:
                self._queue(session, [frame])

    # -- the inbox: from the first async handler on, and in tick mode --

    def _queue(self, session: Session, frames: list[Frame], first: Awaitable[None] | None = None) -> None:
        """Has `frames` handled in their turn, after what stands in the inbox; and after awaiting `first`."""
        inbox: Inbox | None = session.inbox
        if inbox is None:
            inbox = session.inbox = Inbox(session.uid)
        inbox.items.extend(frames)
        inbox.bytes += sum(len(frame[2]) for frame in frames)
        limits = session.hub.limits
        if not inbox.paused and (len(inbox.items) >= limits.max_inbox or inbox.bytes >= limits.max_inbox_bytes):
            inbox.paused = True
            session.hub.stats.paused += 1
            session.pause(Pause.INBOX)
        if self.ticking:
            self._waiting[session] = None
        elif inbox.task is None:
            self._drain(session, inbox, first)

    def _drain(self, session: Session, inbox: Inbox, awaitable: Awaitable[None] | None = None) -> None:
        """Handles what stands in the inbox; from the first async handler on in a task. In a tick, nothing later."""
        inbox.share = len(inbox.items) if self.ticking else sys.maxsize
        awaitable = awaitable or self._handle_next(session, inbox)
        if awaitable is None:
            self._drained(session, inbox)
        else:
            inbox.task = session.hub.loop.create_task(self._burst(session, inbox, awaitable))
            session.hub.tasks.add(inbox.task)
            session.hub.running.add(inbox)

    async def _burst(self, session: Session, inbox: Inbox, awaitable: Awaitable[None] | None) -> None:
        try:
            while awaitable is not None:
                await awaitable
                awaitable = self._handle_next(session, inbox)
        finally:
            session.hub.tasks.discard(cast("asyncio.Task[None]", inbox.task))
            session.hub.running.remove(inbox)
            self._drained(session, inbox)

    def _handle_next(self, session: Session, inbox: Inbox) -> Awaitable[None] | None:
        """Handles frames up to the first that has an async handler: what is left of that one; None at the end.

        When its turn is over, what is to be awaited is only the next turn. A tick has no turns: it handles all that
        came before it, of each session no more than its inbox holds.
        """
        items = inbox.items
        limits = session.hub.limits
        until = inf if self.ticking else perf_counter() + TURN_SECONDS
        while items and inbox.share:
            if perf_counter() > until:
                return asyncio.sleep(0)
            handlers = session.handlers
            if handlers is not self and isinstance(handlers, Dispatch):  # it was given a table of its own
                return handlers._handle_next(session, inbox)
            inbox.share -= 1
            frame = items.popleft()
            inbox.bytes -= len(frame[2])
            if inbox.paused and len(items) <= limits.max_inbox // 2 and inbox.bytes <= limits.max_inbox_bytes // 2:
                inbox.paused = False
                session.resume(Pause.INBOX)
            awaitable = self._handle_now(session, frame)
            if awaitable is not None:
                return awaitable
        return None

    def _drained(self, session: Session, inbox: Inbox) -> None:
        inbox.task = None
        if not inbox.items:
            session.inbox = None
            if inbox.is_last:
                session.all_told()
        else:  # for the next tick, or left by a burst that was cancelled
            self._waiting[session] = None

    def _handle_now(self, session: Session, frame: Frame) -> Awaitable[None] | None:
        """Handles one frame; what is left of it, if its handler is async, is in what this returns."""
        id, flags, body = frame
        route = self.routes.get(id) or self._fallback(id)
        if route is None:
            self._unrouted(session, id, flags, body)
            return None
        start = perf_counter()
        try:
            message = route.decode(session.hub.open_body(flags, body) if flags else body)
        except BaseException as error:
            self._reject(session, route, contain(error))
            return None
        try:
            result = route.call(session, message)
        except BaseException as error:
            self._failed(session, route, contain(error))
        else:
            if result is not None and (rest := self._rest(session, route, result, len(body), start)) is not None:
                return rest
        route.handled(len(body), perf_counter() - start)
        return None

    def _rest(
        self, session: Session, route: Route, result: object, size: int, start: float
    ) -> Coroutine[Any, Any, None] | None:
        """What is left of a call that returned `result`: a plain function, too, may return what is to be awaited."""
        if inspect.isawaitable(result):
            return self._await(session, route, result, size, start)
        try:
            refuse_unrun(result)
        except TypeError as error:
            self._failed(session, route, error)
        return None

    async def _await(self, session: Session, route: Route, result: Any, size: int, start: float) -> None:
        inbox: Inbox = session.inbox  # this runs in its task
        inbox.begin(route.name, session.hub.wheel.now)
        try:
            while inspect.isawaitable(result):
                result = await result
            refuse_unrun(result)
        except BaseException as error:
            self._failed(session, route, self._cause(session, inbox, error))
        else:
            if inbox.end_timeout():  # it caught its cancellation
                self._failed(session, route, _timed_out(session))
        finally:
            inbox.name = ""
        route.handled(size, perf_counter() - start)

    def _cause(self, session: Session, inbox: Inbox, error: BaseException) -> Exception:
        """Why an async handler failed. Raises what is not the handler's, as the cancellation of its task."""
        if inbox.end_timeout() and not cast("asyncio.Task[None]", inbox.task).cancelling():
            return _timed_out(session)
        return contain(error)

    # -- what is not the straight path --

    def _within_rates(self, session: Session, frames: list[Frame]) -> list[Frame]:
        """`frames` without those that are over the rate of their type; nothing of these is decoded."""
        buckets = session.buckets
        if buckets is None:
            buckets = session.buckets = {}
        now = session.hub.wheel.read_clock()
        taken = []
        for frame in frames:
            id = frame[0]
            rate = self.rates.get(id)
            if rate is not None:
                bucket = buckets.get(id)
                if bucket is None:
                    bucket = buckets[id] = TokenBucket(rate, max(1.0, rate), now)
                if not bucket.take(now):
                    session.hub.stats.rate_dropped[session.hub.name_of(id)] += 1
                    continue
            taken.append(frame)
        return taken

    def _fallback(self, id: int) -> Route | None:
        """The default handler as the route of a message that the catalog knows."""
        if self._default is None or id in FRAMEWORK_IDS or id < 0:
            return None
        route = self._defaults.get(id)
        if route is None and (kind := self.catalog.by_id.get(id)) is not None:
            route = self._defaults[id] = Route(kind.name, self._default, kind.decode)
        return route

    def _unrouted(self, session: Session, id: int, flags: int, body: bytes) -> None:
        """A message that no handler takes: the framework's own, forwarded, or not for us."""
        traffic = session.hub.stats.unrouted_of(session.hub.name_of(id))
        traffic.messages += 1
        traffic.bytes += len(body) + 6
        try:
            if session.receive_framework(id, flags, body, id in self.catalog.by_id):
                return
        except PeerError as error:
            session.broken(error)
            return
        if self._forward is None:
            session.hub.stats.unhandled += 1
            if traffic.messages == 1:  # later ones are only counted
                log.warning("no handler for a message", message=session.hub.name_of(id), id=id, uid=session.uid)
            return
        try:
            invoke_plain(self._forward, session, RawFrame(id, flags, body))
        except Exception as error:
            self._failed(session, _FORWARD, error)

    def _reject(self, session: Session, route: Route, error: Exception) -> None:
        """The body of a message could not be read: the peer's fault, whatever its codec raised."""
        if isinstance(error, BodyError) and error.__cause__ is not None:
            # Its own text may quote the body: a class's `__post_init__` wrote it.
            error = BodyError(f"{route.name} does not decode: {type(error.__cause__).__name__}")
        elif not isinstance(error, PeerError):
            error = BodyError(f"{route.name} does not decode: {what_is_wrong(error)}")
        session.broken(error)

    def _failed(self, session: Session, route: Route, error: Exception) -> None:
        """A handler raised: logged, counted, and nobody else's business."""
        if isinstance(error, SessionClosed) and session.state is not _OPEN:
            return  # it wrote to a peer that had just left
        errors = session.hub.stats.handler_errors
        errors[route.name] += 1
        now = session.hub.wheel.now
        if now - route.logged >= 1:  # a peer that knows how to make a handler fail shall not fill the disk
            route.logged = now
            log.error(
                "handler failed",
                message=route.name,
                uid=session.uid,
                address=session.address,
                failed=errors[route.name],
                exc_info=error,
            )


def _timed_out(session: Session) -> TimeoutError:
    return TimeoutError(f"it ran longer than limits.handler_timeout, {session.hub.limits.handler_timeout:g} s")


_FORWARD = Route("forward", lambda session, frame: None, bytes)
