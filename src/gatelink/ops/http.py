"""A small HTTP server inside the event loop of its caller: uvicorn without its signals, logs and main loop.

This is the only module that knows uvicorn. It uses names that uvicorn does not document. So pyproject.toml has an upper
bound of its version, and tests/unit/ops/test_uvicorn.py fails when one of these names changes.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatelink.errors import ConfigError
from gatelink.net.endpoints import not_listening

MAX_CONNECTIONS = 16  # of an admin port: a scraper, a health check and a person; more are aborted
KEEP_ALIVE = 5.0  # s that a connection may idle after a response
LIFETIME = 30  # s after which a connection of an admin port is aborted: slowloris, or a peer that does not read
STOPPING = 1  # s that a response may take when the server stops
FREE_PORTS = 20  # attempts to find a port that is free at all addresses

_log = logging.getLogger("gatelink.http")
_log.setLevel(logging.ERROR)  # uvicorn warns of a peer's faults; its errors are faults of the application


class HttpConnection(H11Protocol):
    """A connection on h11 with a deadline, which uvicorn's lacks: alone it lets a silent connection stay for ever.

    A subclass overrides `on_request`, `on_reply` and `bad_request`, and the methods of asyncio.Protocol.
    """

    def __init__(self, parser: h11.Connection | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.access_log = False
        self.logger = _log
        self.conn = parser or self.conn
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        """The peer's address; "" for a Unix socket."""
        return self.client[0] if self.client else ""

    @property
    def request(self) -> object | None:
        """The request under way, another object for each; None between a reply and the next request."""
        return None if self.cycle is None or self.cycle.response_complete else self.cycle

    @property
    def has_whole_request(self) -> bool:
        """Whether the peer has sent its request to the end."""
        return self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)

    @property
    def has_unread_bytes(self) -> bool:
        """Whether bytes came that belong to no request yet."""
        return bool(self.conn.trailing_data[0])

    def set_deadline(self, seconds: float, action: Callable[[], None] | None = None) -> None:
        """After `seconds` call `action`, by default abort. It replaces the deadline before."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, action or self.transport.abort)

    def close_after_reply(self) -> None:
        """Let the reply to the request under way be the last, as if the peer had asked for that."""
        self.cycle.keep_alive = False
        if not self.cycle.response_started and CLOSE_HEADER not in self.cycle.scope["headers"]:
            self.cycle.scope["headers"] = [*self.cycle.scope["headers"], CLOSE_HEADER]

    def on_request(self) -> None:
        """The head of a request has come."""

    def on_reply(self) -> None:
        """The reply to the request is complete."""

    def bad_request(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """(status, headers, body) of the reply to what is no HTTP."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        return 400, headers, b"not an HTTP request\n"

    def data_received(self, data: bytes) -> None:
        before = self.request
        super().data_received(data)
        self._look_for_request(before)

    def on_response_complete(self) -> None:
        self.on_reply()
        super().on_response_complete()
        self._look_for_request(None)  # it may have come with the one before

    def _look_for_request(self, before: object | None) -> None:
        if self.request not in (None, before):
            self.on_request()

    def send_400_response(self, msg: str) -> None:
        status, headers, body = self.bad_request()
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        try:
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # in the middle of a reply: the connection ends without this one
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


class _AdminConnection(HttpConnection):
    """One of few connections, of a scraper or of a person."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.set_deadline(LIFETIME)


class HttpServer:
    """Serves an ASGI app on every address of `host` from `start` to `stop`. port: 0 for any that is free.

    name: of the address, for errors. connection: makes a connection out of uvicorn's settings; by default one of an
    admin port. keep_alive: seconds that a connection may idle after a response.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        name: str,
        connection: Callable[..., HttpConnection] = _AdminConnection,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self.host = host
        self.port = port  # after `start`, the one that was taken
        self._name = name
        self._listeners: list[socket.socket] = []
        self._config = uvicorn.Config(
            app,
            http=connection,  # type: ignore[arg-type]  # any factory does
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # it takes fractions of a second as well
            timeout_graceful_shutdown=STOPPING,
        )
        self._server = uvicorn.Server(self._config)

    async def start(self) -> None:
        """Start to accept connections. uvicorn's `serve` would take the process's signal handlers.

        Raises ConfigError if it can't listen there; then nothing is left open.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self._listeners = listeners([(family, str(where[0])) for family, _, _, _, where in found], self.port)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"cannot listen on {self._name}: {not_listening(error)}") from None
        self.host, self.port = self._listeners[0].getsockname()[:2]
        self._config.load()
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=self._listeners)

    async def stop(self) -> None:
        """Stop accepting, give responses under way a moment, and leave nothing open."""
        await self._server.shutdown(sockets=self._listeners)
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            await asyncio.wait(state.tasks)


def listeners(addresses: list[tuple[int, str]], port: int) -> list[socket.socket]:
    """Sockets that listen at each of `addresses`, pairs of a family and a host, all on one port. 0: any free port.

    An address that this machine lacks, as ::1 without IPv6, is left out if another one works. Raises OSError;
    then nothing is left open.
    """
    for _ in range(0 if port else FREE_PORTS - 1):
        try:
            return _listeners(addresses, 0)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _listeners(addresses, port)  # the error of the last attempt is raised


def _listeners(addresses: list[tuple[int, str]], port: int) -> list[socket.socket]:
    """One attempt of `listeners`. For 0 it takes a free port of the first address. EADDRINUSE: another lacks it."""
    found: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, host in addresses:
            taken = found[0].getsockname()[1] if found else port
            try:
                found.append(socket.create_server((host, taken), family=family))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing is not None and not found:
            raise missing
    except OSError:
        for listener in found:
            listener.close()
        raise
    return found
