"""Accepting for a tls:// listener.

asyncio accepts TLS connections too, but does not show them before their handshake: silent peers would be neither
counted nor limited. So the sockets are accepted here, and the connection is admitted before its handshake.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from gatelink.net.acceptor import Acceptor, quiet
from gatelink.net.certificates import Certificate
from gatelink.net.connection import Connection
from gatelink.net.endpoints import failure
from gatelink.net.tls_watch import TlsConnection, TlsWatch
from gatelink.session.states import ConnectionState

ACCEPTS_AT_ONCE = 64  # before other connections have their turn of the loop
LEAST_SECONDS = 0.1  # for a handshake whose turn came late
PAUSE = 1.0  # s without accepting when the system has no descriptors or memory left

Begin = Callable[[Connection, float], asyncio.BaseProtocol]
"""Makes the protocol of an admitted connection. The float: by when, on the wheel's clock, it must be verified."""


class TlsServer:
    """A listening socket; `close` ends it and leaves its connections.

    begin: makes the protocol of a connection, which begins when its handshake is over.
    """

    def __init__(self, acceptor: Acceptor, listening: socket.socket, certificate: Certificate, begin: Begin) -> None:
        self._acceptor = acceptor
        self._begin = begin
        self._loop = acceptor.context.loop
        self._listening = listening
        self._certificate = certificate
        self._handshakes: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._watch_records = TlsWatch(acceptor.context, acceptor.admission)
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                quiet.error("no connection is accepted for a second", why=failure(error))
                self._loop.remove_reader(self._listening)
                self._paused = self._loop.call_later(PAUSE, self._resume)
                return
            self._admit(accepted, address[0])

    def _admit(self, accepted: socket.socket, host: str) -> None:
        until = self._acceptor.deadline()

        def made(_: Connection) -> None:
            self._acceptor.admitted(connection, until)

        acceptor = self._acceptor
        now = acceptor.context.wheel.read_clock()
        connection = TlsConnection(accepted, acceptor.decoder(), made, acceptor.admission.leave, now)
        connection.address = host
        turn: asyncio.Future[None] = self._loop.create_future()
        connection.transport = cast(asyncio.Transport, _Handshaking(accepted, turn))
        if not self._acceptor.admission.enter(connection):
            accepted.close()
            return
        self._acceptor.admission.handshakes.enter(connection, partial(_give_turn, turn))
        task = self._loop.create_task(self._shake_hands(connection, accepted, turn, until))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(
        self, connection: TlsConnection, accepted: socket.socket, turn: asyncio.Future[None], until: float
    ) -> None:
        admission = self._acceptor.admission
        clock = self._acceptor.context.wheel.clock
        if not turn.done():
            await asyncio.wait([turn], timeout=until - clock())
            if not turn.done():
                admission.refuse(connection, "verify-timeout")
        if connection.state is not ConnectionState.UNVERIFIED:  # closed while it waited for its turn
            accepted.close()
            connection.connection_lost(None)
            return
        seconds = max(LEAST_SECONDS, until - clock())
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._begin(connection, until),
                accepted,
                ssl=self._certificate.context,
                ssl_handshake_timeout=seconds,
            )
        except OSError as error:  # an SSLError is one, too
            if connection.state is ConnectionState.UNVERIFIED:  # else it was closed here
                late = isinstance(error, ConnectionAbortedError)
                hint = "likely: the client dialled tcp://, or does not trust the certificate"
                why = "the TLS handshake took too long" if late else f"{failure(error)}; {hint}"
                admission.refuse(connection, "verify-timeout" if late else "tls-handshake", why)
            connection.connection_lost(error)
        else:
            self._watch_records.add(connection)


def _give_turn(turn: asyncio.Future[None]) -> None:
    """End the wait for a turn, if it has not ended yet."""
    if not turn.done():
        turn.set_result(None)


class _Handshaking:
    """The transport of a connection before and in its handshake; it holds nothing, and can be aborted."""

    def __init__(self, accepted: socket.socket, turn: asyncio.Future[None]) -> None:
        self._socket = accepted
        self._turn = turn

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # the handshake sees the end of the stream, and closes
        _give_turn(self._turn)
