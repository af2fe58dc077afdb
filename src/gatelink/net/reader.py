"""How much is read from a peer that is not verified yet."""

import asyncio

from gatelink.net.connection import Connection


class UnverifiedReader(asyncio.BufferedProtocol):
    """Reads for `connection` until that is bound to a session: what it holds stays within the size of `buffer`.

    A stream protocol is given whatever the loop has read, up to 256 KiB. This one says how much may be read. The rest
    stays in the kernel, at the peer's cost.

    buffer: what is read into, max_unverified_bytes long. One for all connections of a loop: it is empty between reads.
    """

    def __init__(self, connection: Connection, buffer: memoryview) -> None:
        connection.is_restrained = True
        self._connection = connection
        self._buffer = buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        room = len(self._buffer) - self._connection.buffered
        return self._buffer[: max(1, room)]  # a frame and a record that are both nearly whole may fill it

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """What was read behind a PROXY protocol header."""
        self._connection.data_received(data)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
