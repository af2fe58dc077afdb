"""Where connections come in: the listening sockets. Each is admitted (admission.py) before anybody hears of it."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import cast

import structlog

from gatelink.calls import invoke_plain
from gatelink.config import Limits, networks
from gatelink.errors import ConfigError
from gatelink.net.admission import Admission
from gatelink.net.certificates import Certificate
from gatelink.net.connection import Connection
from gatelink.net.endpoints import Endpoint, contains, failure, not_listening
from gatelink.net.preamble import Preamble
from gatelink.net.reader import UnverifiedReader
from gatelink.net.tls import TlsAcceptor
from gatelink.rate_limited_logger import RateLimitedLogger
from gatelink.session.loop_context import LoopContext
from gatelink.session.states import ConnectionState
from gatelink.wire.frames import FrameDecoder

quiet = RateLimitedLogger(structlog.get_logger("gatelink.listener"))

ACCEPTS_A_TURN = 4
"""uvloop accepts one connection of a listening socket in a turn of the loop, however long that is under a flood. So TCP
sockets are listened to this often; each time costs every connection 4 us, a sixtieth of a login."""

MAX_OPTION = 0x7FFFFFFF
"""The most that an option of a socket can say."""

Accept = Callable[[Connection], bool | None]
"""An accept hook: False refuses the connection; `connection.hand_over(protocol)` takes it over."""


class Listener:
    """One listening socket.

    endpoint: where; after `open`, with the port that was taken.
    welcome: called with each admitted connection, and the loop's time by which it must be verified; it sets the
    connection's receiver.
    tls: for a tls:// endpoint, the server's certificate. proxies: networks whose connections begin with a PROXY
    protocol header, version 1 or 2, which gives the peer's address; others are refused while this is not empty.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: LoopContext,
        admission: Admission,
        welcome: Callable[[Connection, float], object],
        *,
        tls: Certificate | None = None,
        proxies: tuple[str, ...] = (),
        accept: Accept | None = None,
    ) -> None:
        if (endpoint.scheme == "tls") != (tls is not None):
            fix = "give Listen a certificate and key" if tls is None else "write its endpoint as tls://"
            raise ConfigError(f"listener {endpoint}: {fix}")
        if proxies and tls is not None:
            raise ConfigError(f"listener {endpoint}: behind a PROXY protocol balancer, end TLS there, and use tcp://")
        self.endpoint = endpoint
        self.context = context
        self.admission = admission
        self._tls = tls
        self._welcome = welcome
        self._proxies = networks(*proxies)
        self._accept = accept
        self._servers: list[asyncio.Server | TlsAcceptor] = []
        self._inode = 0  # of a Unix socket's file
        self.buffer = memoryview(bytearray(context.limits.max_unverified_bytes))
        """What unverified connections are read into."""

    async def open(self) -> None:
        """Binds and listens. Raises ConfigError saying why it can't."""
        endpoint = self.endpoint
        try:
            if endpoint.scheme == "unix":
                await self._open_unix(endpoint.path)
            else:
                port = await (self._open_tcp() if self._tls is None else self._open_tls(self._tls))
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
            raise OSError(errno.EADDRINUSE, "")  # somebody listens there; asyncio would silently take its place
        server = await self.context.loop.create_unix_server(self._protocol, path, backlog=self.context.limits.backlog)
        self._servers.append(server)
        self._inode = os.stat(path).st_ino

    async def _open_tcp(self) -> int:
        """The port that was taken."""
        host, port = self.endpoint.host, self.endpoint.port
        server = await self.context.loop.create_server(self._protocol, host, port, backlog=self.context.limits.backlog)
        self._servers.append(server)
        for listening in server.sockets:
            self._set_options(listening)
            for _ in range(ACCEPTS_A_TURN - 1):
                same = socket.socket(fileno=os.dup(listening.fileno()))
                again = await self.context.loop.create_server(
                    self._protocol, sock=same, backlog=self.context.limits.backlog
                )
                self._servers.append(again)
        return cast(int, server.sockets[0].getsockname()[1])

    async def _open_tls(self, certificate: Certificate) -> int:
        """The port that was taken."""
        port = self.endpoint.port
        for family, _, _, _, where in await self.context.loop.getaddrinfo(
            self.endpoint.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listening = socket.create_server((where[0], port), family=family, backlog=self.context.limits.backlog)
            self._set_options(listening)
            self._servers.append(TlsAcceptor(self, listening, certificate))
            port = listening.getsockname()[1]
        return port

    def _set_options(self, listening: socket.socket) -> None:
        """What every connection that comes in here inherits.

        The kernel takes little that it can't send yet: what waits there for a slow peer can no longer be dropped or
        replaced; what waits in its outbox can. And it gives up a path that acknowledges nothing: while a session is not
        read, nothing else tells that its peer is gone.
        """
        limits = self.context.limits
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.write_high_water)
        patience = max(limits.heartbeat_timeout, limits.max_outbox_age)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(min(patience * 1_000, MAX_OPTION)))

    # -- for what accepts --

    def connection(self, made: Callable[[Connection], None]) -> Connection:
        """A connection to be; it calls `made` when it is."""
        limits: Limits = self.context.limits
        # One frame at a time: what comes behind a login request is not looked at before the answer.
        decoder = FrameDecoder(limits.max_frame_unverified, 1, limits.turn_bytes)
        return Connection(decoder, made, self.admission.leave)

    def deadline(self) -> float:
        """By when, in the context's clock, a connection that is accepted now must be verified."""
        return self.context.wheel.clock() + self.context.limits.verify_timeout

    def trusts(self, host: str) -> bool:
        """Whether `host` is a proxy that may say whose connection it brings."""
        return contains(self._proxies, host)

    def admitted(self, connection: Connection, until: float) -> None:
        """`connection`, which was admitted, can hear frames: the accept hook has it, else whoever welcomes."""
        # At 0 a transport says at once what the kernel did not take: a base client's next login may get that. TLS and
        # links do without: in TLS a limit of 0 would never be reached again.
        exact = not connection.is_tls and not self.context.between_servers
        connection.transport.set_write_buffer_limits(0 if exact else self.context.limits.write_high_water)
        if self._accept is not None:
            try:
                answer = invoke_plain(self._accept, connection)
                if answer is not None and not isinstance(answer, bool):
                    raise TypeError(f"an accept hook returned a {type(answer).__name__}; it must be a bool or None")
                accepted = answer is not False
            except Exception as error:
                quiet.error("accept hook failed", address=connection.address, exc_info=error)
                accepted = False
            if not accepted:
                self.admission.refuse(connection, "accept-hook")
                return
            if connection.state is not ConnectionState.UNVERIFIED:
                return  # the hook took it over, or dropped it
        self._welcome(connection, until)

    def reader(self, connection: Connection) -> UnverifiedReader:
        """What reads for `connection` until its peer is verified."""
        return UnverifiedReader(connection, self.buffer)

    def _protocol(self) -> asyncio.BaseProtocol:
        """What hears a new transport: the connection's reader, or what comes before it."""
        return Preamble(self) if self._proxies else self.reader(self.connection(self._made))

    def _made(self, connection: Connection) -> None:
        if self.admission.enter(connection):
            self.admitted(connection, self.deadline())
