"""The table from messages and events to your code: what is registered, and how.

How the code is called is in dispatch.py.
"""

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from gatelink.calls import is_async, is_generator
from gatelink.dispatch import CLOSED, RESUMED, SUSPENDED, VERIFIED, Dispatch, RawFrame, Route
from gatelink.errors import CatalogError, ConfigError
from gatelink.session.session import Session
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

_M = TypeVar("_M")
_S = TypeVar("_S", bound=Session)
_R = TypeVar("_R")
_H = TypeVar("_H", bound=Callable[[Any, Any], Any])
_E = TypeVar("_E", bound=Callable[[Any], Any])


class Handlers(Dispatch):
    """A table of handlers. One is shared by a server and all its sessions, unless a session is given its own.

    catalog: where message types, names and codecs are looked up; the default is what `@message` registers in.
    """

    def __init__(self, catalog: Catalog = default_catalog) -> None:
        super().__init__(catalog)

    @overload
    def on(
        self, what: type[_M], *, rate: float | None = None, also: bool = False
    ) -> Callable[[Callable[[_S, _M], _R]], Callable[[_S, _M], _R]]: ...

    @overload
    def on(self, what: int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]: ...

    def on(self, what: type | int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]:
        """Decorator: the handler of a message, given by its type, id or wire name: `handler(session, message)`.

        rate: how many of them one session may send in a second, and at once; more are dropped, undecoded, and counted.
        also: the message may have other handlers. All of them get the same object, one after the other, in the order in
        which they were registered. One that fails keeps it from no other; one that ends the session is the last.
        Raises CatalogError for a message that is not registered, or that has a handler if this is not to be one `also`,
        and for a function that can't be called with these two; ConfigError for a rate of 0, or another than before.
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
        """Registers every method of `owner` that is named as a message, `Say` or `on_say`, or event, `on_closed`.

        also: what it has methods for may have other handlers, as in `on`. Raises CatalogError for a method `on_...`
        that names neither, so that a typing error is found at start.
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
        """Decorator: takes every message that the catalog knows and that has no handler of its own; one a table."""
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

    def on_forward(self, handler: Callable[[Session, RawFrame], None]) -> Callable[[Session, RawFrame], None]:
        """Decorator: `handler(session, frame)`, a plain function, for ids that nothing handles; one a table."""
        if self._forward is not None:
            raise CatalogError("there is a forward handler already; one table has one")
        check_handler(handler, "on_forward", "session", "frame", asynchronous=False)
        self._forward = handler
        return handler

    def _on_event(self, event: int, name: str, handler: _E, also: bool = False) -> _E:
        check_handler(handler, f"on_{name}", "session")
        route = Route(name, lambda session, _: handler(session), bytes)
        route.is_async = is_async(handler)
        self._add(event, route, also)
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
        kind = _JoinedAsync if first.is_async or second.is_async else _Joined
        both = Route(first.name, kind(calls, lambda session, error: self._failed(session, both, error)), first.decode)
        both.is_async = kind is _JoinedAsync
        return both


class _Joined:
    """Several handlers of one message or event, called one after the other."""

    def __init__(self, calls: tuple[Callable[..., Any], ...], failed: Callable[[Session, Exception], None]) -> None:
        self.calls = calls
        self._failed = failed

    def __call__(self, session: Session, message: Any) -> Awaitable[None] | None:
        """Calls them; what is left, if one of them returned what is to be awaited."""
        return self._call(session, message, 0)

    def _call(self, session: Session, message: Any, at: int) -> Awaitable[None] | None:
        was = session.close_code
        for index in range(at, len(self.calls)):
            if session.close_code is not was:
                break  # the one before ended the session
            try:
                result = self.calls[index](session, message)
            except Exception as error:
                self._failed(session, error)
                continue
            if inspect.isawaitable(result):
                return self._go_on(result, session, message, index + 1)
        return None

    async def _go_on(self, result: Awaitable[Any], session: Session, message: Any, at: int) -> None:
        was = session.close_code
        try:
            await result
        except Exception as error:
            self._failed(session, error)
        if session.close_code is was and (rest := self._call(session, message, at)) is not None:
            await rest


class _JoinedAsync(_Joined):
    """The same, of which some are `async def`."""

    async def __call__(self, session: Session, message: Any) -> None:
        rest = self._call(session, message, 0)
        if rest is not None:
            await rest


def check_handler(handler: Callable[..., Any], of: str, *arguments: str, asynchronous: bool | None = None) -> None:
    """Finds out at start what would else fail at each message. Raises CatalogError.

    of: what it handles, in words. arguments: the names of those that it is called with. asynchronous: whether it is
    awaited; None: if it is `async def`.
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
        return  # one written in C that does not say
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
