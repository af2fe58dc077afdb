"""One HTTP connection of the login service: uvicorn's, with the deadlines and limits that uvicorn does not have.

uvicorn has one timeout, of a connection that idles after a reply, and every byte that comes ends it (its issue 157). So
without more, who sends a header's byte now and then keeps a connection for ever.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatelink.login.limits import LoginLimits
from gatelink.login.problems import problem, response_of
from gatelink.net.endpoints import AddressTable

SPARE = 2.0
"""Seconds beyond `limits.timeout` after which a request's connection is cut: the reply was not read, or never came."""

_log = logging.getLogger("gatelink.login.http")
_log.setLevel(logging.ERROR)  # what peers do wrong is a warning, and theirs to know; ERROR is a fault of ours


class HttpAdmission:
    """Which HTTP connections are let in. `count` of them are open; `refused` counts the others, by reason."""

    def __init__(self, limits: LoginLimits, proxies: tuple[str, ...]) -> None:
        self.limits = limits
        self.addresses = AddressTable(limits.max_per_address, (*limits.exempt, *proxies))
        self.count = 0
        self.refused: Counter[str] = Counter()

    def protocol(self, **settings: Any) -> "LoginProtocol":
        """A connection, as uvicorn asks for one."""
        return LoginProtocol(self, **settings)

    def enter(self, host: str) -> bool:
        """Whether a connection from `host` is admitted; if so, `leave` it."""
        if self.count >= self.limits.max_connections:
            self.refused["server-full"] += 1
            return False
        if not self.addresses.enter(host):
            self.refused["address-full"] += 1
            return False
        self.count += 1
        return True

    def leave(self, host: str) -> None:
        self.count -= 1
        self.addresses.leave(host)


class LoginProtocol(H11Protocol):
    """Each request's head has a deadline that no byte moves; so has the rest of it, until its reply is out."""

    def __init__(self, admission: HttpAdmission, **settings: Any) -> None:
        super().__init__(**settings)
        self.access_log = False
        self.logger = _log
        self.conn = h11.Connection(h11.SERVER, admission.limits.max_head)
        self._admission = admission
        self._admitted = False
        self._end: asyncio.TimerHandle | None = None
        self._is_idle = False  # no byte has come since the last reply

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._admitted = self._admission.enter(self.client[0] if self.client else "")
        if self._admitted:
            self._cut_in(self._admission.limits.head_timeout)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._admitted:
            self._admitted = False
            self._admission.leave(self.client[0] if self.client else "")
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

    def on_response_complete(self) -> None:
        before = self.cycle
        self._is_idle = not self.conn.trailing_data[0]  # else the next head has begun
        # From now on, for what is left of the reply, and the next head if it has begun.
        self._cut_in(self._admission.limits.head_timeout, self._reply_taken)
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
