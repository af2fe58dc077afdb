"""A small HTTP server inside somebody else's event loop: uvicorn without its signals, logs and main loop."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatelink.errors import ConfigError
from gatelink.net.endpoints import not_listening

MAX_CONNECTIONS = 16  # for a scraper, a health check and a curious person; more are cut off
KEEP_ALIVE = 5.0  # s that a connection may idle after a response
LIFETIME = 30  # s after which any connection is cut off: slowloris, or a reader that does not read
STOPPING = 1  # s that a response may take when the server stops

_log = logging.getLogger("gatelink.http")
_log.setLevel(logging.ERROR)  # what peers do wrong is a warning, and theirs to know; ERROR is a fault of ours


class HttpServer:
    """Serves an ASGI app on every address of `host`, at `port`, 0 for any that is free, from `start` to `stop`.

    name: what errors call the address. protocol: makes what speaks on a connection; by default the admin port's, for
    few who are known. keep_alive: seconds that a connection may idle after a response.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        name: str,
        protocol: Callable[..., H11Protocol] | None = None,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self.host = host
        self.port = port  # after `start`, the one that was taken
        self._name = name
        self._listeners: list[socket.socket] = []
        self._config = uvicorn.Config(
            app,
            http=protocol or _Protocol,  # type: ignore[arg-type]  # any factory does
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
        """Accepts connections from now on. uvicorn's `serve` would take the process's signal handlers.

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
        """Accepts no more, gives responses under way a moment, and leaves nothing open."""
        await self._server.shutdown(sockets=self._listeners)
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            await asyncio.wait(state.tasks)


def listeners(addresses: list[tuple[int, str]], port: int) -> list[socket.socket]:
    """Sockets that listen at each of `addresses`, a family and a host, all on one port; port 0: one that is free.

    An address that this machine does not have, as ::1 without IPv6, is left out if there is another. Raises OSError;
    then nothing is left open.
    """
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


class _Protocol(H11Protocol):
    """One connection, which uvicorn alone would let idle for ever before its first request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self.logger = _log
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._end = self.loop.call_later(LIFETIME, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)
