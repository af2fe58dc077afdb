"""The table from messages and events to your code: what is registered, and how.

How the code is called is in dispatch.py.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

from gatelink.dispatch import CLOSED, RESUMED, SUSPENDED, VERIFIED, Dispatch, RawFrame, Route, is_async
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
        self, what: type[_M], *, rate: float | None = None
    ) -> Callable[[Callable[[_S, _M], _R]], Callable[[_S, _M], _R]]: ...

    @overload
    def on(self, what: int | str, *, rate: float | None = None) -> Callable[[_H], _H]: ...

    def on(self, what: type | int | str, *, rate: float | None = None) -> Callable[[_H], _H]:
        """Decorator: the handler of a message, given by its type, id or wire name: `handler(session, message)`.

        rate: how many of them one session may send in a second, and at once; more are dropped, undecoded, and counted.
        Raises CatalogError for a message that is not registered, or that has a handler, and for a function that can't
        be called with these two; ConfigError for a rate of 0.
        """
        if not isinstance(what, (type, int, str)):
            raise CatalogError(f"say of which message {what!r} is the handler, as @server.on(Hello)")
        kind = self.catalog.find(what)
        if rate is not None and not rate > 0:
            raise ConfigError(f"rate={rate} for {kind.name}; give messages a second, above 0, or None for no limit")

        def register(handler: _H) -> _H:
            check_handler(handler, kind.name, "session", "message")
            self._add(kind.id, Route(kind.name, handler, kind.decode))
            if rate is not None:
                self.rates[kind.id] = rate
            return handler

        return register

    def register(self, owner: object) -> None:
        """Registers every method of `owner` that is named as a message, `Say` or `on_say`, or event, `on_closed`.

        Raises CatalogError for a method `on_...` that names neither, so that a typing error is found at start.
        """
        events = {f"on_{name}": getattr(self, f"on_{name}") for name in ("verified", "closed", "suspended", "resumed")}
        by_method = {f"on_{_snake(name)}": kind for name, kind in self.catalog.by_name.items()}
        for name, method in inspect.getmembers(owner, callable):
            kind = by_method.get(name) or self.catalog.by_name.get(name)
            if kind is not None:
                self.on(kind.id)(method)
            elif name in events:
                events[name](method)
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

    def _on_event(self, event: int, name: str, handler: _E) -> _E:
        check_handler(handler, f"on_{name}", "session")
        route = Route(name, lambda session, _: handler(session), bytes)
        route.is_async = is_async(handler)
        self._add(event, route)
        return handler

    def _add(self, key: int, route: Route) -> None:
        if key in self.routes:
            raise CatalogError(f"{route.name} has a handler already; one message has one handler")
        self.routes[key] = route


def check_handler(handler: Callable[..., Any], of: str, *arguments: str, asynchronous: bool | None = None) -> None:
    """Finds out at start what would else fail at each message. Raises CatalogError.

    of: what it handles, in words. arguments: the names of those that it is called with. asynchronous: whether it is
    awaited; None: if it is `async def`.
    """
    if asynchronous is False and is_async(handler):
        raise CatalogError(f"the handler of {of} must be a plain function, not `async def`: nobody would await it")
    if asynchronous and not is_async(handler):
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
