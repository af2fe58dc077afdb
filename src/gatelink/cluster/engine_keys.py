"""The keys that authenticate what the servers of a cluster keep in the engine and send through it.

All are derived from the cluster key (HKDF, RFC 5869), one for each purpose. The cluster key itself seals links. A login
service must not be able to join the cluster. So it does not have the cluster key, but a `LoginKey`.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gatelink.errors import ConfigError
from gatelink.wire.keys import ClusterKey

REGISTRY, DIRECTORY, TOKENS, TRIES, SERVERS = "registry", "directory", "tokens", "tries", "servers"
"""The purposes. SERVERS is for all that has no purpose of its own, such as calls and events."""

_OF_LOGIN = (REGISTRY, TOKENS, TRIES)
"""The purposes that a login service has keys for, in the order of a LoginKey's text."""

_SIZE = 32


class EngineKey:
    """The keys that one process has, all derived from one cluster key.

    macs: by purpose, 32 bytes each. verify: checks the signature that an entry of the registry has beside its MAC.
    sign: makes that signature. A login service has no `sign`. So it can read the registry, but not forge a gateway.
    """

    __slots__ = ("macs", "sign", "verify")

    def __init__(
        self, macs: Mapping[str, bytes], verify: Ed25519PublicKey, sign: Ed25519PrivateKey | None = None
    ) -> None:
        self.macs = macs
        self.verify = verify
        self.sign = sign

    @classmethod
    def of(cls, key: ClusterKey) -> "EngineKey":
        """All keys that a gateway or service has."""
        macs = {purpose: _derived(key, purpose) for purpose in (REGISTRY, DIRECTORY, TOKENS, TRIES, SERVERS)}
        sign = Ed25519PrivateKey.from_private_bytes(_derived(key, "registry signature"))
        return cls(macs, sign.public_key(), sign)

    def __repr__(self) -> str:
        return f"EngineKey({', '.join(self.macs)})"


class LoginKey:
    """The keys that a login service needs: to check the registry, and to write tokens and counts of tries."""

    __slots__ = ("engine_key", "key_id")

    def __init__(self, key_id: bytes, engine_key: EngineKey) -> None:
        self.key_id = key_id  # of the cluster key
        self.engine_key = engine_key

    @classmethod
    def of(cls, key: ClusterKey) -> "LoginKey":
        """The part of the keys of `key` that a login service needs."""
        whole = EngineKey.of(key)
        return cls(key.key_id, EngineKey({purpose: whole.macs[purpose] for purpose in _OF_LOGIN}, whole.verify))

    @classmethod
    def from_hex(cls, text: str) -> "LoginKey":
        """The key whose `to_hex` was `text`. Raises ConfigError, without the text."""
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        ends = [4 + _SIZE * index for index in range(len(_OF_LOGIN) + 2)]
        if len(raw) != ends[-1]:
            raise ConfigError(f"login key of {len(text)} characters; it must be {2 * ends[-1]} hex digits")
        *macs, verify = (raw[start:end] for start, end in zip(ends, ends[1:], strict=False))
        engine_key = EngineKey(dict(zip(_OF_LOGIN, macs, strict=True)), Ed25519PublicKey.from_public_bytes(verify))
        return cls(raw[:4], engine_key)

    def to_hex(self) -> str:
        """The key as hex digits: a secret."""
        macs = b"".join(self.engine_key.macs[purpose] for purpose in _OF_LOGIN)
        return (self.key_id + macs + self.engine_key.verify.public_bytes_raw()).hex()

    def __repr__(self) -> str:
        return f"LoginKey(key_id={self.key_id.hex()})"


def _derived(key: ClusterKey, purpose: str) -> bytes:
    return HKDF(SHA256(), _SIZE, salt=None, info=b"gatelink engine " + purpose.encode()).derive(key.psk)
