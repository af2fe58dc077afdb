"""SEALED records: bytes in chunks of any size in, the inner bytes out, and back (docs/protocol.md, "Encryption").

    length u24 | flags 04 | one Noise transport message, empty associated data: ciphertext, tag 16

Sealing is one AEAD call per write, not per message: the plaintext is any part of the inner byte stream.
"""

import struct

from cryptography.exceptions import InvalidTag

from gatelink.errors import FrameTooLarge, ProtocolError
from gatelink.wire.frames import HEADER_SIZE, SEALED
from gatelink.wire.noise import MAX_MESSAGE, MAX_MESSAGES, TAG_SIZE, CipherState, pack_nonce

MIN_RECORD = TAG_SIZE + 1  # an empty record costs its receiver work and carries nothing
MAX_RECORD = MAX_MESSAGE
MAX_RECORD_UNVERIFIED = 1_100  # docs/protocol.md, "Limits": room for an unverified frame of 1,024
MAX_PLAINTEXT = 16_384  # bytes in one record; of a large write, whole records arrive although the path breaks
RESERVED_RECORDS = 65_536  # left when `exhausted` becomes true: for queued bytes and a CLOSE

_HEADER = struct.Struct("<I")
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
_SEALED_WORD = SEALED << 24  # a header as one u32: the flags byte is its highest
_LOWEST = _SEALED_WORD | MIN_RECORD
_TAGGED = _SEALED_WORD + TAG_SIZE  # and the plaintext's size: a record's header
_WHOLE = _SEALED_WORD - HEADER_SIZE  # and the size of record and header: that header
_LEAST_WHOLE = HEADER_SIZE + MIN_RECORD
_FEW_LEFT = MAX_MESSAGES - RESERVED_RECORDS
_LAST_OF_MANY = _FEW_LEFT - 1


class SecureStream:
    """One connection's record layer after the handshake.

    send, receive: the two ciphers of `HandshakeState.split()`.
    max_record: bytes that a record may declare, at most 65,535. It may change between two calls of `feed`.
    exhausted: one direction is near 2**32 records; close with 4011. From 2**32 on `seal` raises LocalError.

    At the first bad record, `error` is set, and `feed` gives the bytes before it. Later calls give nothing.
    The usual write, and the usual read of one whole record, have short paths. They save a quarter of an echo's cost of
    sealing.
    """

    __slots__ = ("_decrypt", "_encrypt", "_need", "_partial", "_receive", "_send", "error", "exhausted", "max_record")

    def __init__(self, send: CipherState, receive: CipherState, max_record: int = MAX_RECORD) -> None:
        self.max_record = max_record
        self.error: ProtocolError | None = None
        self.exhausted = send.n >= _FEW_LEFT or receive.n >= _FEW_LEFT
        self._send = send
        self._receive = receive
        self._encrypt = send.aead.encrypt
        self._decrypt = receive.aead.decrypt
        self._partial = bytearray()  # the beginning of a record
        self._need = 0  # bytes that must be in `_partial` before the next look

    @property
    def buffered(self) -> int:
        """Bytes that have arrived in a record that is not yet whole."""
        return len(self._partial)

    def seal(self, plaintext: bytes) -> bytes:
        """`plaintext` as whole SEALED frames, one for every 16,384 bytes; b"" if it is empty."""
        size = len(plaintext)
        send = self._send
        n = send.n
        if 0 < size <= MAX_PLAINTEXT and n < _LAST_OF_MANY:
            send.n = n + 1
            return _pack_header(_TAGGED + size) + self._encrypt(pack_nonce(n), plaintext, None)
        view = memoryview(plaintext)
        sealed = [self._seal_record(view[at : at + MAX_PLAINTEXT]) for at in range(0, size, MAX_PLAINTEXT)]
        self._count()
        return b"".join(sealed)

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

        size = len(data)
        receive = self._receive
        n = receive.n
        if (
            _LEAST_WHOLE <= size <= HEADER_SIZE + self.max_record
            and _unpack_header(data)[0] == _WHOLE + size
            and n < _LAST_OF_MANY
        ):
            try:
                plaintext = self._decrypt(pack_nonce(n), data[HEADER_SIZE:], None)
            except InvalidTag:
                self.error = ProtocolError("a sealed message did not verify")
                return b""
            receive.n = n + 1
            return plaintext

        opened: list[bytes] = []
        decrypt = receive.decrypt_with_ad
        highest = _SEALED_WORD | self.max_record
        view = memoryview(data)
        at = 0
        need = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            header: int = _unpack_header(data, at)[0]
            if not _LOWEST <= header <= highest:
                self.error = self._header_error(header)
                break
            end = at + header - _WHOLE
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
        self._count()
        return b"".join(opened)

    def _seal_record(self, plaintext: bytes | memoryview) -> bytes:
        return _pack_header(_TAGGED + len(plaintext)) + self._send.encrypt_with_ad(b"", plaintext)

    def _count(self) -> None:
        if self._send.n >= _FEW_LEFT or self._receive.n >= _FEW_LEFT:
            self.exhausted = True

    def _header_error(self, header: int) -> ProtocolError:
        flags, length = header >> 24, header & 0xFFFFFF
        if flags != SEALED:
            return ProtocolError(f"flags byte {flags:#04x} after the handshake; only SEALED, {SEALED:#04x}, is allowed")
        if length < MIN_RECORD:
            return ProtocolError(f"sealed record of {length} bytes; the least is {MIN_RECORD}")
        return FrameTooLarge(f"sealed record of {length} bytes is over this connection's {self.max_record}")
