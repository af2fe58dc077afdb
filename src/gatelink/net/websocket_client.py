"""The HTTP request with which a WebSocket begins, on the connecting side (RFC 6455, section 4.1)."""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import cast

import h11

from gatelink.net.connection import Connection
from gatelink.net.endpoints import TLS_SCHEMES, WEB_PORTS, Endpoint
from gatelink.net.websocket import SUBPROTOCOL, WebSocketTransport, accept_key, header_tokens, max_message
from gatelink.session.loop_context import LoopContext
from gatelink.wire.control import printable
from gatelink.wire.websocket import WebSocketStream

MAX_QUOTED = 200  # bytes of the body of a refusal, for the error

_NOT_HTTP = "its answer is not HTTP; is this a WebSocket listener? A plain one is dialled as tcp://"


class ClientUpgrade(asyncio.Protocol):
    """Sends the request, checks the answer, and makes the WebSocket the transport of `connection`.

    connected: called with the connection when its socket is there; whether it is still wanted. failed: called with the
    reason if there will be no WebSocket.
    """

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        connected: Callable[[Connection], bool],
        failed: Callable[[str], None],
        context: LoopContext,
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._connected = connected
        self._failed = failed
        self._context = context
        self._http = h11.Connection(h11.CLIENT)
        self._key = base64.b64encode(os.urandom(16))
        self._refusal: h11.Response | None = None
        self._said = b""  # the beginning of the refusal's body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._connection.transport = cast(asyncio.Transport, transport)
        if not self._connected(self._connection):
            return
        endpoint = self._endpoint
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        port = "" if endpoint.port == WEB_PORTS[endpoint.scheme] else f":{endpoint.port}"
        request = h11.Request(
            method="GET",
            target=endpoint.path or "/",
            headers=[
                ("Host", f"{host}{port}"),
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Key", self._key.decode()),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Protocol", SUBPROTOCOL),
            ],
        )
        head = self._http.send(request)
        end = self._http.send(h11.EndOfMessage())
        self._transport.write((head or b"") + (end or b""))

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    self._open(event)
                    return
                if isinstance(event, h11.Response):
                    self._refusal = event
                elif isinstance(event, h11.Data):
                    self._said = (self._said + bytes(event.data))[:MAX_QUOTED]
                elif not isinstance(event, h11.InformationalResponse):
                    self._failed(self._refused())
                    return
        except h11.RemoteProtocolError:
            self._failed(_NOT_HTTP)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._refusal is not None:
            self._failed(self._refused())
        else:
            self._failed(_NOT_HTTP if self._http.trailing_data[0] else self._closed())
        self._connection.connection_lost(exc)

    def _open(self, answer: h11.InformationalResponse) -> None:
        headers = list(answer.headers)
        expected: tuple[tuple[bytes, list[bytes]], ...] = (
            (b"upgrade", [b"websocket"]),
            (b"sec-websocket-protocol", [SUBPROTOCOL.encode()]),
            (b"sec-websocket-extensions", []),
        )
        if [value for name, value in headers if name == b"sec-websocket-accept"] != [accept_key(self._key)]:
            self._failed("its answer has a wrong sec-websocket-accept; is this a WebSocket server?")
            return
        for name, value in expected:
            if header_tokens(headers, name) != value:
                self._failed(f"its answer has a wrong {name.decode()}; a gatelink listener speaks {SUBPROTOCOL}")
                return
        if b"upgrade" not in header_tokens(headers, b"connection"):
            self._failed("its answer does not upgrade the connection; does a proxy remove hop-by-hop headers?")
            return
        rest, _ = self._http.trailing_data
        is_tls = self._endpoint.scheme in TLS_SCHEMES
        stream = WebSocketStream(max_message(self._context.limits), is_client=True)
        websocket = WebSocketTransport(
            self._transport, self._connection, stream, self._context.wheel.read_clock, is_tls
        )
        self._transport.set_protocol(websocket)
        self._connection.connection_made(websocket)
        if rest:
            websocket.data_received(rest)

    def _closed(self) -> str:
        """The error text for a server that closed without an answer."""
        others = "one with TLS as wss://, others" if self._endpoint.scheme == "ws" else "others"
        text = "it closed before it answered the request; is this a WebSocket listener?"
        return f"{text} Dial {others} as tcp:// or tls://"

    def _refused(self) -> str:
        """The error text for a server that refused the upgrade."""
        assert self._refusal is not None
        said = printable(self._said.decode("utf-8", "replace").strip())
        return f"it refused the WebSocket: HTTP {self._refusal.status_code} {said}"
