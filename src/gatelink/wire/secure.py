"""SEALED records: bytes in chunks of any size in, the inner bytes out, and back (docs/protocol.md, "Encryption").

    length u24 | flags 04 | one Noise transport message, empty associated data: ciphertext, tag 16

Sealing is one AEAD call per write, not per message: the plaintext is any part of the inner byte stream.
"""

import struct
from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from gatelink._native import compiled
from gatelink.errors import FrameTooLarge, ProtocolError
from gatelink.wire.frames import HEADER_SIZE, SEALED
from gatelink.wire.noise import MAX_MESSAGE, MAX_MESSAGES, TAG_SIZE, CipherState, not_verified, pack_nonce

MIN_RECORD = TAG_SIZE + 1  # an empty record costs its receiver work and carries nothing
MAX_RECORD = MAX_MESSAGE
MAX_RECORD_UNVERIFIED = 1_100  # docs/protocol.md, "Frames": room for an unverified frame of 1,024
MAX_PLAINTEXT = 16_384  # bytes in one record; if the path breaks in a large write, the records before still count
RESERVED_RECORDS = 65_536  # `exhausted` becomes true while so many are left, for queued bytes and a CLOSE

_Crypt = Callable[[bytes, bytes, None], bytes]

_HEADER = struct.Struct("<I")
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
# A header is read and written as one u32. The flags byte is its highest byte, so the header of a record of `n` bytes
# is the number _SEALED_WORD + n.
_SEALED_WORD = SEALED << 24
_LOWEST = _SEALED_WORD | MIN_RECORD
_OF_PLAINTEXT = _SEALED_WORD + TAG_SIZE  # add the plaintext's size to get the header
_OF_FRAME = _SEALED_WORD - HEADER_SIZE  # add the size of the whole frame, header included, to get the header
_SMALLEST_FRAME = HEADER_SIZE + MIN_RECORD
_EXHAUSTED_AT = MAX_MESSAGES - RESERVED_RECORDS  # the nonce from which on `exhausted` is true
_SHORT_PATH_END = _EXHAUSTED_AT - 1  # the short paths use lower nonces only, so they need not set `exhausted`


@compiled
class SecureStream:
    """One connection's record layer after the handshake.

    send, receive: the two ciphers of `HandshakeState.split()`.
    max_record: the largest length that a record may declare, at most 65,535. It may change between calls of `feed`.
    exhausted: one direction is near 2**32 records; close with 4011. After 2**32 records `seal` raises LocalError.

    The first bad record sets `error`. `feed` then returns the plaintext of the records before it, and later calls
    return nothing. A write of one record, and a read of exactly one record, take short paths. These make sealing a
    quarter cheaper in an echo.
    """

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_need",
        "_partial",
        "_receive",
        "_send",
        "error",
        "exhausted",
        "max_record",
        "on_wake",
    )

    def __init__(self, send: CipherState, receive: CipherState, max_record: int = MAX_RECORD) -> None:
        self.max_record = max_record
        self.error: ProtocolError | None = None
        self.exhausted = send.n >= _EXHAUSTED_AT or receive.n >= _EXHAUSTED_AT
        self._send = send
        self._receive = receive
        self._encrypt: _Crypt | None = None  # None: it rests
        self._decrypt: _Crypt | None = None
        self.on_wake: Callable[[SecureStream], object] | None = None
        self._partial = bytearray()  # the beginning of a record
        self._need = 0  # bytes that `_partial` needs before it is parsed again

    @property
    def records(self) -> int:
        """How many it has sealed and opened."""
        return self._send.n + self._receive.n

    def rest(self) -> None:
        """Give the memory of its ciphers back, until the next record. `on_wake` is called when they are made again."""
        self._encrypt = self._decrypt = None
        self._send.rest()
        self._receive.rest()

    def _wake(self) -> tuple[_Crypt, _Crypt]:
        """Make both ciphers, as a record of one side has an answer; give `encrypt` and `decrypt`."""
        self._encrypt = encrypt = self._send.aead.encrypt
        self._decrypt = decrypt = self._receive.aead.decrypt
        if self.on_wake is not None:
            self.on_wake(self)
        return encrypt, decrypt

    @property
    def buffered(self) -> int:
        """Bytes that have arrived in a record that is not yet whole."""
        return len(self._partial)

    def seal(self, plaintext: bytes) -> bytes:
        """Seal `plaintext` into SEALED frames, one for every 16,384 bytes; b"" if it is empty."""
        size = len(plaintext)
        send = self._send
        n = send.n
        if 0 < size <= MAX_PLAINTEXT and n < _SHORT_PATH_END:
            encrypt = self._encrypt or self._wake()[0]
            send.n = n + 1
            return _pack_header(_OF_PLAINTEXT + size) + encrypt(pack_nonce(n), plaintext, None)
        if self._encrypt is None:
            self._wake()
        view = memoryview(plaintext)
        sealed = [self._seal_record(view[at : at + MAX_PLAINTEXT]) for at in range(0, size, MAX_PLAINTEXT)]
        self._update_exhausted()
        return b"".join(sealed)

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; return the joined plaintext of the records that they complete."""
        if self.error is not None:
            return b""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return b""
            data = bytes(self._partial)
            self._partial.clear()

        decrypt = self._decrypt or self._wake()[1]
        size = len(data)
        receive = self._receive
        n = receive.n
        if (
            _SMALLEST_FRAME <= size <= HEADER_SIZE + self.max_record
            and _unpack_header(data)[0] == _OF_FRAME + size
            and n < _SHORT_PATH_END
        ):
            try:
                plaintext = decrypt(pack_nonce(n), data[HEADER_SIZE:], None)
            except InvalidTag:
                self.error = not_verified()
                return b""
            receive.n = n + 1
            return plaintext

        # Several records, part of one, or a bad one.
        opened: list[bytes] = []
        highest = _SEALED_WORD | self.max_record
        view = memoryview(data)
        at = 0
        need = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            header: int = _unpack_header(data, at)[0]
            if not _LOWEST <= header <= highest:
                self.error = header_error(header, self.max_record)
                break
            end = at + header - _OF_FRAME
            if end > size:
                need = end - at
                break
            try:
                opened.append(receive.decrypt_with_ad(b"", view[at + HEADER_SIZE : end]))
            except ProtocolError as error:
                self.error = error
                break
            at = end
        if at < size and self.error is None:
            self._partial += view[at:]
            self._need = need
        self._update_exhausted()
        return b"".join(opened)

    def _seal_record(self, plaintext: bytes | memoryview) -> bytes:
        return _pack_header(_OF_PLAINTEXT + len(plaintext)) + self._send.encrypt_with_ad(b"", plaintext)

    def _update_exhausted(self) -> None:
        if self._send.n >= _EXHAUSTED_AT or self._receive.n >= _EXHAUSTED_AT:
            self.exhausted = True


def header_error(header: int, max_record: int) -> ProtocolError:
    """The error for a record with this bad header, as one u32."""
    flags, length = header >> 24, header & 0xFFFFFF
    if flags != SEALED:
        return ProtocolError(f"flags byte {flags:#04x} after the handshake; only SEALED, {SEALED:#04x}, is allowed")
    if length < MIN_RECORD:
        return ProtocolError(f"sealed record of {length} bytes; the least is {MIN_RECORD}")
    return FrameTooLarge(f"sealed record of {length} bytes is over this connection's limit of {max_record}")
