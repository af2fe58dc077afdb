"""The two long-lived secrets of the extension (docs/protocol.md, "Encryption"). Neither shows in a repr or an error."""

import secrets

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gatelink.errors import ConfigError, counted
from gatelink.wire.noise import is_usable, key_id, psk_id

KEY_SIZE = 32


class ServerKey:
    """A server's X25519 key. Clients know `public` (32 bytes); a HANDSHAKE names the key by `key_id` (4 bytes)."""

    __slots__ = ("key_id", "private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()
        self.key_id = key_id(self.public)

    @classmethod
    def generate(cls) -> "ServerKey":
        """A new random key."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_hex(cls, text: str) -> "ServerKey":
        """The key whose `to_hex` was `text`. Raises ConfigError if it is not 64 hex digits."""
        return cls(X25519PrivateKey.from_private_bytes(key_from_hex("server key", text)))

    def to_hex(self) -> str:
        """The private key as 64 hex digits: a secret."""
        return self.private.private_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"ServerKey(key_id={self.key_id.hex()})"


class ClusterKey:
    """The key that the servers of one cluster share: `psk` (32 random bytes), named by `key_id` (4 bytes)."""

    __slots__ = ("key_id", "psk")

    def __init__(self, psk: bytes) -> None:
        if len(psk) != KEY_SIZE:
            has = counted(len(psk), "byte")
            raise ConfigError(f"cluster key has {has}; it must have {KEY_SIZE} random ones, no pass-phrase")
        self.psk = psk
        self.key_id = psk_id(psk)

    @classmethod
    def generate(cls) -> "ClusterKey":
        """A new random key."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @classmethod
    def from_hex(cls, text: str) -> "ClusterKey":
        """The key whose `to_hex` was `text`. Raises ConfigError if it is not 64 hex digits."""
        return cls(key_from_hex("cluster key", text))

    def to_hex(self) -> str:
        """The key as 64 hex digits: a secret."""
        return self.psk.hex()

    def __repr__(self) -> str:
        return f"ClusterKey(key_id={self.key_id.hex()})"


def check_public_key(key: bytes | None) -> None:
    """Raises ConfigError for what a client was given as `server_key`, if it can't be one."""
    if isinstance(key, str):
        raise ConfigError(f"server_key is a str; give {KEY_SIZE} bytes: bytes.fromhex(...) of the public key in hex")
    if key is not None and len(key) != KEY_SIZE:
        raise ConfigError(f"server_key has {counted(len(key), 'byte')}; it is a ServerKey's `public`, of {KEY_SIZE}")
    if key is not None and not is_usable(key):
        raise ConfigError(
            f"server_key is no public key{': it is all zeros' if not any(key) else ''}; give `public` of the ServerKey"
        )


def key_from_hex(name: str, text: str) -> bytes:
    """The key of 64 hex digits. name: what it is, for the error. Raises ConfigError, without the text."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{name} of {len(text)} characters; it must be {2 * KEY_SIZE} hex digits")
    return key
