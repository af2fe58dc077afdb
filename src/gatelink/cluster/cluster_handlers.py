"""A server's handlers of messages from other servers: posts over links, calls and events through the engine."""

from collections.abc import Callable
from typing import Any, TypeVar

from gatelink.calls import invoke, invoke_plain
from gatelink.cluster.engine import NoHandler
from gatelink.errors import CatalogError
from gatelink.handlers import Handlers
from gatelink.handling.checks import check_handler
from gatelink.handling.fallback import Fallback, Table
from gatelink.handling.routes import Route
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.interfaces import MessageSource
from gatelink.wire.frames import Frame
from gatelink.wire.messages import Catalog

quiet = RateLimitedLogger(Logger("gatelink.cluster"))

_M = TypeVar("_M")
_R = TypeVar("_R")
_E = TypeVar("_E", bound=Callable[[Any], None])


class PostFallback(Fallback):
    """Drops and counts posts that cannot be handled: one bad post must not close the link."""

    def __init__(self) -> None:
        self.malformed_posts = 0
        self.unhandled_posts = 0

    def unrouted(self, table: Table, session: MessageSource, frame: Frame) -> None:
        """Count a post that nothing here handles."""
        self.unhandled_posts += 1
        quiet.error("a post has no handler here", server=session.uid, id=frame[0])

    def malformed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """Count a post that does not decode."""
        self.malformed_posts += 1
        quiet.error("post dropped", server=session.uid, message=route.name, error=type(error).__name__)


class ClusterHandlers:
    """A server's handlers of posts, calls and events from other servers; registered before it starts.

    `posts` is the table of posted messages, whose handlers get the link's session and the message.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.post_fallback = PostFallback()
        self.posts = Handlers(catalog, self.post_fallback)
        self.topics: dict[str, Callable[[bytes], None]] = {}
        self._catalog = catalog
        self._calls: dict[type, Callable[[Any], Any]] = {}

    def on_call(self, request: type[_M]) -> Callable[[Callable[[_M], _R]], Callable[[_M], _R]]:
        """Decorator: `handler(request)`, plain or async, returns the answer to a call. Raises CatalogError."""
        self._catalog.of_type(request)

        def register(handler: Callable[[_M], _R]) -> Callable[[_M], _R]:
            if request in self._calls:
                raise CatalogError(f"calls with {request.__name__} have a handler already")
            check_handler(
                handler,
                f"calls with {request.__name__}",
                "request",
                message=request,
                messages=self._catalog.by_type,
            )
            self._calls[request] = handler
            return handler

        return register

    def on_event(self, topic: str) -> Callable[[_E], _E]:
        """Decorator: `handler(message)`, a plain function, for messages published to `topic`. Raises CatalogError."""

        def register(handler: _E) -> _E:
            check_handler(handler, f"topic {topic!r}", "message", asynchronous=False)
            if topic in self.topics:
                raise CatalogError(f"the topic {topic!r} has a handler already")
            self.topics[topic] = lambda data: invoke_plain(handler, invoke_plain(decode, self._catalog, data))
            return handler

        return register

    async def answer(self, data: bytes) -> bytes:
        """Answer one call."""
        request = invoke_plain(decode, self._catalog, data)
        handler = self._calls.get(type(request))
        if handler is None:
            raise NoHandler
        return invoke_plain(encode, self._catalog, await invoke(handler, request))


def encode(catalog: Catalog, message: Any) -> bytes:
    """A message as the engine carries it: id u16, body."""
    kind, body = catalog.encode(message)
    return kind.id.to_bytes(2, "little") + body


def decode(catalog: Catalog, data: bytes) -> Any:
    """Decode what `encode` made. Raises CatalogError, and what the codec raises."""
    return catalog.find(int.from_bytes(data[:2], "little")).decode(data[2:])
