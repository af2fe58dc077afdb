"""SEALED records: any chunking of bytes in, the inner bytes out, and the inverse (docs/protocol.md, "Encryption").

    length u24 | flags 04 | one Noise transport message, empty associated data: ciphertext, tag 16

Sealing is one AEAD call per write, not per message: the plaintext is whatever of the inner byte stream is at hand.
"""

import struct

from gatelink.errors import FrameTooLarge, ProtocolError
from gatelink.wire.frames import HEADER_SIZE, SEALED
from gatelink.wire.noise import MAX_MESSAGE, MAX_MESSAGES, TAG_SIZE, CipherState

MIN_RECORD = TAG_SIZE + 1  # an empty record would cost its receiver work and carry nothing
MAX_RECORD = MAX_MESSAGE
MAX_RECORD_UNVERIFIED = 1_100  # docs/protocol.md, "Limits": room for an unverified frame of 1,024
MAX_PLAINTEXT = MAX_RECORD - TAG_SIZE  # bytes in one record
RESERVED_RECORDS = 65_536  # left when `exhausted` turns true, for what is queued and a CLOSE

_HEADER = struct.Struct("<I")
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
_SEALED_WORD = SEALED << 24  # a header as one u32: the flags byte is its highest
_LOWEST = _SEALED_WORD | MIN_RECORD


class SecureStream:
    """One connection's record layer after the handshake.

    send, receive: the two ciphers of `HandshakeState.split()`.
    max_record: bytes that a record may declare, at most 65,535; may be changed between two calls of `feed`.

    After the first bad record `error` is set, `feed` gives what came before it and then nothing more.
    """

    __slots__ = ("_need", "_partial", "_receive", "_send", "error", "max_record")

    def __init__(self, send: CipherState, receive: CipherState, max_record: int = MAX_RECORD) -> None:
        self.max_record = max_record
        self.error: ProtocolError | None = None
        self._send = send
        self._receive = receive
        self._partial = bytearray()  # the beginning of a record
        self._need = 0  # bytes there must be in `_partial` before it is worth looking at

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and are not yet opened."""
        return len(self._partial)

    @property
    def exhausted(self) -> bool:
        """One direction is near 2**32 records: close with 4011. From 2**32 on `seal` raises LocalError."""
        return max(self._send.n, self._receive.n) >= MAX_MESSAGES - RESERVED_RECORDS

    def seal(self, plaintext: bytes) -> bytes:
        """`plaintext` as whole SEALED frames: one for every 65,519 bytes, none for none."""
        if 0 < len(plaintext) <= MAX_PLAINTEXT:
            return self._seal_record(plaintext)
        view = memoryview(plaintext)
        return b"".join([self._seal_record(view[at : at + MAX_PLAINTEXT]) for at in range(0, len(view), MAX_PLAINTEXT)])

    def feed(self, data: bytes) -> bytes:
        """The plaintext of the records that `data` completes, joined."""
        if self.error is not None:
            return b""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return b""
            data = bytes(self._partial)
            self._partial.clear()

        opened: list[bytes] = []
        decrypt = self._receive.decrypt_with_ad
        highest = _SEALED_WORD | self.max_record
        view = memoryview(data)
        size = len(data)
        at = 0
        need = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            header: int = _unpack_header(data, at)[0]
            if not _LOWEST <= header <= highest:
                self.error = self._header_error(header)
                break
            end = at + HEADER_SIZE + header - _SEALED_WORD
            if end > size:
                need = end - at
                break
            try:
                opened.append(decrypt(b"", view[at + HEADER_SIZE : end]))
            except ProtocolError as error:
                self.error = error
                break
            at = end
        if at < size and self.error is None:
            self._partial += view[at:]
            self._need = need
        return b"".join(opened)

    def _seal_record(self, plaintext: bytes | memoryview) -> bytes:
        sealed = self._send.encrypt_with_ad(b"", plaintext)
        return _pack_header(_SEALED_WORD | len(sealed)) + sealed

    def _header_error(self, header: int) -> ProtocolError:
        flags, length = header >> 24, header & 0xFFFFFF
        if flags != SEALED:
            return ProtocolError(f"flags byte {flags:#04x} after the handshake; only SEALED, {SEALED:#04x}, is allowed")
        if length < MIN_RECORD:
            return ProtocolError(f"sealed record of {length} bytes; the least is {MIN_RECORD}")
        return FrameTooLarge(f"sealed record of {length} bytes is over this connection's {self.max_record}")
