"""A verified client on a bare socket, its frames made by hand (docs/protocol.md, "Base messages")."""

import socket
import struct

from benchmarks.harness import HOST, BenchmarkError

VERIFY_REQUEST, VERIFY_SUCCEEDED = 1, 2
FIRST_UID = 100_000

_HEAD = struct.Struct("<IH")  # length u24 and flags u8 (always 0 here), then the message's id
_VERIFY = struct.Struct("<BQH")  # source, uid, length of the token


def frame(message_id: int, body: bytes = b"") -> bytes:
    """A plain message frame."""
    return _HEAD.pack(2 + len(body), message_id) + body


def verify_request(uid: int) -> bytes:
    """The first frame of client `uid`, whose token is the uid as 32 digits."""
    token = b"%032d" % uid
    return frame(VERIFY_REQUEST, _VERIFY.pack(0, uid, len(token)) + token)


def connect(port: int, uid: int) -> socket.socket:
    """A blocking connection to the local `port`, verified as `uid`. Raises BenchmarkError when it is refused."""
    client = socket.create_connection((HOST, port), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(verify_request(uid))
    size, message_id = _HEAD.unpack(_exactly(client, _HEAD.size))
    if message_id != VERIFY_SUCCEEDED:
        raise BenchmarkError(f"client {uid} was answered with message {message_id}, not {VERIFY_SUCCEEDED}")
    _exactly(client, size - 2)
    return client


def _exactly(client: socket.socket, size: int) -> bytes:
    try:
        data = client.recv(size, socket.MSG_WAITALL)
    except OSError as error:
        raise BenchmarkError(f"no answer to a verify request: {error}") from error
    if len(data) < size:
        raise BenchmarkError("the server closed a connection instead of verifying it")
    return data


class FrameCounter:
    """Counts the frames of one message id in a stream of bytes, however it is cut."""

    __slots__ = ("_message_id", "_rest")

    def __init__(self, message_id: int) -> None:
        self._message_id = message_id
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Take the stream's next bytes; give how many frames of the id are whole with them."""
        if self._rest:
            data = self._rest + data
        count = at = 0
        while len(data) - at >= _HEAD.size:
            size, message_id = _HEAD.unpack_from(data, at)
            end = at + 4 + (size & 0xFFFFFF)
            if end > len(data):
                break
            count += message_id == self._message_id
            at = end
        self._rest = data[at:]
        return count
