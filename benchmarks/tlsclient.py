"""A client of TLS 1.3 that makes its records itself, so that they may carry nothing."""

import os
import ssl
import tempfile

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_APPLICATION_DATA, _HANDSHAKE = 23, 22
_KEY_UPDATE = bytes([24, 0, 0, 1, 0])  # update_not_requested
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "TLS_AES_256_GCM_SHA384": hashes.SHA384(),
    "TLS_AES_128_GCM_SHA256": hashes.SHA256(),
}


class TlsRecords:
    """One connection without I/O: `take` what the server sent, `out` what is to be sent to it.

    The handshake is that of `ssl`; afterwards records are sealed here, with the secret that `ssl` logs (RFC 8446, 7.1).
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        """context: a client's, which is used for this connection alone while its handshake lasts."""
        file, self._log = tempfile.mkstemp()
        os.close(file)
        context.keylog_filename = self._log
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._from_server, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._from_server, self._to_server, server_hostname="127.0.0.1")
        self._secret = b""
        self.take(b"")

    def is_open(self) -> bool:
        """Whether the handshake is over."""
        return bool(self._secret)

    def out(self) -> bytes:
        """The bytes of the handshake that are to be sent."""
        return self._to_server.read()

    def take(self, data: bytes) -> bytes:
        """Takes bytes from the server; the plaintext that they complete. Raises ssl.SSLError."""
        if data:
            self._from_server.write(data)
        plaintext = b""
        try:
            if not self._secret:
                self._ssl.do_handshake()
                self._begin()
            while more := self._ssl.read(65_536):
                plaintext += more
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return plaintext

    def seal(self, plaintext: bytes, padding: int = 0) -> bytes:
        """A record with `plaintext`, and so many bytes of padding."""
        return self._record(plaintext, _APPLICATION_DATA, padding)

    def key_updates(self, count: int) -> bytes:
        """So many records which say only that the next one has a new key."""
        records = []
        for _ in range(count):
            records.append(self._record(_KEY_UPDATE, _HANDSHAKE))
            self._use(self._expand(b"traffic upd", self._hash.digest_size))
        return b"".join(records)

    def _begin(self) -> None:
        cipher = self._ssl.cipher()
        assert cipher is not None
        self._hash = _HASHES[cipher[0]]
        with open(self._log) as file:
            lines = [line.split() for line in file]
        os.unlink(self._log)
        self._use(next(bytes.fromhex(line[2]) for line in lines if line and line[0] == "CLIENT_TRAFFIC_SECRET_0"))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(self._expand(b"key", 32 if self._hash.digest_size == 48 else 16))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._sent = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def _record(self, content: bytes, kind: int, padding: int = 0) -> bytes:
        inner = content + bytes([kind]) + bytes(padding)
        header = bytes([23, 3, 3]) + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._sent).to_bytes(12, "big")
        self._sent += 1
        return header + self._key.encrypt(nonce, inner, header)
