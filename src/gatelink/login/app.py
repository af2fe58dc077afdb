"""The limits before the application: the client's address, requests at a time, sizes and times."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gatelink.config import networks
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.login.limits import LoginLimits
from gatelink.login.messages import RETRY_AFTER, Problem, problem, response_of
from gatelink.login.networks import RequestRates
from gatelink.net.endpoints import contains
from gatelink.net.forwarded import forwarded_for
from gatelink.net.origins import takes

log = Logger("gatelink.login.http")
quiet = RateLimitedLogger(log)

MOST_DISCARDED = 1_048_576
"""Bytes of a body over the limit that are read and discarded, so that its sender gets the answer and not a reset."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLOSE = {"connection": "close"}
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"content-type"),
    (b"access-control-max-age", b"600"),
]
_LATER = {"retry-after": str(RETRY_AFTER)}


class LimitedApp:
    """The ASGI application `app` within `limits`.

    rates: of requests, for each network. proxies: networks whose X-Forwarded-For is trusted. origins: of pages on
    other hosts whose scripts may ask. `active` counts the requests under way, `responses` the responses by status.
    """

    def __init__(
        self,
        app: App,
        limits: LoginLimits,
        rates: RequestRates,
        proxies: tuple[str, ...] = (),
        origins: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._origins = origins
        self._limits = limits
        self._rates = rates
        self._proxies = networks(*proxies)
        self._exempt = networks(*limits.exempt)
        self._warned = False
        self.active = 0
        self.responses: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer, port = scope.get("client") or ("", 0)
        scope["client"] = (forwarded_for(scope["headers"], peer, self._proxies), port)
        if not (self._proxies or self._warned):
            self._look_for_proxy(scope, peer)
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        is_allowed = bool(origin) and takes(self._origins, origin)
        if is_allowed:
            send = _for_origin(origin, send)
        wait = self._rates.take(scope["client"][0])  # first of all, so that refused requests count, too
        if _head_size(scope) > self._limits.max_head:  # h11 limits only a head that comes in several pieces
            large = problem(431, "too-large-head", f"line and headers may have {self._limits.max_head} bytes")
            await self._refuse(send, large, _CLOSE)
            return
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # h11 uses the latter. A proxy that uses the former sees another request behind this one.
            two = problem(400, "bad-request", "a body has Content-Length or Transfer-Encoding, not both")
            await self._refuse(send, two, _CLOSE)
            return
        if is_allowed and not wait and _is_preflight(scope):
            self.responses[204] += 1
            await send({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
            await send({"type": "http.response.body", "body": b""})
            return
        body: bytes | None = None
        started = False

        async def send_counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.responses[message["status"]] += 1
            await send(message)

        try:
            async with asyncio.timeout(self._limits.timeout):  # for the body and the work
                body = await self._read(scope, receive)
                if wait:  # only now: unread bytes cause a reset, which could overtake the answer
                    often = problem(429, "too-many-requests", "the network asks too often")
                    await self._refuse(send, often, {**_CLOSE, "retry-after": str(math.ceil(wait))})
                    return
                # Only a whole request takes a place, or slow bodies would hold all of them.
                if body is not None and self.active < self._limits.max_requests:
                    self.active += 1
                    # uvicorn has a scope of its own and omits the body in the answer to a HEAD.
                    asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                    try:
                        await self._app(asked, _replaying(body, receive), send_counted)
                    finally:
                        self.active -= 1
                    return
        except _Disconnected:
            return
        except TimeoutError:
            if started:
                raise  # uvicorn closes the connection
            if body is None:
                late = problem(408, "too-slow", f"the body did not come within {self._limits.timeout:g} s")
                await self._refuse(send, late, _CLOSE)
            else:
                quiet.error("request took too long", path=scope["path"], seconds=self._limits.timeout)
                await self._refuse(send, problem(503, "timeout", "the request took too long"), _LATER)
            return
        if body is None:
            large = problem(413, "too-large", f"a body may have {self._limits.max_body} bytes")
            await self._refuse(send, large, _CLOSE)
        else:
            await self._refuse(send, problem(503, "busy", "too many requests are under way"), _LATER)

    def _look_for_proxy(self, scope: Scope, peer: str) -> None:
        """Log once that a proxy is missing in the settings."""
        if any(name == b"x-forwarded-for" for name, _ in scope["headers"]) and contains(self._exempt, peer):
            self._warned = True
            fix = "add its address to login.proxies"
            log.error("a proxy that login.proxies does not have; no limit per network holds", address=peer, fix=fix)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large. Raises _Disconnected if the client closes before its end."""
        most = self._limits.max_body
        if _declared(scope["headers"]) > MOST_DISCARDED:
            return None
        body, size, more = b"", 0, True
        while more and size <= MOST_DISCARDED:
            message = await receive()
            if message["type"] != "http.request":
                raise _Disconnected  # a part of a body must not pass as a whole one
            chunk = message.get("body", b"")
            size += len(chunk)
            body = body + chunk if size <= most else b""
            more = message.get("more_body", False)
        return body if size <= most else None

    async def _refuse(self, send: Send, what: Problem, headers: dict[str, str]) -> None:
        status, fields, body = response_of(what, headers)
        self.responses[status] += 1
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})


class _Disconnected(Exception):
    """The client closed the connection."""


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page may ask (the Fetch standard, "CORS-preflight request")."""
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


def _for_origin(origin: str, send: Send) -> Send:
    """A `send` whose responses the scripts of a page of this origin may read."""

    async def send_readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", b"retry-after"),
                (b"vary", b"origin"),
            ]
            message = {**message, "headers": [*message["headers"], *allowed]}
        await send(message)

    return send_readable


def _replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body`, once."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _head_size(scope: Scope) -> int:
    line = len(scope.get("raw_path", b"")) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """The Content-Length, which h11 has checked; 0 without one."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)
