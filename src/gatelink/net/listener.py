"""The listening sockets of one `Listen`."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from gatelink.errors import ConfigError
from gatelink.net.acceptor import Acceptor, Welcome
from gatelink.net.admission import Admission
from gatelink.net.certificates import Certificate
from gatelink.net.connection import Connection
from gatelink.net.endpoints import (
    TLS_SCHEMES,
    WEB_SCHEMES,
    Endpoint,
    failure,
    is_everywhere,
    not_listening,
    parse_endpoint,
)
from gatelink.net.listen import Listen
from gatelink.net.origins import check_origins
from gatelink.net.preamble import Preamble
from gatelink.net.tls import TlsServer
from gatelink.net.upgrade import Upgrade, UpgradeRules
from gatelink.session.loop_context import LoopContext

SOCKETS_PER_ADDRESS = 4
"""Listening sockets for each TCP address. uvloop accepts one connection of each in a turn of the loop, and a flood
makes turns long. Each socket costs every connection 4 us, a sixtieth of a login."""

TLS_SECONDS = 0.25
"""Seconds of limits.byte_rate that the kernel takes of a TLS peer: what it may send in a long round trip. uvloop opens
all of it in one turn of the loop. Without this bound, 256 KiB of KeyUpdates would stop the loop for 0.1 s."""

MAX_OPTION = 0x7FFFFFFF
"""The largest value of a socket option."""


class Closable(Protocol):
    """The acceptor of a listening socket."""

    def close(self) -> None:
        """Accept nothing more; the connections stay."""


class Listener:
    """The listening sockets of one `Listen`.

    endpoint: where; after `open`, with the port that was taken. is_everywhere: whether plain TCP connections of every
    network reach it. certificate: of a tls:// or wss:// endpoint.
    Raises ConfigError for a `Listen` that cannot work.
    """

    def __init__(self, listen: Listen, context: LoopContext, admission: Admission, welcome: Welcome) -> None:
        self.endpoint = parse_endpoint(listen.endpoint)
        if listen.resume_at:
            parse_endpoint(listen.resume_at)
        self.is_everywhere = False
        self.certificate = listen.load_certificate()
        if fix := self._misfit(listen):
            raise ConfigError(f"listener {listen.endpoint}: {fix}")
        self._upgrade_rules: UpgradeRules | None = None
        if self.endpoint.scheme in WEB_SCHEMES:
            self._upgrade_rules = UpgradeRules(check_origins(listen.origins), listen.tls == "terminated")
        self._context = context
        self._acceptor = Acceptor(listen, context, admission, welcome)
        self._servers: list[Closable] = []
        self._inode = 0  # of a Unix socket's file
        # The core has no transports. An accept hook may ask for one, and what stands before the frames needs one.
        is_plain = self.endpoint.scheme in ("tcp", "unix") and listen.accept is None and not listen.proxies
        self._is_native = is_plain and context.reactor is not None

    def _misfit(self, listen: Listen) -> str:
        """How to mend a `Listen` whose parts do not fit each other; "" if they do."""
        scheme, is_web = self.endpoint.scheme, self.endpoint.scheme in WEB_SCHEMES
        if scheme in TLS_SCHEMES and self.certificate is None:
            return "give Listen a certificate and key"
        if scheme not in TLS_SCHEMES and self.certificate is not None:
            return f"write its endpoint as {'wss' if is_web else 'tls'}://"
        if listen.proxies and self.certificate is not None:
            return f"behind a balancer, end TLS there, and use {'ws' if is_web else 'tcp'}://"
        if listen.origins and not is_web:
            return "only a ws:// or wss:// listener has origins"
        if listen.tls and scheme != "ws":
            return 'tls="terminated" is for a ws:// listener behind a proxy that ends TLS'
        if listen.tls and not listen.proxies:
            return 'tls="terminated" needs proxies, the networks of the proxy that ends TLS'
        if is_web and self.endpoint.path:
            return "it answers on every path; write its endpoint without one"
        if is_web and listen.inner:
            return "servers connect to each other over tcp:// or unix://"
        return ""

    async def open(self) -> None:
        """Bind and listen. Raises ConfigError, which says why it can't."""
        endpoint = self.endpoint
        try:
            if endpoint.scheme == "unix":
                await self._open_unix(endpoint.path)
            else:
                certificate = self.certificate
                if certificate is not None:
                    port = await self._open_tls(certificate)
                else:
                    port = await (self._open_native() if self._is_native else self._open_tcp())
                self.endpoint = Endpoint(endpoint.scheme, endpoint.host, port)
        except (OSError, UnicodeError) as error:
            why = failure(error) if endpoint.scheme == "unix" else not_listening(error)
            raise ConfigError(f"cannot listen on {endpoint}: {why}") from None

    def close(self) -> None:
        """Accept nothing more; the connections stay."""
        if self._servers and self.endpoint.scheme == "unix":
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.endpoint.path).st_ino == self._inode:  # else it is our successor's
                    os.unlink(self.endpoint.path)
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _open_unix(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # its backlog is full
                probe.connect(path)
            raise OSError(errno.EADDRINUSE, "")  # another process listens there; asyncio would silently replace it
        loop, backlog = self._context.loop, self._context.limits.backlog
        if self._is_native:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)  # of a process that is gone
            listening = socket.socket(socket.AF_UNIX)
            try:
                listening.bind(path)
                listening.listen(backlog)
            except OSError:
                listening.close()
                raise
            self._servers.append(self._accept_natively(listening))
        else:
            self._servers.append(await loop.create_unix_server(self._protocol, path, backlog=backlog))
        self._inode = os.stat(path).st_ino

    async def _open_tcp(self) -> int:
        """The port that was taken."""
        host, port = self.endpoint.host, self.endpoint.port
        loop, backlog = self._context.loop, self._context.limits.backlog
        server = await loop.create_server(self._protocol, host, port, backlog=backlog)
        self._servers.append(server)
        self.is_everywhere = any(is_everywhere(listening.getsockname()[0]) for listening in server.sockets)
        for listening in server.sockets:
            self._set_options(listening)
            for _ in range(SOCKETS_PER_ADDRESS - 1):
                same = socket.socket(fileno=os.dup(listening.fileno()))
                again = await loop.create_server(self._protocol, sock=same, backlog=backlog)
                self._servers.append(again)
        return cast(int, server.sockets[0].getsockname()[1])

    async def _open_tls(self, certificate: Certificate) -> int:
        """The port that was taken."""

        def accept(listening: socket.socket) -> Closable:
            room = min(round(self._context.limits.byte_rate * TLS_SECONDS), MAX_OPTION // 2)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            return TlsServer(self._acceptor, listening, certificate, self._begin)

        return await self._open_sockets(accept)

    async def _open_native(self) -> int:
        """The port that was taken."""

        def accept(listening: socket.socket) -> Closable:
            self.is_everywhere |= is_everywhere(listening.getsockname()[0])
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            return self._accept_natively(listening)

        return await self._open_sockets(accept)

    async def _open_sockets(self, accept: Callable[[socket.socket], Closable]) -> int:
        """Open a listening socket for each address of the host. Returns the port that was taken."""
        host, port = self.endpoint.host, self.endpoint.port
        loop, backlog = self._context.loop, self._context.limits.backlog
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in found:
            listening = socket.create_server((where[0], port), family=family, backlog=backlog)
            self._set_options(listening)
            port = listening.getsockname()[1]
            self._servers.append(accept(listening))
        return port

    def _accept_natively(self, listening: socket.socket) -> Closable:
        """Have the compiled core read this socket, and those that come in there."""
        reactor = self._context.reactor
        server: Closable = reactor.listen(listening, partial(self._acceptor.accepted, reactor))
        return server

    def _set_options(self, listening: socket.socket) -> None:
        """Set the options that every connection that comes in here inherits.

        The kernel takes little that it can't send yet: what waits there for a slow peer can no longer be dropped or
        replaced; what waits in its outbox can. And it aborts a path that acknowledges nothing: while a session is not
        read, nothing else shows that its peer is away.
        """
        limits = self._context.limits
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.write_high_water)
        patience = max(limits.heartbeat_timeout, limits.max_outbox_age)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(min(patience * 1_000, MAX_OPTION)))

    def _protocol(self) -> asyncio.BaseProtocol:
        """The protocol of a new transport: the connection's reader, or the reader of a PROXY header or a request."""
        if self._upgrade_rules is not None:
            return Upgrade(self._acceptor, self._upgrade_rules, None, self._acceptor.deadline())
        return Preamble(self._acceptor) if self._acceptor.proxies else self._acceptor.protocol()

    def _begin(self, connection: Connection, until: float) -> asyncio.BaseProtocol:
        """The protocol of a transport whose TLS handshake follows. until: the deadline of the connection's login."""
        if self._upgrade_rules is not None:
            return Upgrade(self._acceptor, self._upgrade_rules, connection, until)
        return self._acceptor.reader(connection)
