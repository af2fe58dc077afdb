"""What comes before the first frame behind a load balancer: its PROXY protocol header."""

import asyncio
from typing import TYPE_CHECKING, cast

from gatelink.errors import ProtocolError
from gatelink.net.connection import Connection, peer_host
from gatelink.net.proxy import parse_proxy_header
from gatelink.session.states import ConnectionState
from gatelink.session.timers import Item

if TYPE_CHECKING:
    from gatelink.net.listener import Listener


class Preamble(asyncio.BufferedProtocol, Item):
    """Waits for a connection's PROXY protocol header in its place: admitted at once, its address with the header."""

    def __init__(self, listener: "Listener") -> None:
        self._tick = 0
        self._listener = listener
        self._until = listener.deadline()
        self._connection = listener.connection(self._made)
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.transport = self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        if not listener.trusts(peer_host(transport)):
            self._connection.address = host = peer_host(transport)
            listener.admission.refuse(self._connection, "not-a-proxy", f"{host or 'a Unix socket'} is in no `proxies`")
        elif listener.admission.enter(self._connection):
            listener.context.wheel.set(self, listener.context.limits.verify_timeout)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        listener = self._listener
        self._data += listener.buffer[:nbytes]
        try:
            parsed = parse_proxy_header(self._data)
        except ProtocolError as error:
            self._refuse("proxy-header", str(error))
            return
        if parsed is None:
            return
        listener.context.wheel.cancel(self)
        size, info = parsed
        address = info.source[0] if info.source else peer_host(self._transport)
        if not listener.admission.locate(self._connection, address):
            return
        self._transport.set_protocol(listener.reader(self._connection))
        self._connection.connection_made(self._transport)
        if len(self._data) > size and not self._transport.is_closing():
            cast(asyncio.Protocol, self._transport.get_protocol()).data_received(self._data[size:])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection.state is ConnectionState.UNVERIFIED:
            reason = "left-unverified"
            self._listener.context.stats.refused[reason] += 1  # not logged: a health check comes and goes so
        self._listener.context.wheel.cancel(self)
        self._connection.connection_lost(exc)

    def on_deadline(self, now: float) -> None:
        self._refuse("verify-timeout", f"{len(self._data)} bytes of a PROXY header came")

    def _refuse(self, reason: str, why: str) -> None:
        """The peer is the balancer: its own address says which."""
        self._listener.admission.note_refusal(reason, peer_host(self._transport), why)
        self._listener.admission.credentials_received(self._connection)
        self._connection.drop()

    def _made(self, connection: Connection) -> None:
        self._listener.admitted(connection, self._until)
