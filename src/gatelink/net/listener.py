"""Where connections come in: sockets, admission, and the PROXY protocol.

A connection is admitted, or dropped without a word and counted by reason. Only then does anybody hear of it.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from typing import cast

import structlog

from gatelink.config import Limits, Network
from gatelink.errors import ConfigError, ProtocolError
from gatelink.net.connection import Connection, peer_host
from gatelink.net.endpoints import AddressTable, Endpoint, contains
from gatelink.net.proxy import parse_proxy_header
from gatelink.session.hub import Hub
from gatelink.session.states import ConnectionState
from gatelink.session.timers import Item
from gatelink.wire.frames import FrameDecoder

log = structlog.get_logger("gatelink.listener")

Accept = Callable[[Connection], bool | None]
"""An accept hook: False refuses the connection; `connection.hand_over(protocol)` takes it over."""


class Admission:
    """Who may connect: what all listeners of a server count together."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._addresses = AddressTable(hub.limits.max_per_address, hub.limits.exempt)
        self.connections: set[Connection] = set()
        self.open = True
        self._emptied: asyncio.Event | None = None

    def enter(self, connection: Connection) -> bool:
        """Whether `connection` may stay; one that may not is dropped and counted."""
        stats = self._hub.stats
        if not self.open:
            reason = "stopping"
        elif len(self.connections) >= self._hub.limits.max_connections:
            reason = "server-full"
        elif not self._addresses.enter(connection.address or ""):
            reason = "address-full"
        else:
            stats.accepted += 1
            self.connections.add(connection)
            return True
        stats.refused[reason] += 1
        connection.drop()
        return False

    def leave(self, connection: Connection) -> None:
        """`connection` is over; nothing if it was never admitted."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._addresses.leave(connection.address or "")
            if not self.connections and self._emptied is not None:
                self._emptied.set()

    async def empty(self) -> None:
        """Waits until no connection is left."""
        if self.connections:
            self._emptied = asyncio.Event()
            await self._emptied.wait()


class Listener:
    """One listening socket.

    endpoint: where; after `open`, with the port that was taken.
    welcome: called with each admitted connection; it sets the connection's sink.
    tls: for a tls:// endpoint, the server's context. proxies: networks whose connections begin with a PROXY
    protocol v2 header, which gives the peer's address; others are refused while this is not empty.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        hub: Hub,
        admission: Admission,
        welcome: Callable[[Connection], object],
        *,
        tls: ssl.SSLContext | None = None,
        proxies: tuple[Network, ...] = (),
        accept: Accept | None = None,
    ) -> None:
        if (endpoint.scheme == "tls") != (tls is not None):
            fix = "give Listen a certificate and key" if tls is None else "write its endpoint as tls://"
            raise ConfigError(f"listener {endpoint}: {fix}")
        if proxies and tls is not None:
            raise ConfigError(f"listener {endpoint}: behind a PROXY protocol balancer, end TLS there, and use tcp://")
        self.endpoint = endpoint
        self._hub = hub
        self._admission = admission
        self._welcome = welcome
        self._tls = tls
        self._proxies = proxies
        self._accept = accept
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Binds and listens. Raises ConfigError saying why it can't."""
        loop = self._hub.loop
        backlog = self._hub.limits.backlog
        endpoint = self.endpoint
        factory = self._proxied if self._proxies else self.connection
        try:
            if endpoint.scheme == "unix":
                self._server = await loop.create_unix_server(factory, endpoint.path, backlog=backlog)
            else:
                handshake = self._hub.limits.verify_timeout if self._tls is not None else None
                self._server = await loop.create_server(
                    factory,
                    endpoint.host,
                    endpoint.port,
                    backlog=backlog,
                    ssl=self._tls,
                    ssl_handshake_timeout=handshake,
                )
        except OSError as error:
            raise ConfigError(f"cannot listen on {endpoint}: {os.strerror(error.errno or 0) or error}") from None
        if endpoint.scheme != "unix":
            port = self._server.sockets[0].getsockname()[1]
            self.endpoint = Endpoint(endpoint.scheme, endpoint.host, port)

    def close(self) -> None:
        """Accepts nothing more; the connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self.endpoint.scheme == "unix":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.endpoint.path)

    def connection(self, address: str | None = None) -> Connection:
        """A connection to be; `address` if it is not the socket's."""
        limits: Limits = self._hub.limits
        decoder = FrameDecoder(limits.max_frame_unverified, limits.max_unverified_frames + 1, limits.turn_bytes)
        return Connection(decoder, self._made, self._admission.leave, address)

    def _made(self, connection: Connection) -> None:
        if not self._admission.enter(connection):
            return
        connection.transport.set_write_buffer_limits(self._hub.limits.write_high_water)
        if self._accept is not None:
            try:
                accepted = self._accept(connection) is not False
            except Exception as error:
                log.error("accept hook failed", address=connection.address, exc_info=error)
                accepted = False
            if not accepted:
                self._hub.stats.refused["accept-hook"] += 1
                connection.drop()
                return
            if connection.state is not ConnectionState.UNVERIFIED:
                return  # the hook took it over, or dropped it
        self._welcome(connection)

    def _proxied(self) -> asyncio.Protocol:
        return _ProxyHeader(self)

    # -- for _ProxyHeader --

    def trusts(self, host: str) -> bool:
        """Whether `host` is a proxy that may say whose connection it brings."""
        return contains(self._proxies, host)

    def refuse(self, transport: asyncio.Transport, reason: str) -> None:
        self._hub.stats.refused[reason] += 1
        transport.abort()

    @property
    def hub(self) -> Hub:
        return self._hub


class _ProxyHeader(asyncio.Protocol, Item):
    """Waits for a connection's PROXY protocol header, then makes a `Connection` of it."""

    def __init__(self, listener: Listener) -> None:
        self._tick = 0
        self._listener = listener
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._listener.trusts(peer_host(transport)):
            self._listener.refuse(self._transport, "not-a-proxy")
            return
        hub = self._listener.hub
        hub.wheel.set(self, hub.limits.verify_timeout)

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            parsed = parse_proxy_header(self._data)
        except ProtocolError:
            self._listener.refuse(self._transport, "proxy-header")
            return
        if parsed is None:
            return
        self._listener.hub.wheel.cancel(self)
        size, info = parsed
        rest = self._data[size:]
        connection = self._listener.connection(info.source[0] if info.source else None)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        if rest and not self._transport.is_closing():
            cast(asyncio.Protocol, self._transport.get_protocol()).data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.hub.wheel.cancel(self)

    def on_deadline(self, now: float) -> None:
        self._listener.refuse(self._transport, "verify-timeout")
