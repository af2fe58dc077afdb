"""The admin port: /metrics, /healthz and /livez over plain HTTP, in the server's own loop.

/healthz says whether the server can take new players, for balancers; /readyz is another name for it. /livez says that
the loop runs, for what starts dead processes again. The port has no login. Bind it where only your monitoring can reach
it.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from gatelink.logger import Logger
from gatelink.net.endpoints import is_everywhere, parse_admin
from gatelink.ops.lag import LoopLag

if TYPE_CHECKING:
    from gatelink.ops.families import Exposition
    from gatelink.ops.http import HttpServer

log = Logger("gatelink.admin")

FIX = "listen on a private address, or close the port in the firewall"

_PATHS = ("/metrics", "/healthz", "/readyz", "/livez")
_TEXT = b"text/plain; charset=utf-8"
_EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Watched(Protocol):
    """The owner of an admin port: a server or a login service. It stops its `lag` meter itself."""

    lag: LoopLag

    def metrics(self) -> "Exposition":
        """Its metrics, for the whole run."""

    @property
    def is_running(self) -> bool: ...

    @property
    def trouble(self) -> str:
        """Why it can't take new players now, in words for people; "" if it can."""


class Admin:
    """The admin port of `server`, at `address`: "host:port", port 0 for any free one."""

    def __init__(self, server: Watched, address: str) -> None:
        self._server = server
        self._address = address
        self._http: HttpServer | None = None
        self._metrics: Exposition
        self.port = 0  # after `start`, the real one

    async def start(self) -> None:
        """Listen. Raises ConfigError for an invalid or unavailable address; then nothing is left open."""
        from gatelink.ops.http import HttpServer  # keeps uvicorn out of processes without an admin port

        endpoint = parse_admin(self._address)
        http = HttpServer(self._respond, endpoint.host, endpoint.port, name=f"admin address {self._address}")
        self._metrics = self._server.metrics()
        await http.start()
        self._http, self.port = http, http.port
        self._server.lag.start()
        if is_everywhere(http.host):  # the address that was bound
            log.warning("the admin port has no login, and every network can reach it", admin=self._address, fix=FIX)

    async def stop(self) -> None:
        """Close the port and its connections. Does nothing if it was not started."""
        if self._http is None:
            return
        http, self._http = self._http, None
        await http.stop()

    async def _respond(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI app."""
        status, kind, body = self._page(scope["method"], scope["path"])
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _page(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        """(status, content type, body)"""
        if path not in _PATHS:
            return 404, _TEXT, f"there are {', '.join(_PATHS)}\n".encode()
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET and HEAD\n"
        if path == "/metrics":
            return 200, _EXPOSITION, self._metrics.exposition()
        if path == "/livez":
            return 200, _TEXT, b"alive\n"
        if not self._server.is_running:
            return 503, _TEXT, b"stopping\n"
        trouble = self._server.trouble
        return (503, _TEXT, f"{trouble}\n".encode()) if trouble else (200, _TEXT, b"ok\n")
