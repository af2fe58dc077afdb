"""The proofs of a resume (docs/protocol.md, "Resume"): who holds the ticket's key can go on with its session.

Both macs are HMAC-SHA256 with the ticket's resume key, and cover the handshake of the connection they are sent on, so
that neither can be used on another one.
"""

import hmac
import struct

from gatelink.wire.control import Resume, Resumed

NO_HANDSHAKE = bytes(32)
"""Stands for the handshake hash on a connection without one (TLS, or plain where that is allowed)."""

_pack_counts = struct.Struct("<QI").pack


def client_mac(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    """The mac of RESUME: 32 bytes."""
    return _mac(key, b"gatelink resume c", handshake_hash, session_id, received, attempt)


def server_mac(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    """The mac of RESUMED: 32 bytes; `received` is the server's count, `attempt` the client's."""
    return _mac(key, b"gatelink resume s", handshake_hash, session_id, received, attempt)


def resume(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> Resume:
    """The RESUME record of a client that took in `received` messages."""
    return Resume(session_id, received, attempt, client_mac(key, handshake_hash, session_id, received, attempt))


def resumed(key: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> Resumed:
    """The RESUMED record that answers attempt `attempt` of a session that took in `received` messages."""
    return Resumed(received, server_mac(key, handshake_hash, session_id, received, attempt))


def verify_resume(record: Resume, key: bytes, handshake_hash: bytes) -> bool:
    """Whether who sent `record` holds the session's key; in constant time."""
    expected = client_mac(key, handshake_hash, record.session_id, record.received, record.attempt)
    return hmac.compare_digest(expected, record.mac)


def verify_resumed(record: Resumed, key: bytes, handshake_hash: bytes, session_id: bytes, attempt: int) -> bool:
    """Whether `record` is the server's answer to this client's `attempt`; in constant time."""
    return hmac.compare_digest(server_mac(key, handshake_hash, session_id, record.received, attempt), record.mac)


def _mac(key: bytes, label: bytes, handshake_hash: bytes, session_id: bytes, received: int, attempt: int) -> bytes:
    return hmac.digest(key, label + handshake_hash + session_id + _pack_counts(received, attempt), "sha256")
