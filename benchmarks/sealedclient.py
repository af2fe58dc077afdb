"""A verified client on a blocking socket that speaks the extension, sealed; it reads only when it is asked to."""

import socket
from types import TracebackType
from typing import Self

from benchmarks.harness import HOST, BenchmarkError
from benchmarks.rawclient import VERIFY_SUCCEEDED, FrameCounter, verify_request
from gatelink.wire.control import Hello
from gatelink.wire.handshake import Initiator


class SealedClient:
    """Connected to the local `port` and verified as `uid`, sealed with the server's public `key`.

    Raises BenchmarkError when it is refused. As a context it closes its socket in the end.
    """

    def __init__(self, port: int, uid: int, key: bytes, features: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=10)
        initiator = Initiator(key, Hello(features=features))
        self._socket.sendall(initiator.frame)
        self._stream = initiator.finish(self._read()[4:]).stream
        self.send(verify_request(uid))
        if not FrameCounter(VERIFY_SUCCEEDED).feed(self._stream.feed(self._read())):
            raise BenchmarkError(f"client {uid} was not verified")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, frames: bytes) -> None:
        self._socket.sendall(self._stream.seal(frames))

    def receive(self, message_id: int, count: int) -> None:
        """Waits until `count` more messages of this id have come; acknowledges nothing."""
        counter = FrameCounter(message_id)
        while count > 0:
            count -= counter.feed(self._stream.feed(self._read()))

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(65_536)
        except OSError as error:
            raise BenchmarkError(f"no answer from the server: {error}") from error
        if not data:
            raise BenchmarkError("the server closed a connection")
        return data
