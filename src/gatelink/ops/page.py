"""The page of a game, for development: a folder's files over HTTP, on this machine alone.

Elsewhere a web server has the folder, with a `gatelink.json` in it.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from mimetypes import MimeTypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from gatelink.errors import ConfigError, needing
from gatelink.net.endpoints import http_address, is_loopback

if TYPE_CHECKING:
    from gatelink.ops.http import HttpServer

FACTS = "gatelink.json"
"""What tells the page where to log in: `{"login": "http://127.0.0.1:8080"}`, or `{}` without a login service."""

MAX_FILE = 32 * 1_048_576
"""Bytes of a file, which is read as a whole."""

_TYPES = MimeTypes()
_TEXT = "text/plain"
_JSON = "application/json"

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def page_address(url: str) -> tuple[str, int]:
    """The host and port of `http://host:port`. Raises ConfigError for anything else, and for another machine's host."""
    if (address := http_address(url)) is None:
        raise ConfigError(f"a page can't be at {url!r}; write it as http://127.0.0.1:8000")
    host, port = address
    if not is_loopback(host):
        raise ConfigError(
            f"a page is served for development, to this machine alone, and {host} is not loopback; write it as "
            f"http://127.0.0.1:{port}, and let a web server have the folder elsewhere"
        )
    return address


def page_origins(url: str) -> tuple[str, ...]:
    """The origins of a page that is at `url`, by each name of loopback."""
    host, port = page_address(url)
    hosts = dict.fromkeys([f"[{host}]" if ":" in host else host, "127.0.0.1", "localhost"])
    return tuple(f"http://{each}" if port == 80 else f"http://{each}:{port}" for each in hosts)


def is_for_here(host: bytes) -> bool:
    """Whether a request with the header `Host: host` names this machine's loopback, at any port.

    A page of another site has another name there, even while its name leads to 127.0.0.1 (DNS rebinding). So its
    scripts can't read the files.
    """
    try:
        name = urlsplit(f"http://{host.decode('ascii')}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name.endswith(".localhost")


class Page:
    """Serves the files of `folder` at `listen`, `http://host:port`, during the block. port: 0 for any that is free.

    Its `gatelink.json` waits for `tell`. Raises ConfigError for a folder that is not there, and at the start of the
    block if it can't listen.
    """

    def __init__(self, folder: Path, listen: str) -> None:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}, so there is no page to serve")
        self._folder = folder.resolve()
        self._host, self._port = page_address(listen)
        self._facts = b""
        self._are_told = asyncio.Event()
        self._http: HttpServer

    async def __aenter__(self) -> Self:
        with needing("cluster", "a page"):
            from gatelink.ops.http import HttpServer  # keeps uvicorn out of processes without one
        self._http = HttpServer(self._respond, self._host, self._port, name=f"http://{self._host}:{self._port}")
        await self._http.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.stop()

    @property
    def url(self) -> str:
        """Where it is, with the port that was taken."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._http.port}/"

    def tell(self, login: str) -> None:
        """Say where the page logs in; "" without a login service."""
        self._facts = msgspec.json.encode({"login": login} if login else {})
        self._are_told.set()

    async def _respond(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if not is_for_here(dict(scope["headers"]).get(b"host", b"")):
            status, kind, body = 421, _TEXT, b"a page for this machine alone; open it as localhost\n"
        else:
            if scope["path"] == f"/{FACTS}":
                await self._are_told.wait()
            status, kind, body = self._reply(scope["method"], scope["path"])
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"frame-ancestors 'none'"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _reply(self, method: str, path: str) -> tuple[int, str, bytes]:
        """(status, content type, body)"""
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET and HEAD\n"
        if path == f"/{FACTS}":
            return 200, _JSON, self._facts
        file = self._file(path)
        if file is None:
            return 404, _TEXT, b"there is no such file\n"
        try:
            with file.open("rb") as opened:
                body = opened.read(MAX_FILE + 1)
        except OSError as error:
            return 403, _TEXT, f"the file can't be read: {error.strerror}\n".encode()
        if len(body) > MAX_FILE:
            return 413, _TEXT, f"a file of more than {MAX_FILE} bytes; let a web server have it\n".encode()
        kind = _TYPES.guess_type(file.name)[0] or "application/octet-stream"
        is_text = kind.startswith("text/") or kind.endswith(("javascript", "json"))
        return 200, f"{kind}; charset=utf-8" if is_text else kind, body

    def _file(self, path: str) -> Path | None:
        """The file of a path. None if there is no such file, or if it is hidden or outside the folder."""
        name = path.lstrip("/") + ("index.html" if path.endswith("/") else "")
        try:
            found = (self._folder / name).resolve(strict=True)
            if not found.is_file() or not found.is_relative_to(self._folder):
                return None
        except (OSError, ValueError, RuntimeError):  # a zero byte, or a loop of links
            return None
        parts = (*name.split("/"), *found.relative_to(self._folder).parts)  # of the path, and of the file behind links
        return None if any(part.startswith(".") for part in parts) else found
