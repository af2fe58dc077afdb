"""The HTTP connections of the login service: uvicorn's on h11, with the limits that these lack.

uvicorn and h11 are small, well known and maintained. They lack deadlines and shares, which other servers leave to a
proxy as well. uvicorn has one timeout, of a connection that idles after a reply, and any byte ends it (its issue 157).
So a peer that sends one byte of a header now and then would keep its connection for ever.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11

from gatelink.config import networks
from gatelink.login.limits import LoginLimits
from gatelink.login.messages import problem, response_of
from gatelink.login.networks import RequestRates
from gatelink.net.endpoints import AddressTable, contains
from gatelink.ops.http import HttpConnection

SPARE = 2.0
"""Seconds beyond `limits.timeout` until the connection is aborted: its reply was not read, or never came."""


class HttpAdmission:
    """Admits HTTP connections. `count` of them are open; `refused` counts the others, by reason.

    When all places are taken, a new connection takes the place of the one that has been idle for the longest. A
    connection is idle while it has sent no whole request.
    """

    def __init__(self, limits: LoginLimits, proxies: tuple[str, ...], rates: RequestRates) -> None:
        self.limits = limits
        self._rates = rates
        self._proxies = networks(*proxies)
        self._idle: dict[LoginConnection, None] = {}  # the one that has been idle for the longest in front
        self.addresses = AddressTable(limits.max_per_address, (*limits.exempt, *proxies))
        self.count = 0
        self.refused: Counter[str] = Counter()

    def enter(self, host: str) -> bool:
        """Whether a connection from `host` is admitted; if so, `leave` it."""
        if not contains(self._proxies, host) and self._rates.is_flooding(host):
            self.refused["network-rate"] += 1
            return False
        if not self.addresses.enter(host):
            self.refused["address-full"] += 1
            return False
        if self.count >= self.limits.max_connections and not self._make_room():
            self.addresses.leave(host)
            self.refused["server-full"] += 1
            return False
        self.count += 1
        return True

    def _make_room(self) -> bool:
        """Abort the connection that has been idle for the longest; False if no connection is idle."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self.refused["idle"] += 1
        oldest.give_way()
        return True

    def idle(self, connection: "LoginConnection") -> None:
        """`connection` waits for its next request from now on."""
        self.busy(connection)
        self._idle[connection] = None

    def busy(self, connection: "LoginConnection") -> None:
        """`connection` has sent a whole request, or is closed."""
        self._idle.pop(connection, None)

    def leave(self, host: str) -> None:
        self.count -= 1
        self.addresses.leave(host)


class ChunkLines:
    """Finds a bare CR in the lines that begin chunks (RFC 9112, sections 2.2 and 7.1.1).

    h11 takes a bare CR as part of an extension. A proxy could take it as the end of the line, and so see another body
    and another request behind it. h11 itself refuses all other malformed chunks.
    """

    def __init__(self) -> None:
        self._line = b""
        self._skip = 0  # bytes until the next line: the chunk, and the CRLF behind it
        self._is_over = False
        self.is_wrong = False

    def feed(self, data: bytes) -> None:
        while data and not self._is_over:
            if self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
                continue
            self._line += data
            line, end, data = self._line.partition(b"\r\n")
            if not end:
                return  # h11 limits how long it may be
            self._line = b""
            self._begin(line)

    def _begin(self, line: bytes) -> None:
        self.is_wrong = self.is_wrong or b"\r" in line
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = 0  # h11 finds it wrong, too
        self._skip = size + 2
        self._is_over = size <= 0


class StrictParser(h11.Connection):
    """h11's parser that also refuses a bare CR in a chunk's line."""

    def __init__(self, max_head: int) -> None:
        super().__init__(h11.SERVER, max_head)
        self._chunks: ChunkLines | None = None

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data)
        if self._chunks is not None:
            self._chunks.feed(data)

    def next_event(self) -> Any:
        """As h11's. Raises h11.RemoteProtocolError."""
        if self._chunks is not None and self._chunks.is_wrong:
            raise h11.RemoteProtocolError("a bare CR in a chunk's line")
        event = super().next_event()
        if isinstance(event, h11.Request):
            is_chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            self._chunks = ChunkLines() if is_chunked else None
            if self._chunks is not None:
                self._chunks.feed(self.trailing_data[0])
        elif isinstance(event, h11.EndOfMessage):
            self._chunks = None
        return event


class LoginConnection(HttpConnection):
    """A connection with a deadline for the head of each request, and one for its rest and reply. No byte moves them.

    One request at a time: the bytes behind a request are not read before its reply is out, and the connection ends with
    that reply.
    """

    def __init__(self, admission: HttpAdmission, **settings: Any) -> None:
        super().__init__(StrictParser(admission.limits.max_head), **settings)
        self._admission = admission
        self._limits = admission.limits
        self._admitted = False
        self._is_idle = False  # no byte has come since the last reply

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._admitted = self._admission.enter(self.host)
        if self._admitted:
            self._admission.idle(self)
            self.set_deadline(self._limits.head_timeout)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._cut_in(self._limits.head_timeout)
        super().data_received(data)
        if self.request is not None and self.has_whole_request:
            self._admission.busy(self)
            if self.has_unread_bytes:
                self.close_after_reply()

    def on_request(self) -> None:
        self._cut_in(self._limits.timeout + SPARE)

    def on_reply(self) -> None:
        self._is_idle = not self.has_unread_bytes  # else this reply is the last
        # For the rest of the reply, and for the next head if it has begun.
        self._cut_in(self._limits.head_timeout, self._reply_sent)
        if self._admitted:
            self._admission.idle(self)

    def bad_request(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        most = self._limits.max_head
        wrong = problem(400, "bad-request", f"not an HTTP request, or one with a head of more than {most} bytes")
        return response_of(wrong, {"connection": "close"})

    def give_way(self) -> None:
        """Abort, and free the place at once."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        if self._admitted:
            self._admitted = False
            self._admission.busy(self)
            self._admission.leave(self.host)

    def _reply_sent(self) -> None:
        """Let the connection idle on if its peer has taken the reply; uvicorn closes it after `limits.keep_alive`."""
        if self._is_idle and not self.transport.get_write_buffer_size():
            self._cut_in(self._limits.keep_alive + SPARE)
        else:
            self.transport.abort()

    def _cut_in(self, seconds: float, action: Callable[[], None] | None = None) -> None:
        if self._admitted:
            self.set_deadline(seconds, action)
