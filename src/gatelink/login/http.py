"""One HTTP connection of the login service: uvicorn's on h11, with the limits that these do not have.

They are kept, and made stricter from outside, because they are small, well known and maintained: what is missing are
deadlines and shares, which other servers leave to a proxy as well.

uvicorn has one timeout, of a connection that idles after a reply, and every byte that comes ends it (its issue 157). So
without more, who sends a header's byte now and then keeps a connection for ever.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatelink.config import networks
from gatelink.login.limits import LoginLimits
from gatelink.login.messages import problem, response_of
from gatelink.login.networks import RequestRates
from gatelink.net.endpoints import AddressTable, contains

SPARE = 2.0
"""Seconds beyond `limits.timeout` after which a request's connection is cut: the reply was not read, or never came."""

_WHOLE = (h11.DONE, h11.MUST_CLOSE)
"""States of a peer that has sent all of its request."""

_log = logging.getLogger("gatelink.login.http")
_log.setLevel(logging.ERROR)  # what peers do wrong is a warning, and theirs to know; ERROR is a fault of ours


class HttpAdmission:
    """Which HTTP connections are let in. `count` of them are open; `refused` counts the others, by reason.

    When all places are taken, the connection that has been idle for the longest gives way to a new one. Idle is one
    that has sent no whole request: it waits for one, or trickles.
    """

    def __init__(self, limits: LoginLimits, proxies: tuple[str, ...], rates: RequestRates) -> None:
        self.limits = limits
        self._rates = rates
        self._proxies = networks(*proxies)
        self._idle: dict[LoginProtocol, None] = {}  # the one that is idle for the longest in front
        self.addresses = AddressTable(limits.max_per_address, (*limits.exempt, *proxies))
        self.count = 0
        self.refused: Counter[str] = Counter()

    def protocol(self, **settings: Any) -> "LoginProtocol":
        """A connection, as uvicorn asks for one."""
        return LoginProtocol(self, **settings)

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
        """Cuts the connection that has been idle for the longest; False if there is none."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self.refused["idle"] += 1
        oldest.give_way()
        return True

    def idle(self, connection: "LoginProtocol") -> None:
        """`connection` waits for its next request, from now on."""
        self.busy(connection)
        self._idle[connection] = None

    def busy(self, connection: "LoginProtocol") -> None:
        """`connection` has sent a whole request, or is over."""
        self._idle.pop(connection, None)

    def leave(self, host: str) -> None:
        self.count -= 1
        self.addresses.leave(host)


class ChunkLines:
    """Finds a bare CR in the lines that begin chunks (RFC 9112, sections 2.2 and 7.1.1).

    h11 takes one as part of an extension. Another reader could take it as the end of the line, and so see another body
    and another request behind it. Chunks that are wrong in any other way are h11's to refuse.
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


class StrictConnection(h11.Connection):
    """h11's, which also refuses a bare CR in a chunk's line."""

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


class LoginProtocol(H11Protocol):
    """Each request's head has a deadline that no byte moves; so has the rest of it, until its reply is out.

    One request at a time: what comes behind it before its reply is out is not read, and the connection ends with that
    reply.
    """

    def __init__(self, admission: HttpAdmission, **settings: Any) -> None:
        super().__init__(**settings)
        self.access_log = False
        self.logger = _log
        self.conn = StrictConnection(admission.limits.max_head)
        self._admission = admission
        self._admitted = False
        self._end: asyncio.TimerHandle | None = None
        self._is_idle = False  # no byte has come since the last reply

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._admitted = self._admission.enter(self.client[0] if self.client else "")
        if self._admitted:
            self._admission.idle(self)
            self._cut_in(self._admission.limits.head_timeout)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._is_idle:
            self._is_idle = False
            self._cut_in(self._admission.limits.head_timeout)
        super().data_received(data)
        self._watch(before)
        if self.cycle is not None and not self.cycle.response_complete and self.conn.their_state in _WHOLE:
            self._admission.busy(self)
            if self.conn.trailing_data[0]:
                self._end_with_reply()

    def give_way(self) -> None:
        """Ends it now; its place is free."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        if self._admitted:
            self._admitted = False
            self._admission.busy(self)
            self._admission.leave(self.client[0] if self.client else "")

    def _end_with_reply(self) -> None:
        """Has the reply that is due be the last: as if the peer had asked for that."""
        self.cycle.keep_alive = False
        if not self.cycle.response_started and CLOSE_HEADER not in self.cycle.scope["headers"]:
            self.cycle.scope["headers"] = [*self.cycle.scope["headers"], CLOSE_HEADER]

    def on_response_complete(self) -> None:
        before = self.cycle
        self._is_idle = not self.conn.trailing_data[0]  # else this is the last
        # From now on, for what is left of the reply, and the next head if it has begun.
        self._cut_in(self._admission.limits.head_timeout, self._reply_taken)
        if self._admitted:
            self._admission.idle(self)
        super().on_response_complete()
        self._watch(before)

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP, or a head that is too long."""
        most = self._admission.limits.max_head
        wrong = problem(400, "bad-request", f"not an HTTP request, or one with a head of more than {most} bytes")
        status, headers, body = response_of(wrong, {"connection": "close"})
        try:
            events: list[h11.Event] = [
                h11.Response(status_code=status, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # in the middle of a request that is being answered: it ends without
        self.transport.close()

    def _watch(self, before: object) -> None:
        """Sets the deadline of a request that has begun since `before` was the newest."""
        if self.cycle is not before and not self.cycle.response_complete:
            self._cut_in(self._admission.limits.timeout + SPARE)

    def _reply_taken(self) -> None:
        """Lets a connection idle on if its peer has taken the reply; uvicorn closes it after `limits.keep_alive`."""
        if self._is_idle and not self.transport.get_write_buffer_size():
            self._cut_in(self._admission.limits.keep_alive + SPARE)
        else:
            self.transport.abort()

    def _cut_in(self, seconds: float, then: Callable[[], None] | None = None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, then or self.transport.abort) if self._admitted else None
