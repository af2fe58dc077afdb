"""Reads the PROXY protocol header that a load balancer sends before the first frame."""

import asyncio
from typing import cast

from gatelink.errors import ProtocolError, counted
from gatelink.net.acceptor import Acceptor
from gatelink.net.connection import Connection, peer_host
from gatelink.net.proxy_header import parse_proxy_header
from gatelink.session.states import ConnectionState
from gatelink.session.timers import Item


class Preamble(asyncio.BufferedProtocol, Item):
    """Reads the header for a connection that is admitted at once, and gets its address from the header."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._tick = 0
        self._acceptor = acceptor
        self._until = acceptor.deadline()
        self._connection = acceptor.connection(self._made)
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.transport = self._transport = cast(asyncio.Transport, transport)
        acceptor = self._acceptor
        if not acceptor.trusts(peer_host(transport)):
            self._connection.address = host = peer_host(transport)
            acceptor.admission.refuse(self._connection, "not-a-proxy", f"{host or 'a Unix socket'} is in no `proxies`")
        elif acceptor.admission.enter(self._connection):
            acceptor.context.wheel.set(self, acceptor.context.limits.verify_timeout)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._acceptor.buffer

    def buffer_updated(self, nbytes: int) -> None:
        acceptor = self._acceptor
        self._data += acceptor.buffer[:nbytes]
        try:
            parsed = parse_proxy_header(self._data)
        except ProtocolError as error:
            self._refuse("proxy-header", str(error))
            return
        if parsed is None:
            return
        acceptor.context.wheel.cancel(self)
        size, info = parsed
        address = info.source[0] if info.source else peer_host(self._transport)
        if not acceptor.admission.locate(self._connection, address):
            return
        self._transport.set_protocol(acceptor.reader(self._connection))
        self._connection.connection_made(self._transport)
        if len(self._data) > size and not self._transport.is_closing():
            cast(asyncio.Protocol, self._transport.get_protocol()).data_received(self._data[size:])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection.state is ConnectionState.UNVERIFIED:
            reason = "left-unverified"
            if self._data:
                why = f"it left after {counted(len(self._data), 'byte')} of a PROXY header"
                self._acceptor.admission.note_refusal(reason, peer_host(self._transport), why)
            else:  # not logged: a health check does this
                self._acceptor.context.stats.refused[reason] += 1
        self._acceptor.context.wheel.cancel(self)
        self._connection.connection_lost(exc)

    def on_deadline(self, now: float) -> None:
        self._refuse("verify-timeout", f"{counted(len(self._data), 'byte')} of a PROXY header came")

    def _refuse(self, reason: str, why: str) -> None:
        """Refuse the connection; the log has the address of the balancer, which is the peer."""
        self._acceptor.admission.note_refusal(reason, peer_host(self._transport), why)
        self._acceptor.admission.credentials_received(self._connection)
        self._connection.drop()

    def _made(self, connection: Connection) -> None:
        self._acceptor.admitted(connection, self._until)
