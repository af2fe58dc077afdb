"""The listening sockets of one `Listen`."""

import asyncio
import contextlib
import errno
import os
import socket
from typing import cast

from gatelink.errors import ConfigError
from gatelink.net.acceptor import Acceptor, Welcome
from gatelink.net.admission import Admission
from gatelink.net.certificates import Certificate
from gatelink.net.endpoints import Endpoint, failure, not_listening, parse_endpoint
from gatelink.net.listen import Listen
from gatelink.net.preamble import Preamble
from gatelink.net.tls import TlsServer
from gatelink.session.loop_context import LoopContext

ACCEPTS_A_TURN = 4
"""uvloop accepts one connection of a listening socket in a turn of the loop, however long that is under a flood. So TCP
sockets are listened to this often; each time costs every connection 4 us, a sixtieth of a login."""

MAX_OPTION = 0x7FFFFFFF
"""The most that an option of a socket can say."""


class Listener:
    """The listening sockets of one `Listen`.

    endpoint: where; after `open`, with the port that was taken. certificate: of a tls:// endpoint.
    Raises ConfigError for a `Listen` that cannot work.
    """

    def __init__(self, listen: Listen, context: LoopContext, admission: Admission, welcome: Welcome) -> None:
        self.endpoint = parse_endpoint(listen.endpoint)
        if listen.resume_at:
            parse_endpoint(listen.resume_at)
        self.certificate = listen.tls()
        if (self.endpoint.scheme == "tls") != (self.certificate is not None):
            fix = "give Listen a certificate and key" if self.certificate is None else "write its endpoint as tls://"
            raise ConfigError(f"listener {listen.endpoint}: {fix}")
        if listen.proxies and self.certificate is not None:
            fix = "behind a PROXY protocol balancer, end TLS there, and use tcp://"
            raise ConfigError(f"listener {listen.endpoint}: {fix}")
        self._context = context
        self._acceptor = Acceptor(listen, context, admission, welcome)
        self._servers: list[asyncio.Server | TlsServer] = []
        self._inode = 0  # of a Unix socket's file

    async def open(self) -> None:
        """Binds and listens. Raises ConfigError saying why it can't."""
        endpoint = self.endpoint
        try:
            if endpoint.scheme == "unix":
                await self._open_unix(endpoint.path)
            else:
                certificate = self.certificate
                port = await (self._open_tcp() if certificate is None else self._open_tls(certificate))
                self.endpoint = Endpoint(endpoint.scheme, endpoint.host, port)
        except (OSError, UnicodeError) as error:
            why = failure(error) if endpoint.scheme == "unix" else not_listening(error)
            raise ConfigError(f"cannot listen on {endpoint}: {why}") from None

    def close(self) -> None:
        """Accepts nothing more; the connections stay."""
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
        self._servers.append(await loop.create_unix_server(self._protocol, path, backlog=backlog))
        self._inode = os.stat(path).st_ino

    async def _open_tcp(self) -> int:
        """The port that was taken."""
        host, port = self.endpoint.host, self.endpoint.port
        loop, backlog = self._context.loop, self._context.limits.backlog
        server = await loop.create_server(self._protocol, host, port, backlog=backlog)
        self._servers.append(server)
        for listening in server.sockets:
            self._set_options(listening)
            for _ in range(ACCEPTS_A_TURN - 1):
                same = socket.socket(fileno=os.dup(listening.fileno()))
                again = await loop.create_server(self._protocol, sock=same, backlog=backlog)
                self._servers.append(again)
        return cast(int, server.sockets[0].getsockname()[1])

    async def _open_tls(self, certificate: Certificate) -> int:
        """The port that was taken."""
        host, port = self.endpoint.host, self.endpoint.port
        loop, backlog = self._context.loop, self._context.limits.backlog
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in found:
            listening = socket.create_server((where[0], port), family=family, backlog=backlog)
            self._set_options(listening)
            self._servers.append(TlsServer(self._acceptor, listening, certificate))
            port = listening.getsockname()[1]
        return port

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
        """The protocol of a new transport: the connection's reader, or what reads the PROXY header before it."""
        return Preamble(self._acceptor) if self._acceptor.proxies else self._acceptor.protocol()
