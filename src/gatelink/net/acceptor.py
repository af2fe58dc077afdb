"""From an accepted socket to a connection whose frames a login check receives."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gatelink.calls import invoke_plain
from gatelink.config import networks
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.admission import Admission
from gatelink.net.connection import Connection
from gatelink.net.endpoints import contains
from gatelink.net.listen import Listen
from gatelink.session.loop_context import LoopContext
from gatelink.session.states import ConnectionState
from gatelink.wire.frames import FrameDecoder

quiet = RateLimitedLogger(Logger("gatelink.listener"))

Welcome = Callable[[Connection, float], object]
"""Begins the login check of an admitted connection: sets its receiver. The float: by when, on the wheel's clock."""


class Acceptor:
    """Makes the connections of one listener, has them admitted, and gives them to the accept hook or to `welcome`.

    buffer: what unverified connections are read into, max_unverified_bytes long. It is empty between two reads.
    """

    def __init__(self, listen: Listen, context: LoopContext, admission: Admission, welcome: Welcome) -> None:
        self.context = context
        self.admission = admission
        self.buffer = memoryview(bytearray(context.limits.max_unverified_bytes))
        self.proxies = networks(*listen.proxies)
        self._accept = listen.accept
        self._leave = admission.leave  # one bound method for all connections
        self._welcome = welcome

    def connection(self, made: Callable[[Connection], None]) -> Connection:
        """A connection without a transport yet. made: called once it has one."""
        return Connection(self.decoder(), made, self._leave)

    def accepted(self, reactor: Any, fd: int, host: str) -> None:
        """Take an accepted socket, without a transport (docs/native.md). host: its peer's address."""
        connection: Connection = reactor.stream(fd, host, self.context.limits, self._leave)
        self._made(connection)

    def decoder(self) -> FrameDecoder:
        """The decoder of an unverified connection. One frame at a time: those behind a login request wait."""
        limits = self.context.limits
        return FrameDecoder(limits.max_frame_unverified, 1, limits.turn_bytes)

    def protocol(self) -> asyncio.BaseProtocol:
        """The protocol of a connection that begins with frames."""
        return self.reader(self.connection(self._made))

    def reader(self, connection: Connection) -> "UnverifiedReader":
        """The reader of `connection` until its peer is verified."""
        connection.reader = reader = UnverifiedReader(connection, self.buffer)
        return reader

    def deadline(self) -> float:
        """By when, on the wheel's clock, a connection that is accepted now must be verified."""
        return self.context.wheel.clock() + self.context.limits.verify_timeout

    def trusts(self, host: str) -> bool:
        """Whether `host` is a proxy that may name the address of the peer it connects for."""
        return contains(self.proxies, host)

    def _made(self, connection: Connection) -> None:
        if self.admission.enter(connection):
            self.admitted(connection, self.deadline())

    def admitted(self, connection: Connection, until: float) -> None:
        """Give `connection`, which was admitted, to the accept hook, and then to the login check."""
        # At 0 a transport says at once what the kernel did not take: a base client's next login may get that. TLS and
        # links do without: in TLS a limit of 0 would never be reached again.
        exact = connection.carrier is None and not connection.is_tls and not self.context.between_servers
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


class ReaderOwner(Protocol):
    """The owner of an `UnverifiedReader`: a connection, or the WebSocket under it. buffered: bytes that it holds."""

    @property
    def buffered(self) -> int: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class UnverifiedReader(asyncio.BufferedProtocol):
    """Reads for `connection` until a session has it: what it holds stays within the size of `buffer`.

    A stream protocol is given whatever the loop has read, up to 256 KiB. This one says how much may be read. The rest
    stays in the kernel, at the peer's cost.
    """

    __slots__ = ("_buffer", "_connection")  # uvloop keeps it for the life of the transport

    def __init__(self, connection: ReaderOwner, buffer: memoryview) -> None:
        self._connection = connection
        self._buffer = buffer

    def release(self) -> None:
        del self._connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        room = len(self._buffer) - self._connection.buffered
        return self._buffer[: max(1, room)]  # a frame and a record that are both nearly whole may fill it

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take the bytes that were read behind a PROXY protocol header."""
        self._connection.data_received(data)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
