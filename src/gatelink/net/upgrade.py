"""The HTTP request with which a WebSocket begins, on the accepting side (RFC 6455, section 4.2).

Until its answer a connection is as unverified as any: the same deadline, counts and caps hold. h11 reads the request.
"""

import asyncio
import base64
import binascii
import re
from typing import cast

import h11
import msgspec

from gatelink.errors import ProtocolError
from gatelink.net.acceptor import Acceptor, UnverifiedReader
from gatelink.net.connection import Connection, peer_host
from gatelink.net.forwarded import client_address
from gatelink.net.origins import takes
from gatelink.net.proxy_header import begins_header, is_header, parse_proxy_header
from gatelink.net.websocket import SUBPROTOCOL, WebSocketTransport, accept_key, header_tokens, max_message
from gatelink.session.states import ConnectionState
from gatelink.session.timers import Item
from gatelink.wire.websocket import WebSocketStream

MAX_HEAD = 8_192
"""Bytes of the request. nginx and browsers' servers take as much for one header; cookies make it long."""

HEALTH_PATH = b"/healthz"

_METHOD = re.compile(rb"[A-Z]+(?: |\Z)")
"""The beginning of a request, as far as it has arrived. h11 would wait for the end of the line."""

HINT = f"this port is for WebSocket clients with the subprotocol {SUBPROTOCOL}"

_STATUS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

FAULTS = frozenset((400, 431))
"""Statuses that count as failures of the address, as a wrong first message does. A health check or a page of another
origin gets another status."""


class UpgradeRules(msgspec.Struct, frozen=True):
    """The conditions of a WebSocket listener for a request.

    origins: the origins of web pages whose scripts may connect; with "*" all may. Other programs send no Origin.
    ends_tls: whether the listener's proxies end TLS, so that what comes through them counts as TLS.
    """

    origins: frozenset[str] = frozenset()
    ends_tls: bool = False


class Refused(Exception):
    """A request that is answered with `status`. reason: why, for our metrics; empty where nothing is wrong."""

    def __init__(self, status: int, text: str, reason: str = "http-request", headers: tuple[str, ...] = ()) -> None:
        self.status = status
        self.text = text
        self.reason = reason
        self.headers = headers
        super().__init__(text)

    def response(self, is_head: bool) -> bytes:
        """The HTTP response. is_head: without its body, as to a HEAD."""
        body = f"{self.text}\n"
        lines = (
            f"HTTP/1.1 {self.status} {_STATUS[self.status]}",
            "Content-Type: text/plain; charset=utf-8",
            "Cache-Control: no-store",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *self.headers,
        )
        return ("\r\n".join(lines) + f"\r\n\r\n{'' if is_head else body}").encode()


class Upgrade(asyncio.BufferedProtocol, Item):
    """Reads the request of one connection, answers, and makes the WebSocket the connection's transport.

    connection, until: of a connection that was admitted before its TLS handshake, and its deadline; None for one that
    is admitted here.
    """

    def __init__(self, acceptor: Acceptor, rules: UpgradeRules, connection: Connection | None, until: float) -> None:
        self._tick = 0
        self._acceptor = acceptor
        self._rules = rules
        self._until = until
        self._is_admitted = connection is not None
        self._connection = connection or acceptor.connection(self._made)
        self._http: h11.Connection | None = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._arrived = b""  # bytes that were read, and not handled yet
        self._waits = False  # for its turn
        self._head = b""  # bytes of a PROXY header that may begin
        self._may_have_header = False
        self._is_trusted = False
        self._peer = ""  # the host that connected, or that a PROXY header names
        self._begun = b""  # the request, until its method is there
        self._is_answered = False
        self._is_head = False

    # -- from the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._connection.transport = cast(asyncio.Transport, transport)
        acceptor, connection = self._acceptor, self._connection
        self._peer = peer_host(transport)
        if not self._is_admitted:
            self._is_trusted = self._may_have_header = acceptor.trusts(self._peer)
            if not self._is_trusted:
                connection.address = self._peer
            if not acceptor.admission.enter(connection):
                return
        acceptor.context.wheel.set(self, self._until - acceptor.context.wheel.clock())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._acceptor.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_answered or self._transport.is_closing():
            return  # bytes behind a refusal are discarded
        self._arrived = bytes(self._acceptor.buffer[:nbytes])
        self._acceptor.admission.steps.enter(self)

    def wait(self) -> None:
        self._waits = True
        self._transport.pause_reading()

    def go_on(self) -> None:
        if self._transport.is_closing():
            return
        self._read_on()
        data, self._arrived = self._arrived, b""
        try:
            if self._may_have_header:
                data = self._after_proxy_header(data)
            if data:
                self._read(data)
        except Refused as refusal:
            self._refuse(refusal)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection.state is ConnectionState.UNVERIFIED and not self._is_answered:
            reason = "left-unverified"
            if self._begun:
                address = self._connection.address or self._peer
                self._acceptor.admission.note_refusal(reason, address, "it left in the middle of its request")
            else:  # not logged: a health check does this
                self._acceptor.context.stats.refused[reason] += 1
        self._acceptor.context.wheel.cancel(self)
        self._acceptor.admission.steps.leave(self)
        self._connection.connection_lost(exc)

    def on_deadline(self, now: float) -> None:
        if self._is_answered:
            self._transport.abort()
        else:
            self._refuse(Refused(408, "the request did not come in time", "verify-timeout"))

    # -- the request --

    def _after_proxy_header(self, data: bytes) -> bytes:
        """The bytes behind the PROXY header of a trusted peer, if it sends one. Raises Refused."""
        self._head += data
        try:
            parsed = parse_proxy_header(self._head) if begins_header(self._head) else (0, None)
        except ProtocolError as error:
            raise Refused(400, "a PROXY header that is wrong", "proxy-header") from error
        if parsed is None:
            return b""
        self._may_have_header = False
        size, info = parsed
        if info is not None and info.source is not None:
            self._peer = info.source[0]
        rest, self._head = self._head[size:], b""
        return rest

    def _read(self, data: bytes) -> None:
        """Take bytes of the request; answer it when it is whole. Raises Refused."""
        http = self._http
        assert http is not None
        if b" " not in self._begun:
            self._begun += data
            if is_header(self._begun):
                raise Refused(
                    400, "a PROXY header, which only the addresses in this listener's `proxies` may send, once"
                )
            if _METHOD.match(self._begun) is None:
                raise Refused(400, f"not an HTTP request; {HINT}")
        try:
            http.receive_data(data)
            event = http.next_event()
            if event is h11.NEED_DATA:
                return
            behind = http.next_event() if isinstance(event, h11.Request) else None
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if error.error_status_hint in _STATUS else 400
            raise Refused(status, f"not an HTTP request that can be read; {HINT}") from None
        if not isinstance(event, h11.Request):
            raise Refused(400, f"not an HTTP request; {HINT}")
        if not isinstance(behind, h11.EndOfMessage) or http.trailing_data[0]:
            raise Refused(400, f"bytes behind the request, before its answer; {HINT}")
        self._http = None
        self._is_head = event.method == b"HEAD"
        headers = event.headers.raw_items()
        lower = [(name.lower(), value) for name, value in headers]
        if _values(lower, b"transfer-encoding"):
            raise Refused(400, f"a request with a body; {HINT}")
        address = self._address_of(lower)
        answer = self._answer(event, lower)
        if (
            not self._is_admitted
            and self._is_trusted
            and not self._acceptor.admission.locate(self._connection, address)
        ):
            return
        self._open(answer, self._is_tls(lower))

    def _address_of(self, headers: list[tuple[bytes, bytes]]) -> str:
        """The client's address, by what our proxies say. Raises Refused."""
        if not self._is_trusted:
            return self._peer
        try:
            return client_address(headers, self._peer, self._acceptor.proxies)
        except ProtocolError as error:
            raise Refused(400, str(error), "proxy-header") from None

    def _is_tls(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self._transport.get_extra_info("ssl_object") is not None:
            return True
        said = [value.strip().lower() for name, value in headers if name == b"x-forwarded-proto"]
        return self._is_trusted and self._rules.ends_tls and not {b"http", b"ws"}.intersection(said)

    def _answer(self, request: h11.Request, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The answer that opens the WebSocket (section 4.2.2). Raises Refused for a request that does not (4.2.1)."""
        if request.method not in (b"GET", b"HEAD"):
            raise Refused(405, f"only GET is answered here; {HINT}", headers=("Allow: GET",))
        asks = b"websocket" in header_tokens(headers, b"upgrade")
        if not asks or b"upgrade" not in header_tokens(headers, b"connection") or request.method != b"GET":
            if not asks and request.target.partition(b"?")[0] == HEALTH_PATH:
                raise Refused(200, "ok", "")
            raise Refused(426, HINT, headers=("Upgrade: websocket",))
        if request.http_version != b"1.1":
            raise Refused(505, f"HTTP/{request.http_version.decode()}; WebSocket begins with HTTP/1.1")
        if _values(headers, b"sec-websocket-version") != [b"13"]:
            raise Refused(426, "only version 13 of WebSocket is spoken here", headers=("Sec-WebSocket-Version: 13",))
        keys = _values(headers, b"sec-websocket-key")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise Refused(400, "Sec-WebSocket-Key is not 16 bytes in base64")
        origins = _values(headers, b"origin")
        if len(origins) > 1 or (origins and not takes(self._rules.origins, origins[0].decode("latin-1"))):
            text = "pages of this origin may not connect here; the server has a list of origins"
            raise Refused(403, text, "origin")
        offered = _values(headers, b"sec-websocket-protocol")
        if SUBPROTOCOL.encode() not in [each.strip() for value in offered for each in value.split(b",")]:
            raise Refused(400, f"offer the subprotocol {SUBPROTOCOL}")
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: %b\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        ) % (SUBPROTOCOL.encode(), accept_key(keys[0]))

    # -- the end of it --

    def _open(self, answer: bytes, is_tls: bool) -> None:
        acceptor, connection, transport = self._acceptor, self._connection, self._transport
        context = acceptor.context
        context.wheel.cancel(self)
        if not acceptor.admission.open:
            self._refuse(Refused(503, "the server stops", "stopping"))
            return
        transport.write(answer)
        stream = WebSocketStream(max_message(context.limits))
        websocket = WebSocketTransport(transport, connection, stream, context.wheel.read_clock, is_tls)
        connection.reader = reader = UnverifiedReader(websocket, acceptor.buffer)
        transport.set_protocol(reader)
        connection.connection_made(websocket)

    def _refuse(self, refusal: Refused) -> None:
        """Answer with the refusal, read on for a moment, so that the peer gets it, and close."""
        admission, connection = self._acceptor.admission, self._connection
        self._is_answered = True
        self._http = None
        admission.steps.leave(self)
        self._read_on()
        if refusal.reason:
            admission.note_refusal(refusal.reason, connection.address or self._peer, refusal.text)
        if refusal.status in FAULTS and connection.address is not None:  # else it is a proxy's
            admission.login_failed(connection.address)
        admission.credentials_received(connection)
        self._transport.write(refusal.response(self._is_head))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        admission.add_refused(connection)
        self._acceptor.context.wheel.set(self, self._acceptor.context.limits.close_timeout)

    def _read_on(self) -> None:
        if self._waits and not self._transport.is_closing():
            self._waits = False
            self._transport.resume_reading()

    def _made(self, connection: Connection) -> None:
        self._acceptor.admitted(connection, self._until)


def _values(headers: list[tuple[bytes, bytes]], named: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == named]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
