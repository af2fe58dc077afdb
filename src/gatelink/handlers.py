"""The table of handlers, by message and event, and the code that calls them.

The messages and events of one session are handled one at a time, in the order in which they came. Sessions do not wait
for each other. A handler is called directly by the read that brought its message. When a handler returns an awaitable,
one task awaits it. Until that task ends, everything that the session receives goes through its inbox, which the task
empties in order. In tick mode everything goes through the inboxes, and `tick` empties them.
"""

import asyncio
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeVar, cast, overload

from gatelink.calls import contain, invoke_plain, is_async, is_generator, refuse_unrun
from gatelink.errors import BodyError, CatalogError, ConfigError, LocalError, PeerError, SessionClosed
from gatelink.logger import Logger
from gatelink.session import builtin_messages
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import MessageSource, Peer
from gatelink.session.rates import TokenBucket
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.frames import Frame, encode_frame
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

log = Logger("gatelink.handlers")

TIME_BUCKETS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds, in seconds, of the handler time histogram. Most calls fall into the first, at one comparison."""

TURN_SECONDS = 0.005
"""How long one session's handlers may hold the loop before other sessions have a turn. One call may take longer."""

_OPEN = SessionState.OPEN
_FIRST_BUCKET = TIME_BUCKETS[0]
_TURN_OVER = object()
"""`_run` returns this when other sessions are to have a turn."""

_OTHER_TABLE = object()
"""`_run` returns this when a handler gave the session another table."""

_M = TypeVar("_M")
_S = TypeVar("_S", bound=Peer)
_R = TypeVar("_R")
_H = TypeVar("_H", bound=Callable[[Any, Any], Any])
_E = TypeVar("_E", bound=Callable[[Any], Any])

VERIFIED, CLOSED, SUSPENDED, RESUMED = -1, -2, -3, -4  # events wait in an inbox like messages: lower ids


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

    __slots__ = ("buckets", "bytes", "call", "count", "decode", "logged", "name", "seconds")

    def __init__(self, name: str, call: Callable[..., Any], decode: Callable[[bytes], Any]) -> None:
        self.name = name
        self.call = call
        self.decode = decode
        self.count = 0  # messages handled
        self.bytes = 0  # of their frames
        self.logged = -inf  # when, by the wheel's clock, a failure was last logged: at most one a second is
        self.seconds = 0.0  # in decoding and handling
        self.buckets = [0] * (len(TIME_BUCKETS) + 1)  # calls by time; [0] stays 0: it is `count` less the others

    def handled(self, size: int, seconds: float) -> None:
        """Counts one call; `_run` has the same code inlined."""
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


class Fallback:
    """Deals with messages that have no handler, that do not decode, or whose handler fails."""

    def unrouted(self, table: "Handlers", session: MessageSource, frame: Frame) -> None:
        """Deals with a frame that has no handler in `table`: one of the framework's, one to forward, or one to drop."""
        id, flags, body = frame
        context = session.context
        traffic = context.stats.unrouted_of(context.name_of(id))
        traffic.messages += 1
        traffic.bytes += len(body) + 6
        try:
            if builtin_messages.receive(session, id, flags, body, id in table.catalog.by_id):
                return
        except PeerError as error:
            session.broken(error)
            return
        if session.forwarder is not None and session.handlers is table and session.forwarder.forward([frame]):
            return
        if table.forward is None:
            context.stats.unhandled += 1
            if traffic.messages == 1:  # later ones are only counted
                log.warning("no handler for a message", message=context.name_of(id), id=id, uid=session.uid)
            return
        try:
            invoke_plain(table.forward, session, RawFrame(id, flags, body))
        except Exception as error:
            self.failed(session, _FORWARD, error)

    def malformed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """A message did not decode. That is the peer's fault, whatever the codec raised."""
        if not isinstance(error, PeerError):
            error = BodyError(f"{route.name} does not decode: {type(error).__name__}")
        session.broken(error)

    def failed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """A handler raised: count and log it. Other sessions are not affected."""
        if isinstance(error, SessionClosed) and session.state is not _OPEN:
            return  # it wrote to a peer that had just left
        context = session.context
        errors = context.stats.handler_errors
        errors[route.name] += 1
        now = context.wheel.now
        if now - route.logged >= 1:  # a peer that can make a handler fail must not fill the disk
            route.logged = now
            log.error(
                "handler failed",
                message=route.name,
                uid=session.uid,
                address=session.address,
                failed=errors[route.name],
                exc_info=error,
            )


class Observer(Protocol):
    """Is told of each session of a table before its handlers are, and of its end after them."""

    def opened(self, session: Any) -> None: ...

    def closed(self, session: Any) -> None: ...


class Handlers:
    """A table of handlers. One is shared by a server and all its sessions, unless a session is given its own.

    catalog: where message types, names and codecs are looked up; the default is what `@message` registers in.
    fallback: deals with messages that can't be handled. observer: told of sessions before and after the handlers.
    """

    def __init__(self, catalog: Catalog = default_catalog, fallback: Fallback | None = None) -> None:
        self.catalog = catalog
        self.fallback = fallback or Fallback()
        self.observer: Observer | None = None
        self.routes: dict[int, Route] = {}  # by message id; events have ids below 0
        self.defaults: dict[int, Route] = {}  # the default handler, once for each message that came to it
        self.rates: dict[int, float] = {}  # by message id, how many one session may send in a second
        self.forward: Callable[[Any, RawFrame], None] | None = None
        self.ticking = False  # what arrives waits for `tick`
        self._default: Callable[..., Any] | None = None
        self._injected: dict[MessageSource, list[Frame]] = {}  # what `inject` was given in this turn of the loop
        self._waiting: dict[MessageSource, None] = {}  # sessions with something for the next tick, in order of arrival

    # -- what is registered --

    @overload
    def on(
        self, what: type[_M], *, rate: float | None = None, also: bool = False
    ) -> Callable[[Callable[[_S, _M], _R]], Callable[[_S, _M], _R]]: ...

    @overload
    def on(self, what: int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]: ...

    def on(self, what: type | int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]:
        """Decorator: the handler of a message, given by its type, id or wire name: `handler(session, message)`.

        rate: how many of these messages one session may send in a second, and at once. More are counted and dropped,
        without decoding them.
        also: the message may have several handlers. They all get the same object, one after the other, in the order of
        registration. The others are still called if one fails, but not if one ends the session.
        Raises CatalogError for a message that is not registered, for one that has a handler already (without `also`),
        and for a function that can't be called with (session, message); ConfigError for a rate that is not above 0, or
        that differs from the rate the message has.
        """
        if not isinstance(what, (type, int, str)):
            raise CatalogError(f"say of which message {what!r} is the handler, as @server.on(Hello)")
        kind = self.catalog.find(what)
        if rate is not None and not rate > 0:
            raise ConfigError(f"rate={rate} for {kind.name}; give messages a second, above 0, or None for no limit")

        def register(handler: _H) -> _H:
            check_handler(handler, kind.name, "session", "message")
            if rate is not None and self.rates.get(kind.id, rate) != rate:
                raise ConfigError(
                    f"rate={rate} for {kind.name}, which has {self.rates[kind.id]}; a message has one rate"
                )
            self._add(kind.id, Route(kind.name, handler, kind.decode), also)
            if rate is not None:
                self.rates[kind.id] = rate
            return handler

        return register

    def register(self, owner: object, *, also: bool = False) -> None:
        """Registers each method of `owner` that has the name of a message (`Say`, `on_say`) or an event (`on_closed`).

        also: these messages and events may have several handlers, as in `on`. Raises CatalogError for any other method
        `on_...`, so that a misspelt name is found at start.
        """
        events = {"on_verified": VERIFIED, "on_closed": CLOSED, "on_suspended": SUSPENDED, "on_resumed": RESUMED}
        by_method = {f"on_{_snake(name)}": kind for name, kind in self.catalog.by_name.items()}
        for name, method in inspect.getmembers(owner, callable):
            kind = by_method.get(name) or self.catalog.by_name.get(name)
            if kind is not None:
                self.on(kind.id, also=also)(method)
            elif name in events:
                self._on_event(events[name], name.removeprefix("on_"), method, also)
            elif name.startswith("on_"):
                raise CatalogError(f"{type(owner).__name__}.{name} names no message of the catalog; register it first")

    def default(self, handler: _H) -> _H:
        """Decorator: the handler of all messages of the catalog that have none of their own; one for each table."""
        if self._default is not None:
            raise CatalogError("there is a default handler already; one table has one")
        check_handler(handler, "default", "session", "message")
        self._default = handler
        return handler

    def on_verified(self, handler: _E) -> _E:
        """Decorator: `handler(session)` for every new session, before its first message."""
        return self._on_event(VERIFIED, "verified", handler)

    def on_closed(self, handler: _E) -> _E:
        """Decorator: `handler(session)` once a session has ended, after its last message; see `close_code`."""
        return self._on_event(CLOSED, "closed", handler)

    def on_suspended(self, handler: _E) -> _E:
        """Decorator: `handler(session)` when a session lost its connection and waits for another."""
        return self._on_event(SUSPENDED, "suspended", handler)

    def on_resumed(self, handler: _E) -> _E:
        """Decorator: `handler(session)` when a suspended session is connected again."""
        return self._on_event(RESUMED, "resumed", handler)

    def on_forward(self, handler: Callable[[Any, RawFrame], None]) -> Callable[[Any, RawFrame], None]:
        """Decorator: `handler(session, frame)`, a plain function, for ids without a handler; one for each table."""
        if self.forward is not None:
            raise CatalogError("there is a forward handler already; one table has one")
        check_handler(handler, "on_forward", "session", "frame", asynchronous=False)
        self.forward = handler
        return handler

    def _on_event(self, event: int, name: str, handler: _E, also: bool = False) -> _E:
        check_handler(handler, f"on_{name}", "session")
        self._add(event, Route(name, lambda session, _: handler(session), bytes), also)
        return handler

    def _add(self, key: int, route: Route, also: bool) -> None:
        first = self.routes.get(key)
        if first is None:
            self.routes[key] = route
        elif also:
            self.routes[key] = self._joined(first, route)
        else:
            raise CatalogError(f"{route.name} has a handler already; for a further one, register it with also=True")

    def _joined(self, first: Route, second: Route) -> Route:
        """One route that calls the handlers of both."""
        calls = (*(first.call.calls if isinstance(first.call, _Joined) else (first.call,)), second.call)
        both = Route(
            first.name, _Joined(calls, lambda session, error: self.fallback.failed(session, both, error)), first.decode
        )
        return both

    # -- what a session receives --

    def dispatch(self, session: MessageSource, frames: list[Frame]) -> None:
        """Handles the frames of one read. Never raises an error of a handler or a peer."""
        if session.inbox is not None or self.ticking:
            self.queue(session, self._within_rates(session, frames) if self.rates else frames)
            return
        forwarder = session.forwarder
        if forwarder is not None and self._default is None and session.handlers is self and forwarder.forward(frames):
            return
        if self.rates:
            frames = self._within_rates(session, frames)
        waiting = iter(frames)
        rest = self._run(session, waiting, TURN_SECONDS, True)
        if rest is None:
            return
        left = list(waiting)
        if rest is _OTHER_TABLE:
            session.handlers.dispatch(session, left)
        elif rest is not _TURN_OVER:
            self.queue(session, left, rest)
        elif left:
            self.queue(session, left, asyncio.sleep(0))

    def _run(self, session: MessageSource, frames: Iterator[Frame], seconds: float, only_open: bool) -> Any:
        """Calls the handlers of `frames`, one after the other. Nothing else calls handlers.

        Returns None when all frames are handled, or, with `only_open`, when the session has ended. It returns before
        the end of `frames`: an awaitable, if a handler returned one; `_TURN_OVER`, after `seconds`; `_OTHER_TABLE`, if
        the session was given another table. The frames not handled are then still in the iterator.
        """
        routes = self.routes
        table = session.handlers  # not `self` where this table handles posts: no session has that table
        start = perf_counter()
        until = start + seconds
        for frame in frames:
            id, flags, body = frame
            route = routes.get(id) or self._default_route(id)
            if route is None:
                self.fallback.unrouted(self, session, frame)
            else:
                try:
                    message = route.decode(session.context.open_body(flags, body) if flags else body)
                except BaseException as error:
                    self.fallback.malformed(session, route, contain(error))
                    if only_open and session.state is not _OPEN:
                        return None
                    continue
                try:
                    result = route.call(session, message)
                except BaseException as error:
                    self.fallback.failed(session, route, contain(error))
                    result = None
                if result is not None and (rest := self._rest(session, route, result, len(body), start)) is not None:
                    return rest
                now = perf_counter()
                elapsed = now - start
                start = now
                route.count += 1
                route.bytes += len(body) + 6
                route.seconds += elapsed
                if elapsed > _FIRST_BUCKET:
                    route.observe(elapsed)
                if now > until:
                    return _TURN_OVER
            if only_open and session.state is not _OPEN:
                return None
            if session.handlers is not table:
                return _OTHER_TABLE
        return None

    def _rest(
        self, session: MessageSource, route: Route, result: object, size: int, start: float
    ) -> Coroutine[Any, Any, None] | None:
        """The rest of a call that returned `result`: an awaitable, or None. A plain function may return one too."""
        if inspect.isawaitable(result):
            return self._await(session, route, result, size, start)
        try:
            refuse_unrun(result)
        except TypeError as error:
            self.fallback.failed(session, route, error)
        return None

    async def _await(self, session: MessageSource, route: Route, result: Any, size: int, start: float) -> None:
        inbox = cast(Inbox, session.inbox)  # this runs in the inbox's task
        inbox.begin(route.name, session.context.wheel.now)
        try:
            while inspect.isawaitable(result):
                result = await result
            refuse_unrun(result)
        except BaseException as error:
            self.fallback.failed(session, route, self._cause(session, inbox, error))
        else:
            if inbox.end_timeout():  # the handler timed out, and caught its cancellation
                self.fallback.failed(session, route, _timed_out(session))
        finally:
            inbox.name = ""
        route.handled(size, perf_counter() - start)

    def _cause(self, session: MessageSource, inbox: Inbox, error: BaseException) -> Exception:
        """The error with which an async handler failed. Raises errors that are not its own, as a cancelled task's."""
        if inbox.end_timeout() and not cast("asyncio.Task[None]", inbox.task).cancelling():
            return _timed_out(session)
        return contain(error)

    def _default_route(self, id: int) -> Route | None:
        """A route to the default handler, for a message that the catalog knows; else None."""
        if self._default is None or id in FRAMEWORK_IDS or id < 0:
            return None
        route = self.defaults.get(id)
        if route is None and (kind := self.catalog.by_id.get(id)) is not None:
            route = self.defaults[id] = Route(kind.name, self._default, kind.decode)
        return route

    def inject(self, session: MessageSource, message: Any) -> None:
        """Handles `message` as if the session's peer had sent it, after what has been received.

        It is handled after this call returns. Rates do not apply to it. It is dropped if the session ends first. Raises
        SessionClosed if the session has ended; LocalError if twice limits.max_inbox messages wait for the handlers; and
        what encoding the message raises.
        """
        if session.close_code is not None:
            raise SessionClosed(session.close_code, session.close_reason)
        kind, body = self.catalog.encode(message)
        inbox = session.inbox
        injected = self._injected.get(session)
        most = 2 * session.context.limits.max_inbox
        if len(injected or ()) + (len(inbox.items) if inbox is not None else 0) >= most:
            raise LocalError(f"{most} messages wait for the handlers of uid {session.uid}; inject fewer at a time")
        if injected is None:
            injected = self._injected[session] = []
            session.context.loop.call_soon(self._take_injected, session)  # not at once: a handler may be running
        injected.append((kind.id, 0, body))

    def _take_injected(self, session: MessageSource) -> None:
        frames = self._injected.pop(session)
        if session.close_code is None:
            table = session.handlers if isinstance(session.handlers, Handlers) else self
            table.queue(session, frames)

    # -- its events --

    def opened(self, session: MessageSource) -> None:
        """The session is verified."""
        if self.observer is not None:
            self.observer.opened(session)
        self._emit(session, VERIFIED)

    def suspended(self, session: MessageSource) -> None:
        """The session has lost its connection, and may get another."""
        self._emit(session, SUSPENDED)

    def resumed(self, session: MessageSource) -> None:
        """The session has a connection again."""
        self._emit(session, RESUMED)

    def closed(self, session: MessageSource, handle_rest: bool) -> None:
        """The session has ended. handle_rest: whether messages that arrived before are still handled."""
        if self.observer is not None:
            session.after_handlers(partial(self.observer.closed, session))
        inbox = session.inbox
        if inbox is not None and not handle_rest:
            inbox.drop_messages()
        # Not at once: the handler that closed the session is still running.
        session.context.loop.call_soon(self._emit_closed, session)

    def _emit_closed(self, session: MessageSource) -> None:
        """Emits the last event of a session; once that is handled, calls the session's `handlers_done`."""
        if CLOSED in self.routes:
            self._emit(session, CLOSED)
        if session.inbox is None:
            session.handlers_done()
        else:
            session.inbox.is_last = True

    def _emit(self, session: MessageSource, event: int) -> None:
        if event in self.routes:
            frame = (event, 0, b"")
            if session.inbox is None and not self.ticking:
                rest = self._run(session, iter([frame]), inf, False)
                if rest is not None and rest is not _OTHER_TABLE:
                    self.queue(session, [], rest)
            else:
                self.queue(session, [frame])

    def tick(self) -> None:
        """Handles everything that has arrived since the last tick."""
        waiting, self._waiting = self._waiting, {}
        for session in waiting:
            inbox = session.inbox
            if inbox is not None and inbox.task is None:
                self._drain(session, inbox)

    # -- the inbox: while an async handler runs, and in tick mode --

    def queue(self, session: MessageSource, frames: list[Frame], first: Awaitable[None] | None = None) -> None:
        """Puts `frames` in the inbox: they are handled after `first` is awaited and after what is in it already."""
        inbox = session.inbox
        if inbox is None:
            inbox = session.inbox = Inbox(session.uid)
        inbox.items.extend(frames)
        inbox.bytes += sum(len(frame[2]) for frame in frames)
        limits = session.context.limits
        waiting = len(inbox.items) + (first is not None)
        if not inbox.paused and (waiting >= limits.max_inbox or inbox.bytes >= limits.max_inbox_bytes):
            inbox.paused = True
            session.context.stats.paused += 1
            session.pause(Pause.INBOX)
        if self.ticking:
            self._waiting[session] = None
        elif inbox.task is None:
            self._drain(session, inbox, first)

    def _drain(self, session: MessageSource, inbox: Inbox, awaitable: Awaitable[None] | None = None) -> None:
        """Handles what is in the inbox; from the first async handler on, in a task. A tick handles nothing newer."""
        inbox.share = len(inbox.items) if self.ticking else sys.maxsize
        awaitable = awaitable or self._handle_next(session, inbox)
        if awaitable is None:
            self._drained(session, inbox)
        else:
            context = session.context
            inbox.task = context.loop.create_task(self._burst(session, inbox, awaitable))
            context.tasks.add(inbox.task)
            context.running.add(inbox)

    async def _burst(self, session: MessageSource, inbox: Inbox, awaitable: Awaitable[None] | None) -> None:
        try:
            while awaitable is not None:
                await awaitable
                awaitable = self._handle_next(session, inbox)
        finally:
            session.context.tasks.discard(cast("asyncio.Task[None]", inbox.task))
            session.context.running.remove(inbox)
            self._drained(session, inbox)

    def _handle_next(self, session: MessageSource, inbox: Inbox) -> Awaitable[None] | None:
        """Handles frames up to the first with an async handler; returns what to await, or None if none are left.

        When the session's turn is over, this returns a wait for the next turn of the loop. A tick has no turns: it
        handles all messages that came before it (`inbox.share`).
        """
        seconds = inf if self.ticking else TURN_SECONDS
        while inbox.items and inbox.share:
            handlers = session.handlers
            if handlers is not self and isinstance(handlers, Handlers):  # it was given a table of its own
                return handlers._handle_next(session, inbox)
            rest = self._run(session, self._from_inbox(session, inbox), seconds, False)
            if rest is _TURN_OVER:
                return asyncio.sleep(0)
            if rest is not None and rest is not _OTHER_TABLE:
                return cast(Awaitable[None], rest)
        return None

    def _from_inbox(self, session: MessageSource, inbox: Inbox) -> Iterator[Frame]:
        """Takes frames out of the inbox, and resumes reading from the peer once there is room."""
        items = inbox.items
        limits = session.context.limits
        while items and inbox.share:
            inbox.share -= 1
            frame = items.popleft()
            inbox.bytes -= len(frame[2])
            if inbox.paused and len(items) <= limits.max_inbox // 2 and inbox.bytes <= limits.max_inbox_bytes // 2:
                inbox.paused = False
                session.resume(Pause.INBOX)
            yield frame

    def _drained(self, session: MessageSource, inbox: Inbox) -> None:
        inbox.task = None
        if not inbox.items:
            session.inbox = None
            if inbox.is_last:
                session.handlers_done()
        else:  # they wait for the next tick, or a burst was cancelled before it handled them
            self._waiting[session] = None

    def _within_rates(self, session: MessageSource, frames: list[Frame]) -> list[Frame]:
        """`frames` without those that exceed the rate of their type. These are dropped undecoded."""
        buckets = session.type_rates
        if buckets is None:
            buckets = session.type_rates = {}
        now = session.context.wheel.read_clock()
        taken = []
        for frame in frames:
            id = frame[0]
            rate = self.rates.get(id)
            if rate is not None:
                bucket = buckets.get(id)
                if bucket is None:
                    bucket = buckets[id] = TokenBucket(rate, max(1.0, rate), now)
                if not bucket.take(now):
                    session.context.stats.rate_dropped[session.context.name_of(id)] += 1
                    continue
            taken.append(frame)
        return taken


class _Joined:
    """Several handlers of one message or event, called one after the other."""

    def __init__(
        self, calls: tuple[Callable[..., Any], ...], failed: Callable[[MessageSource, Exception], None]
    ) -> None:
        self.calls = calls
        self._failed = failed

    def __call__(self, session: MessageSource, message: Any) -> Awaitable[None] | None:
        """Calls the handlers in order. If one returns an awaitable, returns a coroutine for it and the rest."""
        return self._call(session, message, 0)

    def _call(self, session: MessageSource, message: Any, at: int) -> Awaitable[None] | None:
        code_before = session.close_code
        for index in range(at, len(self.calls)):
            if session.close_code is not code_before:
                break  # the handler before this one ended the session
            try:
                result = self.calls[index](session, message)
            except Exception as error:
                self._failed(session, error)
                continue
            if inspect.isawaitable(result):
                return self._go_on(result, session, message, index + 1)
        return None

    async def _go_on(self, result: Awaitable[Any], session: MessageSource, message: Any, at: int) -> None:
        code_before = session.close_code
        try:
            await result
        except Exception as error:
            self._failed(session, error)
        if session.close_code is code_before and (rest := self._call(session, message, at)) is not None:
            await rest


def check_handler(handler: Callable[..., Any], of: str, *arguments: str, asynchronous: bool | None = None) -> None:
    """Checks a handler at start, so that it does not fail at each message. Raises CatalogError.

    of: what it handles, in words. arguments: the names of its arguments. asynchronous: True if it must be `async def`,
    False if it must not, None if it may be either.
    """
    if is_generator(handler):
        raise CatalogError(f"the handler of {of} has a `yield`, so a call would run nothing of it; write it without")
    if asynchronous is False and is_async(handler):
        raise CatalogError(f"the handler of {of} must be a plain function, not `async def`: nobody would await it")
    if asynchronous and not is_async(handler) and not is_async(inspect.unwrap(handler)):
        raise CatalogError(f"the handler of {of} is awaited: write it as `async def`")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return  # a function written in C that does not tell its signature
    except TypeError:
        raise CatalogError(f"the handler of {of} is {handler!r}, which can't be called") from None
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        raise CatalogError(
            f"the handler of {of} is called with ({', '.join(arguments)}); {name}{signature} can't be"
        ) from None


def _snake(name: str) -> str:
    """`RoomJoin` -> `room_join`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _timed_out(session: MessageSource) -> TimeoutError:
    return TimeoutError(f"it ran longer than limits.handler_timeout, {session.context.limits.handler_timeout:g} s")


_FORWARD = Route("forward", lambda session, frame: None, bytes)
