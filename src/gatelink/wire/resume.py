"""The proofs of a resume: the peer holds the key of the session's ticket (docs/protocol.md, "Resume").

Both macs are HMAC-SHA256 with the ticket's resume key. They cover the handshake of their connection, so they are
invalid on any other connection.
"""

import hmac
import struct

from gatelink.wire.control import Resume, Resumed

NO_HANDSHAKE = bytes(32)
"""The handshake hash of a connection without a handshake: TLS, or plain where that is allowed."""

_pack_counts = struct.Struct("<QI").pack


def client_mac(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    """The mac of RESUME: 32 bytes."""
    return _mac(key, b"gatelink resume c", handshake_hash, session_id, received, attempt)


def server_mac(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    """The mac of RESUMED: 32 bytes; `received` is the server's count, `attempt` the client's."""
    return _mac(key, b"gatelink resume s", handshake_hash, session_id, received, attempt)


def resume(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> Resume:
    """The RESUME record of a client that has received `received` messages."""
    return Resume(session_id, received, attempt, client_mac(key, handshake_hash, session_id, received, attempt))


def resumed(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> Resumed:
    """The RESUMED record for attempt `attempt`, of a server that has received `received` messages."""
    return Resumed(received, server_mac(key, handshake_hash, session_id, received, attempt))


def verify_resume(record: Resume, key: bytes, handshake_hash: bytes) -> bool:
    """Whether the sender of `record` holds the session's key; in constant time."""
    expected = client_mac(key, handshake_hash, record.session_id, record.received, record.attempt)
    return hmac.compare_digest(expected, record.mac)


def verify_resumed(record: Resumed, key: bytes, handshake_hash: bytes, session_id: bytes, attempt: int) -> bool:
    """Whether `record` is the server's answer to this client's `attempt`; in constant time."""
    return hmac.compare_digest(server_mac(key, handshake_hash, session_id, record.received, attempt), record.mac)


def _mac(key: bytes, label: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    return hmac.digest(key, label + handshake_hash + session_id + _pack_counts(received, attempt), "sha256")
