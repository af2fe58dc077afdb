"""The Noise handshake of the extension (docs/protocol.md, "Encryption"; Noise Protocol Framework, revision 34).

    NK          <- s    (known beforehand)          for clients, which know the server's public key
                -> e, es
                <- e, ee
    NNpsk0      -> psk, e                           between servers, which share the cluster key
                <- e, ee

Only these two patterns, with 25519, AESGCM and SHA256, in the specification's words. A CipherState seals with one key
and a counter, a SymmetricState mixes keys and transcript, a HandshakeState follows the pattern.
"""

import hashlib
import hmac
import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelink._native import compiled
from gatelink.errors import LocalError, ProtocolError

DHLEN = 32
TAG_SIZE = 16
MAX_MESSAGE = 65_535  # bytes, the specification's limit for handshake and transport messages
MAX_MESSAGES = 2**32  # with one key; docs/protocol.md allows far fewer than the specification's 2**64 - 1
KEY_ID_SIZE = 4
HANDSHAKE_FIELDS_SIZE = 21

pack_nonce = struct.Struct(">4xQ").pack
"""The nonce of message number `n`: the specification's encoding for AESGCM."""


class Pattern(IntEnum):
    """The two handshake patterns, by their number in a HANDSHAKE record."""

    NK = 1
    NNPSK0 = 2


_NAMES = {
    Pattern.NK: b"Noise_NK_25519_AESGCM_SHA256",
    Pattern.NNPSK0: b"Noise_NNpsk0_25519_AESGCM_SHA256",
}
_MESSAGES = {
    Pattern.NK: (("e", "es"), ("e", "ee")),
    Pattern.NNPSK0: (("psk", "e"), ("e", "ee")),
}


def prologue(fields: bytes) -> bytes:
    """The prologue of both sides: `gatelink/1`, then the first HANDSHAKE's 21 bytes before its Noise message."""
    if len(fields) != HANDSHAKE_FIELDS_SIZE:
        raise LocalError(f"prologue of {len(fields)} handshake bytes; there are {HANDSHAKE_FIELDS_SIZE}")
    return b"gatelink/1" + fields


def key_id(public: bytes) -> bytes:
    """The 4 bytes that name the responder's public key (32 bytes) in a HANDSHAKE."""
    return hashlib.sha256(public).digest()[:KEY_ID_SIZE]


def psk_id(psk: bytes) -> bytes:
    """The 4 bytes that name a cluster key (32 bytes) in a HANDSHAKE."""
    return hashlib.sha256(b"gatelink psk id" + psk).digest()[:KEY_ID_SIZE]


def used_up() -> LocalError:
    return LocalError("this key has sealed 2**32 messages; close the connection with 4011 and connect again")


def used_up_by_peer() -> ProtocolError:
    return ProtocolError("the peer sealed more than 2**32 messages with one key")


def not_verified() -> ProtocolError:
    return ProtocolError("a sealed message did not verify")


@compiled
class CipherState:
    """One direction's AES-256-GCM key, and the number `n` of its next message."""

    __slots__ = ("_aead", "_key", "n")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead: AESGCM | None = None
        self.n = 0

    @property
    def aead(self) -> AESGCM:
        """The cipher; made where it is not there."""
        if self._aead is None:
            self._aead = AESGCM(self._key)
        return self._aead

    def rest(self) -> None:
        """Give the cipher's memory back, until it is needed again."""
        self._aead = None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes | memoryview) -> bytes:
        """`plaintext`, sealed: 16 bytes longer. Raises LocalError after 2**32 messages: the nonces are used up."""
        if self.n >= MAX_MESSAGES:
            raise used_up()
        sealed = self.aead.encrypt(pack_nonce(self.n), plaintext, ad)
        self.n += 1
        return sealed

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes | memoryview) -> bytes:
        """The plaintext of the peer's next message.

        Raises ProtocolError for another message than the peer's next, and after 2**32 messages.
        """
        if self.n >= MAX_MESSAGES:
            raise used_up_by_peer()
        try:
            plaintext = self.aead.decrypt(pack_nonce(self.n), ciphertext, ad)
        except InvalidTag:
            raise not_verified() from None
        self.n += 1
        return plaintext


class SymmetricState:
    """The chaining key `ck`, the transcript hash `h`, and the cipher that seals the handshake's payloads.

    Both patterns mix a key before their first payload, so no payload is unencrypted.
    """

    __slots__ = ("_cipher", "ck", "h")

    _cipher: CipherState

    def __init__(self, protocol_name: bytes) -> None:
        self.h = protocol_name.ljust(32, b"\0")
        self.ck = self.h

    def mix_key(self, input_key_material: bytes) -> None:
        self.ck, key = _hkdf(self.ck, input_key_material, 2)
        self._cipher = CipherState(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key_and_hash(self, input_key_material: bytes) -> None:
        self.ck, to_hash, key = _hkdf(self.ck, input_key_material, 3)
        self.mix_hash(to_hash)
        self._cipher = CipherState(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """The initiator's and the responder's sending cipher."""
        initiators, responders = _hkdf(self.ck, b"", 2)
        return CipherState(initiators), CipherState(responders)


class HandshakeState:
    """One side of one handshake: write and read its two messages in turn, then `split`.

    pattern, initiator: the pattern, and whether this side begins.
    prologue: the same bytes on both sides, see `prologue()`.
    s: the responder's private key (NK). rs: its public key, 32 bytes, for the initiator (NK).
    psk: the cluster key, 32 bytes (NNpsk0).
    e: the ephemeral key; generated unless a test vector gives it.

    Raises LocalError if a key of the pattern is missing or has a wrong length, or a call is out of turn.
    """

    def __init__(
        self,
        pattern: Pattern,
        initiator: bool,
        prologue: bytes,
        *,
        s: X25519PrivateKey | None = None,
        rs: bytes | None = None,
        psk: bytes | None = None,
        e: X25519PrivateKey | None = None,
    ) -> None:
        self.initiator = initiator
        self._pattern = pattern
        self._messages = _MESSAGES[pattern]
        self._turn = 0
        self._in_message = False  # stays true after a message that failed: the handshake can't continue
        self._s = s
        self._rs = rs
        self._psk = psk
        self._e = e or X25519PrivateKey.generate()
        self._re = b""
        self._symmetric = SymmetricState(_NAMES[pattern])
        self._symmetric.mix_hash(prologue)
        if pattern is Pattern.NK:
            self._symmetric.mix_hash(self._responders_static())
        elif psk is None or len(psk) != 32:
            raise LocalError("NNpsk0 needs psk, the cluster key: 32 random bytes")

    @property
    def finished(self) -> bool:
        """Whether both messages have been written and read."""
        return self._turn == len(self._messages) and not self._in_message

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that identify this handshake, the same on both sides. Raises LocalError before it is finished."""
        self._require_finished("handshake_hash")
        return self._symmetric.h

    def write_message(self, payload: bytes = b"") -> bytes:
        """This side's next message, with `payload` sealed inside."""
        tokens = self._begin_message(writes=True)
        overhead = DHLEN + TAG_SIZE
        if len(payload) > MAX_MESSAGE - overhead:
            raise LocalError(f"handshake payload of {len(payload)} bytes; at most {MAX_MESSAGE - overhead} fit")
        sent = b""
        for token in tokens:
            if token == "e":
                sent = self._e.public_key().public_bytes_raw()
                self._mix_ephemeral(sent)
            else:
                self._mix_secret(token)
        message = sent + self._symmetric.encrypt_and_hash(payload)
        self._end_message()
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next message.

        Raises ProtocolError, which does not say what was wrong. The handshake has then failed.
        """
        tokens = self._begin_message(writes=False)
        if len(message) < DHLEN + TAG_SIZE:
            raise ProtocolError(f"handshake message of {len(message)} bytes; the least is {DHLEN + TAG_SIZE}")
        for token in tokens:
            if token == "e":
                self._re = message[:DHLEN]
                self._mix_ephemeral(self._re)
            else:
                self._mix_secret(token)
        payload = self._symmetric.decrypt_and_hash(message[DHLEN:])
        self._end_message()
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """This side's ciphers: (sending, receiving)."""
        self._require_finished("split")
        initiators, responders = self._symmetric.split()
        return (initiators, responders) if self.initiator else (responders, initiators)

    def _begin_message(self, writes: bool) -> tuple[str, ...]:
        """The tokens of the next message."""
        if self._in_message:
            raise LocalError("the handshake has failed; close the connection")
        if self._turn == len(self._messages) or writes != (self.initiator == (self._turn % 2 == 0)):
            verb = "write" if writes else "read"
            raise LocalError(f"handshake message {self._turn + 1} is not this side's to {verb}")
        self._in_message = True
        self._turn += 1
        return self._messages[self._turn - 1]

    def _end_message(self) -> None:
        self._in_message = False

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._pattern is Pattern.NNPSK0:  # the specification's rule for "e" in every psk handshake
            self._symmetric.mix_key(public)

    def _mix_secret(self, token: str) -> None:
        if token == "psk":
            assert self._psk is not None
            self._symmetric.mix_key_and_hash(self._psk)
        elif token == "ee":
            self._symmetric.mix_key(_dh(self._e, self._re))
        elif self.initiator:
            self._symmetric.mix_key(_dh(self._e, self._responders_static()))
        else:
            assert self._s is not None
            self._symmetric.mix_key(_dh(self._s, self._re))

    def _responders_static(self) -> bytes:
        if self.initiator:
            if self._rs is None or len(self._rs) != DHLEN:
                raise LocalError("NK needs rs, the server's public key: 32 bytes")
            return self._rs
        if self._s is None:
            raise LocalError("NK needs s, the server's private key")
        return self._s.public_key().public_bytes_raw()

    def _require_finished(self, what: str) -> None:
        if not self.finished:
            raise LocalError(f"{what} before the handshake is finished")


def _dh(private: X25519PrivateKey, public: bytes) -> bytes:
    """The shared secret. Raises ProtocolError if it is all zeros: the public key is then a point of small order."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError("handshake refused: a public key is not usable") from None


def is_usable(public: bytes) -> bool:
    """Whether a handshake can use a public key; not if it is a point of small order, as all zeros are."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def _hkdf(chaining_key: bytes, input_key_material: bytes, outputs: int) -> list[bytes]:
    """The specification's HKDF: `outputs` keys of 32 bytes."""
    key = hmac.digest(chaining_key, input_key_material, "sha256")
    found = [b""]
    for number in range(1, outputs + 1):
        found.append(hmac.digest(key, found[-1] + bytes((number,)), "sha256"))
    return found[1:]
