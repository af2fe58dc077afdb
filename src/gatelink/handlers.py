"""The table of handlers, by message and event, and the code that calls them.

The messages and events of one session are handled one at a time, in the order in which they came. Sessions do not wait
for each other. A handler is called directly by the read that brought its message. When a handler returns an awaitable,
one task awaits it. Until that task ends, everything that the session receives goes through its inbox, which the task
empties in order. In tick mode everything goes through the inboxes, and `tick` empties them.

`_call_handlers` is the one place that calls handlers. It stops when one returns an awaitable. `dispatch` calls it with
a read, `_handle_inbox` with an inbox. The task `_finish_inbox` awaits the awaitable, and goes on with the inbox.
"""

import asyncio
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast, overload

from gatelink.calls import contain, refuse_unrun
from gatelink.errors import CatalogError, ConfigError, LocalError, SessionClosed
from gatelink.handling.checks import check_answer, check_handler
from gatelink.handling.fallback import Fallback, RawFrame
from gatelink.handling.joining import Joined, wrapped
from gatelink.handling.rates import within_rates
from gatelink.handling.routes import TIME_BUCKETS, HandlerTable, Route, Routes
from gatelink.handling.serving import serve
from gatelink.session.inbox import Inbox
from gatelink.session.interfaces import MessageSource, Peer
from gatelink.session.states import SessionState
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.control import Lost, decode_control, encode_control
from gatelink.wire.frames import HEAD_SIZE, REQUEST, Frame
from gatelink.wire.messages import Catalog, MessageType
from gatelink.wire.messages import catalog as default_catalog

TURN_SECONDS = 0.005
"""How long one session's handlers may hold the loop before other sessions have a turn. One call may take longer."""

_OPEN = SessionState.OPEN
_FIRST_BUCKET = TIME_BUCKETS[0]
_TURN_OVER = object()
"""`_call_handlers` returns this when other sessions are to have a turn."""

_OTHER_TABLE = object()
"""`_call_handlers` returns this when a handler gave the session another table."""

_M = TypeVar("_M")
_S = TypeVar("_S", bound=Peer)
_R = TypeVar("_R")
_H = TypeVar("_H", bound=Callable[[Any, Any], Any])
_E = TypeVar("_E", bound=Callable[[Any], Any])
_W = TypeVar("_W", bound=Callable[[Any, Any, Any], Any])

VERIFIED, CLOSED, SUSPENDED, RESUMED, RENEWED, EXPIRING, RESTARTED, LOST = range(-1, -9, -1)
"""Events. They wait in an inbox like messages, with ids below 0."""

_EVENTS = {
    "on_verified": VERIFIED,
    "on_closed": CLOSED,
    "on_suspended": SUSPENDED,
    "on_resumed": RESUMED,
    "on_renewed": RENEWED,
    "on_expiring": EXPIRING,
    "on_restarted": RESTARTED,
}


class Observer(Protocol):
    """Gets the events of each session of a table: `closed` after the table's handlers, all others before them."""

    def opened(self, session: Any) -> None: ...

    def suspended(self, session: Any) -> None: ...

    def resumed(self, session: Any) -> None: ...

    def renewed(self, session: Any) -> None: ...

    def closed(self, session: Any) -> None: ...


class Handlers(HandlerTable):
    """A table of handlers. One is shared by a server and all its sessions, unless a session is given its own.

    catalog: where message types, names and codecs are looked up; the default is what `@message` registers in.
    fallback: deals with messages that can't be handled. observer: told of the events of sessions.
    """

    def __init__(self, catalog: Catalog = default_catalog, fallback: Fallback | None = None) -> None:
        super().__init__()
        self.catalog = catalog
        self.fallback = fallback or Fallback()
        self.observer: Observer | None = None
        self.defaults: dict[int, Route] = {}  # the default handler, once for each message that came to it
        self.forward: Callable[[Any, RawFrame], None] | None = None
        self._around: list[Callable[..., Any]] = []  # the outermost first
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

        rate: how many of these messages one user may send in a second, and at once, over all its sessions. More are
        counted and dropped, without decoding them.
        also: the message may have several handlers. They all get the same object, one after the other, in the order of
        registration. The others are still called if one fails, but not if one ends the session.
        Raises CatalogError for a message that is not registered, or that has a handler already (without `also`). Also
        for a function that can't be called with (session, message), or whose annotations say otherwise. Raises
        ConfigError for a rate that is not above 0, or that differs from the rate the message has.
        """
        if not isinstance(what, (type, int, str)):
            raise CatalogError(f"say of which message {what!r} is the handler, as @server.on(Hello)")
        kind = self.catalog.find(what)
        if rate is not None and not rate > 0:
            raise ConfigError(f"rate={rate} for {kind.name}; give messages a second, above 0, or None for no limit")

        def register(handler: _H) -> _H:
            check_handler(handler, kind.name, "session", "message", message=kind.type, messages=self.catalog.by_type)
            if kind.answer is not None:
                check_answer(handler, kind, also)
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
        """Register each method of `owner` that has the name of a message (`Say`, `on_say`) or an event (`on_closed`).

        also: these messages may have several handlers, as in `on`; events always may. Raises CatalogError for any
        other method `on_...`, so that a misspelt name is found at start, and for a class in place of its object.
        """
        if isinstance(owner, type):
            raise CatalogError(f"register takes an object, and {owner.__name__} is a class: write {owner.__name__}()")
        by_method = {f"on_{_snake(name)}": kind for name, kind in self.catalog.by_name.items()}
        routes, rates = Routes(self.routes), dict(self.rates)
        try:
            self._register(owner, by_method, also)
        except CatalogError:  # nothing of the object is registered
            self.routes, self.rates = routes, rates
            raise

    def _register(self, owner: object, by_method: Mapping[str, MessageType], also: bool) -> None:
        for name, method in inspect.getmembers(owner, callable):
            kind = by_method.get(name) or self.catalog.by_name.get(name)
            if kind is not None:
                self.on(kind.id, also=also)(method)
            elif name == "on_lost":
                self._on_lost(method, also)
            elif name in _EVENTS:
                self._on_event(_EVENTS[name], name.removeprefix("on_"), method)
            elif name.startswith("on_"):
                raise CatalogError(
                    f"{type(owner).__name__}.{name} names no message of the catalog, and no event of a session "
                    f"({', '.join(_EVENTS)}, on_lost); decorate its message with @message(id), or correct the name"
                )

    def default(self, handler: _H) -> _H:
        """Decorator: the handler of all messages of the catalog that have none of their own; one for each table."""
        if self.default_handler is not None:
            raise CatalogError("there is a default handler already; one table has one")
        check_handler(handler, "default", "session", "message", messages=self.catalog.by_type)
        self.default_handler = handler
        return handler

    def around(self, hook: _W) -> _W:
        """Decorator: `hook(session, message, call_next)`, plain or async, runs in place of each message's handler.

        It calls the handler with `call_next(session, message)`, or does not, and returns the result. An async hook
        awaits `call_next`, whatever the handler is. A plain hook gets what the handler returns, of an async handler its
        coroutine. Of several hooks the first one is the outermost. Events have no hooks.
        """
        check_handler(hook, "around", "session", "message", "call_next", messages=self.catalog.by_type)
        self._around.append(hook)
        for key, route in self.routes.items():
            if key >= 0:
                route.call = wrapped(route.handler, self._around)
        self.defaults.clear()
        return hook

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

    def on_renewed(self, handler: _E) -> _E:
        """Decorator: `handler(session)` when a client has renewed its login: `claims` and `expires_at` are new."""
        return self._on_event(RENEWED, "renewed", handler)

    def on_expiring(self, handler: _E) -> _E:
        """Decorator, for clients: `handler(session)` when the server warns that the login expires at `expires_at`."""
        return self._on_event(EXPIRING, "expiring", handler)

    def on_restarted(self, handler: _E) -> _E:
        """Decorator, for `connect_cluster`: `handler(session)` when a new session follows one that is lost."""
        return self._on_event(RESTARTED, "restarted", handler)

    def on_lost(self, handler: _H) -> _H:
        """Decorator: `handler(session, lost)` when messages were lost between a client and a service.

        At the client it is called when its gateway reports a loss, and by `connect_cluster` after `on_restarted`, if
        messages were on their way when the session before ended (`lost.type` is 0). At a service it is called with a
        player that lost messages to an earlier service, or from this one. `lost` counts since the last call.
        """
        return self._on_lost(handler, False)

    def _on_lost(self, handler: _H, also: bool) -> _H:
        check_handler(handler, "on_lost", "session", "lost", message=Lost)
        self._add(LOST, Route("lost", handler, decode_control), also)
        return handler

    def on_forward(self, handler: Callable[[Any, RawFrame], None]) -> Callable[[Any, RawFrame], None]:
        """Decorator: `handler(session, frame)`, a plain function, for ids without a handler; one for each table."""
        if self.forward is not None:
            raise CatalogError("there is a forward handler already; one table has one")
        check_handler(handler, "on_forward", "session", "frame", asynchronous=False, message=RawFrame)
        self.forward = handler
        return handler

    def _on_event(self, event: int, name: str, handler: _E) -> _E:
        check_handler(handler, f"on_{name}", "session", messages=self.catalog.by_type)
        self._add(event, Route(name, lambda session, _: handler(session), bytes), True)
        return handler

    def _add(self, key: int, route: Route, also: bool) -> None:
        first = self.routes.get(key)
        if first is not None:
            if not also:
                raise CatalogError(f"{route.name} has a handler already; for a further one, register it with also=True")
            route = self._joined(first, route)
        if key >= 0:
            route.call = wrapped(route.handler, self._around)
        self.routes[key] = route

    def _joined(self, first: Route, second: Route) -> Route:
        """One route that calls the handlers of both."""
        before = first.handler.calls if isinstance(first.handler, Joined) else (first.handler,)
        calls = (*before, second.handler)
        both = Route(
            first.name, Joined(calls, lambda session, error: self.fallback.failed(session, both, error)), first.decode
        )
        return both

    # -- what a session receives --

    def dispatch(self, session: MessageSource, frames: list[Frame]) -> None:
        """Handle the frames of one read. Never raises an error of a handler or a peer."""
        if session.inbox is not None or self.ticking:
            self.queue(session, within_rates(self.rates, session, frames) if self.rates else frames)
            return
        forwarder = session.forwarder
        if (
            forwarder is not None
            and self.default_handler is None
            and session.handlers is self
            and forwarder.forward(frames)
        ):
            return
        if self.rates:
            frames = within_rates(self.rates, session, frames)
        waiting = iter(frames)
        rest = self._call_handlers(session, waiting, TURN_SECONDS, True)
        if rest is None:
            return
        left = list(waiting)
        if rest is _OTHER_TABLE:
            if left:
                session.handlers.dispatch(session, left)
        elif rest is not _TURN_OVER:
            self.queue(session, left, rest)
        elif left:
            self.queue(session, left, asyncio.sleep(0))

    def _call_handlers(self, session: MessageSource, frames: Iterator[Frame], seconds: float, only_open: bool) -> Any:
        """Call the handlers of `frames`, one after the other. Nothing else calls handlers.

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
                    if flags < REQUEST:
                        result = route.call(session, message)
                    else:
                        result = serve(session, route, message, frame)
                except BaseException as error:
                    self.fallback.failed(session, route, contain(error))
                    result = None
                if result is not None and (rest := self.rest_of(session, route, result, len(body), start)) is not None:
                    return rest
                now = perf_counter()
                elapsed = now - start
                start = now
                route.count += 1
                route.bytes += len(body) + HEAD_SIZE
                route.seconds += elapsed
                if elapsed > _FIRST_BUCKET:
                    route.observe(elapsed)
                    if session.context.standstill is not None:
                        session.context.standstill.check()
                if now > until and (session.state is _OPEN or not only_open):  # one that has ended gets no turn
                    return _TURN_OVER
            if only_open and session.state is not _OPEN:
                return None
            if session.handlers is not table:
                return _OTHER_TABLE
        return None

    def rest_of(
        self, session: MessageSource, route: Route, result: object, size: int, start: float
    ) -> Coroutine[Any, Any, None] | None:
        """The awaitable that finishes a call whose handler returned `result`; None if the call is over."""
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
        """The error with which an async handler failed. Raises errors that are not the handler's: a cancelled task."""
        if inbox.end_timeout() and not cast("asyncio.Task[None]", inbox.task).cancelling():
            return _timed_out(session)
        return contain(error)

    def _default_route(self, id: int) -> Route | None:
        """A route to the default handler, for a message that the catalog knows; else None."""
        if self.default_handler is None or id in FRAMEWORK_IDS or id < 0:
            return None
        route = self.defaults.get(id)
        if route is None and (kind := self.catalog.by_id.get(id)) is not None:
            route = self.defaults[id] = Route(kind.name, self.default_handler, kind.decode)
            route.call = wrapped(route.handler, self._around)
        return route

    def inject(self, session: MessageSource, message: Any) -> None:
        """Handle `message` as if the session's peer had sent it, after what has been received.

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
        if self.observer is not None:
            self.observer.suspended(session)
        self._emit(session, SUSPENDED)

    def resumed(self, session: MessageSource) -> None:
        """The session has a connection again."""
        if self.observer is not None:
            self.observer.resumed(session)
        self._emit(session, RESUMED)

    def renewed(self, session: MessageSource) -> None:
        """The session's login was renewed."""
        if self.observer is not None:
            self.observer.renewed(session)
        self._emit(session, RENEWED)

    def expiring(self, session: MessageSource) -> None:
        """The session's login expires soon."""
        self._emit(session, EXPIRING)

    def lost(self, session: MessageSource, lost: Lost) -> None:
        """Messages were lost between a client and a service."""
        self._emit(session, LOST, encode_control(lost))

    def restarted(self, session: MessageSource) -> None:
        """The session follows one that is lost."""
        self._emit(session, RESTARTED)

    def closed(self, session: MessageSource, handle_rest: bool) -> None:
        """The session has ended. handle_rest: whether messages that arrived before are still handled."""
        if self.observer is not None:
            session.last_handler.then(partial(self.observer.closed, session))
        inbox = session.inbox
        if inbox is not None and not handle_rest:
            inbox.drop_messages()
        # Not at once: the handler that closed the session is still running.
        session.context.loop.call_soon(self._emit_closed, session)

    def _emit_closed(self, session: MessageSource) -> None:
        """Emit the last event of a session. Once that is handled, the last handler has ended."""
        if CLOSED in self.routes:
            self._emit(session, CLOSED)
        if session.inbox is None:
            session.last_handler.ended()
        else:
            session.inbox.is_last = True

    def _emit(self, session: MessageSource, event: int, body: bytes = b"") -> None:
        if event in self.routes:
            frame = (event, 0, body)
            if session.inbox is None and not self.ticking:
                rest = self._call_handlers(session, iter([frame]), inf, False)
                if rest is not None and rest is not _OTHER_TABLE:
                    self.queue(session, [], rest)
            else:
                self.queue(session, [frame])

    def tick(self) -> None:
        """Handle everything that has arrived since the last tick."""
        waiting, self._waiting = self._waiting, {}
        for session in waiting:
            inbox = session.inbox
            if inbox is not None and inbox.task is None and not inbox.is_held_back:
                self._handle_inbox(session, inbox)

    # -- the inbox: while an async handler runs, and in tick mode --

    def queue(self, session: MessageSource, frames: list[Frame], first: Awaitable[None] | None = None) -> None:
        """Put `frames` in the inbox: they are handled after `first` is awaited, and after what is in it already."""
        inbox = session.inbox
        if inbox is None:
            inbox = session.inbox = Inbox(session.user)
            inbox.user.add_inbox(inbox, session)
        size = sum([len(frame[2]) for frame in frames])
        inbox.items.extend(frames)
        inbox.bytes += size
        inbox.user.received(len(frames), size, session.context.stats, first is not None)
        if self.ticking:
            self._waiting[session] = None
        elif inbox.task is None and not inbox.is_held_back and not inbox.is_handling:
            self._handle_inbox(session, inbox, first)

    def _handle_inbox(self, session: MessageSource, inbox: Inbox, awaitable: Awaitable[None] | None = None) -> None:
        """Handle what is in the inbox; from the first async handler on, in a task. A tick handles nothing newer."""
        inbox.share = len(inbox.items) if self.ticking else sys.maxsize
        if awaitable is None:
            inbox.is_handling = True
            try:
                awaitable = self._handle_to_async(session, inbox)
            finally:
                inbox.is_handling = False
        if awaitable is None:
            self._inbox_handled(session, inbox)
        else:
            user = inbox.user
            if user.running < user.max_running:
                user.running += 1
                self._start(session, inbox, awaitable)
            else:
                inbox.is_held_back = True
                user.waiting += (partial(self._start, session, inbox, awaitable),)

    def _start(self, session: MessageSource, inbox: Inbox, awaitable: Awaitable[None]) -> None:
        """Start the task of an inbox. The user has fewer running handlers than the limit."""
        context = session.context
        inbox.is_held_back = False
        inbox.task = context.loop.create_task(self._finish_inbox(session, inbox, awaitable))
        context.tasks.add(inbox.task)
        context.running.add(inbox)

    async def _finish_inbox(self, session: MessageSource, inbox: Inbox, awaitable: Awaitable[None] | None) -> None:
        try:
            while awaitable is not None:
                await awaitable
                awaitable = self._handle_to_async(session, inbox)
        finally:
            session.context.tasks.discard(cast("asyncio.Task[None]", inbox.task))
            session.context.running.remove(inbox)
            inbox.user.ended()
            self._inbox_handled(session, inbox)

    def _handle_to_async(self, session: MessageSource, inbox: Inbox) -> Awaitable[None] | None:
        """Handle frames up to the first with an async handler; return what it awaits, or None if no frames are left.

        When the session's turn is over, this returns a wait for the next turn of the loop. A tick has no turns: it
        handles all messages that came before it (`inbox.share`).
        """
        seconds = inf if self.ticking else TURN_SECONDS
        if session.context.standstill is not None:
            session.context.standstill.check()
        if session.held is not None:
            return _set(session.held)
        while inbox.items and inbox.share:
            handlers = session.handlers
            if handlers is not self and isinstance(handlers, Handlers):  # the session has a table of its own
                return handlers._handle_to_async(session, inbox)
            rest = self._call_handlers(session, self._from_inbox(inbox), seconds, False)
            if rest is _TURN_OVER:
                return asyncio.sleep(0)
            if rest is not None and rest is not _OTHER_TABLE:
                return cast(Awaitable[None], rest)
        return None

    def _from_inbox(self, inbox: Inbox) -> Iterator[Frame]:
        """Take frames out of the inbox, and resume reading from the peer once there is room."""
        items = inbox.items
        user = inbox.user
        while items and inbox.share:
            inbox.share -= 1
            frame = items.popleft()
            size = len(frame[2])
            inbox.bytes -= size
            user.handled(1, size)
            yield frame

    def _inbox_handled(self, session: MessageSource, inbox: Inbox) -> None:
        inbox.task = None
        if not inbox.items:
            session.inbox = None
            inbox.user.remove_inbox(inbox)
            inbox.user.forget_if_idle()
            if inbox.is_last:
                session.last_handler.ended()
        elif self.ticking or session.context.is_cancelling:
            self._waiting[session] = None
        else:  # the application cancelled the task. Not at once, because the task is still in its last step.
            session.context.loop.call_soon(self.queue, session, [])


def _snake(name: str) -> str:
    """`RoomJoin` -> `room_join`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _timed_out(session: MessageSource) -> TimeoutError:
    return TimeoutError(f"it ran longer than limits.handler_timeout, {session.context.limits.handler_timeout:g} s")
